"""A field of a survey with known truth."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from ..instrument.box import Box
from .population import TrueSource, draw_magnitude, draw_star
from .render import draw, stamp_radius
from .scene import choose_galaxies, expose, signal_to_noise
from .survey import PIXEL_SCALE, Survey, make_survey

_LARGEST_STAMP = 160
"""Half the edge of the largest stamp in pixels; what a giant has beyond it is lost."""

_SATURATION = 1e6
"""Electrons per pixel above which a star saturates."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A simulated field and what is true about it. Fluxes are in electrons.

    Attributes
    ----------
    images
        Noisy images (band, y, x), sky subtracted, float32.
    variance
        Their variance as a survey states it: sky plus the positive part of the image.
    mask
        True where a pixel is unusable (band, y, x): any of the planes.
    mask_planes
        Masks by reason: "BAD" for dead columns and hot pixels, "SAT" for saturated ones.
    psf
        Unit-sum PSF stamps (band, y, x).
    bands
        Names of the bands.
    truth
        One row per source whose centre is inside the image: ``x``, ``y`` (0-based pixels), ``ra``, ``dec``
        (degrees), ``kind``, ``radius`` (half-light, pixels), and per band ``flux_<b>`` (total) and
        ``snr_<b>`` (alone on the sky).
    outside
        The same for sources just outside, whose light reaches in.
    wcs
        Tangential projection, 0.2″ per pixel.
    noiseless
        Sum of all sources (band, y, x), float32.
    """

    images: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    mask_planes: dict[str, np.ndarray]
    psf: np.ndarray
    bands: tuple[str, ...]
    truth: Table
    outside: Table
    wcs: WCS
    noiseless: np.ndarray


def simulate_field(
    seed: int | np.random.Generator,
    *,
    shape: tuple[int, int] = (512, 512),
    bands: Sequence[str] = ("g", "r", "i"),
    density: float = 120.0,
    star_density: float = 12.0,
    kind: str = "mixed",
    psf_fwhm: float | Sequence[float] | Mapping[str, float] | None = None,
    sky: float | Sequence[float] | Mapping[str, float] | None = None,
    magnitudes: tuple[float, float] = (18.0, 26.0),
    defects: bool = True,
) -> Field:
    """Simulate a field as LSST would see it after ten years (0.2″ per pixel).

    Sources lie anywhere, some on top of each other, some cut by the edges.

    Parameters
    ----------
    seed
        Seed, or a generator to draw from. The same seed gives the same field.
    shape
        Shape (y, x) of the images.
    bands
        Names of the bands, from ugrizy.
    density
        Galaxies per square arcminute.
    star_density
        Stars per square arcminute, some of them saturated.
    kind
        "sersic": smooth galaxies. "asymmetric": disks with spiral arms, clumps, tails and dust. "mixed": half
        of each.
    psf_fwhm
        FWHM of the Moffat PSFs in pixels: one number, one per band, or by name. By default LSST's median
        seeing.
    sky
        Sky variance per pixel: one number, one per band, or by name. By default LSST after ten years.
    magnitudes
        Brightest and faintest i-band magnitude.
    defects
        Whether there are dead columns, hot pixels and saturated stars. What lies under them is useless.

    Returns
    -------
    Field
        Images and truth.

    Raises
    ------
    ValueError
        If an option is not understood.

    Examples
    --------
    >>> field = simulate_field(3, shape=(96, 96), bands=("g", "i"))
    >>> field.images.shape, field.truth.colnames[:3]
    ((2, 96, 96), ['x', 'y', 'ra'])
    """
    draw_galaxies = [choose_galaxies(name) for name in (("sersic", "asymmetric") if kind == "mixed" else (kind,))]
    survey = make_survey(bands, psf_fwhm=psf_fwhm, sky=sky)
    rng = np.random.default_rng(seed)
    centers = _draw_centers(rng, shape, density + star_density, margin=10.0)
    sources = []
    for _ in centers:
        is_star = rng.random() < star_density / max(density + star_density, 1e-9)
        magnitude = draw_magnitude(rng, magnitudes, slope=0.1 if is_star else 0.3)
        draw_one = draw_star if is_star else draw_galaxies[rng.integers(len(draw_galaxies))]
        sources.append(draw_one(rng, survey, magnitude))
    noiseless, snr = _paint(sources, centers, shape, survey)
    images, variance = expose(rng, noiseless, survey)
    planes = _add_defects(rng, images, noiseless) if defects else _no_defects(images.shape)
    wcs = make_wcs(shape)
    table = _tabulate(sources, centers, snr, survey, wcs)
    inside = Box((0, 0), shape).contains(centers)
    return Field(
        images=images,
        variance=variance,
        mask=np.any(list(planes.values()), axis=0),
        mask_planes=planes,
        psf=survey.psf.astype(np.float32),
        bands=survey.bands,
        truth=Table(table[inside]),
        outside=Table(table[~inside]),
        wcs=wcs,
        noiseless=noiseless,
    )


def _draw_centers(rng: np.random.Generator, shape: tuple[int, int], density: float, *, margin: float) -> np.ndarray:
    """Centres (source, 2) all over the image and a margin around it."""
    edges = np.array(shape) + 2 * margin
    n = rng.poisson(density * edges.prod() * (PIXEL_SCALE / 60) ** 2)
    return rng.uniform(-0.5 - margin, edges - 0.5 - margin, (n, 2))


def _paint(
    sources: list[TrueSource], centers: np.ndarray, shape: tuple[int, int], survey: Survey
) -> tuple[np.ndarray, np.ndarray]:
    """Add every source's stamp into the frame; also its S/N (source, band), as if the frame had no edges."""
    frame = np.zeros((len(survey.bands), *shape), np.float32)
    snr = np.zeros((len(sources), len(survey.bands)))
    for row, source, center in zip(snr, sources, centers, strict=True):
        half = min(stamp_radius(source, survey), _LARGEST_STAMP)
        corner = np.rint(center).astype(int) - half
        stamp = draw(source, center - corner, (2 * half + 1, 2 * half + 1), survey)
        row[:] = signal_to_noise(stamp, survey.sky_variance)
        start, stop = np.maximum(corner, 0), np.minimum(corner + 2 * half + 1, shape)
        if np.all(start < stop):
            to, of = (
                tuple(slice(*pair) for pair in zip(start - o, stop - o, strict=True)) for o in (0 * corner, corner)
            )
            frame[(slice(None), *to)] += stamp[(slice(None), *of)]
    return frame, snr


