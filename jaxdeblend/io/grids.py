"""Whether the bands of an exposure are on one pixel grid."""

import logging
import warnings
from collections.abc import Sequence

import numpy as np
from astropy.wcs import WCS

logger = logging.getLogger(__name__)

GRID_TOLERANCE = 0.01
"""Largest offset in pixels between the WCS of two bands that counts as the same grid."""


def common_wcs(labels: Sequence[str], wcss: Sequence[WCS | None], shape: tuple[int, int]) -> WCS | None:
    """WCS of the first image that has one; the others must agree with it.

    Parameters
    ----------
    labels
        What the images are called in messages.
    wcss
        WCS of each, None where it has none.
    shape
        Shape (y, x) of the images.

    Returns
    -------
    WCS | None
        The WCS, None if no image has one.

    Raises
    ------
    ValueError
        If a grid is offset from the first by more than `GRID_TOLERANCE` at a corner or the middle.

    Examples
    --------
    >>> common_wcs(["g", "r"], [None, None], (10, 10)) is None
    True
    """
    known = [(label, wcs) for label, wcs in zip(labels, wcss, strict=True) if wcs is not None]
    if not known:
        return None
    (first, reference), *others = known
    if len(known) < len(wcss):
        lacking = ", ".join(label for label, wcs in zip(labels, wcss, strict=True) if wcs is None)
        logger.warning("%s: no celestial WCS; taken to be on the pixel grid of %s.", lacking, first)
    for label, wcs in others:
        dy, dx = _offset(reference, wcs, shape)
        if not max(abs(dy), abs(dx)) <= GRID_TOLERANCE:
            raise ValueError(
                f"{label}: its pixel grid is offset from that of {first} by (dy, dx) = ({dy:+.2f}, "
                f"{dx:+.2f}) pixels; all bands must be on one grid (reproject can do that)."
            )
    return reference


def _offset(reference: WCS, other: WCS, shape: tuple[int, int]) -> tuple[float, float]:
    """Largest offset (dy, dx) between two grids at the corners and the middle."""
    ny, nx = shape
    x = np.array([0, nx - 1, 0, nx - 1, (nx - 1) / 2])
    y = np.array([0, 0, ny - 1, ny - 1, (ny - 1) / 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a distortion that has no inverse there: NaN, hence no agreement
        seen_x, seen_y = other.world_to_pixel_values(*reference.pixel_to_world_values(x, y))
    worst = int(np.argmax(np.nan_to_num(np.hypot(seen_y - y, seen_x - x), nan=np.inf)))
    return float(seen_y[worst] - y[worst]), float(seen_x[worst] - x[worst])


def common_unit(units: Sequence[tuple[str, str | None]]) -> str | None:
    """The unit of all images.

    Parameters
    ----------
    units
        What each image is called in messages, and its unit if it has one.

    Returns
    -------
    str | None
        The unit, None if no image has one.

    Raises
    ------
    ValueError
        If there are different ones.

    Examples
    --------
    >>> common_unit([("g", "nJy"), ("r", None)])
    'nJy'
    """
    known = [(label, unit) for label, unit in units if unit is not None]
    if len({unit for _, unit in known}) > 1:
        listed = ", ".join(f"{label} {unit!r}" for label, unit in dict(known).items())
        raise ValueError(f"unit: the bands have different units ({listed}); convert them, or give `unit` yourself.")
    return known[0][1] if known else None
