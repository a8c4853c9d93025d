"""How significant a source of light is at each pixel, in all bands together.

These maps are made in float64 on the host: in a float32 Fourier transform one saturated pixel of 10⁸ σ would
leave ripples of several σ all over the image, and each would be detected.
"""

import dataclasses
import math
from collections.abc import Collection, Iterator

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.special
from jaxtyping import Bool, Float, Int

from ..instrument.observation import Observation

MARGIN = 2
"""Pixels by which the maps extend beyond the frame on each side: border pixels have all neighbours."""

MIN_COVERAGE = 0.05
"""Least fraction of a point source's information that usable pixels must hold for a band to count."""

TILE = 512
"""Edge in pixels of the pieces in which large frames are filtered."""

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))


def matched_filter(
    image: Float[np.ndarray, "y x"], weight: Float[np.ndarray, "y x"], psf: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
    r"""Best flux of a point source at each pixel of one band, and its inverse variance.

    With the PSF P, the image I and the weights w = 1 / variance, the maximum-likelihood flux of a point
    source centred on a pixel and its inverse variance are

    .. math:: F = (P ⋆ wI) / (P² ⋆ w), \qquad 1 / σ_F² = P² ⋆ w,

    ⋆ being the correlation. Pixels of weight 0, and all that lies outside the frame, contribute nothing.

    Parameters
    ----------
    image
        Image of one band.
    weight
        Weights, 1 / variance; 0 where a pixel is unusable.
    psf
        Unit-sum PSF stamp with odd edges.

    Returns
    -------
    flux, inverse_variance
        In the unit of the image and its inverse square; both 0 where nothing is known.

    Notes
    -----
    Source: N. Kaiser's matched filter as in Szalay, Connolly & Szokoly (1999), AJ 117, 68.

    Examples
    --------
    >>> import numpy as np
    >>> star = np.zeros((9, 9)); star[4, 4] = 2.0
    >>> flux, inverse_variance = matched_filter(star, np.ones((9, 9)), np.ones((1, 1)))
    >>> round(float(flux[4, 4]), 6), round(float(inverse_variance[4, 4]), 6)
    (2.0, 1.0)
    """
    numerator = _correlate(weight * image, psf)
    information = _correlate(weight, psf**2)
    # Where no weight is in reach, the transforms leave their rounding errors.
    known = information > 1e-12 * max(information.max(), np.finfo(float).tiny)
    flux = np.divide(numerator, information, out=np.zeros_like(numerator), where=known)
    return flux, np.where(known, information, 0.0)


@dataclasses.dataclass(frozen=True)
class SignificanceMaps:
    """What `significance_maps` finds, on the frame extended by `MARGIN` pixels on each side.

    Attributes
    ----------
    chi2
        χ² of a point source of any spectrum.
    curvature
        C, a sharper map in σ that tells close neighbours apart.
    n_bands
        Number of bands with data.
    coverage
        Fraction of a point source's information that lies on usable pixels, the least of these bands. Where it
        is below 1, the curvature can be an artefact of missing pixels.
    noise_curvatures
        -∂² ln ρ / ∂x² at zero lag of the noise autocorrelation ρ of √χ² and of C, in pixels⁻², averaged over
        axes and bands. See `jaxdeblend.detection.peaks.refine`.
    """

    chi2: Float[np.ndarray, "y x"]
    curvature: Float[np.ndarray, "y x"]
    n_bands: Int[np.ndarray, "y x"]
    coverage: Float[np.ndarray, "y x"]
    noise_curvatures: tuple[float, float]


def significance_maps(obs: Observation, *, bands: Collection[str] | None = None) -> SignificanceMaps:
    r"""χ² of a point source at each pixel, and a sharper map that tells close neighbours apart.

    Per band, F and its inverse variance D are those of `matched_filter`, and S = F √D is the signal-to-noise
    ratio. The sum over bands of the squared positive ones,

    .. math:: χ² = \sum_b \max(0, S_b)²,

    says how much better a point source of any non-negative spectrum explains the data than none. Two stars
    closer than about two FWHM make one hump in it, as it is as broad as the PSF convolved with itself. They
    part in its curvature,

    .. math:: C² = \sum_b \max(0, -∇²S_b)² / κ_b, \qquad κ_b = Σ(∇²P_b)² / ΣP_b²,

    which is the data seen through the filter -∇²P: the same noise of 1σ, no division by the PSF, thus no
    ringing, and no response to smooth haloes or a constant sky.

    Parameters
    ----------
    obs
        The observation.
    bands
        Names of the bands that take part; by default all.

    Returns
    -------
    SignificanceMaps
        χ², C and what is needed to judge them.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> psf = jd.GaussianPSF(1.5)
    >>> images = np.pad(100 * np.asarray(psf.stamp(17)), ((0, 0), (8, 8), (8, 8)))
    >>> maps = significance_maps(jd.Observation(images, np.ones((1, 33, 33)), psf, bands=("r",)))
    >>> maps.chi2.shape, round(float(maps.chi2.max() ** 0.5), 1)   # 100 / (1.5 √(4π)), less the pixels' blur
    ((37, 37), 18.5)
    """
    shape = (obs.shape[0] + 2 * MARGIN, obs.shape[1] + 2 * MARGIN)
    chi2, squared_curvature = np.zeros(shape), np.zeros(shape)
    n_bands, coverage = np.zeros(shape, dtype=np.int16), np.ones(shape, dtype=np.float32)
    images, weights = np.asarray(obs.images), np.asarray(obs.weights)
    stamps = np.asarray(obs.psf.stamp(obs.psf.edge), dtype=float)
    sigmas = np.asarray(obs.psf.fwhm(), dtype=float) * SIGMA_PER_FWHM
    noise = []
    wanted = [band for band, name in enumerate(obs.bands) if bands is None or name in bands]
    for band in [band for band in wanted if weights[band].any()]:
        psf, sigma = stamps[band % len(stamps)], sigmas[band % len(sigmas)]
        noise.append((noise_curvature(psf), noise_curvature(_curvature_filter(psf))))
        for tile, inner, cut in tiles(obs.shape, psf.shape[0] // 2 + 2):
            image, weight = (np.pad(full[band][tile].astype(float), MARGIN) for full in (images, weights))
            terms = [term[cut] for term in _band_maps(image, weight, psf, sigma)]
            for total, term in zip((chi2, squared_curvature, n_bands), terms, strict=False):
                total[inner] += term
            coverage[inner] = np.where(terms[2], np.minimum(coverage[inner], terms[3]), coverage[inner])
    matched, curved = np.mean(noise, axis=0) if noise else (1.0, 1.0)
    curvature = np.sqrt(squared_curvature, out=squared_curvature)
    return SignificanceMaps(chi2, curvature, n_bands, coverage, (float(matched), float(curved)))


def tiles(
    shape: tuple[int, int], halo: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]]:
    """Pieces of a frame that fit a processor's cache, which is several times faster than the whole at once.

    For each: the pixels to read (with a halo on which its maps depend), the pixels of the full maps to fill,
    and where these lie in the maps of the piece. Maps extend beyond what they are made from by `MARGIN`.

    Examples
    --------
    >>> [(read[0], fill[0], cut[0]) for read, fill, cut in tiles((600, 20), 8)]
    [(slice(0, 520, None), slice(0, 514, None), slice(0, 514, None)),
     (slice(504, 600, None), slice(514, 604, None), slice(10, 100, None))]
    """

    def along(edge: int) -> Iterator[tuple[slice, slice, slice]]:
        for first in range(0, edge, TILE):
            last = min(first + TILE, edge)
            start, stop = max(0, first - halo), min(edge, last + halo)
            begin = first + MARGIN if first > 0 else 0
            end = last + MARGIN if last < edge else edge + 2 * MARGIN
            yield slice(start, stop), slice(begin, end), slice(begin - start, end - start)

    for rows in along(shape[0]):
        for columns in along(shape[1]):
            yield (rows[0], columns[0]), (rows[1], columns[1]), (rows[2], columns[2])


def _band_maps(
    image: Float[np.ndarray, "y x"],
    weight: Float[np.ndarray, "y x"],
    psf: Float[np.ndarray, "h w"],
    sigma: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One band's terms of χ² and C², where it counts, and its coverage."""
    flux, information = matched_filter(image, weight, psf)
    coverage = _coverage(weight > 0, sigma)
    counts = (coverage > MIN_COVERAGE) & (information > 0)
    ratio = np.where(counts, flux * np.sqrt(information), 0.0)
    kappa = np.sum(_curvature_filter(psf) ** 2) / np.sum(psf**2)
    bend = np.where(counts, -scipy.ndimage.laplace(ratio, mode="nearest"), 0.0)
    squared_bend = np.maximum(bend, 0.0) ** 2 / kappa
    return np.maximum(ratio, 0.0) ** 2, squared_bend, counts, coverage


def _curvature_filter(psf: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return -scipy.ndimage.laplace(psf, mode="constant")


def significance(chi2: Float[np.ndarray, "*shape"], n_bands: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    r"""The χ² of a sum of squared positive signal-to-noise ratios as a number of σ of a Gaussian.

    In pure noise each of the n bands is positive with probability ½, so that

    .. math:: p(>χ²) = 2^{-n} \sum_{k=1}^{n} \binom{n}{k} Q(k/2, χ²/2),

    Q being the regularised upper incomplete gamma function, and the result is z with ½ erfc(z/√2) = p. For
    one band z is the signal-to-noise ratio itself. Q is evaluated as exp(-χ²/2) times a finite sum of
    positive terms and z from ln p, so it stays exact where p underflows.

    Parameters
    ----------
    chi2
        Sum of the squared positive signal-to-noise ratios.
    n_bands
        Number of bands in the sum.

    Returns
    -------
    Float[np.ndarray, "*shape"]
        z in σ, 0 where there is no band.

    Notes
    -----
    Source: the "chi-bar-squared" distribution, A. Shapiro (1988), Int. Stat. Rev. 56, 49.

    Examples
    --------
    >>> import numpy as np
    >>> significance(np.array([25.0, 25.0, 1e8]), np.array([1, 6, 6])).round(2).tolist()
    [5.0, 3.97, 10000.0]
    """
    sigma = np.zeros(np.shape(chi2))
    for bands in np.unique(n_bands[n_bands > 0]):
        here = n_bands == bands
        half = np.maximum(chi2[here] / 2, np.finfo(float).tiny)
        terms = [scipy.special.binom(bands, k) * _scaled_tail(k, half) for k in range(1, bands + 1)]
        log_p = np.log(sum(terms)) - bands * math.log(2) - half
        sigma[here] = -scipy.special.ndtri_exp(np.minimum(log_p, -np.finfo(float).tiny))
    return sigma


def _scaled_tail(dof: int, half: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """exp(x) Q(dof / 2, x): a finite sum, DLMF 8.4.10 for even and 8.4.15 for odd dof."""
    first, total = (0.0, np.zeros_like(half)) if dof % 2 == 0 else (0.5, scipy.special.erfcx(np.sqrt(half)))
    for step in range(dof // 2):
        total = total + half ** (first + step) / math.gamma(first + step + 1)
    return total


def _correlate(image: Float[np.ndarray, "y x"], kernel: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "y x"]:
    """Correlation Σ_q k(q) f(p + q) on the pixels of the image, which is zero outside."""
    from scipy.signal import oaconvolve  # late: it loads all of scipy.stats, which takes half a second

    with scipy.fft.set_workers(-1):
        return oaconvolve(image, kernel[::-1, ::-1], mode="same")


def _coverage(usable: Bool[np.ndarray, "y x"], sigma: float) -> Float[np.ndarray, "y x"]:
    """Fraction of a star's information, ∝ P², in usable pixels; P² of a Gaussian is one of σ/√2."""
    return scipy.ndimage.gaussian_filter(usable.astype(np.float32), sigma / math.sqrt(2), mode="constant")


def noise_curvature(kernel: Float[np.ndarray, "h w"]) -> float:
    """-∂² ln ρ / ∂x² of the kernel's autocorrelation at zero lag, mean of both axes.

    In logarithms the finite difference is exact for a Gaussian.

    Examples
    --------
    >>> import numpy as np
    >>> round(noise_curvature(np.array([[0.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 0.0]])), 2)
    1.39
    """
    norm = np.sum(kernel**2)
    lags = [np.sum(kernel[1:] * kernel[:-1]) / norm, np.sum(kernel[:, 1:] * kernel[:, :-1]) / norm]
    return float(np.mean([-2 * math.log(min(max(lag, 0.05), 0.999)) for lag in lags]))
