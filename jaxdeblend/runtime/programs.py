"""Compiled programs, and a bound on how many a process keeps.

XLA compiles every fused operation of a CPU program to an object of its own, which takes three memory mappings. Linux
gives a process 65 530 (``vm.max_map_count``) and the process dies when they are used up. The programs of a blend take
about 800 with jaxlib 0.10 and about 2100 with jaxlib 0.12 (`jaxdeblend.runtime.options`): those of 30 shapes are too
many. So the programs that were not used for the longest time are dropped before there is no room for another one. Only
programs of this package are dropped, never those of the user.
"""

import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax import export
from jax.core import Tracer
from jax.interpreters.partial_eval import DynamicJaxprTracer
from jax.sharding import SingleDeviceSharding

from .cache import keep_programs
from .host import on_all_cores, share_of_mappings
from .options import compile_options
from .structures import description_of, tree_of
from .traced import SETTINGS, Traced, compiled_files, digest_of, load, locked, remove_damaged, save

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

CROWDED = 0.75
"""Share of the memory mappings of a process above which programs are dropped before another one is compiled."""

ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
"""Classes of leaves that are arrays, or stand for one."""

TRACING = threading.RLock()
"""Held while JAX traces a program: two threads that trace at the same time may disturb each other."""


class Program(Generic[P, R]):
    """A function that is compiled once for each set of shapes, dtypes and static values of its arguments.

    This is `equinox.filter_jit` with five differences: compile options are those that the installed jaxlib knows, only
    one thread at a time compiles the same program, all programs of the package together are bounded in number, a call
    inside another jitted function becomes a part of that function, and later processes find the program traced and
    compiled (`jaxdeblend.runtime.cache`, `jaxdeblend.runtime.traced`).

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
        self._transformed = eqx.filter_jit(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compile the function for these arguments, if that is not done, and call it."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        tracers = [leaf for leaf in leaves if isinstance(leaf, Tracer)]
        if any(isinstance(leaf, DynamicJaxprTracer) for leaf in tracers):
            return self.function(*args, **kwargs)
        if tracers:  # of jax.grad or jax.vmap without jax.jit
            return self._transformed(*args, **kwargs)
        compiled, arrays = self._compiled(leaves, structure)
        return compiled(*self._parted(args, arrays))

    def prepared(self, *args: P.args, **kwargs: P.kwargs) -> "Compiled":
        """The program for such arguments, traced but perhaps not compiled; `jax.ShapeDtypeStruct` stand for arrays."""
        compiled, arrays = self._compiled(*jax.tree.flatten((args, kwargs)))
        compiled.trace(*self._parted(args, arrays))
        return compiled

    def has(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether there is a program for such arguments."""
        key, _, _ = self._key(*jax.tree.flatten((args, kwargs)))
        return KEPT.has(key)

    @property
    def n_compiled(self) -> int:
        """Number of programs of this function that are kept."""
        return KEPT.count(lambda key: key[0] is self)

    def _compiled(self, leaves: list[Any], structure: Any) -> tuple["Compiled", list[Any]]:
        """The program for arguments of these leaves, and the arrays among them."""
        key, static, arrays = self._key(leaves, structure)
        call = _Call(self.function, structure, static)
        return KEPT.get(key, lambda: Compiled(call, _device_of(arrays), self.one_core)), arrays

    def _key(self, leaves: list[Any], structure: Any) -> tuple[Hashable, tuple[Hashable, ...], list[Any]]:
        """Key of the program for arguments of these leaves, the leaves without arrays, and the arrays."""
        arrays = [_with_strong_type(leaf) for leaf in leaves if isinstance(leaf, ARRAYS)]
        static = tuple(_ARRAY if isinstance(leaf, ARRAYS) else leaf for leaf in leaves)
        shapes = tuple((array.shape, array.dtype) for array in arrays)
        return (self, _device_of(arrays), _trace_settings(), structure, static, shapes), static, arrays

    def _parted(self, args: tuple[Any, ...], arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        """The arrays whose memory may be taken over, and the others; each with None where the other list has it."""
        if not self.donated:
            return [None] * len(arrays), arrays
        is_donated = []
        for index, arg in enumerate(args):
            n_arrays = sum(isinstance(leaf, ARRAYS) for leaf in jax.tree.leaves(arg))
            is_donated += [index in self.donated] * n_arrays
        is_donated += [False] * (len(arrays) - len(is_donated))  # arrays of keyword arguments
        donated = [array if taken else None for array, taken in zip(arrays, is_donated, strict=True)]
        kept = [None if taken else array for array, taken in zip(arrays, is_donated, strict=True)]
        return donated, kept


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of an array, as JAX takes it."""
    return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


def _with_strong_type(array: Any) -> Any:
    """The array, without the weak type that results of Python numbers have: it would be another program."""
    if isinstance(array, jax.Array) and array.weak_type:
        return jax.lax.convert_element_type(array, array.dtype)
    return array


class _Call(NamedTuple):
    """A function, and its arguments but for the arrays in them.

    Attributes
    ----------
    function
        The function.
    structure, static
        Structure of the arguments, and their leaves with `_ARRAY` in the place of arrays.
    """

    function: Callable[..., Any]
    structure: Any
    static: tuple[Hashable, ...]

    def __call__(self, donated: list[Any], kept: list[Any]) -> Any:
        """Result of the function while it is traced."""
        args, kwargs = self.arguments(donated, kept)
        with TRACING:
            return self.function(*args, **kwargs)

    def arguments(self, donated: list[Any], kept: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these arrays: those whose memory may be taken over, and the others."""
        arrays = iter([b if a is None else a for a, b in zip(donated, kept, strict=True)])
        leaves = [next(arrays) if leaf is _ARRAY else leaf for leaf in self.static]
        return jax.tree.unflatten(self.structure, leaves)

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", "program")


class Compiled:
    """A function compiled for arguments of one structure. Its first call traces and compiles it, in one thread alone.

    Parameters
    ----------
    call
        The function, and its arguments but for the arrays.
    device
        Device that it is compiled for.
    one_core
        Whether calls run side by side, each on one core of a CPU.
    """

    def __init__(self, call: _Call, device: Any, one_core: bool):
        self._call, self._device = call, device
        self._options = compile_options(device.platform, one_core)
        self._tracing, self._compiling = threading.RLock(), threading.RLock()
        self._jitted: _Jitted | None = None
        self._is_compiled = False

    def __call__(self, donated: list[Any], kept: list[Any]) -> Any:
        """Result for these arrays: those whose memory may be taken over, and the others."""
        jitted = self.trace(donated, kept)
        if not self._is_compiled:
            self.compile()
        return jitted.result_of(jitted.function(donated, kept))

    @property
    def is_new(self) -> bool:
        """Whether it was traced, but not compiled, and no earlier process did so either."""
        return self._jitted is not None and self._jitted.lowered is not None and not self._jitted.is_loaded

    @property
    def result(self) -> Any:
        """The result, with a `jax.ShapeDtypeStruct` for each array."""
        assert self._jitted is not None
        return self._jitted.result_of(self._jitted.shapes)

    def trace(self, donated: list[Any], kept: list[Any]) -> "_Jitted":
        """Trace the function, or load what another process traced, if that is not done."""
        with self._tracing:
            if self._jitted is None:
                # The shapes alone: arrays that are tied to a device would leave their marks in the program, so that it
                # and the last bits of its results would depend on the first call.
                shapes = jax.tree.map(_shape_of, (donated, kept))
                self._jitted = self._stored(*shapes) or self._traced(*shapes)
            return self._jitted

    def compile(self) -> None:
        """Compile what was traced, if that is not done."""
        with self._compiling:
            jitted = self._jitted
            if self._is_compiled or jitted is None:
                return
            if jitted.unsaved is None:
                with on_all_cores():
                    jitted.lowered.compile()
            else:
                folder, digest, traced = jitted.unsaved
                with locked(folder, digest):
                    before = compiled_files(folder, self._call.name)
                    with on_all_cores():
                        jitted.lowered.compile()
                    after = compiled_files(folder, self._call.name)
                    written = dict(after.items() - before.items())
                    save(folder, digest, traced._replace(compiled=written))
            self._jitted = jitted._replace(lowered=None, unsaved=None)
            self._is_compiled = True

    def _stored(self, donated: list[Any], kept: list[Any]) -> "_Jitted | None":
        """The program from the store of traced programs, or a new one for it; None if it cannot be kept."""
        folder = keep_programs()
        if folder is None:
            return None
        digest = digest_of(self._call.function, self._device.platform, self._call.arguments(donated, kept))
        if digest is None:
            return None
        known = load(folder, digest)
        damaged = known is not None and remove_damaged(folder, known.compiled)
        traced = known or _exported(self._call, self._device.platform, donated, kept)
        if traced is None:
            return None
        leaves, structure = jax.tree.flatten(tree_of(traced.result, lambda _: _ARRAY))

        def result_of(arrays: list[Any]) -> Any:
            remaining = iter(arrays)
            return jax.tree.unflatten(structure, [next(remaining) if leaf is _ARRAY else leaf for leaf in leaves])

        jitted = self._jit(traced.exported.call)
        return _Jitted(
            function=jitted,
            lowered=jitted.lower(donated, kept),
            shapes=[jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in traced.exported.out_avals],
            result_of=result_of,
            is_loaded=known is not None,
            unsaved=(folder, digest, traced) if known is None or damaged else None,
        )

    def _traced(self, donated: list[Any], kept: list[Any]) -> "_Jitted":
        """The program by way of `jax.jit` alone."""
        call = self._call  # a reference to this object would keep dropped programs alive

        def function(donated: list[Any], kept: list[Any]) -> tuple[Any, _Static]:
            result, static = eqx.partition(call(donated, kept), eqx.is_array)
            # weak types would compile each program that takes the result a second time
            result = jax.tree.map(lambda array: jax.lax.convert_element_type(array, array.dtype), result)
            return result, _Static(static)

        jitted = self._jit(function)
        lowered = jitted.lower(donated, kept)
        return _Jitted(
            function=jitted,
            lowered=lowered,
            shapes=jax.tree.map(lambda known: jax.ShapeDtypeStruct(known.shape, known.dtype), lowered.out_info),
            result_of=lambda result: eqx.combine(result[0], result[1].value),
            is_loaded=False,
            unsaved=None,
        )

    def _jit(self, function: Callable[..., Any]) -> Any:
        """A jitted function. It is a new one each time, so that it can be dropped."""

        def named(donated: list[Any], kept: list[Any]) -> Any:
            return function(donated, kept)

        named.__name__ = named.__qualname__ = self._call.name
        # The device is named because JAX would compile again for each other mixture of NumPy and JAX arrays.
        here = SingleDeviceSharding(self._device)
        return jax.jit(named, donate_argnums=0, in_shardings=here, out_shardings=here, compiler_options=self._options)


def _exported(call: _Call, platform: str, donated: list[Any], kept: list[Any]) -> Traced | None:
    """A function, traced so that it can be kept; None if that cannot be."""
    described = []

    def function(donated: list[Any], kept: list[Any]) -> list[Any]:
        result = call(donated, kept)
        described.append(description_of(result))
        return [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, ARRAYS)]

    function.__name__ = function.__qualname__ = call.name
    target = "cpu" if platform == "cpu" else export.default_export_platform()
    try:
        exported = export.export(jax.jit(function), platforms=[target])(donated, kept)
        exported = export.deserialize(exported.serialize())  # now as it is for later processes
    except Exception as error:  # also an error of the function itself, which is raised when it is traced as usual
        logger.debug("%s is not kept: %s", call.name, error)
        return None
    return Traced(exported, described[-1])


