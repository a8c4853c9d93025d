"""Multi-Gaussian expansions: a smooth first model of all sources of a blend at once.

Each source is a sum of concentric Gaussians of a few fixed widths and one common ellipticity (Emsellem et al. 1994,
A&A 285, 723; Cappellari 2002, MNRAS 333, 400). Amplitudes enter linearly, so those of all sources, widths and bands
follow from one non-negative least-squares problem per band: whether light belongs to a compact source or to an
extended neighbour is decided by all pixels together, not source by source. Ellipticities are measured on the image as
shared out by an expansion of the mean of all bands, a few times over; then the amplitudes are solved in every band.
With the PSF as a sum of Gaussians, too, all models are analytic.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..instrument.observation import Observation
from ..ops import lstsq, monotone, stamps

DECONVOLUTION = 0.05
"""Regularisation of the partly deconvolved detection image, relative to the weight of all bands."""

MAX_ELLIPTICITY = 0.8
"""Larger ellipticities, which only noise or a neighbour can make, are shortened to this."""

PSF_WIDTHS = (0.9, 1.5, 3.0)
"""σ of the Gaussians that stand for a PSF here, relative to the Gaussian of the same maximum."""

MOMENT_POWER = 1.3
"""Power of a template that weights its second moments: 1 is swayed by noise far out, 2 sees only the core."""

MISMATCH = 0.2
"""Typical misfit of an expansion relative to the light itself. It adds to the noise in the solution of the amplitudes,
so that what a bright galaxy's expansion misses is not given to the faint sources on it."""


def detection_image(obs: Observation) -> Float[Array, "y x"]:
    """Partly deconvolved mean of all bands, in flux units: Σ_b w_b K̂_b* Î_b / (Σ_b w_b |K̂_b|² + λ Σ_b w_b).

    The Wiener-regularised least-squares image in model space of a source of the same flux in every band, with w_b =
    1 / rms².

    Parameters
    ----------
    obs
        Observation.

    Returns
    -------
    Float[Array, "y x"]
        Detection image.
    """
    obs = obs.prepared()
    assert obs.kernel is not None and obs.transform is not None  # that is what `prepared` means
    shape = obs.kernel.fft_shape(obs.shape)
    weight = band_weights(obs)[:, None, None]
    transform = jnp.fft.rfft2(obs.images, s=shape)
    data = jnp.sum(weight.astype(transform.dtype) * jnp.conj(obs.transform) * transform, axis=0)
    power = jnp.sum(weight * jnp.abs(obs.transform) ** 2, axis=0)
    image = jnp.fft.irfft2(data / (power + DECONVOLUTION).astype(data.dtype), s=shape)
    return image[: obs.shape[0], : obs.shape[1]]


def band_weights(obs: Observation) -> Float[Array, " band"]:
    """Share of each band in a weighted mean, 1 / rms², sum 1; 0 for a band without data."""
    rms = obs.background_rms
    weight = jnp.where(rms > 0, 1 / jnp.where(rms > 0, rms, 1.0) ** 2, 0.0)
    return weight / jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)


def expand(
    obs: Observation,
    centers: Float[Array, "source 2"],
    active: Bool[Array, " source"],
    edge: int,
    widths: Float[Array, " width"],
    *,
    sparsity: Float[Array, ""] | float,
    passes: int,
) -> Float[Array, "source s s"]:
    """Stamps of all sources, averaged over the bands, in flux units.

    Parameters
    ----------
    obs
        Observation.
    centers
        Positions (y, x) in pixels.
    active
        False for padding.
    edge
        Odd edge of the stamps.
    widths
        σ of the Gaussians in pixels, growing; the first is the point source and stays round.
    sparsity
        L1 penalty on each amplitude in units of its own 1σ error.
    passes
        How often ellipticities are measured and the amplitudes solved again.

    Returns
    -------
    Float[Array, "source s s"]
        Smooth stamps that fall outwards; a source without light is given a faint point.
    """
    image = jnp.maximum(detection_image(obs), 0.0)
    rows, columns = (
        jax.vmap(lambda c, n=n: stamps.placement(c, n, edge))(centers[:, k]) for k, n in enumerate(obs.shape)
    )
    good = jnp.any(obs.weights > 0, axis=0)
    share = band_weights(obs)
    psf = jax.vmap(_psf_mixture)(jnp.broadcast_to(obs.psf.stamp(obs.psf.edge), (len(obs.bands), *(obs.psf.edge,) * 2)))
    mean = _Band(jnp.einsum("b,byx->yx", share, obs.images), 1 / _variance_of_mean(obs, share), _mean_psf(psf, share))

    def shapes_of(expansion: Array) -> Array:
        frames = jnp.einsum("nys,nst,nxt->nyx", rows, expansion, columns)
        frames = jnp.where(active[:, None, None], jnp.maximum(frames, 0.0), 0.0)
        total = frames.sum(axis=0, keepdims=True)
        shared = frames / jnp.where(total > 0, total, 1.0) * image[None]
        return jax.vmap(lambda part, p, q: _ellipticity(template(part, good, p, q)))(shared, rows, columns)

    def solve(band: "_Band", shapes: Array) -> Array:
        return _amplitudes(band, jnp.asarray(obs.extent), centers, active, shapes, widths, sparsity)

    def improve(_: Array, shapes: Array) -> Array:
        return shapes_of(_expansion(solve(mean, shapes), shapes, widths, edge))

    shapes = jax.lax.fori_loop(0, passes, improve, jnp.zeros_like(centers))
    each = jax.lax.map(lambda band: solve(band, shapes), _Band(jnp.asarray(obs.images), jnp.asarray(obs.weights), psf))
    return _expansion(jnp.einsum("b,bnw->nw", share, each), shapes, widths, edge)


def template(
    image: Float[Array, "y x"],
    good: Bool[Array, "y x"],
    rows: Float[Array, "y s"],
    columns: Float[Array, "x s"],
) -> Float[Array, "s s"]:
    """Symmetric, monotone template of the source at the centre of a stamp.

    Each pixel becomes the smaller one of itself and its opposite (Lupton 2001; the template of the SDSS
    deblender), where only one of them is usable that one, and where none is, what monotonicity allows.

    Parameters
    ----------
    image
        Image in flux units.
    good
        Usable pixels.
    rows, columns
        Matrices of `jaxdeblend.ops.stamps.placement`.

    Returns
    -------
    Float[Array, "s s"]
        Template, not negative.
    """
    unknown = jnp.finfo(image.dtype).max / 4
    stamp = jnp.maximum(stamps.cut(image, rows, columns), 0.0)
    usable = stamps.cut(good.astype(image.dtype), rows, columns) > 0.5
    stamp = jnp.where(usable, stamp, unknown)
    stamp = jnp.minimum(stamp, stamp[::-1, ::-1])
    middle = stamp.shape[-1] // 2
    known = stamp[middle, middle] < unknown
    brightest = jnp.max(jnp.where(stamp < unknown, stamp, 0.0))
    stamp = stamp.at[middle, middle].set(jnp.where(known, stamp[middle, middle], brightest))
    return monotone.ring_sweep(stamp)


def _ellipticity(stamp: Float[Array, "s s"]) -> Float[Array, "2"]:
    """(e1, e2) of the second moments about the centre, weighted with a power of the stamp itself."""
    offset = jnp.arange(stamp.shape[-1], dtype=stamp.dtype) - stamp.shape[-1] // 2
    y, x = offset[:, None], offset[None, :]
    weight = (stamp / jnp.maximum(stamp.max(), jnp.finfo(stamp.dtype).tiny)) ** MOMENT_POWER
    xx, yy, xy = jnp.sum(weight * x**2), jnp.sum(weight * y**2), jnp.sum(weight * x * y)
    trace = jnp.maximum(xx + yy, 1e-6)
    shape = jnp.stack([xx - yy, 2 * xy]) / trace
    return shape * jnp.minimum(1.0, MAX_ELLIPTICITY / jnp.maximum(jnp.linalg.norm(shape), 1e-6))


class _Band(eqx.Module):
    """An image, its weights, and its PSF as a mixture of round Gaussians: variances and fluxes."""

    image: Float[Array, "*band y x"]
    weights: Float[Array, "*band y x"]
    psf: tuple[Float[Array, "*band gaussian"], Float[Array, "*band gaussian"]]


def _psf_mixture(stamp: Float[Array, "s s"]) -> tuple[Float[Array, " gaussian"], Float[Array, " gaussian"]]:
    """Variances and fluxes of the round Gaussians that come closest to a PSF."""
    offset = jnp.arange(stamp.shape[-1], dtype=stamp.dtype) - stamp.shape[-1] // 2
    radius2 = offset[:, None] ** 2 + offset[None, :] ** 2
    core = jnp.sum(stamp) / (2 * jnp.pi * stamp.max())  # σ² of the Gaussian of the same maximum
    variance = core * jnp.asarray(PSF_WIDTHS, stamp.dtype) ** 2
    scale = variance[:, None, None]
    models = jnp.exp(-0.5 * radius2[None] / scale) / (2 * jnp.pi * scale)
    known = (stamp != 0).astype(stamp.dtype)  # a stamp padded with zeros is the same PSF
    flux = lstsq.spectra(models, stamp, known)
    return variance, flux / jnp.maximum(flux.sum(), jnp.finfo(flux.dtype).tiny)


