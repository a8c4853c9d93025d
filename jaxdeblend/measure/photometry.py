"""Measurements of a fitted blend, as arrays; written for one blend, lifted by `jax.vmap` over a batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..fit.loop import RESULTS
from ..fit.render import render_sources
from ..instrument.observation import Observation
from ..model.blend import Blend
from ..ops import apportion, moments
from .flags import Flag

POOR_FIT = 10.0
"""Mean weighted squared residual around a source above which it is flagged."""


class Apportioned(eqx.Module):
    """An image divided over the sources of a blend.

    Attributes
    ----------
    children
        Each source's share of the image; padding sources get nothing.
    unassigned
        The rest: ``children.sum(axis=0) + unassigned`` is the image.
    """

    children: Float[Array, "source band y x"]
    unassigned: Float[Array, "band y x"]


class Measurements(eqx.Module):
    """Measurements of every source of a blend.

    Attributes
    ----------
    flux, flux_err
        Total flux of the model, and its 1σ error at fixed shapes, with the covariances between overlapping sources.
    blendedness
        See `jaxdeblend.ops.apportion.blendedness`.
    center
        Fitted position (y, x) in pixels.
    moments
        Second moments (Q_yy, Q_yx, Q_xx) of the band-averaged shape, less those of the model-space PSF, square
        pixels.
    n_components
        Number of components.
    flags
        Bits of `Flag`.
    """

    flux: Float[Array, "source band"]
    flux_err: Float[Array, "source band"]
    blendedness: Float[Array, "source band"]
    center: Float[Array, "source 2"]
    moments: Float[Array, "source 3"]
    n_components: Int[Array, " source"]
    flags: Int[Array, " source"]


def apportion_flux(blend: Blend, obs: Observation) -> Apportioned:
    """Divide the observed flux over the sources in proportion to their models, pixel by pixel.

    child_k = I · M_k / Σ_j M_j, where pixels are usable and the summed models exceed a hundredth of the background
    noise. Noise, and whatever the models miss, is thus kept, not modelled; what is not assigned is returned.

    Parameters
    ----------
    blend
        Fitted blend.
    obs
        Observation.

    Returns
    -------
    Apportioned
        Children, and the unassigned rest; together they are the image.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> blend = jd.Blend.of([jd.PointSource((8, 8), jnp.array([30.0]))], frame=(16, 16))
    >>> shares = jd.apportion_flux(blend, obs)
    >>> bool(jnp.allclose(shares.children.sum(axis=0) + shares.unassigned, obs.images))
    True
    """
    models = _visible(blend, render_sources(blend, obs))
    floor = 0.01 * obs.background_rms[:, None, None]
    children, rest = apportion.apportion(models, obs.images, obs.weights > 0, floor)
    return Apportioned(children, rest)


def measure_arrays(blend: Blend, obs: Observation, status: Int[Array, ""] | int = 0) -> Measurements:
    """Measure every source of a blend.

    Parameters
    ----------
    blend
        Fitted blend.
    obs
        Observation.
    status
        Status of the fit, see `jaxdeblend.fit.loop.RESULTS`.

    Returns
    -------
    Measurements
        One entry per source, padding included (its values mean nothing).
    """
    models = _visible(blend, render_sources(blend, obs))
    shapes = _unit_shapes(blend)
    flux = _fluxes(blend)
    flags = _flags(blend, obs, flux, models, jnp.asarray(status))
    lost = (flags & (Flag.OUTSIDE_IMAGE | Flag.NO_DATA | Flag.NON_FINITE)) != 0
    return Measurements(
        flux=jnp.where(lost[:, None], jnp.nan, flux),
        flux_err=jnp.where(lost[:, None], jnp.nan, flux_errors(blend, obs)),
        blendedness=jax.vmap(apportion.blendedness, in_axes=1, out_axes=1)(models),
        center=blend.centers,
        moments=jax.vmap(moments.second_moments)(shapes) - _psf_moments(obs, shapes.shape[-1]),
        n_components=sum(_membership(blend, stack).sum(axis=1) for stack in blend.stacks).astype(int),
        flags=flags,
    )


def flux_errors(blend: Blend, obs: Observation) -> Float[Array, "source band"]:
    """1σ errors of the fluxes at fixed shapes, from the Gauss–Newton matrix of the joint spectra.

    With S_k the source's unit-flux shape as observed, F_kl = Σ w S_k S_l is the Fisher matrix of one band's fluxes;
    the error of flux k is √(F⁻¹)_kk, which grows as sources overlap.

    Parameters
    ----------
    blend
        Fitted blend.
    obs
        Observation.

    Returns
    -------
    Float[Array, "source band"]
        Errors in image units; infinite where a band has no data under the source.
    """
    shapes = _placed(blend, _unit_shapes(blend), obs)
    observed = jax.vmap(lambda frame: obs.convolve(jnp.broadcast_to(frame, obs.images.shape)))(shapes)

    def one_band(model: Array, weights: Array) -> Array:
        flat = model.reshape(model.shape[0], -1)
        return _marginal_errors((flat * weights.reshape(-1)) @ flat.T)

    return jax.vmap(one_band, in_axes=(1, 0), out_axes=1)(observed, obs.weights)


def _marginal_errors(fisher: Float[Array, "n n"]) -> Float[Array, " n"]:
    """√(F⁻¹)_kk, infinite for parameters without information; degenerate ones are held by a ridge of 1e-6."""
    diagonal = jnp.diagonal(fisher)
    known = diagonal > 0
    scale = jnp.sqrt(jnp.where(known, diagonal, 1.0))
    correlation = jnp.where(known[:, None] & known[None, :], fisher / scale[:, None] / scale[None, :], 0.0)
    unit = jnp.eye(fisher.shape[0], dtype=fisher.dtype)
    inverse = jnp.linalg.inv(correlation + jnp.where(known, 1e-6, 1.0) * unit)
    return jnp.where(known, jnp.sqrt(jnp.maximum(jnp.diagonal(inverse), 1.0)) / scale, jnp.inf)


def _membership(blend: Blend, stack: eqx.Module) -> Float[Array, "source component"]:
    """1 where a component belongs to a source."""
    member = stack.source[None, :] == jnp.arange(blend.centers.shape[0])[:, None]
    return (member & stack.active[None, :]).astype(blend.centers.dtype)


def _fluxes(blend: Blend) -> Float[Array, "source band"]:
    """Total flux of each source's model."""
    total = 0.0
    for stack in blend.stacks:
        spectra, images = stack.terms()
        total = total + jnp.einsum("nc,ctb,ctyx->nb", _membership(blend, stack), spectra, images)
    return total