class _Jitted(NamedTuple):
    """A jitted function, traced and lowered.

    Attributes
    ----------
    function
        Jitted function of both lists of arrays.
    lowered
        Its lowered form; None when it is compiled.
    shapes
        Value of the function with `jax.ShapeDtypeStruct` for arrays.
    result_of
        Result of the program from the value of the function.
    is_loaded
        Whether an earlier process traced it.
    unsaved
        Folder, digest and traced program, if it is to be saved when it is compiled.
    """

    function: Callable[..., Any]
    lowered: Any
    shapes: Any
    result_of: Callable[[Any], Any]
    is_loaded: bool
    unsaved: tuple[Path, str, Traced] | None


_ARRAY = object()
"""Stands for an array among the static leaves of the arguments."""


class _Static(eqx.Module):
    """Leaves of a result that are no arrays."""

    value: Any = eqx.field(static=True)


class _Kept:
    """Compiled programs in the order of their last use."""

    def __init__(self):
        self._programs: OrderedDict[Hashable, Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, compiled: Callable[[], Compiled]) -> Compiled:
        """The program of a key; made by `compiled` if there is none."""
        with self._lock:
            program = self._programs.get(key)
            if program is None:
                self._make_room()
                program = self._programs[key] = compiled()
            self._programs.move_to_end(key)
            return program

    def has(self, key: Hashable) -> bool:
        """Whether there is a program of this key."""
        with self._lock:
            return key in self._programs

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


KEPT = _Kept()
"""All compiled programs of the package in this process, as `jax.jit` keeps its own."""


def _trace_settings() -> tuple[Any, ...]:
    """Settings of JAX in this thread that programs depend on."""
    return tuple(getattr(jax.config, setting, None) for setting in SETTINGS)


def _device_of(arrays: list[Any]) -> Any:
    """Device that arrays were put on, else the default one of this thread."""
    for array in arrays:
        if isinstance(array, jax.Array) and array.committed:
            return min(array.devices(), key=lambda device: device.id)
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None or isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen
