"""From maps of significance to peaks and footprints."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from .chi2 import MARGIN, SignificanceMaps, significance
from .footprints import connected_regions, cut_footprints
from .peaks import hills, refine, separate
from .result import Detection, peak_table

ERROR_FLOOR = 0.05
"""Least positional error in pixels."""
BLEND_FLOOR = 0.08
"""The same for a peak that shares its footprint with others, whose light pulls at it."""
PARTIAL_FLOOR = 0.3
"""The same, times (1 - c) / √c, for one of which a fraction c only is on usable pixels."""
DRAWN = 2.0
"""Difference in σ at which the curvature's position replaces that of the matched filter."""
WHOLE = 0.999
"""Fraction of a source that must be on usable pixels for its curvature to be trusted."""


@dataclasses.dataclass(frozen=True)
class PeakLimits:
    """What counts as a peak and as a footprint.

    Parameters
    ----------
    threshold
        Least significance of a peak in σ of a Gaussian, whatever the number of bands.
    footprint_threshold
        Least significance of a footprint's pixels before it is grown.
    prominence
        How far a peak must rise above the pass to a higher one, in σ.
    contrast
        Least sharpness of a peak relative to the sharpest in its hill.
    min_area
        Least number of pixels of a footprint before it is grown.
    min_separation
        Peaks closer than this many pixels to a more significant one are dropped.

    Raises
    ------
    ValueError
        If one is out of its range.

    Examples
    --------
    >>> PeakLimits(threshold=4.0).prominence
    4.0
    """

    threshold: float = 5.0
    footprint_threshold: float = 3.0
    prominence: float = 4.0
    contrast: float = 0.01
    min_area: int = 3
    min_separation: float = 2.0

    def __post_init__(self):
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"threshold: got {self.threshold}; give a positive number of sigma.")
        if not 0 < self.footprint_threshold <= self.threshold:
            raise ValueError(
                f"footprint_threshold: got {self.footprint_threshold}; give a positive number of sigma that is not "
                f"above the threshold of {self.threshold}."
            )
        if not self.prominence >= 0:
            raise ValueError(f"prominence: got {self.prominence}; give a number of sigma that is not negative.")
        if not 0 <= self.contrast <= 1:
            raise ValueError(f"contrast: got {self.contrast}; give a fraction between 0 and 1.")
        if not self.min_separation >= 0:
            raise ValueError(
                f"min_separation: got {self.min_separation}; give a number of pixels that is not negative."
            )
        whole_pixels("min_area", self.min_area, 1)


def find_sources(maps: SignificanceMaps, limits: PeakLimits, *, grow: int) -> Detection:
    """Find peaks in maps of significance, and the footprints that they share.

    Regions above the footprint threshold are divided into hills of the significance, one per peak; a hill in which
    the curvature has several prominent peaks counts as that many sources.

    Parameters
    ----------
    maps
        From `significance_maps`.
    limits
        What counts as a peak and as a footprint.
    grow
        Pixels by which footprints are grown.

    Returns
    -------
    Detection
        Table of peaks, most significant first, footprints, and their label image.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import significance_maps
    >>> psf = jd.GaussianPSF(1.5)
    >>> images = np.pad(100 * np.asarray(psf.stamp(17)), ((0, 0), (8, 8), (8, 8)))
    >>> maps = significance_maps(jd.Observation(images, np.ones((1, 33, 33)), psf, bands=("r",)))
    >>> find_sources(maps, PeakLimits(), grow=2).centers.round(2).tolist()
    [[16.0, 16.0]]
    """
    sigma, sharper = in_sigma(maps, limits.footprint_threshold)
    above = sigma >= limits.footprint_threshold
    whole = maps.coverage[MARGIN:-MARGIN, MARGIN:-MARGIN] > WHOLE
    pixels, partners, curved = _find_peaks(sigma, sharper, above, whole, limits)
    position, error = place(maps, pixels, partners, curved)

    labels = connected_regions(above, pixels, min_area=limits.min_area, grow=grow)
    height = sigma[tuple(pixels.T)]
    keep = np.flatnonzero(labels[tuple(pixels.T)] > 0)
    keep = keep[separate(position[keep], height[keep], distance=limits.min_separation)]
    keep = keep[np.argsort(-height[keep], kind="stable")]
    owner = labels[tuple(pixels[keep].T)].astype(np.intp) - 1
    error = np.hypot(error[keep], np.where(shared(owner), BLEND_FLOOR, ERROR_FLOOR))
    return Detection(peak_table(position[keep], height[keep], error, owner), cut_footprints(labels, owner), labels)


def shared(owner: Int[np.ndarray, " peak"]) -> Bool[np.ndarray, " peak"]:
    """Whether a peak's footprint holds others.

    Examples
    --------
    >>> import numpy as np
    >>> shared(np.array([0, 1, 0])).tolist()
    [True, False, True]
    """
    return np.bincount(owner, minlength=1)[owner] > 1


def whole_pixels(name: str, value: int, least: int) -> int:
    """A number of pixels, checked.

    Raises
    ------
    ValueError
        If it is no whole number or too small.

    Examples
    --------
    >>> whole_pixels("grow", 2, 0)
    2
    """
    if int(value) != value or value < least:
        raise ValueError(f"{name}: got {value}; give a whole number of pixels, at least {least}.")
    return int(value)


