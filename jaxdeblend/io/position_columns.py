"""Columns of positions in the tables of other programs: their names, what they count from, and their units."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units
from astropy.coordinates import Angle, SkyCoord
from astropy.table import Table
from jaxtyping import Bool, Float

logger = logging.getLogger(__name__)

PIXEL_COLUMNS: tuple[tuple[str, str, int | None], ...] = (
    ("x", "y", None),
    ("xcentroid", "ycentroid", 0),  # photutils, sep
    ("x_centroid", "y_centroid", 0),
    ("x_fit", "y_fit", 0),
    ("x_peak", "y_peak", 0),
    ("XWIN_IMAGE", "YWIN_IMAGE", 1),  # SExtractor
    ("X_IMAGE", "Y_IMAGE", 1),
    ("XPSF_IMAGE", "YPSF_IMAGE", 1),
    ("pixel_centroid_x", "pixel_centroid_y", 1),  # SourceXtractor++
    ("slot_Centroid_x", "slot_Centroid_y", 0),  # LSST
    ("base_SdssCentroid_x", "base_SdssCentroid_y", 0),
    ("centroid_x", "centroid_y", 0),
    ("bx", "by", 0),  # Tractor
    ("x_init", "y_init", 0),
)
"""Names of pixel columns (x, y) in the order in which they are looked for; number of the first pixel, if known."""

SKY_COLUMNS = (
    ("ra", "dec"),
    ("ALPHAWIN_J2000", "DELTAWIN_J2000"),
    ("ALPHA_J2000", "DELTA_J2000"),
    ("ALPHAPSF_J2000", "DELTAPSF_J2000"),
    ("RAJ2000", "DEJ2000"),
    ("RA_ICRS", "DE_ICRS"),
    ("raMean", "decMean"),
    ("world_centroid_alpha", "world_centroid_delta"),
    ("coord_ra", "coord_dec"),
    ("X_WORLD", "Y_WORLD"),
)
"""Names of sky columns (ra, dec) that are looked for."""

_RADIANS = ("coord_ra", "coord_dec")
"""Columns of the LSST pipelines, in radians where they have no unit."""

_SEXAGESIMAL = re.compile(r"\s*[+-]?\d+\s*[:hd\s]\s*\d+.*", re.IGNORECASE)
"""Degrees or hours, and minutes after them."""


def wanted_columns(columns: str | Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Names of the columns of a position, by what they are: x and y, ra and dec, or sky.

    Parameters
    ----------
    columns
        ``"NAME,NAME"`` or two names: pixels, in the order y, x. ``"ra=NAME,dec=NAME"`` or a mapping: what it says. One
        name: a column of `SkyCoord`.

    Returns
    -------
    dict[str, str]
        Names; empty if there are none.

    Raises
    ------
    ValueError
        If they are not those of one position.

    Examples
    --------
    >>> wanted_columns("YPOS,XPOS"), wanted_columns("ra=R,dec=D")
    ({'y': 'YPOS', 'x': 'XPOS'}, {'ra': 'R', 'dec': 'D'})
    """
    if columns is None:
        return {}
    given: Mapping[str, str] | list[str]
    if isinstance(columns, Mapping):
        given = columns
    else:
        given = [name.strip() for name in (columns.split(",") if isinstance(columns, str) else columns)]
        if all("=" in name for name in given):
            given = {key.strip(): name.strip() for key, _, name in (text.partition("=") for text in given)}
    if isinstance(given, Mapping) and set(given) in ({"x", "y"}, {"ra", "dec"}, {"sky"}) and all(given.values()):
        return dict(given)
    if isinstance(given, list) and len(given) in (1, 2) and all(given):
        keys = ("y", "x") if len(given) == 2 else ("sky",)
        return dict(zip(keys, _in_order(given), strict=True))
    raise ValueError(
        f"columns: got {columns!r}; give two names of pixel columns in the order 'Y,X', or 'x=NAME,y=NAME', or "
        "'ra=NAME,dec=NAME'."
    )


def _in_order(names: Sequence[str]) -> Sequence[str]:
    """The names, unless they are well known to be something else than (y, x)."""
    pair = tuple(name.lower() for name in names)
    if pair in {(x.lower(), y.lower()) for x, y, _ in PIXEL_COLUMNS}:
        raise ValueError(f"columns: got {','.join(names)}, x before y; the order is y, x: {names[1]},{names[0]}.")
    for ra, dec in SKY_COLUMNS:
        if sorted(pair) == sorted((ra.lower(), dec.lower())):
            raise ValueError(f"columns: got {','.join(names)}, which are on the sky; say ra={ra},dec={dec}.")
    return names


