"""Sources found at several scales: what the filter of the PSF sees, and what only wavelets that are wider do.

The maps are made in float64 on the host, as those of `jaxdeblend.detection.chi2`, but by direct sums, not by
transforms: a wavelet is the difference of two smoothed images, and the noise of the coarse ones is a hundred times
smaller than that of a pixel. In float32 the rounding of a bright star's core would be several σ there.
"""

import dataclasses
import itertools
import math

import astropy.units as u
import numpy as np
import scipy.ndimage
from astropy.table import Column
from jaxtyping import Bool, Float, Int

from ..instrument.observation import Observation
from ..ops.starlet import TAPS
from .bands import detect_together, growth_in_pixels
from .chi2 import MARGIN, MIN_COVERAGE, SIGMA_PER_FWHM, SignificanceMaps, noise_curvature, tiles
from .footprints import connected_regions, cut_footprints, first_pixel, grow_mask
from .peaks import hills, refine, separate
from .result import Detection, peak_table
from .sources import BLEND_FLOOR, ERROR_FLOOR, PeakLimits, in_sigma, shared, whole_pixels

SCALES = 3
"""Number of scales beside that of the PSF."""

NARROW = 2
"""Of these, the number of narrow ones, which look for sources on the light of others, too."""

SCALE_TOLD = "sigma of the wavelet that found it, 0 for the filter of the PSF"
"""Description of the column `scale`."""

WHOLE_WAVELET = 0.75
"""Fraction of a wavelet's smoothing that must be on usable pixels for its peaks to be trusted."""


def spline(scale: int) -> Float[np.ndarray, " tap"]:
    r"""The B spline that `scale` steps of smoothing amount to along one axis: φ_j = h_0 ⋆ h_1 ⋆ … ⋆ h_{j-1}.

    Its variance is (4^j - 1) / 3 square pixels.

    Parameters
    ----------
    scale
        Number of steps j.

    Returns
    -------
    Float[np.ndarray, " tap"]
        Taps of unit sum, 4 (2^j - 1) + 1 of them.

    Examples
    --------
    >>> (256 * spline(1)).tolist(), len(spline(3))
    ([16.0, 64.0, 96.0, 64.0, 16.0], 29)
    """
    taps = np.ones(1)
    for step in range(scale):
        spread = np.zeros(4 * 2**step + 1)
        spread[:: 2**step] = TAPS
        taps = np.convolve(taps, spread)
    return taps


