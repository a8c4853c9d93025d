"""Tables: positions in, catalogs out."""

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS

from .files import PathLike, atomic_path

logger = logging.getLogger(__name__)

PIXEL_COLUMNS = (
    ("x", "y"),
    ("xcentroid", "ycentroid"),
    ("x_centroid", "y_centroid"),
    ("x_peak", "y_peak"),
    ("XWIN_IMAGE", "YWIN_IMAGE"),
    ("X_IMAGE", "Y_IMAGE"),
)
"""Names of pixel columns (x, y) that are looked for, in this order."""

SKY_COLUMNS = (
    ("ra", "dec"),
    ("ALPHAWIN_J2000", "DELTAWIN_J2000"),
    ("ALPHA_J2000", "DELTA_J2000"),
    ("RAJ2000", "DEJ2000"),
    ("X_WORLD", "Y_WORLD"),
)
"""Names of sky columns (ra, dec) that are looked for."""

_FORMATS = {
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
    ".fits": "fits",
    ".fit": "fits",
    ".parquet": "parquet",
    ".xml": "votable",
    ".vot": "votable",
    ".votable": "votable",
    ".sex": "ascii.sextractor",
}
_WRITABLE = (".ecsv", ".fits", ".parquet")


def read_positions(
    path: PathLike,
    *,
    origin: int = 0,
    wcs: WCS | None = None,
    x: str | None = None,
    y: str | None = None,
    ra: str | None = None,
    dec: str | None = None,
) -> tuple[np.ndarray, Table]:
    """Read the positions of sources from a table.

    Parameters
    ----------
    path
        Table: ECSV, CSV, FITS, VOTable, SExtractor's ASCII, or whatever astropy recognises; Parquet with
        pyarrow.
    origin
        Number of the first pixel in the table: 0 (photutils, sep) or 1 (SExtractor, ds9, FITS).
    wcs
        Pixel grid, for tables of sky positions.
    x, y
        Names of pixel columns. By default those of `PIXEL_COLUMNS`, whatever their case.
    ra, dec
        Names of sky columns, in degrees (or their own unit), ICRS. By default, if there are no pixel
        columns, those of `SKY_COLUMNS`.

    Returns
    -------
    centers : np.ndarray
        Positions (source, 2) as (y, x) in pixels counted from 0; float64. One for every row of the table:
        NaN where it has no position.
    table : Table
        The table.

    Raises
    ------
    ValueError
        If the table is unreadable, or its columns are not found, or sky positions come without a WCS.
    FileNotFoundError
        If the file does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from astropy.table import Table
    >>> from jaxdeblend.io import read_positions
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "peaks.ecsv"
    >>> Table({"x": [11.0, 5.5], "y": [2.0, 3.0]}).write(path)
    >>> read_positions(path, origin=1)[0].tolist()
    [[1.0, 10.0], [2.0, 4.5]]
    """
    path = Path(path)
    if origin not in (0, 1):
        raise ValueError(f"origin: got {origin}; give 0 or 1, the number of the first pixel in the table.")
    if (x is None) != (y is None) or (ra is None) != (dec is None):
        raise ValueError("x, y: give the names of both columns of a position, or of none (and so for ra, dec).")
    table = _read_table(path)
    sky = _columns(path, table, (ra, dec), SKY_COLUMNS if x is None else ())
    pixel = None if ra is not None else _columns(path, table, (x, y), PIXEL_COLUMNS)
    if pixel is not None:
        _warn_of_origin(path, pixel, origin)
        columns = [_values(table[name]) - origin for name in pixel]
        return np.stack(columns[::-1], axis=1), table
    if sky is not None:
        return _from_sky(path, [_degrees(table[name]) for name in sky], wcs), table
    raise ValueError(
        f"{path}: no columns of positions found among {', '.join(table.colnames) or 'none at all'}; "
        "expected x and y, "
        "or ra and dec, or name them."
    )


def write_catalog(table: Table, path: PathLike, *, overwrite: bool = False) -> Path:
    """Write a catalog, whole or not at all.

    Parameters
    ----------
    table
        Table or QTable.
    path
        File ending in ``.ecsv``, ``.fits`` or ``.parquet`` (which needs the extra ``parquet``).
    overwrite
        Whether the file may exist already.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the ending is another.
    FileExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from astropy.table import Table
    >>> from jaxdeblend.io import write_catalog
    >>> write_catalog(Table({"id": [1, 2]}), pathlib.Path(tempfile.mkdtemp()) / "catalog.ecsv").name
    'catalog.ecsv'
    """
    path = Path(path)
    if path.suffix not in _WRITABLE:
        raise ValueError(f"path: got {path.name}; a catalog is written to {', '.join(_WRITABLE)}.")
    if path.suffix == ".parquet":
        _require_pyarrow(path)
    with atomic_path(path, overwrite=overwrite) as temporary:
        _fits_ready(table, path.suffix).write(temporary, format=_FORMATS[path.suffix])
    return path


