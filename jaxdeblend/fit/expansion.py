"""Multi-Gaussian expansions: a smooth first model of all sources of a blend at once.

Each source is a sum of concentric Gaussians of a few fixed widths and one common ellipticity (Emsellem et al. 1994,
A&A 285, 723; Cappellari 2002, MNRAS 333, 400). Amplitudes enter linearly, so those of all sources, widths and bands
follow from one non-negative least-squares problem per band: whether light belongs to a compact source or to an extended
neighbour is decided by all pixels together, not source by source. Ellipticities are then measured on the image as shared
out by the expansion, and the amplitudes solved again.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..instrument.observation import Observation
from ..ops import lstsq, monotone, stamps

DECONVOLUTION = 0.05
"""Regularisation of the partly deconvolved detection image, relative to the weight of all bands."""

MAX_ELLIPTICITY = 0.8


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
    shape = obs.kernel.fft_shape(obs.shape)
    weight = band_weights(obs)[:, None, None]
    data = jnp.sum(weight * jnp.conj(obs.transform) * jnp.fft.rfft2(obs.images, s=shape), axis=0)
    power = jnp.sum(weight * jnp.abs(obs.transform) ** 2, axis=0)
    image = jnp.fft.irfft2(data / (power + DECONVOLUTION), s=shape)
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
    obs = obs.prepared()
    image = jnp.maximum(detection_image(obs), 0.0)
    rows, columns = (
        jax.vmap(lambda c, n=n: stamps.placement(c, n, edge))(centers[:, k]) for k, n in enumerate(obs.shape)
    )
    good = jnp.any(obs.weights > 0, axis=0)

    def shared(expansion: Array) -> Array:
        frames = jnp.einsum("nys,nst,nxt->nyx", rows, expansion, columns)
        frames = jnp.maximum(frames, 0.0) * active[:, None, None]
        total = frames.sum(axis=0)
        share = frames / jnp.where(total > 0, total, 1.0)
        return jax.vmap(lambda part, p, q: template(part, good, p, q))(share * image, rows, columns)

    def improve(_: Array, expansion: Array) -> Array:
        ellipticity = jax.vmap(_ellipticity)(shared(expansion))
        return _solve(obs, centers, active, edge, widths, ellipticity, sparsity)

    first = _solve(obs, centers, active, edge, widths, jnp.zeros_like(centers), sparsity)
    return jax.lax.fori_loop(0, passes, improve, first)


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
    """(e1, e2) of the second moments about the centre, weighted with the stamp itself."""
    offset = jnp.arange(stamp.shape[-1], dtype=stamp.dtype) - stamp.shape[-1] // 2
    weight = (stamp / jnp.maximum(stamp.max(), jnp.finfo(stamp.dtype).tiny)) ** 2
    xx, yy = jnp.sum(weight * offset**2), jnp.sum(weight * offset[:, None] ** 2)
    xy = jnp.sum(weight * offset * offset[:, None])
    trace = jnp.maximum(xx + yy, 1e-6)
    shape = jnp.stack([xx - yy, 2 * xy]) / trace
    return shape * jnp.minimum(1.0, MAX_ELLIPTICITY / jnp.maximum(jnp.linalg.norm(shape), 1e-6))


def _solve(
    obs: Observation,
    centers: Float[Array, "source 2"],
    active: Bool[Array, " source"],
    edge: int,
    widths: Float[Array, " width"],
    ellipticity: Float[Array, "source 2"],
    sparsity: Float[Array, ""] | float,
) -> Float[Array, "source s s"]:
    """Amplitudes of all Gaussians in all bands, and the stamps that they make."""
    y, x = jnp.arange(obs.shape[0])[:, None], jnp.arange(obs.shape[1])[None, :]
    real = (y < obs.extent[0]) & (x < obs.extent[1])
    frames = jax.vmap(lambda c, e: _gaussians(y - c[0], x - c[1], e, widths))(centers, ellipticity)
    frames = jnp.where(real & active[:, None, None, None], frames, 0.0)
    models = obs.convolve(frames.reshape(-1, 1, *obs.shape))
    per_band = jax.vmap(lambda model, image, weight: lstsq.spectra(model, image, weight, sparsity), in_axes=(1, 0, 0))
    amplitude = jnp.einsum("b,bn->n", band_weights(obs), per_band(models, obs.images, obs.weights))
    offset = jnp.arange(edge) - edge // 2
    shapes = jax.vmap(lambda e: _gaussians(offset[:, None], offset[None, :], e, widths))(ellipticity)
    expansion = jnp.einsum("nw,nwyx->nyx", amplitude.reshape(len(centers), -1), shapes)
    dark = expansion.max(axis=(-2, -1), keepdims=True) <= 0
    faint = 1e-6 * jnp.maximum(expansion.max(), jnp.finfo(expansion.dtype).tiny)
    return jnp.where(dark, faint * shapes[:, 0], expansion)


def _gaussians(
    y: Float[Array, "y 1"],
    x: Float[Array, "1 x"],
    ellipticity: Float[Array, "2"],
    widths: Float[Array, " width"],
) -> Float[Array, "width y x"]:
    """Unit-flux Gaussians; the first is round."""
    e1, e2 = ellipticity
    round_ = x**2 + y**2
    elliptical = ((1 - e1) * x**2 - 2 * e2 * x * y + (1 + e1) * y**2) / jnp.sqrt(1 - e1**2 - e2**2)
    variance = widths[:, None, None] ** 2
    first = (jnp.arange(widths.shape[0]) == 0)[:, None, None]
    return jnp.exp(-0.5 * jnp.where(first, round_, elliptical) / variance) / (2 * jnp.pi * variance)
