"""Measurements of a fitted blend, as arrays; written for one blend, lifted by `jax.vmap` over a batch."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..fitting.loop import RESULTS
from ..fitting.render import Terms, render_terms, sum_terms
from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation, background_rms
from ..model.blend import Blend
from ..ops import apportion, lstsq, moments
from ..runtime.host import AnyArray, device_array
from ..runtime.programs import Program
from .fitted import Fitted, blend_and_status, blend_on, check_observation, measurements_at_hand, needs_spectra
from .flags import Flag

SHARPER = 1.02
"""Ratio of the maxima of a PSF and that of model space, both of sum 1, from which on kernels would deconvolve."""

POOR_FIT = 10.0
"""Mean weighted squared residual around a source above which it is flagged."""

MODEL_ERROR = 0.01
"""Error of the models of galaxies, as a share of their light under a neighbour: what `benchmarks.bias --neighbor` finds
beside galaxies of S/N 10⁴ and more, where noise is small."""


class Apportioned(eqx.Module):
    """An image divided over the sources of a blend.

    Attributes
    ----------
    children
        Each source's share of the image; padding sources get nothing.
    unassigned
        The rest: ``children.sum(axis=0) + unassigned`` is the image.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> shares = jd.Apportioned(children=jnp.ones((2, 1, 4, 4)), unassigned=jnp.zeros((1, 4, 4)))
    >>> float(shares.children.sum(axis=0)[0, 0, 0])
    2.0
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
    data_coverage
        Share of the light, as observed, that falls on usable pixels of the window; NaN for a source without a model.
    peak_flux
        Value of the image on the pixel of the detected position; NaN where that is unusable.
    center
        Fitted position (y, x) in pixels; the detected one for a source outside the image.
    moments
        Second moments (Q_yy, Q_yx, Q_xx) of the band-averaged shape, less those of the model-space PSF, square
        pixels.
    n_components
        Number of components.
    flags
        Bits of `Flag`.
    """

    flux: Float[AnyArray, "source band"]
    flux_err: Float[AnyArray, "source band"]
    blendedness: Float[AnyArray, "source band"]
    data_coverage: Float[AnyArray, "source band"]
    peak_flux: Float[AnyArray, "source band"]
    center: Float[AnyArray, "source 2"]
    moments: Float[AnyArray, "source 3"]
    n_components: Int[AnyArray, " source"]
    flags: Int[AnyArray, " source"]

    def scaled(self, unit: float) -> "Measurements":
        """Fluxes, in units of a number, as they are in units of 1."""
        if unit == 1.0:
            return self
        fluxes = (self.flux * unit, self.flux_err * unit, self.peak_flux * unit)
        return eqx.tree_at(lambda values: (values.flux, values.flux_err, values.peak_flux), self, fluxes)


def apportion_flux(fitted: Blend | Fitted, obs: Observation, *, refit_spectra: bool | None = None) -> Apportioned:
    """Divide the observed flux over the sources in proportion to their models, pixel by pixel.

    child_k = I · M_k / Σ_j M_j, where pixels are usable and the summed models exceed a hundredth of the background
    noise. Noise, and whatever the models miss, is thus kept, not modelled; what is not assigned is returned.

    Parameters
    ----------
    fitted
        What `fit` or `deblend` returned, or its blend, or a blend made by hand.
    obs
        Observation.
    refit_spectra
        Whether the spectra of the models are solved for on `obs` first, see `measure`.

    Returns
    -------
    Apportioned
        Children, and the unassigned rest; together they are the image.

    Raises
    ------
    ValueError
        If the frame or the number of bands is not that of the blend.

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
    blend, _ = blend_and_status(fitted)
    check_observation(blend, obs)
    at_hand = measurements_at_hand(fitted, obs, refit_spectra)
    refit = needs_spectra(blend, obs) if refit_spectra is None else refit_spectra
    obs, unit = in_noise_units(obs)
    if at_hand is None:
        shares = _apportion_flux(blend_on(blend.scaled(1 / unit), obs, refit_spectra=refit), obs)
    else:
        shares = _divided(device_array(at_hand[1], obs.images.dtype), obs.images, obs.weights)
    return shares if unit == 1.0 else jax.tree.map(lambda image: image * unit, shares)


@Program
def _apportion_flux(blend: Blend, obs: Observation) -> Apportioned:
    return _divided(sum_terms(blend, obs, render_terms(blend, obs)), obs.images, obs.weights)


@Program
def _divided(
    models: Float[Array, "source band y x"], images: Float[AnyArray, "band y x"], weights: Float[AnyArray, "band y x"]
) -> Apportioned:
    """Images divided in proportion to models."""
    floor = 0.01 * jnp.asarray(background_rms(weights), models.dtype)[:, None, None]
    children, rest = apportion.apportion(models, jnp.asarray(images), jnp.asarray(weights > 0), floor)
    return Apportioned(children, rest)


