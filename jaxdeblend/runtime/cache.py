"""The folder in which compiled programs are kept from one process to the next."""

import hashlib
import logging
import os
import platform
from contextlib import suppress
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

VARIABLE = "JAXDEBLEND_CACHE"
"""Environment variable with the folder, or one of `OFF`."""

OFF = ("0", "no", "off", "false")
"""Values of `VARIABLE` for which nothing is kept."""

LARGEST_SIZE = 2 * 1024**3
"""Bytes that the folder may hold; beyond, what was not used for the longest time is deleted."""

LEFT = 0.8
"""Share of `LARGEST_SIZE` that is left then, so that the next programs find room without deleting."""

LEAST_SECONDS = 0.1
"""Compile time from which on JAX keeps a program; it would be 1 s, and many of ours take less."""

USUAL_SECONDS = 1.0
"""JAX's own default for that: another value is somebody's choice."""


def keep_programs() -> Path | None:
    """Switch on JAX's compilation cache for this process, unless the user has chosen.

    Programs lie in ``$XDG_CACHE_HOME/jaxdeblend`` (``~/.cache/jaxdeblend``), in a folder of their own for each kind of
    processor, because compiled code of one may not run on another that shares the home directory. The environment
    variable ``JAXDEBLEND_CACHE`` names another folder, or is ``off``. Settings of JAX win: its folder
    (``JAX_COMPILATION_CACHE_DIR``) is used, and if its cache is switched off, nothing is kept.

    Returns
    -------
    Path or None
        The folder; None if nothing is kept, or the folder cannot be written.

    Examples
    --------
    >>> from jaxdeblend.runtime.cache import keep_programs
    >>> keep_programs.__name__
    'keep_programs'
    """
    wanted = os.environ.get(VARIABLE, "")
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if wanted.lower() in OFF or not getattr(jax.config, "jax_enable_compilation_cache", True):
        return None
    if chosen:
        return None if "://" in str(chosen) else Path(chosen)
    folder = _default_root(wanted) / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    limit_size(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if getattr(jax.config, "jax_persistent_cache_min_compile_time_secs", None) == USUAL_SECONDS:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    return folder


def limit_size(folder: Path, largest: int = LARGEST_SIZE) -> None:
    """Delete what was not used for the longest time if a folder holds more than so many bytes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     size = (Path(name) / "program").write_bytes(bytes(100))
    ...     limit_size(Path(name), largest=99)
    ...     list(Path(name).iterdir())
    []
    """
    files = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # another process may delete it meanwhile
            known = path.stat()
            if path.is_file():
                files.append((max(known.st_atime, known.st_mtime), known.st_size, path))
    total = sum(size for _, size, _ in files)
    if total <= largest:
        return
    for _, size, path in sorted(files):
        if total <= LEFT * largest:
            break
        with suppress(OSError):
            path.unlink()
        total -= size


def _default_root(wanted: str) -> Path:
    if wanted:
        return Path(wanted).expanduser()
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "jaxdeblend"


def _processor() -> str:
    """Name of the kind of processor: its family, and a digest of what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        abilities = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        abilities = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:12]}"
