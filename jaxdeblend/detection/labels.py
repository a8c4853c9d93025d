"""A segmentation map of the user's in place of a detection."""

import dataclasses

import numpy as np
import scipy.ndimage
from astropy.table import Column
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..instrument.box import Box
from ..instrument.observation import Observation
from .chi2 import MARGIN, SignificanceMaps, significance, significance_maps
from .footprints import Footprint, cut_footprints, label_regions
from .result import Detection, peak_table
from .sources import BLEND_FLOOR, ERROR_FLOOR, place, shared

GIVEN_ERROR = 0.1
"""1σ error per axis in pixels of positions that come without one."""


def detection_of_labels(
    obs: Observation, labels: object, centers: object | None = None, *, center_error: object = GIVEN_ERROR
) -> Detection:
    """Take a segmentation map, and a catalog if there is one, for a detection.

    Each label is a segment. Segments that touch, over an edge or a corner, share a footprint, as do the pieces of one
    segment that lie apart: a map of parents gives one footprint per label, and a deblended map one per group of
    touching segments.

    Without a catalog each segment has one peak: the most significant of its pixels that are higher than their
    neighbours, in all bands together; in a segment that has none, on the slope of a neighbour, the pixel of the highest
    curvature. It is placed to a fraction of that pixel. With a catalog, each of its positions is a peak.

    Parameters
    ----------
    obs
        The observation.
    labels
        Segmentation map (y, x): 0 where there is no source, else any positive whole numbers, for example the `data` of
        a ``SegmentationImage`` of photutils, or the map of SEP or SExtractor.
    centers
        Positions (y, x) in pixels of a catalog.
    center_error
        1σ error per axis of these in pixels, one number or one for each.

    Returns
    -------
    Detection
        With a column `label`, the segment in the map. Without a catalog, the most significant peak is first. With one,
        rows are those of the catalog, in its order; one that lies in no segment has label 0 and footprint -1, one off
        the image (or NaN) significance 0 as well. Segments in which no position lies are footprints without peaks.

    Raises
    ------
    ValueError
        If the map has not the shape of the images or holds anything but whole numbers from 0 on, if positions are not
        (source, 2), or if there are neither one nor as many errors as positions.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import detection_of_labels
    >>> psf = jd.GaussianPSF(1.5)
    >>> images = np.pad(100 * np.asarray(psf.stamp(17)), ((0, 0), (3, 13), (10, 6)))
    >>> labels = np.zeros((33, 33), int)
    >>> labels[8:15, 15:22] = 70
    >>> found = detection_of_labels(jd.Observation(images, np.ones((1, 33, 33)), psf, bands=("r",)), labels)
    >>> found.centers.round(2).tolist(), found.peaks["label"].tolist(), len(found.footprints)
    ([[11.0, 18.0]], [70], 1)
    """
    segments = _checked(labels, obs.shape)
    maps = significance_maps(obs)
    footprints = _footprints(segments)
    if centers is None:
        pixels, position, error = _peaks(maps, segments)
        on_image = np.ones(len(pixels), bool)
    else:
        position, error = _catalog(centers, center_error)
        pixels, on_image = _pixels(position, obs.shape)
    at = tuple(pixels.T)
    height = np.where(on_image, _significance(maps, pixels), 0.0)
    label, owner = np.where(on_image, segments[at], 0), np.where(on_image, footprints[at] - 1, -1)
    if centers is None:
        order = np.argsort(-height, kind="stable")
        position, height, error, label, owner = (values[order] for values in (position, height, error, label, owner))
        error = np.hypot(error, np.where(shared(owner), BLEND_FLOOR, ERROR_FLOOR))
    peaks = peak_table(position, height, error, owner)
    peaks["label"] = Column(label, description="segment of the map that was given")
    return Detection(peaks, _cut(footprints, owner, height), footprints)


def _checked(labels: object, shape: tuple[int, int]) -> Int[np.ndarray, "y x"]:
    given = labels.filled(0) if isinstance(labels, np.ma.MaskedArray) else np.asarray(labels)
    if given.shape != shape:
        raise ValueError(
            f"labels: got shape {given.shape} for images of shape {shape}; give one label per pixel (y, x)."
        )
    if given.dtype.kind not in "iu":
        raise ValueError(f"labels: got dtype {given.dtype}; give whole numbers, 0 where there is no source.")
    if given.min(initial=0) < 0:
        raise ValueError(f"labels: got {given.min()}; give 0 where there is no source, and positive numbers elsewhere.")
    return given.astype(np.int64)


