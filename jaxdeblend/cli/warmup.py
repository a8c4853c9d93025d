"""The work of `jaxdeblend warmup`: compile what later runs will need."""

import itertools
import time
from collections.abc import Callable

import click
import numpy as np

from ..batch import deblend_batch
from ..instrument.observation import Observation
from ..instrument.psf import GaussianPSF

BRIGHT = 1e5
"""Flux of the star in units of a pixel's noise."""


def run_warmup(
    bands: tuple[str, ...],
    sizes: tuple[int, ...],
    sources: tuple[int, ...],
    psf_edge: int,
    say: Callable[[str], None],
) -> None:
    """Deblend one blend of each shape, with a star so bright that all programs are needed.

    Parameters
    ----------
    bands
        Names of the bands.
    sizes
        Edges of the images in pixels.
    sources
        Numbers of sources.
    psf_edge
        Odd edge of the PSF's stamps.
    say
        Called with one line after each program.
    """
    stamps = GaussianPSF(np.full(len(bands), 1.5)).stamp(psf_edge)
    for size, count in itertools.product(sizes, sources):
        images = _star(np.asarray(stamps), size)
        obs = Observation(images, np.ones_like(images), np.asarray(stamps), bands=bands)
        began = time.perf_counter()
        deblend_batch([(obs, np.full((count, 2), size // 2))])
        say(f"{size} pixels, {count} sources: {time.perf_counter() - began:.1f} s")


def _star(stamps: np.ndarray, size: int) -> np.ndarray:
    """A star in the middle of images of an edge."""
    reach = [(0, 0), (size, size), (size, size)]
    first = size + stamps.shape[-1] // 2 - size // 2
    inside = slice(first, first + size)
    return (BRIGHT * np.pad(stamps, reach)[:, inside, inside]).astype(np.float32)


@click.command("warmup")
@click.option("--bands", required=True, help="Names of the bands, as in later runs: g,r,i.")
@click.option("--size", "sizes", multiple=True, type=click.IntRange(8), default=(32, 64), help="Edge of blends; again.")
@click.option("--sources", multiple=True, type=click.IntRange(1), default=(2, 4, 8), help="Number of sources; again.")
@click.option("--psf-edge", type=click.IntRange(3), default=41, show_default=True, help="Odd edge of PSF images.")
def warmup_command(bands: str, sizes: tuple[int, ...], sources: tuple[int, ...], psf_edge: int) -> int:
    """Compile the programs for blends of the given shapes, and keep them for later runs.

    Without it, the first run that meets a shape compiles it. Sizes, numbers and edges are rounded up to those for
    which there are programs; every combination of --size and --sources is compiled.

    \b
    Example:
      jaxdeblend warmup --bands g,r,i,z,y --size 64 --size 96 --sources 4 --sources 8
    """  # noqa: D301
    names = tuple(band.strip() for band in bands.split(","))
    run_warmup(names, sizes, sources, psf_edge | 1, click.echo)
    return 0
