"""The single-band deblender beside its integer-centred form, on simulated blends; the last line is JSON.

    python -m benchmarks.single_band
    python -m benchmarks.single_band --runs 10

Two or three round exponential galaxies (scale length 2 pixels) under a Moffat PSF (FWHM 4 pixels), 1 to 2 times the
observed FWHM of 6.3 pixels apart in any direction, at any place within a pixel; S/N 200 of the brightest, positions
known. The footprint is what lies above 5 σ in the image smoothed with the PSF; a flux is the sum of a child, the truth
all of a galaxy's light. As PSFs are no galaxies, none is fitted for F3, F5 and F6.

===  =====================================================================================
F1   the wedge projection against a loop over pixels: largest difference
F2   Σ children + unassigned light against the image: largest difference / maximum
F3   scatter (rms about the median) and median of ΔF/F: two equal, and one four times as
     bright as the other
F4   one step from 0.3 pixels off to where the PSF is: error in pixels
F5   three in a row, the middle one at 0.3 of the flux: share with `SYMMETRY_AMBIGUOUS`
F6   F3 with templates mirrored about the nearest pixel, and shadows (as LSST)
F7   milliseconds for 32 peaks in an image of 61 × 61 pixels, all stages, once compiled
===  =====================================================================================
"""

import argparse
import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import jaxdeblend as jd
from jaxdeblend.ops.wedge import wedge_shadow
from jaxdeblend.single_band import SingleBandConfig, SingleBandFlag, SingleBandResult, deblend_single_band_batch
from jaxdeblend.single_band.deblend import run
from jaxdeblend.single_band.pack import Item, pack
from jaxdeblend.single_band.psf_template import Surroundings, fit_psf, rendered

FWHM = 6.3
"""Observed FWHM of a galaxy in pixels, the unit of separations."""

EDGE = 61
"""Edge of the images."""

DETECTED = 5.0
"""σ of the smoothed image above which a pixel belongs to the footprint."""

SCALE_LENGTH = 2.0
"""Scale length of the galaxies in pixels."""

PSF = jd.MoffatPSF(4.0)
"""The PSF of all images."""

CONFIGS = {
    "default": SingleBandConfig(fit_psf=False),
    "integer": SingleBandConfig(fit_psf=False, symmetry="integer", monotonic="wedge"),
}
"""What is compared: the default, and mirrors at the nearest pixel with shadows, as LSST has them."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Galaxies in a row: their fluxes, and the distance between neighbours in units of `FWHM`."""

    name: str
    fluxes: tuple[float, ...]
    separation: float
    signal_to_noise: float = 200.0


CASES = [
    *[Case(f"equal {d}", (1.0, 1.0), d) for d in (1.0, 1.5, 2.0)],
    *[Case(f"faint {d}", (1.0, 0.25), d) for d in (1.0, 1.5, 2.0)],
    Case("equal 1.5, S/N 50", (1.0, 1.0), 1.5, 50.0),
]
ROWS = [Case(f"row {d}", (1.0, 0.3, 1.0), d) for d in (1.0, 1.5, 2.0)]


@dataclasses.dataclass(frozen=True)
class Scene:
    """One simulated blend: image, variance, positions, true images of the sources, footprint."""

    image: np.ndarray
    variance: float
    centers: np.ndarray
    truth: np.ndarray
    footprint: np.ndarray

    @property
    def blend(self) -> tuple:
        """What the deblender is called with."""
        return self.image, self.variance, PSF, self.centers


def galaxy(center: np.ndarray, edge: int = EDGE) -> np.ndarray:
    """A galaxy of unit flux as observed, 1 / (1 + (h k)²)^1.5 times the transform of the PSF, moved to its place."""
    n = 4 * edge + 1
    ky, kx = 2 * np.pi * np.fft.fftfreq(n)[:, None], 2 * np.pi * np.fft.rfftfreq(n)[None, :]
    transform = np.fft.rfft2(np.fft.ifftshift(np.asarray(PSF.stamp(n)[0], float)))
    transform = transform * (1 + SCALE_LENGTH**2 * (ky**2 + kx**2)) ** -1.5
    return np.fft.irfft2(transform * np.exp(-1j * (ky * center[0] + kx * center[1])), (n, n))[:edge, :edge]


