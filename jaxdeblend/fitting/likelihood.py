"""How well a blend explains an observation."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation
from ..model.blend import Blend
from ..runtime.programs import Program
from .record import without_record
from .render import render_arrays


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
    return _log_likelihood(without_record(blend).scaled(1 / unit), obs)


def likelihood_of_arrays(blend: Blend, obs: Observation) -> Float[Array, ""]:
    """The log-likelihood in units of the noise, as a part of other programs."""
    residual = obs.images - render_arrays(blend, obs)
    return -0.5 * jnp.sum(obs.weights * residual**2)


_log_likelihood = Program(likelihood_of_arrays)


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
    return _log_posterior(without_record(blend).scaled(1 / unit), obs)


def posterior_of_arrays(blend: Blend, obs: Observation) -> Float[Array, ""]:
    """The log-posterior in units of the noise, as a part of other programs."""
    return likelihood_of_arrays(blend, obs) + blend.log_prior(obs.background_rms)


_log_posterior = Program(posterior_of_arrays)
