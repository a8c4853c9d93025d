"""PSFs of a simulated survey, which vary over the image and between the bands."""

import numpy as np

from ..instrument.psf_field import PolynomialPSFField
from ..instrument.psf_polynomials import fit_psf_field
from .survey import Survey, moffat_stamp

DEGREE = 2
"""Largest total degree of the polynomials that make the PSF vary."""

_TAPER = 0.75
"""Share of the radius of a stamp from which on the wings are faded out, so that bright stars have no corners."""


def vary_psf(rng: np.random.Generator, survey: Survey, shape: tuple[int, int]) -> PolynomialPSFField:
    """Draw a PSF field around the PSFs of a survey.

    Elliptical Moffat profiles of β = 3, whose FWHM varies by some per cent over the image and whose ellipticity by some
    hundredths, differently in each band, are sampled on a grid; every pixel becomes a polynomial of position. The field
    is these polynomials: nothing else is the truth.

    Parameters
    ----------
    rng
        Source of randomness.
    survey
        Bands, and the PSFs whose FWHM and edge the field has in the middle.
    shape
        Shape (y, x) of the image.

    Returns
    -------
    PolynomialPSFField
        The field.

    Examples
    --------
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> field = vary_psf(np.random.default_rng(1), make_survey(("g", "r"), psf_edge=41), (200, 300))
    >>> field.n_bands, field.edge, field.degree
    (2, 41, 2)
    """
    middle = (np.array(shape) - 1) / 2
    nodes = np.linspace(-1, 1, 2 * DEGREE + 1)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    stamps = [_stamps(rng, fwhm, survey.psf.shape[-1], grid) for fwhm in survey.psf_fwhm]
    half = np.maximum(middle, 1.0)
    return fit_psf_field(
        np.stack(stamps, axis=1),
        middle + grid * half,
        DEGREE,
        zero_point=(float(middle[0]), float(middle[1])),
        scale=(float(half[0]), float(half[1])),
    )


def _stamps(rng: np.random.Generator, fwhm: float, edge: int, grid: np.ndarray) -> np.ndarray:
    """Stamps (position, edge, edge) of one band; the position (v, u) is scaled to [-1, 1]."""
    v, u = grid.T
    terms = np.stack([v, u, v * u, v**2 - u**2], axis=1)
    width = fwhm * (1 + terms @ rng.normal(0, 0.02, 4))
    e1, e2 = (rng.normal(0, 0.015) + terms @ rng.normal(0, 0.015, 4) for _ in range(2))
    stamps = np.stack([moffat_stamp(*each, edge=edge) for each in zip(width, e1, e2, strict=True)])
    faded = stamps * _taper(edge)
    return faded / faded.sum(axis=(1, 2), keepdims=True)


def _taper(edge: int) -> np.ndarray:
    axis = np.arange(edge) - edge // 2
    radius = np.hypot(axis[:, None], axis) / (edge / 2)
    return 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - _TAPER) / (1 - _TAPER), 0, 1))