def _fits_ready(table: Table, suffix: str) -> Table:
    """Copy with what FITS can hold: `meta` of numbers and short strings under upper-case keys, and units that it knows.

    Other units go into the descriptions of their columns.
    """
    if suffix != ".fits":
        return table
    copy = Table(table, copy=False)
    for info in (cast(Any, copy[name]).info for name in copy.colnames):
        if info.unit is not None and not _in_fits(info.unit):
            info.description = f"{info.description or info.name}, in {info.unit}"
            info.unit = None
    copy.meta = {
        str(key).upper()[:8]: value if isinstance(value, bool | int | float) else str(value)
        for key, value in (table.meta or {}).items()
        if len(str(value)) <= 60
    }
    return copy


def _in_fits(unit: units.UnitBase) -> bool:
    """Whether FITS has a name for a unit."""
    try:
        unit.to_string("fits")
    except ValueError:
        return False
    return True


def _read_table(path: Path) -> Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    kind = _FORMATS.get(path.suffix.lower())
    if kind == "parquet":
        _require_pyarrow(path)
    try:
        if kind == "fits":
            return QTable.read(path, format="fits", hdu=_table_extension(path))
        return QTable.read(path, format=kind) if kind else _read_unknown(path)
    except Exception as error:  # astropy's readers raise many kinds
        reason = str(error).strip().splitlines()
        raise ValueError(f"{path}: not a readable table ({reason[0] if reason else type(error).__name__}).") from error


def _read_unknown(path: Path) -> Table:
    """SExtractor's tables begin with '# 1 NAME'; the rest is left to astropy."""
    with path.open("rb") as file:
        start = file.read(256).split()
    if start[:2] == [b"#", b"1"]:
        return QTable.read(path, format="ascii.sextractor")
    if start[:1] == [b"SIMPLE"]:
        return QTable.read(path, format="fits", hdu=_table_extension(path))
    return QTable.read(path, format="ascii")


def _table_extension(path: Path) -> int:
    """Find the extension to read: SExtractor's LDAC_OBJECTS or else the first table."""
    with fits.open(path) as hdus:
        tables = {
            number: hdu.name for number, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
        }
    if not tables:
        raise ValueError("the FITS file holds no table")
    return next((number for number, name in tables.items() if name == "LDAC_OBJECTS"), min(tables))


def _columns(
    path: Path, table: Table, given: tuple[str | None, str | None], guesses: tuple[tuple[str, str], ...]
) -> tuple[str, str] | None:
    """Find the two columns given, or the first guess that the table has."""
    first, second = given
    if first is not None and second is not None:
        missing = [name for name in (first, second) if name not in table.colnames]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.colnames)}.")
        return first, second
    lower = {name.lower(): name for name in reversed(table.colnames)}
    for a, b in guesses:
        if a.lower() in lower and b.lower() in lower:
            return lower[a.lower()], lower[b.lower()]
    return None


def _warn_of_origin(path: Path, columns: tuple[str, str], origin: int) -> None:
    if origin == 0 and columns[0].upper() in ("X_IMAGE", "XWIN_IMAGE"):
        logger.warning(
            "%s: columns %s and %s look like SExtractor's, which count pixels from 1, but origin is 0; give "
            "origin=1 unless they were shifted.",
            path,
            *columns,
        )


def _values(column: Any) -> np.ndarray:
    """Column as float64 without unit, NaN where it is masked."""
    plain = getattr(column, "value", column)
    return np.ma.filled(np.ma.asarray(_unmasked(plain)).astype(float), np.nan)


def _unmasked(column: Any) -> Any:
    """Turn astropy's Masked quantities into NumPy's masked arrays."""
    if hasattr(column, "unmasked"):
        return np.ma.MaskedArray(column.unmasked, mask=column.mask)
    return column


def _degrees(column: Any) -> np.ndarray:
    unit = getattr(column, "unit", None)
    return _values(column) * (1.0 if unit is None else unit.to(units.deg))


def _from_sky(path: Path, sky: list[np.ndarray], wcs: WCS | None) -> np.ndarray:
    if wcs is None:
        raise ValueError(f"{path}: has sky positions only, but the images have no WCS; give pixel columns.")
    known = np.isfinite(sky[0]) & np.isfinite(sky[1])
    centers = np.full((len(known), 2), np.nan)
    if known.any():
        x, y = wcs.all_world2pix(sky[0][known], sky[1][known], 0, quiet=True)
        centers[known, 0], centers[known, 1] = y, x
    return centers


def _require_pyarrow(path: Path) -> None:
    try:
        import pandas  # noqa: F401 # pyright: ignore[reportMissingImports]
        import pyarrow  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"{path}: Parquet needs pandas and pyarrow: pip install 'jaxdeblend[parquet]'.") from error
