"""One border between files and the rest: whatever damaged bytes make a reader raise becomes one `ValueError`."""

import contextlib
import errno
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

PathLike = str | os.PathLike[str]

logger = logging.getLogger(__name__)

_OF_READERS = (ArithmeticError, AssertionError, AttributeError, IndexError, NameError, RecursionError, TypeError)
"""Errors whose words speak of the reader's own code, and need a word about the file before them."""

_OF_DAMAGE = (None, errno.EINVAL, errno.EOVERFLOW)
"""`errno` of an OSError that is of the content: none at all, or of a place that a damaged header led to."""


@contextlib.contextmanager
def reading(path: PathLike, kind: str, *, allow_empty: bool = False) -> Iterator[list[warnings.WarningMessage]]:
    """Read a file; whatever goes wrong because of its content becomes one ValueError that names it.

    Nothing but reading belongs into the ``with`` block, for a fault of the program in it looks like damage; the error
    that it was is kept as the cause, and logged for debugging. Warnings of other packages are collected.

    Parameters
    ----------
    path
        The file.
    kind
        What it should be, for the message: ``"FITS file"``.
    allow_empty
        Whether a file of 0 bytes may be one.

    Yields
    ------
    list
        Warnings so far.

    Raises
    ------
    ValueError
        If the content is not what it should be.
    OSError
        If the file does not exist, is a folder, or cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> _ = path.write_text("1 2 x")
    >>> try:
    ...     with reading(path, "list of numbers"):
    ...         numbers = [float(word) for word in path.read_text().split()]
    ... except ValueError as error:
    ...     print(str(error).replace(str(path.parent), "…"))
    …/numbers.txt: not a readable list of numbers (could not convert string to float: 'x').
    """
    require_file(path)
    if Path(path).stat().st_size == 0 and not allow_empty:
        raise ValueError(f"{path}: not a readable {kind} (it is empty, 0 bytes).")
    with warnings.catch_warnings(record=True) as seen, named_errors(path, kind):
        warnings.simplefilter("always")
        yield seen
    for warning in seen:
        logger.debug("%s: %s", path, warning.message)


@contextlib.contextmanager
def named_errors(path: PathLike, kind: str) -> Iterator[None]:
    """Errors as `reading` gives them, of a file that is known to be there; warnings go their way.

    Parameters
    ----------
    path, kind
        As for `reading`.

    Raises
    ------
    ValueError
        If the content is not what it should be.
    OSError
        If the file cannot be read.
    """
    try:
        yield
    except ImportError:  # a package that is missing: the file is not to blame
        raise
    except OSError as error:
        if error.errno in _OF_DAMAGE:
            raise _damage(path, kind, error) from error
        raise type(error)(error.errno, error.strerror or str(error), os.fspath(path)) from error
    # Astropy, h5py, cfitsio and json were not written for damaged files: a flipped bit makes them raise
    # AttributeError, IndexError, UnboundLocalError, and kinds of their own that no list of ours can hold.
    except Exception as error:
        logger.debug("%s: %s", path, type(error).__name__, exc_info=True)
        raise _damage(path, kind, error) from error


def require_file(path: PathLike) -> None:
    """Refuse what is no file that can be read.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is none, or it is a symbolic link to none.
    IsADirectoryError
        If it is a folder.
    ValueError
        If it is a device or a pipe.
    OSError
        If it may not be read.
    """
    place = Path(path)
    if place.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file.")
    if not place.exists():
        if place.is_symlink():
            raise FileNotFoundError(f"{path}: is a symbolic link to {os.readlink(place)}, which does not exist.")
        raise FileNotFoundError(f"{path}: no such file.")
    if not stat.S_ISREG(place.stat().st_mode):  # to open a pipe that nobody writes to takes for ever
        raise ValueError(f"{path}: is no regular file but a device or a pipe; give the name of a file.")
    if not os.access(place, os.R_OK):
        raise PermissionError(errno.EACCES, "may not be read by this user", os.fspath(path))


def one_line(error: BaseException) -> str:
    """First line of what an error says, or its kind."""
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]}"
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".") if lines else type(error).__name__
    if isinstance(error, _OF_READERS):
        return f"damaged, its reader stopped with {type(error).__name__}: {text}"
    return text


def _damage(path: PathLike, kind: str, error: Exception) -> ValueError:
    """The error that names the file, unless it is one that does so already."""
    text = one_line(error)
    if isinstance(error, ValueError) and os.fspath(path) in text:
        return ValueError(str(error))
    return ValueError(f"{path}: not a readable {kind} ({text}).")
