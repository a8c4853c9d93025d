"""Proximal ADAM: moments by optax in units of each parameter's own step, curvatures, then the model's projection."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..runtime.host import device_array


class ProximalAdam(eqx.Module):
    """Settings of the proximal ADAM (Melchior, Joseph & Moolekamp 2019, arXiv:1910.10094) with curvatures.

    With α the step size of a parameter x, u = α ∂L/∂x the gradient of the negative log-posterior in units of it, m and
    v the (bias-corrected) moments of u, and c what happens to u when every parameter makes a step of one,

        x <- project(x - α m / (√v / r + κ c + ε)).

    Where gradients are large, this is ADAM with steps of r α. Where they are small against the curvature, as in a
    bright source that is nearly right, it is a damped Newton step: ADAM alone, which knows the sign only, would first
    run away from a good start, and need ten steps to come back. If models grow with every parameter, c bounds the
    curvature in every direction (κ = 1 then never overshoots, as in a multiplicative update), and it costs one
    gradient. Most directions are far less curved, hence a small κ; and it fades as κ = κ₀ / (1 + n / f) with the number
    n of steps, while the moments learn how gradients change.

    Step sizes are those of the model, and shorter for sources of more than 10⁴ times the noise and misfit of a pixel.
    Neither flux units nor the choice of parameters matter. The projection is the model's own and Euclidean: it acts on
    a source as a whole after the step, not leaf by leaf and not in the metric of the step. The first step, for which
    ADAM knows only a sign, is damped.

    Steps shorten as r = r₀ / (1 + n / d) with their number n, because the projection keeps ADAM from settling: with a
    constant rate the loss of a bright blend goes up and down by more than it still has to fall, and fits do not end by
    themselves. The steep gradients of the first steps should soon be forgotten, hence a small b2; AMSGrad, which
    divides by the largest second moment so far, never forgets them.

    Parameters
    ----------
    max_steps
        Largest number of steps.
    min_steps
        Fewest steps before a fit can converge; `window` at least, in any case.
    relative_tolerance
        Converged when the best loss can be expected to fall by less than this fraction of it (or of half the number of
        usable pixels, which a perfect model of noisy data has) in all further steps, and parameters moved by less than
        `step_tolerance`. What is left is estimated from how the gains of the last two halves of a window shrink.
    step_tolerance
        Largest root-mean-square movement of the parameters over half a window or more, in units of their step sizes.
    window
        Fewest steps over which progress is judged; at least 10, because the loss oscillates. After five times as many
        steps it is the last fifth of all.
    learning_rate
        r₀, factor on every step size at the beginning.
    decay
        d, number of steps after which steps are half as long.
    b1, b2
        Decay rates of the moments.
    curvature
        κ₀, share of the bound on the curvature that is taken for the curvature itself at the beginning.
    fading
        f, number of steps after which this share is half as large.
    eps
        ε, change of the loss by a step of one parameter, below which that parameter moves by less than a step. Without
        it, pixels about which the data say nothing would walk at full speed, wherever rounding errors send them.
    first_step
        Damping of the first step.
    exact_spectra
        Whether free spectra are, in the end, those that are solved for at the fitted shapes, where they are better.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.ProximalAdam(max_steps=50).max_steps
    50
    """

    max_steps: int = eqx.field(static=True, default=150)
    relative_tolerance: Float[Array, ""] = eqx.field(converter=device_array, default=1e-3)
    step_tolerance: Float[Array, ""] = eqx.field(converter=device_array, default=10.0)
    window: int = eqx.field(static=True, default=10)
    learning_rate: Float[Array, ""] = eqx.field(converter=device_array, default=2.0)
    decay: Float[Array, ""] = eqx.field(converter=device_array, default=30.0)
    b1: Float[Array, ""] = eqx.field(converter=device_array, default=0.85)
    b2: Float[Array, ""] = eqx.field(converter=device_array, default=0.95)
    curvature: Float[Array, ""] = eqx.field(converter=device_array, default=0.05)
    fading: Float[Array, ""] = eqx.field(converter=device_array, default=5.0)
    eps: Float[Array, ""] = eqx.field(converter=device_array, default=0.01)
    first_step: Float[Array, ""] = eqx.field(converter=device_array, default=0.1)
    min_steps: Int[Array, ""] = eqx.field(converter=device_array, default=0)
    exact_spectra: Bool[Array, ""] = eqx.field(converter=device_array, default=True)

    def __check_init__(self):
        if self.window < 10:
            raise ValueError(f"window: got {self.window}; give at least 10 steps, because the loss oscillates.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps: got {self.max_steps}; give at least 1.")

    def init(self, parameters: PyTree) -> optax.OptState:
        """State of the optimizer for these parameters."""
        return self._moments().init(parameters)

    def update(
        self, gradients: PyTree, state: optax.OptState, steps: PyTree, curvature: PyTree, number: Array
    ) -> tuple[PyTree, optax.OptState]:
        """Changes of the parameters (before the projection), and the next state.

        Parameters
        ----------
        gradients
            Gradient of the negative log-posterior.
        state
            State of the optimizer.
        steps
            Step size α of each parameter.
        curvature
            c of each parameter, what a step of all parameters does to its gradient (in units of its step).
        number
            Number of steps made before.
        """
        scaled = jax.tree.map(lambda gradient, step: gradient * step, gradients, steps)
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
            _, state = self._moments().update(scaled, state)
            assert isinstance(state, optax.ScaleByAdamState)  # what _moments keeps
            mean = optax.tree.bias_correction(state.mu, self.b1, state.count)
            square = optax.tree.bias_correction(state.nu, self.b2, state.count)
        number = number.astype(self.decay.dtype)
        rate, share = self.learning_rate / (1 + number / self.decay), self.curvature / (1 + number / self.fading)
        damping = jnp.where(number == 0, self.first_step, 1.0)

        def change(step: Array, m: Array, v: Array, c: Array) -> Array:
            return -damping * step * m / (jnp.sqrt(v) / rate + share * c + self.eps)

        return jax.tree.map(change, steps, mean, square, curvature), state

    def _moments(self) -> optax.GradientTransformation:
        """The optax transformation that keeps the moments."""
        return optax.scale_by_adam(b1=self.b1, b2=self.b2)
