"""What the extensions of a FITS file hold: image, variance and mask planes of one band or several."""

import dataclasses
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from .files import PathLike
from .pixels import FilePixels, open_fits, pixels_of
from .reading import one_line

logger = logging.getLogger(__name__)

ROLES = {
    "image": ("IMAGE", "SCI", "SCIENCE", "DATA", "COMPRESSED_IMAGE", ""),
    "variance": ("VARIANCE", "VAR"),
    "error": ("ERR", "ERROR", "RMS", "STDDEV", "STD", "SIGMA", "UNCERT"),
    "weight": ("WEIGHT", "WHT", "WGT", "INVVAR", "IVAR"),
    "exposure_time": ("EXP", "EXPTIME", "EXPMAP", "EXPOSURE", "TEXP"),
    "mask": ("MASK", "MSK", "DQ", "MASKBITS"),
}
"""EXTNAMEs of each kind of plane."""

_UNCERTAINTY_TYPES = {
    "VarianceUncertainty": "variance",
    "StdDevUncertainty": "error",
    "InverseVariance": "weight",
}
"""What astropy's CCDData writes into UTYPE."""

_MOST_SIP_ORDER = 20
"""Highest order of a SIP distortion that is believed; the convention has 2 to 9."""

_COLLECTIVE = "*"
"""Band of a plane that is not of one band: a cube, or a mask for all bands."""


@dataclasses.dataclass(frozen=True)
class Plane:
    """One plane of a FITS file; its pixels are read when they are asked for.

    Attributes
    ----------
    role
        ``image``, ``variance``, ``error`` (1σ), ``weight`` (1 / variance, 0 where masked), ``exposure_time`` or
        ``mask``.
    band
        Band, or ``*`` if the plane is of all of them.
    pixels
        Where its pixels are, (y, x) or (band, y, x).
    wcs
        Celestial WCS of an image, None if its header has none.
    """

    role: str
    band: str
    pixels: FilePixels
    wcs: WCS | None = None

    @property
    def data(self) -> np.ndarray:
        """All pixels, read from the file at each call."""
        return self.pixels.read()

    @property
    def header(self) -> fits.Header:
        """Header of the extension."""
        return self.pixels.header


@dataclasses.dataclass(frozen=True)
class FilePlanes:
    """The planes of one FITS file, by role and band.

    Attributes
    ----------
    path
        The file.
    planes
        Its image-like extensions, in order.
    primary
        Header of the first extension, which often holds what is true of all.
    """

    path: Path
    planes: tuple[Plane, ...]
    primary: fits.Header = dataclasses.field(repr=False)

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
            Planes of two axes (y, x), one for each band.

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
    """Find all planes of a FITS file, plain or compressed (``.fz``, ``.gz``).

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
        planes = [_plane(hdu, hdus, number, path, tuple(bands)) for number, hdu in enumerate(hdus)]
        primary = hdus[0].header.copy()
    return FilePlanes(path, tuple(plane for plane in planes if plane is not None), primary)


def celestial_wcs(header: fits.Header, hdus: Any) -> WCS | None:
    """Celestial WCS of an image's first two axes, None if the header has none that can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            _check_distortion(header)
            wcs = WCS(header, fobj=hdus, naxis=2)
            wcs.pixel_to_world_values(0, 0)  # some damage shows only in use
        except Exception as error:  # wcslib raises many kinds; the pixels are still good
            logger.warning("%s: unreadable WCS (%s).", hdus.filename(), one_line(error))
            return None
    return wcs if wcs.has_celestial else None


def _check_distortion(header: fits.Header) -> None:
    """Refuse orders of SIP polynomials for which Astropy would make arrays without end."""
    for key in ("A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER"):
        order: Any = header.get(key, 0)
        if not 0 <= order <= _MOST_SIP_ORDER:
            raise ValueError(f"{key} is {order}")


def _plane(hdu: Any, hdus: Any, number: int, path: Path, bands: tuple[str, ...]) -> Plane | None:
    if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
        return None
    name = str(hdu.header.get("EXTNAME", "")).strip()
    found = _role("" if name.upper() == "PRIMARY" else name, hdu.header, bands)
    pixels = None if found is None else pixels_of(hdu, path, number)
    if found is None or pixels is None:
        return None
    return Plane(*found, pixels, celestial_wcs(hdu.header, hdus) if found[0] == "image" else None)


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
    first = own[0].pixels
    if len(own) == len(bands) > 1 and all(plane.pixels.ndim == 2 for plane in own):
        return own
    if first.ndim == 2 and (len(bands) == 1 or role == "mask"):
        if len(own) > 1:
            logger.warning("%s: has %d extensions of the %s; the first is used.", path, len(own), role)
        return [Plane(role, band, first, own[0].wcs) for band in bands]
    if first.ndim == 3 and first.shape[0] == len(bands):
        return [Plane(role, band, first.of_plane(number), own[0].wcs) for number, band in enumerate(bands)]
    raise ValueError(
        f"{path}: its {role} has shape {first.shape}, expected {len(bands)} bands {tuple(bands)}; "
        "give a cube (band, y, x), one extension per band, or one file per band."
    )
