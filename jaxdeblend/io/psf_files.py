"""PSFs from files."""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..instrument.psf import ImagePSF
from ..instrument.psf_field import AbstractPSFField, ConstantPSFField, PolynomialPSFField
from ..ops import polynomials
from ..ops.moments import core_centroid
from .files import PathLike, atomic_path, paths_of_bands
from .oversampled import DETECTOR_EXTENSIONS, binned, oversampling_of
from .pixels import open_fits
from .planes import FilePlanes, Plane, read_planes

logger = logging.getLogger(__name__)

_MOST_DEGREE = 20
"""Highest degree of polynomials of the position that is believed; PSFEx is run with 1 to 5."""

CENTROID_TOLERANCE = 0.1
"""Offset in pixels of a PSF's centroid from the middle of its stamp that is worth a warning."""


def read_psf(
    paths: PathLike | Sequence[PathLike], bands: Sequence[str], *, pixel_scale: float | None = None
) -> ImagePSF:
    """Read PSF stamps from FITS images.

    Oversampled stamps are known by their headers: by ``PIXELSCL`` if the pixel scale of the images is given, else by
    ``OVERSAMP`` or ``DET_SAMP``. They are summed over the pixels of the images. Of files of STPSF (WebbPSF), the
    extension with the pixels of the detector is taken.

    Parameters
    ----------
    paths
        One file per band, a pattern with ``{band}``, or a single file: a cube (band, y, x), one extension
        per band, or one stamp that all bands share.
    bands
        Names of the bands, in order.
    pixel_scale
        Pixel scale of the images in arcseconds, `Exposure.pixel_scale`.

    Returns
    -------
    ImagePSF
        The PSF of each band, with unit sum. Stamps of different sizes are padded with zeros to the largest.

    Raises
    ------
    ValueError
        If a stamp is unreadable, has an even edge, a NaN, or a sum that is not positive, or if its pixels do not fit a
        whole number of times in those of the images; the file is named.
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
        stamps = [(files[0].path, stamp) for stamp in _stamps(files[0], bands, pixel_scale)]
    else:
        stamps = [(file.path, _stamps(file, (band,), pixel_scale)[0]) for file, band in zip(files, bands, strict=True)]
    checked = [_checked(path, stamp) for path, stamp in stamps]
    edge = max(psf.edge for psf in checked)
    return ImagePSF(np.concatenate([np.asarray(psf.stamp(edge)) for psf in checked]))


def read_psf_field(
    paths: PathLike | Sequence[PathLike], bands: Sequence[str], *, pixel_scale: float | None = None
) -> AbstractPSFField:
    """Read PSFs that vary over the image, as PSFEx writes them (Bertin 2011); from stamps, a constant one.

    Parameters
    ----------
    paths
        ``.psf`` files of PSFEx, one per band, a pattern with ``{band}``, or one for all bands. Or stamps, as for
        `read_psf`.
    bands
        Names of the bands, in order.
    pixel_scale
        Pixel scale of the images in arcseconds, for stamps that are oversampled; see `read_psf`.

    Returns
    -------
    AbstractPSFField
        The PSF of each band at any position, (y, x) in pixels from 0, whatever the files count from.

    Raises
    ------
    ValueError
        If a file is unreadable, if its PSF depends on anything but the position on the image, or if only some of the
        files are of PSFEx; the file is named. For stamps, see `read_psf`.
    FileNotFoundError
        If a file does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import psf_files
    >>> samples = np.asarray(jd.GaussianPSF(3.0).stamp(41), np.float32)
    >>> table = fits.BinTableHDU.from_columns(
    ...     [fits.Column("PSF_MASK", "1681E", dim="(41, 41, 1)", array=samples[None])], name="PSF_DATA"
    ... )
    >>> table.header.update(POLNAXIS=0, PSF_SAMP=0.5)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "r.psf"
    >>> fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    >>> field = psf_files.read_psf_field(path, ["r"])
    >>> field.edge, round(float(field.at((100, 200)).fwhm()[0]), 1)
    (21, 3.6)
    """
    files = paths_of_bands(paths, bands)
    read = {path: _psfex_field(path) for path in files}
    found = [field for field in read.values() if field is not None]
    if not found:
        return ConstantPSFField(read_psf(paths, bands, pixel_scale=pixel_scale))
    others = [str(path) for path, field in read.items() if field is None]
    if others:
        raise ValueError(f"{', '.join(others)}: no PSFEx model found (PSF_MASK), but the other bands have one.")
    return _joined([field for path in files if (field := read[path]) is not None])


def write_psf_field(
    path: PathLike, field: PolynomialPSFField, bands: Sequence[str], *, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write a polynomial PSF field as PSFEx does (Bertin 2011), a file per band; `read_psf_field` reads it back.

    Parameters
    ----------
    path
        A pattern with ``{band}``, or for one band a path; ``.psf`` by custom.
    field
        The field.
    bands
        Names of the bands, in order.
    overwrite
        Whether the files may exist already.

    Returns
    -------
    tuple[Path, ...]
        The files.

    Raises
    ------
    ValueError
        If the field has another number of bands, or the pattern gives them the same file.
    FileExistsError
        If a file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import read_psf_field, write_psf_field
    >>> narrow, wide = (np.asarray(jd.GaussianPSF(sigma).stamp(25)[0]) for sigma in (1.5, 2.0))
    >>> field = jd.PolynomialPSFField(np.array([[narrow, wide - narrow, 0 * wide]]), scale=(1000, 2000))
    >>> pattern = pathlib.Path(tempfile.mkdtemp()) / "{band}.psf"
    >>> _ = write_psf_field(pattern, field, ["r"])
    >>> [round(float(read_psf_field(pattern, ["r"]).at((0, x)).fwhm()[0]), 1) for x in (0, 2000)]
    [3.6, 4.8]
    """
    paths = tuple(Path(str(path).replace("{band}", band)) for band in bands)
    if field.n_bands != len(bands) or len(set(paths)) < len(bands):
        raise ValueError(
            f"bands: got {len(bands)} for a field of {field.n_bands} and {len(set(paths))} files; give the band of "
            "each, and a path with {band} in it."
        )
    for number, target in enumerate(paths):
        with atomic_path(target, overwrite=overwrite) as temporary:
            fits.HDUList([fits.PrimaryHDU(), _psfex_table(field, number)]).writeto(temporary)
    return paths


