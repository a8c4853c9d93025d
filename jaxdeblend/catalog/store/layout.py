"""Layout of a store of models: its tables and columns, and the versions that came before.

A store is *columnar*: each property of all blends, sources or components lies in one array. It is *ragged*: what a
blend has several of (sources, pixels, …) lies one blend after the other in a table of its own, in which the blend
knows its first row and its number of rows.

In memory the columns of some blends are `Rows`: arrays by name (``"sources/center"``). There, blends know the numbers
of rows only, and components count pixels and parameters from the first of their own blend, so that rows of blends are
put together and taken apart without any arithmetic. First rows exist in files alone; see `with_first_rows`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS

from ..._version import __version__

SCHEMA_VERSION = 2
"""Version of the layout that is written."""

SOFTWARE = f"jaxdeblend {__version__}"
"""What is written as the author of a store."""

NOT_FITTED = -1
"""Status of a blend that has no model; others are those of `jaxdeblend.RESULTS`."""

Rows = dict[str, np.ndarray]
"""Columns of some blends, by name of table and column."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    dtype
        NumPy's name of the type; ``"float"`` is the precision of the store.
    meaning
        What it holds.
    width
        Numbers in each row: 1, or more, or ``"band"``, one for each band.
    """

    dtype: str
    meaning: str
    width: int | str = 1

    def empty(self, header: "StoreHeader") -> np.ndarray:
        """An array of this column without rows."""
        return np.zeros((0, *self.shape(header)), header.dtype if self.dtype == "float" else self.dtype)

    def shape(self, header: "StoreHeader") -> tuple[int, ...]:
        """Shape of a row."""
        width = len(header.bands) if isinstance(self.width, str) else self.width
        return () if self.width == 1 else (width,)


RAGGED = MappingProxyType(
    {
        "sources": "source",
        "stacks": "stack",
        "components": "component",
        "pixels": "pixel",
        "parameters": "parameter",
        "losses": "loss",
        "letters": "letter",
    }
)
"""Tables of which a blend has any number of rows, and what one row is called."""

TABLES: Mapping[str, Mapping[str, Column]] = MappingProxyType(
    {
        "blends": {
            "id": Column("int64", "the blend; rows are in its order"),
            "parent": Column("int64", "the parent"),
            "y0": Column("int64", "first row of the window, in pixels of the exposure"),
            "x0": Column("int64", "first column of the window"),
            "height": Column("int32", "rows of the window"),
            "width": Column("int32", "columns of the window"),
            "status": Column("int32", f"a value of RESULTS; {NOT_FITTED}: not fitted"),
            "n_steps": Column("int32", "steps of the optimizer"),
            "measured": Column("bool", "whether the sources were measured"),
            "chi2": Column("float64", "weighted sum of squared residuals, NaN if unknown"),
            "n_dof": Column("int64", "number of pixel values in it, less that of fluxes and positions"),
            **{f"n_{table}": Column("int64", f"number of its rows in {table}") for table in RAGGED},
        },
        "sources": {
            "id": Column("int64", "the source"),
            "row": Column("int64", "its row in the catalog"),
            "active": Column("bool", "False for padding"),
            "center": Column("float", "fitted position (y, x) in pixels of the window", 2),
            "detected": Column("float", "detected position (y, x), the centre of its prior", 2),
            "center_error": Column("float", "1σ error per axis of the detected position; 0: fixed"),
            "flux": Column("float", "total flux of the model, in image units", "band"),
            "flux_err": Column("float", "its 1σ error", "band"),
            "blendedness": Column("float", "share of other sources in the light within its image", "band"),
            "data_coverage": Column("float", "share of its light on usable pixels, NaN if unknown", "band"),
            "peak_flux": Column("float", "image at the detected position, NaN if unusable or unknown", "band"),
            "position": Column("float", "measured position (y, x) in pixels of the window", 2),
            "moments": Column("float", "second moments yy, yx, xx without the PSF, square pixels", 3),
            "n_components": Column("int32", "number of components that shine"),
            "flags": Column("int32", "bits of Flag"),
        },
        "stacks": {
            "kind": Column("int32", "what its components are: a line of kinds"),
            "n_components": Column("int32", "number of components, which follow one another"),
        },
        "components": {
            "source": Column("int32", "number of its source in the blend, from 0"),
            "kind": Column("int32", "what it is: a line of kinds"),
            "active": Column("bool", "False for padding"),
            "spectrum": Column("float", "brightness of the shape's maximum, NaN if it has no such array", "band"),
            "first_pixel": Column("int64", "first of its rows in pixels"),
            "first_parameter": Column("int64", "first of its rows in parameters"),
        },
        "pixels": {"value": Column("float", "images of all components, row after row")},
        "parameters": {"value": Column("float", "all other numbers of components, in the order of their kind")},
        "losses": {"value": Column("float", "negative log-posterior before each step of each blend")},
        "letters": {"value": Column("uint8", "why blends were not fitted, in UTF-8")},
    }
)
"""Columns of each table."""

FIRST_ROWS = MappingProxyType({"components/first_pixel": "pixels", "components/first_parameter": "parameters"})
"""Columns that count rows of another table."""


@dataclasses.dataclass(frozen=True, eq=False)
class StoreHeader:
    """What a store says about all of its blends.

    Parameters
    ----------
    bands
        Names of the bands.
    config
        Configuration of the run, as text (TOML).
    wcs
        Celestial coordinates of the exposure as FITS cards, ``wcs.to_header_string(relax=True)``; empty if unknown.
    model_psf
        PSF of model space, one stamp; None if it is the default of `jaxdeblend.Observation`.
    dtype
        ``"float32"``, or ``"float64"`` for models that were fitted in double precision.
    software
        What wrote it.
    unit
        Unit of the images; empty if unknown.

    Examples
    --------
    >>> from jaxdeblend.catalog import StoreHeader
    >>> StoreHeader(bands=("g", "r"), config="threshold = 5.0").disagreements(StoreHeader(bands=("g", "r")))
    ['config']
    """

    bands: tuple[str, ...]
    config: str = ""
    wcs: str = ""
    model_psf: np.ndarray | None = None
    dtype: str = "float32"
    software: str = SOFTWARE
    unit: str = ""

    def __post_init__(self):
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype: got {self.dtype!r}; give 'float32' or 'float64'.")
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands: got {self.bands}; give at least one name, each once.")

    def disagreements(self, other: "StoreHeader") -> list[str]:
        """Names of the fields in which another header differs; what wrote it, and an unknown unit, do not count."""
        same = {name: getattr(self, name) == getattr(other, name) for name in ("bands", "config", "wcs", "dtype")}
        same["unit"] = self.unit == other.unit or not (self.unit and other.unit)
        one, two = self.model_psf, other.model_psf
        same["model_psf"] = one is two if one is None or two is None else np.array_equal(one, two)
        return [name for name, equal in same.items() if not equal]

    @functools.cached_property
    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each column, by name of table and column."""
        return {name: column.dtype for name, column in empty_rows(self).items()}

    def celestial_wcs(self) -> WCS | None:
        """The celestial coordinates, None if unknown."""
        return WCS(Header.fromstring(self.wcs)) if self.wcs else None


