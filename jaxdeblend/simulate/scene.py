"""One blend with known truth."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .population import TrueSource, draw_asymmetric_galaxy, draw_magnitude, draw_smooth_galaxy, draw_star
from .render import draw
from .survey import Survey, make_survey

GALAXIES = {"sersic": draw_smooth_galaxy, "asymmetric": draw_asymmetric_galaxy}
"""The kinds of galaxies that a simulation can have."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A simulated blend and everything that is true about it. Fluxes are in electrons.

    Attributes
    ----------
    images
        Noisy images (band, y, x), sky subtracted.
    variance
        Their variance as a survey states it: sky plus the positive part of the image.
    psf
        Unit-sum PSF stamps (band, y, x).
    bands
        Names of the bands.
    centers
        True centres (source, 2), (y, x) in pixels.
    truth
        Noiseless image of each source alone (source, band, y, x).
    flux
        Total flux (source, band), including what falls outside the image.
    snr
        Signal-to-noise ratio (source, band) of each source alone, with its own photon noise and that of the
        sky, under optimal weights: sqrt(Σ t² / (sky + t)).
    kind
        What each source is: "star", "smooth", "lopsided", "clumpy", "spiral" or "tidal".
    radius
        Half-light radius (source,) in pixels, 0 for stars.
    survey
        Sky variance and zero points.
    """

    images: np.ndarray
    variance: np.ndarray
    psf: np.ndarray
    bands: tuple[str, ...]
    centers: np.ndarray
    truth: np.ndarray
    flux: np.ndarray
    snr: np.ndarray
    kind: tuple[str, ...]
    radius: np.ndarray
    survey: Survey

    @property
    def noiseless(self) -> np.ndarray:
        """Sum of all sources (band, y, x)."""
        return self.truth.sum(0)


def simulate_blend(
    seed: int | np.random.Generator,
    *,
    shape: tuple[int, int] = (64, 64),
    bands: Sequence[str] = ("g", "r", "i", "z", "y"),
    n_sources: int | tuple[int, int] = (2, 8),
    kind: str = "sersic",
    psf: np.ndarray | None = None,
    psf_fwhm: float | Sequence[float] | Mapping[str, float] | None = None,
    sky: float | Sequence[float] | Mapping[str, float] | None = None,
    magnitudes: tuple[float, float] = (19.0, 25.3),
    star_fraction: float = 0.05,
    spread: float = 0.3125,
) -> Scene:
    """Simulate one blend as LSST would see it after ten years (0.2″ per pixel).

    Parameters
    ----------
    seed
        Seed, or a generator to draw from. The same seed gives the same scene.
    shape
        Shape (y, x) of the images.
    bands
        Names of the bands, from ugrizy.
    n_sources
        Number of sources, or the smallest and largest number.
    kind
        "sersic": smooth galaxies, a bulge and a disk of different colours. "asymmetric": disks with spiral
        arms, clumps, tails and dust.
    psf
        PSF stamps (band, y, x) of odd edge; by default Moffat profiles of β = 3.
    psf_fwhm
        FWHM of the default PSFs in pixels: one number, one per band, or by name. By default LSST's median
        seeing.
    sky
        Sky variance per pixel: one number, one per band, or by name. By default LSST after ten years.
    magnitudes
        Brightest and faintest i-band magnitude.
    star_fraction
        Expected fraction of stars.
    spread
        Largest offset of a source from the middle, as a fraction of the edges.

    Returns
    -------
    Scene
        Images and truth.

    Raises
    ------
    ValueError
        If an option is not understood.

    Examples
    --------
    >>> scene = simulate_blend(7, shape=(48, 48), bands=("g", "i"), n_sources=3)
    >>> scene.images.shape, scene.truth.shape, len(scene.kind)
    ((2, 48, 48), (3, 2, 48, 48), 3)
    """
    draw_galaxy = choose_galaxies(kind)
    survey = make_survey(bands, psf=psf, psf_fwhm=psf_fwhm, sky=sky)
    lowest, highest = _range_of("n_sources", n_sources)
    rng = np.random.default_rng(seed)
    n = int(rng.integers(lowest, highest + 1))
    half = (np.array(shape) - 1) / 2
    centers = half + rng.uniform(-spread, spread, (n, 2)) * np.array(shape)
    sources = []
    for _ in range(n):
        is_star, magnitude = rng.random() < star_fraction, draw_magnitude(rng, magnitudes)
        sources.append((draw_star if is_star else draw_galaxy)(rng, survey, magnitude))
    return _observe(rng, sources, centers, shape, survey)


def choose_galaxies(kind: str) -> Callable[[np.random.Generator, Survey, float], TrueSource]:
    """Choose the function that draws galaxies of a kind.

    Parameters
    ----------
    kind
        "sersic" or "asymmetric".

    Returns
    -------
    Callable
        (rng, survey, magnitude) -> TrueSource.

    Raises
    ------
    ValueError
        If there is no such kind.

    Examples
    --------
    >>> choose_galaxies("sersic").__name__
    'draw_smooth_galaxy'
    """
    if kind not in GALAXIES:
        raise ValueError(f"`kind` must be one of {sorted(GALAXIES)}, got {kind!r}.")
    return GALAXIES[kind]


def signal_to_noise(truth: np.ndarray, sky_variance: np.ndarray) -> np.ndarray:
    """S/N (..., band) of noiseless images (..., band, y, x) alone on the sky, sqrt(Σ t² / (sky + t)).

    Parameters
    ----------
    truth
        Noiseless images in electrons.
    sky_variance
        Sky variance (band,).

    Returns
    -------
    np.ndarray
        Signal-to-noise ratio for optimal weights.

    Examples
    --------
    >>> signal_to_noise(np.full((1, 1, 1), 100.0), np.zeros(1))
    array([10.])
    """
    truth = np.asarray(truth, float)
    return np.sqrt(np.sum(truth**2 / (sky_variance[:, None, None] + truth), axis=(-2, -1)))


def _observe(
    rng: np.random.Generator,
    sources: list[TrueSource],
    centers: np.ndarray,
    shape: tuple[int, int],
    survey: Survey,
) -> Scene:
    """Draw the sources and expose their sum."""
    truth = np.zeros((len(sources), len(survey.bands), *shape), np.float32)
    for row, source, center in zip(truth, sources, centers, strict=True):
        row[:] = draw(source, center, shape, survey)
    images, variance = expose(rng, truth.sum(0), survey)
    return Scene(
        images=images,
        variance=variance,
        psf=survey.psf.astype(np.float32),
        bands=survey.bands,
        centers=centers,
        truth=truth,
        flux=np.array([source.flux for source in sources]).reshape(len(sources), len(survey.bands)),
        snr=signal_to_noise(truth, survey.sky_variance),
        kind=tuple(source.kind for source in sources),
        radius=np.array([source.radius for source in sources]),
        survey=survey,
    )


def expose(rng: np.random.Generator, noiseless: np.ndarray, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Add the noise of sky and photons, and state the variance as a survey does, from the noisy image.

    Parameters
    ----------
    rng
        Source of randomness.
    noiseless
        Image (band, y, x) in electrons.
    survey
        Sky variance.

    Returns
    -------
    tuple of np.ndarray
        Image and variance, float32.

    Examples
    --------
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> image, variance = expose(np.random.default_rng(1), np.zeros((1, 8, 8)), make_survey("r", sky=4.0))
    >>> bool(variance.min() >= 4)
    True
    """
    sky = survey.sky_variance.astype(np.float32)[:, None, None]
    noise = rng.standard_normal(noiseless.shape, np.float32)
    images = (noiseless + np.sqrt(sky + noiseless) * noise).astype(np.float32)
    return images, sky + np.maximum(images, 0)


def _range_of(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    lowest, highest = (value, value) if isinstance(value, int) else value
    if not 0 <= lowest <= highest:
        raise ValueError(f"`{name}` must be a number >= 0 or a (smallest, largest) pair, got {value}.")
    return lowest, highest
