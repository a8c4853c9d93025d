"""Find sky that was left in the images, before free shapes take it for the wings of galaxies.

Far from all sources an image of subtracted sky is 0 but for noise. A plane a + b y + c x is fitted to these pixels of
each band, once without and once with the slopes; without evidence it is 0. Light that falls outwards there is no sky
but the outskirts of a galaxy, and stays. A border that is brighter than what lies inside of it is lit from outside.
"""

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from .observation import Observation

FAR = 2.5
"""Distance from the nearest source in FWHM of the widest PSF from which on a pixel can tell about the sky."""

FEWEST_PIXELS = 200
"""Pixels far from all sources without which nothing is said about the sky."""

SIGNIFICANCE = 3.0
"""σ by which a level must differ from 0; false in one of 370 bands without sky."""

SLOPE_CHI2 = 16.0
"""Gain of χ² by two slopes that is evidence for them; false in one of 3000 bands."""

OUTSKIRTS = 0.2
"""Excess of the inner half of the far pixels over the outer half, relative to that, which says that light falls."""

OUTSKIRTS_SIGNIFICANCE = 5.0
"""σ of light in the outer half above which outskirts that are not dark are told."""

CLIP = 3.0
"""σ beyond which pixels are left out: sources that nobody detected."""

FEWEST_LEFT = 0.9
"""Share of the far pixels that must be left: if fewer are, what is left is the fainter part of something bright."""

BLOCK = 8
"""Edge of blocks of pixels, whose means scatter more than their noise says where noise is correlated."""

BLOCK_SIGNIFICANCE = 4.5
"""σ of the mean of one block above which a band is looked at; by noise alone one in 2000 bands has such a block."""

BORDER = 2
"""Depth of the border in pixels that is compared with what lies a FWHM further in."""

BORDER_SIGNIFICANCE = 5.0
"""σ of the excess of a stretch of the border, as long as the FWHM, that is evidence of light from outside."""


LOWER_TAIL = 0.6745 / (1.2816 - 0.6745)
"""Ratio of two distances in a Gaussian: its middle from the 25th percentile, and the 25th from the 10th."""

MANY_PIXELS = 100_000
"""Pixels that are enough to tell the level of an image."""


class Sky(NamedTuple):
    """Sky of an observation, and signs of other light.

    Attributes
    ----------
    plane
        Level at the middle of the frame, and slopes along y and x per pixel, of each band, in image units; 0 where
        there is no evidence of sky.
    bright_outskirts
        Bands in which light far from all sources falls outwards without vanishing.
    lit_border
        Pixels (y, x) of the border that are lit from outside, in any band.
    """

    plane: Float[np.ndarray, "band 3"]
    bright_outskirts: Bool[np.ndarray, " band"]
    lit_border: Bool[np.ndarray, "y x"]


def find_sky(obs: Observation, centers: Float[np.ndarray, "source 2"]) -> Sky:
    """Sky that was left in each band.

    Parameters
    ----------
    obs
        Observation.
    centers
        Positions (y, x) of the sources.

    Returns
    -------
    Sky
        Planes, and signs of other light.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> noise = np.random.default_rng(1).normal(size=(1, 48, 48))
    >>> obs = jd.Observation(noise + 0.5, [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> bool(0.4 < find_sky(obs, np.array([[20.0, 25.0]])).plane[0, 0] < 0.6)
    True
    """
    images, weights = np.asarray(obs.images, np.float64), np.asarray(obs.weights, np.float64)
    distance = _distance(obs.shape, centers)
    fwhm = rough_fwhm(obs)
    plane = np.zeros((len(images), 3))
    bright = np.zeros(len(images), bool)
    border = np.zeros(obs.shape, bool)
    far = (weights > 0) & (distance > FAR * fwhm)
    for band in np.flatnonzero(_worth_a_look(images, np.where(far, weights, 0.0))):
        image, weight = images[band], weights[band]
        plane[band], bright[band] = _plane(image, weight, far[band], distance)
        border |= _lit_border(image - _values(plane[band], obs.shape), weight, far[band], round(fwhm))
    if bright.any():  # a galaxy shines in other bands, too, and may look flat there
        plane[plane[:, 0] > 0] = 0.0
    return Sky(plane, bright, border)


