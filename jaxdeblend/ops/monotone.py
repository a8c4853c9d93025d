"""Monotone projections: no pixel brighter than the ones between it and the centre.

`ring_sweep` is the default. `weighted_sweep` is the operator of scarlet (Melchior et al. 2018,
arXiv:1802.10157, section 2.3), levelled into wavefronts, kept as the reference. Neither is the Euclidean
projection onto the monotone cone; both are feasible in one pass and idempotent.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def ring_sweep(stamp: Float[Array, "s s"]) -> Float[Array, "s s"]:
    """Make a stamp fall monotonically outwards, ring by ring.

    Walk outwards over square rings. A pixel at offset (dy, dx) on ring r = max(abs(dy), abs(dx)) may not exceed
    the linear interpolation of the (already projected) ring r - 1 at the point where the pixel's own ray to the
    centre crosses it. On the side dy = r this point lies between two neighbours,

        x(r, dx) <= (1 - t) x(r-1, dx) + t x(r-1, dx - sign(dx)),       t = abs(dx) / r.

    All pixels of a ring are independent of each other, so a stamp of edge S takes S / 2 dependent steps. The four
    sides are swept side by side as rows of length S, so that a step is shifts and minima, never a gather.

    Parameters
    ----------
    stamp
        Stamp with odd edge, centred on its middle pixel.

    Returns
    -------
    Float[Array, "s s"]
        The largest stamp below the input that satisfies the inequalities.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> stamp = jnp.zeros((5, 5)).at[2, 2].set(1.0).at[2, 4].set(3.0)
    >>> float(ring_sweep(stamp)[2, 4])          # the pixel between is 0
    0.0
    """
    radius = (stamp.shape[-1] - 1) // 2
    if radius == 0:
        return stamp
    offset = np.arange(-radius, radius + 1)
    slopes = np.minimum(np.abs(offset) / np.arange(1, radius + 1)[:, None], 1.0)[:, None, :]
    sides = _to_sides(stamp, radius)
    inner = jnp.full((4, stamp.shape[-1]), stamp[radius, radius])

    def step(inner: Array, ring: tuple[Array, Array]) -> tuple[Array, Array]:
        side, t = ring
        towards_axis = jnp.where(offset[None, :] > 0, jnp.roll(inner, 1, axis=-1), jnp.roll(inner, -1, axis=-1))
        projected = jnp.minimum(side, (1 - t) * inner + t * towards_axis)
        return projected, projected

    _, sides = jax.lax.scan(step, inner, (sides, jnp.asarray(slopes, stamp.dtype)))
    return _from_sides(sides, stamp, radius)


def _to_sides(stamp: Float[Array, "s s"], radius: int) -> Float[Array, "r 4 s"]:
    """Rows below and above the centre, columns right and left of it, ordered outwards."""
    flipped = stamp[::-1, ::-1]
    below, above = stamp[radius + 1 :], flipped[radius + 1 :, ::-1]
    right, left = stamp[:, radius + 1 :].T, flipped[::-1, radius + 1 :].T
    return jnp.stack([below, above, right, left], axis=1)


def _from_sides(sides: Float[Array, "r 4 s"], stamp: Float[Array, "s s"], radius: int) -> Float[Array, "s s"]:
    """Put the four sides together again; each owns the wedge in which its axis is the longer one."""
    below, above, right, left = (sides[:, k] for k in range(4))
    centre = stamp[radius : radius + 1]
    vertical = jnp.concatenate([above[::-1], centre, below])
    horizontal = jnp.concatenate([left[::-1], centre, right]).T
    offset = jnp.abs(jnp.arange(-radius, radius + 1))
    projected = jnp.where(offset[:, None] >= offset[None, :], vertical, horizontal)
    return projected.at[radius, radius].set(stamp[radius, radius])


def weighted_sweep(stamp: Float[Array, "s s"]) -> Float[Array, "s s"]:
    """Make a stamp monotone by scarlet's weighted sweep over the strictly closer neighbours.

    In order of growing distance to the centre, x(p) <- min(x(p), Σ_n w_n x(n)) over those of the 8 neighbours that are
    strictly closer to the centre, with w_n proportional to the cosine between the directions from p to the centre
    and from p to n, Σ w = 1. A pixel depends only on closer ones, so the sweep is carried out exactly in
    about 1.5 S wavefronts of independent pixels.

    Parameters
    ----------
    stamp
        Stamp with odd edge, centred on its middle pixel.

    Returns
    -------
    Float[Array, "s s"]
        Monotone stamp.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> stamp = jnp.zeros((5, 5)).at[2, 2].set(1.0).at[2, 4].set(3.0)
    >>> float(weighted_sweep(stamp)[2, 4])
    0.0
    """
    fronts, valid, neighbours, weights = _wavefronts(stamp.shape[-1])
    flat = stamp.reshape(-1)

    def step(flat: Array, front: tuple[Array, ...]) -> tuple[Array, None]:
        pixel, use, around, weight = front
        limit = jnp.sum(weight * flat[around], axis=-1)
        new = jnp.minimum(flat[pixel], limit)
        return flat.at[jnp.where(use, pixel, flat.size)].set(new, mode="drop"), None

    tables = (jnp.asarray(fronts), jnp.asarray(valid), jnp.asarray(neighbours), jnp.asarray(weights, stamp.dtype))
    flat, _ = jax.lax.scan(step, flat, tables)
    return flat.reshape(stamp.shape)


@functools.lru_cache(maxsize=32)
def _wavefronts(
    edge: int,
) -> tuple[
    Int[np.ndarray, "front n"],
    Bool[np.ndarray, "front n"],
    Int[np.ndarray, "front n 8"],
    Float[np.ndarray, "front n 8"],
]:
    """Tables of the levelled sweep: pixels of each front, which are real, neighbours, weights."""
    radius = (edge - 1) // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    steps = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)])
    ny, nx = y[:, None] + steps[:, 0], x[:, None] + steps[:, 1]
    closer = (ny**2 + nx**2) < (y**2 + x**2)[:, None]
    distance = np.maximum(np.hypot(y, x), 1e-9)[:, None]
    cosine = np.abs(y[:, None] * steps[:, 0] + x[:, None] * steps[:, 1]) / (distance * np.hypot(*steps.T))
    weights = np.where(closer, cosine, 0.0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
    neighbours = np.where(closer, (ny + radius) * edge + nx + radius, 0)
    level = np.zeros(edge * edge, int)
    for p in np.argsort(y**2 + x**2, kind="stable")[1:]:
        level[p] = 1 + level[neighbours[p][closer[p]]].max()
    width = np.bincount(level)[1:].max(initial=1)
    fronts = np.zeros((level.max(), width), int)
    valid = np.zeros((level.max(), width), bool)
    for k in range(1, level.max() + 1):
        members = np.flatnonzero(level == k)
        fronts[k - 1, : len(members)] = members
        valid[k - 1, : len(members)] = True
    return fronts, valid, neighbours[fronts], weights[fronts]
