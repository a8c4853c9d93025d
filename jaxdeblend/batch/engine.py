"""Deblending many ragged blends through a few compiled programs.

On an accelerator, the lanes of one call hold as many blends as fit. On a CPU, where the data of one blend fill the
cache of a core, each core runs one blend at a time. Either way the shape of a call depends on the blend's own sizes
alone, so that its arithmetic, to the last bit, does not depend on the blends that come with it.
"""

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from astropy.table import QTable
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..fit.initialize import Initialization, initialize_arrays
from ..fit.loop import RESULTS, FitResult, fit_arrays
from ..fit.optimizer import ProximalAdam
from ..instrument.host import AnyArray
from ..instrument.kernel import DifferenceKernel
from ..instrument.observation import Observation
from ..instrument.psf import ImagePSF
from ..measure.photometry import Measurements, measure_arrays
from ..measure.table import table_of
from ..model.blend import Blend, Stack
from ..model.prior import CenterPrior
from .plan import Bucket, Item, pack

if TYPE_CHECKING:
    from astropy.wcs import WCS

logger = logging.getLogger(__name__)

LANES = 16
"""Most blends that share one call of a compiled program on an accelerator."""

READ_AHEAD = 256
"""Most blends that are read before the first of them is returned."""

LANE_BYTES = 2**28
"""Memory that the lanes of one call may take together; fewer lanes run when blends are large."""

TRACING = threading.Lock()
"""Held while JAX reads a program, before it compiles it: two threads that do so at a time may disturb each other."""


class Deblended(eqx.Module):
    """A deblended blend: the fit, and what was measured on it in the same compiled call.

    Attributes
    ----------
    fit
        The fit.
    measurements
        Fluxes, errors, shapes and flags, one entry per source.
    source_models
        Each source as observed, (source, band, y, x).
    bands
        Name of each band.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> result = jd.deblend(obs, [(8.0, 8.0)])
    >>> len(result.table()), result.model.shape
    (1, (1, 16, 16))
    """

    fit: FitResult
    measurements: Measurements
    source_models: Float[np.ndarray, "source band y x"]
    bands: tuple[str, ...] = eqx.field(static=True)

    @property
    def model(self) -> Float[np.ndarray, "band y x"]:
        """The model of all sources as observed."""
        return self.source_models.sum(axis=0)

    @property
    def blend(self) -> Blend:
        """The best blend."""
        return self.fit.blend

    @property
    def loss(self) -> Float[AnyArray, " step"]:
        """Negative log-posterior before each step."""
        return self.fit.loss

    @property
    def n_steps(self) -> Int[AnyArray, ""]:
        """Number of steps made."""
        return self.fit.n_steps

    @property
    def status(self) -> Int[AnyArray, ""]:
        """Value of `RESULTS`."""
        return self.fit.status

    @property
    def result(self) -> RESULTS:
        """The status as a member of `RESULTS`."""
        return self.fit.result

    @property
    def converged(self) -> Bool[AnyArray, ""] | np.bool:
        """Whether the fit stopped by itself."""
        return self.fit.converged

    def table(self, *, wcs: "WCS | None" = None) -> QTable:
        """Table of the sources, with the columns of `jaxdeblend.measure`.

        Parameters
        ----------
        wcs
            World coordinates of the observation's pixels; adds the columns ``ra`` and ``dec``.
        """
        return table_of(self.measurements, self.bands, wcs=wcs)


def deblend(
    obs: Observation,
    centers: object,
    *,
    center_error: object = 0.1,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
) -> Deblended:
    """Separate the sources of one blend: initialize, fit, measure.

    The same as `deblend_batch` of one blend, through the same compiled programs.

    Parameters
    ----------
    obs
        Observation.
    centers
        Positions (source, 2), (y, x) in pixels.
    center_error
        1σ error per axis of the positions in pixels, one number or one per source; 0 keeps the centres fixed.
    options
        Constraints, priors, numbers of components.
    optimizer
        Settings of the optimizer.

    Returns
    -------
    Deblended
        Best blend, losses, measurements and model.

    Raises
    ------
    ValueError
        If centers do not have the shape (source, 2).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> jd.deblend(obs, []).table().colnames[:3]
    ['id', 'x', 'y']
    """
    return deblend_batch([(obs, centers)], center_error=[center_error], options=options, optimizer=optimizer)[0]


