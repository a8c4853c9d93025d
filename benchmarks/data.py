"""Where the benchmark sets lie."""

import pathlib

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


def find(name: str) -> pathlib.Path:
    """Path of a set: a path as given, or a name with or without ``.npz`` in the folder of shared data.

    Parameters
    ----------
    name
        Name or path.

    Returns
    -------
    pathlib.Path
        The file.

    Examples
    --------
    >>> find(__file__).name
    'data.py'
    """
    for candidate in (pathlib.Path(name), SHARED / name, SHARED / f"{name}.npz"):
        if candidate.is_file():
            return candidate
    raise SystemExit(f"--set: found no file {name!r}, here or in ../shared/data; give the path of an .npz file.")
