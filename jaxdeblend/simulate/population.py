"""Draw stars and galaxies that resemble those of a deep survey.

Counts, sizes and colours follow what the CatSim galaxies of i < 25.3 show: 10^(0.3 i) counts, log-normal
sizes whose median falls with magnitude, correlated normal colours.
"""

import dataclasses
import functools
import math

import numpy as np

from .profiles import Blobs, Profile, point
from .structure import clumps, dust_lane, lopsidedness, modulated_flux, spiral_arms, tail
from .survey import BANDS, PIXEL_SCALE, WAVELENGTH, Survey

_COLOUR_MEDIAN = np.array([0.45, 0.58, 0.46, 0.27, 0.18])
_COLOUR_SCATTER = np.array([0.60, 0.55, 0.30, 0.20, 0.15])
_COLOUR_CORRELATION = 0.6


Part = tuple[Profile | Blobs, float, float]
"""A shape, its fraction of the i-band flux, and how much redder it is in g - i."""


@dataclasses.dataclass(frozen=True)
class Component:
    """One colour of a source: a shape of unit flux and its flux (band,)."""

    shape: Profile | Blobs
    flux: np.ndarray


@dataclasses.dataclass(frozen=True)
class TrueSource:
    """A source as it is on the sky.

    Attributes
    ----------
    kind
        "star", "smooth", "lopsided", "clumpy", "spiral" or "tidal".
    flux
        Total flux (band,).
    radius
        Half-light radius along the major axis in pixels, 0 for a star.
    components
        What it is made of.
    """

    kind: str
    flux: np.ndarray
    radius: float
    components: tuple[Component, ...]


def draw_magnitude(rng: np.random.Generator, limits: tuple[float, float], *, slope: float = 0.3) -> float:
    """Magnitude from counts N(m) ∝ 10^(slope m).

    Parameters
    ----------
    rng
        Source of randomness.
    limits
        Brightest and faintest magnitude.
    slope
        Slope of the counts.

    Returns
    -------
    float
        A magnitude.

    Examples
    --------
    >>> 19 < draw_magnitude(np.random.default_rng(1), (19.0, 25.0)) < 25
    True
    """
    low, high = (10 ** (slope * limit) for limit in limits)
    return math.log10(rng.uniform(low, high)) / slope


def draw_star(
    rng: np.random.Generator, survey: Survey, magnitude: float, *, temperature: float | None = None
) -> TrueSource:
    """Draw a star: a point with the colours of a black body.

    Parameters
    ----------
    rng
        Source of randomness, for the temperature.
    survey
        Bands and zero points.
    magnitude
        In the i band.
    temperature
        In kelvin; by default anything from 3000 to 8000.

    Returns
    -------
    TrueSource
        The star.

    Examples
    --------
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> draw_star(np.random.default_rng(1), make_survey(("g", "r")), 20.0).kind
    'star'
    """
    temperature = rng.uniform(3000.0, 8000.0) if temperature is None else temperature
    frequency = {band: 1 / length for band, length in WAVELENGTH.items()}
    density = {b: f**3 / math.expm1(14387.8 * f / temperature) for b, f in frequency.items()}
    magnitudes = np.array([magnitude - 2.5 * math.log10(density[b] / density["i"]) for b in survey.bands])
    flux = survey.flux(magnitudes)
    return TrueSource("star", flux, 0.0, (Component(point(), flux),))


def draw_smooth_galaxy(rng: np.random.Generator, survey: Survey, magnitude: float) -> TrueSource:
    """Draw a smooth galaxy: an exponential disk and a redder de Vaucouleurs bulge.

    Parameters
    ----------
    rng
        Source of randomness.
    survey
        Bands and zero points.
    magnitude
        In the i band.

    Returns
    -------
    TrueSource
        The galaxy.

    Examples
    --------
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> len(draw_smooth_galaxy(np.random.default_rng(1), make_survey(("g", "r")), 22.0).components)
    2
    """
    flux = survey.flux(_draw_magnitudes(rng, survey, magnitude))
    radius = _draw_radius(rng, magnitude)
    disk = _draw_disk(rng, radius)
    bulge = _draw_bulge(rng, disk)
    fraction = rng.beta(0.35, 1.4)
    colour = rng.normal(0.6, 0.2)
    return _assemble("smooth", flux, radius, survey, [(disk, 1 - fraction, 0.0), (bulge, fraction, colour)])