def _footprints(segments: Int[np.ndarray, "y x"]) -> Int[np.ndarray, "y x"]:
    """Labels of the groups of segments that touch, in the order of their first pixels."""
    inside = segments > 0
    regions, count = label_regions(inside)
    names, segment = np.unique(segments[inside], return_inverse=True)
    # A region and a segment that share a pixel belong to one group.
    links = (np.ones(len(segment), bool), (regions[inside] - 1, count + segment))
    group = connected_components(coo_array(links, shape=(count + len(names),) * 2), directed=False)[1][:count]
    _, first, which = np.unique(group, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[which]
    return np.concatenate([[0], number + 1]).astype(np.int32)[regions]


def _peaks(
    maps: SignificanceMaps, segments: Int[np.ndarray, "y x"]
) -> tuple[Int[np.ndarray, "peak 2"], Float[np.ndarray, "peak 2"], Float[np.ndarray, " peak"]]:
    """Pixel of each segment's peak, its position and error."""
    inside = (slice(MARGIN, -MARGIN),) * 2
    names, area = np.unique(segments[segments > 0], return_counts=True)
    summit = (maps.chi2 == scipy.ndimage.maximum_filter(maps.chi2, 3)) & (maps.chi2 > 0)
    summits = np.where(summit, maps.chi2, -1.0)[inside]
    pixels = _highest(summits, segments, names)
    slope = summits[tuple(pixels.T)] < 0
    pixels[slope] = _highest(maps.curvature[inside], segments, names[slope])
    at = tuple((pixels + MARGIN).T)
    bright = maps.chi2[at] > 0
    slope = slope[bright] & (maps.curvature[at] > 0)[bright]
    # Where there is no light, a source may be anywhere in its segment: a square of this area has this spread.
    position, error = pixels.astype(float), np.sqrt(area / 12)
    position[bright], error[bright] = place(maps, pixels[bright], pixels[bright], slope)
    return pixels, np.clip(position, pixels - 0.5, pixels + 0.5), error


def _highest(
    image: Float[np.ndarray, "y x"], segments: Int[np.ndarray, "y x"], names: Int[np.ndarray, " segment"]
) -> Int[np.ndarray, "segment 2"]:
    """Pixel at which an image is highest in each segment."""
    return np.array(scipy.ndimage.maximum_position(image, segments, names), dtype=np.intp).reshape(-1, 2)


def _catalog(
    centers: object, center_error: object
) -> tuple[Float[np.ndarray, "source 2"], Float[np.ndarray, " source"]]:
    position = np.asarray(centers, float)
    position = position.reshape(-1, 2) if position.size == 0 else position
    if position.ndim != 2 or position.shape[1] != 2:
        raise ValueError(f"centers: got shape {position.shape}; give (source, 2), (y, x) in pixels.")
    error = np.asarray(center_error, float)
    if error.shape not in ((), (len(position),)):
        raise ValueError(
            f"center_error: got shape {error.shape} for {len(position)} sources; give one number, or one per source."
        )
    return position, np.broadcast_to(error, len(position))


def _pixels(
    position: Float[np.ndarray, "source 2"], shape: tuple[int, int]
) -> tuple[Int[np.ndarray, "source 2"], Bool[np.ndarray, " source"]]:
    """Pixel of each position, and whether it is on the image; that of (0, 0) where it is not."""
    on_image = Box((0, 0), shape).contains(position)
    return np.floor(np.where(on_image[:, None], position, 0.0) + 0.5).astype(np.intp), on_image


def _significance(maps: SignificanceMaps, pixels: Int[np.ndarray, "source 2"]) -> Float[np.ndarray, " source"]:
    at = tuple((pixels + MARGIN).T)
    return np.maximum(significance(maps.chi2[at], maps.n_bands[at]), 0.0)


def _cut(
    footprints: Int[np.ndarray, "y x"], owner: Int[np.ndarray, " source"], height: Float[np.ndarray, " source"]
) -> tuple[Footprint, ...]:
    """Footprints whose peaks are in the order of their significance, whatever that of the rows."""
    order = np.argsort(-height, kind="stable")
    found = cut_footprints(footprints, owner[order])
    return tuple(dataclasses.replace(footprint, peaks=order[footprint.peaks]) for footprint in found)
