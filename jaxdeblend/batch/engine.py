"""Deblending many ragged blends through a few compiled programs.

On an accelerator, the lanes of one call hold as many blends as fit. On a CPU, where the data of one blend fill the
cache of a core, each core runs one blend at a time, so that its arithmetic, to the last bit, does not depend on the
blends that come with it.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from ..fitting.initialize import Initialization
from ..fitting.optimizer import ProximalAdam
from ..instrument.observation import Observation
from ..model.blend import Blend
from .plan import Bucket, Item
from .result import Deblended
from .schedule import Limits, Schedule

Entry = tuple[Observation, object] | tuple[Observation, object, Blend | None]
"""What is known of a blend: pixels, positions, and perhaps a fitted blend that sources at these positions join."""


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
    blends: Iterable[Entry],
    *,
    center_error: float | int | np.ndarray | Sequence[object] = 0.1,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
    lanes: int | None = None,
    memory: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Deblended]:
    """Separate the sources of many blends, of any shapes and numbers of sources.

    Blends are padded to a short ladder of shapes and run in lanes through one compiled program for each rung; once
    these are compiled, further blends compile nothing. A blend that is done makes room for the next one. The result of
    a blend depends neither on its company nor on the order.

    Parameters
    ----------
    blends
        Pairs of an observation and positions (source, 2), (y, x) in pixels. Or, with a fitted blend as a third, sources
        that join it, as by `jaxdeblend.add_sources`: the result has the sources there were, then the new ones.
    center_error
        1σ error per axis of the positions in pixels: one number, or one entry per blend, each a number or one per
        source.
    options
        Constraints, priors, numbers of components.
    optimizer
        Settings of the optimizer.
    lanes
        Blends that share a call of a compiled program. By default one on a CPU, and on an accelerator as many as there
        is memory for, at most 512.
    memory
        Bytes that blends may take while they are fitted, by default half of the memory of the accelerator or of the
        machine. A blend that alone takes more is fitted alone.
    progress
        Called with the number of blends just finished.

    Returns
    -------
    list of Deblended
        In the order of the input, one for each blend.

    Raises
    ------
    ValueError
        If positions do not have the shape (source, 2), there is not one error per blend, or `lanes` or `memory` is not
        positive.

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
    schedule = Schedule(options, optimizer, Limits(lanes, memory, collections.Counter(item.bucket for item in items)))
    for number, result in schedule.run(_programs_first(items)):
        results[number] = result
        if progress is not None:
            progress(1)
    return [result for result in results if result is not None]


def deblend_stream(
    blends: Iterable[Entry],
    *,
    center_error: float | int | Iterable[object] = 0.1,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
    lanes: int | None = None,
    memory: float | None = None,
) -> Iterator[tuple[int, Deblended]]:
    """Separate the sources of blends as they come, for catalogs that do not fit into memory.

    Blends are read a little ahead of what is returned, and results are returned as they
    finish; each is the same as that of `deblend_batch`.

    Parameters
    ----------
    blends
        Observations, positions and perhaps fitted blends, as for `deblend_batch`; read once.
    center_error
        1σ error per axis of the positions in pixels: one number, or as many entries as blends, each a number or one per
        source.
    options
        Constraints, priors, numbers of components.
    optimizer
        Settings of the optimizer.
    lanes, memory
        As for `deblend_batch`.

    Yields
    ------
    tuple of int and Deblended
        The blend's place in the input, from 0, and what became of it.

    Raises
    ------
    ValueError
        If positions do not have the shape (source, 2), there is not one error per blend, or `lanes` or `memory` is not
        positive.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> sorted(number for number, result in jd.deblend_stream((obs, [(8, 8)]) for _ in range(3)))
    [0, 1, 2]
    """
    yield from Schedule(options, optimizer, Limits(lanes, memory)).run(enumerate(_items(blends, center_error)))


def _items(blends: Iterable[Entry], center_error: float | int | Iterable[object]) -> Iterator[Item]:
    """Blends with the errors of their positions, checked."""
    errors = itertools.repeat(center_error) if isinstance(center_error, int | float) else iter(center_error)
    end = object()
    number = 0
    for number, (obs, centers, *start) in enumerate(blends, start=1):
        error = next(errors, end)
        if error is end:
            raise ValueError(f"center_error: got {number - 1} entries, and more blends; give one per blend.")
        yield Item.of(obs, centers, error, *start)
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