def background_of(obs: Observation) -> Float[np.ndarray, " band"]:
    """Level of the darker part of each band in units of its noise; 0 without data.

    It is the middle of the Gaussian that has the same 10th and 25th percentiles, whatever its width: pixels with the
    light of sources are among the brighter ones.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> noise = np.random.default_rng(1).normal(size=(1, 64, 64))
    >>> background_of(jd.Observation(noise + 30, [1.0], jd.GaussianPSF(1.5), bands=["r"])).round().tolist()
    [30.0]
    """
    levels = np.zeros(len(obs.bands))
    for band, (image, weight) in enumerate(zip(np.asarray(obs.images), np.asarray(obs.weights), strict=True)):
        step = int(np.ceil(image.size / MANY_PIXELS))
        values, weights = image.ravel()[::step], weight.ravel()[::step]
        known = weights > 0
        if known.any():
            low, middle = np.percentile(values[known] * np.sqrt(weights[known]), (10, 25))
            levels[band] = middle + LOWER_TAIL * (middle - low)
    return levels


def rough_fwhm(obs: Observation) -> float:
    """FWHM of the widest PSF by the number of pixels above half of its maximum: to a pixel, and at once."""
    stamps = np.asarray(obs.psf.stamp(obs.psf.edge))
    above = (stamps > 0.5 * stamps.max(axis=(-2, -1), keepdims=True)).sum(axis=(-2, -1))
    return float(2 * np.sqrt(above.max() / np.pi))


def without_sky(obs: Observation, sky: Sky) -> Observation:
    """The observation less the planes; unusable pixels stay 0."""
    planes = np.stack([_values(plane, obs.shape) for plane in sky.plane])
    images = np.where(np.asarray(obs.weights) > 0, np.asarray(obs.images) - planes, 0.0)
    return eqx.tree_at(lambda o: o.images, obs, images.astype(np.asarray(obs.images).dtype))


def _distance(shape: tuple[int, int], centers: Float[np.ndarray, "source 2"]) -> Float[np.ndarray, "y x"]:
    """Distance of each pixel from the nearest source."""
    y, x = np.indices(shape)
    distance = np.full(shape, np.inf)
    for center in centers[np.isfinite(centers).all(axis=1)]:
        distance = np.minimum(distance, np.hypot(y - center[0], x - center[1]))
    return distance


def _worth_a_look(
    images: Float[np.ndarray, "band y x"], weights: Float[np.ndarray, "band y x"]
) -> Bool[np.ndarray, " band"]:
    """Bands in which the means of blocks are not what noise makes of a dark sky; most are, and this is fast."""
    counts, total, light = (_blocks(values) for values in (weights > 0, weights, weights * images))
    y, x = (np.broadcast_to(place, total.shape[1:]).ravel() for place in _from_middle(total.shape[1:]))
    columns = np.stack([np.ones_like(y), y, x])
    total, light = total.reshape(len(total), 1, -1), light.reshape(len(light), 1, -1)
    normal, right = (total * columns) @ columns.T, light @ columns.T
    size = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    normal = normal + np.where(size > 0, 1e-9 * size, 1.0) * np.eye(3)  # without data nothing is gained
    gain = (right @ np.linalg.solve(normal, right.mT))[:, 0, 0]
    significance = np.abs(light) / np.sqrt(np.where(total > 0, total, np.inf))
    enough = counts.sum(axis=(1, 2)) >= FEWEST_PIXELS
    return enough & ((gain > SIGNIFICANCE**2) | (significance.max(axis=(1, 2)) > BLOCK_SIGNIFICANCE))


def _blocks(values: np.ndarray) -> np.ndarray:
    """Sums over blocks of pixels along the last two axes; the last blocks may be smaller."""
    rows, columns = values.shape[-2:]
    sums = np.add.reduceat(values.astype(float), range(0, rows, BLOCK), axis=-2)
    return np.add.reduceat(sums, range(0, columns, BLOCK), axis=-1)


def _values(plane: Float[np.ndarray, "3"], shape: tuple[int, int]) -> Float[np.ndarray, "y x"]:
    """A plane on all pixels of a frame."""
    y, x = _from_middle(shape)
    return plane[0] + plane[1] * y + plane[2] * x


def _from_middle(shape: tuple[int, int]) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    """Coordinates of the pixels, counted from the middle of the frame."""
    y, x = (place - (n - 1) / 2 for place, n in zip(np.indices(shape), shape, strict=True))
    return y, x