def draw_asymmetric_galaxy(rng: np.random.Generator, survey: Survey, magnitude: float) -> TrueSource:
    """Draw a lopsided disk galaxy, often with spiral arms and clumps, sometimes with a tail or a dust lane.

    Parameters
    ----------
    rng
        Source of randomness.
    survey
        Bands and zero points.
    magnitude
        In the i band.

    Returns
    -------
    TrueSource
        The galaxy.

    Examples
    --------
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> draw_asymmetric_galaxy(np.random.default_rng(1), make_survey(("g", "r")), 22.0).kind != "smooth"
    True
    """
    flux = survey.flux(_draw_magnitudes(rng, survey, magnitude))
    radius = 1.35 * _draw_radius(rng, magnitude)  # at a given magnitude, late types are larger than the mean galaxy
    plain = _draw_disk(rng, radius)
    has_arms, has_clumps, has_tail, has_dust = rng.random(4) < (0.6, 0.8, 0.25, 0.5)
    tilted = functools.partial(lopsidedness, strength=rng.uniform(0.1, 0.5), phase=rng.uniform(0, 2 * math.pi))
    disk = dataclasses.replace(plain, modulations=(tilted,))
    parts: list[Part] = [(_draw_bulge(rng, plain), rng.beta(0.5, 3.0), rng.normal(0.6, 0.2))]
    arms = _draw_arms(rng)
    if has_arms:
        curved = dataclasses.replace(plain, modulations=(functools.partial(spiral_arms, **arms), tilted))
        parts.append((curved, rng.uniform(0.3, 0.7), rng.normal(-0.3, 0.1)))
    if has_clumps:
        parts.append(
            (
                _draw_clumps(rng, plain, arms if has_arms else None),
                rng.uniform(0.08, 0.3),
                rng.normal(-0.7, 0.2),
            )
        )
    if has_tail:
        parts.append((_draw_tail(rng, plain), rng.uniform(0.06, 0.2), rng.normal(-0.1, 0.2)))
    rest = math.prod(1 - fraction for _, fraction, _ in parts)
    parts = [(shape, fraction * (1 - rest) / sum(f for _, f, _ in parts), tilt) for shape, fraction, tilt in parts]
    kind = "tidal" if has_tail else "spiral" if has_arms else "clumpy" if has_clumps else "lopsided"
    galaxy = _assemble(kind, flux, radius, survey, [(disk, rest, 0.0), *parts])
    return _with_dust(rng, survey, galaxy) if has_dust and plain.axis_ratio < 0.6 else galaxy


def _draw_magnitudes(rng: np.random.Generator, survey: Survey, magnitude: float) -> np.ndarray:
    """Magnitudes (band,) of a galaxy; all six are always drawn: a seed gives one galaxy in any bands."""
    scatter = rng.normal(size=len(_COLOUR_MEDIAN))
    for k in range(1, len(scatter)):
        scatter[k] = _COLOUR_CORRELATION * scatter[k - 1] + math.sqrt(1 - _COLOUR_CORRELATION**2) * scatter[k]
    fainter = np.concatenate([[0.0], np.cumsum(_COLOUR_MEDIAN + _COLOUR_SCATTER * scatter)])
    by_band = dict(zip(BANDS, magnitude - fainter + fainter[BANDS.index("i")], strict=True))
    return np.array([by_band[band] for band in survey.bands])


def _draw_radius(rng: np.random.Generator, magnitude: float) -> float:
    """Half-light radius in pixels."""
    median = 0.31 * 10 ** (-0.08 * (magnitude - 24.3))
    return float(np.clip(median * math.exp(0.6 * rng.normal()), 0.06, 4.0)) / PIXEL_SCALE


