"""The work of `jaxdeblend deblend-catalog` and `jaxdeblend merge`: an exposure into a store of models and tables."""

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from astropy.table import QTable, Table

from .._version import __version__
from ..catalog import (
    DeblendConfig,
    ModelStore,
    StoreWriter,
    deblend_catalog,
    mask_not_deblended,
    merge_stores,
    stored_tables,
)
from ..catalog.columns import POSITION_COLUMNS
from ..catalog.distribute import CHUNK, require_distributed
from ..catalog.store import partial_folder
from ..detection import detection_of_labels
from ..io import output_folder, read_description, read_positions, read_segmentation, write_catalog, write_mask
from ..io.files import atomic_path
from ..measurement.table import describe_columns
from ..runtime.progress import announce
from .options import Shard, add_options, common_options, peaks_options
from .progress import progress_bar
from .work import run_record

STORE, POSITIONS, MASK, RUN = "models.h5", "positions.ecsv", "mask.fits", "run.json"
"""Files of the models, of the positions of all rows, of the masks, and of the run."""

_SHARD = re.compile(r"models-(\d+)-of-(\d+)\.h5(\.partial)?")


@dataclasses.dataclass(frozen=True)
class CatalogOptions:
    """What `jaxdeblend deblend-catalog` was asked for."""

    exposure: Path
    output: Path
    config: Path | None = None
    peaks: Path | None = None
    segmentation: Path | None = None
    origin: int | None = None
    columns: str | None = None
    resume: bool = False
    shard: tuple[int, int] = (1, 1)
    workers: int | str | None = None
    chunk: int = CHUNK
    write_mask: bool = False
    kind: str = "ecsv"

    @property
    def store(self) -> Path:
        """File of the models."""
        number, count = self.shard
        return self.output / (STORE if count == 1 else f"models-{number}-of-{count}.h5")


def run_deblend_catalog(options: CatalogOptions) -> tuple[str, int]:
    """Read, deblend into the store, and write tables.

    Parameters
    ----------
    options
        What to do.

    Returns
    -------
    text, code
        What came out, in words, and the exit code.
    """
    if options.write_mask and options.shard[1] > 1:
        raise ValueError(
            "--write-mask: a shard has no mask of its own; once all are merged: "
            f"jaxdeblend products {options.output} {options.exposure} --mask"
        )
    config = DeblendConfig() if options.config is None else DeblendConfig.from_toml(options.config)
    with output_folder(options.output, shared=options.shard[1] > 1):
        return _deblend_catalog(options, config)


def _deblend_catalog(options: CatalogOptions, config: DeblendConfig) -> tuple[str, int]:
    """Run the command in a folder that no other run writes to."""
    started = time.perf_counter()
    check_store(options.store, resume=options.resume)
    if options.workers is not None:
        require_distributed()
        # the GPU of this process is one of the workers'
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    exposure = read_description(options.exposure).read()
    read = time.perf_counter() - started
    centers = None
    if options.peaks is not None:
        positions, given = read_positions(
            options.peaks, origin=options.origin, columns=options.columns, wcs=exposure.wcs
        )
        known = {name: given[name] for name in config.pseudo_columns if name in given.colnames}
        centers = Table({"y": positions[:, 0], "x": positions[:, 1], **known})
    detection = None
    if options.segmentation is not None:
        detection = detection_of_labels(exposure.observation(), read_segmentation(options.segmentation))
    with progress_bar("deblending", "blend") as progress:
        result = deblend_catalog(
            exposure,
            centers,
            detection=detection,
            config=config,
            store=options.store,
            resume=options.resume,
            shard=options.shard,
            workers=options.workers,
            chunk=options.chunk,
            progress=progress,
        )
    announce("writing tables")
    write_positions(options.output, result.positions)
    counts = counts_of(result.table, result.parents, result.blends)
    text = f"{counts['sources']} sources in {counts['parents']} parents; {counts['without_flux']} have no flux"
    if options.shard[1] > 1:
        return f"{text}\nwrote {options.store}; once all shards are done: jaxdeblend merge {options.output}", 0
    names = write_tables(options.output, options.kind, result.table, result.parents, result.blends, exposure.bands)
    if options.write_mask:
        with ModelStore(options.store) as store:
            marked = mask_not_deblended(store, exposure, detection=result.detection)
        write_mask(options.output / MASK, marked, overwrite=True)
        names = (*names, MASK)
    total = time.perf_counter() - started
    write = total - read - sum(result.seconds.values())
    seconds = {"read": read, **result.seconds, "write": write, "total": total}
    record = run_record(options, counts=counts, seconds=seconds, files=(STORE, *names))
    record |= {"largest_fit_gb": round(result.memory / 1e9, 3), "config": dataclasses.asdict(config)}
    with atomic_path(options.output / RUN, overwrite=True) as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    return f"{text}\nwrote {', '.join((STORE, *names, RUN))} to {options.output}", int(counts["without_flux"] > 0)


