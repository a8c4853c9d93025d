"""Deblending many ragged blends through a few compiled programs.

On an accelerator, the lanes of one call hold as many blends as fit. On a CPU, where the data of one blend fill the
cache of a core, each core runs one blend at a time. Either way the shape of a call depends on the blend's own sizes
alone, so that its arithmetic, to the last bit, does not depend on the blends that come with it.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
from ..fit.render import render_sources
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

LANE_BYTES = 2**28
"""Memory that the lanes of one call may take together; fewer lanes run when blends are large."""


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
    alike = isinstance(center_error, int | float)
    errors = [center_error] * len(pairs) if alike else list(center_error)
    if len(errors) != len(pairs):
        raise ValueError(f"center_error: got {len(errors)} entries for {len(pairs)} blends; give one per blend.")
    items = [Item.of(obs, centers, error) for (obs, centers), error in zip(pairs, errors, strict=True)]
    options = Initialization() if options is None else options
    optimizer = ProximalAdam() if optimizer is None else optimizer
    results: list[Deblended | None] = [None] * len(items)
    for numbers, outcome in _in_parallel(items, options, optimizer):
        for number, result in zip(numbers, outcome, strict=True):
            results[number] = result
        if progress is not None:
            progress(len(numbers))
    return [result for result in results if result is not None]


def _in_parallel(
    items: list[Item], options: Initialization, optimizer: ProximalAdam
) -> Iterator[tuple[list[int], list[Deblended]]]:
    """Numbers and results of a few blends at a time, as they finish.

    The first call of a program, which compiles it, is the only one of its kind until it is done.
    """
    with ThreadPoolExecutor(_workers(), thread_name_prefix="jaxdeblend") as pool:
        calls: dict[Future[list[Deblended]], list[int]] = {}
        later: dict[Future[list[Deblended]], list[list[int]]] = {}

        def submit(numbers: list[int]) -> Future[list[Deblended]]:
            future = pool.submit(_run, [items[n] for n in numbers], options, optimizer)
            calls[future] = numbers
            return future

        for bucket, members in _sorted_into_buckets(items).items():
            lanes = _lanes(bucket)
            first, *others = [members[k : k + lanes] for k in range(0, len(members), lanes)]
            logger.debug("%d blends of %s", len(members), bucket)
            later[submit(first)] = others
        try:
            while calls:
                for future in wait(calls, return_when=FIRST_COMPLETED).done:
                    for numbers in later.pop(future, []):
                        submit(numbers)
                    yield calls.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _workers() -> int:
    """Threads that run calls: one for each core of a CPU; for an accelerator two, one of which packs and unpacks."""
    if jax.default_backend() != "cpu":
        return 2
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sorted_into_buckets(items: list[Item]) -> dict[Bucket, list[int]]:
    buckets: dict[Bucket, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        buckets[item.bucket].append(number)
    return dict(sorted(buckets.items(), key=lambda entry: entry[0].cost))


def _lanes(bucket: Bucket) -> int:
    """Lanes of a call: one on a CPU, else as many as memory allows, a power of two."""
    if jax.default_backend() == "cpu":
        return 1
    lane_bytes = 64 * bucket.image_edge**2 * len(bucket.bands) * bucket.n_sources
    return 2 ** int(np.log2(np.clip(LANE_BYTES / lane_bytes, 1, LANES)))


def _run(items: list[Item], options: Initialization, optimizer: ProximalAdam) -> list[Deblended]:
    """One call of a compiled program on blends of one bucket, and its results without padding."""
    bucket = items[0].bucket
    packed = pack(items, bucket, _lanes(bucket))
    output = jax.device_get(_deblend_lanes(packed, options, optimizer, bucket.bands, bucket.stamp_edge))
    return [_unpack(output, lane, item) for lane, item in enumerate(items)]


# calls run side by side, not each on all cores; the types of equinox leave out what goes on to jax.jit
@eqx.filter_jit(compiler_options={"xla_cpu_multi_thread_eigen": False})  # pyright: ignore[reportCallIssue]
def _deblend_lanes(
    packed: dict[str, PyTree],
    options: Initialization,
    optimizer: ProximalAdam,
    bands: tuple[str, ...],
    stamp_edge: int,
) -> tuple[FitResult, Measurements, Float[Array, "lane source band y x"]]:
    """Initialize, fit, measure and render all lanes."""

    def one(lane: dict[str, PyTree]) -> tuple[FitResult, Measurements, Array]:
        obs = _observation(lane, bands)
        blend = initialize_arrays(obs, lane["centers"], lane["errors"], lane["active"], stamp_edge, options)
        fit = fit_arrays(blend, obs, optimizer)
        return fit, measure_arrays(fit.blend, obs, fit.status), render_sources(fit.blend, obs)

    if len(packed["images"]) == 1:  # a loop under vmap computes and selects, without it it just ends
        return jax.tree.map(lambda array: array[None], one(jax.tree.map(lambda array: array[0], packed)))
    return jax.vmap(one)(packed)


def _observation(lane: dict[str, PyTree], bands: tuple[str, ...]) -> Observation:
    """The observation of one lane, with its difference kernel."""
    weights = lane["weights"]
    return Observation(
        lane["images"],
        jnp.where(weights > 0, 1 / jnp.where(weights > 0, weights, 1.0), 0.0),
        ImagePSF(lane["psf"]),
        bands=bands,
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
