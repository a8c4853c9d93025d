"""Spectra at fixed shapes: they enter linearly, so that the best ones of all components follow at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..instrument.observation import Observation
from ..model.blend import Blend, Stack
from ..model.component import FactorizedComponent
from ..model.spectrum import FreeSpectrum
from ..ops import lstsq
from .render import Terms


def solve_spectra(blend: Blend, obs: Observation, terms: Terms, *, free: tuple[bool, ...] | None = None) -> Blend:
    """The blend with the joint, weighted, non-negative least-squares spectra of its components.

    In each band the amplitudes a_k >= 0 minimise Σ w (I - R - Σ_k a_k S_k)², with S_k the shape of component k as
    observed and R the light of those that are not solved for.

    Parameters
    ----------
    blend
        Blend.
    obs
        Observation with images I and weights w.
    terms
        S, from `jaxdeblend.fitting.render.render_terms`.
    free
        Whether the components of each stack are solved for; by default those of one shape times a `FreeSpectrum` are,
        others cannot be.

    Returns
    -------
    Blend
        The same sources with other spectra.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.fitting.render import render_terms
    >>> obs = jd.Observation(jnp.zeros((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> true, start = (jd.Blend.of([jd.PointSource((8, 7), jnp.array([flux]))], frame=(16, 16)) for flux in (50.0, 1.0))
    >>> obs = jd.Observation(jd.render(true, obs), obs.weights, obs.psf, bands=["r"])
    >>> round(float(solve_spectra(start, obs, render_terms(start, obs)).sources[0].flux[0]), 2)
    50.0
    """
    solved = [
        number for number, stack in enumerate(blend.stacks) if _has_amplitudes(stack) and (not free or free[number])
    ]
    if not solved or len(blend.centers) == 0:
        return blend
    rest = jnp.asarray(obs.images)
    for number, (stack, models) in enumerate(zip(blend.stacks, terms, strict=True)):
        rest = rest if number in solved else rest - _light(stack, models)
    models = jnp.concatenate([terms[number][:, 0] for number in solved])
    lit = jnp.concatenate([blend.stacks[number].active for number in solved])
    models = jnp.where(lit[:, None, None, None], models, 0.0)
    normal = jax.vmap(lstsq.normal_equations, in_axes=(1, 0, 0))(models, rest, jnp.asarray(obs.weights))
    spectra = lstsq.one_by_one(lstsq.nonnegative_normal, *normal).T
    ends = np.cumsum([len(blend.stacks[number].source) for number in solved])
    return eqx.tree_at(
        lambda blend: [blend.stacks[number].component.spectrum.amplitude for number in solved],
        blend,
        jnp.split(spectra, ends[:-1]),
    )


def chi_square(blend: Blend, obs: Observation, terms: Terms) -> Float[Array, ""]:
    """χ² = Σ w (I - M)² of a blend whose terms are at hand, without a convolution.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.fitting.render import render_terms
    >>> obs = jd.Observation(jnp.ones((1, 8, 8)), jnp.ones((1, 8, 8)), jd.GaussianPSF(1.5), bands=["r"])
    >>> dark = jd.Blend.of([jd.PointSource((4, 4), jnp.zeros(1))], frame=(8, 8))
    >>> float(chi_square(dark, obs, render_terms(dark, obs)))
    64.0
    """
    residual = jnp.asarray(obs.images)
    for stack, models in zip(blend.stacks, terms, strict=True):
        residual = residual - _light(stack, models)
    return jnp.sum(obs.weights * residual**2)


def _light(stack: Stack, models: Float[Array, "component term band y x"]) -> Float[Array, "band y x"]:
    """All components of a stack as observed."""
    return jnp.einsum("ctb,ctbyx->byx", stack.terms()[0], models)


def _has_amplitudes(stack: Stack) -> bool:
    component = stack.component
    return isinstance(component, FactorizedComponent) and isinstance(component.spectrum, FreeSpectrum)
