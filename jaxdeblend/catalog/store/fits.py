"""Stores of models as FITS binary tables, for exchange: to them and back without the loss of a bit."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ...io import PathLike, atomic_path
from ...io.planes import open_fits
from .files import FORMAT, texts_of, write_file
from .layout import (
    MIGRATIONS,
    RAGGED,
    SCHEMA_VERSION,
    TABLES,
    Migration,
    Rows,
    StoreHeader,
    empty_rows,
    migrations_from,
    selected,
    totals,
    with_first_rows,
    without_first_rows,
)
from .merge import Merged, blocks_of, open_store

_CODES = {"int64": "K", "int32": "J", "bool": "L", "uint8": "B", "float32": "E", "float64": "D"}
_CARDS = {"software": "SOFTWARE", "dtype": "DTYPE"}


def store_to_fits(path: PathLike, out: PathLike, *, overwrite: bool = False) -> Path:
    """Write a store as a FITS file, whole or not at all.

    Each table of the store is a binary table with the same columns, pixels are one of a single column; the table ABOUT
    holds the texts, in UTF-8; the image MODEL_PSF the PSF of model space, if there is one. The store is held in memory.

    Parameters
    ----------
    path
        The store.
    out
        The file, ``.fits``.
    overwrite
        Whether it may exist already.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the store is damaged.
    FileExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with jd.StoreWriter.create(folder / "models.h5", jd.StoreHeader(bands=("g",))) as writer:
    ...     writer.append(jd.StoredBlend(5, 0, jd.Box((0, 0), (8, 8)), np.zeros(1, int), reason="masked"))
    >>> _ = jd.store_to_fits(folder / "models.h5", folder / "models.fits")
    >>> _ = jd.store_from_fits(folder / "models.fits", folder / "again.h5")
    >>> jd.ModelStore(folder / "again.h5").digest() == jd.ModelStore(folder / "models.h5").digest()
    True
    """
    merged = Merged(open_store(Path(path)))
    rows = with_first_rows(merged.rows(0, len(merged.ids)), dict.fromkeys(TABLES, 0))
    primary = fits.PrimaryHDU()
    primary.header["FORMAT"], primary.header["SCHEMA"] = FORMAT, SCHEMA_VERSION
    for name, card in _CARDS.items():
        primary.header[card] = getattr(merged.header, name)
    hdus = [primary, _about(merged.header, merged.kinds)]
    if merged.header.model_psf is not None:
        hdus.append(fits.ImageHDU(merged.header.model_psf, name="MODEL_PSF"))
    with atomic_path(out, overwrite=overwrite) as temporary:
        fits.HDUList(hdus + [_table(name, rows) for name in TABLES]).writeto(temporary, checksum=True)
    return Path(out)


def store_from_fits(
    path: PathLike, out: PathLike, *, overwrite: bool = False, migrations: Mapping[int, Migration] = MIGRATIONS
) -> Path:
    """Make a store of the FITS file that `store_to_fits` wrote.

    Parameters
    ----------
    path
        The FITS file.
    out
        The store to write, ``.h5``.
    overwrite
        Whether it may exist already.
    migrations
        What leads from older versions of the layout to this one.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    ValueError
        If the file is damaged, or no store.
    FileExistsError
        If the store exists and `overwrite` is not set.

    Examples
    --------
    >>> import jaxdeblend as jd                            # there and back: see store_to_fits
    >>> jd.store_from_fits("none.fits", "none.h5")
    Traceback (most recent call last):
    FileNotFoundError: none.fits: no such file.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out}: exists already; remove it, or allow overwriting.")
    with open_fits(path, checksum=True) as hdus:
        if hdus[0].header.get("FORMAT") != FORMAT:
            raise ValueError("not a store of models: it was not written by store_to_fits")
        steps = migrations_from(int(hdus[0].header["SCHEMA"]), migrations)
        fields, kinds = _read_about(hdus)
        rows = without_first_rows({name: column for table in TABLES for name, column in _columns(hdus, table).items()})
        for step in steps:
            fields, kinds, rows = step.header(fields), step.kinds(kinds), step.rows(rows)
        header = StoreHeader(**fields)
        rows = _checked(rows, header, len(kinds))
    out.parent.mkdir(parents=True, exist_ok=True)
    blocks = (selected(rows, np.arange(*block)) for block in blocks_of(rows["blends/n_pixels"]))
    write_file(out, header, kinds, totals(rows), blocks)
    return out