@dataclasses.dataclass(frozen=True)
class Migration:
    """How a file of one version of the layout becomes one of the next, piece by piece as it is read.

    Attributes
    ----------
    header
        Takes and gives the fields of `StoreHeader` as a dictionary.
    kinds
        Takes and gives the lines of the kinds of components.
    rows
        Takes and gives the rows of some blends. Numbers of rows (``blends/n_…``) are what pieces are cut by: they must
        be there in every version.
    """

    header: Callable[[dict[str, Any]], dict[str, Any]] = lambda header: header
    kinds: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda kinds: kinds
    rows: Callable[[Rows], Rows] = lambda rows: rows


def _with_coverage(rows: Rows) -> Rows:
    """Version 1 did not know `data_coverage` and `peak_flux`: they are unknown."""
    if "sources/flux" not in rows:  # another table was asked for
        return rows
    unknown = np.full_like(rows["sources/flux"], np.nan)
    return rows | {"sources/data_coverage": unknown, "sources/peak_flux": unknown}


MIGRATIONS: Mapping[int, Migration] = MappingProxyType(
    {1: Migration(header=lambda header: header | {"unit": ""}, rows=_with_coverage)}
)
"""What leads from each older version to the next."""


def migrations_from(version: int, migrations: Mapping[int, Migration]) -> tuple[Migration, ...]:
    """Find what leads from a version to `SCHEMA_VERSION`, in order.

    Parameters
    ----------
    version
        Version of a file.
    migrations
        What leads from each version to the next.

    Returns
    -------
    tuple of Migration
        None for a file of this version.

    Raises
    ------
    ValueError
        If the version is newer, or there is no way.

    Examples
    --------
    >>> migrations_from(SCHEMA_VERSION, MIGRATIONS)
    ()
    """
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"written in version {version} of the layout; {SOFTWARE} knows those up to {SCHEMA_VERSION}: upgrade it"
        )
    missing = [step for step in range(version, SCHEMA_VERSION) if step not in migrations]
    if missing:
        raise ValueError(f"written in version {version} of the layout, which {SOFTWARE} cannot read any more")
    return tuple(migrations[step] for step in range(version, SCHEMA_VERSION))


