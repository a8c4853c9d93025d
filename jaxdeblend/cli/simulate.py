"""`jaxdeblend simulate`: the sky as a survey sees it, in files, with its truth."""

import time
from pathlib import Path
from typing import Any

import click

from ..io import Exposure, described_files, staged_folder, write_catalog, write_described
from ..io.exposure_writing import LAYOUTS
from ..runtime.progress import announce
from ..simulate import Patch, simulate_cluster, simulate_patch
from .options import Names, common_options, output_options
from .pictures import save_overview

TRUTH, PICTURE = "truth.fits", "overview.png"
"""Files beside those of the exposure."""


@click.group("simulate", context_settings={"help_option_names": ["-h", "--help"]})
def simulate_command() -> None:
    """Simulate images of a survey and write them as a survey does, with their truth.

    \b
    Examples:
      jaxdeblend simulate patch -o patch/ --shape 1000 1000 --sources 1300
      jaxdeblend simulate cluster -o cluster/
    """  # noqa: D301


def _options(shape: tuple[int, int]) -> Any:
    """Options that both commands have."""
    options = [
        click.option(
            "--shape",
            type=(click.IntRange(16), click.IntRange(16)),
            default=shape,
            show_default=True,
            help="Rows and columns of pixels.",
        ),
        click.option("--bands", type=Names(), default="g,r,i,z,y", show_default=True, help="Bands, out of ugrizy."),
        click.option("--seed", type=int, default=1, show_default=True, help="Seed; the same gives the same files."),
        click.option(
            "--layout",
            type=click.Choice(list(LAYOUTS)),
            default="lsst",
            show_default=True,
            help="lsst: IMAGE, MASK and VARIANCE in a file per band; sci: SCI, MSK and WGT; legacy: image, invvar and "
            "maskbits in files of their own.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace files of an earlier run."),
    ]

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@simulate_command.command()
@_options((1000, 1000))
@click.option(
    "--sources", type=click.IntRange(0), help="Number of sources.  [default: as dense as LSST after ten years]"
)
@output_options("patch")
@common_options
def patch(shape: tuple[int, int], sources: int | None, bands: tuple[str, ...], seed: int, **options: Any) -> int:
    """Simulate galaxies and stars, many of them blended, on a patch of the sky.

    Galaxies are smooth or have spiral arms, clumps and tails; many are in groups. The PSF varies over the
    patch, differently in each band. Bright stars are saturated; there are bad columns, cosmic rays, gaps in
    the coverage and a corner without data.

    \b
    Writes to the folder OUTPUT, once everything is done:
      exposure.toml       names all that follows; for commands that take an exposure
      patch_<band>.fits   images, variances and masks, in the layout that is asked for
      psf_<band>.psf      the PSF at any place, as PSFEx writes it
      truth.fits          one row per source: position, kind, shape, and flux, S/N and blendedness in each band
      overview.png        all of it in colour

    \b
    Example:
      jaxdeblend simulate patch -o patch/ --shape 1000 1000 --sources 1300 --seed 1
    """  # noqa: D301
    dense = round(DENSITY * shape[0] * shape[1])
    n_sources = dense if sources is None else sources
    return _run("patch", lambda: simulate_patch(seed, shape=shape, bands=bands, n_sources=n_sources), bands, **options)


@simulate_command.command()
@_options((640, 640))
@click.option("--stars", type=click.IntRange(1), default=4000, show_default=True, help="Number of stars.")
@click.option("--core-radius", type=float, help="In pixels.  [default: a quarter of the shorter edge]")
@output_options("cluster")
@common_options
def cluster(
    shape: tuple[int, int],
    stars: int,
    core_radius: float | None,
    bands: tuple[str, ...],
    seed: int,
    **options: Any,
) -> int:
    """Simulate a globular cluster: thousands of stars in one blend.

    Writes the same files as `jaxdeblend simulate patch`.

    \b
    Example:
      jaxdeblend simulate cluster -o cluster/ --stars 4000
    """  # noqa: D301
    radius = 0.25 * min(shape) if core_radius is None else core_radius

    def make() -> Patch:
        return simulate_cluster(seed, shape=shape, bands=bands, n_stars=stars, core_radius=radius)

    return _run("cluster", make, bands, **options)


DENSITY = 20_000 / 4000**2
"""Sources per pixel of a patch."""


def exposure_of(patch: Patch) -> Exposure:
    """The exposure that a simulated patch is.

    Parameters
    ----------
    patch
        The patch.

    Returns
    -------
    Exposure
        Its images, masks and PSF, without the truth.
    """
    return Exposure(
        patch.images,
        patch.variance,
        patch.psf,
        bands=patch.bands,
        wcs=patch.wcs,
        unit=patch.unit,
        zero_point=patch.zero_point,
        mask_bits=patch.mask_bits,
        mask_planes=patch.mask_planes,
    )


def _run(
    name: str, make: Any, bands: tuple[str, ...], *, output: Path, layout: str, overwrite: bool, no_pictures: bool
) -> int:
    """Simulate and write; what exists already is found before anything is simulated."""
    started = time.perf_counter()
    pictures = () if no_pictures else (PICTURE,)
    names = [*described_files(bands, name=name, layout=layout), TRUTH, *pictures]
    with staged_folder(output, names, overwrite=overwrite) as stage:
        announce("simulating %s in %d bands", name, len(bands))
        made = make()
        announce("writing %s", ", ".join(names))
        exposure = exposure_of(made)
        write_described(stage, exposure, name=name, layout=layout)
        write_catalog(made.truth, stage / TRUTH)
        if not no_pictures:
            save_overview(exposure, stage / PICTURE)
    ny, nx = exposure.shape
    seconds = time.perf_counter() - started
    click.echo(f"{len(made.truth)} sources in {ny} x {nx} pixels, bands {', '.join(bands)}; {seconds:.1f} s")
    click.echo(f"wrote {', '.join(names)} to {output}")
    return 0
