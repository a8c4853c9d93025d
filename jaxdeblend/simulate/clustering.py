"""Positions of sources that keep company: galaxies in groups, stars in a cluster."""

import math

import numpy as np

_RICHEST = 80
"""Most members of a group."""

_RICHNESS_SLOPE = 2.2
"""Groups of N members are N^-2.2 as many."""

_CORE_RADIUS = 4.0
"""Core radius in pixels of a group of one member; it grows with N^0.4."""

_EXTENT = 8.0
"""Radius of a group in core radii."""


def draw_clustered(
    rng: np.random.Generator, shape: tuple[float, float], n: int, *, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions of which a fraction is in groups (a Neyman-Scott process).

    Groups are anywhere; the number of their members follows N^-2.2, so that most are pairs and some are rich. Members
    are around the centre as (1 + r² / r_c²)^(-3/2) per area, a King profile, out to 8 r_c, with r_c of some pixels.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Edges (y, x) of the area in pixels.
    n
        Number of positions.
    fraction
        Fraction of them in groups; the rest is anywhere.

    Returns
    -------
    positions : np.ndarray
        (position, 2), (y, x) from the corner of the area. Members of a group near the border come in from the other
        side, so that the density is the same everywhere.
    group : np.ndarray
        Number of the group, -1 for those in none.

    Examples
    --------
    >>> positions, group = draw_clustered(np.random.default_rng(1), (500.0, 400.0), 300, fraction=0.4)
    >>> positions.shape, int((group < 0).sum())
    ((300, 2), 180)
    """
    n_members = round(fraction * n)
    sizes = _draw_sizes(rng, n_members)
    group = np.repeat(np.arange(len(sizes)), sizes)
    radius = _CORE_RADIUS * sizes**0.4
    members = rng.uniform(0, 1, (len(sizes), 2))[group] * shape + king_offsets(rng, n_members) * radius[group, None]
    alone = rng.uniform(0, 1, (n - n_members, 2)) * shape
    positions = np.concatenate([np.mod(members, shape), alone])
    return positions, np.concatenate([group, np.full(len(alone), -1)])


def king_offsets(rng: np.random.Generator, n: int, *, extent: float = _EXTENT) -> np.ndarray:
    """Offsets (n, 2) in core radii with a surface density (1 + r²)^(-3/2) out to an extent.

    The share of flux within r is 1 - (1 + r²)^(-1/2), which is inverted.

    Parameters
    ----------
    rng
        Source of randomness.
    n
        How many.
    extent
        Largest radius.

    Returns
    -------
    np.ndarray
        Offsets (y, x).

    Examples
    --------
    >>> offsets = king_offsets(np.random.default_rng(1), 4000)
    >>> bool(1.3 < np.median(np.hypot(*offsets.T)) < 1.6)  # of the whole profile √3
    True
    """
    most = 1 - 1 / math.sqrt(1 + extent**2)
    radius = np.sqrt((1 - rng.uniform(0, most, n)) ** -2 - 1)
    angle = rng.uniform(0, 2 * math.pi, n)
    return radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _draw_sizes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Numbers of members that add up to n; what is left at the end is the last group, perhaps of one."""
    numbers = np.arange(2, _RICHEST + 1)
    share = numbers**-_RICHNESS_SLOPE
    sizes = rng.choice(numbers, size=n // 2 + 1, p=share / share.sum())
    upto = np.cumsum(sizes)
    last = int(np.searchsorted(upto, n))
    kept = sizes[: last + 1].copy()
    if n:
        kept[-1] -= upto[last] - n
    return kept[kept > 0] if n else kept[:0]
