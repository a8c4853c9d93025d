"""Arrays that stay where they are, NumPy on the host or JAX on the device; cores, memory and threads of the host.

Host work in NumPy compiles nothing, so that inputs of ever new shapes cost no compilation.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Shaped

from .inputs import plain_numbers

MACHINE_CORES = "JAXDEBLEND_MACHINE_CORES"
"""Environment variable of a worker: the cores of its machine, of which it has a share."""

AnyArray = Array | np.ndarray
"""A NumPy or a JAX array."""

CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory the processes of a container may use."""

MAPPINGS, MOST_MAPPINGS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
"""Where Linux lists the memory mappings of this process, and says how many it may have."""


def host_or_device(values: object, name: str = "values") -> Float[AnyArray, "..."]:
    """Floating-point array of JAX's default type that stays where it is.

    Parameters
    ----------
    values
        A JAX array or tracer, or what NumPy makes an array of. Host values too large for the type become infinite,
        and those that a masked array masks become NaN.
    name
        Name of the argument, for error messages.

    Returns
    -------
    Float[AnyArray, "..."]
        A JAX array for a JAX array, else a NumPy array.

    Raises
    ------
    ValueError
        If the values are complex.

    Examples
    --------
    >>> type(host_or_device([1, 2])).__name__
    'ndarray'
    """
    numbers = plain_numbers(values, name)
    if isinstance(numbers, jax.Array):
        return jnp.asarray(numbers, dtype=float)
    with np.errstate(over="ignore"):
        return np.asarray(numbers, dtype=default_dtype())


def device_array(values: object, dtype: Any = None) -> Shaped[Array, "..."]:
    """JAX array of any numbers. It compiles nothing for numbers of the host, as `jax.numpy.asarray` does.

    Parameters
    ----------
    values
        What JAX or NumPy make an array of.
    dtype
        Type of the array; by default that of the values, as far as JAX has it.

    Examples
    --------
    >>> device_array([1.0, 2.0])
    Array([1., 2.], dtype=float32)
    """
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values)):
        return jnp.asarray(values, dtype=dtype)
    array: np.ndarray = np.asarray(values, dtype=dtype)
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
    placed = jax.device_put(array)
    # jnp.asarray compiles a copy for each shape; inside a transformation, where it makes a constant, it does not
    return jnp.asarray(array) if isinstance(placed, Tracer) else placed


def default_dtype() -> np.dtype:
    """JAX's default floating-point type: float32, or float64 under x64.

    Examples
    --------
    >>> default_dtype().kind
    'f'
    """
    return jax.dtypes.canonicalize_dtype(float)


def is_interactive() -> bool:
    """Whether the process is interactive: a notebook, or the prompt of Python.

    Examples
    --------
    >>> is_interactive()
    False
    """
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def usable_cores() -> int:
    """Cores that this process may use.

    Examples
    --------
    >>> usable_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host_memory() -> float:
    """Bytes of memory that this process may use: those of the machine, or of its container; infinite if unknown.

    Examples
    --------
    >>> host_memory() > 1e8
    True
    """
    known = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):  # names that not all systems have
        known.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # the latter for "max"
            known.append(float(path.read_text()))
    return min(known)


def share_of_mappings() -> float:
    """Which part of the memory mappings that it may have this process has; 0 where that is unknown.

    Compiled programs take hundreds each, and without room for another the process dies.

    Examples
    --------
    >>> 0 <= share_of_mappings() < 1
    True
    """
    try:
        return MAPPINGS.read_bytes().count(b"\n") / int(MOST_MAPPINGS.read_text())
    except (OSError, ValueError):
        return 0.0


def settings_of_this_thread() -> Callable[[], AbstractContextManager[None]]:
    """What makes another thread compute as this one: JAX keeps precision and device for each thread.

    Examples
    --------
    >>> as_here = settings_of_this_thread()
    >>> with as_here():
    ...     default_dtype()
    dtype('float32')
    """
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def settings() -> Iterator[None]:
        with jax.enable_x64(x64), jax.default_device(device):
            yield

    return settings


@contextmanager
def on_all_cores() -> Iterator[None]:
    """Let a thread of a worker see all cores of the machine, not its share alone, while it compiles.

    XLA divides large loops by the number of cores that it sees, and of threads of its client, which changes the last
    bits of sums: the programs of workers must be those of one process. Elsewhere, nothing is done.
    """
    cores = os.environ.get(MACHINE_CORES)
    if not cores:
        yield
        return
    share = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    try:
        yield
    finally:
        os.sched_setaffinity(0, share)
