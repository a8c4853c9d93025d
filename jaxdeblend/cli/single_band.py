"""The work of `jaxdeblend single-band`: read, divide, write."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from .._version import __version__
from ..catalog import SingleBandCatalog, deblend_single_band_exposure
from ..io import Exposure, staged_folder, write_catalog, write_models
from ..runtime.progress import announce
from ..single_band import SingleBandConfig, SingleBandFlag
from ..single_band.config import CHOICES
from .options import Inputs, catalog_options, common_options, exposure_options, inputs, output_options
from .pictures import save_single_band
from .progress import progress_bar
from .work import given_centers, run_record


@dataclasses.dataclass(frozen=True)
class SingleBandOptions:
    """What `jaxdeblend single-band` was asked for."""

    inputs: Inputs
    output: Path
    config: SingleBandConfig
    peaks: Path | None = None
    origin: int | None = None
    columns: str | None = None
    threshold: float = 5.0
    kind: str = "ecsv"
    overwrite: bool = False
    no_pictures: bool = False

    @property
    def catalog_name(self) -> str:
        """File of the catalog."""
        return f"catalog.{self.kind}"

    @property
    def pictures(self) -> tuple[str, ...]:
        """Files of pictures, one for each band."""
        return () if self.no_pictures else tuple(f"single_band_{band}.png" for band in self.inputs.bands)

    @property
    def names(self) -> tuple[str, ...]:
        """Files that will be written."""
        return (self.catalog_name, "children.fits", "templates.fits", *self.pictures, "run.json")


@dataclasses.dataclass(frozen=True)
class SingleBandSummary:
    """What came out, in numbers."""

    counts: Mapping[str, int]
    flags: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, float]
    options: SingleBandOptions

    @property
    def exit_code(self) -> int:
        """1 if some sources have no child in any band."""
        return 1 if self.counts["failed"] else 0

    def text(self) -> str:
        """Say it in words."""
        counts = self.counts
        lines = [
            f"{counts['sources']} sources in {counts['blends']} blends, the largest of {counts['largest_blend']}; "
            f"{self.seconds['total']:.1f} s",
            f"{'band':<5}{'children':>10}{'as PSF':>10}{'ambiguous':>11}",
        ]
        for band, flags in self.flags.items():
            children = counts["sources"] - flags.get("SKIPPED", 0)
            as_psf, ambiguous = (flags.get(name, 0) for name in ("DEBLENDED_AS_PSF", "SYMMETRY_AMBIGUOUS"))
            lines.append(f"{band:<5}{children:>10d}{as_psf:>10d}{ambiguous:>11d}")
        if counts["failed"]:
            lines.append(f"{counts['failed']} sources have no flux (see flags)")
        lines.append(f"wrote {', '.join(self.options.names)} to {self.options.output}")
        return "\n".join(lines)


def run_single_band(options: SingleBandOptions) -> SingleBandSummary:
    """Read, divide and write.

    Parameters
    ----------
    options
        What to do.

    Returns
    -------
    SingleBandSummary
        Counts and times.
    """
    started = time.perf_counter()
    with staged_folder(options.output, options.names, overwrite=options.overwrite) as stage:
        exposure = options.inputs.read()
        centers = given_centers(options.peaks, options.origin, exposure, options.columns)
        read = time.perf_counter()
        with progress_bar("deblending", "blend") as progress:
            result = deblend_single_band_exposure(
                exposure, centers, threshold=options.threshold, config=options.config, progress=progress
            )
        done = time.perf_counter()
        announce("writing %s", ", ".join(options.names))
        _write(stage, options, exposure, result)
        seconds = {"read": read - started, "deblend": done - read, "total": time.perf_counter() - started}
        summary = SingleBandSummary(_counts(result), _flags(exposure.bands, result), seconds, options)
        record = run_record(options, counts=summary.counts, seconds=seconds, files=options.names)
        record["flags"] = summary.flags
        (stage / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    return summary


def _write(stage: Path, options: SingleBandOptions, exposure: Exposure, result: SingleBandCatalog) -> None:
    table = result.table
    table.meta = {"software": f"jaxdeblend {__version__}", "bands": ",".join(exposure.bands)}
    if exposure.unit is not None:
        table.meta["unit"] = exposure.unit
    write_catalog(table, stage / options.catalog_name)
    common = {"bands": exposure.bands, "wcs": exposure.wcs, "unit": exposure.unit}
    write_models(stage / "children.fits", residual=result.unassigned, sources=result.children, **common)
    write_models(
        stage / "templates.fits", model=result.model, residual=result.residual, sources=result.templates, **common
    )
    for band, name in enumerate(options.pictures):
        save_single_band(exposure, result, band, stage / name)


def _counts(result: SingleBandCatalog) -> dict[str, int]:
    return {
        "sources": len(result.table),
        "blends": len(result.parents),
        "largest_blend": int(np.max(np.asarray(result.parents["n_sources"]), initial=0)),
        "failed": result.n_failed,
    }


def _flags(bands: tuple[str, ...], result: SingleBandCatalog) -> dict[str, dict[str, int]]:
    """Number of sources of which each flag is set, of those that are set at all."""
    numbers: dict[str, dict[str, int]] = {}
    for band in bands:
        values = np.asarray(result.table[f"flags_{band}"])
        counts = {str(flag.name): int(((values & int(flag)) != 0).sum()) for flag in SingleBandFlag}
        numbers[band] = {name: count for name, count in counts.items() if count}
    return numbers


def _choice(name: str, explanation: str) -> Callable:
    """Option for one of the words of `SingleBandConfig`."""
    return click.option(
        f"--{name.replace('_', '-')}",
        type=click.Choice(list(CHOICES[name])),
        default=getattr(SingleBandConfig, name),
        show_default=True,
        help=explanation,
    )


@click.command("single-band")
@exposure_options
@catalog_options
@_choice("symmetry", "What templates are mirrored about: the position, or the nearest half or whole pixel.")
@_choice("edges", "Templates where the mirror image is off the image: PSF wings, the image itself, nothing.")
@_choice("smoothing", "Median of 5 x 5 pixels over templates; auto: unless the FWHM is below 2 pixels.")
@_choice("monotonic", "How templates are made to fall outwards.")
@_choice("stray_flux", "Who gets light where no template reaches; trim: nobody.")
@_choice("variance", "Variance of a share f of a pixel: f^2 of the pixel's, or the same.")
@click.option("--no-psf-templates", is_flag=True, help="Symmetric templates for all, point sources too.")
@click.option("--weight-templates", is_flag=True, help="Scale templates to the image by least squares first.")
@click.option("--remove-degenerate", is_flag=True, help="Drop one of two templates that are too alike.")
@click.option(
    "--max-area",
    "max_footprint_area",
    type=int,
    default=SingleBandConfig.max_footprint_area,
    show_default=True,
    help="Pixels of the largest footprint that is deblended; 0: any.",
)
@output_options("out")
@common_options
def single_band_command(output: Path, no_psf_templates: bool, **options: Any) -> int:
    """Divide each band of images of the same sky by templates, with no fit of all bands together.

    IMAGES are read, and sources found, as by `jaxdeblend deblend`. The template of a source is the PSF, or what is
    symmetric about its position; every pixel is divided in proportion to the templates. It is fast, and keeps
    all light, but sources that overlap much are told apart better by `jaxdeblend deblend`.

    \b
    Writes to the folder OUTPUT, once everything is done:
      catalog.ecsv            one row per source: position, and flux, error, PSF fit and flags of each band
      children.fits           what each source got of the images, and the rest that nobody did
      templates.fits          the template of each source, their sum, and the image without it
      single_band_BAND.png    image, templates, residual, and the brightest sources one by one
      run.json                version, options and counts of all flags

    \b
    Examples:
      jaxdeblend single-band r.fits --bands r --psf psf_r.fits -o out/
      jaxdeblend single-band 'visit_{band}.fits' --bands g,r --psf '{band}.psf' --peaks sources.ecsv
      jaxdeblend single-band r.fits --bands r --psf-fwhm 3.6 --stray-flux r-to-peak
    """  # noqa: D301
    names = [field.name for field in dataclasses.fields(SingleBandConfig) if field.name in options]
    config = SingleBandConfig(fit_psf=not no_psf_templates, **{name: options.pop(name) for name in names})
    job = SingleBandOptions(inputs=inputs(options), output=output, config=config, **options)
    summary = run_single_band(job)
    click.echo(summary.text())
    return summary.exit_code
