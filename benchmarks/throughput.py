"""How many blends a second; one JSON line.

    python -m benchmarks.throughput --set btk_lsst_dev
    python -m benchmarks.throughput --set mixed100 --repeat 10

The set is deblended once, which compiles every program, and then again: ``compile_s`` is what the first time took
longer. ``fft_floor_s`` is the time of the FFTs alone that the same fits need, two convolutions a step, by SciPy on one
core; ``over_floor`` is the run time divided by it.
"""

import argparse
import collections
import json
import resource
import time

import jax
import numpy as np
import scipy.fft

import jaxdeblend as jd
from jaxdeblend.ops import fft

from .data import find
from .ragged import Case, flux_error, load_cases


def deblend_all(cases: list[Case]) -> tuple[list[jd.Deblended], float]:
    """Results, and the seconds that they took."""
    began = time.perf_counter()
    results = jd.deblend_batch(
        [(case.obs, case.centers) for case in cases], center_error=[case.center_error for case in cases]
    )
    return results, time.perf_counter() - began


def fft_seconds(cases: list[Case], results: list[jd.Deblended]) -> float:
    """Time of the convolutions of all steps: there and back for each, at the size that each blend needs by itself."""
    total = 0.0
    steps = collections.Counter[tuple[int, int, int]]()
    for case, result in zip(cases, results, strict=True):
        edge = case.obs.psf.edge
        y, x = fft.same_shape(case.obs.shape, (edge, edge))
        steps[len(case.obs.bands), y, x] += int(result.n_steps)
    for shape, number in steps.items():
        total += number * _one_step(shape)
    return total


def _one_step(shape: tuple[int, int, int]) -> float:
    """Seconds of two convolutions of a cube of this shape, the median of several."""
    cube = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    kernel = scipy.fft.rfft2(cube)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        for _ in range(2):
            scipy.fft.irfft2(scipy.fft.rfft2(cube, workers=1) * kernel, s=shape[1:], workers=1)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def measure(cases: list[Case], *, repeat: int = 1) -> dict:
    """Compile and run.

    Parameters
    ----------
    cases
        The blends.
    repeat
        How often they are deblended after the first time; the median counts.

    Returns
    -------
    dict
        What `main` prints.
    """
    results, first = deblend_all(cases)
    runs = [deblend_all(cases)[1] for _ in range(repeat)]
    run = float(np.median(runs))
    sources = sum(len(case.centers) for case in cases)
    floor = fft_seconds(cases, results)
    device = jax.devices()[0]
    return {
        "blends": len(cases),
        "sources": sources,
        "blends_per_s": round(len(cases) / run, 2),
        "sources_per_s": round(sources / run, 1),
        "compile_s": round(max(first - run, 0.0), 2),
        "run_s": round(run, 3),
        "fft_floor_s": round(floor, 3),
        "over_floor": round(run / floor, 2),
        "steps_median": float(np.median([int(result.n_steps) for result in results])),
        "flux_error_snr20": round(flux_error(cases, [result.measurements.flux for result in results], snr_min=20.0), 4),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "statuses": {status.name: sum(result.result is status for result in results) for status in jd.RESULTS},
        "device": f"{device.platform} {device.device_kind}",
        "version": jd.__version__,
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="btk_lsst_dev", help="name of a set in ../shared/data, or a path")
    parser.add_argument("--blends", type=int, help="only the first so many blends")
    parser.add_argument("--repeat", type=int, default=3, help="how often the set is run after it is compiled")
    arguments = parser.parse_args(argv)
    cases = load_cases(find(arguments.set))[: arguments.blends]
    print(json.dumps({"set": arguments.set} | measure(cases, repeat=arguments.repeat)))


if __name__ == "__main__":
    main()
