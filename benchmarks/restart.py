"""Sources that were missed join a stored catalog: how long that takes, and how good the fits are. One JSON line.

    python -m benchmarks.restart --small
    python -m benchmarks.restart

A patch is simulated and deblended three times: without one source in each of many blends (*first*); from that store,
with these sources added (*restart*, `jaxdeblend.restart_catalog`); and with all sources from the start (*scratch*). The
missed ones are any but the brightest of their blends, with an S/N above `MIN_SNR`. Everything is run twice, and the
second time counts, so that nothing is compiled in it.

``fraction`` is the time of the whole restart in units of that of the first run, ``fraction_touched`` the same for the
fits of the touched blends alone. χ² and loss are those of a touched blend in units of its fit from scratch on the same
pixels: ``chi2_ratio`` has the median, the 5 and 95 % points and the largest, ``within_1_percent`` is the share of
those where it is at most 1.01, and ``chi2_before`` what it was without the source.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np

import jaxdeblend as jd
from jaxdeblend.catalog.extended_plan import extend_plan
from jaxdeblend.catalog.plan import WorkUnit, make_plan
from jaxdeblend.catalog.running import Cutter, Runner
from jaxdeblend.simulate import Patch, simulate_patch

SIZES = {False: (1000, 1250, 60), True: (220, 60, 4)}
"""Edge of the patch in pixels, number of its sources, and largest number of blends in which one is missed."""

MIN_SNR = 10.0
"""Sources below this S/N in i are left out of all runs."""

ERROR = 0.1
"""1σ error of given positions in pixels, as that of a run."""


def exposure_of(patch: Patch) -> jd.Exposure:
    """The patch as an exposure."""
    return jd.Exposure(patch.images, patch.variance, patch.psf, bands=patch.bands)


def draw_missed(patch: Patch, n_blends: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the known sources, and of those that are missed: one in each of many blends, never the brightest.

    Parameters
    ----------
    patch
        The patch.
    n_blends
        Largest number of blends in which a source is missed.
    seed
        Seed of the choice.

    Returns
    -------
    tuple of np.ndarray
        Positions (y, x), (source, 2).
    """
    truth, exposure = patch.truth[np.asarray(patch.truth["snr_i"]) > MIN_SNR], exposure_of(patch)
    positions, snr = np.stack([np.asarray(truth[axis]) for axis in "yx"], axis=1), np.asarray(truth["snr_i"])
    plan = make_plan(exposure, jd.detect(exposure.observation()), positions, jd.DeblendConfig())
    rng = np.random.default_rng(seed)
    blends = [unit for unit in plan if unit.n_own > 1 and not unit.skip]
    chosen = [blends[k] for k in sorted(rng.permutation(len(blends))[:n_blends])]
    missed = [rng.choice(unit.own[snr[unit.own] < snr[unit.own].max()]) for unit in chosen]
    return np.delete(positions, missed, axis=0), positions[missed]


def timed_twice(
    make: Callable[[pathlib.Path], jd.StoredCatalog], folder: pathlib.Path, name: str
) -> tuple[float, float, jd.StoredCatalog]:
    """Seconds of the first and of the second time that a catalog is made, and the catalog."""
    seconds = []
    for turn in range(2):
        began = time.perf_counter()
        catalog = make(folder / f"{name}{turn}.h5")
        seconds.append(time.perf_counter() - began)
    return *seconds, catalog


def touched_units(
    exposure: jd.Exposure, known: np.ndarray, missed: np.ndarray, config: jd.DeblendConfig
) -> tuple[list[WorkUnit], list[WorkUnit]]:
    """The blends that missed sources join: without them, and with them."""
    detection = jd.detect(exposure.observation())
    plan = make_plan(exposure, detection, known, config)
    more = extend_plan(exposure, detection, plan, np.concatenate([known, missed]), config)
    joined = [unit.id for unit in plan if more[unit.id] is not unit]
    return [plan[number] for number in joined], [more[number] for number in joined]


def fit_units(
    exposure: jd.Exposure, positions: np.ndarray, units: list[WorkUnit], config: jd.DeblendConfig
) -> tuple[float, dict[int, jd.StoredBlend]]:
    """Seconds in which some blends are fitted from scratch, and what comes of them by their numbers."""
    cutter = Cutter(exposure, positions, np.full(len(positions), ERROR))
    runner = Runner(cutter.cut, config.initialization(), config.optimizer(), catch=False)
    began = time.perf_counter()
    found = {record.id: record for record in runner.records(units)}
    return time.perf_counter() - began, found


