"""Multi-Gaussian expansions: a smooth first model of all sources of a blend at once.

Each source is a sum of concentric Gaussians of a few fixed widths and one common ellipticity (Emsellem et al. 1994,
A&A 285, 723; Cappellari 2002, MNRAS 333, 400), times a spectrum. Amplitudes enter linearly, so those of all sources and
widths follow from one non-negative least-squares problem: whether light belongs to a compact source or to an extended
neighbour is decided by all pixels together, not source by source. Three stages follow one another:

1. on the weighted mean of all bands, amplitudes in turn with Gauss-Newton steps of all ellipticities and positions;
2. from the normal equations of every band, spectra in turn with amplitudes, so that colours help to tell sources apart;
3. the expansions, drawn on stamps in model space.

With the PSF as a sum of Gaussians, too, all models are analytic. Pixels are taken together two by two.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..instrument.observation import Observation
from ..ops import lstsq

MAX_ELLIPTICITY = 0.8
"""Larger ellipticities, which only noise or a neighbour can make, are shortened to this."""

ELLIPTICITY_SCATTER = 0.3
"""1σ of each component of the ellipticity: of galaxies, a prior where the data say little."""

LARGEST_STEP = (0.3, 0.3, 0.2, 0.2)
"""Of one Gauss-Newton step, in both components of the ellipticity and both of the position (pixels)."""

DAMPING = 0.1
"""Added to the diagonal of the Gauss-Newton matrix, relative to itself."""

MISMATCH = 0.1
"""Typical misfit of an expansion relative to the light itself. It adds to the noise in the solution of the amplitudes,
so that what a bright galaxy's expansion misses is not given to the faint sources on it."""

BINNING = 2
"""Pixels are taken together in squares of this edge: PSFs are wider, and it is four times as fast."""

PSF_WIDTHS = (0.9, 1.5, 3.0)
"""σ of the Gaussians that stand for a PSF here, relative to the Gaussian of the same maximum."""

SETTLED = 0.03
"""Largest change of an ellipticity or a position (pixels) in one pass after which there is no other."""

COLOR_ROUNDS = 3
"""How often spectra and amplitudes are solved in turn."""


class Mixture(eqx.Module):
    """A PSF as a sum of concentric round Gaussians.

    Attributes
    ----------
    variance
        σ² of each Gaussian in square pixels.
    flux
        Share of each in the whole.
    """

    variance: Float[Array, "*band gaussian"]
    flux: Float[Array, "*band gaussian"]

    @classmethod
    def of(cls, stamp: Float[Array, "s s"]) -> "Mixture":
        """The mixture that comes closest to a PSF, its widths being `PSF_WIDTHS`."""
        offset = jnp.arange(stamp.shape[-1], dtype=stamp.dtype) - stamp.shape[-1] // 2
        radius2 = offset[:, None] ** 2 + offset[None, :] ** 2
        core = jnp.sum(stamp) / (2 * jnp.pi * stamp.max())  # σ² of the Gaussian of the same maximum
        variance = core * jnp.asarray(PSF_WIDTHS, stamp.dtype) ** 2
        scale = variance[:, None, None]
        models = jnp.exp(-0.5 * radius2[None] / scale) / (2 * jnp.pi * scale)
        known = (stamp != 0).astype(stamp.dtype)  # a stamp padded with zeros is the same PSF
        flux = lstsq.spectra(models, stamp, known)
        return cls(variance, flux / jnp.maximum(flux.sum(), jnp.finfo(flux.dtype).tiny))

    def mean(self, share: Float[Array, " band"]) -> "Mixture":
        """Mixture of the weighted mean of all bands, Gaussian by Gaussian."""
        flux = jnp.einsum("b,bg->g", share, self.flux)
        variance = jnp.einsum("b,bg,bg->g", share, self.flux, self.variance) / jnp.where(flux > 0, flux, 1.0)
        return Mixture(jnp.where(flux > 0, variance, 1.0), flux)


