"""Residuals of a real HSC blend (five bands, seven sources); one JSON line.

    python -m benchmarks.hsc
    python -m benchmarks.hsc --no-symmetry

``chi2_per_pixel`` is the mean weighted squared residual over the whole stamp, weights 1 / variance.
"""

import argparse
import json
import time

import numpy as np

import jaxdeblend as jd

from .data import find


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="hsc_cosmos_35", help="name of the file in ../shared/data, or a path")
    parser.add_argument("--no-symmetry", action="store_true", help="without the symmetry prior")
    parser.add_argument("--max-steps", type=int, default=150, help="largest number of steps")
    arguments = parser.parse_args()
    data = np.load(find(arguments.set))
    bands = tuple(str(band) for band in data["filters"])
    obs = jd.Observation(data["images"], data["variance"], data["psfs"], bands=bands)
    centers = np.stack([data["catalog"]["y"], data["catalog"]["x"]], axis=1)
    options = jd.Initialization(priors=()) if arguments.no_symmetry else jd.Initialization()
    optimizer = jd.ProximalAdam(max_steps=arguments.max_steps)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        result = jd.deblend(obs, centers, options=options, optimizer=optimizer)
        times.append(time.perf_counter() - began)
    residual = np.asarray(obs.images) - result.model
    chi2 = float(np.mean(np.asarray(obs.weights) * residual**2))
    report = {
        "chi2_per_pixel": round(chi2, 4),
        "n_steps": int(result.n_steps),
        "status": result.result.name,
        "symmetry_prior": not arguments.no_symmetry,
        "compile_s": round(times[0] - times[1], 2),
        "run_s": round(times[1], 3),
        "version": jd.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