def simulate(case: Case, rng: np.random.Generator) -> Scene:
    """Draw a blend."""
    place = np.arange(len(case.fluxes)) - (len(case.fluxes) - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.sin(angle), np.cos(angle)])
    centers = EDGE // 2 + rng.uniform(-0.5, 0.5, 2) + FWHM * case.separation * place[:, None] * direction
    truth = np.stack([flux * galaxy(center) for flux, center in zip(case.fluxes, centers, strict=True)])
    noise = np.sqrt((truth[0] ** 2).sum()) / case.signal_to_noise
    image = truth.sum(axis=0) + rng.normal(0, noise, truth.shape[1:])
    return Scene(image, noise**2, centers, truth, detected(image, noise, centers))


def detected(image: np.ndarray, noise: float, centers: np.ndarray) -> np.ndarray:
    """Pixels above `DETECTED` σ in the image smoothed with the PSF that are connected to a peak."""
    kernel = np.asarray(PSF.stamp(21)[0], float)
    smooth = ndimage.convolve(image, kernel, mode="constant")
    labels, _ = ndimage.label(smooth > DETECTED * noise * np.sqrt((kernel**2).sum()))
    y, x = np.floor(centers + 0.5).astype(int).T
    return np.isin(labels, labels[y, x][labels[y, x] > 0])


def deblend(scenes: list[Scene], config: SingleBandConfig) -> list[SingleBandResult]:
    footprints = [scene.footprint for scene in scenes]
    return deblend_single_band_batch([scene.blend for scene in scenes], footprints=footprints, config=config)


def flux_errors(scenes: list[Scene], results: list[SingleBandResult]) -> np.ndarray:
    """ΔF/F of every source (scene, source)."""
    pairs = zip(scenes, results, strict=True)
    return np.array([result.children.sum(axis=(1, 2)) / scene.truth.sum(axis=(1, 2)) - 1 for scene, result in pairs])


def scatter(errors: np.ndarray) -> float:
    """Scatter about the median."""
    return float(np.sqrt(np.mean((errors - np.median(errors)) ** 2)))


def conservation(scenes: list[Scene], results: list[SingleBandResult]) -> float:
    """Largest difference between the image and what it was divided into, in units of its maximum."""
    largest = 0.0
    for scene, result in zip(scenes, results, strict=True):
        image = np.where(result.footprint, scene.image.astype(result.children.dtype), 0).astype(float)
        total = result.children.sum(axis=0, dtype=float) + result.unassigned
        largest = max(largest, float(np.abs(total - image).max() / np.abs(image).max()))
    return largest


# -------------------------------------------------------------------------------------------------------- other figures


def shadows_by_loops(image: np.ndarray) -> np.ndarray:
    """The wedge projection, pixel by pixel."""
    result, radius = image.copy(), image.shape[0] // 2
    for first in range(1, radius + 1, 5):
        frozen = result.copy()
        for y, x in np.ndindex(image.shape):
            v, u = y - radius, x - radius
            if not first <= max(abs(v), abs(u)) < first + 5:
                continue
            vertical = abs(u) > abs(v) or v == -u
            along, out = (v, u) if vertical else (u, v)
            for k in range(1, 6):
                low, high = (
                    int(np.trunc(k * (along / out + d) + np.copysign(0.5, along / out + d))) for d in (-0.3, 0.3)
                )
                for step in range(low, high + 1):
                    a, o = along + int(np.sign(out)) * step + radius, out + int(np.sign(out)) * k + radius
                    here = (a, o) if vertical else (o, a)
                    if min(here) >= 0 and max(here) < len(image):
                        result[here] = min(result[here], frozen[y, x])
    return result


def wedge_difference(rng: np.random.Generator) -> float:
    """F1, on three images of noise."""
    images = [np.asarray(rng.normal(1, 1, (EDGE, EDGE)), np.float32) for _ in range(3)]
    return max(float(np.abs(np.asarray(jax.jit(wedge_shadow)(x)) - shadows_by_loops(x)).max()) for x in images)


