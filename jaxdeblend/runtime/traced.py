"""Traced programs, kept from one process to the next, so that later processes need not trace them again.

JAX keeps compiled programs, but only finds them when a function has been traced and lowered, which takes longer than
all the rest. So the traced program is kept beside them (`jax.export`), under a digest of all that it follows from: the
function, structure and shapes of its arguments, the source of this package, versions and settings. Programs with
classes or functions of other packages, as a user's prior, are not kept: nobody can tell what these depend on.

Whatever lies in the folder and is not whole is ignored. One process traces and compiles a program; others that want it
at the same time wait for that.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from .structures import PACKAGES, NotDescribedError, description_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

FOLDER = "traced"
"""Folder of traced programs, in that of compiled ones."""

MAGIC = b"jaxdeblend traced program 1\n"
"""Beginning of each file; then the digest of all that follows."""

LONGEST_WAIT = 600.0
"""Seconds after which a process no longer waits for another one that compiles the same program."""

SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_threefry_partitionable", "jax_default_prng_impl")
"""Settings of JAX that traced programs depend on."""


class Traced(NamedTuple):
    """A traced program.

    Attributes
    ----------
    exported
        Function of lists of arrays, to a list of arrays.
    result
        Description of the PyTree that these arrays belong to, for `jaxdeblend.runtime.structures.tree_of`.
    compiled
        Checksums of the files in JAX's compilation cache that were written for it.
    """

    exported: export.Exported
    result: Any
    compiled: dict[str, str] = {}


def digest_of(function: Callable[..., Any], target: str, args: Any) -> str | None:
    """Digest of all that a traced program follows from; None if that is not known.

    Parameters
    ----------
    function
        The function; only those of this package that stand by themselves are known.
    target
        Platform that it is traced for.
    args
        Its arguments.

    Examples
    --------
    >>> digest_of(lambda x: x, "cpu", ()) is None
    True
    """
    name = f"{function.__module__}:{function.__qualname__}"
    if not name.startswith("jaxdeblend.") or "<" in name:
        return None
    try:
        arguments = description_of(args, lambda array: [list(array.shape), str(array.dtype)])
    except NotDescribedError as error:
        logger.debug("%s is not kept: %s", name, error)
        return None
    settings = {setting: str(getattr(jax.config, setting, None)) for setting in SETTINGS}
    everything = json.dumps([name, target, arguments, settings, _versions()], sort_keys=True)
    return hashlib.sha256(everything.encode()).hexdigest()


def load(folder: Path, digest: str) -> Traced | None:
    """A traced program from a folder; None if it is not there, or not whole."""
    path = folder / FOLDER / digest
    try:
        content = path.read_bytes()
        if not _is_whole(content):
            logger.debug("%s is not a whole program, and is ignored", path)
            return None
        body = content[len(MAGIC) + hashlib.sha256().digest_size :]
        length = int.from_bytes(body[:8], "little")
        header = json.loads(body[8 : 8 + length])
        exported = export.deserialize(bytearray(body[8 + length :]))
        traced = Traced(exported, header["result"], header["compiled"])
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
    except FileNotFoundError:
        return None
    except Exception as error:  # of another version of JAX, or unreadable: it is traced again
        logger.debug("%s is ignored: %s", path, error)
        return None
    return traced


def save(folder: Path, digest: str, traced: Traced) -> None:
    """Keep a traced program; where that fails, nothing is kept."""
    header = json.dumps({"result": traced.result, "compiled": traced.compiled}).encode()
    try:
        body = len(header).to_bytes(8, "little") + header + bytes(traced.exported.serialize())
        (folder / FOLDER).mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder / FOLDER, prefix=".new-", delete=False) as file:
            file.write(MAGIC + hashlib.sha256(body).digest() + body)
        Path(file.name).replace(folder / FOLDER / digest)
    except Exception as error:  # a full disk, or something that cannot be written
        logger.debug("a traced program is not kept: %s", error)


def compiled_files(folder: Path, name: str) -> dict[str, str]:
    """Checksums of the files that JAX keeps for compiled programs of a name."""
    checksums = {}
    for path in folder.glob(f"jit_{name}-*-cache"):
        with contextlib.suppress(OSError):
            checksums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return checksums


def remove_damaged(folder: Path, compiled: dict[str, str]) -> bool:
    """Delete files of JAX's compilation cache that are not as they were written; whether there were any.

    JAX warns of each at every start, and does not replace them.
    """
    damaged = False
    for name, checksum in compiled.items():
        path = folder / name
        with contextlib.suppress(OSError):
            if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
                damaged = True
                path.unlink()
    return damaged


@contextlib.contextmanager
def locked(folder: Path, digest: str) -> Iterator[None]:
    """Wait until no other process traces and compiles the same program, and keep others from it meanwhile."""
    if fcntl is None:
        yield
        return
    path = folder / FOLDER / f"{digest}.lock"
    try:
        path.parent.mkdir(exist_ok=True)
        file = path.open("w")
    except OSError:
        yield
        return
    with file:
        given_up = time.monotonic() + LONGEST_WAIT
        while not _is_locked(file) and time.monotonic() < given_up:
            time.sleep(0.05)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()  # processes that wait then find the program


def _is_locked(file: Any) -> bool:
    """Whether the file could be locked; also where files cannot be locked at all."""
    assert fcntl is not None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_whole(content: bytes) -> bool:
    size = hashlib.sha256().digest_size
    body = content[len(MAGIC) + size :]
    return content[: len(MAGIC) + size] == MAGIC + hashlib.sha256(body).digest()


@functools.cache
def _versions() -> list[str]:
    """Versions of all that traces, and a digest of the source of this package."""
    source = hashlib.sha256()
    for path in sorted(Path(__file__).resolve().parents[1].rglob("*.py")):
        source.update(path.read_bytes())
    packages = ("jax", "jaxlib", "numpy", "equinox", *PACKAGES[1:])
    return [platform.python_version(), source.hexdigest(), *[importlib.metadata.version(name) for name in packages]]