def deblend_batch(
    blends: Iterable[tuple[Observation, object]],
    *,
    center_error: float | int | np.ndarray | Sequence[object] = 0.1,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Deblended]:
    """Separate the sources of many blends, of any shapes and numbers of sources.

    Blends are padded to a short ladder of shapes and run in lanes through one compiled program for each rung; once
    these are compiled, further blends compile nothing. The result of a blend depends neither on its company nor on the
    order.

    Parameters
    ----------
    blends
        Pairs of an observation and positions (source, 2), (y, x) in pixels.
    center_error
        1σ error per axis of the positions in pixels: one number, or one entry per blend, each a number or one per
        source.
    options
        Constraints, priors, numbers of components.
    optimizer
        Settings of the optimizer.
    progress
        Called with the number of blends just finished.

    Returns
    -------
    list of Deblended
        In the order of the input, one for each blend.

    Raises
    ------
    ValueError
        If positions do not have the shape (source, 2), or there is not one error per blend.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> [len(result.table()) for result in jd.deblend_batch([(obs, [(8, 8)]), (obs, [])])]
    [1, 0]
    """
    pairs = list(blends)
    if not isinstance(center_error, int | float):
        center_error = list(center_error)
        if len(center_error) != len(pairs):
            raise ValueError(
                f"center_error: got {len(center_error)} entries for {len(pairs)} blends; give one per blend."
            )
    items = list(_items(pairs, center_error))
    results: list[Deblended | None] = [None] * len(items)
    for number, result in _stream(_programs_first(items), options, optimizer):
        results[number] = result
        if progress is not None:
            progress(1)
    return [result for result in results if result is not None]


def deblend_stream(
    blends: Iterable[tuple[Observation, object]],
    *,
    center_error: float | int | Iterable[object] = 0.1,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
) -> Iterator[tuple[int, Deblended]]:
    """Separate the sources of blends as they come, for catalogs that do not fit into memory.

    Blends are read a little ahead of what is returned, at most `READ_AHEAD`, and results are returned as they
    finish; each is the same as that of `deblend_batch`.

    Parameters
    ----------
    blends
        Pairs of an observation and positions, as for `deblend_batch`; read once.
    center_error
        1σ error per axis of the positions in pixels: one number, or as many entries as blends, each a number or one per
        source.
    options
        Constraints, priors, numbers of components.
    optimizer
        Settings of the optimizer.

    Yields
    ------
    tuple of int and Deblended
        The blend's place in the input, from 0, and what became of it.

    Raises
    ------
    ValueError
        If positions do not have the shape (source, 2), or there is not one error per blend.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> sorted(number for number, result in jd.deblend_stream((obs, [(8, 8)]) for _ in range(3)))
    [0, 1, 2]
    """
    yield from _stream(enumerate(_items(blends, center_error)), options, optimizer)


def _items(
    blends: Iterable[tuple[Observation, object]], center_error: float | int | Iterable[object]
) -> Iterator[Item]:
    """Blends with the errors of their positions, checked."""
    errors = itertools.repeat(center_error) if isinstance(center_error, int | float) else iter(center_error)
    end = object()
    number = 0
    for number, (obs, centers) in enumerate(blends, start=1):
        error = next(errors, end)
        if error is end:
            raise ValueError(f"center_error: got {number - 1} entries, and more blends; give one per blend.")
        yield Item.of(obs, centers, error)
    if not isinstance(center_error, int | float) and next(errors, end) is not end:
        raise ValueError(f"center_error: got more entries than the {number} blends; give one per blend.")


