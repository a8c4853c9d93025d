"""The fit: one compiled loop from an initial blend to the best one."""

import enum
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation
from ..model.blend import Blend
from ..model.component import AbstractComponent, FactorizedComponent
from ..model.parameter import fitted
from ..model.spectrum import AbstractSpectrum
from ..runtime.host import AnyArray
from ..runtime.programs import Program
from .likelihood import posterior_of_arrays
from .optimizer import ProximalAdam
from .record import recorded, without_record
from .render import Terms, render_arrays, render_terms
from .spectra import chi_square, solve_spectra

LARGEST_DROP = 4.0
"""A fit goes on if it gained this many times its tolerance in the last window, whatever the estimate says."""

SLOWEST = 0.95
"""Largest ratio of the gain in half a window to that in the one before that an end of the fit is estimated with."""


class RESULTS(enum.IntEnum):
    """How a fit ended.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.RESULTS(0).name
    'CONVERGED'
    """

    CONVERGED = 0
    MAX_STEPS = 1
    NON_FINITE = 2
    NO_DATA = 3


class FitResult(eqx.Module):
    """Outcome of a fit.

    Attributes
    ----------
    blend
        The best blend of all steps, with the spectra solved exactly for its shapes if the optimizer says so.
    loss
        Negative log-posterior before each step; NaN after the last.
    n_steps
        Number of steps made.
    status
        Value of `RESULTS`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 8, 8)), jnp.ones((1, 8, 8)), jd.GaussianPSF(1.5), bands=["r"])
    >>> blend = jd.Blend.of([jd.PointSource((4, 4), jnp.array([30.0]))], frame=(8, 8))
    >>> result = jd.fit(blend, obs)
    >>> result.result.name
    'CONVERGED'
    """

    blend: Blend
    loss: Float[AnyArray, " step"]
    n_steps: Int[AnyArray, ""]
    status: Int[AnyArray, ""]

    @property
    def converged(self) -> Bool[AnyArray, ""] | np.bool:
        """Whether the fit stopped by itself."""
        return self.status == RESULTS.CONVERGED

    @property
    def result(self) -> RESULTS:
        """The status as a member of `RESULTS`."""
        return RESULTS(int(self.status))


class FitState(eqx.Module):
    """Everything that a step changes, grouped by when it changes."""

    parameters: PyTree
    optimizer: PyTree
    n_steps: Int[Array, ""]
    loss: Float[Array, " step"]
    last_loss: Float[Array, ""]
    done: Bool[Array, ""]
    # the best iterate so far
    best_parameters: PyTree
    best_loss: Float[Array, ""]
    # the best iterates of half a window and of a window ago, or less if the last half is not over
    milestones: tuple[PyTree, PyTree]


def fit(
    blend: Blend,
    obs: Observation,
    optimizer: ProximalAdam | None = None,
    *,
    fixed: Callable[[Blend], object] | None = None,
) -> FitResult:
    """Fit a blend to an observation by proximal ADAM on the log-posterior.

    In the end, free spectra are solved for exactly at the fitted shapes, see `jaxdeblend.fitting.spectra`, but for an
    optimizer without `exact_spectra`.

    Parameters
    ----------
    blend
        Initial blend, as from `initialize`.
    obs
        Observation of the same frame.
    optimizer
        Settings of the optimizer.
    fixed
        Picks what stays fixed, in the manner of `equinox.tree_at`: ``lambda blend: blend.centers``.

    Returns
    -------
    FitResult
        Best blend, losses, number of steps and status.

    Raises
    ------
    ValueError
        If blend and observation have different frames.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((8, 8), jnp.array([500.0]))], frame=(17, 17))
    >>> blank = jd.Observation(jnp.zeros((1, 17, 17)), jnp.ones((1, 17, 17)), jd.GaussianPSF(1.5), bands=["r"])
    >>> obs = jd.Observation(jd.render(star, blank), jnp.ones((1, 17, 17)), jd.GaussianPSF(1.5), bands=["r"])
    >>> start = jd.Blend.of([jd.PointSource((8, 8), jnp.array([400.0]))], frame=(17, 17))
    >>> bool(abs(jd.fit(start, obs).blend.sources[0].flux[0] - 500.0) < 5.0)
    True
    """
    if blend.frame != obs.shape:
        raise ValueError(f"blend: got a blend for the frame {blend.frame}; the observation's shape is {obs.shape}.")
    optimizer = ProximalAdam() if optimizer is None else optimizer
    scaled, unit = in_noise_units(obs)
    result = _fit(without_record(blend).scaled(1 / unit), scaled, optimizer, fixed)
    in_own_unit = eqx.tree_at(lambda r: r.blend, result, result.blend.scaled(unit))
    return recorded(in_own_unit, obs)


def fit_arrays(
    blend: Blend,
    obs: Observation,
    optimizer: ProximalAdam,
    fixed: Callable[[Blend], object] | None = None,
) -> FitResult:
    """The fit as a pure function of arrays, for `jax.vmap` over blends."""
    return fit_and_terms(blend, obs, optimizer, fixed)[0]


