"""Fluxes of a star and a galaxy of S/N 100 under light that is not theirs: sky, a star outside, cosmic rays.

    python -m benchmarks.contamination
    python -m benchmarks.contamination --realisations 100 --only hit

Every image is deblended twice: as it is and with the contamination, the noise being the same. For both sources a line
has the mean change of their fluxes in σ, its largest, and the share of images in which they have a flag that they had
not before. Cosmic rays hit one band or two, within 3 pixels of the star, with the given number of σ; for them only
fluxes of the bands that are not hit count. The first line has the share of clean images with a flag. The last line is
JSON, with the median of the star's changes, without sign, before the mean, the largest and the shares of both.
"""

import argparse
import json
from collections.abc import Iterator
from typing import NamedTuple

import galsim
import numpy as np
from numpy.typing import NDArray

import jaxdeblend as jd

from .bias import SIZE, Instrument, drawn

EDGE = 60
CENTERS = np.array([[21.3, 20.8], [39.6, 40.2]])
BANDS = ("g", "r", "i")
FWHM = 3.5
SNR = 100.0
OUTSIDE = (30.0, -3.0), 3000.0
"""Position and flux of a star beyond the border."""

HITS = (5.0, 10.0, 20.0, 50.0, 100.0, 1e3, 1e4, 1e5)
HIT_RADIUS = 3.0

Array = NDArray[np.float64]


class Contamination(NamedTuple):
    """Light that is added to an image of unit noise."""

    name: str
    sky: float = 0.0
    slope: float = 0.0
    outside: bool = False
    hit: float = 0.0
    n_hit: int = 0

    def light(self, instrument: Instrument, rng: np.random.Generator) -> Array:
        """Light that is added to each band."""
        y, _ = np.indices((EDGE, EDGE))
        plane = self.sky + self.slope * (y / (EDGE - 1) - 0.5)
        light = np.stack([plane] * len(BANDS))
        if self.outside:
            light += OUTSIDE[1] * drawn(instrument.psf, (EDGE, EDGE), OUTSIDE[0])
        for band in range(self.n_hit):
            angle, radius = 2 * np.pi * rng.random(), HIT_RADIUS * np.sqrt(rng.random())
            y_hit, x_hit = np.round(CENTERS[0] + radius * np.array([np.sin(angle), np.cos(angle)])).astype(int)
            light[band, y_hit, x_hit] += self.hit
        return light


def contaminations() -> Iterator[Contamination]:
    """All kinds."""
    yield Contamination("clean")
    for level in (-0.5, -0.1, 0.1, 0.5):
        yield Contamination(f"sky {level:+g}", sky=level)
    yield Contamination("slope .5", slope=0.5)
    yield Contamination("star outside", outside=True)
    for n_hit in (1, 2):
        for hit in HITS:
            yield Contamination(f"hit {hit:g}, {n_hit} of {len(BANDS)} bands", hit=hit, n_hit=n_hit)


def observations(instrument: Instrument, kind: Contamination, realisations: int) -> list[jd.Observation]:
    """The scene in different noise, contaminated."""
    galaxy = galsim.Convolve(galsim.Gaussian(half_light_radius=SIZE * FWHM), instrument.psf)
    shapes = [drawn(profile, (EDGE, EDGE), at) for profile, at in zip((instrument.psf, galaxy), CENTERS, strict=True)]
    scene = sum(SNR * shape / np.sqrt((shape**2).sum()) for shape in shapes)
    found = []
    for number in range(realisations):
        noise = np.random.default_rng(number).normal(size=(len(BANDS), EDGE, EDGE))
        images = scene + noise + kind.light(instrument, np.random.default_rng(1000 + number))
        found.append(jd.Observation(images, np.ones(len(BANDS)), instrument.stamp, bands=BANDS))
    return found


def tables(blends: list[jd.Observation]) -> tuple[Array, Array, NDArray[np.int64]]:
    """Fluxes and errors (blend, source, band), and flags (blend, source)."""
    results = [result.measurements for result in jd.deblend_batch([(obs, CENTERS) for obs in blends])]
    flux, error, flags = (
        np.stack([np.asarray(getattr(r, name)) for r in results]) for name in ("flux", "flux_err", "flags")
    )
    return flux, error, flags


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realisations", type=int, default=30)
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    options = parser.parse_args(arguments)
    instrument = Instrument.of("gaussian", FWHM, poisson=False)
    clean = tables(observations(instrument, Contamination("clean"), options.realisations))
    alarms = float(np.mean((clean[2] != 0).any(axis=1)))
    print(f"{'flagged without contamination':34} {100 * alarms:5.1f} %")
    print(f"{'changes in σ: mean, largest, flagged':34} {'star':^24} {'galaxy':^24}")
    report: dict[str, object] = {"false_alarms": alarms}
    for kind in contaminations():
        if options.only not in kind.name or kind.name == "clean":
            continue
        flux, error, flags = tables(observations(instrument, kind, options.realisations))
        change = ((flux - clean[0]) / error)[..., kind.n_hit :]
        flagged = (flags & ~clean[2]) != 0
        mean, largest = change.mean(axis=(0, 2)), np.abs(change).max(axis=(0, 2))
        share = flagged.mean(axis=0)
        cells = [f"{mean[n]:+7.2f} {largest[n]:8.2f} {100 * share[n]:4.0f} %" for n in range(2)]
        print(f"{kind.name:34}  {cells[0]:24} {cells[1]:24}", flush=True)
        middle = float(np.median(np.abs(change[:, 0])))
        report[kind.name] = [round(middle, 3), *(round(float(v), 3) for v in (*mean, *largest, *share))]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