def find_columns(table: Table, wanted: Mapping[str, str]) -> tuple[dict[str, str], int | None]:
    """Find the columns of positions: those that are wanted, or else the first that are known.

    Parameters
    ----------
    table
        The table.
    wanted
        What `wanted_columns` gives.

    Returns
    -------
    found, origin
        Names, as `wanted_columns` gives them, and the number of the first pixel where the names tell it.

    Raises
    ------
    ValueError
        If there are none.
    """
    names = list(table.colnames)
    if wanted:
        if missing := [name for name in wanted.values() if name not in names]:
            raise ValueError(f"no column {', '.join(missing)}; it has {', '.join(names)}.")
        known = {x: origin for x, _, origin in PIXEL_COLUMNS}
        return dict(wanted), known.get(wanted.get("x", ""))
    lower = {name.lower(): name for name in reversed(names)}
    for x, y, origin in PIXEL_COLUMNS:
        if x.lower() in lower and y.lower() in lower:
            return {"x": lower[x.lower()], "y": lower[y.lower()]}, origin
    for ra, dec in SKY_COLUMNS:
        if ra.lower() in lower and dec.lower() in lower:
            return {"ra": lower[ra.lower()], "dec": lower[dec.lower()]}, None
    for name in names:
        if isinstance(table[name], SkyCoord):
            return {"sky": name}, None
    raise ValueError(
        f"no columns of positions found among {', '.join(names) or 'none at all'}; expected x and y, or ra and dec; or "
        "name them: columns='Y,X' or columns='ra=NAME,dec=NAME' in Python, --columns Y,X on the command line."
    )


def pixels(table: Table, name: str) -> Float[np.ndarray, " source"]:
    """Column of pixels as float64, NaN where it is masked."""
    return _numbers(name, table[name])


def degrees(table: Table, found: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination in degrees, ICRS; NaN where a position is missing.

    Parameters
    ----------
    table
        The table.
    found
        What `find_columns` gives, of columns on the sky.

    Returns
    -------
    ra, dec
        In degrees.

    Raises
    ------
    ValueError
        If a value cannot be understood.
    """
    if "sky" in found:
        column: Any = table[found["sky"]]
        if not isinstance(column, SkyCoord):
            raise ValueError(f"column {found['sky']} is no column of SkyCoord; give two names.")
        sky: Any = column.icrs
        return _as_array(sky.ra.deg), _as_array(sky.dec.deg)
    ra, dec = (_angle(found[key], table[found[key]], key) for key in ("ra", "dec"))
    if all(found[key].lower() in _RADIANS and _unitless(table[found[key]]) for key in ("ra", "dec")):
        ra, dec = _from_radians(found, ra, dec)
    if np.any(np.abs(dec) > 90 + 1e-9) or np.any(np.abs(ra) > 360 + 1e-9):  # NaN is not greater
        raise ValueError(
            f"columns {found['ra']} and {found['dec']}: right ascension beyond 360, or declination beyond 90 degrees."
        )
    return ra, dec


def _from_radians(found: Mapping[str, str], ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """LSST wrote radians without a unit, and degrees since; values that no radians can have are degrees."""
    if np.any(np.abs(ra) > 2 * np.pi) or np.any(np.abs(dec) > np.pi / 2):
        return ra, dec
    logger.warning("columns %s and %s have no unit; taken to be radians, as in LSST tables.", found["ra"], found["dec"])
    return np.degrees(ra), np.degrees(dec)


def _unitless(column: Any) -> bool:
    return getattr(column, "unit", None) is None and np.asarray(column).dtype.kind not in "USO"


def _angle(name: str, column: Any, key: str) -> np.ndarray:
    """Angles in degrees, of numbers or of text: 12:34:56.7, 12h34m56.7s, 188.7."""
    unit = getattr(column, "unit", None)
    if np.asarray(column).dtype.kind not in "USO":
        factor = 1.0 if unit is None or unit == units.dimensionless_unscaled else unit.to(units.deg)
        return _numbers(name, column) * factor
    texts, missing = _texts(column)
    found = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if missing[row]:
            continue
        try:
            if _SEXAGESIMAL.fullmatch(text):  # right ascensions are hours, unless the text says degrees
                found[row] = Angle(text, units.hourangle if key == "ra" else units.deg).deg
            else:
                found[row] = float(text) if unit is None else float(text) * unit.to(units.deg)
        except ValueError as error:
            raise ValueError(f"column {name}, row {row + 1}: {text!r} is no angle.") from error
    return found


def _numbers(name: str, column: Any) -> np.ndarray:
    """Column as float64 without unit, NaN where it is masked."""
    plain = _unmasked(getattr(column, "value", column))
    if np.asarray(plain).ndim != 1:
        raise ValueError(f"column {name} has {np.asarray(plain).ndim - 1} values in each row; give one of numbers.")
    if np.asarray(plain).dtype.kind not in "USO":
        return np.ma.filled(np.ma.asarray(plain).astype(float), np.nan)
    texts, missing = _texts(column)
    found = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        try:
            found[row] = np.nan if missing[row] else float(text)
        except ValueError as error:
            raise ValueError(f"column {name}, row {row + 1}: {text!r} is no number.") from error
    return found


def _texts(column: Any) -> tuple[list[str], Bool[np.ndarray, " source"]]:
    """Values as text, and which of them are missing."""
    values = np.ma.asarray(_unmasked(column))
    texts = [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in np.ma.getdata(values)]
    empty = np.array([text.strip() in ("", "--", "None") for text in texts], bool)
    return texts, np.ma.getmaskarray(values) | empty


def _unmasked(column: Any) -> Any:
    """Turn astropy's Masked quantities into NumPy's masked arrays."""
    if hasattr(column, "unmasked"):
        return np.ma.MaskedArray(column.unmasked, mask=column.mask)
    return column


def _as_array(values: Any) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(_unmasked(values)).astype(float), np.nan)
