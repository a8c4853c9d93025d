"""How complete and how pure detections are, by every way of detecting; a JSON line for each way and scene.

    python -m benchmarks.detection
    python -m benchmarks.detection --small --method chi2 --method starlet

``neighbours`` is a grid of bright galaxies, each with one faint star or one faint, smooth disk (half-light radius of
6 pixels) at a known distance, and the same faint ones alone. Their S/N is that of a perfect filter, in all bands, with
the photon noise of the galaxy. ``patch`` is a piece of a survey; there S/N is that of the source alone on the sky.
Three bands, PSFs and noise are as of LSST.

A source is found if a peak is near it, within its half-light radius or 3 pixels, 6 at most; one peak for one source.
Completeness of the faint sources beside galaxies is by kind and S/N, and by kind and distance in pixels; that of the
patch by S/N, and for S/N from 6 to 30 by the distance to the nearest source of higher S/N. ``purity`` is the share of
peaks that are sources, ``splits`` the number of peaks too many within 20 pixels of a bright galaxy, per galaxy.
``chi2-faint`` and ``starlet-faint`` are those methods with ``contrast=0``.
"""

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

import jaxdeblend as jd
from jaxdeblend.simulate import simulate_patch
from jaxdeblend.simulate.population import Component, TrueSource, draw_smooth_galaxy
from jaxdeblend.simulate.profiles import Blobs, Profile, point
from jaxdeblend.simulate.render import draw
from jaxdeblend.simulate.scene import expose
from jaxdeblend.simulate.survey import Survey, make_survey

BANDS = ("g", "r", "i")
CELL = 96
"""Edge in pixels of the cell of one bright galaxy."""
RADIUS = {"star": 0.0, "disk": 6.0}
"""Half-light radius of the faint sources in pixels."""
DISTANCES = (8, 12, 18, 28)
"""Of the faint sources to their galaxies, in pixels."""
RATIOS = (5.0, 7.0, 10.0, 15.0, 25.0)
"""S/N of the faint sources."""
DENSITY = 2.5e-3
"""Sources per pixel of the patch."""
MATCH = (3.0, 6.0)
"""Largest distance in pixels between a peak and its source: the half-light radius, but not less nor more than these."""
NEAR = 20.0
"""Radius in pixels around a bright galaxy in which peaks too many are its pieces."""


@dataclasses.dataclass(frozen=True)
class Sky:
    """An observation, and the sources that are in it."""

    obs: jd.Observation
    centers: np.ndarray
    snr: np.ndarray
    kind: np.ndarray
    radius: np.ndarray
    distance: np.ndarray