def _plane(image: np.ndarray, weight: np.ndarray, far: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, bool]:
    """Level and slopes of the sky in one band, and whether its outskirts are bright instead."""
    y, x = _from_middle(image.shape)
    used = far.copy()
    for _ in range(2):
        typical = np.median(image[used])
        used = far & (np.abs(image - typical) * np.sqrt(weight) < CLIP)
    if used.sum() < max(FEWEST_PIXELS, FEWEST_LEFT * far.sum()):
        return np.zeros(3), True
    inflation = _correlated(image, weight, used)

    def fitted(*columns: np.ndarray) -> tuple[np.ndarray, float]:
        """Best coefficients of some columns, and by how much they make χ² smaller."""
        root = np.sqrt(weight[used])
        matrix = np.stack([np.broadcast_to(column, image.shape)[used] * root for column in columns], axis=1)
        right = image[used] * root
        found, *_ = np.linalg.lstsq(matrix, right)
        return found, float(right @ matrix @ found) / inflation**2

    (level,), of_level = fitted(np.ones(image.shape))
    tilted, of_plane = fitted(np.ones(image.shape), y, x)
    middle = np.median(distance[used])
    inner, outer = (_mean(image, weight, used & part) for part in (distance < middle, distance >= middle))
    falls = inner[0] - outer[0] > OUTSKIRTS * abs(outer[0]) + np.hypot(inner[1], outer[1])
    if level > 0 and falls:
        return np.zeros(3), bool(outer[0] > OUTSKIRTS_SIGNIFICANCE * inflation * outer[1])
    if of_plane - of_level > SLOPE_CHI2:
        return tilted, False
    # light of galaxies reaches the inner half first; nothing but the sky is negative
    evidence = outer[0] / (inflation * outer[1]) if level > 0 else np.sqrt(of_level)
    return np.array([level if evidence > SIGNIFICANCE else 0.0, 0.0, 0.0]), False


def _mean(image: np.ndarray, weight: np.ndarray, used: np.ndarray) -> tuple[float, float]:
    """Weighted mean of some pixels, and its error; of none, 0 and infinity."""
    total = weight[used].sum()
    return (float((image * weight)[used].sum() / total), float(total**-0.5)) if total > 0 else (0.0, np.inf)


def _correlated(image: np.ndarray, weight: np.ndarray, used: np.ndarray) -> float:
    """Scatter of the means of blocks of pixels over that of independent ones; at least 1."""
    total = _blocks(np.where(used, weight, 0.0))
    known = _blocks(used) > BLOCK**2 / 2
    if known.sum() < BLOCK:
        return 1.0
    means = _blocks(np.where(used, weight * image, 0.0))[known] / total[known]
    pulls = (means - np.median(means)) * np.sqrt(total[known])
    return max(1.0, float(1.4826 * np.median(np.abs(pulls))))  # the median absolute deviation of a Gaussian is σ / 1.48


def _lit_border(image: np.ndarray, weight: np.ndarray, far: np.ndarray, length: int) -> np.ndarray:
    """Pixels of the border that are brighter than what lies a FWHM further in, by stretches of that length."""
    lit = np.zeros(image.shape, bool)
    depth = BORDER + max(length, 1)
    if min(image.shape) < 3 * depth:
        return lit
    for turns in range(4):
        pixels, weights, usable, found = (np.rot90(array, turns) for array in (image, weight, far, lit))
        strips = slice(0, BORDER), slice(depth, depth + BORDER)
        outer, inner = (_stretches(pixels[rows], weights[rows] * usable[rows], length) for rows in strips)
        excess = outer[0] - inner[0]
        bright = excess > BORDER_SIGNIFICANCE * np.hypot(outer[1], inner[1])
        found[:BORDER] |= bright[None, :]  # a view of the same pixels
    return lit


def _stretches(pixels: np.ndarray, weights: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each stretch of a strip, and its error; infinite where most of it is unknown."""
    box = np.ones(max(length, 1))
    total = np.convolve(weights.sum(axis=0), box, mode="same")
    signal = np.convolve((weights * pixels).sum(axis=0), box, mode="same")
    count = np.convolve((weights > 0).sum(axis=0).astype(float), box, mode="same")
    known = (count >= BORDER * len(box) / 2) & (total > 0)
    mean = np.where(known, signal / np.where(total > 0, total, 1.0), 0.0)
    return mean, np.where(known, 1 / np.sqrt(np.where(total > 0, total, 1.0)), np.inf)