def _psfex_table(field: PolynomialPSFField, number: int) -> fits.BinTableHDU:
    """PSFEx counts pixels from 1, and takes x first."""
    images = np.asarray(field.coefficients[number], np.float32)
    column = fits.Column("PSF_MASK", f"{images.size}E", dim=str(images.shape[::-1]), array=images[None])
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header.update(POLNAXIS=2, POLNGRP=1, POLDEG1=field.degree, PSFNAXIS=3)
    table.header["PSF_SAMP"] = float(field.sampling[number])
    zero, scale = (np.asarray(values[number], float)[::-1] for values in (field.zero_point, field.scale))
    for axis, name in enumerate(("X_IMAGE", "Y_IMAGE")):
        cards = {"POLGRP": 1, "POLNAME": name, "POLZERO": float(zero[axis]) + 1, "POLSCAL": float(scale[axis])}
        table.header.update({f"{key}{axis + 1}": value for key, value in cards.items()})
    table.header.update({f"PSFAXIS{axis}": edge for axis, edge in enumerate(images.shape[::-1], 1)})
    return table


def _psfex_field(path: Path) -> PolynomialPSFField | None:
    """The model of one band, None if the file is not of PSFEx; errors name the file."""
    with open_fits(path) as hdus:
        table = next((hdu for hdu in hdus if "PSF_MASK" in _columns(hdu)), None)
        if table is None:
            return None
        try:
            return _polynomial_field(table.header, np.array(table.data["PSF_MASK"], float))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _columns(hdu: Any) -> list[str]:
    columns = getattr(hdu, "columns", None)  # of tables alone
    return [] if columns is None else list(columns.names)


def _polynomial_field(header: fits.Header, samples: np.ndarray) -> PolynomialPSFField:
    """PSFEx counts pixels from 1, and takes x first."""
    n_axes = _number(header, "POLNAXIS")
    if n_axes not in (0, 2):
        raise ValueError(f"POLNAXIS: got {n_axes:g}; only PSFs that vary with the position (2) or not at all (0).")
    zero, scale = np.zeros(2), np.ones(2)
    if n_axes == 2:
        _check_axes(header)
        zero = np.array([_number(header, f"POLZERO{axis}") for axis in (2, 1)]) - 1
        scale = np.array([_number(header, f"POLSCAL{axis}") for axis in (2, 1)])
    if samples.ndim < 3 or 0 in samples.shape:
        raise ValueError(f"PSF_MASK: got shape {samples.shape}; PSFEx writes an image for each term.")
    images = samples.reshape(1, -1, *samples.shape[-2:])
    degree = int(_number(header, "POLDEG1")) if n_axes == 2 else 0
    if not 0 <= degree <= _MOST_DEGREE:
        raise ValueError(f"POLDEG1: got {degree}; degrees from 0 to {_MOST_DEGREE} can be read.")
    if images.shape[1] != polynomials.n_terms(degree):
        raise ValueError(f"PSF_MASK: got {images.shape[1]} images for polynomials of degree {degree}.")
    return PolynomialPSFField(images, zero_point=zero, scale=scale, sampling=_number(header, "PSF_SAMP"))


