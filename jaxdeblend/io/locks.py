"""Locks: one writer at a time for a store, one run at a time for a folder.

The operating system holds them (``flock``), so a lock vanishes with its process, however that ends. The file of a lock
says who holds it, for the message of those who come too late. Where there is no ``flock``, on Windows and some shared
disks, the owner in the file counts as long as it lives.
"""

import contextlib
import datetime
import errno
import json
import os
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .reading import PathLike

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FOLDER_LOCK = ".jaxdeblend.lock"
"""File of the lock of a folder to which a run writes."""

_TAKEN = (errno.EAGAIN, errno.EACCES)

_ATTEMPTS = 100
"""Times that a lock file may vanish between opening and locking it, because another process is done just then."""


class Lock:
    """A lock that is held until it is released, forgotten, or the process ends.

    Parameters
    ----------
    path
        File of the lock. Its folder must exist.
    what
        What it protects, for the message.
    shared
        Whether others may hold it, too, if they share it.

    Raises
    ------
    BlockingIOError
        If another holds it; the message names the owner.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.lock"
    >>> lock = Lock(path, "models.h5")
    >>> try:
    ...     Lock(path, "models.h5")
    ... except BlockingIOError as error:
    ...     print(str(error).split(":")[0])
    models.h5
    >>> lock.release()
    >>> path.exists()
    False
    """

    def __init__(self, path: PathLike, what: PathLike, *, shared: bool = False):
        self.path = Path(path)
        for _ in range(_ATTEMPTS):
            held = False
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                held = _take(file, shared)
                if not held:
                    raise BlockingIOError(_refusal(what, self.path, _owner(file)))
                if _is_at(file, self.path):
                    _sign(file)
                    break
            except BaseException:  # an interrupt, too, leaves no file
                if held:
                    _give_back(file, self.path, os.getpid())
                else:
                    os.close(file)
                raise
            os.close(file)
        else:
            raise BlockingIOError(f"{what}: its lock {self.path} vanishes again and again; try once more.")
        self._release = weakref.finalize(self, _give_back, file, self.path, os.getpid())

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        self._release()


@contextlib.contextmanager
def locked_folder(folder: PathLike, *, shared: bool = False) -> Iterator[None]:
    """Lock a folder while a run writes to it.

    Parameters
    ----------
    folder
        The folder, which must exist.
    shared
        Whether other runs that share it may write, too, as the shards of a catalog do.

    Raises
    ------
    BlockingIOError
        If another run writes to it.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with locked_folder(folder):
    ...     sorted(os.listdir(folder))
    ['.jaxdeblend.lock']
    """
    lock = Lock(Path(folder) / FOLDER_LOCK, folder, shared=shared)
    try:
        yield
    finally:
        lock.release()


def _take(file: int, shared: bool) -> bool:
    """Take the lock of an open file, if it is free."""
    if fcntl is not None:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            # this disk knows no such locks: what the file says must do
        else:
            return True
    return shared or not _lives(_owner(file))


def _lives(owner: dict[str, Any]) -> bool:
    """Whether the owner of a lock may still be at work: one on another machine may be, one of this machine is asked."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname() or os.name == "nt":  # os.kill ends processes on Windows
        return True
    try:
        os.kill(int(owner.get("pid", 0)), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is still the one of this name: who had the lock before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    """Write into the file who holds the lock."""
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    os.ftruncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, (json.dumps(owner) + "\n").encode())


def _owner(file: int) -> dict[str, Any]:
    """Who holds the lock, as far as the file says."""
    os.lseek(file, 0, os.SEEK_SET)
    try:
        owner = json.loads(os.read(file, 4096))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _refusal(what: PathLike, path: Path, owner: dict[str, Any]) -> str:
    if not owner:
        return f"{what}: another process writes it (lock {path}); wait until that is done, or stop it."
    process = "this process" if owner.get("pid") == os.getpid() else f"process {owner.get('pid')}"
    return (
        f"{what}: {process} on {owner.get('host')} writes it since {owner.get('since')} (lock {path}); wait until that "
        "is done, or stop it."
    )


def _give_back(file: int, path: Path, pid: int) -> None:
    """Remove the file while the lock is held, so that nobody locks a file that has no name any more."""
    if os.getpid() != pid:  # a fork: the lock is that of its parent
        os.close(file)
        return
    with contextlib.suppress(OSError):
        if fcntl is not None:  # others who share the lock still need the file
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(file, path):
            path.unlink()
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)
