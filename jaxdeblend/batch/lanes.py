"""From packed pixels to results, for one blend or for many that share a call.

One blend runs through the programs of `jaxdeblend.batch.stages`. Where many blends share a call, they sit in *lanes*,
and a call is a *turn*: some blends enter free lanes, all lanes go on by half windows of steps until as many
blends are done as there are to be free lanes for the next ones, and those that are done are measured and leave. So no
blend waits for the slowest of its company, and the host is asked for once in a turn only.
"""

import functools
import itertools
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, PyTree

from ..fitting.loop import FitState, Problem
from ..fitting.render import render_terms
from ..measurement.photometry import measure_arrays
from ..runtime.host import AnyArray
from ..runtime.programs import TRACING, Program
from .plan import Bucket, Item, lane_of, pack
from .result import Deblended, unpack
from .stages import Output, Settings, compile_side_by_side, deblend_one

TURNS = 4
"""A quarter of the lanes is filled anew in each turn."""

Numbered = tuple[int, Item]


def finish(problem: Problem, state: FitState) -> Output:
    """What was fitted, and what is measured on it."""
    terms = render_terms(problem.best(state), problem.obs)
    fit = problem.result(state, terms)
    return fit, *measure_arrays(fit.blend, problem.obs, fit.status, terms)


class Calls:
    """A program that takes one blend a call, in several calls at a time.

    Parameters
    ----------
    bucket
        Shapes of the program.
    settings
        How every blend is deblended.
    """

    side_by_side = True
    group = 1
    inside: Mapping[int, Numbered] = {}

    def __init__(self, bucket: Bucket, settings: Settings):
        self.bucket, self.settings = bucket, settings
        self.memory = bucket.memory
        self._is_first = True

    def call(self, group: list[Numbered]) -> list[tuple[int, Deblended]]:
        """Deblend a numbered blend."""
        ((number, item),) = group
        blend = lane_of(pack([item], self.bucket, 1), 0)
        if self._is_first:
            compile_side_by_side(blend, self.settings)
            self._is_first = False
        output = deblend_one(blend, self.settings)
        return [(number, unpack(jax.device_get(output), item))]


class Fitting(eqx.Module):
    """The blends in the lanes.

    Attributes
    ----------
    problem, state
        Fit of each lane; an empty lane is done.
    ticket
        Number that the blend of a lane was given when it entered; -1 in an empty lane.
    """

    problem: Problem
    state: FitState
    ticket: Int[AnyArray, " lane"]

    def enter(self, problem: Problem, ticket: Int[AnyArray, " group"]) -> "Fitting":
        """The same with a group of blends in lanes that were free."""
        free = jnp.argsort(self.ticket >= 0)[: len(ticket)]
        started = Fitting(problem, jax.vmap(lambda problem: problem.init())(problem), ticket)
        return jax.tree.map(lambda lanes, group: lanes.at[free].set(group), self, started)

    def advance_until(self, wanted: Int[AnyArray, ""]) -> "Fitting":
        """The same when so many blends are done; a lane that is done stays as it is."""

        def advance(problem: Problem, state: FitState) -> FitState:
            return jax.tree.map(lambda old, new: jnp.where(state.done, old, new), state, problem.advance(state))

        state = jax.lax.while_loop(
            lambda state: jnp.sum((self.ticket >= 0) & state.done) < wanted,
            lambda state: jax.vmap(advance)(self.problem, state),
            self.state,
        )
        return Fitting(self.problem, state, self.ticket)


