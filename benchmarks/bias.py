"""Fluxes of a star or a galaxy that is alone, or has a faint neighbour, at every S/N; one line for each PSF.

    python -m benchmarks.bias
    python -m benchmarks.bias --neighbor
    python -m benchmarks.bias --kind galaxy --psf moffat --fwhm 3.5 --realisations 8

Scenes are drawn by GalSim, integrated over the pixels, at nine sub-pixel positions, with white noise or that of the
light itself. For each S/N there is the mean error of the flux in per cent and in its σ (the neighbour's, if there is
one), and the median number of steps; ``!`` if not all fits converged, ``*`` for a bias of more than .3 % and .3 σ (1 σ
of a neighbour) by twice its own error. The last line is JSON: how many are marked, and the worst.

With ``--neighbor``, a star of S/N 30 lies 1.5 FWHM away, and the positions of both are known.
"""

import argparse
import itertools
import json
from typing import NamedTuple

import galsim
import numpy as np
from numpy.typing import NDArray

import jaxdeblend as jd

EDGE = 55
PSF_EDGE = 61
COLOR = np.array([1.0, 1.3])
BANDS = ("g", "r")
SIZE = 0.6
"""Half-light radius of galaxies in units of the PSF's FWHM."""

OFFSETS = tuple(itertools.product((0.0, 0.25, 0.5), repeat=2))
NEIGHBOR = 1.5, 30.0
"""Distance of the neighbour in FWHM, and its S/N."""

Array = NDArray[np.float64]