def measure_arrays(
    blend: Blend, obs: Observation, status: Int[AnyArray, ""] | int = 0, terms: Terms | None = None
) -> tuple[Measurements, Float[Array, "source band y x"]]:
    """Measure every source of a blend, and render it.

    Parameters
    ----------
    blend
        Fitted blend.
    obs
        Observation.
    status
        Status of the fit, see `jaxdeblend.fitting.loop.RESULTS`.
    terms
        From `jaxdeblend.fitting.render.render_terms`, if they are at hand; they do not depend on spectra.

    Returns
    -------
    tuple
        Measurements, one entry per source, padding included (its values mean nothing), and each source as observed.
    """
    terms = render_terms(blend, obs) if terms is None else terms
    models = sum_terms(blend, obs, terms)
    shapes = _unit_shapes(blend)
    flux, n_components = _fluxes(blend, obs), _n_components(blend)
    observed = _observed_shapes(blend, obs, terms)
    errors = flux_errors(observed, obs)
    detected = jnp.asarray(blend.center_prior.mean)
    flags = _flags(blend, obs, flux, models, jnp.asarray(status))
    outshone = _is_outshone(_is_extended(blend), obs, models, observed, errors)
    flags = flags + jnp.where(outshone, Flag.BRIGHT_NEIGHBOR.value, 0)
    lost = (flags & (Flag.OUTSIDE_IMAGE | Flag.NO_DATA | Flag.NON_FINITE)) != 0
    shapeless = lost | (n_components == 0)
    measurements = Measurements(
        flux=jnp.where(lost[:, None], jnp.nan, flux),
        flux_err=jnp.where(lost[:, None], jnp.nan, errors),
        blendedness=jax.vmap(apportion.blendedness, in_axes=1, out_axes=1)(models),
        data_coverage=jnp.where(shapeless[:, None], jnp.nan, data_coverage(observed, obs)),
        peak_flux=_peak_flux(detected, obs),
        center=jnp.where(obs.contains(detected)[:, None], blend.centers, detected),
        moments=jax.vmap(moments.second_moments)(shapes) - _psf_moments(obs, shapes.shape[-1])[None, :],
        n_components=n_components,
        flags=flags,
    )
    return measurements, models


def flux_errors(shapes: Float[Array, "source band y x"], obs: Observation) -> Float[Array, "source band"]:
    """1σ errors of the fluxes at fixed shapes, from the Gauss–Newton matrix of the joint spectra.

    With S_k the source's unit-flux shape as observed, F_kl = Σ w S_k S_l is the Fisher matrix of one band's fluxes;
    the error of flux k is √(F⁻¹)_kk, which grows as sources overlap.

    Parameters
    ----------
    shapes
        S_k of each source.
    obs
        Observation.

    Returns
    -------
    Float[Array, "source band"]
        Errors in image units; infinite where a band has no data under the source.
    """

    def fisher(model: Array, weights: AnyArray) -> Array:
        flat = model.reshape(model.shape[0], -1)
        return (flat * weights.reshape(1, -1)) @ flat.T

    matrices = jax.vmap(fisher, in_axes=(1, 0))(shapes, obs.weights)
    return lstsq.one_by_one(_marginal_errors, matrices).T


def data_coverage(shapes: Float[Array, "source band y x"], obs: Observation) -> Float[Array, "source band"]:
    """Share of each source's light that falls on usable pixels, c_kb = Σ S_kb over pixels with a weight.

    What falls outside the window, or on pixels of it that are not used, is missing. It does not depend on the spectrum:
    a source that is dark in a band has a coverage there, too.

    Parameters
    ----------
    shapes
        Unit-flux shape S_k of each source as observed.
    obs
        Observation.

    Returns
    -------
    Float[Array, "source band"]
        From 0, no data, to 1, all; what kernels with negative lobes leave beyond is cut.
    """
    usable = jnp.where(jnp.asarray(obs.weights > 0)[None], shapes, 0.0)
    return jnp.clip(usable.sum(axis=(-2, -1)), 0.0, 1.0)


def _observed_shapes(blend: Blend, obs: Observation, terms: Terms) -> Float[Array, "source band y x"]:
    """Band-averaged shape of each source as observed, in units in which it has the flux 1."""
    shapes = jnp.zeros((len(blend.centers), obs.images.size), obs.images.dtype)
    for share, models in zip(_shares(blend), terms, strict=True):
        shapes = shapes + share.reshape(len(share), len(models) * models.shape[1]) @ models.reshape(-1, obs.images.size)
    return shapes.reshape(-1, *obs.images.shape)


