"""scarlet2 as a peer of `benchmarks.peers`; run by it, in scarlet2's own environment.

    python -I benchmarks/peers_scarlet2.py in.npz out.npz

The set-up is that of the "Real-World Example" in scarlet2's documentation (of version 0.5): the model frame of
``Frame.from_observations``; for each source ``init.from_gaussian_moments``, or ``pixel_spectrum`` and
``compact_morphology`` where that fails; spectra positive, in steps of 0.05 of their norm, morphologies in the unit
interval, in steps of 0.001 of theirs; positions fixed; ``fit(max_iter=1000, e_rel=1e-4)``. Two things differ. A
spectrum is raised to at least a thousandth of its brightest band: one that starts negative in some band, as the
fallback's may, makes every source of the blend NaN. And the validation is off, and the progress bar counts the steps
instead of showing them, which saves time.

Every call of ``fit`` compiles its step anew, even for the same blend, so that no run is free of compilation. The first
run of a blend is timed as it is; from the second, the seconds in which JAX reports to trace, lower or compile are taken
off.
"""

import functools
import sys
import time
import warnings

import jax
import numpy as np
import scarlet2 as sc2
import tqdm.auto
from numpyro.distributions import constraints

FIT = {"max_iter": 1000, "e_rel": 1e-4, "progress_bar": False}
"""What the documentation gives to `Scene.fit`."""

compiling = []
"""Start and end of every time that JAX traced, lowered or compiled; such times may be nested."""

counted = []
"""Number of steps of each fit."""


class Counter(tqdm.auto.tqdm):
    """A progress bar that only counts."""

    def __iter__(self):
        counted.append(0)
        for item in self.iterable:
            counted[-1] += 1
            yield item


def note(event: str, seconds: float, **_: object) -> None:
    """Remember a time that JAX reports as it ends."""
    if event.startswith("/jax/core/compile/"):
        now = time.perf_counter()
        compiling.append((now - seconds, now))


def union(intervals: list[tuple[float, float]]) -> float:
    """Total length of intervals, overlaps counted once."""
    total, reached = 0.0, -np.inf
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def start(obs: sc2.Observation, center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Spectrum and morphology that a source starts from."""
    try:
        spectrum, morphology = sc2.init.from_gaussian_moments(obs, center)
    except ValueError:
        spectrum, morphology = sc2.init.pixel_spectrum(obs, center), sc2.init.compact_morphology()
    return jax.numpy.maximum(spectrum, 1e-3 * spectrum.max()), morphology


def deblend(images: np.ndarray, weights: np.ndarray, psfs: np.ndarray, centers: jax.Array, bands: list[str]):
    """Fluxes (source, band) of one blend."""
    obs = sc2.Observation(images, weights=weights, psf=psfs, channels=bands)
    with sc2.Scene(sc2.Frame.from_observations(obs)) as scene:
        for center in centers:
            sc2.Source(center, *start(obs, center))
    with sc2.Parameters(scene):
        for k, source in enumerate(scene.sources):
            sc2.Parameter(
                source.spectrum,
                name=f"spectrum:{k}",
                constraint=constraints.positive,
                stepsize=functools.partial(sc2.relative_step, factor=0.05),
            )
            sc2.Parameter(
                source.morphology,
                name=f"morph:{k}",
                constraint=constraints.unit_interval,
                stepsize=functools.partial(sc2.relative_step, factor=1e-3),
            )
    fitted = scene.fit(obs, **FIT)
    return np.stack([sc2.measure.flux(source) for source in fitted.sources])


def main(path: str, output: str) -> None:
    """Deblend every blend of a file twice, and write what `benchmarks.peers` reads."""
    sc2.set_validation(False)
    tqdm.auto.trange = lambda n, **options: Counter(range(n), **options)
    jax.monitoring.register_event_duration_secs_listener(note)
    result = {"version": np.array(f"scarlet2 {sc2.__version__}"), "device": np.array(jax.devices()[0].device_kind)}
    with np.load(path, allow_pickle=False) as file:
        bands = [str(band) for band in file["bands"]]
        for b in sorted(name.removesuffix("_images") for name in file.files if name.endswith("_images")):
            weights = 1 / file[f"{b}_variance"]
            blend = (file[f"{b}_images"], weights, file[f"{b}_psfs"], jax.numpy.asarray(file[f"{b}_centers"]), bands)
            times = []
            for _ in range(2):
                compiling.clear()
                began = time.perf_counter()
                flux = deblend(*blend)
                times.append(time.perf_counter() - began)
            result |= {
                f"{b}_first_s": np.array(times[0]),
                f"{b}_again_s": np.array(times[1] - union(compiling)),
                f"{b}_flux": flux,
                f"{b}_steps": np.array(counted[-1]),
            }
    np.savez(output, **result)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(*sys.argv[1:])
