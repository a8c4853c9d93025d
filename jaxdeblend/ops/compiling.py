"""How large programs are compiled for CPUs: options for `jax.jit`, which other devices pass over.

XLA has two ways to make code of fused operations. The older one compiles the programs of this package in two thirds of
the time and in less than half of the memory, they are as fast, and each takes 700 mappings of memory instead of 1700.
Linux gives a process 65 530 (``vm.max_map_count``): a catalog that needed 34 programs came to an end there.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeVar

import equinox as eqx

R = TypeVar("R")

LARGE = MappingProxyType({"xla_cpu_use_fusion_emitters": False})
"""For programs of thousands of operations."""

SIDE_BY_SIDE = MappingProxyType({**LARGE, "xla_cpu_multi_thread_eigen": False})
"""For those that run side by side, not each on all cores."""


def jit_large(function: Callable[..., R]) -> Callable[..., R]:
    """`equinox.filter_jit` of a large program.

    Examples
    --------
    >>> int(jit_large(lambda x: x + 1)(41))
    42
    """
    # the types of equinox leave out what goes on to jax.jit
    return eqx.filter_jit(function, compiler_options=dict(LARGE))  # pyright: ignore[reportCallIssue]
