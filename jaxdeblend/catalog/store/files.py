"""Files of stores: HDF5 that is written in one go, and read piece by piece.

A file is never open for writing for longer than it takes to write it, under a temporary name: HDF5 does not survive
that its writer is killed. How a run goes on after that is the matter of `jaxdeblend.catalog.store`.
"""

import contextlib
import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...io.reading import named_errors, require_file
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
    with_first_rows,
    without_first_rows,
)

FORMAT = "jaxdeblend models"
"""Attribute ``format`` by which a file is recognised."""

LEVEL = 4
"""Level of gzip of finished stores; higher ones gain nothing on fitted models."""

_CHUNKS = {"pixels": 32768, "parameters": 8192, "losses": 8192, "letters": 8192}
_TABLE_CHUNK = 1024
_ABOUT = ("config", "wcs", "unit")

KIND = "store of models"
"""Name of these files in errors about damaged ones."""

_MOST_COMPRESSED = 1100
"""Bytes that a byte of a file may stand for; gzip makes 1032 of one."""


def require_h5py() -> Any:
    """Import h5py.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("stores of models need h5py: pip install 'jaxdeblend[store]'.") from error
    return h5py


class StoreFile:
    """A file of a store, open for reading; blends are in the order of their ids.

    Parameters
    ----------
    path
        The file.
    migrations
        What leads from older versions of the layout to this one.

    Attributes
    ----------
    header
        What it says about all of its blends.
    kinds
        Lines of the kinds of components.
    ids
        Numbers of the blends, increasing.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or no store, or of a version that is not known.
    """

    def __init__(self, path: Path, migrations: Mapping[int, Migration] = MIGRATIONS):
        self.path = path
        self._handle: Any = None
        self._datasets: dict[str, Any] = {}
        require_file(path)
        with self.reading():
            if self._handle.attrs.get("format") != FORMAT:
                raise ValueError("it was not written by jaxdeblend")
            self._steps = migrations_from(int(self._handle.attrs["schema_version"]), migrations)
            self.header, self.kinds = self._read_header(), self._read_kinds()
            self._check_columns()
            self.ids = self._datasets["blends/id"][:]
            self._first = {table: self._first_rows(table, one) for table, one in RAGGED.items()}
            self._check()

    def open(self) -> None:
        """Open the file, and leave it open."""
        if self._handle is None:
            # a file does not change any more: locks, which some shared disks lack, are not needed
            self._handle = require_h5py().File(self.path, "r", locking=False)
            for table in {*TABLES, "about"} & self._handle.keys():
                for name, dataset in self._handle[table].items():
                    if not hasattr(dataset, "dtype"):  # a group, a link to nowhere, or a type
                        raise ValueError(f"damaged: {table}/{name} is no array")
                    self._datasets[f"{table}/{name}"] = dataset

    def close(self) -> None:
        """Close the file; it is opened again when it is read."""
        if self._handle is not None:
            self._handle.close()
        self._handle, self._datasets = None, {}

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Open the file, if it is not, and say of what goes wrong that this file is damaged."""
        closed = self._handle is None
        try:
            with named_errors(self.path, KIND):
                self.open()
                yield
        finally:
            if closed:
                self.close()

    def counts(self, table: str) -> np.ndarray:
        """Number of rows of a table that each blend has."""
        return np.diff(self._first[table])

    def rows(self, start: int, stop: int, tables: Sequence[str] = tuple(TABLES)) -> Rows:
        """Read some blends that follow one another.

        Parameters
        ----------
        start, stop
            Places of the first, and of the one after the last.
        tables
            Names of the tables wanted.
        """
        with self.reading():
            parts = {"blends": slice(start, stop)}
            parts |= {table: slice(int(first[start]), int(first[stop])) for table, first in self._first.items()}
            tables = ("blends", *(table for table in tables if table != "blends"))
            rows = without_first_rows(
                {
                    name: dataset[parts[name.split("/")[0]]]
                    for name, dataset in self._datasets.items()
                    if name.split("/")[0] in tables
                }
            )
            for step in self._steps:
                rows = step.rows(rows)
            names = [f"{table}/{name}" for table in tables for name in TABLES[table]]
            return {name: rows[name] for name in names}

    def _read_header(self) -> StoreHeader:
        there = [name for name in _ABOUT if f"about/{name}" in self._datasets or not self._steps]
        fields: dict[str, Any] = {name: self._datasets[f"about/{name}"][()].decode() for name in there}
        fields["bands"] = texts_of(self._datasets["about/bands"][()])
        psf = self._datasets.get("about/model_psf")
        fields["model_psf"] = None if psf is None else self._model_psf(psf)
        fields |= {name: str(self._handle.attrs[name]) for name in ("dtype", "software")}
        for step in self._steps:
            fields = step.header(fields)
        return StoreHeader(**fields)

    def _read_kinds(self) -> tuple[str, ...]:
        kinds = texts_of(self._datasets["about/kinds"][()])
        for step in self._steps:
            kinds = step.kinds(kinds)
        return kinds

    def _first_rows(self, table: str, one: str) -> np.ndarray:
        """First row of each blend, and the number of all rows."""
        first, counts = self._datasets[f"blends/first_{one}"][:], self._datasets[f"blends/n_{table}"][:]
        stops = np.concatenate([[0], np.cumsum(counts)])
        if np.any(counts < 0):
            raise ValueError(f"damaged: a blend has less than no rows of {table}")
        if not np.array_equal(first, stops[:-1]):
            raise ValueError(f"damaged: the rows of {table} do not follow one another")
        return stops

    def _model_psf(self, dataset: Any) -> np.ndarray:
        self._check_size("about/model_psf", dataset)
        stamp = dataset[:]
        if stamp.ndim != 2 or stamp.dtype.kind != "f" or not np.isfinite(stamp).all():
            raise ValueError("damaged: the PSF of model space is no stamp of finite numbers")
        return stamp

    def _check_columns(self) -> None:
        """Columns are there, of their types, and not larger than the file can hold."""
        expected = {name: column for name, column in empty_rows(self.header).items()}
        expected |= {f"blends/first_{one}": np.zeros(0, np.int64) for one in RAGGED.values()}
        for name, dataset in self._datasets.items():
            if name in expected and (dataset.dtype, dataset.shape[1:]) != (
                expected[name].dtype,
                expected[name].shape[1:],
            ):
                raise ValueError(f"damaged: {name} is of type {dataset.dtype} and shape {dataset.shape}")
            self._check_size(name, dataset)
        if missing := [name for name in expected if name not in self._datasets and not self._steps]:
            raise ValueError(f"damaged: it has no {missing[0]}")

    def _check_size(self, name: str, dataset: Any) -> None:
        """Refuse what cannot be there before memory is taken for it."""
        size = self.path.stat().st_size
        if (dataset.shape or ()) and math.prod(dataset.shape) * dataset.dtype.itemsize > _MOST_COMPRESSED * size:
            raise ValueError(f"damaged: {name} of shape {dataset.shape} is larger than the file can hold")

    def _check(self) -> None:
        """Tables are as long as blends say."""
        if np.any(np.diff(self.ids) <= 0):
            raise ValueError("damaged: blends are not in order")
        lengths = {"blends": len(self.ids)} | {table: int(first[-1]) for table, first in self._first.items()}
        for name, dataset in self._datasets.items():
            table = name.split("/")[0]
            if table in lengths and dataset.shape[0] != lengths[table]:
                raise ValueError(f"damaged: {name} has {dataset.shape[0]} rows, not {lengths[table]}")


