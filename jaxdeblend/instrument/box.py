"""A static window of pixels and its algebra."""

import equinox as eqx


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

    def contains(self, y: float, x: float) -> bool:
        """Whether the position falls on a pixel of the window."""
        inside_y = self.start[0] - 0.5 <= y < self.stop[0] - 0.5
        return inside_y and self.start[1] - 0.5 <= x < self.stop[1] - 0.5

    def overlap(self, other: "Box") -> "Box":
        """Pixels that are in both windows; an empty shape if there are none."""
        start = (max(self.start[0], other.start[0]), max(self.start[1], other.start[1]))
        stop = (min(self.stop[0], other.stop[0]), min(self.stop[1], other.stop[1]))
        return Box(start, (max(0, stop[0] - start[0]), max(0, stop[1] - start[1])))

    def grow(self, pixels: int) -> "Box":
        """The window with `pixels` more on each side."""
        return Box(
            (self.start[0] - pixels, self.start[1] - pixels),
            (self.shape[0] + 2 * pixels, self.shape[1] + 2 * pixels),
        )

    def shifted_by(self, dy: int, dx: int) -> "Box":
        """The window moved by (dy, dx)."""
        return Box((self.start[0] + dy, self.start[1] + dx), self.shape)
