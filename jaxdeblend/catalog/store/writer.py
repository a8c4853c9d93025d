"""How the store of fitted models is written, while blends are finished.

While a run lasts, its store is a folder ``models.h5.partial`` of small files, each of some hundred blends, and each put
there whole under its name: these are the journal of the run. A run that is killed loses what it had in memory, no more,
and goes on where they end. At the end they are merged into one file ``models.h5``, in the order of ids; so the same
blends give the same file, to the last byte, in whatever order, pieces or runs they were finished.
"""

import dataclasses
import logging
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...io import PathLike
from ...io.locks import Lock
from .files import StoreFile, require_h5py, write_file
from .kinds import STORED_CLASSES, Classes, Kinds
from .layout import SOFTWARE, Rows, StoreHeader, joined, selected, totals
from .merge import common_header, open_run, partial_folder, renumbered, write_merged
from .record import StoredBlend, encoded

logger = logging.getLogger(__name__)

BATCH = 256
"""Blends that are written together."""

PIECE = 4_000_000
"""Pixels of models after which a batch is written, however few blends they are of."""

LOCK = ".lock"
"""File in the folder of a run by which it is locked."""

_PIECE_LEVEL = 1  # of files that live until the end of the run


class StoreWriter:
    """A store that is being made: `create` or `resume` one, `append` finished blends, `close` it.

    In a ``with`` statement it is closed at the end; after an exception, what was appended is written, and the store
    stays unfinished, so that a later run can go on. Until then it is locked: another writer is refused, of whatever
    process. The lock vanishes with the process, or when the writer is closed, suspended or forgotten.

    Attributes
    ----------
    path
        The file that there will be.
    header
        What holds for all blends.
    finished
        Numbers of the blends that are on disk, with what earlier runs left.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> box = jd.Box((0, 0), (32, 32))
    >>> writer = jd.StoreWriter.create(path, jd.StoreHeader(bands=("g", "r")))
    >>> writer.append(jd.StoredBlend(1, 1, box, np.array([0, 1]), reason="too large"))
    >>> writer.suspend()                                   # or the run is killed after a flush
    >>> with jd.StoreWriter.resume(path) as writer:
    ...     print(writer.finished)
    ...     writer.append(jd.StoredBlend(2, 1, box, np.array([2]), reason="too large"))
    {1}
    >>> jd.ModelStore(path).ids.tolist()
    [1, 2]
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[StoreFile],
        classes: Classes = STORED_CLASSES,
        batch: int = BATCH,
        lock: Lock | None = None,
    ):
        self._lock = lock
        self.path, self.header = path, common_header(files)
        self.finished = {int(number) for file in files for number in file.ids}
        self._classes, self._batch = classes, batch
        self._kinds = Kinds(self.header, classes)
        self._waiting: list[Rows] = []
        self._waiting_ids: set[int] = set()
        self._pixels = 0
        self._closed = False

    @classmethod
    def create(
        cls, path: PathLike, header: StoreHeader, *, classes: Classes = STORED_CLASSES, batch: int = BATCH
    ) -> "StoreWriter":
        """Begin a new store.

        Parameters
        ----------
        path
            The file, ``.h5``. Until it is closed there is a folder of this name and ``.partial`` instead.
        header
            What holds for all blends.
        classes
            Names of the classes that components are made of.
        batch
            Blends that are written together: as many may be lost if the run is killed.

        Raises
        ------
        FileExistsError
            If there is one already, finished or not.
        BlockingIOError
            If another writer is at work on it.
        OSError
            If nothing can be written there.
        """
        path = Path(path)
        folder = partial_folder(path)
        if path.exists() or folder.exists():
            cls.check_free(path)  # nobody shall be told to remove what another run writes
            there = path if path.exists() else folder
            raise FileExistsError(f"{there}: exists already; resume it, or remove it.")
        require_h5py()
        folder.mkdir(parents=True)
        lock = _locked(path)
        try:
            return cls(path, [StoreFile(_write_piece(folder, header, [], ()))], classes, batch, lock)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def check_free(path: PathLike) -> None:
        """Refuse a store that another writer is at work on.

        Parameters
        ----------
        path
            The file that there is or will be.

        Raises
        ------
        BlockingIOError
            If there is such a writer; the message names its process.
        """
        path = Path(path)
        if partial_folder(path).exists():
            _locked(path).release()

    @classmethod
    def resume(
        cls,
        path: PathLike,
        header: StoreHeader | None = None,
        *,
        classes: Classes = STORED_CLASSES,
        batch: int = BATCH,
    ) -> "StoreWriter":
        """Go on with a store: one that a run left unfinished, or a finished one that shall grow.

        Parameters
        ----------
        path
            The file that there is or will be.
        header
            What holds for the blends to come; what is stored must agree. None: nothing is compared.
        classes, batch
            As for `create`.

        Raises
        ------
        FileNotFoundError
            If there is nothing to go on with.
        BlockingIOError
            If another writer is at work on it; the message names its process.
        ValueError
            If the store is damaged, or of another configuration.
        """
        path = Path(path)
        folder = partial_folder(path)
        if not path.exists() and not folder.exists():
            raise FileNotFoundError(f"{path}: no such store; create it.")
        begins = not folder.exists()
        folder.mkdir(exist_ok=True)
        lock = _locked(path)
        try:
            files = _files_of_run(path, header)
            if begins:
                _write_piece(folder, files[0].header, [], ())
            writer = cls(path, files, classes, batch, lock)
        except BaseException:
            lock.release()
            if begins:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if header is not None and header.unit:
            writer.header = dataclasses.replace(writer.header, unit=header.unit)
        return writer

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self.suspend()
            logger.warning("%s is unfinished: %d blends are in %s", self.path, len(self.finished), self._folder)

    @property
    def _folder(self) -> Path:
        return partial_folder(self.path)

    def append(self, record: StoredBlend) -> None:
        """Add a finished blend.

        Parameters
        ----------
        record
            The blend. Its arrays are copied.

        Raises
        ------
        ValueError
            If there is a blend of this number already, or something in it cannot be stored.
        OSError
            If a batch cannot be written. It is kept, and tried again with the next.
        """
        if self._closed:
            raise ValueError(f"{self.path}: is closed; resume it to add blends.")
        if record.id in self.finished or record.id in self._waiting_ids:
            raise ValueError(f"id: the store has a blend {record.id} already.")
        self._waiting.append(encoded(record, self._kinds))
        self._waiting_ids.add(record.id)
        self._pixels += len(self._waiting[-1]["pixels/value"])
        if len(self._waiting) >= self._batch or self._pixels >= PIECE:
            self.flush()

    def flush(self) -> None:
        """Write what was appended; after that it survives whatever happens to the run.

        Raises
        ------
        OSError
            If it cannot be written, as on a full disk. All that was written before stays whole.
        """
        if not self._waiting:
            return
        _write_piece(self._folder, self.header, self._waiting, self._kinds.texts)
        self.finished |= self._waiting_ids
        self._waiting, self._waiting_ids, self._pixels = [], set(), 0

    def suspend(self) -> None:
        """Write what was appended, and leave the store unfinished: another writer may resume it.

        Raises
        ------
        OSError
            If it cannot be written; the store is left all the same.
        """
        try:
            self.flush()
        finally:
            self._closed = True
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def close(self) -> Path:
        """Merge all that was written into the one file, which is there whole or not at all.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        OSError
            If it cannot be written. Nothing is lost: resume the store, and close it again.
        """
        if self._closed:
            return self.path
        self.flush()
        files = open_run(self.path)
        write_merged(files, self.path)
        shutil.rmtree(self._folder)
        self._closed = True
        self._unlock()
        return self.path


def _locked(path: Path) -> Lock:
    """Lock a store that is being made."""
    return Lock(partial_folder(path) / LOCK, path)


def _files_of_run(path: Path, header: StoreHeader | None) -> list[StoreFile]:
    """Files of a store that goes on, if they agree with a header."""
    files = open_run(path)
    if not files:
        raise ValueError(f"{path}: nothing to go on with, {partial_folder(path)} is empty; remove it, and begin anew.")
    if header is not None and (names := files[0].header.disagreements(header)):
        raise ValueError(f"{path}: made with another {' and '.join(names)}; finish it with that, or begin a new one.")
    return files


def _write_piece(folder: Path, header: StoreHeader, blends: Sequence[Rows], kinds: Sequence[str]) -> Path:
    """Write some blends into a new file of the folder, in the order of ids and with the kinds that they need."""
    rows = joined(blends, header)
    rows = selected(rows, np.argsort(rows["blends/id"]))
    used = sorted(str(kinds[number]) for number in np.unique(rows["stacks/kind"]))
    rows = renumbered(rows, [used.index(text) if text in used else -1 for text in kinds])
    path = folder / f"{len(list(folder.glob('*.h5'))):06d}-{uuid.uuid4().hex[:8]}.h5"
    header = dataclasses.replace(header, software=SOFTWARE)
    write_file(path, header, used, totals(rows), [rows], level=_PIECE_LEVEL)
    return path
