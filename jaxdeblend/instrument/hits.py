"""Find pixels that no PSF can produce: cosmic rays, hot and cold pixels that no mask names.

All light has passed through the PSF, so that a pixel follows from those around it. With P the PSF, and coefficients a
of the pixels q around a pixel p, two kinds of rules hold for all images of positive light:

- The contrast of the PSF bounds a pixel by the mean of its neighbours: I(p) <= κ · mean I(q), with κ the largest such
  ratio in the core of P.
- A pixel is predicted by a linear combination: |I(p) - Σ a(q) I(q)| <= s · rms I(q), with a by least squares and s the
  largest such ratio in P, at any position within a pixel. A track of a cosmic ray spoils the pixels on its own line,
  so that there are predictions without a row, a column or a diagonal.

A pixel is a hit if it breaks one rule of those whose pixels are all usable by several σ of the noise, or lies far
below zero. (L.A.Cosmic, van Dokkum 2001, PASP 113, 1420, compares with the neighbours in this way, but knows no PSF.)
"""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from .observation import Observation

SIGNIFICANCE = 6.0
"""σ by which a pixel must lie below zero or above the contrast; by noise alone that happens once in 1e9 pixels."""

UNPREDICTED = 5.0
"""σ by which a pixel must differ from a prediction; tried is only where there is light, a few per cent of all."""

PSF_ERROR = 0.1
"""Share of the light around a pixel by which a PSF may be sharper or broader than it is said to be."""

CORE = 0.1
"""Share of the PSF's maximum down to which its contrast counts."""

WINGS = 1e-2
"""Share of the PSF's maximum down to which predictions must hold: they reach farther out than the contrast."""

REACH = 2
"""Pixels in each direction that a prediction is made from."""

DY, DX = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1].reshape(2, -1)
"""Offsets of the pixels around one, itself in the middle."""

RIDGE = 3e-3
"""Noise, relative to the light, that predictions are made for: with less, they would amplify the noise."""

PHASES = (0.0, 0.5)
"""Positions within a pixel for which predictions must hold."""

FFT_STEP = 8
"""Edges of transforms are multiples of it; those of a prime length take several times as long."""

PASSES = 20
"""How often the rules are applied at most: a hit makes others near it stand out less, or more, than they do alone."""


class _Rules(NamedTuple):
    """Rules for a pixel, from those around it; the pixels around it, and itself in the middle, are in one row.

    Attributes
    ----------
    used
        Pixels that each rule takes.
    coefficients
        Their coefficients; 0 for all others.
    slack
        Share of the light around by which a rule may be broken.
    significance
        σ by which a pixel must break it.
    two_sided
        Whether a pixel can be too faint as well.
    """

    used: Bool[np.ndarray, "rule around"]
    coefficients: Float[np.ndarray, "band rule around"]
    slack: Float[np.ndarray, "band rule"]
    significance: Float[np.ndarray, " rule"]
    two_sided: Bool[np.ndarray, " rule"]


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
    # only pixels that stand out from the noise, or whose neighbours do, can be hits: a few per cent of all
    place = np.nonzero(_with_neighbours(significance > UNPREDICTED) & (weights > 0) & ~hits)
    if not len(place[0]):
        return hits
    stamps = np.asarray(obs.psf.stamp(obs.psf.edge), np.float64)
    rules = _rules(np.broadcast_to(stamps, (len(images), *stamps.shape[1:])))
    weights = np.where(hits, 0.0, weights)
    for _ in range(PASSES):
        strength = np.zeros_like(images)
        strength[place] = _excess(rules, images, weights, place)
        own = strength[place]
        found = (own > 0) & (own >= _around(strength, place).max(axis=1))
        if not found.any():
            break
        hit = tuple(index[found] for index in place)
        hits[hit], weights[hit] = True, 0.0
        place = tuple(index[~found] for index in place)
    return hits


