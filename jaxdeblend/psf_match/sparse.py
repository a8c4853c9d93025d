"""Kernels with few pixels, for convolutions that run over the pixels of the kernel."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..instrument.kernel import DEFAULT_REGULARIZATION
from .normal import NormalEquations
from .quality import convolved
from .solvers import AbstractSolver, Solution

DEFAULT_THRESHOLD = 1e-5
"""Of pixels of a kernel of unit sum, it finds up to 43 % of them needed for real HSC PSFs; 1e-4 loses 1.6 % of flux."""

STEPS = 300
"""Largest number of steps of the proximal gradient."""

TOLERANCE = 1e-5
"""Relative change of the kernel in one step at which they end."""

THRESHOLDS = (-8.0, 0.0)
"""Range of the logarithm of the threshold that is searched for a wanted error."""


class Sparse(AbstractSolver):
    """Few pixels of the kernel are free: ½ ‖K * S - T‖² + ½ λ ‖∇²K‖², and a price for each pixel that is not zero.

    The proximal gradient of this (iterative hard thresholding; Blumensath & Davies 2008, J. Fourier Anal. Appl. 14,
    629) goes down the slope by a step 1/L, L = max (|Ŝ|² + λ |L̂|²), and sets every pixel whose absolute value is below
    a threshold τ to zero, which makes the price ½ L τ². Steps are accelerated (Beck & Teboulle 2009, SIAM J. Imaging
    Sci. 2, 183) and start anew where they overshoot (O'Donoghue & Candès 2015, Found. Comput. Math. 15, 715). Then the
    pixels that are left, the support, get the values that are best on it with ΣK = 1, by conjugate gradients as in
    `LeastSquares`. (kernel != 0).sum() counts them.

    The minimum is a local one. With `threshold`, the steps begin at T, and pixels come in where they are missed. With
    `error`, they begin at the kernel of `LeastSquares`, and pixels go where they are not, for the largest threshold
    that keeps ‖K * S - T‖ <= error · ‖T‖; where no threshold does, the kernel has almost all pixels, and
    `KernelQuality.l2` says what it reaches.

    The kernel is differentiable with respect to both PSFs as long as the support stays as it is; without `refit` it is
    not.

    Parameters
    ----------
    threshold
        τ in the units of the kernel, whose sum is 1: before the values are refitted, pixels below it are zero. The
        largest pixel always stays. By default 1e-5, if `error` is not given either.
    error
        Wanted ‖K * S - T‖ / ‖T‖, instead of a threshold: the fewest pixels for it.
    regularization
        λ.
    positive
        Whether negative pixels are set to zero as well.
    refit
        Whether the values are refitted. Without, ΣK is not quite 1, see `KernelQuality.sum_error`.

    Raises
    ------
    ValueError
        If both a threshold and an error are given, or if one of the numbers is not positive.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> matched = jd.match_psf(jd.GaussianPSF(1.0), jd.GaussianPSF(1.5), method=jd.Sparse(error=1e-2))
    >>> bool(matched.quality.l2[0] <= 1e-2), int((matched.kernel.image != 0).sum()) < 60
    (True, True)
    """

    threshold: float | None = eqx.field(static=True, default=None)
    error: float | None = eqx.field(static=True, default=None)
    regularization: float = eqx.field(static=True, default=DEFAULT_REGULARIZATION)
    positive: bool = eqx.field(static=True, default=False)
    refit: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        if self.threshold is not None and self.error is not None:
            raise ValueError(f"error: got {self.error} and threshold {self.threshold}; give one of them.")
        for name in ("threshold", "error", "regularization"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}: got {value!r}; give a positive number.")

    def solve(self, source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int) -> Solution:
        """Kernel by proximal gradients, and conjugate gradients on its support."""
        system = NormalEquations.of(source, target, edge, self.regularization)
        # Only the values have derivatives: a step from one support to another has none.
        fixed, (s, t) = jax.lax.stop_gradient((system, (source, target)))
        thinned = self._given_threshold(fixed) if self.error is None else self._given_error(fixed, s, t)
        kernel = system.constrained(thinned != 0) if self.refit else thinned
        return Solution(kernel, jnp.asarray(self.regularization, source.dtype))

    def _given_threshold(self, system: NormalEquations) -> Float[Array, "k k"]:
        # From r to g of HSC, τ = 1e-5 leaves 37 % of the pixels from here, and 77 % from the kernel of least squares.
        threshold = DEFAULT_THRESHOLD if self.threshold is None else self.threshold
        return self._thinned(system, system.target, threshold)

    def _given_error(
        self, system: NormalEquations, source: Float[Array, "n n"], target: Float[Array, "n n"]
    ) -> Float[Array, "k k"]:
        # For an error of 2e-3 this start needs 12 % of the pixels from r to g of HSC, T 19 %: S has blurred the slope
        # that pixels have to come in by. From a narrow Gaussian both are as good, 23 to 34 % against 21 to 35 %.
        start = system.constrained(jnp.ones_like(system.right, dtype=bool))

        def good(kernel: Array) -> Array:
            kernel = system.constrained(kernel != 0) if self.refit else kernel
            return jnp.linalg.norm(convolved(kernel, source) - target) <= self.error * jnp.linalg.norm(target)

        return _sparsest(lambda threshold: self._thinned(system, start, threshold), good, start)

    def _thinned(
        self, system: NormalEquations, start: Float[Array, "k k"], threshold: Float[Array, ""] | float
    ) -> Float[Array, "k k"]:
        """A kernel that has the support for one threshold."""
        kernel = _descended(system, start, threshold, self.positive)
        return _without_negative(system, kernel) if self.positive and self.refit else kernel


def _descended(
    system: NormalEquations,
    start: Float[Array, "k k"],
    threshold: Float[Array, ""] | float,
    positive: bool,
) -> Float[Array, "k k"]:
    """Where the accelerated proximal gradient ends."""
    steepest = system.power.max()

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        kernel, ahead, momentum, _, count = state
        new = _thresholded(ahead - system.gradient(ahead) / steepest, threshold, positive)
        overshot = jnp.vdot(ahead - new, new - kernel) > 0
        grown = jnp.where(overshot, 1.0, 0.5 + jnp.sqrt(0.25 + momentum**2))
        ahead = new + jnp.where(overshot, 0.0, (momentum - 1) / grown) * (new - kernel)
        change = jnp.linalg.norm(new - kernel) / jnp.linalg.norm(new)
        return new, ahead, grown, change, count + 1

    def goes_on(state: tuple[Array, ...]) -> Array:
        *_, change, count = state
        return (change > TOLERANCE) & (count < STEPS)

    one = jnp.ones((), start.dtype)
    return jax.lax.while_loop(goes_on, step, (start, start, one, one, jnp.asarray(0)))[0]


def _thresholded(
    kernel: Float[Array, "k k"], threshold: Float[Array, ""] | float, positive: bool
) -> Float[Array, "k k"]:
    """The kernel without pixels below the threshold; the largest pixel stays."""
    size = jnp.maximum(kernel, 0.0) if positive else jnp.abs(kernel)
    return jnp.where(size >= jnp.minimum(threshold, size.max()), kernel, 0.0)


def _without_negative(system: NormalEquations, kernel: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """Refit, without the pixels that came out negative, until none does."""
    return jax.lax.while_loop(
        lambda kernel: (kernel < 0).any(),
        lambda kernel: system.constrained(kernel > 0),
        system.constrained(kernel != 0),
    )


def _sparsest(
    solve: Callable[[Array], Array], good: Callable[[Array], Array], start: Float[Array, "k k"]
) -> Float[Array, "k k"]:
    """The kernel of the largest threshold that is good, within two per cent, by bisection of its logarithm.

    The upper end is tried first: a delta may be good where, for its roughness, no other kernel is.
    """
    ends = jnp.asarray(THRESHOLDS, start.dtype)

    def halve(count: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, best = state
        middle = jnp.where(count < 2, ends[jnp.minimum(count, 1)], 0.5 * (low + high))
        kernel = solve(10**middle)
        found = good(kernel) | (count == 0)  # whatever the lower end gives is taken where nothing is good
        return jnp.where(found, middle, low), jnp.where(found, high, middle), jnp.where(found, kernel, best)

    return jax.lax.fori_loop(0, 12, halve, (ends[0], ends[1], jnp.zeros_like(start)))[2]
