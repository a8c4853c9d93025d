"""Detections of several bands merged into one list of sources."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import numpy as np
from astropy.table import Column, Table
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from .bands import TOGETHER, BandDetection
from .chi2 import significance
from .footprints import connected_regions, cut_footprints, first_pixel
from .result import Detection, peak_table
from .sources import BLEND_FLOOR, shared

logger = logging.getLogger(__name__)

SAME_RADIUS = 0.5
"""Default of `MergeOptions.same_radius` in units of the FWHM of the broadest PSF."""

NEW_RADIUS = 1.0
"""Default of `MergeOptions.new_radius` in the same unit."""


@dataclasses.dataclass(frozen=True)
class Culling:
    """Which peaks of a footprint stay: those of high rank, or seen in several bands.

    A peak stays if its rank by significance within its footprint, from 0, is below `rank`; or if it was seen in at
    least `n_bands` bands; or if its rank is below `soft_rank` and below the fraction `soft_fraction` of the number of
    peaks. The most significant peak of a footprint thus always stays.

    Parameters
    ----------
    rank
        Number of peaks of a footprint that stay in any case, at least 1.
    n_bands
        Number of bands that save a peak.
    soft_rank
        Rank up to which the more significant of many peaks stay.
    soft_fraction
        Which fraction of the peaks that is.

    Raises
    ------
    ValueError
        If one is out of its range.

    Examples
    --------
    >>> Culling().rank
    20
    """

    rank: int = 20
    n_bands: int = 2
    soft_rank: int = 30
    soft_fraction: float = 0.7

    def __post_init__(self):
        if not self.rank >= 1:
            raise ValueError(f"rank: got {self.rank}; give at least 1, so that no footprint loses all peaks.")
        if not 0 <= self.soft_fraction <= 1:
            raise ValueError(f"soft_fraction: got {self.soft_fraction}; give a fraction between 0 and 1.")

    def keeps(
        self, rank: Int[np.ndarray, " peak"], n_bands: Int[np.ndarray, " peak"], n_peaks: Int[np.ndarray, " peak"]
    ) -> Bool[np.ndarray, " peak"]:
        """Whether peaks stay.

        Parameters
        ----------
        rank
            Rank by significance within the footprint, from 0.
        n_bands
            Number of bands in which each was seen.
        n_peaks
            Number of peaks in the footprint of each.
        """
        soft = (rank < self.soft_rank) & (rank < self.soft_fraction * n_peaks)
        return (rank < self.rank) | (n_bands >= self.n_bands) | soft


@dataclasses.dataclass(frozen=True)
class MergeOptions:
    """How detections of several bands become one.

    Parameters
    ----------
    priority
        Names of the bands, that which counts most first, each exactly once. By default those with more peaks first,
        equals in the order of the observation; name them where overlapping patches must agree. What all bands
        together see comes last in any case.
    together
        Whether `detect` lets what all bands together see take part, as if it were one more band named "chi2". It finds
        what is too faint for each band alone.
    same_radius
        Peaks closer than this many pixels are the same source; by default half the FWHM of the broadest PSF.
    new_radius
        Peaks at least this many pixels from all others are new sources; by default that FWHM.
    culling
        Which peaks of rich footprints stay; by default all.

    Raises
    ------
    ValueError
        If a radius is negative, or `new_radius` below `same_radius`.

    Examples
    --------
    >>> MergeOptions(priority=("i", "r", "g"), same_radius=1.5, new_radius=5.0).priority
    ('i', 'r', 'g')
    """

    priority: tuple[str, ...] | None = None
    together: bool = True
    same_radius: float | None = None
    new_radius: float | None = None
    culling: Culling | None = None

    def __post_init__(self):
        for name, value in (("same_radius", self.same_radius), ("new_radius", self.new_radius)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}: got {value}; give a number of pixels that is not negative.")
        if self.same_radius is not None and self.new_radius is not None and self.new_radius < self.same_radius:
            raise ValueError(
                f"new_radius: got {self.new_radius}, which is below the same_radius of {self.same_radius}; a peak "
                "cannot be both a known source and a new one."
            )


def merge_bands(found: Sequence[BandDetection], *, options: MergeOptions | None = None) -> Detection:
    """Merge the detections of several bands.

    Bands are taken in the order of priority. The distance of each peak of a band to the nearest that is known decides:

    - below `same_radius`, it is that source, whose flag ``merge_peak_<band>`` is set;
    - from `new_radius` on, it is a new source;
    - between the two it is a new source if its band sees the known one as well, within `same_radius` of it, for then
      the band shows two. Otherwise it may be the blurred light of several: no row is added, and the nearest source
      keeps the record of it, ``merge_ambiguous_<band>``.

    A source is placed where the band with the smallest positional error sees it. Its significance is that of χ², the
    sum of the squared signal-to-noise ratios of all bands at its place, seen or not (`significance`): the same figure
    as of a detection in all bands together. It is what sources are ordered and, if wanted, culled by; brightnesses of
    different bands are never compared.

    Footprints that touch become one; ``merge_footprint_<band>`` says which bands have one there.

    Parameters
    ----------
    found
        Detections of the bands, all of one shape.
    options
        Order, radii and culling.

    Returns
    -------
    Detection
        With the columns ``merge_peak_<band>`` and ``merge_ambiguous_<band>`` in `peaks`, and
        ``merge_footprint_<band>`` in `footprint_flags`. The number of culled peaks is ``n_culled`` in the meta data of
        `peaks`.

    Raises
    ------
    ValueError
        If there is no band, if shapes differ, or if the priority does not name each band once.

    Notes
    -----
    Source of the rules: Bosch et al. (2018), PASJ 70, S5, section 4.7, where peaks between the two radii are dropped
    and peaks are ranked by their brightness in whichever band they came from.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import detect_bands
    >>> psf = jd.GaussianPSF(1.5)
    >>> star = np.pad(np.asarray(psf.stamp(17)), ((0, 0), (3, 13), (10, 6)))
    >>> images = np.concatenate([100 * star, 60 * star + 100 * star[:, ::-1]])
    >>> merged = merge_bands(detect_bands(jd.Observation(images, [1.0, 1.0], psf, bands=("g", "r"))))
    >>> merged.centers.round(1).tolist()
    [[11.0, 18.0], [21.0, 18.0]]
    >>> merged.peaks["merge_peak_g"].tolist(), merged.peaks["merge_peak_r"].tolist()
    ([True, False], [True, True])
    """
    options = MergeOptions() if options is None else options
    same, new = _radii(found, options)
    sources = _Sources.none(len(found))
    for band in _order(found, options.priority):
        sources = _join(sources, band, found[band].detection, same, new)
    labels, owner = _footprints(found, sources)
    height = _significance(found, sources)
    own = np.array([one.band != TOGETHER for one in found])
    keep = _kept(owner, height, sources.seen[:, own].sum(axis=1), options.culling)
    keep = keep[np.argsort(-height[keep], kind="stable")]
    logger.info("%d sources in %d bands, %d culled", len(keep), len(found), len(height) - len(keep))
    peaks = _table([one.band for one in found], sources.rows(keep), height[keep], owner[keep])
    peaks = Table(peaks, meta={"n_culled": len(height) - len(keep)})
    return Detection(peaks, cut_footprints(labels, owner[keep]), labels, _footprint_flags(found, labels))


@dataclasses.dataclass(frozen=True)
class _Sources:
    """What is known of the sources so far: place, 1σ error, and for each band what it saw."""

    position: Float[np.ndarray, "source 2"]
    error: Float[np.ndarray, " source"]
    seen: Bool[np.ndarray, "source band"]
    ambiguous: Bool[np.ndarray, "source band"]
    snr: Float[np.ndarray, "source band"]
    home: Int[np.ndarray, "source 2"]  # a pixel of the footprint in which it was found first

    @classmethod
    def none(cls, n_bands: int) -> "_Sources":
        flags = np.zeros((0, n_bands), bool)
        return cls(np.zeros((0, 2)), np.zeros(0), flags, flags, np.zeros((0, n_bands)), np.zeros((0, 2), int))

    def fields(self) -> tuple[np.ndarray, ...]:
        return (self.position, self.error, self.seen, self.ambiguous, self.snr, self.home)

    def rows(self, rows: Int[np.ndarray, " row"]) -> "_Sources":
        return _Sources(*(values[rows] for values in self.fields()))

    def with_more(self, more: "_Sources") -> "_Sources":
        return _Sources(*(np.concatenate(pair) for pair in zip(self.fields(), more.fields(), strict=True)))


def _order(found: Sequence[BandDetection], priority: tuple[str, ...] | None) -> list[int]:
    names = [one.band for one in found]
    bands = [name for name in names if name != TOGETHER]
    if not bands or len({one.snr.shape for one in found}) > 1 or len(set(names)) < len(names):
        told = [(one.band, one.snr.shape) for one in found]
        raise ValueError(f"found: got {told}; give detections of one shape, each of a band of another name.")
    if priority is None:
        bands = sorted(bands, key=lambda name: -len(found[names.index(name)].detection.peaks))
    elif sorted(priority) != sorted(bands):
        raise ValueError(f"priority: got {priority} for the bands {tuple(bands)}; name each of them once.")
    return [names.index(name) for name in [*(priority or bands), *(name for name in names if name == TOGETHER)]]


def _radii(found: Sequence[BandDetection], options: MergeOptions) -> tuple[float, float]:
    fwhm = max((one.fwhm for one in found), default=0.0)
    same = SAME_RADIUS * fwhm if options.same_radius is None else options.same_radius
    return same, max(same, NEW_RADIUS * fwhm) if options.new_radius is None else options.new_radius


def _join(sources: _Sources, band: int, detection: Detection, same: float, new: float) -> _Sources:
    """Add what one band sees."""
    theirs = _as_sources(band, detection, sources.seen.shape[1])
    if len(sources.position) == 0:
        return theirs
    distance, nearest = (np.asarray(values) for values in KDTree(sources.position).query(theirs.position))
    known = distance < same
    # A band that sees the nearest source apart from this peak knows that they are two.
    fresh = ~known & ((distance >= new) | np.isin(nearest, nearest[known]))
    position, error, seen, ambiguous, snr, home = (values.copy() for values in sources.fields())
    seen[nearest[known], band] = True
    ambiguous[nearest[~known & ~fresh], band] = True
    # Peaks are sorted: the first of those that fall on one source is the most significant.
    which, first = np.unique(nearest[known], return_index=True)
    first = np.flatnonzero(known)[first]
    snr[which, band] = theirs.snr[first, band]
    better = theirs.error[first] < sources.error[which]
    which, first = which[better], first[better]
    position[which], error[which] = theirs.position[first], theirs.error[first]
    return _Sources(position, error, seen, ambiguous, snr, home).with_more(theirs.rows(np.flatnonzero(fresh)))


def _as_sources(band: int, detection: Detection, n_bands: int) -> _Sources:
    """The peaks of one band as sources that no other has seen."""
    peaks = detection.peaks
    seen, snr = np.zeros((len(peaks), n_bands), bool), np.zeros((len(peaks), n_bands))
    seen[:, band], snr[:, band] = True, np.asarray(peaks["significance"])
    first = np.array([first_pixel(footprint) for footprint in detection.footprints], int).reshape(-1, 2)
    home = first[np.asarray(peaks["footprint"])]
    return _Sources(detection.centers, np.asarray(peaks["error"], float), seen, np.zeros_like(seen), snr, home)


def _footprints(
    found: Sequence[BandDetection], sources: _Sources
) -> tuple[Int[np.ndarray, "y x"], Int[np.ndarray, " source"]]:
    """Labels of the footprints of all bands together, and the footprint of each source."""
    union = np.logical_or.reduce([one.detection.labels > 0 for one in found])
    labels = connected_regions(union, sources.home, min_area=1, grow=0)
    here = labels[tuple(_pixels(sources.position, union.shape).T)]
    return labels, np.where(here > 0, here, labels[tuple(sources.home.T)]).astype(np.intp) - 1


def _pixels(position: Float[np.ndarray, "source 2"], shape: tuple[int, ...]) -> Int[np.ndarray, "source 2"]:
    return np.clip(np.floor(position + 0.5).astype(int), 0, np.array(shape) - 1)


def _significance(found: Sequence[BandDetection], sources: _Sources) -> Float[np.ndarray, " source"]:
    """Significance of χ² at the sources, where each band that saw one counts with the peak that it saw."""
    at = tuple(_pixels(sources.position, found[0].snr.shape).T)
    bands = [column for column, one in enumerate(found) if one.band != TOGETHER]
    snr = np.stack([found[column].snr[at] for column in bands], axis=-1).astype(float)
    known = np.stack([found[column].known[at] for column in bands], axis=-1) | sources.seen[:, bands]
    chi2 = np.sum(np.maximum(snr, sources.snr[:, bands]) ** 2, axis=-1)
    return significance(chi2, known.sum(axis=-1))


def _kept(
    owner: Int[np.ndarray, " source"],
    height: Float[np.ndarray, " source"],
    n_bands: Int[np.ndarray, " source"],
    culling: Culling | None,
) -> Int[np.ndarray, " kept"]:
    """Rows that survive the culling."""
    if culling is None:
        return np.arange(len(owner))
    order = np.asarray(np.lexsort((-height, owner)))
    n_peaks = np.bincount(owner)[owner]
    rank = np.empty(len(owner), int)
    rank[order] = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order])
    return np.flatnonzero(culling.keeps(rank, n_bands, n_peaks))


def _table(
    names: list[str], sources: _Sources, height: Float[np.ndarray, " source"], owner: Int[np.ndarray, " source"]
) -> Table:
    error = np.maximum(sources.error, np.where(shared(owner), BLEND_FLOOR, 0.0))
    peaks = peak_table(sources.position, height, error, owner)
    for column, name in enumerate(names):
        told = f"whether band {name} sees the source"
        peaks[f"merge_peak_{name}"] = Column(sources.seen[:, column], description=told)
    for column, name in enumerate(names):
        told = f"whether band {name} sees a peak near the source that is neither it nor another"
        peaks[f"merge_ambiguous_{name}"] = Column(sources.ambiguous[:, column], description=told)
    return peaks


def _footprint_flags(found: Sequence[BandDetection], labels: Int[np.ndarray, "y x"]) -> Table:
    """For each footprint, which bands have one there."""
    table = Table()
    for one in found:
        theirs = np.unique(labels[one.detection.labels > 0])
        flag = np.isin(np.arange(1, labels.max(initial=0) + 1), theirs)
        told = f"whether a footprint of band {one.band} is part of it"
        table[f"merge_footprint_{one.band}"] = Column(flag, description=told)
    return table
