"""Parents: the groups of sources that are fitted together, each on a window of its own."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int

from ..detection import Detection
from ..instrument.box import Box
from ..io import Exposure

BOX_STEP = 8
"""Edges of windows are multiples of this many pixels, so that few different shapes occur."""

_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


@dataclasses.dataclass(frozen=True)
class Parent:
    """Sources that are fitted together.

    Attributes
    ----------
    rows
        Rows of the catalog.
    box
        Window of the exposure on which they are fitted.
    exclude
        True on pixels of the window that belong to other parents.
    footprint
        True on pixels of the window that belong to this one.
    """

    rows: Int[np.ndarray, " source"]
    box: Box
    exclude: Bool[np.ndarray, "y x"]
    footprint: Bool[np.ndarray, "y x"]


def find_parents(
    exposure: Exposure,
    detection: Detection,
    centers: object | None = None,
    *,
    margin: int | None = None,
) -> tuple[Parent, ...]:
    """Group sources by the footprint in which they lie.

    Parameters
    ----------
    exposure
        The exposure.
    detection
        Its footprints.
    centers
        Positions (y, x) in pixels; by default the detected peaks. Around one that lies outside every
        footprint, a square as wide as three times the PSF becomes part of the footprints, alone or joined
        to what it touches. Positions off the image or NaN belong to no parent.
    margin
        Pixels by which the window reaches beyond the footprint; by default `default_margin`.

    Returns
    -------
    tuple[Parent, ...]
        Parents in the order of their labels; each has at least one source.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.catalog import find_parents
    >>> from jaxdeblend.detection import detect
    >>> from jaxdeblend.io import Exposure
    >>> exposure = Exposure(np.zeros((1, 64, 64)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> found = detect(exposure.observation())
    >>> centers = np.array([[20, 20], [50, 50], [22, 21]])
    >>> [parent.rows.tolist() for parent in find_parents(exposure, found, centers)]
    [[0, 2], [1]]
    """
    labels = np.asarray(detection.labels)
    positions = detection.centers if centers is None else np.asarray(centers, float).reshape(-1, 2)
    pixels, rows = pixels_of(positions, exposure.shape)
    outside = labels[tuple(pixels.T)] == 0
    if outside.any():
        labels = _with_squares(labels, pixels[outside], math.ceil(1.5 * exposure.widest_fwhm()))
    margin = default_margin(exposure) if margin is None else margin
    owner = labels[tuple(pixels.T)]
    order = np.argsort(owner, kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(owner[order])) + 1) if len(rows) else []
    windows = scipy.ndimage.find_objects(labels)
    return tuple(
        _parent(group, labels, int(label), windows[label - 1], margin)
        for group, label in zip(groups, np.unique(owner), strict=True)
    )


def default_margin(exposure: Exposure) -> int:
    """Pixels by which a window reaches beyond its footprint: the FWHM of the broadest PSF, rounded up."""
    return math.ceil(exposure.widest_fwhm())


def grid_box(box: Box, shape: tuple[int, int], step: int = BOX_STEP) -> Box:
    """Grow a window to edges that are multiples of `step` where the image has the room.

    Parameters
    ----------
    box
        A window inside the image.
    shape
        Shape (y, x) of the image.
    step
        Edges become multiples of it.

    Returns
    -------
    Box
        Window inside the image that contains `box`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> grid_box(jd.Box((0, 90), (9, 10)), (100, 100))
    Box(start=(0, 84), shape=(16, 16))
    """
    pairs = [_grid_range(s, n, size, step) for s, n, size in zip(box.start, box.shape, shape, strict=True)]
    return Box((pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1]))


def _grid_range(start: int, length: int, size: int, step: int) -> tuple[int, int]:
    wanted = min(-(-length // step) * step, size)
    first = start - (wanted - length) // 2
    return min(max(first, 0), size - wanted), wanted


def pixels_of(
    centers: Float[np.ndarray, "source 2"], shape: tuple[int, int]
) -> tuple[Int[np.ndarray, "kept 2"], Int[np.ndarray, " kept"]]:
    """Pixels of the positions that are on the image, and their rows.

    Examples
    --------
    >>> pixels, rows = pixels_of(np.array([[2.6, 3.2], [-0.6, 4.0], [np.nan, 1.0]]), (8, 8))
    >>> pixels.tolist(), rows.tolist()
    ([[3, 3]], [0])
    """
    rows = np.flatnonzero(Box((0, 0), shape).contains(centers))
    pixels = np.clip(np.floor(centers[rows] + 0.5).astype(np.int64), 0, np.array(shape) - 1)
    return pixels, rows


def _with_squares(
    labels: Int[np.ndarray, "y x"], pixels: Int[np.ndarray, "source 2"], half: int
) -> Int[np.ndarray, "y x"]:
    """Labels with a square around each pixel; what touches gets one label."""
    union = labels > 0
    for y, x in pixels:
        union[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = True
    return scipy.ndimage.label(union, structure=_EIGHT_CONNECTED, output=np.int32)[0]  # type: ignore[index]


def _parent(
    rows: Int[np.ndarray, " source"],
    labels: Int[np.ndarray, "y x"],
    label: int,
    window: Sequence[slice],
    margin: int,
) -> Parent:
    tight = Box(
        (window[0].start, window[1].start),
        (window[0].stop - window[0].start, window[1].stop - window[1].start),
    )
    shape = (labels.shape[0], labels.shape[1])
    box = grid_box(tight.grow(margin).overlap(Box((0, 0), shape)), shape)
    inside = labels[box.slices]
    return Parent(np.sort(rows), box, (inside != 0) & (inside != label), inside == label)
