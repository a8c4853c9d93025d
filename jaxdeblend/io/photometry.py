"""What headers say about photometry: unit, zero point, filter."""

import re
from typing import Any

import numpy as np
from astropy import units

_ZERO_POINT_KEYWORDS = ("MAGZERO", "MAGZPT", "PHOTZP", "ZEROPNT", "MAGZP")

_NANOMAGGIES = ("nanomaggy", "nanomaggie", "nanomaggies", "nmgy")

_NANOMAGGY_ZERO_POINT = 22.5
"""AB magnitude of one nanomaggy."""


def unit_of(header: Any, primary: Any) -> str | None:
    """Unit of an image, BUNIT; None if no header has it.

    Parameters
    ----------
    header
        Header of the image.
    primary
        Primary header of its file, where the card may be instead.

    Examples
    --------
    >>> unit_of({"BUNIT": "nJy "}, {})
    'nJy'
    """
    unit = str(_first(("BUNIT",), header, primary) or "").strip()
    return unit or None


def filter_of(header: Any, primary: Any, band: str) -> str:
    """Name of the filter of an image, see `stated_filter`; that of the band if no header has it.

    Parameters
    ----------
    header, primary
        Headers of the image and of its file.
    band
        Name of the band.

    Examples
    --------
    >>> filter_of({}, {"FILTER": "HSC-R2"}, "r"), filter_of({}, {}, "r")
    ('HSC-R2', 'r')
    """
    return stated_filter(header, primary) or band


def stated_filter(*headers: Any) -> str | None:
    """Name of the filter that headers state: FILTER, or PUPIL where that is one (JWST), or FILTER1 or FILTER2 (HST).

    Examples
    --------
    >>> stated_filter({}, {"FILTER": "HSC-R2"}), stated_filter({"FILTER1": "CLEAR1L", "FILTER2": "F814W"})
    ('HSC-R2', 'F814W')
    >>> stated_filter({"FILTER": "F150W2", "PUPIL": "F162M"})
    'F162M'
    """
    pupil = str(_first(("PUPIL",), *headers) or "").strip()
    if re.fullmatch(r"F\d+\w+", pupil):  # light passes both wheels, and the filter of the pupil wheel is the narrower
        return pupil
    names = [str(_first((key,), *headers) or "").strip() for key in ("FILTER", "FILTER1", "FILTER2")]
    return next((name for name in names if name and not name.upper().startswith("CLEAR")), None)


def zero_point_of(header: Any, primary: Any) -> float:
    """AB magnitude of one image unit.

    From FLUXMAG0 (LSST, HSC: counts of magnitude 0), else from MAGZERO, MAGZPT, PHOTZP, ZEROPNT or MAGZP, else from
    PHOTFLAM and PHOTPLAM (HST), else from the unit: janskys, nanomaggies, or janskys per steradian with the pixel's
    area PIXAR_SR (JWST).

    Parameters
    ----------
    header, primary
        Headers of the image and of its file.

    Returns
    -------
    float
        The zero point, NaN if the headers do not say.

    Examples
    --------
    >>> zero_point_of({"BUNIT": "nJy"}, {}), zero_point_of({"MAGZERO": 27.0, "BUNIT": "nJy"}, {})
    (31.4, 27.0)
    """
    counts = _number(("FLUXMAG0",), header, primary)
    if counts is not None and counts > 0:
        return 2.5 * float(np.log10(counts))
    stated = _number(_ZERO_POINT_KEYWORDS, header, primary)
    if stated is not None:
        return stated
    flux, wavelength = (_number((key,), header, primary) for key in ("PHOTFLAM", "PHOTPLAM"))
    if flux and wavelength:
        density = flux * units.Unit("erg / (s cm2 AA)")
        return _ab_magnitude(density.to(units.Jy, units.spectral_density(wavelength * units.AA)))
    return _of_unit(unit_of(header, primary) or "", _number(("PIXAR_SR",), header, primary))


def _of_unit(text: str, pixel_area: float | None) -> float:
    """Zero point of a unit of flux, NaN of any other."""
    if text.lower() in _NANOMAGGIES:
        return _NANOMAGGY_ZERO_POINT
    unit: Any = units.Unit(text, parse_strict="silent")  # pyright: ignore[reportCallIssue]
    if unit.is_equivalent(units.Jy):
        return _ab_magnitude(1.0 * unit)
    if pixel_area and (unit * units.sr).is_equivalent(units.Jy):
        return _ab_magnitude(pixel_area * unit * units.sr)
    return float("nan")


def _ab_magnitude(flux: Any) -> float:
    return round(float(flux.to_value(units.ABmag)), 6)


def _number(keys: tuple[str, ...], *headers: Any) -> float | None:
    """First value that is a number."""
    values = [header[key] for header in headers for key in keys if key in header]
    found = [value for value in values if isinstance(value, float | int) and not isinstance(value, bool)]
    return float(found[0]) if found else None


def _first(keys: tuple[str, ...], *headers: Any) -> Any:
    return next((header[key] for header in headers for key in keys if key in header), None)
