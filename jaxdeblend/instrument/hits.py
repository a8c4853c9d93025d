"""Find pixels that no PSF can produce: cosmic rays, hot and cold pixels that no mask names.

All light has passed through the PSF. So a pixel is brighter than its four neighbours by the contrast κ of the PSF at
most, and no pixel is far below zero:

    I(p) <= κ · mean of the neighbours of p,    κ = max over the core of P of P(q) / mean of the neighbours of q.

Beside unusable pixels and at the border, where the neighbour towards a star's centre may be missing, a pixel is
compared with two opposite neighbours, if there are such. What breaks these rules by several σ of the noise is a hit.
(L.A.Cosmic, van Dokkum 2001, PASP 113, 1420, compares with the neighbours in this way, but knows no PSF.)
"""

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from .observation import Observation

SIGNIFICANCE = 6.0
"""σ by which a pixel must break the rule; by noise alone that happens once in 1e9 pixels."""

PSF_ERROR = 1.1
"""Factor on the contrast of the PSF, for PSFs that are sharper than they are said to be."""

CORE = 0.1
"""Share of the PSF's maximum down to which its contrast counts."""

PASSES = 3
"""How often the rule is applied: beside a pixel that was found, others stand out."""


def find_hits(obs: Observation) -> Bool[np.ndarray, "band y x"]:
    """Pixels that no PSF can produce.

    Parameters
    ----------
    obs
        Observation.

    Returns
    -------
    Bool[np.ndarray, "band y x"]
        True for hits; unusable pixels are none.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> images = np.zeros((1, 16, 16))
    >>> images[0, 5, 7] = 30.0
    >>> np.argwhere(find_hits(jd.Observation(images, [1.0], jd.GaussianPSF(1.5), bands=["r"]))).tolist()
    [[0, 5, 7]]
    """
    images, weights = np.asarray(obs.images), np.asarray(obs.weights)
    significance = images * np.sqrt(weights)
    hits = significance < -SIGNIFICANCE
    # only pixels that stand out from the noise can be hits: a few per cent of all
    band, y, x = np.nonzero(significance > SIGNIFICANCE)
    if not len(band):
        return hits
    stamps = np.asarray(obs.psf.stamp(obs.psf.edge))
    border = ((0, 0), (1, 1), (1, 1))
    given = np.pad(weights, border)
    images, weights = np.pad(images, border), np.pad(np.where(hits, 0.0, weights), border)
    y, x = y + 1, x + 1
    neighbours = [(band, y - 1, x), (band, y + 1, x), (band, y, x - 1), (band, y, x + 1)]
    there = np.stack([given[place] > 0 for place in neighbours])
    compared = _compared(there)
    contrasts = [np.broadcast_to(_contrast(stamps, axes), len(images))[band] for axes in ((-2, -1), (-2,), (-1,))]
    contrast = np.select([compared.all(axis=0), compared[0]], contrasts[:2], contrasts[2])
    for _ in range(PASSES):
        left = weights[band, y, x] > 0
        known = np.where(compared, np.stack([weights[place] for place in neighbours]), 0.0)
        count = np.maximum((known > 0).sum(axis=0), 1)
        around = np.stack([images[place] for place in neighbours])
        around = np.where(known > 0, around, 0.0).sum(axis=0) / count
        spread = np.where(known > 0, 1 / np.where(known > 0, known, 1.0), 0.0).sum(axis=0) / count**2
        own = 1 / np.where(left, weights[band, y, x], 1.0)
        excess = images[band, y, x] - contrast * np.maximum(around, 0.0)
        found = left & (known > 0).any(axis=0) & (excess > SIGNIFICANCE * np.sqrt(own + contrast**2 * spread))
        if not found.any():
            break
        weights[band[found], y[found], x[found]] = 0.0
        hits[band[found], y[found] - 1, x[found] - 1] = True
    return hits


def without_pixels(obs: Observation, hits: Bool[np.ndarray, "band y x"]) -> Observation:
    """The observation with some pixels unusable."""
    images, weights = (np.where(hits, 0.0, array).astype(array.dtype) for array in map(np.asarray, _pixels(obs)))
    return eqx.tree_at(_pixels, obs, (images, weights))


def _pixels(obs: Observation) -> tuple:
    return obs.images, obs.weights


def _compared(there: Bool[np.ndarray, "4 pixel"]) -> Bool[np.ndarray, "4 pixel"]:
    """Neighbours (above, below, left, right) that a pixel is compared with: all, or two opposite ones."""
    above, below, left, right = there
    columns, rows = above & below, left & right
    return np.stack([columns, columns, rows, rows])


def _contrast(stamps: Float[np.ndarray, "band n n"], axes: tuple[int, ...]) -> Float[np.ndarray, " band"]:
    """Largest ratio of a pixel of the PSF's core to the mean of its neighbours along some axes, with a margin."""
    around = _sum_of_neighbours(stamps, axes) / (2 * len(axes))
    core = stamps > CORE * stamps.max(axis=(-2, -1), keepdims=True)
    ratio = np.where(core & (around > 0), stamps / np.where(around > 0, around, 1.0), 0.0)
    return PSF_ERROR * ratio.max(axis=(-2, -1))


def _sum_of_neighbours(images: Float[np.ndarray, "band y x"], axes: tuple[int, ...]) -> Float[np.ndarray, "band y x"]:
    """Sum of the pixels that share a side with each, along some axes; there are none beyond the border."""
    total = np.zeros_like(images)
    if -2 in axes:
        total[:, 1:] += images[:, :-1]
        total[:, :-1] += images[:, 1:]
    if -1 in axes:
        total[:, :, 1:] += images[:, :, :-1]
        total[:, :, :-1] += images[:, :, 1:]
    return total
