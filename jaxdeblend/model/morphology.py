"""Morphologies: the shape of a component on its source's own sub-pixel grid, at a maximum of 1."""

import abc
from typing import Self

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..instrument.psf import AbstractPSF
from ..ops import prox
from ..runtime.host import device_array
from ..runtime.programs import Program
from .constraint import AbstractConstraint
from .parameter import parameters
from .prior import AbstractPrior


class AbstractMorphology(eqx.Module):
    """Shape of a component in model space, sampled about the source's centre.

    A new shape is one small class: `image` says what it looks like, `step_sizes` which of its arrays are fitted. The
    rest (rendering, batching, gradients, flux) follows from these.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.model.parameter import parameters
    >>> from jaxtyping import Array, Float
    >>> class Disk(jd.AbstractMorphology):
    ...
    ...     sigma: Float[Array, ""]
    ...
    ...     def image(self):
    ...         profile = jnp.exp(-0.5 * (jnp.arange(-7, 8, dtype=self.sigma.dtype) / self.sigma) ** 2)
    ...         return profile[:, None] * profile[None, :]
    ...
    ...     def project(self, noise):
    ...         return Disk(jnp.clip(self.sigma, 0.8, 5.0)), jnp.ones(())
    ...
    ...     def log_prior(self, noise):
    ...         return jnp.zeros(())
    ...
    ...     def step_sizes(self):
    ...         return parameters(self, sigma=0.05)
    >>> component = jd.FactorizedComponent(jd.FreeSpectrum(jnp.ones(3)), Disk(jnp.asarray(1.5)))
    >>> round(float(jd.Source((8, 8), (component,)).flux[0]), 3)            # 2 π σ²
    14.137
    """

    @abc.abstractmethod
    def image(self) -> Float[Array, "s s"]:
        """Stamp with odd edge, centred on its middle pixel."""

    @abc.abstractmethod
    def project(self, noise: Float[Array, ""]) -> tuple[Self, Float[Array, ""]]:
        """Nearest allowed shape, and the factor by which the spectrum must grow to keep the flux."""

    @abc.abstractmethod
    def log_prior(self, noise: Float[Array, ""]) -> Float[Array, ""]:
        """Log-probability of the shape."""

    @abc.abstractmethod
    def step_sizes(self) -> Self:
        """Step of the optimizer for each fitted array, None for what is not fitted."""


class ImageMorphology(AbstractMorphology):
    """Free pixels under constraints and priors.

    Parameters
    ----------
    pixels
        Stamp with odd edge, centred on its middle pixel.
    constraints
        Projections, applied in this order after each step of the optimizer; then the maximum is set to 1.
    priors
        Their log-probabilities are added to the log-posterior.
    step
        The optimizer's step in units of the maximum. 0 keeps the shape fixed, constraints and priors included.
    point
        Whether this is a point, whose pixels are the PSF of model space. It is then drawn by the PSF of each band,
        exactly at its position, and not from the pixels.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> morphology = jd.ImageMorphology(jnp.full((3, 3), 2.0), (jd.Positive(),))
    >>> fitted, factor = morphology.project(jnp.asarray(0.1))
    >>> float(fitted.image().max()), float(factor)
    (1.0, 2.0)
    """

    pixels: Float[Array, "s s"]
    constraints: tuple[AbstractConstraint, ...] = ()
    priors: tuple[AbstractPrior, ...] = ()
    step: Float[Array, ""] = eqx.field(converter=device_array, default=0.01)
    point: Bool[Array, ""] = eqx.field(converter=device_array, default=False)

    def image(self) -> Float[Array, "s s"]:
        """The pixels."""
        return self.pixels

    def project(self, noise: Float[Array, ""]) -> tuple["ImageMorphology", Float[Array, ""]]:
        """All constraints in turn, then the maximum is divided out."""
        pixels = self.pixels
        for constraint in self.constraints:
            pixels = constraint.project(pixels, noise)
        pixels, factor = prox.normalized(pixels)
        free = self.step > 0
        pixels = jnp.where(free, pixels, self.pixels)
        projected = eqx.tree_at(lambda morphology: morphology.pixels, self, pixels)
        return projected, jnp.where(free, factor, 1.0)

    def log_prior(self, noise: Float[Array, ""]) -> Float[Array, ""]:
        """Sum over the priors."""
        total = jnp.zeros(())
        for prior in self.priors:
            total = total + prior.log_prob(self.pixels, noise)
        return jnp.where(self.step > 0, total, 0.0)

    def step_sizes(self) -> "ImageMorphology":
        """The pixels are fitted."""
        return parameters(self, pixels=self.step)

    def under(
        self, constraints: tuple[AbstractConstraint, ...], priors: tuple[AbstractPrior, ...]
    ) -> "ImageMorphology":
        """Morphology under other constraints and priors."""
        return ImageMorphology(self.pixels, constraints, priors, self.step, self.point)


class PointMorphology(AbstractMorphology):
    """A point: the PSF of model space itself. Nothing is fitted.

    In an observation it is drawn by the PSF of each band, exactly at its position, and not from the pixels.

    Parameters
    ----------
    pixels
        Stamp of the model-space PSF, maximum 1.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> point = jd.PointMorphology.of(jd.GaussianPSF(0.8), 11)
    >>> round(float(point.image().max()), 5)
    1.0
    """

    pixels: Float[Array, "s s"]

    @classmethod
    def of(cls, model_psf: AbstractPSF, edge: int) -> "PointMorphology":
        """Point as seen by the (single-band) PSF of model space, on a stamp of this edge."""
        return cls(_point_pixels(model_psf, edge))

    def image(self) -> Float[Array, "s s"]:
        """The stamp."""
        return self.pixels

    def project(self, noise: Float[Array, ""]) -> tuple["PointMorphology", Float[Array, ""]]:
        """Nothing to project."""
        del noise
        return self, jnp.ones(())

    def log_prior(self, noise: Float[Array, ""]) -> Float[Array, ""]:
        """Zero."""
        del noise
        return jnp.zeros(())

    def step_sizes(self) -> "PointMorphology":
        """No parameters."""
        return parameters(self)


@Program
def _point_pixels(model_psf: AbstractPSF, edge: int) -> Float[Array, "s s"]:
    """Stamp of a (single-band) PSF, maximum 1."""
    return prox.normalized(jnp.asarray(model_psf.stamp(edge))[0])[0]