def _no_defects(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"BAD": np.zeros(shape, bool), "SAT": np.zeros(shape, bool)}


def _add_defects(rng: np.random.Generator, images: np.ndarray, noiseless: np.ndarray) -> dict[str, np.ndarray]:
    """Spoil pixels of the images in place, and say which: dead columns, hot pixels, saturated cores."""
    planes = _no_defects(images.shape)
    n_bands, height, width = images.shape
    for band in range(n_bands):
        for _ in range(rng.poisson(width / 512)):
            column, start = rng.integers(width), rng.integers(height)
            planes["BAD"][band, start : start + height // 3, column] = True
        hot = rng.random((height, width)) < 2e-5
        planes["BAD"][band] |= hot
        images[band][planes["BAD"][band]] = 0
        images[band][hot] = 1e6
    planes["SAT"] = noiseless > _SATURATION
    images[planes["SAT"]] = _SATURATION
    return planes


def make_wcs(shape: tuple[int, int]) -> WCS:
    """Tangential projection of 0.2″ per pixel about the middle of an image.

    Examples
    --------
    >>> [round(float(angle), 6) for angle in make_wcs((101, 201)).pixel_to_world_values(100, 50)]
    [150.1, 2.2]
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-PIXEL_SCALE / 3600, PIXEL_SCALE / 3600]
    wcs.wcs.set()
    return wcs


def _tabulate(sources: list[TrueSource], centers: np.ndarray, snr: np.ndarray, survey: Survey, wcs: WCS) -> Table:
    flux = np.array([source.flux for source in sources]).reshape(len(sources), len(survey.bands))
    y, x = centers.T
    table = Table({"x": x, "y": y})
    table["ra"], table["dec"] = wcs.all_pix2world(x, y, 0) if len(x) else (x, y)
    table["kind"] = np.array([source.kind for source in sources], dtype="U16")
    table["radius"] = np.array([source.radius for source in sources])
    for name, values in (("flux", flux), ("snr", snr)):
        for band, column in zip(survey.bands, values.T, strict=True):
            table[f"{name}_{band}"] = column
    return table
