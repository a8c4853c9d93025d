"""Find stars among the sources of a blend.

A star that is fitted with free pixels collects noise and the light of neighbours in its wings, and at high S/N the
optimizer needs many steps until its flux is right. So each compact source is first fitted as a point, with the true PSF
and weights and all others as they are. Fluxes f_b and the position c minimise

    χ² = Σ_b Σ w (d_b - f_b P_b(x - c))² + (c - c₀)² / σ_c²,

where d is the image less the models of the others. The source is a point if this χ² is good and the residual shows no
size. Brighter sources come first, so that their wrong models do not decide about their neighbours. Each is fitted on a
window of the PSF's edge around its position: beyond, it has no light.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..instrument.observation import Observation
from ..instrument.point_spread import PointSpread
from .placement import Placement

SMALLEST_SNR = 50.0
"""S/N below which no source becomes a point: stars and small galaxies cannot be told apart there, and a galaxy that is
taken for a point loses flux."""

MISFIT = 0.01
"""Error of a PSF relative to itself that is counted as noise here. Surveys know their PSFs to about 1 %."""

FAINT_MISFIT = 1e-5
"""Error of a PSF relative to its maximum, which counts in the wings; that of drawing a point is a tenth of it."""

LARGEST_EXTENSION = (1.5, 4.0)
"""Significance of a size, in σ, from which on a source is extended: at the smallest S/N, and at high S/N. It grows as
the root of the S/N. A faint galaxy that is taken for a point loses flux. A bright star that is taken for a galaxy loses
more, and a size that is hardly seen at high S/N changes the flux by a per cent at most."""

LARGEST_CHI2 = 1.5
"""χ² per pixel above which a point is not good enough, over the pixels where it outshines the noise."""

PASSES = 2
"""How often every source is tried, if there are several. The first time, its neighbours may still be wrong."""

ROUNDS = 3
"""Gauss–Newton steps of the position at most."""

SETTLED = 1e-3
"""Step of the position in pixels after which there is no other."""

LARGEST_MOVE = 0.5
"""Largest step of the position along each axis, in pixels."""


class Points(NamedTuple):
    """Sources that are points.

    Attributes
    ----------
    is_point
        Whether a source is one.
    flux
        Flux in each band, for points.
    center
        Position (y, x); as given if the source is no point.
    """

    is_point: Bool[Array, " source"]
    flux: Float[Array, "source band"]
    center: Float[Array, "source 2"]


def find_points(
    obs: Observation,
    shapes: Float[Array, "source s s"],
    spectra: Float[Array, "source band"],
    centers: Float[Array, "source 2"],
    detected: Float[Array, "source 2"],
    errors: Float[Array, " source"],
    compact: Bool[Array, " source"],
    significance: Float[Array, " source"],
) -> Points:
    """Find the sources that are points.

    Parameters
    ----------
    obs
        Observation, prepared.
    shapes, spectra
        Extended model of each source: its stamp in model space, and its flux in each band.
    centers
        Positions of these models.
    detected, errors
        Detected positions and their 1σ errors; 0: the position is kept.
    compact
        Sources that may be points; for others nothing is computed on a CPU.
    significance
        S/N of each source as a point on its own.

    Returns
    -------
    Points
        Which sources are points, with fluxes and positions.
    """

    def search() -> Points:
        unit = shapes / shapes.sum(axis=(-2, -1), keepdims=True)
        frames = Placement.of(obs, centers, shapes.shape[-1]).frames(unit)
        return _tried(obs, frames, spectra, centers, detected, errors, compact, significance)

    return jax.lax.cond(jnp.any(compact), search, lambda: Points(jnp.zeros_like(compact), spectra, centers))


class _Window(NamedTuple):
    """What is known about the pixels around a source.

    Attributes
    ----------
    data
        The images less the models of all other sources.
    weights
        Their inverse variance.
    is_nearest
        Whether no other source is nearer to a pixel.
    """

    data: Float[Array, "band n n"]
    weights: Float[Array, "band n n"]
    is_nearest: Bool[Array, "n n"]


def _tried(
    obs: Observation,
    frames: Float[Array, "source y x"],
    spectra: Float[Array, "source band"],
    centers: Float[Array, "source 2"],
    detected: Float[Array, "source 2"],
    errors: Float[Array, " source"],
    compact: Bool[Array, " source"],
    significance: Float[Array, " source"],
) -> Points:
    """Every compact source tried as a point, bright ones first, and once more when all others have been tried."""
    order = jnp.tile(jnp.argsort(-significance), PASSES)
    first = jnp.arange(len(order)) < len(significance)
    wanted = compact[order] & (first | (jnp.sum(compact) > 1))
    n_bands, edge = len(obs.bands), obs.psf.edge
    known = _spread(obs).known
    around = edge // 2
    border = ((0, 0), (around, around), (around, around))
    # a window whose middle pixel is p begins at p in an image with a border of half its edge
    corners = jnp.round(centers).astype(int)

    def window(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (0, *corner), (len(image), edge, edge))

    def extended(source: tuple[Array, Array, Array, Array]) -> Array:
        frame, spectrum, corner, tried = source

        def observed() -> Array:
            model = obs.convolve(spectrum[:, None, None] * frame[None])
            return jnp.where(known, window(jnp.pad(model, border), corner), 0.0)

        return jax.lax.cond(tried, observed, lambda: jnp.zeros((n_bands, edge, edge), frame.dtype))

    weights = jnp.pad(jnp.asarray(obs.weights), border)
    nearest = jnp.pad(_nearest(obs, centers, significance > 0)[None], border, constant_values=-1)
    everything = obs.convolve(jnp.einsum("sb,syx->byx", spectra, frames))
    rest = jnp.pad(jnp.asarray(obs.images) - everything, border)
    models = jax.lax.map(extended, (frames, spectra, corners, compact))

    def try_point(rest: Array, found: Points, models: Array, index: Array) -> tuple[Array, Points, Array]:
        corner = corners[index]
        around = _Window(
            window(rest, corner) + models[index],
            jnp.where(known, window(weights, corner), 0.0),
            window(nearest, corner)[0] == index,
        )
        middle = corner.astype(centers.dtype)
        moved, flux, point = _fit_point(
            obs, around, found.center[index] - middle, detected[index] - middle, errors[index]
        )
        model = models[index]
        scaled = _amplitudes(_with_misfit(around.weights, point), around.data, model)[:, None, None] * model
        chosen = _is_good(around, point)
        best = jnp.where(chosen, point, scaled)
        found = Points(
            found.is_point.at[index].set(chosen),
            found.flux.at[index].set(flux),
            found.center.at[index].set(jnp.where(chosen, moved + middle, centers[index])),
        )
        rest = jax.lax.dynamic_update_slice(rest, around.data - best, (0, *corner))
        return rest, found, models.at[index].set(best)

    def one(state: tuple[Array, Points, Array], turn: tuple[Array, Array]) -> tuple[tuple[Array, Points, Array], None]:
        index, wanted = turn
        return jax.lax.cond(wanted, try_point, lambda *same: same[:3], *state, index), None

    nothing = Points(jnp.zeros_like(compact), jnp.zeros_like(spectra), centers)
    (_, found, _), _ = jax.lax.scan(one, (rest, nothing, models), (order, wanted))
    return found


def _spread(obs: Observation) -> PointSpread:
    """How points look."""
    spread = obs.prepared().points
    assert spread is not None  # that is what `prepared` means
    return spread


def _nearest(obs: Observation, centers: Float[Array, "source 2"], lit: Bool[Array, " source"]) -> Int[Array, "y x"]:
    """Index of the source that is nearest to each pixel: beyond, wrong models of neighbours decide about a fit."""
    y, x = (jnp.arange(n, dtype=centers.dtype) for n in obs.shape)
    rows, columns = y[None, :, None] - centers[:, 0, None, None], x[None, None, :] - centers[:, 1, None, None]
    distance2 = rows**2 + columns**2
    return jnp.argmin(jnp.where(lit[:, None, None], distance2, jnp.inf), axis=0)


def _is_good(window: _Window, point: Float[Array, "band n n"]) -> Bool[Array, ""]:
    """Whether a point is bright enough to be told from a galaxy, explains the data, and leaves no size in them."""
    weights = jnp.where(window.is_nearest, _with_misfit(window.weights, point), 0.0)
    bright = weights * point**2 > 1
    chi2 = jnp.sum(jnp.where(bright, weights * (window.data - point) ** 2, 0.0))
    n_bright = jnp.sum(bright, dtype=chi2.dtype)
    # χ² of n pixels has a scatter of √(2 n)
    explained = chi2 <= LARGEST_CHI2 * n_bright + 3 * jnp.sqrt(2 * n_bright)
    snr = jnp.sqrt(jnp.sum(window.weights * point**2))
    allowed = jnp.clip(LARGEST_EXTENSION[0] * jnp.sqrt(snr / SMALLEST_SNR), *LARGEST_EXTENSION)
    return explained & (snr > SMALLEST_SNR) & (_extension(weights, window.data, point) < allowed)


def _fit_point(
    obs: Observation, window: _Window, center: Array, mean: Array, error: Array
) -> tuple[Float[Array, "2"], Float[Array, " band"], Float[Array, "band n n"]]:
    """Position, fluxes and image of the best point, by Gauss–Newton steps of the position.

    Positions are relative to the middle pixel of the window.
    """
    data = window.data
    spread = _spread(obs)
    precision = 1 / jnp.maximum(error, 1e-4) ** 2

    def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        number, _, center, *_ = state
        drawn = spread.window(center)
        unit = jnp.broadcast_to(drawn.image, data.shape)
        flux = _amplitudes(window.weights, data, unit)
        point = flux[:, None, None] * unit
        slopes = flux[None, :, None, None] * jnp.stack([drawn.slope_y, drawn.slope_x])
        weighted = _with_misfit(window.weights, point)[None] * slopes
        right = jnp.einsum("kbyx,byx->k", weighted, data - point) + precision * (mean - center)
        matrix = jnp.einsum("kbyx,lbyx->kl", weighted, slopes)
        yy, xx, yx = matrix[0, 0] + precision, matrix[1, 1] + precision, matrix[0, 1]
        change = jnp.stack([xx * right[0] - yx * right[1], yy * right[1] - yx * right[0]]) / (yy * xx - yx**2)
        change = jnp.where(error > 0, jnp.clip(change, -LARGEST_MOVE, LARGEST_MOVE), 0.0)
        return number + 1, jnp.abs(change).max(), center + change, center, flux, point

    def unsettled(state: tuple[Array, ...]) -> Array:
        number, change, *_ = state
        return (number <= ROUNDS) & (change > SETTLED)

    dark = jnp.zeros(len(data), data.dtype), jnp.zeros_like(data)
    start = jnp.zeros((), int), jnp.full((), jnp.inf, center.dtype), center, center, *dark
    *_, center, flux, point = jax.lax.while_loop(unsettled, improve, start)
    return center, flux, point


def _extension(weights: Array, data: Array, point: Array) -> Float[Array, ""]:
    """Significance of a size: how many σ the data are broader than the point.

    A small size changes a point's image P along its Laplacian, ∂(P * G(σ))/∂σ² = ½ ∇²P. Its amplitude is that in the
    residual, with what a change of the flux in each band would do taken out.
    """
    within = jnp.pad(point, ((0, 0), (1, 1), (1, 1)))
    beside = within[:, 2:, 1:-1] + within[:, :-2, 1:-1] + within[:, 1:-1, 2:] + within[:, 1:-1, :-2]
    broader = beside - 4 * point
    power = jnp.sum(weights * point**2, axis=(-2, -1), keepdims=True)
    share = jnp.sum(weights * point * broader, axis=(-2, -1), keepdims=True) / jnp.where(power > 0, power, 1.0)
    broader = broader - share * point
    precision = jnp.sum(weights * broader**2)
    signal = jnp.sum(weights * broader * (data - point))
    return jnp.where(precision > 0, signal * jax.lax.rsqrt(jnp.where(precision > 0, precision, 1.0)), 0.0)


def _with_misfit(weights: Float[Array, "band n n"], model: Float[Array, "band n n"]) -> Float[Array, "band n n"]:
    """Weights with the error of the PSF counted as noise."""
    misfit = MISFIT * model + FAINT_MISFIT * model.max(axis=(-2, -1), keepdims=True)
    return weights / (1 + weights * misfit**2)


def _amplitudes(weights: Array, data: Array, model: Array) -> Float[Array, " band"]:
    """Best factor of a model in each band, not negative; 0 without data."""
    signal = jnp.sum(weights * data * model, axis=(-2, -1))
    power = jnp.sum(weights * model**2, axis=(-2, -1))
    return jnp.where(power > 0, jnp.maximum(signal, 0.0) / jnp.where(power > 0, power, 1.0), 0.0)
