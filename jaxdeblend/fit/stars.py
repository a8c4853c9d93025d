"""Find stars among the sources of a blend.

A star that is fitted with free pixels collects noise and the light of neighbours in its wings, and at high S/N the
optimizer needs many steps until its flux is right. So each compact source is first fitted as a point, with the true PSF
and weights and all others as they are. Fluxes f_b and the position c minimise

    χ² = Σ_b Σ w (d_b - f_b P_b(x - c))² + (c - c₀)² / σ_c²,

where d is the image less the models of the others. The source is a point if this χ² is good and the residual shows no
size. Brighter sources come first, so that their wrong models do not decide about their neighbours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..instrument.observation import Observation
from ..ops import stamps

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

STEP = 0.02
"""Distance in pixels of the positions whose difference is the derivative of a point's image."""

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
    nothing = Points(jnp.zeros_like(compact), spectra, centers)
    return jax.lax.cond(
        jnp.any(compact),
        lambda: _tried(obs, _observed(obs, shapes, spectra, centers), centers, detected, errors, compact, significance),
        lambda: nothing,
    )


def _observed(
    obs: Observation,
    shapes: Float[Array, "source s s"],
    spectra: Float[Array, "source band"],
    centers: Float[Array, "source 2"],
) -> Float[Array, "source band y x"]:
    """The extended models as observed."""

    def one(source: tuple[Array, Array, Array]) -> Array:
        shape, spectrum, center = source
        height, width = (n + 2 * obs.margin for n in obs.shape)
        edges = max(height, width), shape.shape[-1]
        rows, columns = jax.vmap(lambda position: stamps.placement(position, *edges))(center + obs.margin)
        frame = stamps.place(shape / shape.sum(), rows[:height], columns[:width])
        return obs.convolve(spectrum[:, None, None] * frame[None])

    def dark(source: tuple[Array, Array, Array]) -> Array:
        return jnp.zeros(obs.images.shape, source[0].dtype)

    return jax.lax.map(
        lambda source: jax.lax.cond(jnp.any(source[1] > 0), one, dark, source), (shapes, spectra, centers)
    )


