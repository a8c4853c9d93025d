"""Work units on their way through the batch engine."""

import dataclasses
import logging
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from ..batch import Deblended, deblend, deblend_stream
from ..fit import Initialization, ProximalAdam
from ..instrument.box import Box
from ..instrument.observation import Observation
from ..io import Exposure
from .plan import WorkUnit

logger = logging.getLogger(__name__)

BORDER = 1e-3
"""Positions keep this distance from the border of the window, in pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """A work unit that was tried.

    Attributes
    ----------
    unit
        The unit.
    obs
        What it was fitted to.
    result
        The fit, None if it failed.
    error
        What went wrong, if it failed.
    """

    unit: WorkUnit
    obs: Observation | None = None
    result: Deblended | None = None
    error: str = ""

    @classmethod
    def failed(cls, unit: WorkUnit, error: Exception) -> "Finished":
        """A unit that failed with an error."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        logger.warning("blend %d failed: %s", unit.id, text)
        return cls(unit, error=text)


@dataclasses.dataclass(eq=False)
class Runner:
    """Fits work units; their pixels are cut out as they are needed.

    Attributes
    ----------
    exposure
        The exposure.
    positions, errors
        Positions (y, x) of all rows in pixels, and their 1σ errors.
    options, optimizer
        As for `jaxdeblend.deblend`.
    catch
        Whether a unit that fails with an error is told of, instead of ending the run.
    """

    exposure: Exposure
    positions: Float[np.ndarray, "source 2"]
    errors: Float[np.ndarray, " source"]
    options: Initialization | None
    optimizer: ProximalAdam | None
    catch: bool

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
        todo = {unit.id: unit for unit in sorted(units, key=lambda unit: (-unit.cost, unit.id))}
        try:
            for one in self._streamed(list(todo.values())):
                del todo[one.unit.id]
                yield one
        except Exception:
            if not self.catch:
                raise
            logger.warning("a blend ended the stream; the other %d are fitted one by one", len(todo), exc_info=True)
        for unit in todo.values():
            yield self._alone(unit)

    def _streamed(self, units: Sequence[WorkUnit]) -> Iterator[Finished]:
        waiting: dict[int, tuple[WorkUnit, Observation]] = {}
        failed: deque[Finished] = deque()
        errors: deque[np.ndarray] = deque()

        def blends() -> Iterator[tuple[Observation, np.ndarray]]:
            number = 0
            for unit in units:
                try:
                    obs = self.observation(unit)
                except Exception as error:
                    if not self.catch:
                        raise
                    failed.append(Finished.failed(unit, error))
                    continue
                waiting[number] = unit, obs
                number += 1
                errors.append(self.errors[unit.rows])
                yield obs, self.inside(unit)

        def errors_as_read() -> Iterator[np.ndarray]:
            while errors:
                yield errors.popleft()

        stream = deblend_stream(blends(), center_error=errors_as_read(), options=self.options, optimizer=self.optimizer)
        for number, result in stream:
            while failed:
                yield failed.popleft()
            yield Finished(*waiting.pop(number), result)
        yield from failed

    def _alone(self, unit: WorkUnit) -> Finished:
        try:
            obs, error = self.observation(unit), self.errors[unit.rows]
            result = deblend(obs, self.inside(unit), center_error=error, options=self.options, optimizer=self.optimizer)
        except Exception as error:
            return Finished.failed(unit, error)
        return Finished(unit, obs, result)

    def observation(self, unit: WorkUnit) -> Observation:
        """Cut out what a unit is fitted to."""
        return self.exposure.observation(unit.box, exclude=unit.exclude)

    def inside(self, unit: WorkUnit) -> Float[np.ndarray, "source 2"]:
        """Positions in the pixels of the unit's window."""
        return local_positions(self.positions[unit.rows], unit.box)


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