def _programs_first(items: list[Item]) -> list[tuple[int, Item]]:
    """Numbered blends in an order that compiles all programs at once, then begins with the largest."""
    seen: set[Bucket] = set()
    order = []
    for number, item in enumerate(items):
        order.append((item.bucket in seen, -item.bucket.cost, number))
        seen.add(item.bucket)
    return [(number, items[number]) for *_, number in sorted(order)]


def _stream(
    numbered: Iterable[tuple[int, Item]], options: Initialization | None, optimizer: ProximalAdam | None
) -> Iterator[tuple[int, Deblended]]:
    """Numbers and results as they finish.

    Blends of one bucket are collected until they fill the lanes of a call. The first call of a program, which
    compiles it, is the only one of its kind until it is done.
    """
    options = Initialization() if options is None else options
    optimizer = ProximalAdam() if optimizer is None else optimizer
    source = iter(numbered)
    filling: dict[Bucket, list[tuple[int, Item]]] = {}
    full: list[list[tuple[int, Item]]] = []
    running: dict[Future[list[Deblended]], list[tuple[int, Item]]] = {}
    compiled: set[Bucket] = set()
    compiling: set[Bucket] = set()
    workers, as_here, held, exhausted = _workers(), _settings_of_this_thread(), 0, False
    with ThreadPoolExecutor(workers, thread_name_prefix="jaxdeblend") as pool:
        try:
            while True:
                while held < READ_AHEAD and not exhausted:
                    number, item = next(source, (-1, None))
                    if item is None:
                        exhausted = True
                        break
                    held += 1
                    group = filling.setdefault(item.bucket, [])
                    group.append((number, item))
                    if len(group) == _lanes(item.bucket):
                        full.append(filling.pop(item.bucket))
                if exhausted or not (full or running):
                    full += filling.values()
                    filling.clear()
                waiting = []
                for group in full:
                    bucket = group[0][1].bucket
                    first = bucket not in compiled
                    if bucket in compiling or len(running) >= 2 * workers or (first and 2 * len(compiling) >= workers):
                        waiting.append(group)
                        continue
                    if first:
                        _announce(bucket)
                        compiling.add(bucket)
                    running[pool.submit(_run, [item for _, item in group], options, optimizer, as_here)] = group
                full = waiting
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    group = running.pop(future)
                    results = future.result()
                    held -= len(group)
                    compiling.discard(group[0][1].bucket)
                    compiled.add(group[0][1].bucket)
                    yield from ((number, result) for (number, _), result in zip(group, results, strict=True))
        finally:
            pool.shutdown(cancel_futures=True)


def _announce(bucket: Bucket) -> None:
    """Say what is compiled, aloud if it is for one blend alone."""
    logger.debug("compiling %s", bucket)
    if bucket.beyond_ladder:
        logger.warning(
            "a blend of %d sources, %d bands and an edge of %d pixels is larger than the ladder of programs: one is "
            "compiled for it alone, and it takes about %.1f GB of memory",
            bucket.n_sources,
            bucket.n_bands,
            bucket.image_edge,
            bucket.memory / 1e9,
        )


def _workers() -> int:
    """Threads that run calls: two for each core of a CPU, for an accelerator two, half of which pack and unpack."""
    if jax.default_backend() != "cpu":
        return 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * cores


def _lanes(bucket: Bucket) -> int:
    """Lanes of a call: one on a CPU, else as many as memory allows, a power of two."""
    if jax.default_backend() == "cpu":
        return 1
    return 2 ** int(np.log2(np.clip(LANE_BYTES / bucket.memory, 1, LANES)))


def _settings_of_this_thread() -> Callable[[], AbstractContextManager[None]]:
    """What makes another thread compute as this one: JAX keeps precision and device for each thread."""
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]

    @contextmanager
    def settings() -> Iterator[None]:
        with jax.enable_x64(x64), jax.default_device(device):
            yield

    return settings