def wavelet(
    image: Float[np.ndarray, "y x"], weight: Float[np.ndarray, "y x"], scale: int
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    r"""Wavelet of one scale of one band, and its standard deviation, from usable pixels alone.

    With u = 1 on usable pixels and 0 elsewhere, V the variance of the pixels and ⋆ the convolution,

    .. math::
        w_j = \frac{φ_j ⋆ uI}{φ_j ⋆ u} - \frac{φ_{j+1} ⋆ uI}{φ_{j+1} ⋆ u}, \qquad
        σ_j² = a_j² \, (φ_j² ⋆ uV) - 2 a_j a_{j+1} (φ_j φ_{j+1} ⋆ uV) + a_{j+1}² (φ_{j+1}² ⋆ uV),

    with a = 1 / (φ ⋆ u): the kernel of each pixel is squared, so that noise that differs from pixel to pixel is
    propagated exactly. Far from what is masked and from the border this is the wavelet of `starlet_transform`,
    generation 1. A constant sky has none, whatever is masked.

    Parameters
    ----------
    image
        Image of one band.
    weight
        Weights, 1 / variance; 0 where a pixel is unusable.
    scale
        The scale j; the wavelet is positive within about 2^j pixels.

    Returns
    -------
    wavelet, deviation
        In the unit of the image; both 0 where too little is known.
    coverage
        Fraction of the smoothing that is on usable pixels, the least of both.

    Notes
    -----
    Source of the transform: Starck, Murtagh & Bertero (2011), Handbook of Mathematical Methods in Imaging.

    Examples
    --------
    >>> import numpy as np
    >>> noise = np.random.default_rng(1).normal(size=(256, 256))
    >>> detail, deviation, coverage = wavelet(noise + 100.0, np.ones((256, 256)), 1)
    >>> round(float(np.std(detail / deviation)), 1)
    1.0
    """
    usable = (weight > 0).astype(float)
    variance = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
    coarse = spline(scale + 1)
    fine = np.pad(spline(scale), 2 * 2**scale)
    share, wide_share = _smooth(usable, fine), _smooth(usable, coarse)
    coverage = np.minimum(share, wide_share)
    known = coverage > MIN_COVERAGE
    gain, wide_gain = (np.divide(1.0, each, out=np.zeros_like(each), where=known) for each in (share, wide_share))
    detail = gain * _smooth(usable * image, fine) - wide_gain * _smooth(usable * image, coarse)
    own, wide = gain**2 * _smooth(variance, fine**2), wide_gain**2 * _smooth(variance, coarse**2)
    noise = own + wide - 2 * gain * wide_gain * _smooth(variance, fine * coarse)
    # Where one pixel is all that is usable, both smoothed images are that pixel, and rounding remains.
    known &= noise > 1e-6 * own
    return np.where(known, detail, 0.0), np.sqrt(np.where(known, noise, 0.0)), coverage


def wavelet_maps(obs: Observation, scale: int, *, exclude: Bool[np.ndarray, "y x"] | None = None) -> SignificanceMaps:
    r"""How significant light of one scale is at each pixel, in all bands together.

    .. math:: χ² = \sum_b \max(0, w_{bj} / σ_{bj})²,

    with the wavelets and deviations of `wavelet`.

    Parameters
    ----------
    obs
        The observation.
    scale
        The scale j.
    exclude
        True on pixels that are not to be used.

    Returns
    -------
    SignificanceMaps
        Of which `curvature` is √χ²: a wavelet tells neighbours apart as well as it can.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> y, x = np.mgrid[:65, :65]
    >>> smudge = 3 * np.exp(-((y - 32) ** 2 + (x - 30) ** 2) / 50)
    >>> maps = wavelet_maps(jd.Observation(smudge[None], [1.0], jd.GaussianPSF(1.5), bands=("r",)), 3)
    >>> [int(at) - MARGIN for at in np.unravel_index(maps.chi2.argmax(), maps.chi2.shape)]
    [32, 30]
    """
    shape = (obs.shape[0] + 2 * MARGIN, obs.shape[1] + 2 * MARGIN)
    chi2, n_bands = np.zeros(shape), np.zeros(shape, dtype=np.int16)
    coverage = np.ones(shape, dtype=np.float32)
    images, weights = np.asarray(obs.images), np.asarray(obs.weights)
    weights = weights if exclude is None else np.where(exclude, 0, weights)
    for band in [band for band in range(len(obs.bands)) if weights[band].any()]:
        for tile, inner, cut in tiles(obs.shape, reach(scale)):
            image, weight = (np.pad(full[band][tile].astype(float), MARGIN) for full in (images, weights))
            detail, deviation, share = (part[cut] for part in wavelet(image, weight, scale))
            known = deviation > 0
            ratio = np.divide(detail, deviation, out=np.zeros_like(detail), where=known)
            chi2[inner] += np.maximum(ratio, 0.0) ** 2
            n_bands[inner] += known
            coverage[inner] = np.where(known, np.minimum(coverage[inner], share), coverage[inner])
    bend = noise_curvature(_kernel(scale))
    return SignificanceMaps(chi2, np.sqrt(chi2), n_bands, coverage, (bend, bend))


def detect_scales(
    obs: Observation, *, limits: PeakLimits | None = None, grow: int | None = None, scales: int = SCALES
) -> Detection:
    """Find sources as the filter of the PSF sees them, then those that only wavelets see.

    The first scale is that of the PSF, with its matched filter (`significance_maps`): nothing finds stars on an empty
    sky better. Then come wavelets (`wavelet_maps`), from the first that is about as wide as the PSF to ever wider ones.
    At each scale, regions above the footprint threshold are divided into hills. A hill in which a finer scale has found
    a source is the light of that source, or of several. Any other whose peak is above the threshold is a new source,
    placed where this scale sees it.

    Wavelets hardly see the smooth halo of a galaxy, and the first two find compact sources on it. Those that are wider
    see a moat around each bright source, which hides neighbours or pushes them away. They are made without the pixels
    of all footprints so far, and find what is faint and extended outside of these.

    Parameters
    ----------
    obs
        The observation.
    limits
        What counts as a peak and as a footprint, in σ of each scale.
    grow
        Pixels by which footprints are grown; by default the σ of the broadest PSF.
    scales
        Number of scales beside that of the PSF. Those that are wider than the image are left out.

    Returns
    -------
    Detection
        With a column `scale`: 0 where the filter of the PSF has found the source, else σ in pixels of the wider of the
        two splines whose difference is the wavelet. `significance` is that of this scale.

    Notes
    -----
    In the wavelet that suits it best, any Gaussian source has nine tenths of the S/N that it has in a perfect filter.
    In the filter of the PSF, one that is four times as wide has half of it.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import detect
    >>> y, x = np.mgrid[:65, :65]
    >>> smudge = 0.8 * np.exp(-((y - 32) ** 2 + (x - 30) ** 2) / 50)
    >>> obs = jd.Observation(smudge[None], [1.0], jd.GaussianPSF(1.5), bands=("r",))
    >>> found = detect_scales(obs)
    >>> len(detect(obs).peaks), found.centers.round(1).tolist()
    (0, [[32.0, 30.0]])
    """
    limits = PeakLimits() if limits is None else limits
    found = _Found.of(detect_together(obs, limits=limits, grow=grow).detection)
    radius = growth_in_pixels(float(np.max(np.asarray(obs.psf.fwhm()))), grow)
    for rank, scale in enumerate(wavelet_scales(obs, scales)):
        maps = wavelet_maps(obs, scale, exclude=found.mask if rank >= NARROW else None)
        found = found.with_more(_new_sources(maps, found, spline_sigma(scale + 1), limits), radius)
    return found.detection(limits.min_separation)


def wavelet_scales(obs: Observation, count: int) -> range:
    """Scales from the first whose wider spline is wider than the broadest PSF, as far as they fit in the image.

    Raises
    ------
    ValueError
        If the number is no whole number or negative.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> psf = jd.GaussianPSF(1.5)
    >>> [wavelet_scales(jd.Observation(np.zeros((1, n, n)), [1.0], psf, bands=("r",)), 3) for n in (24, 128)]
    [range(1, 3), range(1, 4)]
    """
    sigma = float(np.max(np.asarray(obs.psf.fwhm()))) * SIGMA_PER_FWHM
    first = next(scale for scale in itertools.count() if spline_sigma(scale + 1) > sigma)
    last = first + whole_pixels("scales", count, 0)
    return range(first, next((scale for scale in range(first, last) if reach(scale) >= min(obs.shape)), last))


def spline_sigma(scale: int) -> float:
    """Standard deviation of `spline` in pixels.

    Examples
    --------
    >>> spline_sigma(1), round(spline_sigma(3), 2)
    (1.0, 4.58)
    """
    return math.sqrt((4**scale - 1) / 3)


@dataclasses.dataclass(frozen=True)
class _Found:
    """Sources of the scales so far, finest first."""

    position: Float[np.ndarray, "source 2"]
    height: Float[np.ndarray, " source"]
    error: Float[np.ndarray, " source"]
    scale: Float[np.ndarray, " source"]
    home: Int[np.ndarray, "source 2"]  # a pixel of the footprint
    mask: Bool[np.ndarray, "y x"]  # of all footprints

    @classmethod
    def of(cls, detection: Detection) -> "_Found":
        """What the filter of the PSF sees."""
        height, error = (np.asarray(detection.peaks[name], float) for name in ("significance", "error"))
        first = np.array([first_pixel(footprint) for footprint in detection.footprints], int).reshape(-1, 2)
        home = first[np.asarray(detection.peaks["footprint"])]
        return cls(detection.centers, height, error, np.zeros(len(home)), home, detection.labels > 0)

    def with_more(self, more: "_Found", radius: int) -> "_Found":
        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(self, name), getattr(more, name)])

        return _Found(
            joined("position"),
            joined("height"),
            joined("error"),
            joined("scale"),
            joined("home"),
            self.mask | grow_mask(more.mask, radius),
        )

    def detection(self, min_separation: float) -> Detection:
        """Peaks, footprints and labels; of two sources too close, the one of the finer scale stays."""
        keep = np.flatnonzero(separate(self.position, -self.scale, distance=min_separation))
        keep = keep[np.argsort(-self.height[keep], kind="stable")]
        labels = connected_regions(self.mask, self.home[keep], min_area=1, grow=0)
        owner = labels[tuple(self.home[keep].T)].astype(np.intp) - 1
        error = np.maximum(self.error[keep], np.where(shared(owner), BLEND_FLOOR, 0.0))
        peaks = peak_table(self.position[keep], self.height[keep], error, owner)
        peaks["scale"] = Column(self.scale[keep], unit=u.pix, description=SCALE_TOLD)
        return Detection(peaks, cut_footprints(labels, owner), labels)


