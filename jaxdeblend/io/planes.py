"""What the extensions of a FITS file hold: image, variance and mask planes of one band or several."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from .files import PathLike

logger = logging.getLogger(__name__)

DEFAULT_BAD_PLANES = ("BAD", "NO_DATA", "SAT", "SUSPECT", "EDGE", "SENSOR_EDGE", "UNMASKEDNAN")
"""Mask planes whose pixels are not used, where a file names its planes."""

ROLES = {
    "image": ("IMAGE", "SCI", "SCIENCE", "DATA", "COMPRESSED_IMAGE", ""),
    "variance": ("VARIANCE", "VAR"),
    "error": ("ERR", "ERROR", "RMS", "STDDEV", "STD", "SIGMA", "UNCERT"),
    "weight": ("WEIGHT", "WHT", "WGT", "INVVAR", "IVAR"),
    "mask": ("MASK", "MSK", "DQ", "MASKBITS"),
}
"""EXTNAMEs of each kind of plane."""

_UNCERTAINTY_TYPES = {
    "VarianceUncertainty": "variance",
    "StdDevUncertainty": "error",
    "InverseVariance": "weight",
}
"""What astropy's CCDData writes into UTYPE."""

_COLLECTIVE = "*"
"""Band of a plane that is not of one band: a cube, or a mask for all bands."""


class Plane(eqx.Module):
    """One plane of a FITS file.

    Attributes
    ----------
    role
        ``image``, ``variance``, ``error`` (1σ), ``weight`` (1 / variance, 0 where masked) or ``mask``.
    band
        Band, or ``*`` if the plane is of all of them.
    data
        Array (y, x) or (band, y, x).
    header
        Header of the extension.
    wcs
        Celestial WCS of an image, None if its header has none.
    """

    role: str = eqx.field(static=True)
    band: str = eqx.field(static=True)
    data: np.ndarray
    header: fits.Header = eqx.field(static=True)
    wcs: WCS | None = eqx.field(static=True, default=None)


class FilePlanes(eqx.Module):
    """The planes of one FITS file, by role and band.

    Attributes
    ----------
    path
        The file.
    planes
        Its image-like extensions, in order.
    """

    path: Path = eqx.field(static=True)
    planes: tuple[Plane, ...]

    def find(self, role: str, bands: Sequence[str]) -> list[Plane] | None:
        """Planes of a role, one per band; None if there are none.

        Parameters
        ----------
        role
            A key of `ROLES`.
        bands
            The bands to find.

        Returns
        -------
        list[Plane] | None
            Planes with `data` (y, x), or for masks possibly (band, y, x), one for each band.

        Raises
        ------
        ValueError
            If some bands are there and others are not, or a cube has the wrong number of bands.
        """
        own = [plane for plane in self.planes if plane.role == role]
        by_band = {plane.band: plane for plane in reversed(own) if plane.band != _COLLECTIVE}
        missing = [band for band in bands if band not in by_band]
        if by_band and missing:
            raise ValueError(
                f"{self.path}: found the {role} of band {', '.join(by_band)} but not of "
                f"{', '.join(missing)}; "
                "name the extensions IMAGE_<band>, VARIANCE_<band>, MASK_<band>."
            )
        if by_band:
            return [by_band[band] for band in bands]
        return _split(self.path, role, own, bands) if own else None


def read_planes(path: PathLike, bands: Sequence[str] = ()) -> FilePlanes:
    """Read all planes of a FITS file, plain or compressed (``.fz``, ``.gz``).

    Roles come from EXTNAME (`ROLES`), alone or joined with a band: ``IMAGE``, ``SCI``, ``g``, ``IMAGE_g``,
    ``g_VAR``. An unnamed primary image is an image. Extensions of other names, and tables, are left alone.

    Parameters
    ----------
    path
        The file.
    bands
        Bands that names of extensions may hold.

    Returns
    -------
    FilePlanes
        The planes.

    Raises
    ------
    ValueError
        If the file is not readable FITS.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> from jaxdeblend.io import read_planes
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "g.fits"
    >>> image, variance = (fits.ImageHDU(np.ones((8, 9)), name=name) for name in ("SCI", "VAR"))
    >>> fits.HDUList([fits.PrimaryHDU(), image, variance]).writeto(path)
    >>> [(plane.role, plane.data.shape) for plane in read_planes(path).planes]
    [('image', (8, 9)), ('variance', (8, 9))]
    """
    path = Path(path)
    with open_fits(path) as hdus:
        planes = [_plane(hdu, hdus, tuple(bands)) for hdu in hdus]
    return FilePlanes(path, tuple(plane for plane in planes if plane is not None))