def texts_of(text: str | bytes) -> tuple[str, ...]:
    """Read a list of texts from JSON.

    Examples
    --------
    >>> texts_of('["g", "r"]')
    ('g', 'r')
    """
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"damaged: expected a list of texts, got {str(found)[:80]}")
    return tuple(found)


def write_file(
    path: Path,
    header: StoreHeader,
    kinds: Sequence[str],
    totals: Mapping[str, int],
    blocks: Iterable[Rows],
    *,
    level: int = LEVEL,
) -> None:
    """Write a file of a store, whole or not at all; one that is there is replaced.

    Parameters
    ----------
    path
        The file.
    header
        What it says about all of its blends.
    kinds
        Lines of the kinds of components.
    totals
        Number of rows of each table.
    blocks
        Rows of all blends, in the order of their ids.
    level
        Level of gzip.

    Raises
    ------
    OSError
        If it cannot be written; a file that was there before stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    h5py = require_h5py()
    try:
        with temporary.open("wb+", buffering=0) as raw:
            sink = _Sink(raw)
            with h5py.File(sink, "w") as file:
                _write_about(file, header, kinds)
                _write_rows(file, header, totals, itertools.takewhile(lambda _: sink.error is None, blocks), level)
            sink.finish()
        os.replace(temporary, path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"could not be written ({reason})", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


class _Sink:
    """A file that HDF5 always finds ready: the first error of the disk is kept until HDF5 is done.

    HDF5 cannot give up a file that it failed to write. It tries again at the end of the program, and crashes now and
    then; of a full disk it must not know.
    """

    def __init__(self, raw: io.FileIO):
        self.raw = raw
        self.error: OSError | None = None
        self.read, self.readinto, self.seek, self.tell = raw.read, raw.readinto, raw.seek, raw.tell

    def write(self, data: Any) -> int:
        """Write all of the data, or none from the first error on."""
        rest = memoryview(data)
        with self._caught():
            while self.error is None and len(rest):
                rest = rest[self.raw.write(rest) :]
        return len(data)

    def truncate(self, size: int) -> int:
        """Set the size of the file."""
        with self._caught():
            self.raw.truncate(size)
        return size

    def flush(self) -> None:
        """Nothing waits to be written."""

    def finish(self) -> None:
        """Make sure that everything is on the disk.

        Raises
        ------
        OSError
            If it is not.
        """
        if self.error is not None:
            raise self.error
        os.fsync(self.raw.fileno())

    @contextlib.contextmanager
    def _caught(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error


def _write_about(file: Any, header: StoreHeader, kinds: Sequence[str]) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["schema_version"] = SCHEMA_VERSION
    file.attrs["software"] = header.software
    file.attrs["dtype"] = header.dtype
    about = file.create_group("about")
    for name in _ABOUT:
        about[name] = getattr(header, name)
    about["bands"], about["kinds"] = json.dumps(header.bands), json.dumps(list(kinds))
    if header.model_psf is not None:
        about["model_psf"] = header.model_psf


def _write_rows(file: Any, header: StoreHeader, totals: Mapping[str, int], blocks: Iterable[Rows], level: int) -> None:
    for table, columns in TABLES.items():
        for name, column in columns.items():
            _create(file, f"{table}/{name}", totals[table], column.empty(header), level)
    for one in RAGGED.values():
        _create(file, f"blends/first_{one}", totals["blends"], np.zeros(0, np.int64), level)
    written = dict.fromkeys(TABLES, 0)
    for rows in blocks:
        numbered = with_first_rows(rows, written)
        after = {table: written[table] + len(rows[f"{table}/{next(iter(TABLES[table]))}"]) for table in TABLES}
        for name, column in numbered.items():
            table = name.split("/")[0]
            if after[table] > written[table]:
                file[name][written[table] : after[table]] = column
        written = after


def _create(file: Any, name: str, length: int, empty: np.ndarray, level: int) -> None:
    """Make a dataset. Shuffled bytes suit columns; the pixels, most of them zero, take less room as they are."""
    options: dict[str, Any] = {}
    table = name.split("/")[0]
    if length:
        chunk = min(length, _CHUNKS.get(table, _TABLE_CHUNK))
        options = {"chunks": (chunk, *empty.shape[1:]), "compression": "gzip", "compression_opts": level}
        options["shuffle"] = table != "pixels"
    file.create_dataset(name, (length, *empty.shape[1:]), empty.dtype, **options)
