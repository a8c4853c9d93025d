"""Several files of blends as one: how pieces of a run become its store, and shards of a catalog one store."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from .files import LEVEL, StoreFile, write_file
from .layout import MIGRATIONS, RAGGED, TABLES, Migration, Rows, StoreHeader, empty_rows, joined, selected

BLOCK = 16_000_000
"""Numbers of models that are in memory together while files are merged or read through."""

_OVERHEAD = 1000
"""What a blend counts besides its pixels when blocks are cut."""


def partial_folder(path: Path) -> Path:
    """Folder of a run that has not ended.

    Examples
    --------
    >>> partial_folder(Path("out/models.h5")).name
    'models.h5.partial'
    """
    return path.with_name(path.name + ".partial")


def open_store(path: Path, migrations: Mapping[int, Migration] = MIGRATIONS) -> list[StoreFile]:
    """Open a store that is finished, or the folder of one that is not.

    Parameters
    ----------
    path
        A file, or a folder ``….partial``.
    migrations
        What leads from older versions of the layout to this one.

    Returns
    -------
    list of StoreFile
        Its files.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is no store, or damaged.
    """
    if path.is_dir():
        files = [StoreFile(piece, migrations) for piece in _pieces(path)]
        if not files:
            raise ValueError(f"{path}: not a store of models, but a folder without any.")
        return files
    if not path.exists() and partial_folder(path).is_dir():
        raise FileNotFoundError(
            f"{path}: not finished; StoreWriter.resume goes on with it, and {partial_folder(path)} can be read."
        )
    return [StoreFile(path, migrations)]


def open_run(path: Path) -> list[StoreFile]:
    """Open all that there is of a store that is being made: what was finished before, and the pieces of this run.

    Parameters
    ----------
    path
        The file that there is or will be.

    Returns
    -------
    list of StoreFile
        All files. Pieces that are merged already, because a run was killed just then, are left out.
    """
    whole = [StoreFile(path)] if path.exists() else []
    pieces = [StoreFile(piece) for piece in _pieces(partial_folder(path))]
    if whole:
        pieces = [piece for piece in pieces if not len(piece.ids) or not np.isin(piece.ids, whole[0].ids).all()]
    return whole + pieces


def _pieces(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.h5") if not path.name.startswith("."))


def common_header(files: Sequence[StoreFile]) -> StoreHeader:
    """Header of several files, which must agree; all that wrote them are named.

    Raises
    ------
    ValueError
        If they do not agree.
    """
    first = files[0]
    for file in files[1:]:
        if names := first.header.disagreements(file.header):
            raise ValueError(
                f"{file.path}: differs in {' and '.join(names)} from {first.path}; both must be of one run."
            )
    wrote = sorted({name for file in files for name in file.header.software.split(", ")})
    unit = next((file.header.unit for file in files if file.header.unit), "")
    return dataclasses.replace(first.header, software=", ".join(wrote), unit=unit)


class Merged:
    """Blends of several files as if they lay in one, in the order of ids.

    Parameters
    ----------
    files
        Files that have no blend in common.

    Attributes
    ----------
    header
        Their header.
    kinds
        Kinds of components of all files, in alphabetical order.
    ids
        Numbers of all blends, increasing.

    Raises
    ------
    ValueError
        If they have a blend in common, or their headers do not agree.
    """

    def __init__(self, files: Sequence[StoreFile]):
        self.files = list(files)
        self.header = common_header(files)
        self.kinds = tuple(sorted({text for file in files for text in file.kinds}))
        ids = np.concatenate([file.ids for file in files])
        order = np.argsort(ids, kind="stable")
        self.ids = ids[order]
        self._n_pixels = np.concatenate([file.counts("pixels") for file in files])[order]
        again = self.ids[1:][np.diff(self.ids) == 0]
        if len(again):
            holders = [str(file.path) for file in files if again[0] in file.ids]
            raise ValueError(f"blend {again[0]} is in more than one store: {', '.join(holders)}.")

    def totals(self) -> dict[str, int]:
        """Number of rows of each table."""
        counts = {table: sum(int(file.counts(table).sum()) for file in self.files) for table in RAGGED}
        return {"blends": len(self.ids)} | counts

    def blocks(self) -> Iterator[Rows]:
        """Rows of all blends, as many blends at a time as fit into `BLOCK` numbers."""
        return (self.rows(start, stop) for start, stop in blocks_of(self._n_pixels))

    def rows(self, start: int, stop: int, tables: Sequence[str] = tuple(TABLES)) -> Rows:
        """Rows of some blends that follow one another; kinds are numbered as in `kinds`.

        Parameters
        ----------
        start, stop
            Places of the first, and of the one after the last.
        tables
            Names of the tables wanted.
        """
        wanted = self.ids[start:stop]
        if not len(wanted):
            return empty_rows(self.header)
        pieces = []
        for file in self.files:  # each is in the order of ids, too: what is wanted follows one another there
            first = np.searchsorted(file.ids, wanted[0], side="left")
            last = np.searchsorted(file.ids, wanted[-1], side="right")
            if last > first:
                numbers = [self.kinds.index(text) for text in file.kinds]
                with file.reading():
                    pieces.append(renumbered(file.rows(int(first), int(last), tables), numbers))
        rows = joined(pieces, self.header)
        return rows if len(pieces) == 1 else selected(rows, np.argsort(rows["blends/id"]))


def blocks_of(n_pixels: np.ndarray) -> list[tuple[int, int]]:
    """Cut blends into blocks: places of the first of each, and of the one after its last.

    Files are written block by block. For a file to be the same to the last byte, whatever it is made of, blocks must
    depend on the blends alone.

    Parameters
    ----------
    n_pixels
        Number of pixels of each blend.

    Examples
    --------
    >>> blocks_of(np.array([9_000_000, 8_000_000, 1_000_000]))
    [(0, 1), (1, 3)]
    """
    block = np.cumsum(n_pixels + _OVERHEAD) // BLOCK
    cuts = (np.flatnonzero(np.diff(block)) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(n_pixels)], strict=True)) if len(n_pixels) else []


def renumbered(rows: Rows, numbers: Sequence[int]) -> Rows:
    """Give other numbers to kinds.

    Parameters
    ----------
    rows
        Rows of some blends.
    numbers
        New number of each kind.
    """
    columns = {name: rows[name] for name in ("stacks/kind", "components/kind") if name in rows and len(rows[name])}
    if any(column.min() < 0 or column.max() >= len(numbers) for column in columns.values()):
        raise ValueError(f"damaged store: a component is of none of its {len(numbers)} kinds.")
    return rows | {name: np.asarray(numbers, np.int32)[column] for name, column in columns.items()}


def write_merged(files: Sequence[StoreFile], path: Path, *, level: int = LEVEL) -> None:
    """Merge files into one, whole or not at all.

    Parameters
    ----------
    files
        Files that have no blend in common.
    path
        The file to write; one that is there is replaced.
    level
        Level of gzip.

    Raises
    ------
    ValueError
        If they have a blend in common, or their headers do not agree.
    OSError
        If it cannot be written.
    """
    merged = Merged(files)
    write_file(path, merged.header, merged.kinds, merged.totals(), merged.blocks(), level=level)