def in_sigma(
    maps: SignificanceMaps, footprint_threshold: float
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    """Both maps on the frame in Gaussian σ; 0 where no footprint can be.

    Examples
    --------
    >>> import numpy as np
    >>> flat = np.full((5, 5), 16.0)
    >>> maps = SignificanceMaps(flat, np.sqrt(flat), np.ones((5, 5), int), np.ones((5, 5)), (1.0, 1.0))
    >>> in_sigma(maps, 3.0)[0].round(3).tolist(), in_sigma(maps, 4.5)[0].tolist()
    ([[4.0]], [[0.0]])
    """
    chi2, curvature, n_bands = (
        full[MARGIN:-MARGIN, MARGIN:-MARGIN] for full in (maps.chi2, maps.curvature, maps.n_bands)
    )
    sigma, sharper = np.zeros(chi2.shape), np.zeros(chi2.shape)
    # No number of bands makes a χ² more significant than one band does.
    candidate = chi2 >= footprint_threshold**2
    sigma[candidate] = significance(chi2[candidate], n_bands[candidate])
    above = sigma >= footprint_threshold
    sharper[above] = np.maximum(significance(curvature[above] ** 2, n_bands[above]), 0.0)
    return sigma, sharper


def _find_peaks(
    sigma: Float[np.ndarray, "y x"],
    sharper: Float[np.ndarray, "y x"],
    above: Bool[np.ndarray, "y x"],
    whole: Bool[np.ndarray, "y x"],
    limits: PeakLimits,
) -> tuple[Int[np.ndarray, "peak 2"], Int[np.ndarray, "peak 2"], Bool[np.ndarray, " peak"]]:
    """Pixels of the peaks, of their curvature's peaks, and whether there is such a one.

    A hill of the significance with several prominent peaks of the curvature is as many sources.
    """
    hill = hills(sigma, above, prominence=limits.prominence).ravel()
    height, trusted, sharpness = sigma.ravel(), whole.ravel(), sharper.ravel()
    sharp = np.unique(hills(sharper, above, prominence=limits.prominence)[above])
    sharp = sharp[(height[sharp] >= limits.threshold) & trusted[sharp] & trusted[hill[sharp]]]
    sharpest = np.zeros(height.size)
    np.maximum.at(sharpest, hill[sharp], sharpness[sharp])
    sharp = sharp[sharpness[sharp] >= limits.contrast * sharpest[hill[sharp]]]
    home = hill[sharp]
    alone = np.bincount(home, minlength=height.size)[home] == 1
    rest = np.setdiff1d(hill[hill >= 0], home)
    rest = rest[height[rest] >= limits.threshold]
    peaks = np.concatenate([np.where(alone, home, sharp), rest])
    partners = np.concatenate([sharp, rest])
    as_pixels = [np.stack(np.divmod(flat, sigma.shape[1]), axis=-1) for flat in (peaks, partners)]
    return as_pixels[0], as_pixels[1], np.arange(len(peaks)) < len(sharp)


def place(
    maps: SignificanceMaps,
    pixels: Int[np.ndarray, "peak 2"],
    partners: Int[np.ndarray, "peak 2"],
    curved: Bool[np.ndarray, " peak"],
) -> tuple[Float[np.ndarray, "peak 2"], Float[np.ndarray, " peak"]]:
    """Positions in the frame and their errors.

    Where nothing is near, the matched filter places best. The light of a neighbour draws its peaks, and those
    of the curvature much less: where the two differ by more than noise, the curvature's is taken.

    Parameters
    ----------
    maps
        From `significance_maps`.
    pixels
        Pixels (y, x) of the peaks on the frame.
    partners
        Pixels of their peaks in the curvature.
    curved
        Which of them have such a peak.

    Returns
    -------
    position, error
        (y, x) in pixels of the frame, and 1σ per axis.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> images = np.pad(100 * np.asarray(jd.GaussianPSF(1.5).stamp(17)), ((0, 0), (8, 8), (8, 8)))
    >>> from jaxdeblend.detection import significance_maps
    >>> maps = significance_maps(jd.Observation(images, np.ones((1, 33, 33)), jd.GaussianPSF(1.5), bands=("r",)))
    >>> place(maps, np.array([[16, 16]]), np.array([[16, 16]]), np.array([True]))[0].round(2).tolist()
    [[16.0, 16.0]]
    """
    matched, bent = maps.noise_curvatures
    position, error = refine(np.sqrt(maps.chi2), pixels + MARGIN, noise_curvature=matched)
    place, spread = refine(maps.curvature, partners[curved] + MARGIN, noise_curvature=bent)
    limit = DRAWN * np.hypot(spread, ERROR_FLOOR)
    drawn = np.abs(place - position[curved]).max(axis=-1, initial=0.0) > limit
    chosen = np.flatnonzero(curved)[drawn]
    position[chosen], error[chosen] = place[drawn], spread[drawn]
    part = maps.coverage[tuple((pixels + MARGIN).T)]
    error = np.hypot(error, PARTIAL_FLOOR * (1 - part) / np.sqrt(part))
    border = np.array(maps.chi2.shape) - 2 * MARGIN - 0.5
    return np.clip(position - MARGIN, -0.5, np.nextafter(border, 0)), error
