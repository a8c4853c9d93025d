"""How well a blend explains an observation."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation
from ..model.blend import Blend
from .render import render


def log_likelihood(blend: Blend, obs: Observation) -> Float[Array, ""]:
    """Gaussian log-likelihood up to a constant, log L = -½ Σ w (I - M)².

    Parameters
    ----------
    blend
        The blend.
    obs
        Observation with images I and weights w.

    Returns
    -------
    Float[Array, ""]
        log L.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 8, 8)), jnp.ones((1, 8, 8)), jd.GaussianPSF(1.5), bands=["r"])
    >>> dark = jd.Blend.of([jd.PointSource((4, 4), jnp.zeros(1))], frame=(8, 8))
    >>> float(jd.log_likelihood(dark, obs))
    -32.0
    """
    obs, unit = in_noise_units(obs)
    residual = obs.images - render(blend.scaled(1 / unit), obs)
    return -0.5 * jnp.sum(obs.weights * residual**2)


def log_posterior(blend: Blend, obs: Observation) -> Float[Array, ""]:
    """Log-likelihood plus the log-probabilities of shapes and centres, up to a constant.

    A pure function of two pytrees: differentiate it with respect to anything.

    Parameters
    ----------
    blend
        The blend.
    obs
        Observation.

    Returns
    -------
    Float[Array, ""]
        log p(blend | images).

    Examples
    --------
    >>> import equinox as eqx
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 8, 8)), jnp.ones((1, 8, 8)), jd.GaussianPSF(1.5), bands=["r"])
    >>> dark = jd.Blend.of([jd.PointSource((4, 4), jnp.zeros(1))], frame=(8, 8))
    >>> gradient = eqx.filter_grad(jd.log_posterior)(dark, obs)
    >>> bool(gradient.stacks[0].component.spectrum.amplitude[0, 0] > 0)
    True
    """
    obs, unit = in_noise_units(obs)
    blend = blend.scaled(1 / unit)
    return log_likelihood(blend, obs) + blend.log_prior(obs.background_rms)
