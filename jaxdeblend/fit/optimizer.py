"""Proximal ADAM: optax directions in units of each parameter's own step, then the model's projection."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree


class ProximalAdam(eqx.Module):
    """Settings of the proximal ADAM (Melchior, Joseph & Moolekamp 2019, arXiv:1910.10094).

    With α the step size of a parameter x and g the gradient of the negative log-posterior,

        u = α g,   x <- project(x - α ADAM(u)).

    Gradients are taken in units of the step, so that neither flux units nor the choice of parameters matter. The
    projection is the model's own and Euclidean: it acts on a source as a whole after the step, not leaf by leaf and not
    in the metric of the step. The first step, for which ADAM knows only a sign, is damped.

    Steps shorten as r / (1 + n / d) with their number n, because the projection keeps ADAM from settling: with a
    constant rate the loss of a bright blend goes up and down by more than it still has to fall, and fits do not end by
    themselves. The steep gradients of the first steps should soon be forgotten, hence a small b2; AMSGrad, which
    divides by the largest second moment so far, never forgets them.

    Parameters
    ----------
    max_steps
        Largest number of steps.
    relative_tolerance
        Converged when the best loss of the last `window` steps is below the best before by less than this fraction
        of it (or of half the number of usable pixels, which a perfect model of noisy data has), and parameters moved
        by less than `step_tolerance`.
    step_tolerance
        Largest root-mean-square movement of the parameters over a window, in units of their step sizes.
    window
        Steps over which progress is judged, twice in each window; at least 10, because the loss oscillates.
    learning_rate
        r, factor on every step size at the beginning.
    decay
        d, number of steps after which steps are half as long.
    b1, b2
        Decay rates of the moments.
    eps
        Change of the loss by a step of one parameter, below which that parameter moves by less than a step. Without it,
        pixels about which the data say nothing would walk at full speed, wherever rounding errors send them.
    first_step
        Damping of the first step.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.ProximalAdam(max_steps=50).max_steps
    50
    """

    max_steps: int = eqx.field(static=True, default=150)
    relative_tolerance: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1e-3)
    step_tolerance: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=10.0)
    window: int = eqx.field(static=True, default=10)
    learning_rate: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=2.0)
    decay: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=30.0)
    b1: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.9)
    b2: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.95)
    eps: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.1)
    first_step: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.1)

    def __check_init__(self):
        if self.window < 10:
            raise ValueError(f"window: got {self.window}; give at least 10 steps, because the loss oscillates.")
        if self.max_steps < 1:
            raise ValueError(f"max_steps: got {self.max_steps}; give at least 1.")

    def transformation(self) -> optax.GradientTransformation:
        """The optax transformation from gradients to directions."""
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)

    def init(self, parameters: PyTree) -> optax.OptState:
        """State of the optimizer for these parameters."""
        return self.transformation().init(parameters)

    def update(
        self, gradients: PyTree, state: optax.OptState, steps: PyTree, number: Array
    ) -> tuple[PyTree, optax.OptState]:
        """Changes of the parameters (before the projection), and the next state.

        Parameters
        ----------
        gradients
            Gradient of the negative log-posterior.
        state
            State of the optimizer.
        steps
            Step size of each parameter.
        number
            Number of steps made before.
        """
        scaled = jax.tree.map(lambda gradient, step: gradient * step, gradients, steps)
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
            directions, state = self.transformation().update(scaled, state)
        rate = self.learning_rate / (1 + number.astype(self.decay.dtype) / self.decay)
        rate = rate * jnp.where(number == 0, self.first_step, 1.0)
        return jax.tree.map(lambda direction, step: -rate * step * direction, directions, steps), state
