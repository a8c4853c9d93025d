"""Data for `jaxdeblend match-psf --demo`: stars, seen with a PSF that varies over the image."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from jaxtyping import Float

from ..instrument.psf_field import PolynomialPSFField
from ..instrument.psf_polynomials import fit_psf_field
from ..io import write_psf_field
from .options import Inputs

BANDS = ("g", "r")

DEMO_NAMES = tuple(f"demo_{band}.{suffix}" for band in BANDS for suffix in ("fits", "psf"))
"""Files of the demo."""

STARS = 40
"""Number of stars in 512 x 512 pixels."""

EDGE = 41
"""Edge of the PSF's stamps."""

BETA = 3.0
"""Exponent of the Moffat profiles."""

DEGREE = 3
"""Largest total degree of the polynomials that describe the PSF."""

NOISE = 1.0
"""Standard deviation of the sky."""

FINE = 5
"""Samples per pixel along each axis."""

_SHAPES = {
    "g": ((4.1, 0.25, 0.3, 0.2, -0.15), (0.01, 0.0, 0.06), (-0.01, 0.05, 0.0)),
    "r": ((3.6, 0.2, -0.25, 0.15, 0.1), (0.0, 0.04, -0.03), (0.02, 0.0, 0.05)),
}
"""Factors of 1, v, u, vu, u² in FWHM, e1 and e2, for the position (v, u) = (y, x) scaled to [-1, 1]."""


def write_demo(folder: Path, *, size: int, seed: int) -> None:
    """Write the images and the PSFs of the demo: demo_<band>.fits, and demo_<band>.psf as PSFEx writes it.

    Parameters
    ----------
    folder
        Where to write them.
    size
        Edge of the images in pixels.
    seed
        Seed of the stars and the noise.
    """
    centers, fluxes = demo_stars(size, seed)
    for number, band in enumerate(BANDS):
        image = starlight(size, centers, fluxes[:, number], functools.partial(psf_shape, band, size))
        variance = NOISE**2 + image
        image = image + np.random.default_rng((seed, number)).normal(size=image.shape) * np.sqrt(variance)
        mask = np.zeros((size, size), np.int32)
        mask[size // 2 : size // 2 + 60, size // 3] = 1  # a bad column
        _exposure_hdus(band, image, variance, mask).writeto(folder / f"demo_{band}.fits")
    write_psf_field(folder / "demo_{band}.psf", _psf_field(size), BANDS)


def demo_stars(size: int, seed: int) -> tuple[Float[np.ndarray, "star 2"], Float[np.ndarray, "star band"]]:
    """Positions and fluxes of the stars of the demo.

    Parameters
    ----------
    size
        Edge of the images in pixels.
    seed
        Seed.

    Returns
    -------
    centers : Float[np.ndarray, "star 2"]
        Positions (y, x) in pixels.
    fluxes : Float[np.ndarray, "star band"]
        Total fluxes.
    """
    rng = np.random.default_rng(seed)
    n_stars = max(round(STARS * (size / 512) ** 2), 4)
    centers = rng.uniform(0.03 * size, 0.97 * size, (n_stars, 2))
    return centers, 10 ** rng.uniform(3.2, 5.0, (n_stars, 1)) * rng.uniform(0.7, 1.4, (n_stars, len(BANDS)))


def demo_inputs(folder: Path) -> Inputs:
    """Files of the demo, as a user would name them.

    Parameters
    ----------
    folder
        Where they are.

    Returns
    -------
    Inputs
        What to read.
    """
    return Inputs(images=(str(folder / "demo_{band}.fits"),), bands=BANDS, psf=(str(folder / "demo_{band}.psf"),))


def starlight(
    size: int,
    centers: Float[np.ndarray, "star 2"],
    fluxes: Float[np.ndarray, " star"],
    shape: Callable[[np.ndarray], tuple[float, float, float]],
    edge: int = EDGE,
) -> Float[np.ndarray, "size size"]:
    """Image of stars without noise, each with the PSF at its own place.

    Parameters
    ----------
    size
        Edge of the image in pixels.
    centers
        Positions (y, x) in pixels.
    fluxes
        Total flux of each.
    shape
        FWHM and ellipticity (e1, e2) of the Moffat profile at a position.
    edge
        Odd edge of the window about a star outside of which it is dark.

    Returns
    -------
    Float[np.ndarray, "size size"]
        The image.
    """
    half = edge // 2
    image = np.zeros((size + 2 * half, size + 2 * half))
    for center, flux in zip(centers, fluxes, strict=True):
        y, x = np.round(center).astype(int)
        image[y : y + edge, x : x + edge] += flux * _moffat(*shape(center), center - (y, x), edge)
    return image[half:-half, half:-half]


def psf_shape(band: str, size: int, place: Float[np.ndarray, "2"]) -> tuple[float, float, float]:
    """FWHM and ellipticity (e1, e2) of the demo's PSF at a position.

    Parameters
    ----------
    band
        Name of the band.
    size
        Edge of the images in pixels.
    place
        Position (y, x) in pixels.

    Returns
    -------
    tuple[float, float, float]
        FWHM in pixels, e1, e2.
    """
    v, u = 2 * np.asarray(place) / (size - 1) - 1
    terms = (1.0, v, u, v * u, u**2)
    fwhm, e1, e2 = (float(np.dot(terms[: len(factors)], factors)) for factors in _SHAPES[band])
    return fwhm, e1, e2


def _moffat(
    fwhm: float, e1: float, e2: float, offset: Float[np.ndarray, "2"], edge: int = EDGE
) -> Float[np.ndarray, "edge edge"]:
    """Stamp of unit sum, averaged over the pixels; the ellipticity is that of `jaxdeblend.MoffatPSF`."""
    axis = (np.arange(edge * FINE) + 0.5) / FINE - edge / 2
    y, x = axis[:, None] - offset[0], axis[None, :] - offset[1]
    radius2 = ((1 - e1) * x**2 - 2 * e2 * x * y + (1 + e1) * y**2) / np.sqrt(1 - e1**2 - e2**2)
    values = (1 + 4 * (2 ** (1 / BETA) - 1) * radius2 / fwhm**2) ** -BETA
    stamp = values.reshape(edge, FINE, edge, FINE).mean(axis=(1, 3))
    return stamp / stamp.sum()


def _exposure_hdus(band: str, image: np.ndarray, variance: np.ndarray, mask: np.ndarray) -> fits.HDUList:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
    wcs.wcs.crpix = [(image.shape[1] + 1) / 2, (image.shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    header = wcs.to_header()
    header.update(BUNIT="electron", FILTER=band, MAGZERO=31.4)
    planes = [
        fits.ImageHDU(image.astype(np.float32), header, name="IMAGE"),
        fits.ImageHDU(variance.astype(np.float32), name="VARIANCE"),
        fits.ImageHDU(mask, fits.Header([("MP_BAD", 0)]), name="MASK"),
    ]
    return fits.HDUList([fits.PrimaryHDU(), *planes])


def _psf_field(size: int) -> PolynomialPSFField:
    """Polynomials through the stamps on a grid."""
    nodes = np.linspace(0, size - 1, 2 * DEGREE + 3)
    places = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    stamps = [[_moffat(*psf_shape(band, size, place), np.zeros(2)) for band in BANDS] for place in places]
    half = (size - 1) / 2
    return fit_psf_field(np.array(stamps), places, DEGREE, zero_point=(half, half), scale=(half, half))
