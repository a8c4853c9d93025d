"""A thousand ragged blends of one band through the single-band deblender, in one call; one JSON line.

    python -m benchmarks.single_band_batch --batch 1000

The blends are all bands, each for itself, of simulated scenes of 2 to 10 sources and edges of 30 to 120 pixels
(`benchmarks.scaling.mixed_pool`), in any order; peaks are whole pixels. A first catalog compiles the programs. Timed is
a second one, of other scenes; what it has to compile, down to the smallest helper, is counted from JAX's own log.

=====================  ===========================================================================================
``programs``           compiled programs of the deblender after the first catalog, and after the second
``compilations``       everything that the second catalog compiled
``compile_s``          seconds of the first catalog, less those of the second
``each_in_order``      whether result k has the shape and the peaks of blend k, for all k
``conservation``       largest difference between an image and its children with what is unassigned / maximum
=====================  ===========================================================================================
"""

import argparse
import contextlib
import json
import logging
import time
from collections.abc import Iterator

import jax
import numpy as np

import jaxdeblend as jd
from jaxdeblend.single_band.deblend import run, run_beside

from .scaling import mixed_pool, resident_mb

BANDS_PER_SCENE = 5
"""Bands that every scene has at least."""

Blend = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Image, variance, PSF and peaks."""


def catalog(n: int, *, seed: int) -> list[Blend]:
    """Blends of one band.

    Parameters
    ----------
    n
        Number of blends.
    seed
        Seed of the scenes and of their order.

    Returns
    -------
    list of tuple
        What `deblend_single_band_batch` takes.

    Examples
    --------
    >>> [len(blend) for blend in catalog(2, seed=1)]
    [4, 4]
    """
    scenes = mixed_pool(-(-n // BANDS_PER_SCENE), seed=seed)
    blends = [
        (scene.images[band], scene.variance[band], scene.psf[band], np.round(scene.centers))
        for scene in scenes
        for band in range(len(scene.bands))
    ]
    return [blends[k] for k in np.random.default_rng(seed).permutation(len(blends))[:n]]


@contextlib.contextmanager
def counted_compilations() -> Iterator[list[str]]:
    """A list that grows by a line for everything that JAX compiles meanwhile."""
    lines: list[str] = []

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Finished XLA compilation"):
                lines.append(record.getMessage())

    logger, handler = logging.getLogger("jax"), Counter()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def timed(blends: list[Blend]) -> tuple[float, list[jd.SingleBandResult]]:
    """Seconds of a call, and what it returns."""
    began = time.perf_counter()
    results = jd.deblend_single_band_batch(blends)
    return time.perf_counter() - began, results


def in_order(blends: list[Blend], results: list[jd.SingleBandResult]) -> bool:
    """Whether every blend has its result, at its place."""
    return len(blends) == len(results) and all(
        result.children.shape == (len(centers), *image.shape) and np.array_equal(result.centers, centers)
        for (image, _, _, centers), result in zip(blends, results, strict=True)
    )


def conservation(blends: list[Blend], results: list[jd.SingleBandResult]) -> float:
    """Largest difference between an image and what it was divided into, in units of its maximum."""
    largest = 0.0
    for (image, *_), result in zip(blends, results, strict=True):
        total = result.children.sum(axis=0, dtype=float) + result.unassigned
        largest = max(largest, float(np.abs(total - image).max() / np.abs(image).max()))
    return largest


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1000, help="number of blends")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first catalog; the next one is the second's")
    options = parser.parse_args(arguments)
    first, second = (catalog(options.batch, seed=seed) for seed in (options.seed, options.seed + 1))
    cold, _ = timed(first)
    programs = run.n_compiled + run_beside.n_compiled
    with counted_compilations() as compilations:
        seconds, results = timed(second)
    peaks = sum(len(centers) for *_, centers in second)
    report = {
        "blends": len(second),
        "peaks": peaks,
        "shapes": len({image.shape for image, *_ in second}),
        "programs": [programs, run.n_compiled + run_beside.n_compiled],
        "compilations": len(compilations),
        "compile_s": round(max(cold - seconds, 0.0), 1),
        "run_s": round(seconds, 2),
        "blends_per_s": round(len(second) / seconds, 1),
        "peaks_per_s": round(peaks / seconds, 1),
        "each_in_order": in_order(second, results),
        "conservation": float(f"{conservation(second, results):.2g}"),
        "rss_mb": round(resident_mb()),
        "device": jax.devices()[0].device_kind,
        "version": jd.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
