"""Components: what a source is made of.

Every component is a sum of a few *terms*, each a spectrum times a stamp. That one description carries factorised
components (one term), whole cubes (one term per band) and whatever a user adds, through one renderer.
"""

import abc
from typing import Any, Protocol, Self, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..ops import prox
from .constraint import AbstractConstraint
from .morphology import AbstractMorphology
from .parameter import parameters
from .spectrum import AbstractSpectrum


@runtime_checkable
class Scalable(Protocol):
    """Component that can be multiplied by a number."""

    def scaled(self, factor: Float[Array, ""]) -> Any:
        """Component times a number."""
        ...


class AbstractComponent(eqx.Module):
    """Part of a source, on a stamp about the source's centre.

    To add a source model, subclass this; all methods are written for one component, and lifted over the components
    of a blend and the blends of a batch.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.model.parameter import parameters
    >>> from jaxtyping import Array, Float
    >>> class Binary(jd.AbstractComponent):
    ...
    ...     spectra: Float[Array, "2 band"]
    ...
    ...     def terms(self):
    ...         points = jnp.zeros((2, 3, 3)).at[0, 1, 0].set(1.0).at[1, 1, 2].set(1.0)
    ...         return self.spectra, points
    ...
    ...     def project(self, rms):
    ...         return Binary(jnp.maximum(self.spectra, 0.0))
    ...
    ...     def log_prior(self, rms):
    ...         return jnp.zeros(())
    ...
    ...     def step_sizes(self, rms):
    ...         return parameters(self, spectra=0.1 * rms[None])
    >>> stars = jd.Source((8, 8), (Binary(jnp.array([[1.0, 2.0], [3.0, 1.0]])),), frame=(17, 17))
    >>> stars.flux, round(float(stars.render()[0, 8, 9]), 5)
    (Array([4., 3.], dtype=float32), 3.0)
    """

    @abc.abstractmethod
    def terms(self) -> tuple[Float[Array, "term band"], Float[Array, "term s s"]]:
        """Spectra and stamps whose products add up to the component in model space."""

    @abc.abstractmethod
    def project(self, rms: Float[Array, " band"]) -> Self:
        """Nearest allowed component; `rms` is the background noise of each band (0: no data)."""

    @abc.abstractmethod
    def log_prior(self, rms: Float[Array, " band"]) -> Float[Array, ""]:
        """Log-probability of the component."""

    @abc.abstractmethod
    def step_sizes(self, rms: Float[Array, " band"]) -> Self:
        """Step of the optimizer for each fitted array, None for what is not fitted."""


def scaled(component: AbstractComponent, factor: Float[Array, ""]) -> AbstractComponent:
    """A component times a number, by its method ``scaled(factor)``.

    Only images in units that single precision cannot hold (`jaxdeblend.instrument.noise_units`) need that.
    """
    if isinstance(component, Scalable):
        return component.scaled(factor)
    name = type(component).__name__
    raise NotImplementedError(
        f"{name} has no method scaled(factor), which images of this unit need: their weights are beyond single "
        f"precision. Write {name}.scaled, or multiply images (and their variance) so that the noise is about 1."
    )


class FactorizedComponent(AbstractComponent):
    """One spectrum times one morphology.

    Parameters
    ----------
    spectrum
        Brightness of the morphology's maximum in each band.
    morphology
        Shape with maximum 1.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> component = jd.FactorizedComponent(jd.FreeSpectrum(jnp.ones(3)), jd.ImageMorphology(jnp.ones((5, 5))))
    >>> [part.shape for part in component.terms()]
    [(1, 3), (1, 5, 5)]
    """

    spectrum: AbstractSpectrum
    morphology: AbstractMorphology

    def terms(self) -> tuple[Float[Array, "1 band"], Float[Array, "1 s s"]]:
        """The one term."""
        return self.spectrum.values()[None], self.morphology.image()[None]

    def project(self, rms: Float[Array, " band"]) -> "FactorizedComponent":
        """Project the shape, move its scale into the spectrum, project that."""
        morphology, factor = self.morphology.project(self._noise(rms))
        return FactorizedComponent(self.spectrum.scaled(factor).project(rms), morphology)

    def log_prior(self, rms: Float[Array, " band"]) -> Float[Array, ""]:
        """Log-probability of the shape."""
        return self.morphology.log_prior(self._noise(rms))

    def step_sizes(self, rms: Float[Array, " band"]) -> "FactorizedComponent":
        """Those of spectrum and morphology."""
        steps = self.spectrum.step_sizes(rms), self.morphology.step_sizes()
        return parameters(self, spectrum=steps[0], morphology=steps[1])

    def scaled(self, factor: Float[Array, ""]) -> "FactorizedComponent":
        """The spectrum times a number."""
        return FactorizedComponent(self.spectrum.scaled(factor), self.morphology)

    def _noise(self, rms: Float[Array, " band"]) -> Float[Array, ""]:
        """Background noise in units of the morphology, in the band where it is smallest."""
        spectrum = jax.lax.stop_gradient(self.spectrum.values())
        usable = (rms > 0) & (spectrum > 0)
        ratio = jnp.where(usable, rms / jnp.where(usable, spectrum, 1.0), jnp.inf)
        return jnp.clip(ratio.min(), 1e-6, 1.0)


class CubeComponent(AbstractComponent):
    """A shape of its own in each band: a whole cube, for sources whose colour varies in no simple way.

    Parameters
    ----------
    cube
        Brightness (band, y, x) in image units on a stamp with odd edge.
    constraints
        Projections, applied to each band as for a morphology.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> spectra, stamps = jd.CubeComponent(jnp.ones((3, 5, 5))).terms()
    >>> spectra.shape, stamps.shape
    ((3, 3), (3, 5, 5))
    """

    cube: Float[Array, "band s s"]
    constraints: tuple[AbstractConstraint, ...] = ()

    def terms(self) -> tuple[Float[Array, "band band"], Float[Array, "band s s"]]:
        """One term per band, which shines in that band only."""
        return jnp.eye(self.cube.shape[0], dtype=self.cube.dtype), self.cube

    def project(self, rms: Float[Array, " band"]) -> "CubeComponent":
        """The constraints in each band, in units of its maximum."""

        def one(image: Array, noise: Array) -> Array:
            image, peak = prox.normalized(image)
            for constraint in self.constraints:
                image = constraint.project(image, jnp.clip(noise / peak, 1e-6, 1.0))
            return image * peak

        return CubeComponent(jax.vmap(one)(self.cube, rms), self.constraints)

    def log_prior(self, rms: Float[Array, " band"]) -> Float[Array, ""]:
        """Zero."""
        del rms
        return jnp.zeros(())

    def step_sizes(self, rms: Float[Array, " band"]) -> "CubeComponent":
        """A hundredth of each band's maximum, or a tenth of its noise where that is more."""
        step = jnp.maximum(0.01 * self.cube.max(axis=(-2, -1)), 0.1 * rms)
        return parameters(self, cube=step[:, None, None])

    def scaled(self, factor: Float[Array, ""]) -> "CubeComponent":
        """The cube times a number."""
        return CubeComponent(self.cube * factor, self.constraints)
