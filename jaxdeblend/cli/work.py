"""The work of `jaxdeblend deblend`: read, deblend, write."""

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from jaxtyping import Float

from .._version import __version__
from ..catalog import CatalogResult, deblend_catalog
from ..fitting import Initialization, ProximalAdam
from ..io import Exposure, read_positions, staged_folder, write_catalog, write_models
from ..runtime.progress import announce
from .options import Inputs, catalog_options, common_options, exposure_options, inputs, output_options
from .pictures import save_deblend
from .progress import progress_bar


@dataclasses.dataclass(frozen=True)
class DeblendOptions:
    """What `jaxdeblend deblend` was asked for."""

    inputs: Inputs
    output: Path
    peaks: Path | None = None
    origin: int | None = None
    columns: str | None = None
    threshold: float = 5.0
    max_steps: int | None = None
    no_symmetry: bool = False
    kind: str = "ecsv"
    overwrite: bool = False
    no_pictures: bool = False

    @property
    def catalog_name(self) -> str:
        """File of the catalog."""
        return f"catalog.{self.kind}"

    @property
    def names(self) -> tuple[str, ...]:
        """Files that will be written."""
        picture = () if self.no_pictures else ("deblend.png",)
        return (self.catalog_name, "models.fits", *picture, "run.json")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What came out, in numbers."""

    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    output: Path
    names: tuple[str, ...]
    result: CatalogResult

    @property
    def exit_code(self) -> int:
        """1 if some sources have no flux."""
        return 1 if self.counts["failed"] else 0

    def text(self) -> str:
        """Say it in words."""
        counts, seconds = self.counts, self.seconds
        lines = [
            f"{counts['sources']} sources in {counts['blends']} blends, the largest of "
            f"{counts['largest_blend']}; "
            f"{seconds['total']:.1f} s",
        ]
        if counts["not_converged"]:
            lines.append(f"{counts['not_converged']} blends did not converge (see flags)")
        if counts["failed"]:
            lines.append(f"{counts['failed']} sources have no flux (see flags)")
        lines.append(f"wrote {', '.join(self.names)} to {self.output}")
        return "\n".join(lines)


def run_deblend(options: DeblendOptions) -> Summary:
    """Read, deblend and write.

    Parameters
    ----------
    options
        What to do.

    Returns
    -------
    Summary
        Counts and times.
    """
    started = time.perf_counter()
    with staged_folder(options.output, options.names, overwrite=options.overwrite) as stage:
        exposure = options.inputs.read()
        centers = given_centers(options.peaks, options.origin, exposure, options.columns)
        read = time.perf_counter()
        with progress_bar("deblending", "blend") as progress:
            result = deblend_catalog(
                exposure,
                centers,
                threshold=options.threshold,
                options=Initialization(priors=()) if options.no_symmetry else None,
                optimizer=None if options.max_steps is None else ProximalAdam(max_steps=options.max_steps),
                progress=progress,
            )
        fitted = time.perf_counter()
        announce("writing %s", ", ".join(options.names))
        _write(stage, options, exposure, result)
        seconds = {"read": read - started, "deblend": fitted - read}
        seconds["total"] = time.perf_counter() - started
        summary = Summary(_counts(result), seconds, options.output, options.names, result)
        record = run_record(options, counts=summary.counts, seconds=seconds, files=summary.names)
        (stage / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    return summary


def given_centers(
    peaks: Path | None, origin: int | None, exposure: Exposure, columns: str | None = None
) -> Float[np.ndarray, "source 2"] | None:
    """Positions of a table, None without one: they are detected.

    Parameters
    ----------
    peaks
        The table.
    origin
        Number of the first pixel in it; None: what its columns tell.
    exposure
        The exposure.
    columns
        Names of its columns; None: well-known ones.

    Returns
    -------
    np.ndarray or None
        Positions (y, x) in pixels.
    """
    if peaks is None:
        return None
    return read_positions(peaks, origin=origin, columns=columns, wcs=exposure.wcs)[0]


def _write(stage: Path, options: DeblendOptions, exposure: Exposure, result: CatalogResult) -> None:
    table = result.table
    table.meta = {"software": f"jaxdeblend {__version__}", "bands": ",".join(exposure.bands)}
    if exposure.unit is not None:
        table.meta["unit"] = exposure.unit
    write_catalog(table, stage / options.catalog_name)
    write_models(
        stage / "models.fits",
        bands=exposure.bands,
        model=result.model,
        residual=result.residual,
        sources=result.sources,
        wcs=exposure.wcs,
        unit=exposure.unit,
    )
    if not options.no_pictures:
        save_deblend(exposure, result, stage / "deblend.png")


def _counts(result: CatalogResult) -> dict[str, int]:
    parents = result.parents
    return {
        "sources": len(result.table),
        "blends": len(parents),
        "largest_blend": int(np.max(np.asarray(parents["n_sources"]), initial=0)),
        "not_converged": int(np.sum(np.asarray(parents["status"]) != "converged")),
        "failed": result.n_failed,
    }


def run_record(
    options: Any, *, counts: Mapping[str, int], seconds: Mapping[str, float], files: Sequence[str]
) -> dict[str, Any]:
    """What `run.json` says: enough to run it again.

    Parameters
    ----------
    options
        What was asked for, a dataclass.
    counts, seconds
        What came out, and how long it took.
    files
        Names of the files written.

    Returns
    -------
    dict[str, Any]
        The record.
    """
    given = dataclasses.asdict(options)
    return {
        "software": f"jaxdeblend {__version__}",
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "options": json.loads(json.dumps(given, default=str)),
        "counts": dict(counts),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "files": list(files),
    }


@click.command("deblend")
@exposure_options
@catalog_options
@click.option("--max-steps", type=click.IntRange(min=1), help="Most steps of a fit.")
@click.option("--no-symmetry", is_flag=True, help="Fit without the prior that galaxies are nearly symmetric.")
@output_options("out")
@common_options
def deblend_command(output: Path, **options: Any) -> int:
    """Deblend all sources in images of the same sky.

    IMAGES are FITS files: one per band in the order of --bands, a pattern with {band}, or one file for all
    bands. Extensions named IMAGE (SCI), VARIANCE (ERR, WHT, IVAR ...) and MASK (DQ) are found by
    themselves.

    \b
    Writes to the folder OUTPUT, once everything is done:
      catalog.ecsv   one row per source: position, flux and error per band, shape, flags
      models.fits    model and residual images, and the model of each source
      deblend.png    data, model and residual side by side
      run.json       version, options and counts

    \b
    Examples:
      jaxdeblend deblend 'coadd_{band}.fits' --bands g,r,i --psf 'psf_{band}.fits' -o out/
      jaxdeblend deblend g.fits r.fits --bands g,r --psf-fwhm 4.1,3.9 --bad-mask SAT,BAD
      jaxdeblend deblend cube.fits --bands g,r,i --psf psf.fits --peaks sextractor.cat --origin 1
    """  # noqa: D301
    job = DeblendOptions(inputs=inputs(options), output=output, **options)
    summary = run_deblend(job)
    click.echo(summary.text())
    return summary.exit_code
