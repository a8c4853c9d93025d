"""The work of `jaxdeblend warmup`: compile what later runs will need."""

import itertools
import time
from collections.abc import Callable

import numpy as np

from ..batch import deblend_batch
from ..instrument.observation import Observation
from ..instrument.psf import GaussianPSF


def run_warmup(
    bands: tuple[str, ...],
    sizes: tuple[int, ...],
    sources: tuple[int, ...],
    psf_edge: int,
    say: Callable[[str], None],
) -> None:
    """Deblend one empty blend of each shape.

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
    psf = GaussianPSF(np.full(len(bands), 1.5)).stamp(psf_edge)
    for size, count in itertools.product(sizes, sources):
        images = np.zeros((len(bands), size, size), np.float32)
        obs = Observation(images, np.ones_like(images), np.asarray(psf), bands=bands)
        began = time.perf_counter()
        deblend_batch([(obs, np.full((count, 2), (size - 1) / 2))])
        say(f"{size} pixels, {count} sources: {time.perf_counter() - began:.1f} s")
