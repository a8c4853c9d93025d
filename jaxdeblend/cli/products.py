"""The work of `jaxdeblend products`: images and tables from the store of a catalog run."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..catalog import Cutout, ModelStore, cutout, mask_not_deblended, overlap_metrics, render_image, residual_image
from ..io import LazyExposure, read_description, staged_folder, write_catalog, write_cubes, write_mask
from ..runtime.progress import announce
from .cataloging import MASK, STORE
from .options import Names, common_options
from .pictures import save_products


@dataclasses.dataclass(frozen=True)
class ProductOptions:
    """What `jaxdeblend products` was asked for."""

    output: Path
    exposure: Path
    model: bool = False
    residual: bool = False
    overlap: bool = False
    mask: bool = False
    picture: bool = False
    cutouts: tuple[int, ...] = ()
    bands: tuple[str, ...] | None = None
    overwrite: bool = False


def run_products(options: ProductOptions) -> str:
    """Read the store, and write what is asked for.

    Parameters
    ----------
    options
        What to do.

    Returns
    -------
    str
        What was written, in words.
    """
    wanted = (options.model, options.residual, options.overlap, options.mask, options.picture, options.cutouts)
    if not any(wanted):
        raise click.UsageError("give at least one of --model, --residual, --overlap, --mask, --picture and --cutout.")
    with ModelStore(options.output / STORE) as store:
        writers = _writers(options, store, read_description(options.exposure).open())
        with staged_folder(options.output, list(writers), overwrite=options.overwrite) as stage:
            for name, write in writers.items():
                announce("making %s", name)
                write(stage / name)
    return f"wrote {', '.join(writers)} to {options.output}"


def _writers(options: ProductOptions, store: ModelStore, exposure: LazyExposure) -> dict[str, Callable[[Path], object]]:
    """What writes each file."""
    bands = exposure.bands if options.bands is None else options.bands

    def cube(path: Path, name: str, make: Callable[..., np.ndarray]) -> None:
        cubes = {name: make(store, exposure, bands=bands)}
        write_cubes(path, cubes, bands=bands, wcs=exposure.wcs, unit=exposure.unit)

    known: dict[str, tuple[bool, Callable[[Path], object]]] = {
        "model.fits": (options.model, lambda path: cube(path, "MODEL", render_image)),
        "residual.fits": (options.residual, lambda path: cube(path, "RESIDUAL", residual_image)),
        "overlap.ecsv": (
            options.overlap,
            lambda path: write_catalog(overlap_metrics(store, exposure, bands=bands), path),
        ),
        MASK: (options.mask, lambda path: write_mask(path, mask_not_deblended(store, exposure.read()))),
        "overview.png": (
            options.picture,
            lambda path: save_products(exposure.read(), render_image(store, exposure), path),
        ),
    }
    writers = {name: write for name, (wanted, write) in known.items() if wanted}
    for row in options.cutouts:
        cut = functools.partial(cutout, store, exposure, row, bands=bands)
        writers[f"cutout_{row}.fits"] = lambda path, cut=cut: _write_cutout(path, cut(), exposure.unit)
    return writers


def _write_cutout(path: Path, cut: Cutout, unit: str | None) -> None:
    names = ("image", "model", "apportioned", "cleaned", "residual", "mask")
    cubes = {name.upper(): getattr(cut, name) for name in names}
    cards = {"ID": cut.id, "Y0": cut.box.start[0], "X0": cut.box.start[1]}
    write_cubes(path, cubes, bands=cut.bands, wcs=cut.wcs, unit=unit, cards=cards)


@click.command("products")
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.argument("exposure", type=click.Path(path_type=Path))
@click.option("--model", is_flag=True, help="Image of all sources as observed.")
@click.option("--residual", is_flag=True, help="Images less that.")
@click.option("--overlap", is_flag=True, help="By how much sources overlap, a row for each.")
@click.option("--mask", is_flag=True, help="Masks with the plane NOT_DEBLENDED, where blends were skipped or failed.")
@click.option("--picture", is_flag=True, help="Data, model and residual of all bands at a glance.")
@click.option("--cutout", "cutouts", type=int, multiple=True, help="Row of a source to cut out; again for more.")
@click.option("--bands", type=Names(), help="Bands to write: g,r.  [default: all]")
@click.option("--overwrite", is_flag=True, help="Replace what was written before.")
@common_options
def products_command(**options: Any) -> int:
    """Make images and tables from the models of a catalog run.

    OUTPUT is the folder to which `jaxdeblend deblend-catalog` wrote, EXPOSURE the description that it was given.

    \b
    Writes to the folder OUTPUT, as asked for:
      model.fits        cube (band, y, x) of all sources as observed
      residual.fits     images less the model, NaN where unusable
      overlap.ecsv      max_overlap, flux_overlap and flux_overlap_fraction of each source in each band
      overview.png      data, model and residual in colour; one pixel for several of a large exposure
      mask.fits         MASK_<band>: the masks, with the plane NOT_DEBLENDED
      cutout_<ID>.fits  IMAGE, MODEL, APPORTIONED, CLEANED (without neighbours), RESIDUAL and MASK of a source

    \b
    Examples:
      jaxdeblend products out/ exposure.toml --model --residual --picture
      jaxdeblend products out/ exposure.toml --cutout 17 --cutout 23
    """  # noqa: D301
    click.echo(run_products(ProductOptions(**options)))
    return 0