def decentre_error() -> float:
    """F4, for steps along the axes and a diagonal."""
    psf, edge = np.asarray(PSF.stamp(PSF.edge)[0]), 13
    fit = jax.jit(lambda around: fit_psf(around, jnp.asarray(psf), PSF.fwhm()[0], (1.5, 1.5, 1.5)))
    errors = []
    for offset in ((0.3, 0.0), (-0.3, 0.0), (0.0, 0.3), (0.0, -0.3), (0.21, -0.21)):
        there = jnp.asarray(offset)
        stamp = 1000 * rendered(jnp.asarray(psf), there, edge)
        usable = jnp.ones((edge, edge), bool)
        none = jnp.zeros(2), jnp.zeros((1, 2)), jnp.zeros(1, bool)
        found = fit(Surroundings(stamp, jnp.ones_like(stamp), usable, *none))
        errors.append(float(np.abs(np.asarray(found.step) - offset).max()))
    return max(errors)


def milliseconds(rng: np.random.Generator, config: SingleBandConfig, *, turns: int = 20) -> float:
    """F7, the fastest of some turns."""
    centers = rng.uniform(8, EDGE - 9, (32, 2))
    image = sum(galaxy(center) for center in centers)
    item = Item.of(image + rng.normal(0, 1e-4, image.shape), 1e-8, PSF, centers, None, None, config)
    blends = pack([item], item.bucket)
    jax.block_until_ready(run(blends, config, item.bucket))
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        jax.block_until_ready(run(blends, config, item.bucket))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


# ---------------------------------------------------------------------------------------------------------------- lines


def flux_line(case: Case, scenes: list[Scene]) -> tuple[str, dict[str, list[float]], float]:
    """A line of the table, the scatter of each source for each configuration, and how well light is kept."""
    line, found, lost = f"{case.name:<20}", {}, 0.0
    for name, config in CONFIGS.items():
        results = deblend(scenes, config)
        errors = flux_errors(scenes, results)
        columns = errors.reshape(-1, 1) if len(set(case.fluxes)) == 1 else errors
        found[name] = [scatter(column) for column in columns.T]
        flagged = np.mean([(result.flags & SingleBandFlag.SYMMETRY_AMBIGUOUS) != 0 for result in results], axis=0)
        medians = "/".join(f"{100 * np.median(column):+.1f}" for column in columns.T)
        line += f" {medians:>22} {'/'.join(f'{100 * rms:.1f}' for rms in found[name]):>16} {flagged.max():>6.2f}"
        found[f"{name} flagged"] = flagged.tolist()
        lost = max(lost, conservation(scenes, results))
    return line, found, lost


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="realisations of each case")
    runs = parser.parse_args(arguments).runs
    print(f"{'case':<20}" + "".join(f" {f'{name}: median %':>22} {'rms %':>16} {'flag':>6}" for name in CONFIGS))
    found: dict[str, dict[str, list[float]]] = {}
    lost = 0.0
    for number, case in enumerate(CASES + ROWS):
        scenes = [simulate(case, np.random.default_rng([turn, number])) for turn in range(runs)]
        line, found[case.name], worst = flux_line(case, scenes)
        lost = max(lost, worst)
        print(line, flush=True)
    rng = np.random.default_rng(0)
    figures = {
        "f1_max_difference": wedge_difference(rng),
        "f2_conservation": lost,
        "f3_rms_1fwhm": found["equal 1.0"]["default"][0],
        "f3_rms_15fwhm": found["equal 1.5"]["default"][0],
        "f3_faint_rms_15fwhm": found["faint 1.5"]["default"][1],
        "f4_centroid_error_px": decentre_error(),
        "f5_flagged_fraction": min(found[case.name]["default flagged"][1] for case in ROWS),
        "f7_ms": milliseconds(rng, SingleBandConfig()),
    }
    print(json.dumps({key: float(f"{value:.4g}") for key, value in figures.items()}))


if __name__ == "__main__":
    main()
