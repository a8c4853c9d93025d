"""What the simulated survey is: bands, depth, seeing; and the PSF stamps it has."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

PIXEL_SCALE = 0.2
"""Arcseconds per pixel."""

BANDS: tuple[str, ...] = ("u", "g", "r", "i", "z", "y")

WAVELENGTH: dict[str, float] = dict(zip(BANDS, (0.3685, 0.4802, 0.6231, 0.7542, 0.8691, 0.9711), strict=True))
"""Effective wavelength of the bands in micrometres."""

ZEROPOINT: dict[str, float] = dict(zip(BANDS, (34.503, 36.741, 37.485, 37.165, 36.623, 35.793), strict=True))
"""Magnitude of one electron in the ten-year LSST stack."""

SKY_VARIANCE: dict[str, float] = dict(
    zip(BANDS, (1612.0, 24790.0, 130617.0, 188799.0, 257811.0, 298745.0), strict=True)
)
"""Sky variance of the ten-year LSST stack, in squared electrons per pixel."""

SEEING: dict[str, float] = dict(zip(BANDS, (0.81, 0.77, 0.73, 0.71, 0.69, 0.68), strict=True))
"""Median seeing (FWHM) in arcseconds."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """Bands, depth and PSFs that scenes share.

    Attributes
    ----------
    bands
        Names of the bands, from ugrizy.
    psf
        Unit-sum stamps (band, y, x) of odd edge.
    sky_variance
        Variance of the sky (band,), in squared electrons per pixel.
    zeropoint
        Magnitude of one electron (band,).
    psf_fwhm
        FWHM of the PSFs (band,) in pixels, NaN where stamps were given.
    """

    bands: tuple[str, ...]
    psf: np.ndarray
    sky_variance: np.ndarray
    zeropoint: np.ndarray
    psf_fwhm: np.ndarray

    def flux(self, magnitudes: np.ndarray) -> np.ndarray:
        """Electrons (band,) of magnitudes (band,)."""
        return 10 ** (-0.4 * (magnitudes - self.zeropoint))

    def magnitude(self, flux: np.ndarray) -> np.ndarray:
        """Magnitudes (..., band) of electrons (..., band)."""
        return self.zeropoint - 2.5 * np.log10(flux)


def make_survey(
    bands: Sequence[str],
    *,
    psf: np.ndarray | None = None,
    psf_fwhm: float | Sequence[float] | Mapping[str, float] | None = None,
    psf_edge: int = 51,
    sky: float | Sequence[float] | Mapping[str, float] | None = None,
) -> Survey:
    """Describe the survey of a simulation.

    Parameters
    ----------
    bands
        Names of the bands, from ugrizy.
    psf
        PSF stamps (band, y, x) of odd edge, normalized here; by default Moffat profiles of β = 3.
    psf_fwhm
        FWHM of the default PSFs in pixels: one number, one per band, or by name. By default LSST's median
        seeing.
    psf_edge
        Edge of the default PSF stamps.
    sky
        Sky variance per pixel: one number, one per band, or by name. By default LSST after ten years.

    Returns
    -------
    Survey
        The survey.

    Raises
    ------
    ValueError
        If a band is unknown or an option does not fit the bands.

    Examples
    --------
    >>> make_survey(("g", "r"), psf_fwhm=4.0).psf.shape
    (2, 51, 51)
    """
    bands = tuple(bands)
    unknown = [band for band in bands if band not in BANDS]
    if unknown or not bands or len(set(bands)) < len(bands):
        raise ValueError(f"`bands` must be different names out of {''.join(BANDS)}, got {bands}.")
    fwhm = np.full(len(bands), np.nan)
    if psf is None:
        fwhm = _per_band("psf_fwhm", psf_fwhm, bands, {b: s / PIXEL_SCALE for b, s in SEEING.items()})
        psf = np.stack([moffat_stamp(width, edge=psf_edge) for width in fwhm])
    psf = np.asarray(psf, float)
    if psf.ndim != 3 or len(psf) != len(bands) or not (psf.shape[1] % 2 and psf.shape[2] % 2):
        raise ValueError(f"`psf` must be (band, y, x) with {len(bands)} bands and odd edges, got shape {psf.shape}.")
    variance = _per_band("sky", sky, bands, SKY_VARIANCE)
    zeropoint = np.array([ZEROPOINT[band] for band in bands])
    return Survey(bands, psf / psf.sum((1, 2), keepdims=True), variance, zeropoint, fwhm)


def moffat_stamp(fwhm: float, e1: float = 0.0, e2: float = 0.0, *, beta: float = 3.0, edge: int = 51) -> np.ndarray:
    """Pixel-integrated elliptical Moffat profile, (1 + (r / r_d)²)^-β, of unit sum.

    r² = ((1 - e₁) x² - 2 e₂ x y + (1 + e₁) y²) / √(1 - e₁² - e₂²)

    Parameters
    ----------
    fwhm
        Full width at half maximum of the profile in pixels.
    e1, e2
        Ellipticity, (Q_xx - Q_yy, 2 Q_xy) / (Q_xx + Q_yy) of the second moments Q.
    beta
        Steepness of the wings.
    edge
        Odd edge of the stamp.

    Returns
    -------
    np.ndarray
        Stamp (edge, edge), centred on its middle pixel.

    Examples
    --------
    >>> round(float(moffat_stamp(4.0).sum()), 6)
    1.0
    """
    fine = 9
    scale = 0.5 * fwhm / np.sqrt(2 ** (1 / beta) - 1)
    axis = (np.arange(edge * fine) + 0.5) / fine - edge / 2
    y, x = axis[:, None], axis
    squared = ((1 + e1) * y**2 + (1 - e1) * x**2 - 2 * e2 * x * y) / np.sqrt(1 - e1**2 - e2**2)
    values = (1 + squared / scale**2) ** -beta
    stamp = values.reshape(edge, fine, edge, fine).mean((1, 3))
    return stamp / stamp.sum()


def _per_band(
    name: str,
    value: float | Sequence[float] | Mapping[str, float] | None,
    bands: tuple[str, ...],
    default: dict[str, float],
) -> np.ndarray:
    """One positive number per band."""
    if value is None:
        value = default
    if isinstance(value, Mapping):
        missing = [band for band in bands if band not in value]
        if missing:
            raise ValueError(f"`{name}` has no entry for {missing}; give one for each of {bands}.")
        value = [value[band] for band in bands]
    numbers = np.broadcast_to(np.asarray(value, float), len(bands)) if np.ndim(value) == 0 else np.asarray(value, float)
    if numbers.shape != (len(bands),) or not np.all(numbers > 0):
        raise ValueError(f"`{name}` must be positive, one number or one for each of {bands}, got {value}.")
    return np.array(numbers)