@functools.partial(Program, donated=(1,))
def turn(
    entering: tuple[dict[str, PyTree], Int[AnyArray, " group"], Bool[AnyArray, ""], Settings], fitting: Fitting
) -> tuple[Fitting, Int[AnyArray, " group"], Output]:
    """One turn of the lanes.

    Parameters
    ----------
    entering
        Packed blends of a group, their tickets (-1: none), whether blends are wanted back although lanes are free, and
        settings.
    fitting
        The blends in the lanes.

    Returns
    -------
    Fitting
        The same after the turn.
    Int[AnyArray, " group"]
        Tickets of the blends that left; -1: none.
    Output
        What became of them.
    """
    blends, tickets, last, settings = entering
    size = len(tickets)
    fitting = jax.lax.cond(
        jnp.any(tickets >= 0),
        lambda: fitting.enter(jax.vmap(settings.start)(blends), tickets),
        lambda: fitting,
    )
    taken = fitting.ticket >= 0
    wanted = jnp.where(last, size, size - jnp.sum(~taken))
    fitting = fitting.advance_until(jnp.clip(wanted, 0, jnp.sum(taken)))
    left = taken & fitting.state.done
    leaving = jnp.argsort(~left)[:size]
    output = jax.vmap(finish)(*lane_of((fitting.problem, fitting.state), leaving))
    tickets = jnp.where(left[leaving], fitting.ticket[leaving], -1)
    empty = jnp.asarray(fitting.ticket).at[leaving].set(jnp.where(left[leaving], -1, fitting.ticket[leaving]))
    return Fitting(fitting.problem, fitting.state, empty), tickets, output


class Lanes:
    """A program whose calls are turns of many lanes, and the blends in them.

    Parameters
    ----------
    bucket
        Shapes of the program.
    number
        Number of lanes.
    settings
        How every blend is deblended.
    group
        Blends that enter and leave at a time; None: `number` / `TURNS`.
    """

    side_by_side = False

    def __init__(self, bucket: Bucket, number: int, settings: Settings, group: int | None = None):
        self.bucket, self.settings = bucket, settings
        self.memory = number * bucket.memory
        self.number, self.group = number, min(number, group or max(1, number // TURNS))
        self.inside: dict[int, Numbered] = {}
        self._tickets = itertools.count()
        self._fitting: Fitting | None = None
        self._packed: dict[str, PyTree] = {}
        self._leaving: tuple[AnyArray, Output] | None = None

    def call(self, group: list[Numbered]) -> list[tuple[int, Deblended]]:
        """Let a group of numbered blends enter, and return those that left in the turn before; without a group, go on.

        What left is read while the next turn is under way.
        """
        if group:
            before, self._leaving = self._leaving, self._enter(group)
            return self._results(before)
        results = self._results(self._leaving)
        self._leaving = self._run(np.full(self.group, -1, np.int32)) if self.inside else None
        return results

    def _enter(self, group: list[Numbered]) -> tuple[AnyArray, Output]:
        tickets = np.full(self.group, -1, np.int32)
        tickets[: len(group)] = [next(self._tickets) for _ in group]
        self.inside.update(zip(tickets.tolist(), group, strict=False))
        self._packed = pack([item for _, item in group], self.bucket, self.group)
        return self._run(tickets)

    def _run(self, tickets: np.ndarray) -> tuple[AnyArray, Output]:
        if self._fitting is None:
            self._fitting = self._empty()
        entering = self._packed, tickets, np.asarray(not (tickets >= 0).any()), self.settings
        self._fitting, left, output = turn(entering, self._fitting)
        return left, output

    def _results(self, leaving: tuple[AnyArray, Output] | None) -> list[tuple[int, Deblended]]:
        """What left in a turn, without padding."""
        if leaving is None:
            return []
        tickets, output = jax.device_get(leaving)
        lanes = {int(ticket): lane for lane, ticket in enumerate(tickets) if ticket >= 0}
        blends = [(self.inside.pop(ticket), lane_of(output, lane)) for ticket, lane in lanes.items()]
        return [(number, unpack(result, item)) for (number, item), result in blends]

    def _empty(self) -> Fitting:
        """Lanes without blends."""

        def start(blend: dict[str, PyTree]) -> tuple[Problem, FitState]:
            problem = self.settings.start(blend)
            return problem, problem.init()

        with TRACING:
            shapes = jax.eval_shape(jax.vmap(start), self._packed)
        problem, state = jax.tree.map(lambda leaf: jnp.zeros((self.number, *leaf.shape[1:]), leaf.dtype), shapes)
        state = eqx.tree_at(lambda state: state.done, state, jnp.ones(self.number, dtype=bool))
        return Fitting(problem, state, jnp.full(self.number, -1, jnp.int32))
