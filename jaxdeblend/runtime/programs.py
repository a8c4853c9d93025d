"""Large compiled programs: their compile options, and a bound on how many a process keeps.

XLA compiles every fused operation of a CPU program to an object of its own, which takes three memory mappings. Linux
gives a process 65 530 (``vm.max_map_count``) and the process dies when they are used up. A blend's program takes about
800 with jaxlib 0.10 (older emitters, see `OPTIONS`) and about 2100 with jaxlib 0.12, which has no older emitters: 30
programs are too many. So the programs that were not used for the longest time are dropped before there is no room for
another one. Only programs of this package are dropped, never those of the user.
"""

import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar

import equinox as eqx
import jax
from jax.core import Tracer

from .host import share_of_mappings

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

OPTIONS: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    # With the older emitters, jaxlib 0.10 compiles a blend's program in two thirds of the time (14.9 s, not 22.7 s), in
    # 40 % of the memory and with 40 % of the mappings; the program is as fast. jaxlib 0.12 does not have them.
    {"cpu": MappingProxyType({"xla_cpu_use_fusion_emitters": False})}
)
"""Compile options by platform. An option that the installed jaxlib does not know is left out."""

ONE_CORE: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {"cpu": MappingProxyType({"xla_cpu_multi_thread_eigen": False})}
)
"""Options of programs that run side by side, each on one core."""

CROWDED = 0.75
"""Share of the memory mappings of a process above which programs are dropped before another one is compiled."""

TRACING = threading.Lock()
"""Held while JAX traces a program: two threads that trace at the same time may disturb each other."""


class Program(Generic[P, R]):
    """A function that is compiled once for each set of shapes, dtypes and static values of its arguments.

    This is `equinox.filter_jit` with four differences: compile options are those that the installed jaxlib knows, only
    one thread at a time compiles the same program, all programs of the package together are bounded in number, and a
    call inside another traced function becomes a part of that function.

    Parameters
    ----------
    function
        Pure function of PyTrees. Arrays in its arguments are traced; all other leaves are static and must be hashable.
    one_core
        Whether calls run side by side, each on one core of a CPU.
    donated
        Indices of the arguments whose memory the result may take over.

    Examples
    --------
    >>> import numpy as np
    >>> program = Program(lambda image, name: (image + 1, name))
    >>> image, name = program(np.zeros(2), "r")
    >>> image.tolist(), name
    ([1.0, 1.0], 'r')
    >>> program.n_compiled
    1
    """

    def __init__(self, function: Callable[P, R], *, one_core: bool = False, donated: tuple[int, ...] = ()):
        functools.update_wrapper(self, function)
        self.function: Callable[..., R] = function
        self.one_core = one_core
        self.donated = donated

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compile the function for these arguments, if that is not done, and call it."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self.function(*args, **kwargs)
        is_array = [eqx.is_array(leaf) for leaf in leaves]
        arrays = [leaf for leaf, dynamic in zip(leaves, is_array, strict=True) if dynamic]
        static = tuple(_ARRAY if dynamic else leaf for leaf, dynamic in zip(leaves, is_array, strict=True))
        shapes = tuple((array.shape, array.dtype) for array in arrays)
        platform = _platform()
        key = (self, platform, structure, static, shapes)
        program = KEPT.get(key, lambda: self._jitted(platform, structure, static))
        result, static_result = program(*self._parted(args, arrays))
        return eqx.combine(result, static_result.value)

    @property
    def n_compiled(self) -> int:
        """Number of programs of this function that are kept."""
        return KEPT.count(lambda key: key[0] is self)

    def _parted(self, args: tuple[Any, ...], arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        """The arrays whose memory may be taken over, and the others; each with None where the other list has it."""
        if not self.donated:
            return [None] * len(arrays), arrays
        donated = []
        for index, arg in enumerate(args):
            n_arrays = sum(map(eqx.is_array, jax.tree.leaves(arg)))
            donated += [index in self.donated] * n_arrays
        donated += [False] * (len(arrays) - len(donated))  # arrays of keyword arguments
        given = [array if taken else None for array, taken in zip(arrays, donated, strict=True)]
        kept = [None if taken else array for array, taken in zip(arrays, donated, strict=True)]
        return given, kept

    def _jitted(self, platform: str, structure: Any, static: tuple[Hashable, ...]) -> Callable[..., Any]:
        """The jitted function for static values. It is a new function each time, so that it can be dropped."""

        def traced(given: list[Any], kept: list[Any]) -> tuple[Any, _Static]:
            arrays = iter([two if one is None else one for one, two in zip(given, kept, strict=True)])
            leaves = [next(arrays) if leaf is _ARRAY else leaf for leaf in static]
            args, kwargs = jax.tree.unflatten(structure, leaves)
            with TRACING:
                result = self.function(*args, **kwargs)
            result, static_result = eqx.partition(result, eqx.is_array)
            return result, _Static(static_result)

        traced.__name__ = traced.__qualname__ = getattr(self.function, "__name__", "program")
        return jax.jit(traced, donate_argnums=0, compiler_options=compile_options(platform, self.one_core))


_ARRAY = object()
"""Stands for an array among the static leaves of the arguments."""


class _Static(eqx.Module):
    """Leaves of a result that are no arrays."""

    value: Any = eqx.field(static=True)


class _Kept:
    """Compiled programs in the order of their last use, and a lock for each, held while it is compiled."""

    def __init__(self):
        self._programs: OrderedDict[Hashable, _Once] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compiled: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """The program of a key; made by `compiled` if there is none."""
        with self._lock:
            program = self._programs.get(key)
            if program is None:
                self._make_room()
                program = self._programs[key] = _Once(compiled())
            self._programs.move_to_end(key)
            return program

    def count(self, condition: Callable[[Any], bool]) -> int:
        """Number of programs whose key fulfils a condition."""
        with self._lock:
            return sum(condition(key) for key in self._programs)

    def _make_room(self) -> None:
        n_dropped = 0
        while self._programs and share_of_mappings() > CROWDED:
            self._programs.popitem(last=False)
            n_dropped += 1
        if n_dropped:
            logger.info("dropped %d compiled programs: the process had few memory mappings left", n_dropped)


class _Once:
    """A jitted function whose first call is made by one thread alone."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._first = threading.Lock()
        self._done = False

    def __call__(self, *args: Any) -> Any:
        if self._done:
            return self._function(*args)
        with self._first:
            result = self._function(*args)
            self._done = True
            return result


KEPT = _Kept()
"""All compiled programs of the package in this process, as `jax.jit` keeps its own."""


def compile_options(platform: str, one_core: bool = False) -> dict[str, bool]:
    """Compile options for a platform, as far as the installed jaxlib knows them.

    Examples
    --------
    >>> compile_options("gpu")
    {}
    """
    wanted = dict(OPTIONS.get(platform, {}))
    if one_core:
        wanted.update(ONE_CORE.get(platform, {}))
    return {name: value for name, value in wanted.items() if is_known(platform, name, value)}


@functools.cache
def is_known(platform: str, name: str, value: bool) -> bool:
    """Whether the installed jaxlib knows a compile option; it is asked by compiling a constant.

    Examples
    --------
    >>> is_known("cpu", "no_such_option", True)
    False
    """
    device = jax.local_devices(backend=platform)[0]
    try:
        with jax.default_device(device):
            jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        logger.debug("compile option %s is left out: %s", name, error)
        return False
    return True


def _platform() -> str:
    """Platform of the default device: "cpu", "gpu" or "tpu"."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform
