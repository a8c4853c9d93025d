"""Footprints: the connected regions of pixels that belong to one blend."""

import dataclasses
import math

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Int

from ..instrument.box import Box

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
"""Structure in which pixels that touch at a corner are connected."""


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Pixels of one blend.

    Attributes
    ----------
    box
        Smallest window around the pixels.
    mask
        True on the pixels of the footprint; the shape of the box.
    peaks
        Rows of its peaks in the table of the `Detection`, most significant first.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> Footprint(jd.Box((0, 0), (2, 2)), np.eye(2, dtype=bool), np.array([0])).area
    2
    """

    box: Box
    mask: Bool[np.ndarray, "y x"]
    peaks: Int[np.ndarray, " peak"]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())


def connected_regions(
    mask: Bool[np.ndarray, "y x"], peaks: Int[np.ndarray, "peak 2"], *, min_area: int, grow: int
) -> Int[np.ndarray, "y x"]:
    """Label the regions that hold a peak, grown; regions that touch once grown are one.

    Parameters
    ----------
    mask
        True above the footprint threshold.
    peaks
        Pixels (y, x) of the peaks.
    min_area
        Regions with fewer pixels, before they are grown, are left out.
    grow
        Distance in pixels by which the regions are grown in all directions.

    Returns
    -------
    Int[np.ndarray, "y x"]
        0 outside, then 1, 2, … in the order of the regions' first pixels; int32.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.array([[1, 0, 0, 1, 0, 0, 1]], dtype=bool)
    >>> connected_regions(mask, np.array([[0, 0], [0, 3]]), min_area=1, grow=1).tolist()
    [[1, 1, 1, 1, 1, 0, 0]]
    """
    labels, count = label_regions(mask)
    wanted = np.zeros(count + 1, dtype=bool)
    wanted[labels[tuple(peaks.T)]] = True
    wanted &= np.bincount(labels.ravel(), minlength=count + 1) >= min_area
    wanted[0] = False
    return label_regions(grow_mask(wanted[labels], grow))[0]


def grow_mask(mask: Bool[np.ndarray, "y x"], radius: int) -> Bool[np.ndarray, "y x"]:
    """Grow a mask by a distance in all directions.

    Parameters
    ----------
    mask
        The mask.
    radius
        Distance in pixels; pixels whose centres are at most this far away are added.

    Returns
    -------
    Bool[np.ndarray, "y x"]
        The grown mask, of the same shape.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.zeros((3, 4), dtype=bool); mask[1, 1] = True
    >>> grow_mask(mask, 1).astype(int).tolist()
    [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
    """
    padded = np.pad(mask, radius)
    flat = padded.ravel()
    pixels = np.flatnonzero(flat)
    for dy in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - dy**2)
        for dx in range(-reach, reach + 1):
            flat[pixels + dy * padded.shape[1] + dx] = True
    return padded[radius : radius + mask.shape[0], radius : radius + mask.shape[1]]


def cut_footprints(labels: Int[np.ndarray, "y x"], owner: Int[np.ndarray, " peak"]) -> tuple[Footprint, ...]:
    """Cut each labelled region out of the frame.

    Parameters
    ----------
    labels
        0 outside, k + 1 on footprint k.
    owner
        Footprint k of each peak; -1 for one that is in none.

    Returns
    -------
    tuple of Footprint
        One for each label.

    Examples
    --------
    >>> import numpy as np
    >>> [footprint.area for footprint in cut_footprints(np.array([[1, 1, 0, 2]]), np.array([1, 0]))]
    [2, 1]
    """
    order = np.argsort(owner, kind="stable")
    slices = scipy.ndimage.find_objects(labels)
    members = np.split(order, np.searchsorted(owner[order], np.arange(len(slices))))[1:]
    return tuple(
        Footprint(
            Box(
                (int(rows.start), int(columns.start)),
                (int(rows.stop - rows.start), int(columns.stop - columns.start)),
            ),
            labels[rows, columns] == k + 1,
            peaks,
        )
        for k, ((rows, columns), peaks) in enumerate(zip(slices, members, strict=False))
    )


def first_pixel(footprint: Footprint) -> tuple[int, int]:
    """Pixel (y, x) of the image that is the first of a footprint.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> first_pixel(Footprint(jd.Box((4, 7), (2, 2)), np.eye(2, dtype=bool)[::-1], np.array([0])))
    (4, 8)
    """
    row, column = divmod(int(footprint.mask.argmax()), footprint.mask.shape[1])
    return footprint.box.start[0] + row, footprint.box.start[1] + column


def label_regions(mask: Bool[np.ndarray, "y x"]) -> tuple[Int[np.ndarray, "y x"], int]:
    """Label the regions of pixels that are connected over edges and corners.

    Parameters
    ----------
    mask
        True on the pixels.

    Returns
    -------
    labels, count
        0 outside, then 1, 2, … in the order of the regions' first pixels; and their number.

    Examples
    --------
    >>> import numpy as np
    >>> label_regions(np.array([[1, 0, 0, 1], [0, 1, 0, 1]], dtype=bool))[1]
    2
    """
    labels = np.zeros(mask.shape, dtype=np.int32)
    count = int(scipy.ndimage.label(mask, EIGHT_CONNECTED, output=labels))  # pyright: ignore[reportArgumentType]
    return labels, count
