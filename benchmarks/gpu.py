"""What an accelerator makes of it: blends a second, memory traffic, and the same fluxes as on a CPU; one JSON line.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --blends 200 --lanes 8        # in small, on any device

Simulated blends of 64 pixels in six bands, of 1 to 8 sources, are deblended in batches, once to compile and then again.
``step_gb_s`` is the traffic of the optimizer's steps, as the compiler counts the bytes of one step of one blend, over
the whole run time; ``copy_gb_s`` is what the device reaches where it does nothing but read and write. A few blends are
deblended on the CPU as well: ``flux_difference`` is the median and the largest relative difference of a flux that is
measured to 10 % or better.
"""

import argparse
import contextlib
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd
from jaxdeblend.batch.plan import Item, pack
from jaxdeblend.batch.stages import Settings
from jaxdeblend.fitting.loop import FitState, Problem
from jaxdeblend.simulate import simulate_blend

BANDS = ("u", "g", "r", "i", "z", "y")
CENTER_ERROR = 0.1

Blends = list[tuple[jd.Observation, np.ndarray]]


def make_blends(n: int, *, edge: int, seed: int) -> Blends:
    """Simulate blends of 1 to 8 sources.

    Parameters
    ----------
    n
        Number of blends.
    edge
        Edge in pixels.
    seed
        Seed of the blends.

    Returns
    -------
    list
        Observations, and true positions rounded to 0.2 pixels.
    """
    blends = []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        scene = simulate_blend(rng, shape=(edge, edge), bands=BANDS, n_sources=1 + number % 8)
        obs = jd.Observation(scene.images, scene.variance, scene.psf, bands=scene.bands)
        blends.append((obs, np.round(scene.centers / 0.2) * 0.2))
    return blends


def copy_bandwidth(megabytes: int) -> float:
    """Bytes per second that are read and written where every number of an array is changed."""
    change = jax.jit(lambda array: array + 1)
    array = jax.block_until_ready(change(jnp.zeros(megabytes * 2**18, jnp.float32)))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(change(array))
        times.append(time.perf_counter() - began)
    return 2 * array.nbytes / float(np.median(times))


def bytes_per_step(item: Item, lanes: int) -> float:
    """Bytes that one step of one blend reads and writes, by the count of the compiler."""
    settings = Settings(jd.Initialization(), jd.ProximalAdam(), item.bucket.stamp_edge)
    packed = pack([item] * lanes, item.bucket, lanes)

    def state_of(packed: dict) -> tuple[Problem, FitState]:
        problem = settings.start(packed)
        return problem, problem.init()

    problem, state = jax.eval_shape(jax.vmap(state_of), packed)
    step = jax.jit(jax.vmap(lambda problem, state: problem.step(state)))
    analysis = step.lower(problem, state).compile().cost_analysis()
    return float(analysis["bytes accessed"]) / lanes


def flux_difference(blends: Blends, results: list[jd.Deblended]) -> tuple[float, float]:
    """Median and largest relative difference to the fluxes that a CPU finds, of those measured to 10 % or better."""
    elsewhere = jax.default_backend() != "cpu"
    with jax.default_device(jax.devices("cpu")[0]) if elsewhere else contextlib.nullcontext():
        again = jd.deblend_batch(blends, center_error=CENTER_ERROR, lanes=1)
    differences = []
    for result, other in zip(results, again, strict=True):
        flux, error = other.measurements.flux, other.measurements.flux_err
        good = np.abs(flux) > 10 * error
        differences.append(np.abs(result.measurements.flux[good] / flux[good] - 1))
    together = np.concatenate(differences)
    return float(np.median(together)), float(np.max(together))


def measure(blends: Blends, n: int, *, lanes: int | None, repeat: int, compared: int, copied_mb: int) -> dict:
    """Compile, run, compare.

    Parameters
    ----------
    blends
        Different blends.
    n
        Length of the catalog; blends repeat.
    lanes
        Lanes of a call; None: chosen by `jaxdeblend.deblend_batch`.
    repeat
        How often the catalog is deblended after the first time.
    compared
        Number of blends that are deblended on the CPU as well.
    copied_mb
        Size of the array that is copied.

    Returns
    -------
    dict
        What `main` prints.
    """
    catalog = [blends[number % len(blends)] for number in range(n)]
    times = []
    for _ in range(1 + repeat):
        began = time.perf_counter()
        results = jd.deblend_batch(catalog, center_error=CENTER_ERROR, lanes=lanes)
        times.append(time.perf_counter() - began)
    run = float(np.median(times[1:]))
    items = [Item.of(obs, centers, CENTER_ERROR) for obs, centers in blends]
    steps = {
        bucket: bytes_per_step(item, lanes or 64) for bucket, item in {item.bucket: item for item in items}.items()
    }
    traffic = sum(int(result.n_steps) * steps[items[k % len(items)].bucket] for k, result in enumerate(results))
    copy = copy_bandwidth(copied_mb)
    device = jax.devices()[0]
    return {
        "blends": n,
        "blends_per_s": round(n / run, 1),
        "sources_per_s": round(sum(len(centers) for _, centers in catalog) / run, 1),
        "compile_s": round(max(times[0] - run, 0.0), 1),
        "run_s": round(run, 3),
        "steps_median": float(np.median([int(result.n_steps) for result in results])),
        "step_gb_s": round(traffic / run / 1e9, 2),
        "copy_gb_s": round(copy / 1e9, 2),
        "of_copy": round(traffic / run / copy, 4),
        "flux_difference": flux_difference(blends[:compared], results[:compared]),
        "device": f"{device.platform} {device.device_kind}",
        "version": jd.__version__,
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blends", type=int, default=8192, help="length of the catalog")
    parser.add_argument("--pool", type=int, default=128, help="number of different blends")
    parser.add_argument("--edge", type=int, default=64, help="edge of a blend in pixels")
    parser.add_argument("--lanes", type=int, help="blends that share a call; by default chosen for the device")
    parser.add_argument("--repeat", type=int, default=3, help="how often the catalog is run after it is compiled")
    parser.add_argument("--compared", type=int, default=16, help="blends that the CPU deblends as well")
    parser.add_argument("--copied-mb", type=int, default=1024, help="size of the array that is copied, in MiB")
    parser.add_argument("--seed", type=int, default=1, help="seed of the blends")
    arguments = parser.parse_args(argv)
    blends = make_blends(arguments.pool, edge=arguments.edge, seed=arguments.seed)
    options = {name: getattr(arguments, name) for name in ("lanes", "repeat", "compared", "copied_mb")}
    print(json.dumps(measure(blends, arguments.blends, **options)))


if __name__ == "__main__":
    main()
