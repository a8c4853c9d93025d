"""Stamps of profiles that are known as functions, integrated over the pixels. Each kind is one program."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, Float

from ..runtime.host import AnyArray
from ..runtime.programs import Program

NODES, WEIGHTS = (values / 2 for values in np.polynomial.legendre.leggauss(6))
"""Gauss–Legendre nodes and weights on one pixel, [-1/2, 1/2]."""


@Program
def gaussian(
    sigma: Float[Array, " band"], ellipticity: Float[Array, "band 2"] | None, edge: int
) -> Float[AnyArray, "band edge edge"]:
    """Stamps of Gaussians."""
    if ellipticity is None:
        return normalized(jax.vmap(lambda sigma: _circular_gaussian(sigma, edge))(sigma))

    def profile(r2: Array, sigma: Array) -> Array:
        return jnp.exp(-0.5 * r2 / sigma**2)

    return _elliptical_stamp(profile, edge, ellipticity, sigma)


@Program
def moffat(
    width: Float[Array, " band"],
    beta: Float[Array, " band"],
    ellipticity: Float[Array, "band 2"] | None,
    edge: int,
) -> Float[AnyArray, "band edge edge"]:
    """Stamps of Moffat functions."""
    alpha = width / (2 * jnp.sqrt(2 ** (1 / beta) - 1))

    def profile(r2: Array, alpha: Array, beta: Array) -> Array:
        return (1 + r2 / alpha**2) ** -beta

    return _elliptical_stamp(profile, edge, ellipticity, alpha, beta)


@Program
def double_gaussian(
    core: Float[Array, " band"], wing: Float[Array, " band"], share: Float[Array, " band"], edge: int
) -> Float[AnyArray, "band edge edge"]:
    """Stamps of double Gaussians."""

    def one(core: Array, wing: Array, share: Array) -> Array:
        return (1 - share) * _circular_gaussian(core, edge) + share * _circular_gaussian(wing, edge)

    return normalized(jax.vmap(one)(core, wing, share))


@Program
def double_gaussian_width(
    core: Float[Array, " band"], wing: Float[Array, " band"], share: Float[Array, " band"]
) -> Float[Array, " band"]:
    """FWHM of double Gaussians."""
    core, wing = core**2, wing**2
    a, b = (1 - share) / core, share / wing

    def excess(r: Array) -> Array:
        return a * jnp.exp(-0.5 * r**2 / core) + b * jnp.exp(-0.5 * r**2 / wing) - 0.5 * (a + b)

    def halve(_: int | Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        return jnp.where(excess(middle) > 0, middle, low), jnp.where(excess(middle) > 0, high, middle)

    start = (jnp.zeros_like(core), 3 * jnp.sqrt(jnp.maximum(core, wing)))
    low, high = jax.lax.fori_loop(0, 40, halve, start)
    return low + high


def _elliptical_stamp(
    profile: Callable[..., Array],
    edge: int,
    ellipticity: Float[Array, "band 2"] | None,
    *parameters: Float[Array, " band"],
) -> Float[AnyArray, "band edge edge"]:
    """Integrate profile(r², *parameters) over the pixels for every band."""
    check_edge(edge)
    dtype = parameters[0].dtype
    pixel = jnp.arange(edge, dtype=dtype) - (edge - 1) // 2
    x = (pixel[:, None] + jnp.asarray(NODES, dtype)[None, :]).reshape(-1)
    weight = jnp.tile(jnp.asarray(WEIGHTS, dtype), edge)
    if ellipticity is None:
        ellipticity = jnp.zeros((parameters[0].shape[0], 2), dtype)

    def one(shape: Array, *values: Array) -> Array:
        samples = profile(elliptical_radius2(x[:, None], x[None, :], shape), *values)
        weighted = weight[:, None] * samples * weight[None, :]
        return weighted.reshape(edge, len(NODES), edge, len(NODES)).sum(axis=(1, 3))

    return normalized(jax.vmap(one)(ellipticity, *parameters))


def elliptical_radius2(y: Array, x: Array, shape: Array) -> Array:
    """Squared elliptical radius of unit Jacobian: xᵀ Q⁻¹ x with Q = [[1 + e1, e2], [e2, 1 - e1]] / √(1 - e²).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(elliptical_radius2(jnp.array(3.0), jnp.array(4.0), jnp.zeros(2)))
    25.0
    """
    e1, e2 = shape
    norm = jnp.sqrt(1 - e1**2 - e2**2)
    return ((1 - e1) * x**2 - 2 * e2 * x * y + (1 + e1) * y**2) / norm


def _circular_gaussian(sigma: Float[Array, ""], edge: int) -> Float[Array, "edge edge"]:
    check_edge(edge)
    x = jnp.arange(edge, dtype=sigma.dtype) - (edge - 1) // 2
    scaled = 1 / (math.sqrt(2) * sigma)
    profile = 0.5 * (erf((x + 0.5) * scaled) - erf((x - 0.5) * scaled))
    return profile[:, None] * profile[None, :]


def normalized(stamps: Float[AnyArray, "band y x"]) -> Float[AnyArray, "band y x"]:
    """Stamps of unit sum."""
    return stamps / stamps.sum(axis=(-2, -1), keepdims=True)


def check_edge(edge: int) -> None:
    """Refuse an even edge, as the centre must be a pixel."""
    if edge % 2 == 0 or edge < 1:
        raise ValueError(f"edge: got {edge}; a PSF stamp needs an odd edge so that its centre is a pixel.")
