"""The monotone projection of SDSS and LSST: every pixel casts a wedge of shadow away from the peak.

No arithmetic but minima takes place, so that the result is the same on any machine to the last bit.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

CHUNK = 5
"""Length of a shadow in pixels, and number of rings whose shadows are cast at once."""

OPENING = 0.3
"""Half-width of a shadow, as a slope."""


def wedge_shadow(stamp: Float[Array, "s s"]) -> Float[Array, "s s"]:
    """Make a stamp fall outwards by shadows.

    Rings of growing L = max(abs(dy), abs(dx)) are taken five at a time. On a vertical side of a ring, abs(dx) = L, a
    pixel caps the pixels of the next k = 1 … 5 columns outwards, in the rows from round(k (dy / dx - 0.3)) to
    round(k (dy / dx + 0.3)) along its own ray; on a horizontal side rows and columns change places. All pixels of the
    five rings cast the values that they had before the five were begun. The peak itself casts nothing. Of the corners,
    (dy, dx) = ±(L, -L) belong to the vertical sides and ±(L, L) to the horizontal ones. Halves are rounded away from 0.

    The five rings are one gather of at most 14 casters per pixel and one minimum, from a table that depends on the edge
    alone. This is the operator of the deblender of LSST after Lupton (2001); unlike `monotone.ring_sweep` it is not
    idempotent, and it leaves pixels alone that no shadow reaches.

    Parameters
    ----------
    stamp
        Stamp with odd edge, centred on its middle pixel.

    Returns
    -------
    Float[Array, "s s"]
        Stamp, nowhere above the input.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> stamp = jnp.zeros((5, 5)).at[2, 2].set(1.0).at[2, 4].set(3.0)
    >>> float(wedge_shadow(stamp)[2, 4])          # the pixel between is 0
    0.0
    """
    flat = stamp.reshape(-1)
    for targets, casters in _shadows(stamp.shape[-1]):
        limit = flat[jnp.asarray(casters)].min(axis=0)
        flat = flat.at[jnp.asarray(targets)].min(limit, unique_indices=True, indices_are_sorted=True)
    return flat.reshape(stamp.shape)


@functools.lru_cache(maxsize=32)
def _shadows(edge: int) -> tuple[tuple[Int[np.ndarray, " n"], Int[np.ndarray, "caster n"]], ...]:
    """For every five rings, the pixels in shadow and those that cast it (some are repeated to fill the table)."""
    radius = (edge - 1) // 2
    tables = []
    for first in range(1, radius, CHUNK):
        caster, target = _pairs(radius, range(first, min(first + CHUNK, radius)))
        order = np.lexsort((caster, target))
        caster, target = caster[order], target[order]
        targets, start, count = np.unique(target, return_index=True, return_counts=True)
        place = np.minimum(np.arange(count.max())[:, None], count - 1)
        tables.append((targets.astype(np.int32), caster[start + place].astype(np.int32)))
    return tuple(tables)


def _pairs(radius: int, rings: range) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Flat numbers of all pixels that cast a shadow from some rings, and of those that it falls on."""
    found = []
    for ring in rings:
        along = np.arange(-ring, ring + 1)
        for side in (-ring, ring):
            # each side owns one of its two corners
            found += [_cast(along[along != side], side), _cast(along[along != -side], side)[::-1]]
    (caster_y, target_y), (caster_x, target_x) = np.concatenate(found, axis=-1)
    inside = np.maximum(abs(target_y), abs(target_x)) <= radius
    edge = 2 * radius + 1
    caster, target = ((y + radius) * edge + x + radius for y, x in ((caster_y, caster_x), (target_y, target_x)))
    return caster[inside], target[inside]


def _cast(rows: Int[np.ndarray, " n"], column: int) -> Int[np.ndarray, "2 2 pair"]:
    """Pixels of a vertical side of a ring and those in their shadow, ((caster y, target y), (caster x, target x))."""
    outwards = 1 if column > 0 else -1
    found = []
    for k in range(1, CHUNK + 1):
        low, high = (_round(k * (rows / column + opening)) for opening in (-OPENING, OPENING))
        for step in range(int(2 * OPENING * k) + 2):
            lit = low + step <= high
            y = rows[lit]
            x = np.full_like(y, column)
            found.append(np.stack([[y, y + outwards * (low + step)[lit]], [x, x + outwards * k]]))
    return np.concatenate(found, axis=-1)


def _round(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The nearest integers, halves away from 0."""
    return np.copysign(np.floor(np.abs(values) + 0.5), values).astype(int)