def without_pixels(obs: Observation, hits: Bool[np.ndarray, "band y x"]) -> Observation:
    """The observation with some pixels unusable."""
    images, weights = (np.where(hits, 0.0, array).astype(array.dtype) for array in map(np.asarray, _pixels(obs)))
    return eqx.tree_at(_pixels, obs, (images, weights))


def _pixels(obs: Observation) -> tuple:
    return obs.images, obs.weights


def _excess(
    rules: _Rules, images: np.ndarray, weights: np.ndarray, place: tuple[np.ndarray, ...]
) -> Float[np.ndarray, " pixel"]:
    """By how many σ more than allowed usable pixels break a rule; 0 if none, or an unusable pixel is needed for it."""
    around, known = _around(images, place), _around(weights, place)
    variance = 1 / np.where(known > 0, known, np.inf)
    middle = len(DY) // 2
    predicted, noise = (np.empty((len(around), len(rules.used))) for _ in range(2))
    for band, coefficients in enumerate(rules.coefficients):
        here = place[0] == band
        predicted[here] = around[here] @ coefficients.T
        noise[here] = np.sqrt(variance[here, middle, None] + variance[here] @ (coefficients**2).T)
    used = rules.used.T.astype(float)
    light = np.sqrt(np.maximum((around**2 - variance) @ used, 0.0) / used.sum(axis=0)[None])
    excess = around[:, middle, None] - predicted
    excess = np.where(rules.two_sided[None], np.abs(excess), excess)
    beyond = (excess - rules.slack[place[0]] * light) / noise - rules.significance[None]
    missing = (known <= 0) @ used > 0
    return np.where(missing, 0.0, np.maximum(beyond, 0.0)).max(axis=1)


def _around(images: np.ndarray, place: tuple[np.ndarray, ...]) -> Float[np.ndarray, "pixel around"]:
    """Values of the pixels around some pixels, themselves in the middle; 0 beyond the border."""
    band, y, x = (index[:, None] for index in place)
    return np.pad(images, ((0, 0), (REACH, REACH), (REACH, REACH)))[band, y + DY[None] + REACH, x + DX[None] + REACH]


def _with_neighbours(where: Bool[np.ndarray, "band y x"]) -> Bool[np.ndarray, "band y x"]:
    """The pixels, and those that share a side with one of them."""
    return where | (_sum_of_neighbours(where.astype(float), (-2, -1)) > 0)


def _rules(stamps: Float[np.ndarray, "band n n"]) -> _Rules:
    """All rules for some PSFs."""
    center, row, column = (DY == 0) & (DX == 0), DY == 0, DX == 0
    beside = np.abs(DY) + np.abs(DX) == 1
    compared = np.stack([beside, beside & column, beside & row])
    axes = ((-2, -1), (-2,), (-1,))
    contrast = np.stack([_contrast(stamps, axis) for axis in axes], axis=1) / compared.sum(axis=1)[None]
    predicting = ~np.stack([center, row, column, DY == DX, DY == -DX])
    coefficients, slack = _predictions(*_neighbourhoods(stamps), predicting)
    n_rules = len(compared), len(predicting)
    return _Rules(
        used=np.concatenate([compared, predicting]),
        coefficients=np.concatenate([contrast[:, :, None] * compared[None], coefficients], axis=1),
        slack=np.concatenate([np.zeros_like(contrast), slack], axis=1),
        significance=np.repeat([SIGNIFICANCE, UNPREDICTED], n_rules),
        two_sided=np.repeat([False, True], n_rules),
    )