def _peak_flux(positions: Float[Array, "source 2"], obs: Observation) -> Float[Array, "source band"]:
    """Value of the image on the pixel of each position, NaN where it is unusable."""
    inside = obs.contains(positions)
    pixels = jnp.where(inside[:, None], jnp.floor(positions + 0.5), 0.0).astype(int)
    y, x = jnp.minimum(pixels, jnp.asarray(obs.shape)[None] - 1).T
    usable = inside[None, :] & (jnp.asarray(obs.weights)[:, y, x] > 0)
    return jnp.where(usable, jnp.asarray(obs.images)[:, y, x], jnp.nan).T


def _marginal_errors(fisher: Float[Array, "n n"]) -> Float[Array, " n"]:
    """√(F⁻¹)_kk, infinite for parameters without information; degenerate ones are held by a ridge of 1e-6."""
    diagonal = jnp.diagonal(fisher)
    known = diagonal > 0
    scale = jnp.sqrt(jnp.where(known, diagonal, 1.0))
    correlation = jnp.where(known[:, None] & known[None, :], fisher / scale[:, None] / scale[None, :], 0.0)
    inverse = jnp.linalg.inv(correlation + jnp.diag(jnp.where(known, 1e-6, 1.0).astype(fisher.dtype)))
    return jnp.where(known, jnp.sqrt(jnp.maximum(jnp.diagonal(inverse), 1.0)) / scale, jnp.inf)


def _n_components(blend: Blend) -> Int[Array, " source"]:
    """Number of components of each source."""
    numbers = [stack.membership(len(blend.centers)).sum(axis=1) for stack in blend.stacks]
    return sum(numbers, start=jnp.zeros(len(blend.centers), blend.centers.dtype)).astype(int)


def _fluxes(blend: Blend, obs: Observation) -> Float[Array, "source band"]:
    """Total flux of each source's model."""
    fluxes = jnp.zeros((len(blend.centers), len(obs.bands)), obs.images.dtype)
    for stack in blend.stacks:
        spectra, images = stack.terms()
        fluxes = fluxes + jnp.einsum("nc,ctb,ctyx->nb", stack.membership(len(fluxes)), spectra, images)
    return fluxes


def _shares(blend: Blend) -> tuple[Float[Array, "source _ _"], ...]:
    """What each term adds to the band-averaged shape of each source, in units in which that has the flux 1.

    The terms of a source without flux count alike.
    """
    membership = [stack.membership(len(blend.centers)) for stack in blend.stacks]
    terms = [stack.terms() for stack in blend.stacks]
    light = [images.sum(axis=(-2, -1)) for _, images in terms]
    mean = [spectra.mean(axis=-1) for spectra, _ in terms]

    def flux(spectra: list[Array]) -> Array:
        total = jnp.zeros(len(blend.centers), blend.centers.dtype)
        for member, values, image in zip(membership, spectra, light, strict=True):
            total = total + member @ (values * image).sum(axis=1)
        return total

    lit, alike = flux(mean), flux([jnp.ones_like(values) for values in mean])
    total = jnp.where(lit > 0, lit, jnp.where(alike > 0, alike, 1.0))
    return tuple(
        member[:, :, None] * jnp.where(lit[:, None, None] > 0, values, 1.0) / total[:, None, None]
        for member, values in zip(membership, mean, strict=True)
    )


def _unit_shapes(blend: Blend) -> Float[Array, "source s s"]:
    """Band-averaged shape of each source on its own grid, unit sum."""
    images = [stack.terms()[1] for stack in blend.stacks]
    edge = max((image.shape[-1] for image in images), default=1)
    shapes = jnp.zeros((len(blend.centers), edge, edge), blend.centers.dtype)
    for share, image in zip(_shares(blend), images, strict=True):
        pad = (edge - image.shape[-1]) // 2
        shapes = shapes + jnp.einsum("nct,ctyx->nyx", share, jnp.pad(image, ((0, 0), (0, 0), (pad, pad), (pad, pad))))
    return shapes


def _psf_moments(obs: Observation, edge: int) -> Float[Array, "3"]:
    return moments.second_moments(obs.model_psf.stamp(min(edge, obs.model_psf.edge))[0])