def fit_and_terms(
    blend: Blend,
    obs: Observation,
    optimizer: ProximalAdam,
    fixed: Callable[[Blend], object] | None = None,
) -> tuple[FitResult, Terms]:
    """The fit, and the terms of its blend as from `jaxdeblend.fitting.render.render_terms`."""
    problem = Problem(blend, obs, optimizer, fixed)
    state = problem.run()
    terms = render_terms(problem.best(state), problem.obs)
    return problem.result(state, terms), terms


_fit = Program(fit_arrays)


class Problem(eqx.Module):
    """One fit: what does not change during it, and how a step is made.

    Attributes
    ----------
    obs
        The observation.
    optimizer
        Settings of the optimizer.
    initial
        Fitted arrays of the initial blend; None elsewhere.
    fixed
        All other arrays of the blend.
    steps
        Step size of every fitted array.
    curvature
        What a step of all parameters does to the gradient of each, in units of its step.
    rms
        Background noise of each band.
    """

    obs: Observation
    optimizer: ProximalAdam
    initial: Blend
    fixed: Blend
    steps: Blend
    curvature: Blend
    rms: Float[Array, " band"]

    def __init__(
        self,
        blend: Blend,
        obs: Observation,
        optimizer: ProximalAdam,
        fixed: Callable[[Blend], object] | None = None,
    ):
        self.obs, self.optimizer, self.rms = obs.prepared(), optimizer, obs.background_rms
        blend = blend.project(self.rms)
        steps = blend.step_sizes(self.rms, self._misfit(blend))
        if fixed is not None:
            steps = eqx.tree_at(fixed, steps, replace_fn=lambda _: None)
        self.initial, self.fixed = eqx.partition(blend, fitted(steps))
        self.steps = steps
        self.curvature = self._curvature()

    def init(self) -> FitState:
        """State before the first step."""
        infinity = jnp.asarray(jnp.inf, dtype=self.obs.images.dtype)
        return FitState(
            parameters=self.initial,
            optimizer=self.optimizer.init(self.initial),
            n_steps=jnp.zeros((), dtype=int),
            loss=jnp.full(self.optimizer.max_steps, jnp.nan, dtype=self.obs.images.dtype),
            last_loss=jnp.zeros_like(infinity),
            done=~jnp.any(self.obs.weights > 0),
            best_parameters=self.initial,
            best_loss=infinity,
            milestones=(self.initial, self.initial),
        )

    def run(self) -> FitState:
        """State at the end."""
        return jax.lax.while_loop(lambda state: ~state.done, lambda state: self.advance(state), self.init())

    def advance(self, state: FitState) -> FitState:
        """Half a window of steps, or less if the fit ends."""
        most = jnp.minimum(state.n_steps + self.optimizer.window // 2, self.optimizer.max_steps)
        state = jax.lax.while_loop(
            lambda state: ~state.done & (state.n_steps < most), lambda state: self._judged(self.step(state)), state
        )
        return eqx.tree_at(lambda s: s.milestones, state, (state.best_parameters, state.milestones[0]))

    def step(self, state: FitState) -> FitState:
        """One step: gradient, ADAM, projection."""
        loss, gradients = self.gradient(state.parameters)
        changes, optimizer = self.optimizer.update(
            gradients, state.optimizer, self.steps, self.curvature, state.n_steps
        )
        blend = eqx.combine(eqx.apply_updates(state.parameters, changes), self.fixed).project(self.rms)
        better = loss < state.best_loss
        return FitState(
            parameters=eqx.filter(blend, fitted(self.steps)),
            optimizer=optimizer,
            n_steps=state.n_steps + 1,
            loss=state.loss.at[state.n_steps].set(loss, mode="drop"),
            last_loss=loss,
            done=state.done,
            best_parameters=_where(better, state.parameters, state.best_parameters),
            best_loss=jnp.where(better, loss, state.best_loss),
            milestones=state.milestones,
        )

    def gradient(self, parameters: Blend) -> tuple[Float[Array, ""], Blend]:
        """Negative log-posterior and its gradient."""
        return jax.value_and_grad(lambda p: -posterior_of_arrays(eqx.combine(p, self.fixed), self.obs))(parameters)

    def _misfit(self, blend: Blend) -> Float[Array, " band"]:
        """Root mean square of what a blend leaves of each band, at least the background noise."""
        weights = self.obs.weights
        residual = self.obs.images - render_arrays(blend, self.obs)
        chi2 = jnp.sum(weights * residual**2, axis=(-2, -1))
        n_pixels = jnp.sum(weights > 0, axis=(-2, -1), dtype=chi2.dtype)
        return self.rms * jnp.sqrt(jnp.maximum(chi2 / jnp.maximum(n_pixels, 1), 1.0))

    def _curvature(self) -> Blend:
        """|α Jᵀ W J α| of the model's derivatives J, weights W and step sizes α.

        Points are interpolated like all other shapes here: that is near enough, and half as much to compile.
        """

        def model(parameters: Blend) -> Array:
            blend = eqx.combine(parameters, self.fixed)
            return self.obs.convolve(blend.cube(self.obs.extent, self.obs.margin))

        _, derivative = jax.linearize(model, self.initial)
        (bound,) = jax.linear_transpose(derivative, self.initial)(self.obs.weights * derivative(self.steps))
        return jax.tree.map(lambda step, c: jnp.abs(step * c), self.steps, bound)

    def _judged(self, state: FitState) -> FitState:
        """The same, done if the fit has come to its end."""
        movement = jax.lax.cond(
            self._settled(state),
            lambda: _movement(state.best_parameters, state.milestones[1], self.steps),
            lambda: jnp.full_like(state.best_loss, jnp.inf),
        )
        settled = movement <= self.optimizer.step_tolerance
        done = settled | (state.n_steps >= self.optimizer.max_steps) | ~jnp.isfinite(state.last_loss)
        return eqx.tree_at(lambda s: s.done, state, done)

    def _settled(self, state: FitState) -> Bool[Array, ""]:
        """Whether the best loss has little left to gain.

        It is judged over a window, or the last fifth of all steps if they are more: as steps become shorter, the loss
        takes longer to go up and down. Gains that shrink by ρ from one half of it to the next, Δ' = ρ Δ, leave
        Δ' ρ / (1 - ρ) for all the following. Not so if the loss was above the best in all of the last half: it goes up
        and down, and from a good start the first steps may lead uphill.
        """
        n = state.n_steps
        window = jnp.maximum(self.optimizer.window, n // 5)
        number = jnp.arange(len(state.loss))

        def lowest(first: Array | int, end: Array | int) -> Array:
            return jnp.min(state.loss, initial=jnp.inf, where=(number >= first) & (number < end))

        began, middle = (lowest(0, jnp.maximum(n - back, 1)) for back in (window, window // 2))
        before, after = began - middle, middle - state.best_loss
        ratio = jnp.clip(after / jnp.where(before > 0, before, 1.0), 0.0, SLOWEST)
        remaining = after * jnp.maximum(1.0, jnp.where(before > 0, ratio, SLOWEST) / (1 - ratio))
        remaining = jnp.maximum(remaining, (before + after) / LARGEST_DROP)
        expected = 0.5 * jnp.sum(self.obs.weights > 0, dtype=state.best_loss.dtype)  # a perfect model of noisy data
        small = self.optimizer.relative_tolerance * jnp.maximum(jnp.abs(state.best_loss), expected)
        recent = lowest(n - window // 2, n)
        enough = n >= jnp.maximum(window, self.optimizer.min_steps.astype(window.dtype))
        return enough & (remaining <= small) & (recent - state.best_loss <= small)

    def best(self, state: FitState) -> Blend:
        """The best blend of all steps."""
        return eqx.combine(state.best_parameters, self.fixed)

    def result(self, state: FitState, terms: Terms) -> FitResult:
        """What is returned at the end, with the spectra that are best for the fitted shapes.

        ADAM comes only near to these. They are dropped if a prior makes them worse, or the optimizer wants none.

        Parameters
        ----------
        state
            State at the end.
        terms
            From `jaxdeblend.fitting.render.render_terms` of the best blend.
        """
        failed = ~jnp.isfinite(state.best_loss) | ~jnp.isfinite(state.last_loss)
        status = jnp.where(state.n_steps < self.optimizer.max_steps, RESULTS.CONVERGED, RESULTS.MAX_STEPS)
        status = jnp.where(failed, RESULTS.NON_FINITE, status)
        status = jnp.where(jnp.any(self.obs.weights > 0), status, RESULTS.NO_DATA)
        best = self.best(state)
        fitted_spectra = tuple(bool(jax.tree.leaves(_spectrum(stack.component))) for stack in self.steps.stacks)
        solved = solve_spectra(best, self.obs, terms, free=fitted_spectra)
        loss = 0.5 * chi_square(solved, self.obs, terms) - solved.log_prior(self.obs.background_rms)
        better = jnp.isfinite(state.best_loss) & (loss < state.best_loss)  # infinite without data
        taken = self.optimizer.exact_spectra & better
        return FitResult(_where(taken, solved, best), state.loss, state.n_steps, status)


def _spectrum(component: AbstractComponent) -> AbstractSpectrum | None:
    return component.spectrum if isinstance(component, FactorizedComponent) else None


def _where(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _movement(a: PyTree, b: PyTree, steps: PyTree) -> Float[Array, ""]:
    """Root mean square of (a - b) / step over the parameters that are free to move."""
    leaves = [jax.tree.leaves(tree) for tree in (a, b, steps)]
    total = sum(
        jnp.sum(((x - y) / jnp.where(step > 0, step, jnp.inf)) ** 2) for x, y, step in zip(*leaves, strict=True)
    )
    free = sum(jnp.sum(step > 0, dtype=step.dtype) for step in leaves[2])
    return jnp.sqrt(total / jnp.maximum(free, 1))
