"""The model as observed."""

import jax
from jaxtyping import Array, Float

from ..instrument.observation import Observation
from ..model.blend import Blend


def render(blend: Blend, obs: Observation) -> Float[Array, "band y x"]:
    """Render a blend as observed, M_b = K_b * Σ_k s_kb m_k.

    Parameters
    ----------
    blend
        The blend.
    obs
        Observation with the difference kernels K_b.

    Returns
    -------
    Float[Array, "band y x"]
        Model in image units.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.zeros((1, 32, 32)), jnp.ones((1, 32, 32)), jd.GaussianPSF(1.5), bands=["r"])
    >>> blend = jd.Blend.of([jd.PointSource((15, 16), jnp.array([3.0]))], frame=(32, 32))
    >>> round(float(jd.render(blend, obs).sum()), 2)
    3.0
    """
    return obs.convolve(blend.cube(obs.extent, obs.margin))


def render_sources(blend: Blend, obs: Observation) -> Float[Array, "source band y x"]:
    """Render each source of a blend as observed.

    Parameters
    ----------
    blend
        The blend.
    obs
        Observation with the difference kernels.

    Returns
    -------
    Float[Array, "source band y x"]
        Models in image units; they add up to `render`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.zeros((1, 32, 32)), jnp.ones((1, 32, 32)), jd.GaussianPSF(1.5), bands=["r"])
    >>> star = jd.PointSource((15, 16), jnp.array([3.0]))
    >>> jd.render_sources(jd.Blend.of([star, star], frame=(32, 32)), obs).shape
    (2, 1, 32, 32)
    """
    return jax.vmap(obs.convolve)(blend.source_cubes(obs.extent, obs.margin))