def _checked(rows: Rows, header: StoreHeader, n_kinds: int) -> Rows:
    """The rows, if tables have their columns and rows, and kinds of components are known."""
    rows = dict(rows)
    for name, empty in empty_rows(header).items():
        found = rows.get(name)
        size = math.prod(empty.shape[1:])
        if found is None or found.dtype != empty.dtype or math.prod(found.shape[1:]) != size:
            raise ValueError(f"damaged: the column {name} is missing or of another type")
        rows[name] = found.reshape(len(found), *empty.shape[1:])  # FITS has no vectors of one number
    if any(np.any(rows[f"blends/n_{table}"] < 0) for table in RAGGED):
        raise ValueError("damaged: a blend has less than no rows of a table")
    for table, count in totals(rows).items():
        if any(len(rows[f"{table}/{name}"]) != count for name in TABLES[table]):
            raise ValueError(f"the table {table.upper()} does not have {count} rows")
    for name in ("stacks/kind", "components/kind"):
        if len(rows[name]) and not (0 <= rows[name].min() and rows[name].max() < n_kinds):
            raise ValueError(f"damaged: a component is of none of its {n_kinds} kinds")
    if np.any(np.diff(rows["blends/id"]) <= 0):
        raise ValueError("damaged: blends are not in order")
    return rows


def _about(header: StoreHeader, kinds: tuple[str, ...]) -> fits.BinTableHDU:
    """Texts as bytes of any length: FITS strings hold ASCII alone, and lose spaces at their end."""
    texts = {
        "config": header.config,
        "wcs": header.wcs,
        "unit": header.unit,
        "bands": json.dumps(header.bands),
        "kinds": json.dumps(list(kinds)),
    }
    values = np.empty(len(texts), dtype=object)
    for number, text in enumerate(texts.values()):
        values[number] = np.frombuffer(text.encode(), np.uint8)
    columns = [fits.Column("NAME", "16A", array=np.array(list(texts))), fits.Column("TEXT", "PB()", array=values)]
    return fits.BinTableHDU.from_columns(columns, name="ABOUT")


def _read_about(hdus: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    texts = {str(row["NAME"]): bytes(row["TEXT"]).decode() for row in hdus["ABOUT"].data}
    fields: dict[str, Any] = {name: texts[name] for name in ("config", "wcs", "unit") if name in texts}
    fields["bands"] = texts_of(texts["bands"])
    fields["model_psf"] = _native(hdus["MODEL_PSF"].data) if "MODEL_PSF" in hdus else None
    fields |= {name: str(hdus[0].header[card]) for name, card in _CARDS.items()}
    return fields, texts_of(texts["kinds"])


def _table(table: str, rows: Rows) -> fits.BinTableHDU:
    columns = []
    for name, column in rows.items():
        if name.split("/")[0] == table:
            width = "" if column.ndim == 1 else str(column.shape[1])
            columns.append(fits.Column(name.split("/")[1], width + _CODES[column.dtype.name], array=column))
    return fits.BinTableHDU.from_columns(columns, name=table.upper())


def _columns(hdus: Any, table: str) -> Rows:
    data = hdus[table.upper()].data
    return {f"{table}/{name}": _native(data[name]) for name in data.names}


def _native(values: np.ndarray) -> np.ndarray:
    return np.array(values, dtype=values.dtype.newbyteorder("="))
