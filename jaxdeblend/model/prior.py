"""Priors: what a model is likely to look like, each as a log-probability.

A prior on a morphology is one small module with one method, `log_prob`. To write your own, subclass
`AbstractPrior`; its gradient comes from autodiff, and it is batched and compiled with the rest.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..runtime.host import AnyArray, device_array


class AbstractPrior(eqx.Module):
    """Log-probability of a morphology.

    Examples
    --------
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> class Faint(jd.AbstractPrior):
    ...
    ...     def log_prob(self, image, noise):
    ...         return -0.5 * jnp.sum((image / noise) ** 2)
    >>> galaxy = jd.ExtendedSource((8, 8), jnp.ones(3), jnp.ones((3, 3)), priors=(Faint(),))
    >>> blend = jd.Blend.of([galaxy], frame=(16, 16))
    >>> round(float(blend.log_prior(jnp.full(3, 0.5))), 4)
    -18.0
    """

    @abc.abstractmethod
    def log_prob(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, ""]:
        """Log-probability of a stamp, up to a constant.

        Parameters
        ----------
        image
            Stamp with odd edge, centred on its middle pixel, in units in which the morphology's maximum is 1.
        noise
            1σ background noise of one pixel in these units, in the band where it is smallest.

        Returns
        -------
        Float[Array, ""]
            log p.
        """


class SymmetricPrior(AbstractPrior):
    """Galaxies are symmetric under rotation by 180° up to an intrinsic fraction.

    Each pair of opposite pixels differs by a normal deviate,

        x - x_rot ~ N(0, (σ_a m)² + (f · noise)²),

    with m the pair's mean (held fixed in the gradient), σ_a the intrinsic asymmetry, and f · noise a floor that keeps
    the prior weak where the data say nothing. Data of high S/N outweigh it, so bright spirals stay as they are; a
    projection would not allow that.

    Parameters
    ----------
    asymmetry
        σ_a, the relative difference between opposite pixels.
    floor
        f, the floor in units of the background noise.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> prior = jd.SymmetricPrior(0.5, floor=0.5)
    >>> bool(prior.log_prob(jnp.ones((3, 3)), jnp.asarray(0.1)) == 0)
    True
    """

    asymmetry: Float[Array, ""] = eqx.field(converter=device_array)
    floor: Float[Array, ""] = eqx.field(converter=device_array)

    def __init__(self, asymmetry: float | Array = 0.5, floor: float | Array = 0.5):
        self.asymmetry = jnp.asarray(asymmetry, dtype=float)
        self.floor = jnp.asarray(floor, dtype=float)

    def log_prob(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, ""]:
        """-¼ Σ (x - x_rot)² / σ²; a quarter because every pair is visited twice."""
        rotated = image[::-1, ::-1]
        mean = jax.lax.stop_gradient(0.5 * (image + rotated))
        variance = (self.asymmetry * mean) ** 2 + jax.lax.stop_gradient(self.floor * noise) ** 2
        return -0.25 * jnp.sum((image - rotated) ** 2 / variance)


class CenterPrior(eqx.Module):
    """Source centres scatter about their detected positions by the error of the detection.

    Parameters
    ----------
    mean
        Detected positions (source, 2), (y, x) in pixels.
    sigma
        1σ error per axis of each position, in pixels.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> prior = jd.CenterPrior(jnp.zeros((1, 2)), jnp.full(1, 0.1))
    >>> round(float(prior.log_prob(jnp.array([[0.1, 0.0]]))[0]), 3)
    -0.5
    """

    mean: Float[AnyArray, "source 2"]
    sigma: Float[AnyArray, " source"]

    def log_prob(self, centers: Float[AnyArray, "source 2"]) -> Float[Array, " source"]:
        """-½ |c - c₀|² / σ² of each source."""
        return -0.5 * jnp.sum((jnp.asarray(centers) - self.mean) ** 2, axis=-1) / self.sigma**2
