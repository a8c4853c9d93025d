"""Work units on their way through the batch engine."""

import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from ..batch import Deblended, deblend_batch, deblend_stream
from ..fitting import Initialization, ProximalAdam
from ..instrument.box import Box
from ..instrument.observation import Observation
from ..io import Exposure
from ..model.blend import Blend
from .plan import WorkUnit
from .records import FAILED, fitted_record, unfitted_record
from .store import StoredBlend

logger = logging.getLogger(__name__)

BORDER = 1e-3
"""Positions keep this distance from the border of the window, in pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cutout:
    """A work unit with all that its fit needs.

    Attributes
    ----------
    unit
        The unit.
    obs
        What it is fitted to.
    positions, errors
        Positions (y, x) of its rows in pixels of the exposure, and their 1σ errors.
    start
        Fitted blend in the pixels of the unit's window, of some of its rows; None if there is none.
    started
        Places of these rows in the unit.
    """

    unit: WorkUnit
    obs: Observation
    positions: Float[np.ndarray, "source 2"]
    errors: Float[np.ndarray, " source"]
    start: Blend | None = None
    started: Int[np.ndarray, " started"] = dataclasses.field(default_factory=lambda: np.zeros(0, int))

    @property
    def new(self) -> Int[np.ndarray, " new"]:
        """Places of the rows that are not part of the start."""
        return np.setdiff1d(np.arange(len(self.unit.rows)), self.started)

    @property
    def centers(self) -> Float[np.ndarray, "new 2"]:
        """Positions of the new rows in the pixels of the unit's window."""
        return local_positions(self.positions, self.unit.box)[self.new]

    @property
    def entry(self) -> tuple[Observation, Float[np.ndarray, "new 2"], Blend | None]:
        """What the batch engine is given; the errors go beside it."""
        return self.obs, self.centers, self.start

    def in_order(self, result: Deblended) -> Deblended:
        """What the engine made of it, the sources in the order of the unit's rows."""
        if self.start is None:
            return result
        return result.take(np.argsort(np.concatenate([self.started, self.new])))


