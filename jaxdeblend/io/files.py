"""Paths of many bands, and files that appear whole or not at all."""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from .locks import locked_folder
from .reading import PathLike as PathLike
from .reading import require_file


def paths_of_bands(paths: PathLike | Sequence[PathLike], bands: Sequence[str]) -> tuple[Path, ...]:
    """Spell out a pattern, or check the number of paths.

    Parameters
    ----------
    paths
        A pattern with ``{band}`` in it, one path, or a sequence of either one path or as many as there are
        bands.
    bands
        Names of the bands.

    Returns
    -------
    tuple[Path, ...]
        One path per band, or a single path for all of them.

    Raises
    ------
    ValueError
        If the number of paths is neither one nor that of the bands.
    FileNotFoundError
        If a path does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from jaxdeblend.io import paths_of_bands
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for band in "gr":
    ...     (folder / f"psf_{band}.fits").touch()
    >>> [path.name for path in paths_of_bands(str(folder / "psf_{band}.fits"), ["g", "r"])]
    ['psf_g.fits', 'psf_r.fits']
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if len(given) == 1 and "{band}" in os.fspath(given[0]):
        given = [os.fspath(given[0]).replace("{band}", band) for band in bands]
    if len(given) not in (1, len(bands)):
        raise ValueError(
            f"paths: got {len(given)} files for the {len(bands)} bands {tuple(bands)}; give one file for "
            "each band in that order, one file that holds them all, or a pattern with {band} in it."
        )
    found = tuple(Path(path) for path in given)
    for path in found:
        require_file(path)
    return found


@contextlib.contextmanager
def atomic_path(path: PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of `path` once everything is written.

    Parameters
    ----------
    path
        Where the file shall be.
    overwrite
        Whether a file may be there already.

    Yields
    ------
    Path
        Path in the same folder, with the same suffix.

    Raises
    ------
    FileExistsError
        If the file exists and may not be replaced.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from jaxdeblend.io import atomic_path
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("all of it")
    >>> target.read_text(), len(list(target.parent.iterdir()))
    ('all of it', 1)
    """
    target = Path(path)
    if target.is_symlink():  # the file that it leads to is written, and the link stays
        target = target.resolve()
    _refuse_existing(target, overwrite)
    _check_folder(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        temporary = Path(folder) / target.name
        yield temporary
        os.replace(temporary, target)


@contextlib.contextmanager
def staged_folder(folder: PathLike, names: Sequence[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder to write files to, which move to `folder` together at the end.

    If anything goes wrong before that, nothing is left behind: neither the temporary folder nor, if it was
    not there before, `folder`.

    Parameters
    ----------
    folder
        Where the files shall be.
    names
        Names of the files that will be written.
    overwrite
        Whether they may exist already.

    Yields
    ------
    Path
        The temporary folder.

    Raises
    ------
    FileExistsError
        If one of the files exists and may not be replaced.
    BlockingIOError
        If another run writes to the folder; the message names its process.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from jaxdeblend.io import staged_folder
    >>> out = pathlib.Path(tempfile.mkdtemp()) / "out"
    >>> with staged_folder(out, ["a.txt"]) as stage:
    ...     _ = (stage / "a.txt").write_text("a")
    >>> [path.name for path in out.iterdir()]
    ['a.txt']
    """
    target = Path(folder)
    with output_folder(target):
        for name in names:
            _refuse_existing(target / name, overwrite)
        stage = target / f".jaxdeblend-{uuid.uuid4().hex}"
        try:  # from here on an interrupt leaves nothing
            stage.mkdir()
            yield stage
            for path in sorted(stage.iterdir()):
                os.replace(path, target / path.name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def output_folder(folder: PathLike, *, shared: bool = False) -> Iterator[Path]:
    """Make a folder that a run writes to, and lock it; what is still empty at the end is removed.

    Parameters
    ----------
    folder
        The folder.
    shared
        Whether other runs that share it may write, too, as the shards of a catalog do.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    BlockingIOError
        If another run writes to it; the message names its process.
    OSError
        If it cannot be made.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from jaxdeblend.io import output_folder
    >>> with output_folder(pathlib.Path(tempfile.mkdtemp()) / "out") as folder:
    ...     _ = (folder / "a.txt").write_text("a")
    >>> [path.name for path in folder.iterdir()]
    ['a.txt']
    """
    target = Path(folder)
    _check_folder(target)
    created = _missing_folders(target)
    try:  # from here on an interrupt leaves nothing
        target.mkdir(parents=True, exist_ok=True)
        with locked_folder(target, shared=shared):
            yield target
    finally:
        for made in created:
            with contextlib.suppress(OSError):  # a folder that holds something stays
                made.rmdir()


def _check_folder(folder: Path) -> None:
    """Say what is there instead of a folder, or on the way to it."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError(f"{path}: is a symbolic link to {os.readlink(path)}, which does not exist.")
        if path.exists():
            if not path.is_dir():
                raise NotADirectoryError(f"{path}: is a file; give the name of a folder.")
            return


def _missing_folders(folder: Path) -> list[Path]:
    """List the folder and those of its parents that are not there yet, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise FileExistsError(f"{path}: is a folder; give the name of a file.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists already; remove it, or allow overwriting.")