def empty_rows(header: StoreHeader) -> Rows:
    """Columns without rows.

    Examples
    --------
    >>> empty_rows(StoreHeader(bands=("g", "r")))["sources/flux"].shape
    (0, 2)
    """
    return {
        f"{table}/{name}": column.empty(header) for table, columns in TABLES.items() for name, column in columns.items()
    }


def joined(pieces: Sequence[Rows], header: StoreHeader) -> Rows:
    """Put the rows of several pieces one after the other.

    Parameters
    ----------
    pieces
        Rows with the same columns.
    header
        Header of the store, for the types of columns if there is no piece.
    """
    if not pieces:
        return empty_rows(header)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def selected(rows: Rows, order: np.ndarray) -> Rows:
    """Take blends out of rows, in any order.

    Parameters
    ----------
    rows
        Rows of some blends; tables may be missing.
    order
        Places of the blends wanted.
    """
    places = {table: _places(rows[f"blends/n_{table}"], order) for table in RAGGED if table != "pixels"}
    places["blends"] = order
    taken = {name: column[places[name.split("/")[0]]] for name, column in rows.items() if name != "pixels/value"}
    if "pixels/value" in rows:  # so many that places of their own would take more room than they do
        stops = np.cumsum(rows["blends/n_pixels"])
        starts = stops - rows["blends/n_pixels"]
        pixels = rows["pixels/value"]
        taken["pixels/value"] = np.concatenate([pixels[:0], *(pixels[starts[k] : stops[k]] for k in order)])
    return {name: taken[name] for name in rows}


def _places(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows of a ragged table that belong to the blends in `order`, blend after blend."""
    first, wanted = (np.cumsum(counts) - counts)[order], counts[order]
    return np.repeat(first - (np.cumsum(wanted) - wanted), wanted) + np.arange(wanted.sum())


def split(rows: Rows) -> Iterator[Rows]:
    """Rows of one blend after the other."""
    stops = {table: np.cumsum(rows[f"blends/n_{table}"]) for table in RAGGED}
    n = len(rows["blends/id"])
    stops["blends"] = np.arange(1, n + 1)
    tables = {name: name.split("/")[0] for name in rows}
    for number in range(n):
        parts = {table: slice(stop[number - 1] if number else 0, stop[number]) for table, stop in stops.items()}
        yield {name: column[parts[tables[name]]] for name, column in rows.items()}


def totals(rows: Rows) -> dict[str, int]:
    """Count the rows of each table."""
    counts = {table: int(rows[f"blends/n_{table}"].sum()) for table in RAGGED}
    return {"blends": len(rows["blends/id"])} | counts


def with_first_rows(rows: Rows, before: Mapping[str, int]) -> Rows:
    """Number the rows of all tables, as files do.

    Parameters
    ----------
    rows
        Rows of some blends.
    before
        Number of rows of each table that come before.

    Returns
    -------
    Rows
        With the columns ``blends/first_…`` besides, and components that count from the first row of a table.
    """
    first = {
        table: before[table] + np.cumsum(rows[f"blends/n_{table}"]) - rows[f"blends/n_{table}"] for table in RAGGED
    }
    shifted = {
        name: rows[name] + np.repeat(first[table], rows["blends/n_components"]) for name, table in FIRST_ROWS.items()
    }
    return rows | shifted | {f"blends/first_{one}": first[table] for table, one in RAGGED.items()}


def without_first_rows(rows: Rows) -> Rows:
    """Undo `with_first_rows`."""
    counts = rows["blends/n_components"]
    shifted = {
        name: rows[name] - np.repeat(rows[f"blends/first_{RAGGED[table]}"], counts)
        for name, table in FIRST_ROWS.items()
        if name in rows
    }
    return {name: column for name, column in rows.items() if not name.startswith("blends/first_")} | shifted
