"""One blend of fixed shape, from pixels to children; lifted over blends by `jax.vmap`."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..ops import stamps
from . import templates as stages
from .config import SingleBandConfig
from .flags import SingleBandFlag
from .psf_template import PSFFit, Surroundings, fit_psf
from .stray_flux import stray_fractions, template_fractions


class BlendArrays(eqx.Module):
    """One blend, padded.

    Attributes
    ----------
    image, variance
        Pixels and their variances, 0 where unusable.
    good
        Pixels with data.
    footprint
        Pixels that belong to the blend.
    inside
        Pixels that are no padding.
    psf
        PSF of unit sum, centred on the middle pixel.
    psf_edge
        Its edge before padding.
    fwhm
        Its FWHM in pixels.
    noise
        Typical σ of a pixel.
    centers
        Peaks (y, x) in pixels.
    active
        Peaks that are deblended; the others are padding, or have been rejected.
    """

    image: Float[Array, "*lane y x"]
    variance: Float[Array, "*lane y x"]
    good: Bool[Array, "*lane y x"]
    footprint: Bool[Array, "*lane y x"]
    inside: Bool[Array, "*lane y x"]
    psf: Float[Array, "*lane p p"]
    psf_edge: Int[Array, "*lane"]
    fwhm: Float[Array, "*lane"]
    noise: Float[Array, "*lane"]
    centers: Float[Array, "*lane source 2"]
    active: Bool[Array, "*lane source"]


class Templates(eqx.Module):
    """Templates of one blend, and how they came about.

    Attributes
    ----------
    images
        Templates, in the frame of the image.
    fits
        Fits of the PSF.
    dropped
        Templates that were dropped as degenerate.
    weights
        Factors from the fit of all templates to the image; 1 without it.
    flags
        Bits of `SingleBandFlag`.
    """

    images: Float[Array, "*lane source y x"]
    fits: PSFFit
    dropped: Bool[Array, "*lane source"]
    weights: Float[Array, "*lane source"]
    flags: Int[Array, "*lane source"]


class Children(eqx.Module):
    """One blend, divided.

    Attributes
    ----------
    images, variances
        Children and their variances.
    unassigned
        Light of the blend that no child has.
    footprint
        Pixels of the blend, with those that only templates reach.
    stray_flux
        Sum of what a child has from where no template reaches.
    templates
        Templates.
    flags
        Bits of `SingleBandFlag`.
    """

    images: Float[Array, "*lane source y x"]
    variances: Float[Array, "*lane source y x"]
    unassigned: Float[Array, "*lane y x"]
    footprint: Bool[Array, "*lane y x"]
    stray_flux: Float[Array, "*lane source"]
    templates: Templates
    flags: Int[Array, "*lane source"]


def deblend_arrays(blend: BlendArrays, config: SingleBandConfig, fit_radius: int, *, in_turn: bool) -> Children:
    """Templates of all peaks, and the image divided between them.

    Parameters
    ----------
    blend
        One blend.
    config
        Options.
    fit_radius
        Half of the edge of the stamps that PSFs are fitted on, at least ⌈1.5 FWHM⌉.
    in_turn
        Whether templates are made one by one, which costs nothing for padding, or all at once.

    Returns
    -------
    Children
        What every source gets.
    """
    return divide(blend, make_templates(blend, config, fit_radius, in_turn=in_turn), config)


def make_templates(blend: BlendArrays, config: SingleBandConfig, fit_radius: int, *, in_turn: bool) -> Templates:
    """Templates of all peaks of a blend; the parameters are those of `deblend_arrays`."""
    pixels = _pixels(blend)
    one = functools.partial(_template, blend, config, fit_radius)
    fits, images, raw, flags = _for_each(one, blend.active, in_turn=in_turn)
    finite = jnp.isfinite(images).all(axis=(-2, -1))
    images = jnp.where((blend.active & finite)[:, None, None], images, 0.0)
    weights = jnp.ones_like(blend.fwhm, shape=blend.active.shape)
    if config.weight_templates:
        weights = stages.weights(images, blend.image, blend.good & blend.footprint)
        images = images * weights[:, None, None]
    dropped = jnp.zeros_like(blend.active)
    if config.remove_degenerate:
        dropped = stages.degenerate(images, fits.is_psf, config.max_template_dot)
        images = jnp.where(dropped[:, None, None], 0.0, images)
    flags = jnp.where(fits.is_psf, 0, flags | _ambiguous(blend, raw, pixels)) | fits.flags
    flags |= _flag(~finite & blend.active, SingleBandFlag.FAILED | SingleBandFlag.SKIPPED)
    flags |= _flag(dropped, SingleBandFlag.DEGENERATE | SingleBandFlag.SKIPPED)
    return Templates(images, fits, dropped, weights, jnp.where(blend.active, flags, 0))


def divide(blend: BlendArrays, templates: Templates, config: SingleBandConfig) -> Children:
    """Divide the image between templates, I t_i / Σ_j t_j, and give away what light no template reaches.

    Parameters
    ----------
    blend
        One blend.
    templates
        Templates.
    config
        Options.

    Returns
    -------
    Children
        What every source gets.
    """
    shares, reached = template_fractions(templates.images)
    stray = blend.footprint & blend.good & ~reached & (blend.image > 0)
    others = stray_fractions(
        templates.images,
        blend.centers,
        templates.fits.is_psf,
        rule=config.stray_flux,
        to_point_sources=config.stray_flux_to_point_sources,
        smallest=config.min_stray_fraction,
    )
    others = jnp.where(stray[None], others, 0.0)
    footprint = blend.footprint | (reached & blend.inside)
    fractions = jnp.where(footprint[None], shares + others, 0.0)
    assigned = reached | (others.sum(axis=0) > 0)
    factor = fractions**2 if config.variance == "scaled" else (fractions > 0).astype(fractions.dtype)
    stray_flux = (others * blend.image[None]).sum(axis=(-2, -1))
    empty = blend.active & ~templates.dropped & ~(templates.images > 0).any(axis=(-2, -1))
    return Children(
        images=fractions * blend.image[None],
        variances=factor * blend.variance[None],
        unassigned=jnp.where(footprint & ~assigned, blend.image, 0.0),
        footprint=footprint,
        stray_flux=stray_flux,
        templates=templates,
        flags=templates.flags
        | _flag(stray_flux > 0, SingleBandFlag.HAS_STRAY_FLUX)
        | _flag(empty, SingleBandFlag.EMPTY_TEMPLATE | SingleBandFlag.SKIPPED),
    )


def _for_each(one: Callable[[Int[Array, ""]], PyTree], active: Bool[Array, " source"], *, in_turn: bool) -> PyTree:
    """What becomes of each peak; in turn, those behind the last active one are left at 0."""
    numbers = jnp.arange(len(active))
    if not in_turn:
        return jax.vmap(one)(numbers)
    shapes = jax.eval_shape(one, numbers[0])
    start = jax.tree.map(lambda leaf: jnp.zeros((len(active), *leaf.shape), leaf.dtype), shapes)

    def turn(number: Array, found: PyTree) -> PyTree:
        return jax.tree.map(
            lambda of_all, new: jax.lax.dynamic_update_index_in_dim(of_all, new, number, 0), found, one(number)
        )

    # few programs mean much padding: it must not take time
    return jax.lax.fori_loop(0, jnp.max(jnp.where(active, numbers + 1, 0)), turn, start)


def _template(
    blend: BlendArrays, config: SingleBandConfig, fit_radius: int, number: Int[Array, ""]
) -> tuple[PSFFit, Float[Array, "y x"], Float[Array, "y x"], Int[Array, ""]]:
    """The fit of the PSF to a peak, its template, the symmetric one that it was made from, and flags."""
    pixel = _pixels(blend)[number]
    around = surroundings(blend, number, pixel, fit_radius, config.max_neighbors)
    limits = (config.psf_chisq, config.psf_chisq_derivatives, config.psf_chisq_moved)
    fit = fit_psf(around, blend.psf, blend.fwhm, limits)
    if not config.fit_psf:
        unused = jnp.zeros_like(fit.is_psf), jnp.zeros_like(fit.flags)
        fit = eqx.tree_at(lambda fit: (fit.is_psf, fit.flags), fit, unused)
    offset = blend.centers[number] - pixel.astype(blend.centers.dtype)

    def point() -> tuple[Array, Array, Array]:
        image = _point(blend, fit, pixel)
        return image, jnp.zeros_like(image), jnp.asarray(0)

    return fit, *jax.lax.cond(fit.is_psf, point, lambda: _extended(blend, config, fit_radius, pixel, offset))


def surroundings(
    blend: BlendArrays, number: Int[Array, ""], pixel: Int[Array, "2"], radius: int, max_neighbors: int
) -> Surroundings:
    """What the fit of one peak sees of a blend.

    Parameters
    ----------
    blend
        One blend.
    number
        Which peak.
    pixel
        Its pixel.
    radius
        Half of the edge of the stamps.
    max_neighbors
        Number of other peaks, the nearest, whose PSF may reach the pixels of the fit.

    Returns
    -------
    Surroundings
        Stamps and positions.
    """
    cut = functools.partial(_cut, pixel=pixel, radius=radius)
    offsets = blend.centers - pixel.astype(blend.centers.dtype)[None, :]
    apart = jnp.hypot(*(offsets - offsets[number][None, :]).T)
    other = blend.active & (jnp.arange(len(apart)) != number)
    distance, nearest = jax.lax.top_k(-jnp.where(other, apart, jnp.inf), min(max_neighbors, len(apart) - 1))
    reach = jnp.ceil(1.5 * blend.fwhm) + blend.psf_edge.astype(apart.dtype) / 2
    usable = cut(blend.good & blend.footprint)
    return Surroundings(
        cut(blend.image), cut(blend.variance), usable, offsets[number], offsets[nearest], -distance < reach
    )


def _extended(
    blend: BlendArrays, config: SingleBandConfig, fit_radius: int, pixel: Int[Array, "2"], offset: Float[Array, "2"]
) -> tuple[Float[Array, "y x"], Float[Array, "y x"], Int[Array, ""]]:
    """Template of an extended source, the symmetric one that it was made from, and flags."""
    radius = stamp_radius(blend.image.shape[0], config, fit_radius)
    image, good, footprint, inside = (
        _cut(plane, pixel, radius) for plane in (blend.image, blend.good, blend.footprint, blend.inside)
    )
    shift = stages.mirror_shift(offset, config.symmetry)
    raw, region = stages.symmetric_template(image, good, footprint, shift)
    template, flags = raw, jnp.asarray(0)
    if config.edges == "patch":
        template, region, changed = stages.patched(template, region, image, footprint, inside, shift)
        flags = _flag(changed, SingleBandFlag.PATCHED_TEMPLATE)
    if config.edges == "ramp":
        psf = _resized(blend.psf, 2 * fit_radius + 1)
        width = jnp.ceil(1.5 * blend.fwhm)
        template, region, changed = stages.ramped(template, region, inside, psf, width, blend.noise, shift)
        flags = _flag(changed, SingleBandFlag.RAMPED_TEMPLATE)
    if config.smoothing != "off":
        wanted = (config.smoothing == "on") | (blend.fwhm >= 2)
        # a loop of one turn or none: merged with what follows, the compiler computes a median many times over
        turns = jnp.where(wanted, 1, 0)
        template = jax.lax.fori_loop(0, turns, lambda _, same: stages.median_smoothed(same, region), template)
    template = jnp.where(region, stages.monotonic(template, config.monotonic), 0.0)
    edge = blend.image.shape[0]
    return _placed(template, pixel, edge), _placed(raw, pixel, edge), flags


def _point(blend: BlendArrays, fit: PSFFit, pixel: Int[Array, "2"]) -> Float[Array, "y x"]:
    """Template of a point source, within the footprint."""
    edge, center = blend.image.shape[0], pixel.astype(fit.offset.dtype) + fit.offset
    rows, columns = (stamps.placement(center[axis], edge, blend.psf.shape[0]) for axis in (0, 1))
    return jnp.where(blend.footprint, jnp.maximum(fit.flux * stamps.place(blend.psf, rows, columns), 0.0), 0.0)


def _ambiguous(
    blend: BlendArrays, symmetric: Float[Array, "source y x"], pixels: Int[Array, "source 2"]
) -> Int[Array, " source"]:
    brightness = jnp.where(blend.active, jnp.maximum(blend.image[pixels[:, 0], pixels[:, 1]], 0.0), 0.0)
    scale = jnp.maximum(0.5 * blend.fwhm, 0.5)
    ambiguous = stages.symmetry_ambiguous(symmetric, blend.centers, brightness, scale)
    return _flag(ambiguous, SingleBandFlag.SYMMETRY_AMBIGUOUS)


def stamp_radius(edge: int, config: SingleBandConfig, fit_radius: int) -> int:
    """Half of the edge of stamps that hold all pixels that a template can have in an image of this edge.

    Examples
    --------
    >>> from jaxdeblend.single_band import SingleBandConfig
    >>> [stamp_radius(64, SingleBandConfig(edges=edges), 6) for edges in ("clip", "ramp", "patch")]
    [32, 38, 63]
    """
    return {"clip": edge // 2, "ramp": min(edge // 2 + fit_radius, edge - 1), "patch": edge - 1}[config.edges]


def _pixels(blend: BlendArrays) -> Int[Array, "source 2"]:
    nearest = jnp.floor(blend.centers + 0.5).astype(int)
    return jnp.clip(nearest, 0, blend.image.shape[0] - 1)


def _cut(frame: Array, pixel: Int[Array, "2"], radius: int) -> Array:
    """Stamp about a pixel, 0 from outside of the frame."""
    edge = 2 * radius + 1
    return jax.lax.dynamic_slice(jnp.pad(frame, radius), (pixel[0], pixel[1]), (edge, edge))


def _placed(stamp: Float[Array, "s s"], pixel: Int[Array, "2"], edge: int) -> Float[Array, "y x"]:
    """Frame with a stamp about a pixel; what `_cut` undoes."""
    radius = stamp.shape[0] // 2
    margin = max(edge - 1 - radius, 0)
    first = radius + margin - pixel
    return jax.lax.dynamic_slice(jnp.pad(stamp, margin), (first[0], first[1]), (edge, edge))


def _resized(psf: Float[Array, "p p"], edge: int) -> Float[Array, "w w"]:
    margin = (edge - psf.shape[0]) // 2
    return jax.lax.pad(psf, jnp.zeros((), psf.dtype), ((margin, margin, 0), (margin, margin, 0)))


def _flag(condition: Bool[Array, "*n"], flag: SingleBandFlag) -> Int[Array, "*n"]:
    return jnp.where(condition, int(flag), 0)
