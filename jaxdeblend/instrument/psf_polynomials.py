"""Polynomials through the PSFs at some positions."""

import numpy as np
from jaxtyping import Float

from ..ops import polynomials
from .psf_field import PolynomialPSFField


def fit_psf_field(
    stamps: Float[np.ndarray, "position band n n"],
    positions: Float[np.ndarray, "position 2"],
    degree: int,
    *,
    zero_point: tuple[float, float] = (0.0, 0.0),
    scale: tuple[float, float] = (1.0, 1.0),
) -> PolynomialPSFField:
    """Field whose pixels are polynomials of position through given stamps, by least squares.

    Parameters
    ----------
    stamps
        Unit-sum stamps of odd edge n.
    positions
        Where they are, (y, x) in pixels.
    degree
        Largest total degree of the polynomials.
    zero_point, scale
        (y, x) at which polynomials are expanded, and distance at which their argument is 1, in pixels; best the middle
        and half the edges of the image.

    Returns
    -------
    PolynomialPSFField
        The field, with one sample per pixel.

    Raises
    ------
    ValueError
        If there are fewer positions than terms.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> stamps = np.stack([np.asarray(jd.GaussianPSF(1.5 + 0.1 * k).stamp(21)) for k in range(3)])
    >>> positions = np.array([[0.0, 0.0], [0.0, 100.0], [100.0, 0.0]])
    >>> field = fit_psf_field(stamps, positions, 1, zero_point=(50.0, 50.0), scale=(50.0, 50.0))
    >>> bool(np.allclose(field.stamps(positions), stamps, atol=1e-6))
    True
    """
    n_terms = polynomials.n_terms(degree)
    if len(positions) < n_terms:
        raise ValueError(f"positions: got {len(positions)} for {n_terms} terms; give at least as many.")
    v, u = ((np.asarray(positions) - zero_point) / scale).T
    terms = np.stack([v**i * u**j for j, i in polynomials.exponents(degree)], axis=1)  # the power of u runs fastest
    flat = np.asarray(stamps, float).reshape(len(stamps), -1)
    images = np.linalg.lstsq(terms, flat, rcond=None)[0].reshape(n_terms, *stamps.shape[1:])
    return PolynomialPSFField(np.moveaxis(images, 0, 1), zero_point=zero_point, scale=scale)
