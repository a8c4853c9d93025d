"""PSFs from files."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..instrument.psf import ImagePSF
from .files import PathLike, paths_of_bands
from .planes import FilePlanes, read_planes

logger = logging.getLogger(__name__)

CENTROID_TOLERANCE = 0.1
"""Offset in pixels of a PSF's centroid from the middle of its stamp that is worth a warning."""


def read_psf(paths: PathLike | Sequence[PathLike], bands: Sequence[str]) -> ImagePSF:
    """Read PSF stamps from FITS images.

    Parameters
    ----------
    paths
        One file per band, a pattern with ``{band}``, or a single file: a cube (band, y, x), one extension
        per band, or one stamp that all bands share.
    bands
        Names of the bands, in order.

    Returns
    -------
    ImagePSF
        The PSF of each band, with unit sum. Stamps of different sizes are padded with zeros to the largest.

    Raises
    ------
    ValueError
        If a stamp is unreadable, has an even edge, a NaN, or a sum that is not positive; the file is named.
    FileNotFoundError
        If a file does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import read_psf
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for number, band in enumerate("gr"):
    ...     stamp = np.asarray(jd.GaussianPSF([2.0, 1.5]).stamp(21)[number])
    ...     fits.PrimaryHDU(stamp).writeto(folder / f"psf_{band}.fits")
    >>> psf = read_psf(folder / "psf_{band}.fits", ("g", "r"))
    >>> psf.n_bands, psf.edge, [round(float(width), 1) for width in psf.fwhm()]
    (2, 21, [4.8, 3.6])
    """
    bands = tuple(bands)
    files = [read_planes(path, bands) for path in paths_of_bands(paths, bands)]
    if len(files) == 1:
        stamps = [(files[0].path, stamp) for stamp in _stamps(files[0], bands)]
    else:
        stamps = [(file.path, _stamps(file, (band,))[0]) for file, band in zip(files, bands, strict=True)]
    checked = [_checked(path, stamp) for path, stamp in stamps]
    edge = max(psf.edge for psf in checked)
    return ImagePSF(np.concatenate([np.asarray(psf.stamp(edge)) for psf in checked]))


def _stamps(file: FilePlanes, bands: tuple[str, ...]) -> list[np.ndarray]:
    images = [plane for plane in file.planes if plane.role == "image"]
    if not images:
        raise ValueError(f"{file.path}: no image found; expected a PSF stamp (y, x) or a cube (band, y, x).")
    if len(images) == 1 and images[0].data.ndim == 2:
        return [images[0].data]
    found = file.find("image", bands)
    assert found is not None  # there are images
    return [plane.data for plane in found]


def _checked(path: Path, stamp: np.ndarray) -> ImagePSF:
    """PSF of one band; errors name the file."""
    try:
        psf = ImagePSF(stamp.astype(np.float32)[None])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    dy, dx = _centroid_offset(np.asarray(psf.stamps[0]))
    if np.hypot(dy, dx) > CENTROID_TOLERANCE:
        logger.warning(
            "%s: the centroid of the PSF is offset from the middle of its stamp by (dy, dx) = (%+.2f, "
            "%+.2f) pixels; positions will be off by as much.",
            path,
            dy,
            dx,
        )
    return psf


def _centroid_offset(stamp: np.ndarray) -> tuple[float, float]:
    """Offset (dy, dx) of the core's centroid (above a tenth of the maximum) from the middle."""
    core = np.maximum(stamp - 0.1 * stamp.max(), 0.0)
    middle = (stamp.shape[0] - 1) / 2
    axis = np.arange(stamp.shape[0]) - middle
    return float((core.sum(1) * axis).sum() / core.sum()), float((core.sum(0) * axis).sum() / core.sum())