@contextlib.contextmanager
def open_fits(path: PathLike) -> Iterator[Any]:
    """Open a FITS file; whatever goes wrong while it is read becomes one ValueError that names it.

    Parameters
    ----------
    path
        The file.

    Yields
    ------
    fits.HDUList
        Its extensions.

    Raises
    ------
    ValueError
        If the file is not readable FITS.
    FileNotFoundError
        If it does not exist.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    seen: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with fits.open(path, memmap=False) as hdus:
                yield hdus
    except (OSError, TypeError, ValueError, KeyError, fits.VerifyError) as error:
        reason = _truncation(seen) or _one_line(error)
        raise ValueError(f"{path}: not a readable FITS file ({reason}).") from error
    if _truncation(seen):
        raise ValueError(f"{path}: not a readable FITS file ({_truncation(seen)}).")
    for warning in seen:
        logger.debug("%s: %s", path, warning.message)


def _truncation(seen: list[warnings.WarningMessage]) -> str:
    """What astropy said about a file that ends too early, if it did."""
    return next((str(warning.message) for warning in seen if "truncated" in str(warning.message)), "")


def celestial_wcs(header: fits.Header, hdus: Any) -> WCS | None:
    """Celestial WCS of an image's first two axes, None if the header has none that can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(header, fobj=hdus, naxis=2)
        except Exception as error:  # wcslib raises many kinds; the pixels are still good
            logger.warning("%s: unreadable WCS (%s).", hdus.filename(), _one_line(error))
            return None
    return wcs if wcs.has_celestial else None


def bad_pixels(path: Path, plane: Plane, bad_mask: Sequence[str | int] | None) -> np.ndarray:
    """Pixels of a mask plane that are unusable.

    Parameters
    ----------
    path
        File, for error messages.
    plane
        Mask plane. Its ``MP_<name>`` cards give the bit of each named plane (LSST, HSC).
    bad_mask
        Names of planes or numbers of bits. None: those of `DEFAULT_BAD_PLANES` that the file names, or
        without names every bit.

    Returns
    -------
    np.ndarray
        True where unusable, in the shape of the plane.

    Raises
    ------
    ValueError
        If a plane is named that the file does not have.
    """
    values = plane.data
    if not np.issubdtype(values.dtype, np.integer):
        values = np.where(np.isfinite(values), values, 1).astype(np.int64)
    named = mask_planes(plane.header)
    if bad_mask is None and not named:
        return values != 0
    wanted = [name for name in DEFAULT_BAD_PLANES if name in named] if bad_mask is None else bad_mask
    unknown = [name for name in wanted if isinstance(name, str) and name not in named]
    if unknown:
        known = f"it has {', '.join(named)}" if named else "it names no planes (no MP_ cards), so give bit numbers"
        raise ValueError(f"bad_mask: got {', '.join(unknown)}, which the mask of {path} does not have; {known}.")
    bits = [named[name] if isinstance(name, str) else int(name) for name in wanted]
    pattern = np.bitwise_or.reduce(np.array([1 << bit for bit in bits], dtype=np.int64), initial=0)
    return (values.astype(np.int64) & pattern) != 0


def mask_planes(header: Any) -> dict[str, int]:
    """Bit number of each plane that ``MP_<name>`` cards of a mask's header name."""
    return {key[3:]: int(header[key]) for key in header if key.startswith("MP_")}


def _plane(hdu: Any, hdus: Any, bands: tuple[str, ...]) -> Plane | None:
    if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
        return None
    name = str(hdu.header.get("EXTNAME", "")).strip()
    found = _role("" if name.upper() == "PRIMARY" else name, hdu.header, bands)
    if found is None or hdu.data is None or hdu.data.ndim < 2:
        return None
    data = np.asarray(hdu.data)
    while data.ndim > 3 and data.shape[0] == 1:
        data = data[0]
    wcs = celestial_wcs(hdu.header, hdus) if found[0] == "image" else None
    return Plane(*found, data.astype(data.dtype.newbyteorder("=")), hdu.header, wcs)


def _role(name: str, header: Any, bands: tuple[str, ...]) -> tuple[str, str] | None:
    """Role and band of an extension, None for one that is of no interest."""
    kinds = {kind: role for role, names in ROLES.items() for kind in names}
    if name.upper() in kinds:
        return _UNCERTAINTY_TYPES.get(header.get("UTYPE", ""), kinds[name.upper()]), _COLLECTIVE
    for flags in (re.NOFLAG, re.IGNORECASE):  # y and Y can be two bands
        for band in bands:
            kind = _without_band(name, band, flags)
            if kind in kinds:
                return kinds[kind], band
    return None


def _without_band(name: str, band: str, flags: re.RegexFlag) -> str | None:
    """Strip the band off an EXTNAME: 'IMAGE' for IMAGE_g, '' for g, None if the band is not in it."""
    pattern = rf"(?:(?P<before>.+)[ _.\-:])?{re.escape(band)}(?:[ _.\-:](?P<after>.+))?"
    match = re.fullmatch(pattern, name, flags=flags)
    if match is None or (match["before"] and match["after"]):
        return None
    return (match["before"] or match["after"] or "").upper()


def _split(path: Path, role: str, own: list[Plane], bands: Sequence[str]) -> list[Plane]:
    """Planes of each band, from a cube, a list of equally named extensions, or one that all bands share."""
    first = own[0]
    if len(own) == len(bands) > 1 and all(plane.data.ndim == 2 for plane in own):
        return own
    if first.data.ndim == 2 and (len(bands) == 1 or role == "mask"):
        if len(own) > 1:
            logger.warning("%s: has %d extensions of the %s; the first is used.", path, len(own), role)
        return [Plane(role, band, first.data, first.header, first.wcs) for band in bands]
    if first.data.ndim == 3 and first.data.shape[0] == len(bands):
        return [Plane(role, band, data, first.header, first.wcs) for band, data in zip(bands, first.data, strict=True)]
    raise ValueError(
        f"{path}: its {role} has shape {first.data.shape}, expected {len(bands)} bands {tuple(bands)}; "
        "give a cube (band, y, x), one extension per band, or one file per band."
    )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