class Image(eqx.Module):
    """One band, or the mean of all.

    Attributes
    ----------
    image, weights
        Image, and its inverse variance.
    psf
        Its PSF.
    pixel
        Edge of its pixels, in those of the observation.
    """

    image: Float[Array, "*band y x"]
    weights: Float[Array, "*band y x"]
    psf: Mixture
    pixel: int = eqx.field(static=True, default=1)

    @classmethod
    def bands(cls, obs: Observation) -> "Image":
        """All bands of an observation, along a leading axis."""
        edge = obs.psf.edge
        psf = jnp.broadcast_to(obs.psf.stamp(edge), (len(obs.bands), edge, edge))
        return cls(jnp.asarray(obs.images), jnp.asarray(obs.weights), lstsq.one_by_one(Mixture.of, psf))

    def mean(self, share: Float[Array, " band"]) -> "Image":
        """Weighted mean of all bands; weight 0 where no band is usable."""
        used = self.weights > 0
        variance = jnp.where(used, 1 / jnp.where(used, self.weights, 1.0), 0.0)
        total = jnp.einsum("b,byx->yx", share**2, variance)
        weights = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1.0), 0.0)
        return Image(jnp.einsum("b,byx->yx", share, self.image), weights, self.psf.mean(share), self.pixel)

    def binned(self, size: int) -> "Image":
        """The weighted mean of size × size pixels at a time, which widens the PSF by (size² - 1) / 12 per axis."""
        rows, columns = (-(-n // size) for n in self.image.shape[-2:])

        def blocks(array: Array) -> Array:
            more = [(0, 0)] * (array.ndim - 2)
            more += [(0, k * size - n) for k, n in zip((rows, columns), array.shape[-2:], strict=True)]
            blocks = jnp.pad(array, more).reshape(*array.shape[:-2], rows, size, columns, size)
            return blocks.sum(axis=(-3, -1))

        weights = blocks(self.weights)
        image = blocks(self.weights * self.image) / jnp.where(weights > 0, weights, 1.0)
        psf = Mixture(self.psf.variance + (size**2 - 1) / 12, self.psf.flux)
        return Image(image, weights, psf, self.pixel * size)

    @property
    def coordinates(self) -> tuple[Float[Array, " y"], Float[Array, " x"]]:
        """Where the centres of rows and columns lie, in pixels of the observation."""
        offset = 0.5 * (self.pixel - 1)
        y, x = (self.pixel * jnp.arange(n, dtype=self.image.dtype) + offset for n in self.image.shape[-2:])
        return y, x

    @property
    def robust_weights(self) -> Float[Array, "*band y x"]:
        """Weights with the misfit of bright light counted as noise."""
        return self.weights / (1 + self.weights * (MISMATCH / self.pixel * self.image) ** 2)


class Ellipses(eqx.Module):
    """Where the sources are, and how they are stretched; the same at all widths.

    Attributes
    ----------
    ellipticity
        (e1, e2) of each source.
    center
        Position (y, x) of each source in pixels.
    """

    ellipticity: Float[Array, "*source 2"]
    center: Float[Array, "*source 2"]


class Gaussians(eqx.Module):
    """The Gaussians of one source, of all widths, each as seen through every Gaussian of the PSF.

    Attributes
    ----------
    y, x
        Coordinates of the pixels about the source.
    precision
        (P_yy, P_yx, P_xx) and the logarithm of the normalisation, exp(-½ d·P·d + log norm).
    slope
        Their derivatives with respect to both components of the ellipticity.
    frames
        The Gaussians themselves.
    """

    y: Float[Array, "*source 1 y 1"]
    x: Float[Array, "*source 1 1 x"]
    precision: Float[Array, "*source 4 width gaussian"]
    slope: Float[Array, "*source 2 4 width gaussian"]
    frames: Float[Array, "*source width gaussian y x"]

    @classmethod
    def of(
        cls,
        y: Float[Array, "y 1"],
        x: Float[Array, "1 x"],
        ellipticity: Float[Array, "2"],
        widths: Float[Array, " width"],
        psf: Mixture,
    ) -> "Gaussians":
        """Gaussians of unit flux; the first width is a point."""

        def precision(ellipticity: Array) -> Array:
            return _precision(ellipticity, (widths**2 - widths[0] ** 2)[:, None], psf.variance[None, :])

        directions = jnp.eye(2, dtype=ellipticity.dtype)
        slope = jax.vmap(lambda v: jax.jvp(precision, (ellipticity,), (v,))[1])(directions)
        value = precision(ellipticity)
        p_yy, p_yx, p_xx, norm = value[..., None, None]
        y, x = y[None, None], x[None, None]
        norm = norm + jnp.log(psf.flux)[None, :, None, None]
        frames = jnp.exp(norm - 0.5 * (p_yy * y**2 + 2 * p_yx * y * x + p_xx * x**2))
        return cls(y[0], x[0], value, slope, frames)

    def models(self) -> Float[Array, "width y x"]:
        """What each width looks like through the PSF."""
        return self.frames.sum(axis=1)

    def tangents(self, light: Float[Array, " width"]) -> Float[Array, "4 y x"]:
        """Derivatives of the source of these amplitudes, in both components of its ellipticity and position."""
        rows = jnp.concatenate([self.slope.reshape(8, *self.slope.shape[2:]), self.precision[:3]])
        sums = jnp.tensordot(light[None, :, None] * rows, self.frames, axes=2)
        s_yy, s_yx, s_xx, s_norm = jnp.moveaxis(sums[:8].reshape(2, 4, *sums.shape[1:]), 1, 0)
        ellipticity = s_norm - 0.5 * (s_yy * self.y**2 + 2 * s_yx * self.y * self.x + s_xx * self.x**2)
        p_yy, p_yx, p_xx = sums[8:]
        position = jnp.stack([p_yy * self.y[0] + p_yx * self.x[0], p_yx * self.y[0] + p_xx * self.x[0]])
        return jnp.concatenate([ellipticity, position])


def band_weights(obs: Observation) -> Float[Array, " band"]:
    """Share of each band in a weighted mean, 1 / rms², sum 1; 0 for a band without data."""
    rms = obs.background_rms
    weight = jnp.where(rms > 0, 1 / jnp.where(rms > 0, rms, 1.0) ** 2, 0.0)
    return weight / jnp.maximum(weight.sum(), jnp.finfo(weight.dtype).tiny)


def expand(
    obs: Observation,
    centers: Float[Array, "source 2"],
    errors: Float[Array, " source"],
    active: Bool[Array, " source"],
    edge: int,
    widths: Float[Array, " width"],
    *,
    sparsity: Float[Array, ""] | float,
    passes: int,
) -> tuple[Float[Array, "source s s"], Float[Array, "source band"], Float[Array, "source 2"], Float[Array, " source"]]:
    """Stamps, spectra, positions and point-like shares of all sources.

    Parameters
    ----------
    obs
        Observation.
    centers
        Detected positions (y, x) in pixels.
    errors
        Their 1σ error per axis in pixels; 0: kept.
    active
        False for padding.
    edge
        Odd edge of the stamps.
    widths
        σ of the Gaussians in pixels, growing; the first is the point source and stays round.
    sparsity
        L1 penalty on each amplitude in units of its own 1σ error.
    passes
        How often at most ellipticities and positions are improved, and amplitudes solved again.

    Returns
    -------
    tuple
        Smooth stamps (source, s, s) that fall outwards, in flux units of the mean band, the flux of each source in
        each band, the improved positions, and which share of each source's light is that of a point. A source without
        light is given a faint point.
    """
    share, bands = band_weights(obs), Image.bands(obs)
    bands = bands.binned(BINNING)
    mean = bands.mean(share)
    detected = Ellipses(jnp.zeros_like(centers), centers)

    def improve(state: tuple[Array, Ellipses, Array, Array]) -> tuple[Array, Ellipses, Array, Array]:
        number, ellipses, light, _ = state
        gaussians = _gaussians(mean, ellipses, active, widths)
        light = _amplitudes(mean, gaussians, light, sparsity)
        improved = _gauss_newton(mean, gaussians, ellipses, detected, errors, light)
        changes = jax.tree.map(
            lambda new, old: jnp.abs(new - old).max(initial=0.0, where=active[:, None]), improved, ellipses
        )
        return number + 1, improved, light, jnp.maximum(changes.ellipticity, changes.center)

    def unsettled(state: tuple[Array, Ellipses, Array, Array]) -> Array:
        return (state[0] < passes) & (state[-1] > SETTLED)

    dark = jnp.zeros((len(centers), len(widths)), centers.dtype)
    start = jnp.zeros((), int), detected, dark, jnp.full((), jnp.inf, centers.dtype)
    _, ellipses, light, _ = jax.lax.while_loop(unsettled, improve, start)
    matrices, vectors = jax.lax.map(
        lambda band: _normal_equations(band, _gaussians(band, ellipses, active, widths)), bands
    )
    light, spectra = _factorized(matrices, vectors, light, share, sparsity)
    total = light.sum(axis=1)
    point_share = jnp.where(total > 0, light[:, 0] / jnp.where(total > 0, total, 1.0), 1.0)
    return _stamps(light, ellipses.ellipticity, widths, edge), spectra.T, ellipses.center, point_share


def _gaussians(
    band: Image, ellipses: Ellipses, active: Bool[Array, " source"], widths: Float[Array, " width"]
) -> Gaussians:
    """Gaussians of all sources; those of padding are dark."""
    y, x = band.coordinates

    def one(ellipse: Ellipses, lit: Array) -> Gaussians:
        dy, dx = y - ellipse.center[0], x - ellipse.center[1]
        psf = Mixture(band.psf.variance, jnp.where(lit, band.psf.flux, 0.0))
        return Gaussians.of(dy[:, None], dx[None, :], ellipse.ellipticity, widths, psf)

    return jax.vmap(one)(ellipses, active)


def _normal_equations(band: Image, gaussians: Gaussians) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    """Matrix Σ w G_i G_j and vector Σ w I G_i of all sources and widths, in this order."""
    models = jax.vmap(Gaussians.models)(gaussians).reshape(-1, band.image.size)
    weighted = models * band.robust_weights.reshape(1, -1)
    return weighted @ models.T, weighted @ band.image.reshape(-1)


def _amplitudes(
    band: Image, gaussians: Gaussians, start: Float[Array, "source width"], sparsity: Float[Array, ""] | float
) -> Float[Array, "source width"]:
    """Non-negative amplitudes of all sources and widths together."""
    matrix, vector = _normal_equations(band, gaussians)
    penalty = sparsity * jnp.sqrt(jnp.diagonal(matrix))
    return lstsq.nonnegative_normal(matrix, vector - penalty, start=start.reshape(-1)).reshape(start.shape)


def _gauss_newton(
    band: Image,
    gaussians: Gaussians,
    ellipses: Ellipses,
    detected: Ellipses,
    errors: Float[Array, " source"],
    light: Float[Array, "source width"],
) -> Ellipses:
    """One damped step of all ellipticities and positions at fixed amplitudes, towards the largest posterior."""
    numbers = jnp.concatenate([ellipses.ellipticity, ellipses.center], axis=1)
    expected = jnp.concatenate([detected.ellipticity, detected.center], axis=1)
    residual = band.image - jnp.einsum("nw,nwgyx->yx", light, gaussians.frames)
    jacobian = jax.vmap(Gaussians.tangents)(gaussians, light).reshape(-1, residual.size)
    weighted = jacobian * band.robust_weights.reshape(1, -1)
    spread = jnp.maximum(errors, 1e-4)[:, None] * jnp.ones_like(detected.center)
    precision = 1 / jnp.concatenate([jnp.full_like(spread, ELLIPTICITY_SCATTER), spread], axis=1) ** 2
    vector = weighted @ residual.reshape(-1) + (precision * (expected - numbers)).reshape(-1)
    matrix = weighted @ jacobian.T + jnp.diag(precision.reshape(-1))
    matrix = matrix + DAMPING * jnp.diag(jnp.diagonal(matrix))
    scale = 1 / jnp.sqrt(jnp.diagonal(matrix))
    factor = jax.scipy.linalg.cho_factor(matrix * scale[:, None] * scale[None, :])
    step = (scale * jax.scipy.linalg.cho_solve(factor, scale * vector)).reshape(-1, 4)
    largest = jnp.asarray(LARGEST_STEP, step.dtype)
    numbers = numbers + jnp.clip(step, -largest[None], largest[None])
    size = jnp.linalg.norm(numbers[:, :2], axis=1, keepdims=True)
    return Ellipses(numbers[:, :2] * jnp.minimum(1.0, MAX_ELLIPTICITY / jnp.maximum(size, 1e-6)), numbers[:, 2:])


def _factorized(
    matrices: Float[Array, "band n n"],
    vectors: Float[Array, "band n"],
    light: Float[Array, "source width"],
    share: Float[Array, " band"],
    sparsity: Float[Array, ""] | float,
) -> tuple[Float[Array, "source width"], Float[Array, "band source"]]:
    """Amplitudes and spectra of all sources that have one spectrum each, solved in turn, each non-negative."""
    shape = light.shape
    blocks = matrices.reshape(-1, *shape, *shape)
    rights = vectors.reshape(-1, *shape)

    def profile_of(light: Array) -> Array:
        total = light.sum(axis=1, keepdims=True)
        point = jnp.zeros_like(light).at[:, 0].set(1.0)  # where a source that lost all its light may come back
        return jnp.where(total > 0, light / jnp.where(total > 0, total, 1.0), point)

    def spectra_of(profile: Array) -> Array:
        matrix = jnp.einsum("nw,bnwmv,mv->bnm", profile, blocks, profile)
        return lstsq.one_by_one(lstsq.nonnegative_normal, matrix, jnp.einsum("nw,bnw->bn", profile, rights))

    def lights_of(light: Array, spectra: Array) -> Array:
        matrix = jnp.einsum("bn,bnwmv,bm->nwmv", spectra, blocks, spectra).reshape(light.size, light.size)
        penalty = sparsity * jnp.sqrt(jnp.diagonal(matrix))
        vector = jnp.einsum("bn,bnw->nw", spectra, rights).reshape(-1) - penalty
        relative = lstsq.nonnegative_normal(matrix, vector, start=profile_of(light).reshape(-1))
        return relative.reshape(shape) * (share @ spectra)[:, None]

    def one_round(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        # spectra come first and last, but are compiled once: the first round leaves the amplitudes as they are
        light, spectra = state
        light = jax.lax.cond(index > 0, lights_of, lambda light, _: light, light, spectra)
        return light, spectra_of(profile_of(light))

    nothing = jnp.zeros((len(matrices), len(light)), light.dtype)
    return jax.lax.fori_loop(0, COLOR_ROUNDS + 1, one_round, (light, nothing))


def _precision(
    ellipticity: Float[Array, "2"], elliptical: Float[Array, "width 1"], circular: Float[Array, "1 gaussian"]
) -> Float[Array, "4 width gaussian"]:
    """Precision (P_yy, P_yx, P_xx) and log norm of Gaussians of covariance v R(e) + u 1.

    R(e) = [[1 + e1, e2], [e2, 1 - e1]] / √(1 - e²) in the order (x, y), of determinant 1.
    """
    e1, e2 = ellipticity
    v = elliptical / jnp.sqrt(1 - e1**2 - e2**2)
    xx, yy, yx = v * (1 + e1) + circular, v * (1 - e1) + circular, v * e2
    determinant = xx * yy - yx**2
    norm = -jnp.log(2 * jnp.pi * jnp.sqrt(determinant))
    return jnp.stack([xx / determinant, -yx / determinant, yy / determinant, norm])


def _stamps(
    light: Float[Array, "source width"],
    ellipticity: Float[Array, "source 2"],
    widths: Float[Array, " width"],
    edge: int,
) -> Float[Array, "source s s"]:
    """Expansions in model space; a source without light becomes a faint point."""
    offset = jnp.arange(edge, dtype=widths.dtype) - edge // 2
    model_psf = Mixture(widths[:1] ** 2, jnp.ones_like(widths[:1]))
    gaussians = jax.vmap(lambda e: Gaussians.of(offset[:, None], offset[None, :], e, widths, model_psf).models())(
        ellipticity
    )
    expansion = jnp.einsum("nw,nwyx->nyx", light, gaussians)
    dark = expansion.max(axis=(-2, -1), keepdims=True) <= 0
    faint = 1e-6 * jnp.maximum(expansion.max(), jnp.finfo(expansion.dtype).tiny)
    return jnp.where(dark, faint * gaussians[:, 0], expansion)