class Instrument(NamedTuple):
    """A PSF and the kind of noise."""

    psf: galsim.GSObject
    stamp: Array
    fwhm: float
    poisson: bool

    @classmethod
    def of(cls, name: str, fwhm: float, *, poisson: bool) -> "Instrument":
        """The PSF of that name; its flux is that within its stamp."""
        kinds = {"gaussian": galsim.Gaussian(fwhm=fwhm), "moffat": galsim.Moffat(beta=3.5, fwhm=fwhm)}
        psf = kinds[name]
        stamp = drawn(psf, (PSF_EDGE, PSF_EDGE), (PSF_EDGE // 2, PSF_EDGE // 2))
        return cls(psf / stamp.sum(), stamp / stamp.sum(), fwhm, poisson)

    def variance(self, image: Array) -> Array:
        """Variance of the noise of an image, with that of the sky as the unit."""
        return 1 + np.maximum(image, 0) if self.poisson else np.ones_like(image)

    def flux_of(self, snr: float, shape: Array) -> float:
        """Flux of this S/N in all bands together, of a source that looks like this."""

        def snr_of(flux: float) -> float:
            models = flux * COLOR[:, None, None] * shape
            return float(np.sqrt(np.sum(models**2 / self.variance(models))))

        low, high = 0.0, 1e12
        for _ in range(200):
            middle = np.sqrt(low * high) if low > 1e-3 else (low + high) / 2
            low, high = (middle, high) if snr_of(middle) < snr else (low, middle)
        return high


def drawn(profile: galsim.GSObject, shape: tuple[int, int], center: tuple[float, float]) -> Array:
    """Image of a profile, integrated over the pixels."""
    offset = galsim.PositionD(center[1] - (shape[1] - 1) / 2, center[0] - (shape[0] - 1) / 2)
    options = galsim.GSParams(folding_threshold=1e-5, kvalue_accuracy=1e-7, maxk_threshold=1e-5)
    image = profile.withGSParams(options).drawImage(nx=shape[1], ny=shape[0], scale=1.0, offset=offset, dtype=float)
    return image.array


def scenes(
    instrument: Instrument, kind: str, snr: float, *, neighbor: bool, realisations: int
) -> tuple[list[tuple[jd.Observation, Array]], list[Array]]:
    """Observations with their positions, and the true fluxes (source, band)."""
    profile = instrument.psf
    if kind == "galaxy":
        profile = galsim.Convolve(galsim.Gaussian(half_light_radius=SIZE * instrument.fwhm), instrument.psf)
    blends, truth = [], []
    for number, (offset, realisation) in enumerate(itertools.product(OFFSETS, range(realisations))):
        center = EDGE // 2 + offset[0], EDGE // 2 + offset[1]
        shape = drawn(profile, (EDGE, EDGE), center)
        positions, fluxes, shapes = [center], [instrument.flux_of(snr, shape)], [shape]
        if neighbor:
            angle = 2 * np.pi * (number + 0.5 * realisation) / len(OFFSETS)
            distance = NEIGHBOR[0] * instrument.fwhm
            beside = center[0] + distance * np.sin(angle), center[1] + distance * np.cos(angle)
            star = drawn(instrument.psf, (EDGE, EDGE), beside)
            positions.append(beside)
            fluxes.append(instrument.flux_of(NEIGHBOR[1], star))
            shapes.append(star)
        spectra = np.asarray(fluxes)[:, None] * COLOR
        images = np.einsum("sb,syx->byx", spectra, np.stack(shapes))
        variance = instrument.variance(images)
        noise = np.random.default_rng(number).normal(size=images.shape) * np.sqrt(variance)
        obs = jd.Observation(images + noise, variance, np.stack([instrument.stamp] * 2), bands=BANDS)
        blends.append((obs, np.asarray(positions)))
        truth.append(spectra)
    return blends, truth


class Outcome(NamedTuple):
    """Biases of one source over all scenes of one kind."""

    percent: float
    sigma: float
    uncertainty: float
    flagged: float
    converged: bool
    steps: float

    def exceeds(self, limit: float) -> bool:
        """Whether the bias is above .3 % and the limit (σ), by twice its own error."""
        return abs(self.percent) > 0.3 and abs(self.sigma) > limit + 2 * self.uncertainty

    def __str__(self) -> str:
        ending = "" if self.converged else "!"
        return f"{self.percent:+7.2f}% {self.sigma:+6.2f}s {self.steps:4.0f}{ending or ' '}"


def outcome(blends: list[tuple[jd.Observation, Array]], truth: list[Array]) -> Outcome:
    """Biases of the last source of every scene."""
    results = jd.deblend_batch(blends, center_error=0.0 if len(truth[0]) > 1 else 0.1)
    tables = [result.measurements for result in results]
    flux, error = (np.stack([np.asarray(getattr(t, name)[-1]) for t in tables]) for name in ("flux", "flux_err"))
    true = np.stack(truth)[:, -1]
    pulls = (flux - true) / error
    return Outcome(
        percent=100 * float(np.mean(flux / true - 1)),
        sigma=float(np.mean(pulls)),
        uncertainty=float(np.std(pulls.mean(axis=1)) / np.sqrt(len(pulls))),
        flagged=float(np.mean([bool(np.asarray(t.flags)[-1]) for t in tables])),
        converged=all(bool(result.converged) for result in results),
        steps=float(np.median([int(result.n_steps) for result in results])),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="*", default=["star", "galaxy"], choices=["star", "galaxy"])
    parser.add_argument("--psf", nargs="*", default=["gaussian", "moffat"], choices=["gaussian", "moffat"])
    parser.add_argument("--noise", nargs="*", default=["white", "poisson"], choices=["white", "poisson"])
    parser.add_argument("--fwhm", nargs="*", type=float, default=[1.6, 2.5, 3.5, 5.0], help="in pixels")
    parser.add_argument("--snr", nargs="*", type=float, default=[10, 30, 100, 1e3, 1e4, 1e5])
    parser.add_argument("--realisations", type=int, default=2, help="of the noise, at each of nine positions")
    parser.add_argument("--neighbor", action="store_true", help="a faint star beside it, whose flux is judged")
    options = parser.parse_args(arguments)
    print(" " * 30 + "".join(f"{f'S/N {snr:g}':^22}" for snr in options.snr))
    limit = 1.0 if options.neighbor else 0.3
    found: dict[str, Outcome] = {}
    for kind, psf, noise, fwhm in itertools.product(options.kind, options.psf, options.noise, options.fwhm):
        name = f"{kind} {psf} {noise} {fwhm:g}"
        instrument = Instrument.of(psf, fwhm, poisson=noise == "poisson")
        line = f"{name:30}"
        for snr in options.snr:
            cases = scenes(instrument, kind, snr, neighbor=options.neighbor, realisations=options.realisations)
            result = found[f"{name} {snr:g}"] = outcome(*cases)
            line += f"{result} {'*' if result.exceeds(limit) else ' '}"
        print(line, flush=True)
    marked = [name for name, result in found.items() if result.exceeds(limit)]
    unflagged = [name for name in marked if found[name].flagged < 1]
    worst = max(found, key=lambda name: min(abs(found[name].percent) / 0.3, abs(found[name].sigma) / limit))
    report = {
        "cases": len(found),
        "biased": len(marked),
        "biased_and_not_flagged": len(unflagged),
        "not_converged": sum(not result.converged for result in found.values()),
        "worst": [worst, round(found[worst].percent, 3), round(found[worst].sigma, 2)],
        "median_steps": float(np.median([result.steps for result in found.values()])),
        "version": jd.__version__,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
