"""Where the time of a blend goes, on one core; a table.

    taskset -c 0 python -m benchmarks.stages --set btk_lsst_dev

Each stage is compiled by itself and run on one blend, padded as the batch engine pads it. Stages share work when
they are compiled together, so the parts need not add up to the whole.
"""

import argparse
import json
import time
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np

import jaxdeblend as jd
from jaxdeblend.batch.plan import Item, pack
from jaxdeblend.batch.stages import observation_of
from jaxdeblend.fitting.initialize import initialize_arrays
from jaxdeblend.fitting.loop import Problem
from jaxdeblend.measurement.photometry import measure_arrays

from .data import find
from .ragged import Case, load_cases

ROUNDS = 20
"""Times that a small stage is repeated in one call."""


def stages(case: Case) -> dict[str, float]:
    """Seconds that each stage of one blend takes, after compilation.

    Parameters
    ----------
    case
        The blend.

    Returns
    -------
    dict
        Seconds: ``kernel`` (difference kernels and their transforms), ``initialize``, one ``step`` and of it the
        ``gradient``, the ``projection``, ``convolution`` (there and back) and ``placing`` (all stamps into the frame),
        ``measure``, and on the host ``pack``.
    """
    item = Item.of(case.obs, case.centers, case.center_error)
    bucket, options, optimizer = item.bucket, jd.Initialization(), jd.ProximalAdam()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        packed = pack([item], bucket, 1)
    seconds = {"pack": (time.perf_counter() - began) / ROUNDS}
    lane = jax.device_put(jax.tree.map(lambda array: array[0], packed))
    seconds["kernel"], obs = _timed(lambda: observation_of(lane))
    seconds["initialize"], blend = _timed(
        lambda obs: initialize_arrays(obs, lane["centers"], lane["errors"], lane["active"], bucket.stamp_edge, options),
        obs,
    )
    problem = Problem(blend, obs, optimizer)
    state = problem.init()
    seconds["step"] = repeated(lambda state: problem.step(state), state)
    seconds["gradient"] = repeated(lambda parameters: problem.gradient(parameters)[1], problem.initial)
    seconds["projection"] = repeated(lambda blend: blend.project(problem.rms), blend)
    seconds["convolution"] = 2 * repeated(lambda cube: obs.prepared().convolve(cube), obs.images)
    seconds["placing"] = _placing(blend, obs)
    seconds["measure"], _ = _timed(lambda blend, obs: measure_arrays(blend, obs), blend, obs)
    return seconds


def _placing(blend: jd.Blend, obs: jd.Observation) -> float:
    """The cube depends on the last one by a number too small to count, so that no compiler leaves it out."""

    def again(blend: jd.Blend) -> jd.Blend:
        change = 1e-30 * blend.cube(obs.extent, obs.margin).sum()
        return eqx.tree_at(lambda b: b.centers, blend, blend.centers + change)

    return repeated(again, blend)


def repeated(step: Callable, start: object) -> float:
    """Seconds of one of many steps in one call."""
    return _timed(lambda value: jax.lax.fori_loop(0, ROUNDS, lambda _, v: step(v), value), start)[0] / ROUNDS


def _timed(function: Callable, *arguments: object) -> tuple[float, object]:
    """Median seconds of a compiled call, and what it returns."""
    compiled = eqx.filter_jit(function)
    value = jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - began)
    return float(np.median(times)), value


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="btk_lsst_dev", help="name of a set in ../shared/data, or a path")
    parser.add_argument("--blend", type=int, default=0, help="number of the blend")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table, in milliseconds")
    arguments = parser.parse_args(argv)
    case = load_cases(find(arguments.set))[arguments.blend]
    height, width = case.obs.shape
    if arguments.json:
        about = {"set": arguments.set, "shape": f"{height} × {width}", "sources": len(case.centers)}
        print(json.dumps(about | {name: round(1e3 * seconds, 3) for name, seconds in stages(case).items()}))
        return
    print(f"{height} × {width} pixels, {len(case.obs.bands)} bands, {len(case.centers)} sources")
    for name, seconds in stages(case).items():
        print(f"{name:12s} {1e3 * seconds:8.3f} ms")


if __name__ == "__main__":
    main()
