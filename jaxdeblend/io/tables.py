"""Tables: positions in, catalogs out."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS

from .files import PathLike, atomic_path
from .fits_structure import check_structure
from .position_columns import degrees, find_columns, pixels, wanted_columns
from .reading import reading

logger = logging.getLogger(__name__)

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
    origin: int | None = None,
    wcs: WCS | None = None,
    columns: str | Sequence[str] | Mapping[str, str] | None = None,
    x: str | None = None,
    y: str | None = None,
    ra: str | None = None,
    dec: str | None = None,
    allow_empty: bool = False,
) -> tuple[np.ndarray, Table]:
    """Read the positions of sources from a table.

    Pixel columns are found by the names that photutils, sep, SExtractor, SourceXtractor++, LSST and the Tractor write,
    whatever their case; if there are none, sky columns (ICRS): numbers in degrees or their own unit (``coord_ra`` and
    ``coord_dec`` without a unit: radians), text (``12:34:56.7``, ``12h34m56.7s``), or `SkyCoord`.

    Parameters
    ----------
    path
        Table: ECSV, CSV, FITS, VOTable, SExtractor's ASCII, or whatever astropy recognises; Parquet with
        pyarrow.
    origin
        Number of the first pixel in the table: 0 (photutils, sep, LSST) or 1 (SExtractor, ds9, FITS). By default what
        the names of the columns tell, 1 for those of SExtractor and SourceXtractor++, and else 0.
    wcs
        Pixel grid, for tables of sky positions.
    columns
        Names of the columns: ``"Y,X"`` or ``("Y", "X")`` of pixels; ``"ra=NAME,dec=NAME"`` or a mapping of sky
        positions; one name of a column of `SkyCoord`.
    x, y, ra, dec
        The same, name by name.
    allow_empty
        Whether the table may have no rows.

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
        If the table is unreadable or has no rows, or its columns are not found or hold something else than
        positions, or sky positions come without a WCS.
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
    >>> Table({"COL": [11.0, 5.5], "ROW": [2.0, 3.0]}).write(path, overwrite=True)
    >>> read_positions(path, columns="ROW,COL")[0].tolist()
    [[2.0, 11.0], [3.0, 5.5]]
    """
    path = Path(path)
    if origin not in (None, 0, 1):
        raise ValueError(f"origin: got {origin}; give 0 or 1, the number of the first pixel in the table.")
    wanted = _wanted(columns, {"x": x, "y": y}, {"ra": ra, "dec": dec})
    table = _read_table(path)
    with reading(path, "table of positions"):
        try:
            found, counted_from = find_columns(table, wanted)
            if not len(table) and not allow_empty:
                raise ValueError("the table has columns, but no rows: there are no positions in it.")
            values = [pixels(table, found[key]) for key in ("y", "x")] if "x" in found else degrees(table, found)[::-1]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if "x" not in found:
        return _from_sky(path, values[0], values[1], wcs), table
    first = counted_from or 0 if origin is None else origin
    if counted_from is not None and first != counted_from:
        logger.warning(
            "%s: columns %s and %s usually count pixels from %d, but origin is %d; leave it out unless they were "
            "shifted.",
            *(path, found["x"], found["y"], counted_from, first),
        )
    return np.stack(values, axis=1) - first, table


def _wanted(
    columns: str | Sequence[str] | Mapping[str, str] | None, *pairs: Mapping[str, str | None]
) -> dict[str, str]:
    """Names of columns, of one of the ways to give them."""
    for pair in pairs:
        if len({name is None for name in pair.values()}) > 1:
            raise ValueError(f"{', '.join(pair)}: give the names of both columns of a position, or of none.")
    named = [{key: name for key, name in pair.items() if name is not None} for pair in pairs]
    given = [one for one in (wanted_columns(columns), *named) if one]
    if len(given) > 1:
        raise ValueError("columns: give the columns of one position, by columns, by x and y, or by ra and dec.")
    return given[0] if given else {}


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
    kind = _FORMATS.get(path.suffix.lower())
    with reading(path, "table"):
        if kind == "parquet":
            _require_pyarrow(path)
        if kind == "fits":
            return _fits_table(path)
        return QTable.read(path, format=kind) if kind else _read_unknown(path)


def _read_unknown(path: Path) -> Table:
    """SExtractor's tables begin with '# 1 NAME'; the rest is left to astropy."""
    with path.open("rb") as file:
        start = file.read(256)
    if start.split()[:2] == [b"#", b"1"]:
        return QTable.read(path, format="ascii.sextractor")
    if start.startswith((b"SIMPLE", b"\x1f\x8b")):
        return _fits_table(path)
    if b"\0" in start:  # no text: to guess its delimiters would take long
        raise ValueError("neither text nor FITS")
    return QTable.read(path, format="ascii")


def _fits_table(path: Path) -> Table:
    """Table of SExtractor's LDAC_OBJECTS, or else the first."""
    check_structure(path)
    with fits.open(path, memmap=False) as hdus:
        tables = {
            number: hdu.name for number, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
        }
    if not tables:
        raise ValueError("the FITS file holds no table")
    number = next((number for number, name in tables.items() if name == "LDAC_OBJECTS"), min(tables))
    return QTable.read(path, format="fits", hdu=number)


def _from_sky(path: Path, dec: np.ndarray, ra: np.ndarray, wcs: WCS | None) -> np.ndarray:
    if wcs is None:
        raise ValueError(f"{path}: has sky positions only, but the images have no WCS; give pixel columns.")
    known = np.isfinite(ra) & np.isfinite(dec)
    centers = np.full((len(known), 2), np.nan)
    if known.any():
        x, y = wcs.all_world2pix(ra[known], dec[known], 0, quiet=True)
        centers[known, 0], centers[known, 1] = y, x
    return centers


def _require_pyarrow(path: Path) -> None:
    try:
        import pandas  # noqa: F401 # pyright: ignore[reportMissingImports]
        import pyarrow  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"{path}: Parquet needs pandas and pyarrow: pip install 'jaxdeblend[parquet]'.") from error
