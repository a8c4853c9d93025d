"""From flux in many bands to a grey level that shows the faint and the bright at once."""

import dataclasses

import numpy as np
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class AsinhNorm:
    """Grey level of an intensity, linear where it is faint and logarithmic where it is bright.

    f(I) = asinh((I - black) / softening) / asinh((white - black) / softening)

    (Lupton et al. 2004, PASP 116, 133, equation 2.) Before they are compared, bands are divided by their
    scales. Use one norm for all pictures that are to be compared.

    Parameters
    ----------
    scales
        What each band (band,) is divided by, mostly its noise.
    softening
        Intensity, in units of the scales, at which linear turns into logarithmic.
    white
        Intensity that is shown as 1.
    black
        Intensity that is shown as 0.

    Raises
    ------
    ValueError
        If a scale or the softening is not positive, or white is not above black.

    Examples
    --------
    >>> norm = AsinhNorm(np.ones(3), softening=2.0, white=100.0)
    >>> norm(np.array([0.0, 100.0])).tolist()
    [0.0, 1.0]
    """

    scales: np.ndarray
    softening: float
    white: float
    black: float = 0.0

    def __post_init__(self) -> None:
        if np.ndim(self.scales) != 1 or not np.all(np.asarray(self.scales) > 0):
            raise ValueError(f"`scales` must be positive, one for each band, got {self.scales}.")
        if not self.softening > 0:
            raise ValueError(f"`softening` must be positive, got {self.softening}.")
        if not self.white > self.black:
            raise ValueError(f"`white` must be above `black`, got {self.white} and {self.black}.")

    def __call__(self, intensity: np.ndarray) -> np.ndarray:
        """Grey level of intensities in units of the scales; not clipped."""
        top = np.arcsinh((self.white - self.black) / self.softening)
        return np.arcsinh((intensity - self.black) / self.softening) / top


def asinh_norm(
    images: ArrayLike,
    variance: ArrayLike | None = None,
    *,
    softening: float = 2.0,
    percentile: float = 99.8,
    balance: float = 0.8,
) -> AsinhNorm:
    """Choose a norm for images: the sky dark, outskirts visible, cores not burnt out.

    Parameters
    ----------
    images
        Images (band, y, x), sky subtracted. NaN and infinite pixels are ignored.
    variance
        Their variance (band, y, x), or one number per band; by default estimated from the images. Values that
        are not positive and finite are ignored.
    softening
        Where linear turns into logarithmic, in standard deviations of the noise.
    percentile
        Percentile of the pixels that is shown white; at least 30 standard deviations.
    balance
        White balance: at 0 all bands are equally noisy, at 1 the light of all sources together is grey.

    Returns
    -------
    AsinhNorm
        The norm.

    Raises
    ------
    ValueError
        If the images are not (band, y, x), or the variance does not fit them.

    Examples
    --------
    >>> images = np.random.default_rng(1).normal(0, 2.0, (3, 32, 32))
    >>> asinh_norm(images, np.full(3, 4.0)).scales.tolist()
    [2.0, 2.0, 2.0]
    """
    images = check_images(images)
    scales = noise_of(images) if variance is None else _noise_from(variance, images)
    usable = np.isfinite(images).all(0)
    pixels = images[:, usable]
    scales = scales * _light_of_sources(pixels / scales[:, None]) ** balance
    intensity = np.mean(pixels / scales[:, None], axis=0)
    white = float(np.percentile(intensity, percentile)) if intensity.size else 0.0
    return AsinhNorm(scales, softening=softening, white=max(white, 30.0))


def noise_of(images: ArrayLike) -> np.ndarray:
    """Standard deviation (band,) of the sky in images, from the median absolute deviation.

    Parameters
    ----------
    images
        Images (band, y, x).

    Returns
    -------
    np.ndarray
        Positive numbers; 1 for a band that is empty or constant.

    Examples
    --------
    >>> noise_of(np.random.default_rng(1).normal(0, 2.0, (1, 100, 100))).round(1)
    array([2.])
    """
    return np.array([_noise_of_band(image[np.isfinite(image)]) for image in check_images(images)])


def check_images(images: ArrayLike, name: str = "images") -> np.ndarray:
    """Host copy of images in double precision, if they are (band, y, x).

    Parameters
    ----------
    images
        Images.
    name
        Name of the argument, for the message.

    Returns
    -------
    np.ndarray
        The images.

    Raises
    ------
    ValueError
        If they are not (band, y, x).

    Examples
    --------
    >>> check_images(np.zeros((1, 2, 3), np.float32)).dtype
    dtype('float64')
    """
    images = np.asarray(images, float)
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(f"`{name}` must be (band, y, x) and not empty, got shape {images.shape}.")
    return images


def _light_of_sources(pixels: np.ndarray) -> np.ndarray:
    """Light (band,) of the pixels (band, pixel) well above a noise of 1, relative to the mean of the bands.

    Brightness is compressed first, or else one bright source would decide; limited to 1/3 and 3.
    """
    bright = pixels[:, pixels.mean(0) > 3]
    if not bright.size:
        return np.ones(len(pixels))
    light = np.log(np.maximum(bright / bright.mean(0), 0.05)).mean(1)
    return np.exp(np.clip(light - light.mean(), -np.log(3), np.log(3)))


def _noise_of_band(pixels: np.ndarray) -> float:
    """Scaled median absolute deviation; of a noiseless image, a thousandth of its peak."""
    if not pixels.size:
        return 1.0
    spread = 1.4826 * float(np.median(np.abs(pixels - np.median(pixels))))
    return spread or float(np.max(np.abs(pixels))) / 1000 or 1.0


def _noise_from(variance: ArrayLike, images: np.ndarray) -> np.ndarray:
    """Standard deviation of the sky from the variance: the lower quarter, where there are no sources."""
    variance = np.asarray(variance, float)
    if variance.shape not in (images.shape, images.shape[:1]):
        expected = f"{images.shape} or {images.shape[:1]}, like `images`"
        raise ValueError(f"`variance` must be of shape {expected}, got {variance.shape}.")
    bands = [band[np.isfinite(band) & (band > 0)] for band in variance.reshape(len(images), -1)]
    return np.array([np.sqrt(np.percentile(band, 25)) if band.size else 1.0 for band in bands])