def spread(values: list[float]) -> list[float]:
    """Median, 5 and 95 % points, largest."""
    return [round(float(value), 4) for value in (*np.quantile(values, [0.5, 0.05, 0.95]), np.max(values))]


def compare(
    restarted: dict[int, jd.StoredBlend], scratch: dict[int, jd.StoredBlend], before: dict[int, jd.StoredBlend]
) -> dict[str, object]:
    """How good the fits of the touched blends are, and how many steps they took."""
    chi2 = [restarted[number].chi2 / scratch[number].chi2 for number in scratch]
    fits = {
        name: [fit for number in scratch if (fit := found[number].fit) is not None]
        for name, found in (("first", before), ("restart", restarted), ("scratch", scratch))
    }
    lowest = {name: np.array([np.nanmin(fit.loss) for fit in found]) for name, found in fits.items()}
    most = {
        f"at_most_steps_{name}": sum(fit.result == jd.RESULTS.MAX_STEPS for fit in found)
        for name, found in fits.items()
    }
    steps = {f"steps_{name}": sum(int(fit.n_steps) for fit in found) for name, found in fits.items()}
    return {
        "n_touched": len(scratch),
        "sources_per_touched": round(float(np.mean([len(scratch[number].rows) for number in scratch])), 1),
        "chi2_ratio": spread(chi2),
        "within_1_percent": round(float(np.mean(np.array(chi2) <= 1.01)), 3),
        "chi2_before": spread([before[number].chi2 / scratch[number].chi2 for number in scratch]),
        "loss_ratio": spread(list(lowest["restart"] / lowest["scratch"])),
        **steps,
        **most,
    }


def measure(
    shape: tuple[int, int],
    n_sources: int,
    n_blends: int,
    *,
    seed: int,
    config: jd.DeblendConfig,
    folder: pathlib.Path,
    bands: tuple[str, ...] = ("g", "r", "i"),
) -> dict[str, object]:
    """Simulate a patch, miss sources, add them, and compare with runs from scratch."""
    patch = simulate_patch(seed, shape=shape, n_sources=n_sources, bands=bands, defects=False)
    exposure, (known, missed) = exposure_of(patch), draw_missed(patch, n_blends, seed)
    both = np.concatenate([known, missed])
    first = timed_twice(lambda path: jd.deblend_catalog(exposure, known, config=config, store=path), folder, "first")
    restart = timed_twice(
        lambda path: jd.restart_catalog(first[2].path, exposure, missed, output=path, positions=known),
        folder,
        "restart",
    )
    scratch = timed_twice(lambda path: jd.deblend_catalog(exposure, both, config=config, store=path), folder, "scratch")
    without, joined = touched_units(exposure, known, missed, config)
    for _ in range(2):
        first_s, before = fit_units(exposure, known, without, config)
        scratch_s, ends = fit_units(exposure, both, joined, config)
    with jd.ModelStore(restart[2].path) as store:
        restarted = {number: store.record(number) for number in ends}
        n_blends = sum(record.fit is not None for record in store.records())
    runs = {"first": first, "restart": restart, "scratch": scratch}
    touched = {"first": first_s, "restart": restart[2].seconds["fit"], "scratch": scratch_s}
    return {
        "n_sources": len(known),
        "n_added": len(missed),
        "n_blends": n_blends,
        **{f"{name}_s": round(run[1], 2) for name, run in runs.items()},
        **{f"{name}_with_compiling_s": round(run[0], 2) for name, run in runs.items()},
        "fraction": round(restart[1] / first[1], 3),
        **{f"{name}_touched_s": round(seconds, 2) for name, seconds in touched.items()},
        "fraction_touched": round(touched["restart"] / touched["first"], 3),
        **compare(restarted, ends, before),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small patch, of seconds once programs are compiled")
    parser.add_argument("--blends", type=int, help="most blends in which a source is missed")
    parser.add_argument("--measure", action="store_true", help="fits that end at 1e-4, as for measurements")
    parser.add_argument("--seed", type=int, default=1, help="seed of the patch and of what is missed")
    arguments = parser.parse_args(argv)
    edge, n_sources, n_blends = SIZES[arguments.small]
    config = jd.DeblendConfig.measure() if arguments.measure else jd.DeblendConfig()
    with tempfile.TemporaryDirectory() as folder:
        line = measure(
            (edge, edge),
            n_sources,
            arguments.blends or n_blends,
            seed=arguments.seed,
            config=config,
            folder=pathlib.Path(folder),
        )
    print(json.dumps({"measure": arguments.measure, "seed": arguments.seed} | line), flush=True)


if __name__ == "__main__":
    main()