def check_store(store: Path, *, resume: bool) -> None:
    """Refuse a store that another run writes, or that is there and shall not be gone on with.

    Parameters
    ----------
    store
        The store.
    resume
        Whether to go on with it.

    Raises
    ------
    BlockingIOError
        If another run writes it.
    FileExistsError
        If there is one, finished or not, and `resume` is not set.
    """
    StoreWriter.check_free(store)
    for there in (store, partial_folder(store)):
        if there.exists() and not resume:
            raise FileExistsError(f"{there}: exists already; go on with it by --resume, or remove it.")


def run_merge(output: Path, kind: str = "ecsv", *, overwrite: bool = False) -> tuple[str, int]:
    """Merge the stores of shards, and write the tables of all of them.

    Parameters
    ----------
    output
        Folder of the run.
    kind
        Format of the tables.
    overwrite
        Whether a merged store may exist already.

    Returns
    -------
    text, code
        What came out, in words, and the exit code.
    """
    if not output.is_dir():
        raise FileNotFoundError(f"{output}: no such folder.")
    with output_folder(output):
        return _merge(output, kind, overwrite=overwrite)


def _merge(output: Path, kind: str, *, overwrite: bool) -> tuple[str, int]:
    """Run the command in a folder that no run writes to."""
    stores = _shards(output)
    given = read_positions(output / POSITIONS, allow_empty=True)[0]
    announce("merging %d shards", len(stores))
    path = merge_stores(stores, output / STORE, overwrite=overwrite)
    tables = stored_tables(path, given)
    names = write_tables(output, kind, *tables, _bands(tables[0]))
    counts = counts_of(*tables)
    text = f"{len(stores)} shards: {counts['sources']} sources in {counts['parents']} parents"
    return f"{text}\nwrote {', '.join((STORE, *names))} to {output}", int(counts["without_flux"] > 0)


def _shards(folder: Path) -> list[Path]:
    """Stores of all shards of a run."""
    found = [match for path in sorted(folder.glob("models-*")) if (match := _SHARD.fullmatch(path.name))]
    counts = {int(match[2]) for match in found}
    if len(counts) != 1:
        runs = " and ".join(f"{count}" for count in sorted(counts))
        raise ValueError(f"{folder}: has shards of {runs} parts." if runs else f"{folder}: has no shards to merge.")
    (count,) = counts
    paths = [folder / f"models-{number}-of-{count}.h5" for number in range(1, count + 1)]
    for path in paths:
        if partial_folder(path).exists():
            raise ValueError(f"{path}: is not finished; go on with that shard by --resume.")
        if not path.exists():
            raise ValueError(f"{path}: is missing; run that shard first.")
    return paths


def write_positions(folder: Path, positions: np.ndarray) -> None:
    """Write the positions of all rows of a catalog."""
    table = Table({"y": positions[:, 0], "x": positions[:, 1]})
    describe_columns(table, POSITION_COLUMNS)
    write_catalog(table, folder / POSITIONS, overwrite=True)


def write_tables(
    folder: Path, kind: str, table: QTable, parents: Table, blends: Table, bands: tuple[str, ...]
) -> tuple[str, ...]:
    """Write the tables of a catalog.

    Parameters
    ----------
    folder
        Where to.
    kind
        Format of the tables.
    table, parents, blends
        Sources, parents and blends.
    bands
        Names of the bands.

    Returns
    -------
    tuple of str
        Names of the files.
    """
    names = (f"catalog.{kind}", f"parents.{kind}", f"blends.{kind}")
    for name, one in zip(names, (table, parents, blends), strict=True):
        one.meta = {"software": f"jaxdeblend {__version__}", "bands": ",".join(bands)}
        write_catalog(one, folder / name, overwrite=True)
    return names