@dataclasses.dataclass(frozen=True, eq=False)
class Cutter:
    """Cuts out of an exposure what the fits of work units need.

    Attributes
    ----------
    exposure
        The exposure.
    positions, errors
        Positions (y, x) of all rows in pixels, and their 1σ errors.
    """

    exposure: Exposure
    positions: Float[np.ndarray, "source 2"]
    errors: Float[np.ndarray, " source"]

    def cut(self, unit: WorkUnit) -> Cutout:
        """Cut out what one unit needs."""
        obs = self.exposure.observation(unit.box, exclude=unit.exclude)
        return Cutout(unit, obs, self.positions[unit.rows], self.errors[unit.rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """A work unit that was tried.

    Attributes
    ----------
    unit
        The unit.
    cutout
        What it was fitted to, None if it failed.
    result
        The fit, None if it failed.
    error
        What went wrong, if it failed.
    """

    unit: WorkUnit
    cutout: Cutout | None = None
    result: Deblended | None = None
    error: str = ""

    @classmethod
    def failed(cls, unit: WorkUnit, error: Exception) -> "Finished":
        """A unit that failed with an error."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning("blend %d failed: %s", unit.id, text)
        return cls(unit, error=text)

    def recorded(self) -> tuple[StoredBlend, Deblended | None]:
        """Record of the unit, and what was fitted of its own sources."""
        if self.result is None or self.cutout is None:
            return unfitted_record(self.unit, FAILED + self.error), None
        own = self.result.take(np.arange(self.unit.n_own))
        return fitted_record(self.unit, self.cutout.positions, self.cutout.obs, self.result, own), own


@dataclasses.dataclass(eq=False)
class Runner:
    """Fits work units; their pixels are cut out as they are needed.

    Attributes
    ----------
    cut
        Cuts out what the fit of a unit needs.
    options, optimizer
        As for `jaxdeblend.deblend`.
    catch
        Whether a unit that fails with an error is told of, instead of ending the run.
    memory
        Bytes that fits may take at a time, as for `jaxdeblend.deblend_stream`.
    """

    cut: Callable[[WorkUnit], Cutout]
    options: Initialization | None
    optimizer: ProximalAdam | None
    catch: bool
    memory: float | None = None

    def run(self, units: Sequence[WorkUnit]) -> Iterator[Finished]:
        """Fit units, the largest first.

        Parameters
        ----------
        units
            The units.

        Yields
        ------
        Finished
            Each unit once, as it finishes.
        """
        ordered = sorted(units, key=lambda unit: (-unit.cost, unit.id))
        todo = {unit.id: unit for unit in ordered}
        try:
            for exact in (False, True):  # the largest are those beyond a limit on exact spectra
                for one in self._streamed([unit for unit in ordered if unit.exact_spectra is exact], exact):
                    del todo[one.unit.id]
                    yield one
        except Exception:
            if not self.catch:
                raise
            logger.warning("a blend ended the stream; the other %d are fitted one by one", len(todo), exc_info=True)
        for unit in todo.values():
            yield self._alone(unit)

    def records(self, units: Sequence[WorkUnit]) -> Generator[StoredBlend, None, None]:
        """Records of units as they finish."""
        for done in self.run(units):
            yield done.recorded()[0]

    def _streamed(self, units: Sequence[WorkUnit], exact_spectra: bool) -> Iterator[Finished]:
        """Fit units that are alike in `exact_spectra`, which a stream has for all."""
        waiting: dict[int, Cutout] = {}
        failed: deque[Finished] = deque()
        errors: deque[np.ndarray] = deque()

        def blends() -> Iterator[tuple[Observation, np.ndarray, Blend | None]]:
            number = 0
            for unit in units:
                try:
                    cutout = self.cut(unit)
                except Exception as error:
                    if not self.catch:
                        raise
                    failed.append(Finished.failed(unit, error))
                    continue
                waiting[number] = cutout
                number += 1
                errors.append(cutout.errors[cutout.new])
                yield cutout.entry

        def errors_as_read() -> Iterator[np.ndarray]:
            while errors:
                yield errors.popleft()

        stream = deblend_stream(
            blends(),
            center_error=errors_as_read(),
            options=self.options,
            optimizer=self._optimizer(exact_spectra),
            memory=self.memory,
        )
        for number, result in stream:
            while failed:
                yield failed.popleft()
            cutout = waiting.pop(number)
            yield Finished(cutout.unit, cutout, cutout.in_order(result))
        yield from failed

    def _alone(self, unit: WorkUnit) -> Finished:
        try:
            one = self.cut(unit)
            errors, optimizer = [one.errors[one.new]], self._optimizer(unit.exact_spectra)
            (result,) = deblend_batch([one.entry], center_error=errors, options=self.options, optimizer=optimizer)
        except Exception as error:
            return Finished.failed(unit, error)
        return Finished(unit, one, one.in_order(result))

    def _optimizer(self, exact_spectra: bool) -> ProximalAdam:
        """The optimizer, or the same without exact spectra; both go through the same programs."""
        optimizer = ProximalAdam() if self.optimizer is None else self.optimizer
        return optimizer if exact_spectra else dataclasses.replace(optimizer, exact_spectra=np.False_)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Linear algebra takes one thread: with more, the last bits of large factorizations depend on their number.

    Fits run side by side anyway. Programs of JAX call the LAPACK of SciPy, which has threads of its own.

    Raises
    ------
    ImportError
        If threadpoolctl is not installed.

    Examples
    --------
    >>> import threadpoolctl
    >>> with one_blas_thread():
    ...     {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}
    {1}
    """
    try:
        import threadpoolctl
    except ImportError as error:
        raise ImportError("stores of models need threadpoolctl: pip install 'jaxdeblend[store]'.") from error
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        yield


def local_positions(positions: Float[np.ndarray, "source 2"], box: Box) -> Float[np.ndarray, "source 2"]:
    """Positions in the pixels of a window; rounding must not push those at the very border off it.

    Parameters
    ----------
    positions
        Positions (y, x) in pixels of the exposure.
    box
        The window.

    Returns
    -------
    np.ndarray
        Positions in pixels of the window.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> local_positions(np.array([[12.0, 39.5]]), jd.Box((10, 20), (8, 20))).tolist()
    [[2.0, 19.499]]
    """
    return np.clip(positions - box.start, -0.5 + BORDER, np.array(box.shape) - 0.5 - BORDER)
