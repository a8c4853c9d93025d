"""A static window of pixels and its algebra."""

from collections.abc import Iterable

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float


class Box(eqx.Module):
    """Half-open window of pixels, start <= (y, x) < stop.

    Parameters
    ----------
    start
        First pixel (y, x).
    shape
        Number of pixels (y, x); not negative.

    Raises
    ------
    ValueError
        If the shape is negative.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> box = jd.Box((2, 3), (4, 5))
    >>> box.stop, box.overlap(jd.Box((0, 0), (4, 4)))
    ((6, 8), Box(start=(2, 3), shape=(2, 1)))
    """

    start: tuple[int, int] = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, start: tuple[int, int], shape: tuple[int, int]):
        if min(shape) < 0:
            raise ValueError(f"shape: got {shape}; both edges of a Box must be >= 0.")
        self.start = (int(start[0]), int(start[1]))
        self.shape = (int(shape[0]), int(shape[1]))

    @classmethod
    def of_mask(cls, mask: Bool[np.ndarray, "y x"]) -> "Box":
        """Bounding box of the pixels that are True; an empty box at (0, 0) if none is.

        Examples
        --------
        >>> import numpy as np
        >>> Box.of_mask(np.array([[False, False, False], [False, True, True]]))
        Box(start=(1, 1), shape=(1, 2))
        """
        rows = np.flatnonzero(mask.any(axis=1)).tolist()
        columns = np.flatnonzero(mask.any(axis=0)).tolist()
        if not rows:
            return cls((0, 0), (0, 0))
        return cls((rows[0], columns[0]), (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))

    @classmethod
    def union(cls, boxes: Iterable["Box"]) -> "Box":
        """Bounding box of several windows; empty ones do not count.

        Examples
        --------
        >>> Box.union([Box((0, 0), (2, 2)), Box((5, 1), (1, 4))])
        Box(start=(0, 0), shape=(6, 5))
        """
        filled = [box for box in boxes if min(box.shape)]
        if not filled:
            return cls((0, 0), (0, 0))
        y0, x0 = (min(box.start[axis] for box in filled) for axis in (0, 1))
        y1, x1 = (max(box.stop[axis] for box in filled) for axis in (0, 1))
        return cls((y0, x0), (y1 - y0, x1 - x0))

    @property
    def stop(self) -> tuple[int, int]:
        """First pixel (y, x) after the window."""
        return (self.start[0] + self.shape[0], self.start[1] + self.shape[1])

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that cut the window out of an image whose first pixel is (0, 0)."""
        if min(self.start) < 0:
            raise ValueError(f"slices: {self} begins before the image; take its overlap with the image first.")
        return (slice(self.start[0], self.stop[0]), slice(self.start[1], self.stop[1]))

    @property
    def center(self) -> tuple[float, float]:
        """Centre (y, x) in pixels; whole numbers are pixel centres."""
        return (self.start[0] + (self.shape[0] - 1) / 2, self.start[1] + (self.shape[1] - 1) / 2)

    def contains(self, positions: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether positions (y, x) fall on a pixel of the window; False for those that are not finite."""
        after_first = positions >= np.array(self.start) - 0.5
        before_last = positions < np.array(self.stop) - 0.5
        return np.all(after_first & before_last, axis=-1)

    def overlap(self, other: "Box") -> "Box":
        """Pixels that are in both windows; an empty shape if there are none."""
        start = (max(self.start[0], other.start[0]), max(self.start[1], other.start[1]))
        stop = (min(self.stop[0], other.stop[0]), min(self.stop[1], other.stop[1]))
        return Box(start, (max(0, stop[0] - start[0]), max(0, stop[1] - start[1])))

    def within(self, outer: "Box") -> tuple[slice, slice]:
        """Slices that cut the window out of an image of another window, which holds it.

        Examples
        --------
        >>> Box((12, 20), (3, 4)).within(Box((10, 20), (8, 8)))
        (slice(2, 5, None), slice(0, 4, None))
        """
        return self.shifted_by(-outer.start[0], -outer.start[1]).slices

    def grow(self, pixels: int) -> "Box":
        """The window with `pixels` more on each side."""
        return Box(
            (self.start[0] - pixels, self.start[1] - pixels),
            (self.shape[0] + 2 * pixels, self.shape[1] + 2 * pixels),
        )

    def shifted_by(self, dy: int, dx: int) -> "Box":
        """The window moved by (dy, dx)."""
        return Box((self.start[0] + dy, self.start[1] + dx), self.shape)