def neighbours(seed: int, repeats: int, distances: tuple[int, ...] = DISTANCES) -> Sky:
    """Faint sources at known distances from bright galaxies, and alone, each in a cell of its own.

    Parameters
    ----------
    seed
        Seed of galaxies, positions and noise.
    repeats
        How often there is each combination of kind, S/N and distance.
    distances
        In pixels.

    Returns
    -------
    Sky
        Whose `distance` is infinite for those alone, and 0 for the bright galaxies.
    """
    rng, survey = np.random.default_rng(seed), make_survey(BANDS)
    kinds = {"star": point(), "disk": Profile(RADIUS["disk"], 1.0)}
    where = (*distances, np.inf)
    wanted = [(kind, ratio, far) for kind in kinds for ratio in RATIOS for far in where for _ in range(repeats)]
    per_row = len(where) * repeats
    frame = np.zeros((len(BANDS), CELL * (len(wanted) // per_row), CELL * per_row), np.float32)
    rows = []
    for number, (kind, ratio, far) in enumerate(wanted):
        corner = CELL * np.array(divmod(number, per_row))
        middle = (CELL - 1) / 2 + rng.uniform(-0.5, 0.5, 2)
        angle = rng.uniform(0, 2 * np.pi)
        cell, place = np.zeros((len(BANDS), CELL, CELL), np.float32), middle
        if np.isfinite(far):
            place = middle + far * np.array([np.sin(angle), np.cos(angle)])
            galaxy = draw_smooth_galaxy(rng, survey, rng.uniform(19.0, 21.0))
            cell = draw(galaxy, middle, (CELL, CELL), survey)
            rows.append((*(corner + middle), np.inf, "galaxy", galaxy.radius, 0.0))
        rows.append((*(corner + place), ratio, kind, RADIUS[kind], far))
        cell = cell + _faint(kinds[kind], ratio, place, survey, cell)
        frame[:, corner[0] : corner[0] + CELL, corner[1] : corner[1] + CELL] = cell
    images, variance = expose(rng, frame, survey)
    obs = jd.Observation(images, variance, jd.ImagePSF(survey.psf.astype(np.float32)), bands=BANDS)
    y, x, *columns = (np.array(column) for column in zip(*rows, strict=True))
    return Sky(obs, np.stack([y, x], axis=-1), *columns)


def _faint(shape: Blobs | Profile, ratio: float, place: np.ndarray, survey: Survey, below: np.ndarray) -> np.ndarray:
    """Image of a source that has an S/N on what is below it, as bright in all bands in units of the sky's noise."""
    flux = np.sqrt(survey.sky_variance)
    light = draw(TrueSource("faint", flux, 0.0, (Component(shape, flux),)), place, (CELL, CELL), survey)
    # Photons of so faint a source add next to nothing to the noise.
    noise = survey.sky_variance[:, None, None] + below
    return light * np.float32(ratio / np.sqrt(np.sum(light**2 / noise)))


def patch(seed: int, edge: int) -> Sky:
    """A piece of a survey, without defects and with one PSF.

    Parameters
    ----------
    seed
        Seed.
    edge
        Edge in pixels.

    Returns
    -------
    Sky
        Whose `distance` is that to the nearest brighter source.
    """
    survey = make_survey(BANDS)
    psf = jd.ImagePSF(survey.psf.astype(np.float32))
    options = {"shape": (edge, edge), "bands": BANDS, "n_sources": round(DENSITY * edge**2), "magnitudes": (18.0, 27.0)}
    found = simulate_patch(seed, psf=jd.ConstantPSFField(psf), defects=False, **options)
    obs = jd.Observation(found.images, found.variance, psf, bands=BANDS)
    centers = np.stack([found.truth["y"], found.truth["x"]], axis=-1)
    snr = np.sqrt(sum(np.asarray(found.truth[f"snr_{band}"]) ** 2 for band in BANDS))
    kind, radius = (np.asarray(found.truth[name]) for name in ("kind", "radius"))
    return Sky(obs, centers, snr, kind, radius, brighter_neighbour(centers, snr))


def brighter_neighbour(centers: np.ndarray, snr: np.ndarray) -> np.ndarray:
    """Distance from each source to the nearest of higher S/N, infinite for the brightest.

    Examples
    --------
    >>> brighter_neighbour(np.array([[0.0, 0], [0, 3], [4, 3]]), np.array([9.0, 8, 7])).tolist()
    [inf, 3.0, 4.0]
    """
    order = np.argsort(-snr)
    nearest = np.full(len(snr), np.inf)
    for rank in range(1, len(order)):
        gap = centers[order[:rank]] - centers[order[rank]]
        nearest[order[rank]] = np.hypot(*gap.T).min()
    return nearest


def methods() -> dict[str, Callable[[jd.Observation], np.ndarray]]:
    """Ways of detecting, each from an observation to positions (y, x); that of photutils where it is installed."""

    def by(**options: Any) -> Callable[[jd.Observation], np.ndarray]:
        return lambda obs: jd.detect(obs, **options).centers

    ways = {method: by(method=method) for method in ("chi2", "merge", "starlet")}
    ways |= {f"{method}-faint": by(method=method, contrast=0.0) for method in ("chi2", "starlet")}
    try:
        from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources
    except ImportError:
        return ways

    def segments(obs: jd.Observation) -> np.ndarray:
        """S/N of the sum of the bands, each weighted by its noise, smoothed with a PSF; segments of it, deblended."""
        from scipy.signal import oaconvolve

        weights, psf = np.asarray(obs.weights, float), np.asarray(obs.psf.stamp(31), float).mean(axis=0)
        total = np.sum(np.asarray(obs.images) * np.sqrt(weights), axis=0) / np.sqrt(len(weights))
        smooth = oaconvolve(total, psf, mode="same") / np.sqrt(np.sum(psf**2))
        found = detect_sources(smooth, 3.0, n_pixels=5)
        if found is None:
            return np.zeros((0, 2))
        catalog = SourceCatalog(smooth, deblend_sources(smooth, found, n_pixels=5))
        centers = np.stack([catalog.y_centroid, catalog.x_centroid], axis=-1)
        return centers[np.asarray(catalog.max_value) >= 5.0]

    return ways | {"photutils": segments}


def matched(sky: Sky, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which sources were found, and which peaks are sources: as many pairs as there can be, the nearest of these."""
    gap = np.hypot(*np.moveaxis(sky.centers[:, None] - found[None], -1, 0))
    allowed = np.clip(sky.radius, *MATCH)[:, None]
    rows, columns = linear_sum_assignment(np.where(gap < allowed, gap, 1e3))
    good = (gap < allowed)[rows, columns]
    hit, real = np.zeros(len(sky.centers), bool), np.zeros(len(found), bool)
    hit[rows[good]], real[columns[good]] = True, True
    return hit, real


def scored_neighbours(sky: Sky, found: np.ndarray) -> dict:
    """Figures of one way on the grid of bright galaxies."""
    hit, real = matched(sky, found)
    lines = {}
    for kind in ("star", "disk"):
        mine = sky.kind == kind
        beside, alone = mine & np.isfinite(sky.distance), mine & np.isinf(sky.distance)
        lines[f"{kind}_by_snr"] = {f"{ratio:g}": _share(hit[beside & (sky.snr == ratio)]) for ratio in RATIOS}
        lines[f"{kind}_alone"] = {f"{ratio:g}": _share(hit[alone & (sky.snr == ratio)]) for ratio in RATIOS}
        far = sorted(set(sky.distance[beside]))
        lines[f"{kind}_by_distance"] = {f"{at:g}": _share(hit[mine & (sky.distance == at)]) for at in far}
    galaxies = sky.centers[sky.kind == "galaxy"]
    wrong = found[~real]
    pieces = np.hypot(*np.moveaxis(wrong[:, None] - galaxies[None], -1, 0)).min(axis=1, initial=np.inf) < NEAR
    galaxy = {"galaxies": _share(hit[sky.kind == "galaxy"]), "splits": round(float(pieces.sum() / len(galaxies)), 3)}
    return {"peaks": len(found), "purity": _share(real, 4), **galaxy, **lines}


def scored_patch(sky: Sky, found: np.ndarray) -> dict:
    """Figures of one way on a piece of a survey."""
    hit, real = matched(sky, found)
    faint = (sky.snr >= 6) & (sky.snr < 30)
    snr = {name: _share(hit[rows]) for name, rows in _bins(sky.snr, (3, 5, 7, 10, 15, 30, 100, np.inf))}
    far = {name: _share(hit[rows & faint]) for name, rows in _bins(sky.distance, (0, 5, 10, 20, np.inf))}
    return {"peaks": len(found), "purity": _share(real, 4), "by_snr": snr, "by_distance": far}


def _bins(values: np.ndarray, edges: tuple[float, ...]) -> Iterator[tuple[str, np.ndarray]]:
    for low, high in itertools.pairwise(edges):
        yield f"{low:g}-{high:g}", (values >= low) & (values < high)


def _share(which: np.ndarray, digits: int = 3) -> float | None:
    return round(float(np.mean(which)), digits) if which.size else None


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    ways = methods()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", choices=sorted(ways), help="only these ways of detecting")
    parser.add_argument("--seed", type=int, default=1, help="seed of the scenes")
    parser.add_argument("--small", action="store_true", help="few sources, to see that it works")
    arguments = parser.parse_args(argv)
    grid = neighbours(arguments.seed, 1, (12,)) if arguments.small else neighbours(arguments.seed, 6)
    scenes = {"neighbours": (grid, scored_neighbours)}
    scenes["patch"] = (patch(arguments.seed, 160 if arguments.small else 1000), scored_patch)
    for scene, (sky, score) in scenes.items():
        for method in arguments.method or ways:
            began = time.perf_counter()
            found = ways[method](sky.obs)
            seconds = round(time.perf_counter() - began, 2)
            line = {"scene": scene, "method": method, **score(sky, found), "seconds": seconds}
            print(json.dumps(line | {"version": jd.__version__}))


if __name__ == "__main__":
    main()
