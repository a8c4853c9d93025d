"""What spoils the images of a survey: saturation and bleeding, dead columns, cosmic rays, missing corners, borders.

Pixels are spoiled so that nothing of the sky is left in them: a value under a mask does not tell what was there.
"""

import math

import numpy as np

PLANES: dict[str, int] = {"BAD": 0, "SAT": 1, "CR": 3, "EDGE": 4, "NO_DATA": 8}
"""Bit of each mask plane, as in LSST images."""

SATURATION = 1e6
"""Electrons per pixel above which a star saturates."""

BORDER = 3
"""Width in pixels of the border that is marked EDGE."""

_COLUMNS = 1 / 400
"""Bad columns per column."""

_RAYS = 6e-6
"""Cosmic rays per pixel."""

_CORNER = 0.12
"""Legs of the corner without data, as a fraction of the edges of the image."""

_BLEED = 2.0
"""Pixels up and down the column into which charge flows, for each time that a pixel would be full beyond the first."""


def coverage(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Variance relative to that of full depth: larger where gaps between detectors left out some exposures.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Shape (y, x) of the image.

    Returns
    -------
    np.ndarray
        Factor (y, x) on the variance, 1 in most places; float32.

    Examples
    --------
    >>> relative = coverage(np.random.default_rng(1), (200, 300))
    >>> float(relative.min()), bool((relative > 1).any())
    (1.0, True)
    """
    factor = np.ones(shape, np.float32)
    for axis, length in enumerate(shape):
        for _ in range(2):
            middle, half = rng.uniform(0, length), rng.uniform(0.01, 0.03) * length
            strip = slice(max(math.floor(middle - half), 0), max(math.ceil(middle + half), 0))
            factor[(strip, slice(None)) if axis == 0 else (slice(None), strip)] *= rng.uniform(1.1, 1.3)
    return factor


def draw_mask(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw what is wrong with the detector and the coverage of one band.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Shape (y, x) of the image.

    Returns
    -------
    bits : np.ndarray
        Bits of `PLANES` (y, x), uint16. Cosmic rays are BAD, too: nothing repaired them.
    values : np.ndarray
        What the image has in pixels with a bit, whatever the sky; float32.

    Examples
    --------
    >>> bits, values = draw_mask(np.random.default_rng(1), (200, 300))
    >>> bool((bits[0] & 16 > 0).all()), bool(np.isnan(values[bits & 256 > 0]).all())
    (True, True)
    """
    bits, values = np.zeros(shape, np.uint16), np.zeros(shape, np.float32)
    _add_columns(rng, bits)
    _add_rays(rng, bits, values)
    for part in (np.s_[:BORDER], np.s_[-BORDER:], np.s_[:, :BORDER], np.s_[:, -BORDER:]):
        bits[part] |= 1 << PLANES["EDGE"]
    legs = rng.uniform(0.6, 1.0, 2) * _CORNER * np.array(shape)
    y, x = np.ogrid[: shape[0], : shape[1]]
    empty = (shape[0] - 1 - y) / legs[0] + x / legs[1] < 1
    bits[empty] = 1 << PLANES["NO_DATA"]
    values[empty] = np.nan
    return bits, values


def _add_columns(rng: np.random.Generator, bits: np.ndarray) -> None:
    height, width = bits.shape
    for _ in range(1 + rng.poisson(_COLUMNS * width)):
        column, length = rng.integers(width), max(int(height * rng.choice([1.0, 0.5, 0.2])), 1)
        start = rng.integers(height - length + 1)
        bits[start : start + length, column] |= 1 << PLANES["BAD"]


def _add_rays(rng: np.random.Generator, bits: np.ndarray, values: np.ndarray) -> None:
    """Straight tracks of some pixels."""
    height, width = bits.shape
    for _ in range(1 + rng.poisson(_RAYS * bits.size)):
        steps = np.arange(0, 2 + rng.exponential(8.0), 0.5)
        angle, energy = rng.uniform(0, 2 * math.pi), 10 ** rng.uniform(4.0, 5.5)
        y = np.rint(rng.uniform(0, height) + steps * math.sin(angle)).astype(int)
        x = np.rint(rng.uniform(0, width) + steps * math.cos(angle)).astype(int)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        bits[y[inside], x[inside]] |= (1 << PLANES["CR"]) | (1 << PLANES["BAD"])
        values[y[inside], x[inside]] = energy * rng.uniform(0.5, 1.5, inside.sum())


def saturated(noiseless: np.ndarray) -> np.ndarray:
    """Pixels above `SATURATION`, and those into which their charge bleeds along the columns.

    Parameters
    ----------
    noiseless
        Image (y, x) in electrons.

    Returns
    -------
    np.ndarray
        True where saturated.

    Examples
    --------
    >>> image = np.zeros((9, 3))
    >>> image[4, 1] = 2e6
    >>> saturated(image)[:, 1].astype(int).tolist()
    [0, 0, 1, 1, 1, 1, 1, 0, 0]
    """
    full = noiseless > SATURATION
    y, x = np.nonzero(full)
    reach = np.rint(_BLEED * (noiseless[y, x] / SATURATION - 1)).astype(int)
    for row, column, n in zip(y[reach > 0], x[reach > 0], reach[reach > 0], strict=True):
        full[max(row - n, 0) : row + n + 1, column] = True
    return full
