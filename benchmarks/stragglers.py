"""What blends that need many steps cost the others; one JSON line for each way to share calls.

    python -m benchmarks.stragglers --blends 240 --lanes 16

A catalog of blends of one shape is deblended, and again with one in twenty made a straggler. The usual blends are given
a hundred times their noise, so that the fit ends as soon as it may; stragglers a thousandth of it, so that no model is
good enough, and the fit goes on for about ten times as long. ``slowdown`` is the ratio of the two throughputs, ``work``
that of their numbers of steps. The ways are: one blend a call; lanes that are filled anew as blends are done; and, for
comparison, lanes that all wait for the last.
"""

import argparse
import json
import time

import numpy as np

import jaxdeblend as jd
from jaxdeblend.batch.plan import Item
from jaxdeblend.batch.schedule import Limits, Schedule
from jaxdeblend.simulate import simulate_blend

EVERY = 20
"""One blend in so many is a straggler."""


def make_items(n: int, *, shape: tuple[int, int], stragglers: bool, seed: int) -> list[Item]:
    """Simulate blends of one shape.

    Parameters
    ----------
    n
        Number of blends.
    shape
        Shape (y, x) of each.
    stragglers
        Whether one in twenty needs many steps.
    seed
        Seed of the blends.

    Returns
    -------
    list of Item
        The blends; except for stragglers, the same with and without.
    """
    items = []
    for number in range(n):
        scene = simulate_blend(np.random.default_rng([seed, number]), shape=shape, bands=("g", "r", "i"), n_sources=3)
        slow = stragglers and number % EVERY == EVERY // 2
        variance = scene.variance * (1e-6 if slow else 1e4)
        obs = jd.Observation(scene.images, variance, scene.psf, bands=scene.bands)
        items.append(Item.of(obs, scene.centers, 0.1))
    return items


def run(items: list[Item], limits: Limits, optimizer: jd.ProximalAdam) -> tuple[float, np.ndarray]:
    """Seconds, and the number of steps of each blend."""
    began = time.perf_counter()
    steps = [int(result.n_steps) for _, result in Schedule(None, optimizer, limits).run(enumerate(items))]
    return time.perf_counter() - began, np.array(steps)


def measure(catalogs: tuple[list[Item], list[Item]], limits: Limits, optimizer: jd.ProximalAdam, repeat: int) -> dict:
    """Throughput without and with stragglers, after both were run once."""
    for items in catalogs:
        run(items, limits, optimizer)
    runs = [[run(items, limits, optimizer) for items in catalogs] for _ in range(repeat)]
    seconds = np.array([[each[0] for each in both] for both in runs])
    usual, slow = (steps for _, steps in runs[0])
    return {
        "lanes": limits.lanes,
        "enter_at_a_time": limits.group,
        "blends_per_s": round(len(catalogs[0]) / float(np.median(seconds[:, 0])), 2),
        "blends_per_s_with_stragglers": round(len(catalogs[1]) / float(np.median(seconds[:, 1])), 2),
        "slowdown": round(float(np.median(seconds[:, 1] / seconds[:, 0])), 3),
        "work": round(float(slow.sum() / usual.sum()), 3),
        "steps_usual": float(np.median(usual)),
        "steps_stragglers": float(np.mean(np.sort(slow)[-(len(slow) // EVERY) :])),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blends", type=int, default=240, help="number of blends")
    parser.add_argument("--edge", type=int, default=48, help="edge of each in pixels")
    parser.add_argument("--lanes", type=int, default=16, help="lanes that share a call")
    parser.add_argument("--max-steps", type=int, default=100, help="most steps of a fit")
    parser.add_argument("--repeat", type=int, default=3, help="how often both catalogs are run; the median counts")
    parser.add_argument("--seed", type=int, default=1, help="seed of the blends")
    arguments = parser.parse_args(argv)
    shape = (arguments.edge, arguments.edge)
    usual, slow = (
        make_items(arguments.blends, shape=shape, stragglers=stragglers, seed=arguments.seed)
        for stragglers in (False, True)
    )
    optimizer = jd.ProximalAdam(max_steps=arguments.max_steps)
    ways = (
        Limits(lanes=1, group=1),
        *(Limits(lanes=arguments.lanes, group=group) for group in (max(1, arguments.lanes // 4), arguments.lanes)),
    )
    for limits in ways:
        print(json.dumps(measure((usual, slow), limits, optimizer, arguments.repeat)), flush=True)


if __name__ == "__main__":
    main()
