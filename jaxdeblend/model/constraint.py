"""Constraints: what a morphology must fulfil, each as a projection of a stamp.

A constraint is one small module with one method. To write your own, subclass `AbstractConstraint`; it is batched,
compiled and used in the fit like those here.
"""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from ..ops import monotone, prox
from ..runtime.host import device_array


class AbstractConstraint(eqx.Module):
    """A projection of a stamp onto a set.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> class Below(jd.AbstractConstraint):
    ...
    ...     level: float
    ...
    ...     def project(self, image, noise):
    ...         return jnp.minimum(image, self.level)
    >>> morphology = jd.ImageMorphology(jnp.array([[8.0]]), (Below(2.0),))
    >>> projected, factor = morphology.project(jnp.asarray(0.1))
    >>> float(factor)                                   # which goes into the spectrum
    2.0
    """

    @abc.abstractmethod
    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Project a stamp.

        Parameters
        ----------
        image
            Stamp with odd edge, centred on its middle pixel, in units in which the morphology's maximum is 1.
        noise
            1σ background noise of one pixel in these units, in the band where it is smallest.

        Returns
        -------
        Float[Array, "s s"]
            The projected stamp.
        """


class Positive(AbstractConstraint):
    """No pixel below zero.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> jd.Positive().project(jnp.array([[-1.0]]), jnp.asarray(0.1))
    Array([[0.]], dtype=float32)
    """

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """max(x, 0), the Euclidean projection."""
        del noise
        return prox.positive(image)


class Monotonic(AbstractConstraint):
    """No pixel brighter than those between it and the centre; see `jaxdeblend.ops.monotone.ring_sweep`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> image = jnp.zeros((3, 3)).at[0, 1].set(2.0)
    >>> float(jd.Monotonic().project(image, jnp.asarray(0.1)).max())
    0.0
    """

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Ring sweep."""
        del noise
        return monotone.ring_sweep(image)


class WeightedMonotonic(AbstractConstraint):
    """Monotonic by scarlet's weighted sweep; see `jaxdeblend.ops.monotone.weighted_sweep`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> image = jnp.zeros((3, 3)).at[0, 1].set(2.0)
    >>> float(jd.WeightedMonotonic().project(image, jnp.asarray(0.1)).max())
    0.0
    """

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Sweep over the strictly closer neighbours."""
        del noise
        return monotone.weighted_sweep(image)


class Symmetric(AbstractConstraint):
    """Symmetric under rotation by 180° about the centre.

    This wrecks bright asymmetric galaxies; the default of the fit is the prior `SymmetricPrior` instead.

    Parameters
    ----------
    strength
        x <- (1 - strength / 2) x + strength / 2 · rotated x; 1 is the Euclidean projection.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> image = jnp.zeros((3, 3)).at[0, 1].set(2.0)
    >>> float(jd.Symmetric().project(image, jnp.asarray(0.1))[2, 1])
    1.0
    """

    strength: Float[Array, ""] = eqx.field(converter=device_array, default=1.0)

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Mean of the stamp and its rotation."""
        del noise
        return prox.symmetric(image, self.strength)


class SparseThreshold(AbstractConstraint):
    """Pixels below a multiple of the background noise, in every band, are set to zero.

    Parameters
    ----------
    level
        Threshold in units of `noise`. As it takes away flux, large values bias faint sources low.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> jd.SparseThreshold(0.5).project(jnp.array([[0.04]]), jnp.asarray(0.1))
    Array([[0.]], dtype=float32)
    """

    level: Float[Array, ""] = eqx.field(converter=device_array)

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Hard threshold."""
        return prox.hard_threshold(image, self.level * noise)


class Connected(AbstractConstraint):
    """Only the positive pixels that are linked to the centre through positive pixels (4-connected) are kept.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> image = jnp.zeros((5, 5)).at[2, 2].set(1.0).at[0, 0].set(1.0)
    >>> float(jd.Connected().project(image, jnp.asarray(0.1)).sum())
    1.0
    """

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Flood from the centre."""
        del noise
        return prox.connected(image)


class CenterKept(AbstractConstraint):
    """The centre pixel stays at or above a small value, so that a source cannot vanish for good.

    Parameters
    ----------
    floor
        Smallest value of the centre pixel.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> round(float(jd.CenterKept().project(jnp.zeros((3, 3)), jnp.asarray(0.1))[1, 1]), 5)
    0.001
    """

    floor: Float[Array, ""] = eqx.field(converter=device_array, default=1e-3)

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Raise the centre pixel to the floor."""
        del noise
        return prox.center_kept(image, self.floor)


class Normalized(AbstractConstraint):
    """The maximum is 1. A component moves the scale that this takes away into its spectrum.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> jd.Normalized().project(jnp.array([[4.0]]), jnp.asarray(0.1))
    Array([[1.]], dtype=float32)
    """

    def project(self, image: Float[Array, "s s"], noise: Float[Array, ""]) -> Float[Array, "s s"]:
        """Divide by the maximum."""
        del noise
        return prox.normalized(image)[0]