def _new_sources(maps: SignificanceMaps, known: _Found, scale: float, limits: PeakLimits) -> _Found:
    """What a wavelet sees where no finer scale has seen anything."""
    sigma, _ = in_sigma(maps, limits.footprint_threshold)
    hill = hills(sigma, sigma >= limits.footprint_threshold, prominence=limits.prominence)
    pixels = np.clip(np.floor(known.position + 0.5).astype(int), 0, np.array(sigma.shape) - 1)
    tops, area = np.unique(hill[hill >= 0], return_counts=True)
    whole = maps.coverage[MARGIN:-MARGIN, MARGIN:-MARGIN].ravel()[tops] >= WHOLE_WAVELET
    wanted = (sigma.ravel()[tops] >= limits.threshold) & whole & (area >= limits.min_area)
    new = np.setdiff1d(tops[wanted], hill[tuple(pixels.T)])
    at = np.stack(np.divmod(new, sigma.shape[1]), axis=-1)
    position, error = refine(np.sqrt(maps.chi2), at + MARGIN, noise_curvature=maps.noise_curvatures[0])
    position = np.clip(position - MARGIN, -0.5, np.nextafter(np.array(sigma.shape) - 0.5, 0))
    height = sigma.ravel()[new]
    return _Found(position, height, np.hypot(error, ERROR_FLOOR), np.full(len(new), scale), at, np.isin(hill, new))


def reach(scale: int) -> int:
    """Pixels from the centre of a wavelet to its end.

    Examples
    --------
    >>> reach(1)
    6
    """
    return 2 * (2 ** (scale + 1) - 1)


def _kernel(scale: int) -> Float[np.ndarray, "h w"]:
    fine, coarse = np.pad(spline(scale), 2 * 2**scale), spline(scale + 1)
    return np.outer(fine, fine) - np.outer(coarse, coarse)


def _smooth(image: Float[np.ndarray, "y x"], taps: Float[np.ndarray, " tap"]) -> Float[np.ndarray, "y x"]:
    """Convolution with a symmetric kernel along both axes; zero outside the frame."""
    for axis in (0, 1):
        image = scipy.ndimage.correlate1d(image, taps, axis=axis, mode="constant")
    return image
