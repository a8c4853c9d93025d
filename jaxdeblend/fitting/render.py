"""The model as observed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..instrument.noise_units import in_double
from ..instrument.observation import Observation
from ..model.blend import Blend
from ..runtime.host import default_dtype
from ..runtime.programs import Program
from .record import without_record

Terms = tuple[Float[Array, "_ _ band y x"], ...]
"""What `render_terms` makes."""


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
    return _render(without_record(blend), _of_single_precision(obs))


def render_arrays(blend: Blend, obs: Observation) -> Float[Array, "band y x"]:
    """The model as observed, as a part of other programs."""
    obs = obs.prepared()
    extended = obs.convolve(blend.cube(obs.extent, obs.margin, points=False))
    flux = blend.point_fluxes(len(obs.bands))
    # on a CPU, blends without points cost nothing here; points that are dark yet have a gradient
    points = jax.lax.cond(
        blend.has_points,
        lambda: obs.draw_points(jnp.asarray(blend.centers), flux),
        lambda: jnp.zeros(obs.images.shape, flux.dtype),
    )
    return extended + points


_render = Program(render_arrays)


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
    return _render_sources(without_record(blend), _of_single_precision(obs))


@Program
def _render_sources(blend: Blend, obs: Observation) -> Float[Array, "source band y x"]:
    return sum_terms(blend, obs, render_terms(blend, obs))


def _of_single_precision(obs: Observation) -> Observation:
    """The observation without pixels if single precision does not hold them: what is rendered does not need them."""
    if not in_double(obs):
        return obs
    blank = np.zeros(obs.images.shape, default_dtype())
    return eqx.tree_at(lambda o: (o.images, o.weights), obs, (blank, blank))


def render_terms(blend: Blend, obs: Observation) -> Terms:
    """Every term of every component as observed if its spectrum were 1 in all bands, one array for each stack.

    What sources look like, and what their fluxes are worth, are sums over these. Padding is dark.
    """
    obs = obs.prepared()
    centers = jnp.asarray(blend.centers)

    def dark(frames: Array, center: Array, flux: Array) -> Array:
        del center, flux
        return jnp.zeros((len(frames), *obs.images.shape), frames.dtype)

    def extended(frames: Array, center: Array, flux: Array) -> Array:
        del center, flux
        observed = obs.convolve(frames[:, None])
        return jnp.broadcast_to(observed, (len(frames), *obs.images.shape))  # bands may share one PSF

    def points(frames: Array, center: Array, flux: Array) -> Array:
        del frames
        one_by_one = jax.vmap(lambda amount: obs.draw_points(center[None], jnp.full((1, len(obs.bands)), amount)))
        return one_by_one(flux)

    def one(component: tuple[Array, ...]) -> Array:
        kind, frames, center, flux = component
        return jax.lax.switch(kind, (dark, extended, points), frames, center, flux)

    # Stacks whose components have as many terms are rendered together: one operation is compiled for all of them.
    all_frames = blend.frames(obs.extent, obs.margin)
    terms: list[Array] = [jnp.zeros(0)] * len(all_frames)
    for n_terms in sorted({frames.shape[1] for frames in all_frames}):
        members = [index for index, frames in enumerate(all_frames) if frames.shape[1] == n_terms]
        stacks = [blend.stacks[index] for index in members]
        kind = [jnp.where(stack.active, jnp.where(stack.is_point, 2, 1), 0) for stack in stacks]
        center = [centers[stack.source] for stack in stacks]
        flux = [stack.terms()[1].sum(axis=(-2, -1)) for stack in stacks]
        parts = kind, [all_frames[index] for index in members], center, flux
        # one component after the other: what a cache holds
        rendered = jax.lax.map(one, tuple(jnp.concatenate(part) for part in parts))
        ends = np.cumsum([len(stack.source) for stack in stacks])
        for index, images in zip(members, jnp.split(rendered, ends[:-1]), strict=True):
            terms[index] = images
    return tuple(terms)


def sum_terms(blend: Blend, obs: Observation, terms: Terms) -> Float[Array, "source band y x"]:
    """Each source as observed, from its terms."""
    sources = jnp.zeros((len(blend.centers), obs.images.size), obs.images.dtype)
    for stack, models in zip(blend.stacks, terms, strict=True):
        spectra, _ = stack.terms()
        components = jnp.sum(spectra[..., None, None] * models, axis=1)
        sources = sources + stack.membership(len(sources)) @ components.reshape(-1, obs.images.size)
    return sources.reshape(-1, *obs.images.shape)