def _unit_shapes(blend: Blend) -> Float[Array, "source s s"]:
    """Band-averaged shape of each source on its own grid, unit sum; a point for a source without flux."""
    edge = max(stack.terms()[1].shape[-1] for stack in blend.stacks)
    total = 0.0
    for stack in blend.stacks:
        spectra, images = stack.terms()
        pad = (edge - images.shape[-1]) // 2
        images = jnp.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        weight = spectra.mean(axis=-1)
        total = total + jnp.einsum("nc,ct,ctyx->nyx", _membership(blend, stack), weight, images)
    flux = total.sum(axis=(-2, -1), keepdims=True)
    point = jnp.zeros((edge, edge)).at[edge // 2, edge // 2].set(1.0)
    return jnp.where(flux > 0, total / jnp.where(flux > 0, flux, 1.0), point)


def _placed(blend: Blend, shapes: Float[Array, "source s s"], obs: Observation) -> Float[Array, "source y x"]:
    rows, columns = blend.placements(shapes.shape[-1], obs.extent)
    return jnp.einsum("nys,nst,nxt->nyx", rows, shapes, columns) * blend.active[:, None, None]


def _psf_moments(obs: Observation, edge: int) -> Float[Array, "3"]:
    return moments.second_moments(obs.model_psf.stamp(min(edge, obs.model_psf.edge))[0])


def _visible(blend: Blend, models: Float[Array, "source band y x"]) -> Float[Array, "source band y x"]:
    return jnp.where(blend.active[:, None, None, None], models, 0.0)


def _flags(
    blend: Blend,
    obs: Observation,
    flux: Float[Array, "source band"],
    models: Float[Array, "source band y x"],
    status: Int[Array, ""],
) -> Int[Array, " source"]:
    """All flags of all sources."""
    reach = jnp.maximum(0.5 * obs.psf.fwhm().max(), 1.0)
    near = _distance(blend.centers, obs.shape) <= reach
    core = _distance(blend.centers, obs.shape) <= jnp.sqrt(0.5)
    inside = jnp.arange(obs.shape[0])[:, None] < obs.extent[0]
    near = near & inside & (jnp.arange(obs.shape[1])[None, :] < obs.extent[1])
    good = obs.weights > 0
    chi2 = obs.weights * (obs.images - models.sum(axis=0)) ** 2
    usable = jnp.einsum("nyx,byx->nb", near.astype(chi2.dtype), good.astype(chi2.dtype))
    local = jnp.einsum("nyx,byx->n", near.astype(chi2.dtype), chi2) / jnp.maximum(usable.sum(axis=1), 1.0)
    border = jnp.minimum(blend.centers, obs.extent - 1 - blend.centers).min(axis=1)
    masked_center = ~jnp.any(core[:, None] & good[None], axis=(1, 2, 3))
    conditions = {
        Flag.OUTSIDE_IMAGE: border < -0.5,
        Flag.EDGE: (border >= -0.5) & (border < reach),
        Flag.MASKED_CENTER: (border >= -0.5) & masked_center,
        Flag.MASKED_PIXELS: jnp.any(near[:, None] & ~good[None], axis=(1, 2, 3)),
        Flag.MISSING_BAND: jnp.any(usable == 0, axis=1),
        Flag.SHARED_POSITION: _shares_position(blend),
        Flag.NO_FLUX: jnp.all(flux <= 0, axis=1),
        Flag.NOT_CONVERGED: jnp.broadcast_to(status == RESULTS.MAX_STEPS, border.shape),
        Flag.NON_FINITE: jnp.broadcast_to(status == RESULTS.NON_FINITE, border.shape),
        Flag.NO_DATA: jnp.broadcast_to(status == RESULTS.NO_DATA, border.shape),
        Flag.POOR_FIT: local > POOR_FIT,
    }
    return sum(jnp.where(condition, flag.value, 0) for flag, condition in conditions.items())


def _distance(centers: Float[Array, "source 2"], shape: tuple[int, int]) -> Float[Array, "source y x"]:
    y = jnp.arange(shape[0])[None, :, None] - centers[:, 0, None, None]
    x = jnp.arange(shape[1])[None, None, :] - centers[:, 1, None, None]
    return jnp.hypot(y, x)


def _shares_position(blend: Blend) -> Array:
    difference = blend.center_prior.mean[:, None] - blend.center_prior.mean[None, :]
    close = (difference**2).sum(axis=-1) < 0.25
    others = ~jnp.eye(len(difference), dtype=bool) & blend.active[None, :]
    return jnp.any(close & others, axis=1)


measure_jit = eqx.filter_jit(measure_arrays)
