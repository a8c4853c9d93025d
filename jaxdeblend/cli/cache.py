"""Compiled programs kept from one run of the command line to the next."""

import hashlib
import os
import platform
from pathlib import Path


def keep_compiled_programs() -> Path | None:
    """Switch on jax's compilation cache for this process, unless the user has chosen a folder already.

    It is named in the environment, where jax looks when it is imported: `jaxdeblend --help` can do without jax.

    Programs lie in ``$XDG_CACHE_HOME/jaxdeblend`` (``~/.cache/jaxdeblend``), in a folder of their own for each kind of
    processor, because compiled code of one may not run on another that shares the home directory.

    Returns
    -------
    Path or None
        The folder; None if it cannot be written.

    Examples
    --------
    >>> from jaxdeblend.cli.cache import keep_compiled_programs
    >>> keep_compiled_programs.__name__
    'keep_compiled_programs'
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return Path(chosen)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "jaxdeblend" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    return folder


def _processor() -> str:
    """Name of the kind of processor: its family, and a digest of what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        abilities = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        abilities = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:12]}"
