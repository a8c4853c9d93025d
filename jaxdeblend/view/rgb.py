"""Colour pictures from any number of bands."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from .norms import AsinhNorm, asinh_norm, check_images

_BLUE_TO_RED = ("u", "g", "r", "i", "z", "y")


def rgb(
    images: ArrayLike,
    *,
    bands: Sequence[str] | None = None,
    norm: AsinhNorm | None = None,
    channels: ArrayLike | None = None,
    saturation: float = 0.9,
) -> np.ndarray:
    """Colour picture of multi-band images that keeps the hue at every brightness.

    With r, g, b weighted means of the bands and their mean I,

        (R, G, B) = (r, g, b) f(I) / I,

    and where the largest of R, G, B exceeds 1, all three are divided by it: bright cores keep their colour
    (Lupton et al. 2004, PASP 116, 133).

    Parameters
    ----------
    images
        Images (band, y, x), sky subtracted, from blue to red. A pixel that is NaN or
        infinite takes its colour from the bands that are left, and is black if none is.
    bands
        Names of the bands. If they are all of ugrizy, they are brought into order of wavelength first.
    norm
        From intensity to grey level, `asinh_norm` of the images by default. Pictures to be compared need the
        same.
    channels
        Weights (3, band) of the bands in red, green and blue; `channel_weights` by default.
    saturation
        0 for grey, 1 for the true colours, more for more colour.

    Returns
    -------
    np.ndarray
        Picture (y, x, 3), from 0 to 1.

    Raises
    ------
    ValueError
        If the shapes do not agree.

    Examples
    --------
    >>> images = np.random.default_rng(1).normal(0, 1, (5, 24, 32))
    >>> rgb(images, bands=("g", "r", "i", "z", "y")).shape
    (24, 32, 3)
    """
    images = check_images(images)
    norm = asinh_norm(images) if norm is None else norm
    weights = channel_weights(len(images), bands=bands) if channels is None else np.asarray(channels, float)
    if weights.shape != (3, len(images)):
        raise ValueError(
            f"`channels` must be (3, {len(images)}), red, green and blue of each band, got {weights.shape}."
        )
    if len(norm.scales) != len(images):
        raise ValueError(f"`norm` is for {len(norm.scales)} bands, but there are {len(images)} images.")
    colour = _mix(weights, images / norm.scales[:, None, None]) - norm.black
    intensity = colour.mean(0)
    colour = intensity + saturation * (colour - intensity)
    picture = np.maximum(colour * _slope(norm, intensity), 0)
    picture /= np.maximum(picture.max(0), 1)
    return picture.transpose(1, 2, 0)


def channel_weights(n_bands: int, *, bands: Sequence[str] | None = None) -> np.ndarray:
    """Weights of the bands in red, green and blue.

    The bands are spread evenly from blue to red; each colour sees those within half of this range of its own
    place, in triangles that peak at the first, the middle and the last.

    Parameters
    ----------
    n_bands
        Number of bands.
    bands
        Their names, if they may not be in order of wavelength. Names other than ugrizy are taken to be in
        order.

    Returns
    -------
    np.ndarray
        Weights (3, band), each row of sum 1.

    Raises
    ------
    ValueError
        If there is not one name for each band.

    Examples
    --------
    >>> channel_weights(3)
    array([[0., 0., 1.],
           [0., 1., 0.],
           [1., 0., 0.]])
    >>> channel_weights(2)
    array([[0. , 1. ],
           [0.5, 0.5],
           [1. , 0. ]])
    """
    if bands is not None and len(bands) != n_bands:
        raise ValueError(f"`bands` must name each of the {n_bands} bands, got {tuple(bands)}.")
    if n_bands == 1:
        return np.ones((3, 1))
    width = max(0.5, 1 / (n_bands - 1))
    place = _ranks(n_bands, bands) / (n_bands - 1)
    weights = np.maximum(1 - np.abs(place - np.array([[1.0], [0.5], [0.0]])) / width, 0)
    return weights / weights.sum(1, keepdims=True)


def _ranks(n_bands: int, bands: Sequence[str] | None) -> np.ndarray:
    """Place of each band in order of wavelength, from 0."""
    if bands is None or not set(bands) <= set(_BLUE_TO_RED) or len(set(bands)) < n_bands:
        return np.arange(n_bands)
    return np.argsort(np.argsort([_BLUE_TO_RED.index(band) for band in bands]))


def _mix(weights: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Weighted mean (3, y, x) of the usable bands; a colour without any takes the mean of the others."""
    usable = np.isfinite(images)
    total = np.tensordot(weights, usable.astype(float), 1)
    mixed = np.tensordot(weights, np.where(usable, images, 0), 1) / np.where(total > 0, total, 1)
    others = mixed.sum(0) / np.maximum((total > 0).sum(0), 1)
    return np.where(total > 0, mixed, others)


def _slope(norm: AsinhNorm, intensity: np.ndarray) -> np.ndarray:
    """f(I) / I above black; its limit where I is 0."""
    tiny = 1e-6 * norm.softening
    safe = np.where(np.abs(intensity) < tiny, tiny, intensity)
    return norm(safe + norm.black) / safe