def _flags(
    blend: Blend,
    obs: Observation,
    flux: Float[Array, "source band"],
    models: Float[Array, "source band y x"],
    status: Int[Array, ""],
) -> Int[Array, " source"]:
    """All flags of all sources."""
    inside = obs.contains(jnp.asarray(blend.center_prior.mean))
    reach = jnp.maximum(0.5 * obs.psf.fwhm().max(), 1.0)
    end = obs.extent.astype(obs.images.dtype)[None, :] - 1
    border = jnp.minimum(blend.centers, end - blend.centers).min(axis=1)
    near, central = _surroundings(blend, obs, reach)
    good = (obs.weights > 0).astype(obs.images.dtype)
    chi2 = jnp.sum(obs.weights * (obs.images - models.sum(axis=0)) ** 2, axis=0, keepdims=True)
    # numbers of usable pixels near and at each source, and χ² near it, by one product
    sums = jnp.concatenate([near, central]) @ jnp.concatenate([good, chi2]).reshape(-1, near.shape[-1]).T
    (usable, local), at_center = (sums[: len(near), :-1], sums[: len(near), -1]), sums[len(near) :, :-1]
    missing = near.sum(axis=1, keepdims=True) - usable
    conditions = {
        Flag.OUTSIDE_IMAGE: ~inside,
        Flag.EDGE: inside & (border < reach),
        Flag.MASKED_CENTER: inside & jnp.all(at_center == 0, axis=1),
        Flag.MASKED_PIXELS: inside & jnp.any(missing > 0, axis=1),
        Flag.MISSING_BAND: inside & jnp.any(usable == 0, axis=1),
        Flag.SHARED_POSITION: inside & _shares_position(blend),
        Flag.NO_FLUX: jnp.all(flux <= 0, axis=1),
        Flag.NOT_CONVERGED: status == RESULTS.MAX_STEPS,
        Flag.NON_FINITE: status == RESULTS.NON_FINITE,
        Flag.NO_DATA: (status == RESULTS.NO_DATA) | ~jnp.any(good > 0),
        Flag.UNDERSAMPLED_PSF: _is_extended(blend) & _is_sharper(obs),
        Flag.POOR_FIT: inside & (local > POOR_FIT * jnp.maximum(usable.sum(axis=1), 1.0)),
    }
    bits = [jnp.broadcast_to(jnp.where(met, flag.value, 0), inside.shape) for flag, met in conditions.items()]
    return jnp.stack(bits).sum(axis=0, dtype=int)


def _is_extended(blend: Blend) -> Bool[Array, " source"]:
    """Sources with a component that is no point."""
    count = jnp.zeros(len(blend.centers))
    for stack in blend.stacks:
        count = count + stack.membership(len(count)) @ jnp.where(stack.is_point, 0.0, 1.0)
    return count > 0


def _is_outshone(
    extended: Bool[Array, " source"],
    obs: Observation,
    models: Float[Array, "source band y x"],
    shapes: Float[Array, "source band y x"],
    errors: Float[Array, "source band"],
) -> Bool[Array, " source"]:
    """Whether the error of the models of extended neighbours may exceed that of a source's flux in some band.

    Light G of others changes a flux that is fitted with the shape S by Σ w S G / Σ w S².
    """
    galaxies = jnp.where(extended[:, None, None, None], models, 0.0)
    others = galaxies.sum(axis=0, keepdims=True) - galaxies
    weighted = jnp.asarray(obs.weights)[None] * shapes
    overlap = jnp.abs((weighted * others).sum(axis=(-2, -1)))
    norm = (weighted * shapes).sum(axis=(-2, -1))
    return jnp.any(MODEL_ERROR * overlap > errors * norm, axis=1)


def _is_sharper(obs: Observation) -> Bool[Array, ""]:
    """Whether the PSF of any band has a higher maximum than that of model space."""
    observed, model = (psf.stamp(psf.edge).max() for psf in (obs.psf, obs.model_psf))
    return observed > SHARPER * model


def _surroundings(
    blend: Blend, obs: Observation, reach: Float[Array, ""]
) -> tuple[Float[Array, "source pixel"], Float[Array, "source pixel"]]:
    """1 on pixels within a radius of each source, and on the one (on its border: all) on which it lies; no padding."""
    bottom, right = obs.extent.astype(obs.images.dtype)
    rows, columns = (jnp.arange(n, dtype=obs.images.dtype) for n in obs.shape)
    real = (rows < bottom)[:, None] & (columns < right)[None, :]
    y = rows[None, :, None] - blend.centers[:, 0, None, None]
    x = columns[None, None, :] - blend.centers[:, 1, None, None]
    near = real[None] & (y**2 + x**2 <= reach**2)
    central = real[None] & (jnp.abs(y) <= 0.5) & (jnp.abs(x) <= 0.5)
    n_sources, dtype = len(near), obs.images.dtype
    return near.reshape(n_sources, -1).astype(dtype), central.reshape(n_sources, -1).astype(dtype)


def _shares_position(blend: Blend) -> Bool[Array, " source"]:
    difference = blend.center_prior.mean[:, None] - blend.center_prior.mean[None, :]
    close = (difference**2).sum(axis=-1) < 0.25
    others = ~jnp.eye(len(difference), dtype=bool) & blend.active[None, :]
    return jnp.any(close & others, axis=1)


measure_jit = Program(measure_arrays)