def _bands(table: QTable) -> tuple[str, ...]:
    return tuple(name.removeprefix("blendedness_") for name in table.colnames if name.startswith("blendedness_"))


def counts_of(table: QTable, parents: Table, blends: Table) -> Mapping[str, int]:
    """Numbers of sources, parents and blends, and of those with which something is wrong.

    Parameters
    ----------
    table, parents, blends
        Sources, parents and blends.

    Returns
    -------
    Mapping
        Counts by name.
    """
    fluxes = np.stack([np.asarray(table[f"flux_{band}"]) for band in _bands(table)])
    return {
        "sources": len(table),
        "parents": len(parents),
        "blends": len(blends),
        "skipped": int(np.sum(np.asarray(parents["skipped"]))),
        "failed": int(np.sum(np.asarray(parents["failed"]))),
        "not_converged": int(np.sum(~np.asarray(parents["converged"]))),
        "without_flux": int(np.sum(~np.isfinite(fluxes).any(axis=0))),
    }


def _peaks(command: Callable) -> Callable:
    """Add --peaks and what belongs to it."""
    return add_options(peaks_options(), command)


_kind_option = click.option(
    "--format",
    "kind",
    type=click.Choice(["ecsv", "fits", "parquet"]),
    default="ecsv",
    show_default=True,
    help="Format of the tables.",
)


@click.command("deblend-catalog")
@click.argument("exposure", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default="out", show_default=True)
@click.option("--config", type=click.Path(path_type=Path), help="TOML with fields of jaxdeblend.DeblendConfig.")
@_peaks
@click.option(
    "--segmentation", type=click.Path(path_type=Path), help="Segmentation map (FITS), instead of detecting footprints."
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped; what it finished is kept.")
@click.option("--shard", type=Shard(), default="1/1", help="Fit only the i-th of n parts: 2/8.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that fit on this machine.  [default: this one]")
@click.option("--scheduler", help="Instead: those of the Dask scheduler at this address, tcp://host:8786.")
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    default=CHUNK,
    show_default=True,
    help="Most blends that a worker is sent at a time.",
)
@click.option("--write-mask", is_flag=True, help="Write masks with the plane NOT_DEBLENDED, too.")
@_kind_option
@common_options
def deblend_catalog_command(workers: int | None, scheduler: str | None, **options: Any) -> int:
    """Deblend a large exposure into a store of models, so that the run can stop and go on.

    EXPOSURE is a TOML file that describes it: bands, images, psf or psf_fwhm, and whatever else is needed.

    \b
    Writes to the folder OUTPUT:
      models.h5        the models, blend by blend; models.h5.partial while the run lasts
      catalog.ecsv     one row per source, with the reason where it was not fitted
      parents.ecsv     one row per parent: pieces, chi2, steps, what was skipped or failed
      blends.ecsv      the same of each work unit: parents that are large are fitted in several
      positions.ecsv   position of each row before the fit
      mask.fits        with --write-mask: MASK_<band>, with NOT_DEBLENDED where blends were skipped or failed
      run.json         version, options and counts

    \b
    Examples:
      jaxdeblend deblend-catalog exposure.toml -o out/
      jaxdeblend deblend-catalog exposure.toml -o out/ --resume
      jaxdeblend deblend-catalog exposure.toml -o out/ --workers 8
      jaxdeblend deblend-catalog exposure.toml -o out/ --scheduler tcp://node1:8786
      jaxdeblend deblend-catalog exposure.toml -o out/ --shard 2/8    then, after all: jaxdeblend merge out/
    """  # noqa: D301
    if workers is not None and scheduler is not None:
        raise click.UsageError("give --workers, which are started here, or --scheduler, which has its own.")
    text, code = run_deblend_catalog(CatalogOptions(workers=workers or scheduler, **options))
    click.echo(text)
    return code


@click.command("merge")
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@_kind_option
@click.option("--overwrite", is_flag=True, help="Replace what was merged before.")
@common_options
def merge_command(output: Path, kind: str, overwrite: bool) -> int:
    """Put the shards of a catalog together, as if they had been one run.

    OUTPUT is the folder to which `jaxdeblend deblend-catalog --shard` wrote.

    \b
    Example:
      jaxdeblend merge out/
    """  # noqa: D301
    text, code = run_merge(output, kind, overwrite=overwrite)
    click.echo(text)
    return code
