"""Blends a second against the size of the catalog, with a mixed catalog that is never in memory at once.

    python -m benchmarks.scaling --sizes 10 100 1000 10000
    python -m benchmarks.scaling --sizes 100 --cores 1 2 --lanes 1 4 16

The blends have 2 to 10 sources, edges of 30 to 120 pixels and 5 or 6 bands. A pool of them is simulated; the catalog
goes through the pool again and again, with new noise each time; a catalog shorter than the pool takes blends spread
evenly over it, from small to large, so that catalogs of all sizes are the same mix. It is streamed through
`jaxdeblend.deblend_stream`, first once through the pool, which compiles every program, then at each size. A line of
JSON for each size, with the memory in use after the 300th blend and at the end. Short catalogs, which take less than a
second, are run several times; the median counts. A catalog of 100 blends is then run on some of the cores, and with
several blends that share a call.
"""

import argparse
import collections
import json
import os
import time
from collections.abc import Iterator

import numpy as np

import jaxdeblend as jd
from jaxdeblend.batch.plan import Item
from jaxdeblend.simulate import simulate_blend
from jaxdeblend.simulate.scene import Scene

SEVERAL = 100
"""Catalogs of fewer blends are run as often as together they have so many."""

BANDS = ("u", "g", "r", "i", "z", "y")


def mixed_pool(n: int, *, seed: int) -> list[Scene]:
    """Simulate blends of many shapes; more sources fill more pixels.

    Parameters
    ----------
    n
        Number of blends.
    seed
        Seed of the pool.

    Returns
    -------
    list of Scene
        The blends, from small to large.

    Examples
    --------
    >>> sorted(len(scene.bands) for scene in mixed_pool(2, seed=1))
    [5, 6]
    """
    scenes = []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        n_sources = int(np.clip(2 + rng.geometric(0.3) - 1, 2, 10))
        edges = np.clip(rng.normal(22 + 9 * n_sources, 5, 2), 30, 120).astype(int)
        shape = (int(edges[0]), int(edges[1]))
        scenes.append(simulate_blend(rng, shape=shape, bands=BANDS[1 - number % 2 :], n_sources=n_sources))
    return sorted(scenes, key=lambda scene: scene.images.size * len(scene.centers))


def catalog(pool: list[Scene], n: int, *, seed: int) -> Iterator[tuple[jd.Observation, np.ndarray]]:
    """Blends of the pool, each with noise of its own, in any order; a few are spread evenly over it.

    Parameters
    ----------
    pool
        Simulated blends.
    n
        Number of blends.
    seed
        Seed of the noise.

    Yields
    ------
    tuple of Observation and np.ndarray
        Observation and positions rounded to whole pixels.
    """
    rng = np.random.default_rng(seed)
    turns = np.arange(n) % len(pool) if n >= len(pool) else (2 * np.arange(n) + 1) * len(pool) // (2 * n)
    for number in rng.permutation(turns):
        scene = pool[number]
        noise = rng.standard_normal(scene.images.shape, dtype=np.float32) * np.sqrt(scene.variance)
        obs = jd.Observation(scene.noiseless + noise, scene.variance, scene.psf, bands=scene.bands)
        yield obs, np.round(scene.centers)


def programs(pool: list[Scene]) -> int:
    """Number of programs that the blends of a pool need."""
    return len({Item.of(obs, centers, 0.3).bucket for obs, centers in catalog(pool, len(pool), seed=0)})


def run(pool: list[Scene], n: int, *, seed: int, lanes: int | None = None) -> dict:
    """Stream a catalog.

    Parameters
    ----------
    pool
        Simulated blends.
    n
        Number of blends.
    seed
        Seed of the noise.
    lanes
        Blends that share a call; None: chosen for the device.

    Returns
    -------
    dict
        What `main` prints.
    """
    began, memory = time.perf_counter(), []
    returned = collections.Counter[int]()
    statuses = collections.Counter[str]()
    for number, result in jd.deblend_stream(catalog(pool, n, seed=seed), center_error=0.3, lanes=lanes):
        returned[number] += 1
        statuses[result.result.name] += 1
        if len(returned) in (300, n):
            memory.append(round(resident_mb()))
    seconds = time.perf_counter() - began
    return {
        "blends": n,
        "run_s": round(seconds, 2),
        "blends_per_s": round(n / seconds, 2),
        "each_once": returned == collections.Counter(range(n)),
        "rss_mb": memory,
        "statuses": dict(statuses),
    }


def run_on_cores(pool: list[Scene], cores: int, *, seed: int) -> dict:
    """Stream a catalog on so many cores; the rest is as for `run`."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:cores])
    try:
        return {"cores": cores, **run(pool, SEVERAL, seed=seed)}
    finally:
        os.sched_setaffinity(0, all_cores)


def run_in_lanes(pool: list[Scene], lanes: int, *, seed: int) -> dict:
    """Stream a catalog with so many blends a call, the second time, when all is compiled; the rest is as for `run`."""
    run(pool, len(pool), seed=seed, lanes=lanes)
    return {"lanes": lanes, **run(pool, SEVERAL, seed=seed, lanes=lanes)}


def resident_mb() -> float:
    """Memory in use by this process in MiB; NaN where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return float("nan")
    return pages * 4096 / 2**20


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="numbers of blends")
    parser.add_argument("--cores", type=int, nargs="*", default=[], help="numbers of cores")
    parser.add_argument("--lanes", type=int, nargs="*", default=[], help="numbers of blends that share a call")
    parser.add_argument("--pool", type=int, default=200, help="number of blends that are simulated")
    parser.add_argument("--seed", type=int, default=1, help="seed of the pool and of the noise")
    arguments = parser.parse_args(argv)
    pool = mixed_pool(arguments.pool, seed=arguments.seed)
    first = run(pool, len(pool), seed=arguments.seed)
    print(json.dumps({"programs": programs(pool), "warm_up_s": first["run_s"], "version": jd.__version__}), flush=True)
    for number, size in enumerate(arguments.sizes, start=1):
        seeds = [arguments.seed + number + 1000 * again for again in range(max(1, SEVERAL // size))]
        runs = sorted((run(pool, size, seed=seed) for seed in seeds), key=lambda report: report["run_s"])
        print(json.dumps(runs[len(runs) // 2] | {"runs": len(runs)}), flush=True)
    for cores in arguments.cores:
        print(json.dumps(run_on_cores(pool, cores, seed=arguments.seed)), flush=True)
    for lanes in arguments.lanes:
        print(json.dumps(run_in_lanes(pool, lanes, seed=arguments.seed)), flush=True)


if __name__ == "__main__":
    main()