def _tried(
    obs: Observation,
    extended: Float[Array, "source band y x"],
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
    nearest = _nearest(obs, centers, significance > 0)
    rest = jnp.asarray(obs.images) - extended.sum(axis=0)

    def try_point(rest: Array, found: Points, models: Array, index: Array) -> tuple[Array, Points, Array]:
        data = rest + models[index]
        center, flux, point = _fit_point(obs, data, found.center[index], detected[index], errors[index])
        weights = _with_misfit(obs, point)
        scaled = _amplitudes(weights, data, extended[index])[:, None, None] * extended[index]
        chosen = _is_good(obs, jnp.where(nearest == index, weights, 0.0), data, point)
        best = jnp.where(chosen, point, scaled)
        center = jnp.where(chosen, center, centers[index])
        found = Points(
            found.is_point.at[index].set(chosen), found.flux.at[index].set(flux), found.center.at[index].set(center)
        )
        return data - best, found, models.at[index].set(best)

    def one(state: tuple[Array, Points, Array], turn: tuple[Array, Array]) -> tuple[tuple[Array, Points, Array], None]:
        index, wanted = turn
        return jax.lax.cond(wanted, try_point, lambda *same: same[:3], *state, index), None

    nothing = Points(jnp.zeros_like(compact), jnp.zeros(extended.shape[:2], extended.dtype), centers)
    (_, found, _), _ = jax.lax.scan(one, (rest, nothing, extended), (order, wanted))
    return found


def _nearest(obs: Observation, centers: Float[Array, "source 2"], lit: Bool[Array, " source"]) -> Int[Array, "y x"]:
    """Number of the source that is nearest to each pixel: beyond, wrong models of neighbours decide about a fit."""
    y, x = (jnp.arange(n, dtype=centers.dtype) for n in obs.shape)
    rows, columns = y[None, :, None] - centers[:, 0, None, None], x[None, None, :] - centers[:, 1, None, None]
    distance2 = rows**2 + columns**2
    return jnp.argmin(jnp.where(lit[:, None, None], distance2, jnp.inf), axis=0)


def _is_good(obs: Observation, weights: Array, data: Array, point: Array) -> Bool[Array, ""]:
    """Whether a point is bright enough to be told from a galaxy, explains the data, and leaves no size in them."""
    bright = weights * point**2 > 1
    chi2 = jnp.sum(jnp.where(bright, weights * (data - point) ** 2, 0.0))
    n_bright = jnp.sum(bright, dtype=chi2.dtype)
    # χ² of n pixels has a scatter of √(2 n)
    explained = chi2 <= LARGEST_CHI2 * n_bright + 3 * jnp.sqrt(2 * n_bright)
    snr = jnp.sqrt(jnp.sum(obs.weights * point**2))
    allowed = jnp.clip(LARGEST_EXTENSION[0] * jnp.sqrt(snr / SMALLEST_SNR), *LARGEST_EXTENSION)
    return explained & (snr > SMALLEST_SNR) & (_extension(weights, data, point) < allowed)


def _fit_point(
    obs: Observation, data: Array, center: Array, mean: Array, error: Array
) -> tuple[Float[Array, "2"], Float[Array, " band"], Float[Array, "band y x"]]:
    """Position, fluxes and image of the best point, by Gauss–Newton steps of the position."""
    unit = jnp.ones((1, len(data)), data.dtype)
    offsets = STEP * jnp.asarray([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], center.dtype)
    precision = 1 / jnp.maximum(error, 1e-4) ** 2

    def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        number, _, center, *_ = state
        drawn = obs.draw_points(center[None], unit)
        # points a little beside it, whose differences are its derivatives
        smooth = jax.vmap(lambda offset: obs.draw_points((center + offset)[None], unit, smooth=True))(offsets)
        flux = _amplitudes(jnp.asarray(obs.weights), data, drawn)
        point = flux[:, None, None] * drawn
        slope_y, slope_x = flux[None, :, None, None] * (smooth[1:] - smooth[:1]) / STEP
        weights = _with_misfit(obs, point)
        residual = weights * (data - point)
        yy = jnp.sum(weights * slope_y**2) + precision
        xx = jnp.sum(weights * slope_x**2) + precision
        yx = jnp.sum(weights * slope_y * slope_x)
        right = jnp.stack([jnp.sum(residual * slope_y), jnp.sum(residual * slope_x)]) + precision * (mean - center)
        change = jnp.stack([xx * right[0] - yx * right[1], yy * right[1] - yx * right[0]]) / (yy * xx - yx**2)
        change = jnp.where(error > 0, jnp.clip(change, -LARGEST_MOVE, LARGEST_MOVE), 0.0)
        return number + 1, jnp.abs(change).max(), center + change, center, flux, point

    def unsettled(state: tuple[Array, ...]) -> Array:
        number, change, *_ = state
        return (number <= ROUNDS) & (change > SETTLED)

    start = jnp.zeros((), int), jnp.full((), jnp.inf, center.dtype), center, center, unit[0], jnp.zeros_like(data)
    *_, center, flux, point = jax.lax.while_loop(unsettled, improve, start)
    return center, flux, point


def _extension(weights: Array, data: Array, point: Array) -> Float[Array, ""]:
    """Significance of a size: how many σ the data are broader than the point.

    A small size changes a point's image P along its Laplacian, ∂(P * G(σ))/∂σ² = ½ ∇²P. Its amplitude is that in the
    residual, with what a change of the flux in each band would do taken out.
    """
    beside = jnp.zeros_like(point)
    for axis in (-2, -1):
        beside = beside + jnp.roll(point, 1, axis) + jnp.roll(point, -1, axis)
    broader = beside - 4 * point
    power = jnp.sum(weights * point**2, axis=(-2, -1), keepdims=True)
    share = jnp.sum(weights * point * broader, axis=(-2, -1), keepdims=True) / jnp.where(power > 0, power, 1.0)
    broader = broader - share * point
    precision = jnp.sum(weights * broader**2)
    signal = jnp.sum(weights * broader * (data - point))
    return jnp.where(precision > 0, signal * jax.lax.rsqrt(jnp.where(precision > 0, precision, 1.0)), 0.0)


def _with_misfit(obs: Observation, model: Float[Array, "band y x"]) -> Float[Array, "band y x"]:
    """Weights with the error of the PSF counted as noise."""
    weights = jnp.asarray(obs.weights)
    misfit = MISFIT * model + FAINT_MISFIT * model.max(axis=(-2, -1), keepdims=True)
    return weights / (1 + weights * misfit**2)


def _amplitudes(weights: Array, data: Array, model: Array) -> Float[Array, " band"]:
    """Best factor of a model in each band, not negative; 0 without data."""
    signal = jnp.sum(weights * data * model, axis=(-2, -1))
    power = jnp.sum(weights * model**2, axis=(-2, -1))
    return jnp.where(power > 0, jnp.maximum(signal, 0.0) / jnp.where(power > 0, power, 1.0), 0.0)
