"""Sources found in each band by itself, as the first step towards a catalog merged over bands."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float32

from ..instrument.observation import Observation
from .chi2 import MARGIN, SIGMA_PER_FWHM, significance_maps
from .result import Detection
from .sources import PeakLimits, find_sources, whole_pixels

TOGETHER = "chi2"
"""Name of what all bands together see."""


@dataclasses.dataclass(frozen=True)
class BandDetection:
    """Sources found in one band.

    Attributes
    ----------
    band
        Name of the band.
    detection
        Its peaks and footprints; `significance` is the signal-to-noise ratio of a point source.
    snr
        Signal-to-noise ratio of a point source at each pixel, 0 where it is negative or nothing is known.
    known
        True where the band has data enough to tell.
    fwhm
        FWHM of the band's PSF in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import detect_bands
    >>> sky = jd.Observation(np.zeros((2, 32, 32)), [1.0, 1.0], jd.GaussianPSF([1.5, 2.0]), bands=("g", "r"))
    >>> [(found.band, len(found.detection.peaks), round(found.fwhm, 1)) for found in detect_bands(sky)]
    [('g', 0, 3.5), ('r', 0, 4.7)]
    """

    band: str
    detection: Detection
    snr: Float32[np.ndarray, "y x"]
    known: Bool[np.ndarray, "y x"]
    fwhm: float


def detect_bands(
    obs: Observation,
    *,
    limits: PeakLimits | None = None,
    grow: int | None = None,
    growth: float = 1.0,
) -> tuple[BandDetection, ...]:
    r"""Find the sources of each band by itself.

    The image I of a band is smoothed with the band's PSF P itself (not with a Gaussian of like width), each pixel with
    its own weight w = 1 / variance, and 0 where it is unusable. The signal-to-noise ratio of a point source is then

    .. math:: S = (P ⋆ wI) / \sqrt{P² ⋆ w},

    with the propagated variance below the fraction line. Regions of S above the footprint threshold, connected over
    edges and corners, that hold a peak above the threshold are footprints, and grown. A plateau is one peak; peaks of
    one hill are told apart by its curvature (`significance_maps`), in which a slowly varying background, the halo of
    a bright neighbour for example, is no more than a constant: none needs to be subtracted.

    Parameters
    ----------
    obs
        The observation.
    limits
        What counts as a peak and as a footprint; here σ are those of one band.
    grow
        Pixels by which footprints are grown; by default `growth` times the σ of the band's PSF.
    growth
        Growth in units of the σ of the band's PSF, rounded to pixels, at least 1. The σ is FWHM / 2.355.

    Returns
    -------
    tuple[BandDetection, ...]
        One for each band of the observation, in its order.

    Raises
    ------
    ValueError
        If `grow` or `growth` is negative.

    Notes
    -----
    What a survey usually does, footprints at 5 σ grown by 2.4 σ of the PSF, is
    ``limits=PeakLimits(footprint_threshold=5), growth=2.4``.

    Source: Bosch et al. (2018), PASJ 70, S5, section 4.7.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import detect_bands
    >>> psf = jd.GaussianPSF(1.5)
    >>> star = np.pad(np.asarray(psf.stamp(17)), ((0, 0), (3, 13), (10, 6)))
    >>> obs = jd.Observation(np.concatenate([100 * star, 0 * star]), [1.0, 1.0], psf, bands=("g", "r"))
    >>> green, red = detect_bands(obs)
    >>> green.detection.centers.round(2).tolist(), len(red.detection.peaks)
    ([[11.0, 18.0]], 0)
    """
    if not 0 <= growth < math.inf:
        raise ValueError(f"growth: got {growth}; give a multiple of the PSF's sigma that is not negative.")
    fwhms = np.broadcast_to(np.asarray(obs.psf.fwhm(), float), len(obs.bands))
    found = []
    inside = (slice(MARGIN, -MARGIN),) * 2
    for band, fwhm in zip(obs.bands, fwhms.tolist(), strict=True):
        radius = growth_in_pixels(fwhm, grow, growth)
        maps = significance_maps(obs, bands=(band,))
        detection = find_sources(maps, limits or PeakLimits(), grow=radius)
        snr = np.sqrt(maps.chi2[inside]).astype(np.float32)
        found.append(BandDetection(band, detection, snr, maps.n_bands[inside] > 0, fwhm))
    return tuple(found)


def detect_together(
    obs: Observation, *, limits: PeakLimits | None = None, grow: int | None = None, growth: float = 1.0
) -> BandDetection:
    """Find the sources that all bands together see, in the form of one more band.

    Parameters
    ----------
    obs
        The observation.
    limits
        What counts as a peak and as a footprint, in σ of a Gaussian, whatever the number of bands.
    grow
        Pixels by which footprints are grown; by default `growth` times the σ of the broadest PSF.
    growth
        Growth in units of that σ, rounded to pixels, at least 1.

    Returns
    -------
    BandDetection
        Named `TOGETHER`. Its `snr` is 0 everywhere: it adds nothing to what the bands themselves say.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> psf = jd.GaussianPSF(1.5)
    >>> faint = np.pad(20 * np.asarray(psf.stamp(17)), ((0, 0), (8, 8), (8, 8)))
    >>> obs = jd.Observation(np.concatenate([faint] * 4), [1.0] * 4, psf, bands=("g", "r", "i", "z"))
    >>> len(detect_together(obs).detection.peaks), [len(one.detection.peaks) for one in detect_bands(obs)]
    (1, [0, 0, 0, 0])
    """
    fwhm = float(np.max(np.asarray(obs.psf.fwhm())))
    radius = growth_in_pixels(fwhm, grow, growth)
    detection = find_sources(significance_maps(obs), limits or PeakLimits(), grow=radius)
    return BandDetection(TOGETHER, detection, np.zeros(obs.shape, np.float32), np.zeros(obs.shape, bool), fwhm)


def growth_in_pixels(fwhm: float, grow: int | None = None, growth: float = 1.0) -> int:
    """Pixels by which footprints are grown: as given, or a multiple of the σ of the PSF, at least 1.

    Examples
    --------
    >>> growth_in_pixels(4.0), growth_in_pixels(4.0, growth=2.4), growth_in_pixels(4.0, 0)
    (2, 4, 0)
    """
    return max(1, round(growth * fwhm * SIGMA_PER_FWHM)) if grow is None else whole_pixels("grow", grow, 0)
