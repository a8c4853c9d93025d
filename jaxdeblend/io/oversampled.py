"""PSF stamps of finer pixels than those of the images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

FACTOR_TOLERANCE = 0.02
"""Relative difference between a ratio of pixel scales and a whole number that is taken for rounding."""

DETECTOR_EXTENSIONS = ("DET_DIST", "DET_SAMP", "OVERDIST", "OVERSAMP")
"""Extensions of STPSF (WebbPSF) files, those of the detector's pixels and with its distortion first."""

_OVERSAMPLING = ("OVERSAMP", "OVERSAMPL", "OVRSAMP", "DET_SAMP")
"""Cards with the number of samples per pixel of the detector; the first that is there counts."""

_PIXEL_SCALE = ("PIXELSCL", "PIXSCALE")
"""Cards with the pixel scale of a PSF in arcseconds."""


def oversampling_of(path: Path, headers: Sequence[Any], pixel_scale: float | None) -> int:
    """Number of pixels of a PSF stamp per pixel of the images, along an axis.

    Parameters
    ----------
    path
        File of the stamp, for error messages.
    headers
        Its headers, those of the extension first.
    pixel_scale
        Pixel scale of the images in arcseconds, None where it is not known.

    Returns
    -------
    int
        The number; 1 where headers do not say.

    Raises
    ------
    ValueError
        If it is not a whole number.

    Examples
    --------
    >>> oversampling_of(Path("psf.fits"), [{"OVERSAMP": 4}], None)
    4
    >>> oversampling_of(Path("psf.fits"), [{"OVERSAMP": 4, "PIXELSCL": 0.0155}], 0.031)
    2
    """
    scale = _stated(headers, _PIXEL_SCALE)
    factor = _stated(headers, _OVERSAMPLING)
    if scale is not None and pixel_scale is not None:
        ratio = pixel_scale / scale[1]
        reason = f"{scale[0]} is {scale[1]:g} arcsec, and the pixel scale of the images {pixel_scale:.5g} arcsec"
    elif factor is not None:
        ratio = factor[1]
        reason = f"{factor[0]} is {factor[1]:g}"
    else:
        return 1
    whole = round(ratio)
    if whole < 1 or abs(ratio / whole - 1) > FACTOR_TOLERANCE:
        raise ValueError(
            f"{path}: has {ratio:.4g} pixels per pixel of the images ({reason}); only whole numbers are binned: "
            "resample the PSF to the pixels of the images."
        )
    return whole


def binned(stamp: Float[np.ndarray, "y x"], factor: int) -> Float[np.ndarray, "m n"]:
    """Sum a stamp over pixels that are `factor` times larger, about the same middle; the edges become odd.

    Pixels of the stamp that lie in two of the larger ones are shared among them, so that no light is lost.

    Parameters
    ----------
    stamp
        Stamp of fine pixels, of odd or even edges; its middle is that of the PSF.
    factor
        Number of fine pixels per pixel, along an axis.

    Returns
    -------
    Float[np.ndarray, "m n"]
        The stamp of larger pixels, with the same sum.

    Examples
    --------
    >>> binned(np.ones((6, 6)), 2).tolist()
    [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    """
    rows, columns = (_shares(n, factor) for n in stamp.shape)
    return rows @ stamp @ columns.T


def _shares(n: int, factor: int) -> Float[np.ndarray, "m n"]:
    """Which part of each fine pixel lies in each of an odd number of larger ones that cover them all."""
    count = int(np.ceil(n / factor)) // 2 * 2 + 1
    left = (np.arange(count)[:, None] - count / 2) * factor
    fine = np.arange(n)[None, :] - n / 2
    return np.clip(np.minimum(left + factor, fine + 1) - np.maximum(left, fine), 0, 1)


def _stated(headers: Sequence[Any], keys: Sequence[str]) -> tuple[str, float] | None:
    """First card with a positive number, and its name."""
    for key in keys:
        for header in headers:
            value = header.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                return key, float(value)
    return None
