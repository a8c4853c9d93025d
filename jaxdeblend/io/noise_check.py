"""A look at noise planes: whether they agree with the scatter of the pixels."""

import logging
from collections.abc import Sequence

import numpy as np

from ..instrument.box import Box
from .noise import NOISE_KINDS, SIGMA_OF

logger = logging.getLogger(__name__)

ACCEPTED_RATIOS = (0.5, 2.0)
"""Smallest and largest ratio of the noise of a plane to the scatter of the pixels that raise no doubt."""

BLOCKS = (16, 32)
"""Edges in pixels of the blocks in which the scatter is measured, the larger ones in large images: blocks must be
larger than the correlation of resampled noise, and so small that many have no source."""

MIN_BLOCKS = 4
"""Number of blocks with data that the scatter of an image is measured in, at the least."""

SPACING = 2
"""Distance in pixels of the pixels whose differences are taken."""

MEDIAN_OF_SIZES = 0.6745
"""Median of the absolute value of a standard normal variable."""

QUIET_SHARE = 0.25
"""Share of the blocks that are taken to have little light of sources: that of the quietest is the noise."""

LIKENESS = 1.5
"""A plane looks like another kind if its noise is then that of the pixels within this factor."""

SAMPLES, SAMPLE_EDGE = 3, 256
"""Rows and columns of windows that are read of an image, and their edge: enough to see its noise."""

NAMES = {
    "variance": "a variance",
    "weight": "an inverse variance",
    "rms": "an RMS map",
    "exposure_time": "an exposure-time map",
}
"""What the kinds are called in messages."""


def noise_ratio(
    images: Sequence[np.ndarray], sigmas: Sequence[np.ndarray], usable: Sequence[np.ndarray]
) -> float | None:
    """Noise of a plane in units of the scatter of the pixels.

    The scatter is that of the pixels about the median of their block, not of the differences of neighbours, which the
    correlated noise of resampled images makes smaller. It is measured below the median, since sources add light, and in
    the quietest quarter of the blocks. In crowded fields no block is empty. Where the plane seems to say too little,
    the scatter of second differences counts, of pixels so far apart that resampled noise is hardly correlated, and so
    near that most light of sources cancels.

    Parameters
    ----------
    images
        Windows (y, x) of an image.
    sigmas
        Standard deviation that the plane says their pixels have.
    usable
        Pixels to look at.

    Returns
    -------
    float | None
        The ratio; None where there are too few pixels, or none of them scatters.

    Examples
    --------
    >>> noise = np.random.default_rng(1).normal(0, 2, (128, 128))
    >>> round(noise_ratio([noise], [np.full(noise.shape, 6.0)], [np.ones(noise.shape, bool)]))
    3
    """
    scaled = [_scaled(*window) for window in zip(images, sigmas, usable, strict=True)]
    large = min(min(image.shape) for image in images) >= BLOCKS[1] * MIN_BLOCKS
    edge = BLOCKS[1] if large else BLOCKS[0]
    scatter = _quiet_scatter(scaled, edge)
    if scatter is None:
        return None
    if 1 / scatter >= ACCEPTED_RATIOS[0]:
        return 1 / scatter
    differences = _quiet_scatter([np.abs(_second_differences(values)) for values in scaled], edge, of_size=True)
    return 1 / scatter if differences is None else 1 / max(min(scatter, differences), 1.0)


