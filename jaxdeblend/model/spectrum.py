"""Spectra: the flux of a component in each band."""

import abc
from typing import Self

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .parameter import parameters


class AbstractSpectrum(eqx.Module):
    """Brightness of a component's peak in each band, in image units.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.model.parameter import parameters
    >>> from jaxtyping import Array, Float
    >>> class PowerLaw(jd.AbstractSpectrum):
    ...
    ...     brightness: Float[Array, ""]
    ...     slope: Float[Array, ""]
    ...     wavelengths: Float[Array, " band"]
    ...
    ...     def values(self):
    ...         return self.brightness * self.wavelengths**self.slope
    ...
    ...     def scaled(self, factor):
    ...         return PowerLaw(self.brightness * factor, self.slope, self.wavelengths)
    ...
    ...     def project(self, rms):
    ...         return PowerLaw(jnp.maximum(self.brightness, 0.0), self.slope, self.wavelengths)
    ...
    ...     def step_sizes(self, rms):
    ...         return parameters(self, brightness=0.1 * rms.min(), slope=0.01)
    >>> spectrum = PowerLaw(jnp.asarray(5.0), jnp.asarray(2.0), jnp.array([1.0, 2.0]))
    >>> component = jd.FactorizedComponent(spectrum, jd.ImageMorphology(jnp.ones((1, 1))))
    >>> jd.Source((8, 8), (component,)).flux
    Array([ 5., 20.], dtype=float32)
    """

    @abc.abstractmethod
    def values(self) -> Float[Array, " band"]:
        """Brightness of the morphology's maximum in each band."""

    @abc.abstractmethod
    def scaled(self, factor: Float[Array, ""]) -> Self:
        """The spectrum times a number."""

    @abc.abstractmethod
    def project(self, rms: Float[Array, " band"]) -> Self:
        """The nearest allowed spectrum; `rms` is the background noise of each band."""

    @abc.abstractmethod
    def step_sizes(self, rms: Float[Array, " band"]) -> Self:
        """Step of the optimizer for each fitted array, None for what is not fitted."""


class FreeSpectrum(AbstractSpectrum):
    """One non-negative number per band.

    Parameters
    ----------
    amplitude
        Brightness of the morphology's maximum in each band, in image units.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> jd.FreeSpectrum(jnp.array([1.0, 2.0])).scaled(jnp.asarray(2.0)).values()
    Array([2., 4.], dtype=float32)
    """

    amplitude: Float[Array, " band"]

    def values(self) -> Float[Array, " band"]:
        """The amplitudes."""
        return self.amplitude

    def scaled(self, factor: Float[Array, ""]) -> "FreeSpectrum":
        """The spectrum times a number."""
        return FreeSpectrum(self.amplitude * factor)

    def project(self, rms: Float[Array, " band"]) -> "FreeSpectrum":
        """Non-negative."""
        del rms
        return FreeSpectrum(jnp.maximum(self.amplitude, 0.0))

    def step_sizes(self, rms: Float[Array, " band"]) -> "FreeSpectrum":
        """A hundredth of the amplitude, or a tenth of the noise where that is more."""
        step = jnp.maximum(0.01 * jnp.abs(self.amplitude), 0.1 * rms)
        return parameters(self, amplitude=step)
