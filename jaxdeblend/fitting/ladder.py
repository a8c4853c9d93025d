"""The sizes that things come in: a short ladder, so that blends of any size need a few compiled programs only."""

import bisect

IMAGE_EDGES = (32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048)
PSF_EDGES = (15, 21, 31, 41, 51, 63, 81, 101, 127, 161, 201)
SOURCE_COUNTS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def rung(size: int, ladder: tuple[int, ...]) -> int:
    """Smallest rung that is at least `size`; beyond the ladder the size itself, kept odd if the ladder is odd.

    Examples
    --------
    >>> rung(33, IMAGE_EDGES), rung(43, PSF_EDGES)
    (48, 51)
    """
    place = bisect.bisect_left(ladder, size)
    if place < len(ladder):
        return ladder[place]
    return size if ladder[0] % 2 == 0 else size | 1


def default_stamp_edge(shape: tuple[int, int]) -> int:
    """Odd edge of the stamps for an image of this shape: all of a small image, less of a large one.

    It is the same for an image and for the rung that it is padded to.

    Examples
    --------
    >>> default_stamp_edge((30, 20)), default_stamp_edge((58, 48)), default_stamp_edge((64, 64))
    (31, 63, 63)
    """
    edge = rung(max(shape), IMAGE_EDGES)
    return min(edge - 1, 63 + max(edge - 64, 0) // 4) | 1