def _quiet_scatter(windows: Sequence[np.ndarray], edge: int, *, of_size: bool = False) -> float | None:
    """Scatter of the quietest blocks: from the 16th percentile to the median is one standard deviation.

    Of sizes of numbers about 0, it is the median over that of a normal distribution.
    """
    blocks = np.sort(np.concatenate([_blocks(values, edge) for values in windows]), axis=1)  # NaN come last
    counts = np.isfinite(blocks).sum(axis=1)
    blocks, counts = (values[counts >= edge**2 // 2] for values in (blocks, counts))
    row = np.arange(len(blocks))
    median, low = (blocks[row, (share * (counts - 1)).round().astype(int)] for share in (0.5, 0.1587))
    width = median / MEDIAN_OF_SIZES if of_size else median - low
    scatter = width[width > 0]
    return float(np.quantile(scatter, QUIET_SHARE)) if len(scatter) >= MIN_BLOCKS else None


def _scaled(image: np.ndarray, sigma: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Pixels in units of their noise, NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(good & (sigma > 0), image / sigma, np.nan)


def _second_differences(values: np.ndarray) -> np.ndarray:
    """Second differences along both axes, with the noise of the pixels if that is white."""
    for _ in range(2):
        before, middle, after = values[: -2 * SPACING], values[SPACING:-SPACING], values[2 * SPACING :]
        values = ((before - 2 * middle + after) / np.sqrt(6)).T
    return values


def _blocks(values: np.ndarray, edge: int) -> np.ndarray:
    """Pixels of each block that fits in a window."""
    rows, columns = (n // edge for n in values.shape)
    cropped = values[: rows * edge, : columns * edge].reshape(rows, edge, columns, edge)
    return cropped.swapaxes(1, 2).reshape(-1, edge**2)


def check_noise(
    label: str,
    band: str,
    kind: str,
    images: Sequence[np.ndarray],
    planes: Sequence[np.ndarray],
    sigmas: Sequence[np.ndarray],
    usable: Sequence[np.ndarray],
) -> None:
    """Compare noise with pixels in windows of one band: images, planes as given, standard deviations, usable pixels."""
    if not any(good.any() for good in usable):
        return
    rows = [np.concatenate([part.reshape(-1) for part in parts]) for parts in (planes, sigmas, usable)]
    plane, sigma = (float(np.median(values[rows[2]])) for values in rows[:2])
    ratio = noise_ratio(images, sigmas, usable)
    if ratio is not None and not ACCEPTED_RATIOS[0] <= ratio <= ACCEPTED_RATIOS[1]:
        warn_of_strange_noise(label, band, kind, ratio, plane, sigma / ratio)


def windows_to_look_at(shape: tuple[int, int], *, mapped: bool) -> list[Box]:
    """Windows that stand for an image: all of a small one, else some that are spread over it.

    Parameters
    ----------
    shape
        Shape (y, x) of the image.
    mapped
        Whether windows can be read without the rest of the file; otherwise one must do.

    Returns
    -------
    list[Box]
        The windows.

    Examples
    --------
    >>> len(windows_to_look_at((100, 90), mapped=True)), len(windows_to_look_at((4000, 4000), mapped=True))
    (1, 9)
    """
    edge = SAMPLE_EDGE if mapped else SAMPLES * SAMPLE_EDGE
    count = SAMPLES if mapped else 1
    if max(shape) <= count * edge:
        return [Box((0, 0), shape)]
    starts = [
        np.linspace(0, n - min(edge, n), count + 2)[1:-1].astype(int) if n > edge else np.zeros(1, int) for n in shape
    ]
    sizes = (min(edge, shape[0]), min(edge, shape[1]))
    return [Box((int(y), int(x)), sizes) for y in starts[0] for x in starts[1]]


def warn_of_strange_noise(label: str, band: str, kind: str, ratio: float, plane: float, scatter: float) -> None:
    """Say that a noise plane does not agree with the pixels, and what it may be.

    Parameters
    ----------
    label
        File or argument that the plane comes from.
    band
        Its band.
    kind
        What it was taken for, one of `NOISE_KINDS`.
    ratio
        What `noise_ratio` found.
    plane
        Median of its values.
    scatter
        Scatter of the pixels.
    """
    logger.warning(
        "%s: the noise of band %s, taken for %s, is %.3g times the scatter of the pixels (%.3g instead of %.3g). %s",
        label,
        band,
        NAMES[kind],
        ratio,
        ratio * scatter,
        scatter,
        _likely(kind, plane, scatter),
    )


def _likely(kind: str, plane: float, scatter: float) -> str:
    """What a plane may be, and how to say so."""
    factors = {
        other: abs(np.log(SIGMA_OF[other](plane) / scatter))
        for other in NOISE_KINDS
        if other != kind and other in SIGMA_OF and plane > 0
    }
    nearest = min(factors, key=lambda other: factors[other], default=None)
    if nearest is not None and factors[nearest] < np.log(LIKENESS):
        return f"It looks like {NAMES[nearest]}; if so, give it as {_option(nearest)}."
    if kind == "weight":
        return (
            "It looks like an exposure-time map or relative weights, which are proportional to the inverse variance; "
            f"if so, give it as {_option('exposure_time')}."
        )
    return (
        f"It may be of another unit than the image, or of another kind: give it as {_option('weight')}, "
        f"{_option('rms')} or {_option('exposure_time')}, or leave it out."
    )


def _option(kind: str) -> str:
    return f"{kind} (noise_kind, --noise-kind {kind})"