def _draw_disk(rng: np.random.Generator, radius: float) -> Profile:
    """Disk of thickness 0.2 seen from a random direction."""
    axis_ratio = math.sqrt(0.04 + 0.96 * rng.uniform() ** 2)
    return Profile(radius, 1.0, axis_ratio, rng.uniform(0, math.pi))


def _draw_bulge(rng: np.random.Generator, disk: Profile) -> Profile:
    """Rounder bulge inside a disk."""
    radius = max(disk.radius * rng.uniform(0.25, 0.7), 0.2)
    return Profile(radius, 4.0, max(disk.axis_ratio, rng.uniform(0.6, 1.0)), disk.angle)


def _draw_arms(rng: np.random.Generator) -> dict:
    """Parameters of spiral arms."""
    return {
        "arms": int(rng.choice([2, 3], p=[0.6, 0.4])),
        "pitch": float(rng.choice([-1, 1])) * math.radians(rng.uniform(12, 30)),
        "strength": rng.uniform(0.8, 1.8),
        "phase": rng.uniform(0, 2 * math.pi),
    }


def _draw_clumps(rng: np.random.Generator, disk: Profile, arms: dict | None) -> Blobs:
    """Two to seven clumps, on the arms if there are any."""
    n = int(rng.integers(2, 8))
    radius, azimuth = rng.uniform(0.4, 2.2, n), rng.uniform(0, 2 * math.pi, n)
    if arms is not None:
        arm = rng.integers(arms["arms"], size=n)
        crest = np.log(radius) / math.tan(arms["pitch"]) + (arms["phase"] + 2 * math.pi * arm) / arms["arms"]
        azimuth = crest + rng.normal(0, 0.15, n)
    return clumps(rng, disk, azimuth=azimuth, radius=radius)


def _draw_tail(rng: np.random.Generator, disk: Profile) -> Blobs:
    """Tidal tail of random direction and length."""
    sweep = float(rng.choice([-1, 1])) * rng.uniform(0.6, 1.8)
    return tail(
        disk,
        start=rng.uniform(0, 2 * math.pi),
        sweep=sweep,
        length=rng.uniform(2.5, 4.5),
        width=rng.uniform(0.15, 0.3),
    )


def _with_dust(rng: np.random.Generator, survey: Survey, galaxy: TrueSource) -> TrueSource:
    """Take light out of the disk along a lane, more of it in the blue; the total flux drops accordingly."""
    disk = galaxy.components[0]
    assert isinstance(disk.shape, Profile)
    lane = functools.partial(
        dust_lane, offset=rng.choice([-1, 1]) * rng.uniform(0.1, 0.5), width=rng.uniform(0.15, 0.3)
    )
    lost = dataclasses.replace(disk.shape, modulations=(*disk.shape.modulations, lane))
    depth = rng.uniform(0.4, 0.9) * np.array([(WAVELENGTH["u"] / WAVELENGTH[b]) ** 1.2 for b in survey.bands])
    flux = -depth * disk.flux
    return dataclasses.replace(
        galaxy,
        flux=galaxy.flux + flux * modulated_flux(lost),
        components=(*galaxy.components, Component(lost, flux)),
    )


def _assemble(
    kind: str,
    flux: np.ndarray,
    radius: float,
    survey: Survey,
    parts: list[Part],
) -> TrueSource:
    """Split a flux (band,) over its parts and keep the sum in each band."""
    g, i = math.log(WAVELENGTH["g"]), math.log(WAVELENGTH["i"])
    slope = np.array([(i - math.log(WAVELENGTH[band])) / (i - g) for band in survey.bands])
    weights = np.array([fraction * 10 ** (-0.4 * redder * slope) for _, fraction, redder in parts])
    fluxes = flux * weights / weights.sum(0)
    components = tuple(Component(shape, part) for (shape, *_), part in zip(parts, fluxes, strict=True))
    return TrueSource(kind, flux, radius, components)