def _mean_psf(
    psf: tuple[Float[Array, "band gaussian"], Float[Array, "band gaussian"]], share: Float[Array, " band"]
) -> tuple[Float[Array, " gaussian"], Float[Array, " gaussian"]]:
    """Mixture of the weighted mean of all bands, Gaussian by Gaussian."""
    flux = jnp.einsum("b,bg->g", share, psf[1])
    variance = jnp.einsum("b,bg,bg->g", share, psf[1], psf[0]) / jnp.where(flux > 0, flux, 1.0)
    return jnp.where(flux > 0, variance, 1.0), flux


def _variance_of_mean(obs: Observation, share: Float[Array, " band"]) -> Float[Array, "y x"]:
    """Variance of the weighted mean of all bands; infinite where no band is usable."""
    used = obs.weights > 0
    variance = jnp.where(used, 1 / jnp.where(used, obs.weights, 1.0), 0.0)
    total = jnp.einsum("b,byx->yx", share**2, variance)
    return jnp.where(jnp.any(used, axis=0), total, jnp.inf)


def _amplitudes(
    band: _Band,
    extent: Int[Array, "2"],
    centers: Float[Array, "source 2"],
    active: Bool[Array, " source"],
    shapes: Float[Array, "source 2"],
    widths: Float[Array, " width"],
    sparsity: Float[Array, ""] | float,
) -> Float[Array, "source width"]:
    """Fluxes of all Gaussians of all sources in one band."""
    y, x = (jnp.arange(n, dtype=centers.dtype) for n in band.image.shape)
    bottom, right = extent.astype(centers.dtype)
    real = (y[:, None] < bottom) & (x[None, :] < right)

    def one(center: Array, shape: Array) -> Array:
        return _observed(y[:, None] - center[0], x[None, :] - center[1], shape, widths, band.psf)

    models = jax.vmap(one)(centers, shapes)
    models = jnp.where(real[None, None] & active[:, None, None, None], models, 0.0)
    weights = band.weights / (1 + band.weights * (MISMATCH * band.image) ** 2)
    fluxes = lstsq.spectra(models.reshape(-1, *band.image.shape), band.image, weights, sparsity)
    return fluxes.reshape(len(centers), -1)


def _observed(
    y: Float[Array, "y 1"],
    x: Float[Array, "1 x"],
    shape: Float[Array, "2"],
    widths: Float[Array, " width"],
    psf: tuple[Float[Array, " gaussian"], Float[Array, " gaussian"]],
) -> Float[Array, "width y x"]:
    """Gaussians of unit flux as seen through the PSF; the first width is a point."""
    intrinsic = widths**2 - widths[0] ** 2

    def one(variance: Array, flux: Array) -> Array:
        return flux * jax.vmap(lambda part: _gaussian(y, x, shape, part, variance))(intrinsic)

    return jax.vmap(one)(*psf).sum(axis=0)


def _gaussian(
    y: Float[Array, "y 1"],
    x: Float[Array, "1 x"],
    shape: Float[Array, "2"],
    elliptical: Float[Array, ""],
    round_: Float[Array, ""],
) -> Float[Array, "y x"]:
    """Unit-flux Gaussian of covariance v R(e) + u 1, with R(e) = [[1 + e1, e2], [e2, 1 - e1]] / √(1 - e²)."""
    e1, e2 = shape
    v = elliptical / jnp.sqrt(1 - e1**2 - e2**2)
    xx, yy, xy = v * (1 + e1) + round_, v * (1 - e1) + round_, v * e2
    determinant = xx * yy - xy**2
    radius2 = (yy * x**2 - 2 * xy * x * y + xx * y**2) / determinant
    return jnp.exp(-0.5 * radius2) / (2 * jnp.pi * jnp.sqrt(determinant))


def _expansion(
    amplitudes: Float[Array, "source width"],
    shapes: Float[Array, "source 2"],
    widths: Float[Array, " width"],
    edge: int,
) -> Float[Array, "source s s"]:
    """Stamps in model space; a source without light becomes a faint point."""
    offset = jnp.arange(edge, dtype=widths.dtype) - edge // 2
    model_psf = (widths[:1] ** 2, jnp.ones_like(widths[:1]))
    gaussians = jax.vmap(lambda e: _observed(offset[:, None], offset[None, :], e, widths, model_psf))(shapes)
    expansion = jnp.einsum("nw,nwyx->nyx", amplitudes, gaussians)
    dark = expansion.max(axis=(-2, -1), keepdims=True) <= 0
    faint = 1e-6 * jnp.maximum(expansion.max(), jnp.finfo(expansion.dtype).tiny)
    return jnp.where(dark, faint * gaussians[:, 0], expansion)
