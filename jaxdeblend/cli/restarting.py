"""The work of `jaxdeblend restart`: sources that were missed join the catalog of a run."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..catalog import restart_catalog
from ..io import output_folder, read_description, read_positions
from ..io.files import atomic_path
from ..runtime.progress import announce
from .cataloging import POSITIONS, RUN, STORE, check_store, counts_of, write_positions, write_tables
from .options import add_options, common_options, peaks_options
from .progress import progress_bar
from .work import run_record


@dataclasses.dataclass(frozen=True)
class RestartOptions:
    """What `jaxdeblend restart` was asked for."""

    run: Path
    exposure: Path
    add: Path
    output: Path
    origin: int | None = None
    columns: str | None = None
    center_error: float = 0.1
    resume: bool = False
    kind: str = "ecsv"


def run_restart(options: RestartOptions) -> tuple[str, int]:
    """Read the store of a run, add sources, and write a new store and tables.

    Parameters
    ----------
    options
        What to do.

    Returns
    -------
    text, code
        What came out, in words, and the exit code.
    """
    with output_folder(options.output):
        return _restart(options)


def _restart(options: RestartOptions) -> tuple[str, int]:
    """Run the command in a folder that no other run writes to."""
    started = time.perf_counter()
    store = options.output / STORE
    check_store(store, resume=options.resume)
    exposure = read_description(options.exposure).read()
    known = read_positions(options.run / POSITIONS, allow_empty=True)[0]
    added = read_positions(options.add, origin=options.origin, columns=options.columns, wcs=exposure.wcs)[0]
    with progress_bar("deblending", "blend") as progress:
        result = restart_catalog(
            options.run / STORE,
            exposure,
            added,
            output=store,
            center_error=options.center_error,
            positions=known,
            resume=options.resume,
            progress=progress,
        )
    announce("writing tables")
    write_positions(options.output, result.positions)
    tables = (result.table, result.parents, result.blends)
    names = write_tables(options.output, options.kind, *tables, exposure.bands)
    counts = {**counts_of(*tables), "added": len(added)}
    seconds = {"total": time.perf_counter() - started}
    record = run_record(options, counts=counts, seconds=seconds, files=(STORE, *names))
    with atomic_path(options.output / RUN, overwrite=True) as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    fitted = int(np.sum(np.asarray(result.table["skip_reason"])[len(known) :] == ""))
    text = (
        f"{len(added)} sources added, of which {fitted} were fitted; now {counts['sources']} in {counts['parents']} "
        f"parents; {counts['without_flux']} have no flux\nwrote {', '.join((STORE, *names, RUN))} to {options.output}"
    )
    return text, int(counts["without_flux"] > 0)


def _added(command: Callable) -> Callable:
    """Add --add and what belongs to it."""
    return add_options(peaks_options("--add", "Table of positions of the sources to add.", required=True), command)


@click.command("restart")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.argument("exposure", type=click.Path(path_type=Path))
@_added
@click.option("--center-error", type=float, default=0.1, show_default=True, help="1 sigma error of these, in pixels.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the new catalog."
)
@click.option("--resume", is_flag=True, help="Go on with a restart that was stopped; what it finished is kept.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["ecsv", "fits", "parquet"]),
    default="ecsv",
    show_default=True,
    help="Format of the tables.",
)
@common_options
def restart_command(**options: Any) -> int:
    """Add sources that were missed to a catalog; only blends that they touch are fitted again.

    RUN is the folder to which `jaxdeblend deblend-catalog` (or a restart) wrote, EXPOSURE the description that it was
    given. RUN is only read. Rows of the catalog keep their numbers; those of added sources come after them.

    \b
    Writes to the folder OUTPUT what deblend-catalog writes:
      models.h5, catalog.ecsv, parents.ecsv, blends.ecsv, positions.ecsv, run.json

    \b
    Example:
      jaxdeblend restart out/ exposure.toml --add missed.ecsv -o more/
    """  # noqa: D301
    text, code = run_restart(RestartOptions(**options))
    click.echo(text)
    return code