def _run(
    items: list[Item],
    options: Initialization,
    optimizer: ProximalAdam,
    settings: Callable[[], AbstractContextManager[None]],
) -> list[Deblended]:
    """One call of a compiled program on blends of one bucket, and its results without padding."""
    bucket = items[0].bucket
    packed = pack(items, bucket, _lanes(bucket))
    with settings():
        output = jax.device_get(_deblend_lanes(packed, options, optimizer, bucket.stamp_edge))
    return [_unpack(output, lane, item) for lane, item in enumerate(items)]


# calls run side by side, not each on all cores; the types of equinox leave out what goes on to jax.jit
@eqx.filter_jit(compiler_options={"xla_cpu_multi_thread_eigen": False})  # pyright: ignore[reportCallIssue]
def _deblend_lanes(
    packed: dict[str, PyTree],
    options: Initialization,
    optimizer: ProximalAdam,
    stamp_edge: int,
) -> tuple[FitResult, Measurements, Float[Array, "lane source band y x"]]:
    """Initialize, fit, measure and render all lanes."""

    def one(lane: dict[str, PyTree]) -> tuple[FitResult, Measurements, Array]:
        obs = observation_of(lane)
        blend = initialize_arrays(obs, lane["centers"], lane["errors"], lane["active"], stamp_edge, options)
        fit = fit_arrays(blend, obs, optimizer)
        return fit, *measure_arrays(fit.blend, obs, fit.status)

    with TRACING:
        if len(packed["images"]) == 1:  # a loop under vmap computes and selects, without it it just ends
            return jax.tree.map(lambda array: array[None], one(jax.tree.map(lambda array: array[0], packed)))
        return jax.vmap(one)(packed)


def observation_of(lane: dict[str, PyTree]) -> Observation:
    """The observation of one lane, as packed by `jaxdeblend.batch.plan.pack`, with its difference kernel.

    Its bands are numbers: programs do not depend on their names.
    """
    weights = lane["weights"]
    return Observation(
        lane["images"],
        jnp.where(weights > 0, 1 / jnp.where(weights > 0, weights, 1.0), 0.0),
        ImagePSF(lane["psf"]),
        bands=[str(number) for number in range(len(weights))],
        model_psf=lane["model_psf"],
        kernel=DifferenceKernel(lane["kernel"]) if "kernel" in lane else _kernel(lane),
        extent=lane["extent"],
    ).prepared()


def _kernel(lane: dict[str, PyTree]) -> DifferenceKernel:
    """The difference kernel of one lane, cropped to the edge that its PSF had before it was padded."""
    kernel = DifferenceKernel.between(lane["model_psf"], ImagePSF(lane["psf"])).image
    edge = kernel.shape[-1]
    near = jnp.abs(jnp.arange(edge, dtype=lane["psf_edge"].dtype) - edge // 2) <= lane["psf_edge"] // 2
    cropped = jnp.where((near[:, None] & near[None, :])[None], kernel, 0.0)
    return DifferenceKernel(cropped / cropped.sum(axis=(-2, -1), keepdims=True))


def _unpack(output: tuple[FitResult, Measurements, np.ndarray], lane: int, item: Item) -> Deblended:
    """One lane without the padding of sources and pixels."""
    fit, measurements, models = jax.tree.map(lambda array: array[lane, ...], output)
    n, (height, width) = len(item.centers), item.obs.shape
    blend = fit.blend
    stacks = tuple(_trimmed(stack, n) for stack in blend.stacks)
    prior = CenterPrior(blend.center_prior.mean[:n], blend.center_prior.sigma[:n])
    trimmed = Blend(blend.centers[:n], prior, stacks, blend.active[:n], (height, width))
    return Deblended(
        fit=FitResult(trimmed, fit.loss, fit.n_steps, fit.status),
        measurements=jax.tree.map(lambda array: array[:n], measurements),
        source_models=models[:n, :, :height, :width],
        bands=item.obs.bands,
    )


def _trimmed(stack: Stack, n_sources: int) -> Stack:
    """Components of real sources; dark ones of these stay."""
    kept = np.flatnonzero(np.asarray(stack.source) < n_sources)
    return jax.tree.map(lambda array: array[kept], stack)
