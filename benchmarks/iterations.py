"""What a step of a fit costs, against the number of pixels and of sources; one JSON line for each.

    taskset -c 0 python -m benchmarks.iterations

Blends are simulated on images of each edge with each number of sources, and padded as the batch engine pads them.
``ms`` is the time of a step on one core after compilation, ``us_per_source`` that of each slot for a source.
"""

import argparse
import json

import jax
import numpy as np

import jaxdeblend as jd
from jaxdeblend.batch.plan import Item, pack
from jaxdeblend.batch.stages import observation_of
from jaxdeblend.fitting.initialize import initialize_arrays
from jaxdeblend.fitting.loop import Problem
from jaxdeblend.simulate import simulate_blend

from .stages import repeated


def step_time(edge: int, n_sources: int, *, n_bands: int = 5, seed: int = 1) -> dict:
    """Time of a step.

    Parameters
    ----------
    edge
        Edge of the image in pixels.
    n_sources, n_bands
        Number of sources and of bands.
    seed
        Seed of the blend.

    Returns
    -------
    dict
        What `main` prints.
    """
    scene = simulate_blend(
        np.random.default_rng(seed), shape=(edge, edge), bands=tuple("ugrizy"[:n_bands]), n_sources=n_sources
    )
    obs = jd.Observation(scene.images, scene.variance, scene.psf, bands=scene.bands)
    item = Item.of(obs, scene.centers, 0.1)
    bucket = item.bucket
    lane = jax.device_put(jax.tree.map(lambda array: array[0], pack([item], bucket, 1)))
    padded = observation_of(lane)
    blend = initialize_arrays(
        padded, lane["centers"], lane["errors"], lane["active"], bucket.stamp_edge, jd.Initialization()
    )
    problem = Problem(blend, padded, jd.ProximalAdam())
    seconds = repeated(lambda state: problem.step(state), problem.init())
    return {
        "edge": edge,
        "sources": n_sources,
        "bands": n_bands,
        "slots": bucket.n_sources,
        "stamp_edge": bucket.stamp_edge,
        "ms": round(1e3 * seconds, 3),
        "us_per_source": round(1e6 * seconds / bucket.n_sources, 1),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=[32, 64, 96, 128], help="with 6 sources")
    parser.add_argument("--sources", type=int, nargs="+", default=[2, 6, 12, 24], help="on 64 pixels")
    arguments = parser.parse_args(argv)
    wanted = [(edge, 6) for edge in arguments.edges] + [(64, n) for n in arguments.sources if n != 6]
    for edge, n_sources in wanted:
        print(json.dumps(step_time(edge, n_sources)), flush=True)


if __name__ == "__main__":
    main()