def _check_axes(header: fits.Header) -> None:
    names = tuple(str(header.get(f"POLNAME{axis}", "")).strip() for axis in (1, 2))
    if not all(re.fullmatch(rf"{axis}\w*_IMAGE", name) for axis, name in zip("XY", names, strict=True)):
        raise ValueError(
            f"POLNAME: got {names}; only PSFs that vary with the position in pixels, (X_IMAGE, Y_IMAGE), can be read."
        )
    groups = [_number(header, key) for key in ("POLNGRP", "POLGRP1", "POLGRP2")]
    if groups != [1, 1, 1]:
        raise ValueError(f"POLNGRP: got {groups[0]:g} groups of axes; only one, of X_IMAGE and Y_IMAGE, can be read.")


def _number(header: fits.Header, key: str) -> float:
    value: object = header.get(key)
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{key}: got {value!r} in the header of PSF_DATA; PSFEx writes a number, and a finite one.")
    return float(value)


def _joined(fields: list[PolynomialPSFField]) -> PolynomialPSFField:
    """One field of all bands: zeros around the smaller images, and for the terms that others have."""
    degree, samples = max(field.degree for field in fields), max(field.coefficients.shape[-1] for field in fields)
    rank = {pair: term for term, pair in enumerate(polynomials.exponents(degree))}
    images = np.zeros((len(fields), len(rank), samples, samples))
    for band, field in zip(images, fields, strict=True):
        own = np.asarray(field.coefficients[0])
        margin = (samples - own.shape[-1]) // 2
        inside = slice(margin, samples - margin)
        for term, pair in enumerate(polynomials.exponents(field.degree)):
            band[rank[pair], inside, inside] = own[term]
    zero, scale, sampling = (
        np.concatenate([np.asarray(getattr(field, name)) for field in fields])
        for name in ("zero_point", "scale", "sampling")
    )
    edge = max(field.edge for field in fields)
    return PolynomialPSFField(images, zero_point=zero, scale=scale, sampling=sampling, edge=edge)


def _stamps(file: FilePlanes, bands: tuple[str, ...], pixel_scale: float | None) -> list[np.ndarray]:
    """Stamps of the bands in the pixels of the images."""
    found = _detector_stamp(file.path) or [(plane.data, plane.header) for plane in _planes(file, bands)]
    stamps = []
    for stamp, header in found:
        factor = oversampling_of(file.path, (header, file.primary), pixel_scale)
        stamps.append(stamp if factor == 1 else binned(np.asarray(stamp, float), factor))
    return stamps


def _detector_stamp(path: Path) -> list[tuple[np.ndarray, fits.Header]]:
    """Stamp of a file of STPSF, of the detector's pixels if its edge is odd; nothing if the file is another."""
    with open_fits(path) as hdus:
        known = {str(hdu.header.get("EXTNAME", "")).strip().upper(): hdu for hdu in hdus}
        found = [known[name] for name in DETECTOR_EXTENSIONS if name in known and np.ndim(known[name].data) == 2]
        stamps = [(np.array(hdu.data), hdu.header.copy()) for hdu in found]
    odd = [(stamp, header) for stamp, header in stamps if all(n % 2 for n in stamp.shape)]
    # a detector stamp of even edges is off its middle by half a pixel: the finer one gives an odd one
    return (odd or stamps[::-1])[:1]


def _planes(file: FilePlanes, bands: tuple[str, ...]) -> list[Plane]:
    """Images of the bands, or one that all share."""
    images = [plane for plane in file.planes if plane.role == "image"]
    if not images:
        raise ValueError(
            f"{file.path}: no image found; expected a PSF stamp (y, x) or a cube (band, y, x). Models of PSFEx are "
            "read by read_psf_field."
        )
    if len(images) == 1 and images[0].pixels.ndim == 2:
        return images
    found = file.find("image", bands)
    assert found is not None  # there are images
    return found


def _checked(path: Path, stamp: np.ndarray) -> ImagePSF:
    """PSF of one band; errors name the file."""
    try:
        psf = ImagePSF(stamp.astype(np.float32)[None])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not np.isfinite(np.asarray(psf.stamps)).all():
        raise ValueError(f"{path}: psf: got values as large as {np.abs(stamp).max():.3g}, beyond single precision.")
    dy, dx = core_centroid(np.asarray(psf.stamps[0]))
    if np.hypot(dy, dx) > CENTROID_TOLERANCE:
        logger.warning(
            "%s: the centroid of the PSF is offset from the middle of its stamp by (dy, dx) = (%+.2f, "
            "%+.2f) pixels; positions will be off by as much.",
            path,
            dy,
            dx,
        )
    return psf