def _neighbourhoods(
    stamps: Float[np.ndarray, "band n n"],
) -> tuple[Float[np.ndarray, "band around around"], Float[np.ndarray, "band around pixel"]]:
    """Sums of the products of pixels around one in a star, and those pixels at several sub-pixel positions of it."""
    peak = stamps.max(axis=(-2, -1), keepdims=True)
    relative = stamps / np.where(peak > 0, peak, 1.0)
    y, x = np.nonzero((relative > WINGS).any(axis=0))
    middle = stamps.shape[-1] // 2
    half = int(max(np.abs(y - middle).max(initial=0), np.abs(x - middle).max(initial=0))) + 1
    margin = 2 * REACH + 1
    relative = relative[:, max(middle - half, 0) : middle + half + 1, max(middle - half, 0) : middle + half + 1]
    padded = np.pad(relative, ((0, 0), (margin, margin), (margin, margin)))
    grid = 2 * (-(-padded.shape[-1] // FFT_STEP) * FFT_STEP,)
    correlation = np.fft.irfft2(np.abs(np.fft.rfft2(padded, grid)) ** 2, grid)
    products = correlation[:, DY[:, None] - DY[None], DX[:, None] - DX[None]]
    images = _shifted(_shifted(padded, -2), -1)
    size = 2 * REACH + 1
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(-2, -1))
    row = np.arange(images.shape[-1] - size + 1)[:, None] - np.arange(images.shape[-1])[None]
    in_window = ((row <= 0) & (row > -size)).astype(images.dtype)
    light = in_window @ images**2 @ in_window.T
    # nothing is said about pixels where all light around is faint, which are most of them
    bright = (light > WINGS**2 * light.max(axis=(1, 2, 3, 4), keepdims=True)).any(axis=0)
    pixels = np.moveaxis(windows[:, bright], 1, -1)
    return products, pixels.reshape(len(stamps), len(DY), -1)


def _shifted(images: Float[np.ndarray, "band *phase y x"], axis: int) -> Float[np.ndarray, "band phase *others y x"]:
    """Images at several sub-pixel positions along one of the last two axes, interpolated by Fourier's series."""
    edge = images.shape[axis]
    transform = np.fft.rfft(np.eye(edge))
    frequency = np.fft.rfftfreq(edge)
    matrices = [np.fft.irfft(transform * np.exp(-2j * np.pi * phase * frequency), edge) for phase in PHASES]
    # rows of a matrix are the images of single bright pixels
    return np.stack([(images.swapaxes(axis, -1) @ matrix).swapaxes(axis, -1) for matrix in matrices], axis=1)


def _predictions(
    gram: Float[np.ndarray, "band around around"],
    around: Float[np.ndarray, "band around pixel"],
    used: Bool[np.ndarray, "rule around"],
) -> tuple[Float[np.ndarray, "band rule around"], Float[np.ndarray, "band rule"]]:
    """Coefficients and slack of predictions of the pixel in the middle from some around it."""
    middle = len(DY) // 2
    ridge = RIDGE * gram[:, middle, middle, None, None] * np.eye(len(DY))[None]
    both = used[:, :, None] & used[:, None, :]
    matrix = np.where(both[None], (gram + ridge)[:, None], np.eye(len(DY))[None, None])
    vector = np.where(used[None], gram[:, None, middle], 0.0)
    coefficients = np.linalg.solve(matrix, vector[..., None])[..., 0]
    error = np.abs(around[:, None, middle] - coefficients @ around)
    light = np.sqrt((used / used.sum(axis=1, keepdims=True))[None] @ around**2)
    bright = light > WINGS * light.max(axis=-1, keepdims=True)
    ratio = np.where(bright, error / np.where(bright, light, 1.0), 0.0)
    return coefficients, PSF_ERROR + ratio.max(axis=-1)


def _contrast(stamps: Float[np.ndarray, "band n n"], axes: tuple[int, ...]) -> Float[np.ndarray, " band"]:
    """Largest ratio of a pixel of the PSF's core to the mean of its neighbours along some axes, with a margin."""
    around = _sum_of_neighbours(stamps, axes) / (2 * len(axes))
    core = stamps > CORE * stamps.max(axis=(-2, -1), keepdims=True)
    ratio = np.where(core & (around > 0), stamps / np.where(around > 0, around, 1.0), 0.0)
    return (1 + PSF_ERROR) * ratio.max(axis=(-2, -1))


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
