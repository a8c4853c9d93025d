"""Exposures: the images of one piece of sky in several bands, with all that belongs to them, on the host."""

from collections.abc import Sequence

import equinox as eqx
import jax
import numpy as np
from astropy.wcs import WCS
from jaxtyping import Bool, Float

from ..instrument.box import Box
from ..instrument.kernel import DifferenceKernel
from ..instrument.observation import Observation
from ..instrument.psf import AbstractPSF, ImagePSF
from ..instrument.psf_field import AbstractPSFField

_SMALLEST_VARIANCE = float(np.finfo(np.float32).tiny)


class Exposure(eqx.Module):
    """Images of several bands on one pixel grid, as they come from a survey; NumPy arrays.

    Parameters
    ----------
    images
        Images (band, y, x), sky subtracted, on one pixel grid.
    variance
        Variance (band, y, x) in the squared unit, or one number per band.
    psf
        A PSF, stamps (band, y, x), or an `AbstractPSFField` if it varies over the image.
    bands
        Name of each band.
    mask
        True where a pixel is unusable; (band, y, x) or (y, x).
    wcs
        Celestial coordinates of the pixels.
    unit
        Unit of the images, for example ``nJy``.
    zero_point
        AB magnitude of one image unit in each band, NaN where unknown.

    Attributes
    ----------
    mask
        True where a pixel is unusable for whatever reason: masked, NaN or infinite, or of a variance that
        is not positive and finite.

    Raises
    ------
    ValueError
        If shapes, bands or PSF do not agree.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import Exposure
    >>> exposure = Exposure(np.zeros((2, 64, 80)), [1.0, 2.0], jd.GaussianPSF(1.5), bands=("g", "r"))
    >>> exposure.shape, exposure.observation(jd.Box((10, 20), (32, 24))).shape
    ((64, 80), (32, 24))
    """

    images: Float[np.ndarray, "band y x"]
    variance: Float[np.ndarray, "band y x"]
    mask: Bool[np.ndarray, "band y x"]
    psf: AbstractPSF | AbstractPSFField
    zero_point: Float[np.ndarray, " band"]
    bands: tuple[str, ...] = eqx.field(static=True)
    wcs: WCS | None = eqx.field(static=True)
    unit: str | None = eqx.field(static=True)

    def __init__(
        self,
        images: object,
        variance: object,
        psf: object,
        *,
        bands: Sequence[str],
        mask: object | None = None,
        wcs: WCS | None = None,
        unit: str | None = None,
        zero_point: object | None = None,
    ):
        self.bands = tuple(str(band) for band in bands)
        self.images = as_float32(images)
        if self.images.ndim != 3 or len(self.images) != len(self.bands) or self.images.size == 0:
            raise ValueError(
                f"images: got shape {self.images.shape} for the {len(self.bands)} bands {self.bands}; give "
                "(band, y, x), not empty, with one image per band."
            )
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands: got {self.bands}; every band needs a name of its own.")
        self.variance = _variance(variance, self.images.shape)
        good = np.isfinite(self.images) & np.isfinite(self.variance) & (self.variance > 0)
        self.mask = _mask(mask, self.images.shape) | ~good
        if psf is None:
            raise ValueError("psf: got None; an exposure needs a PSF, see read_psf, or GaussianPSF to begin with.")
        self.psf = psf if isinstance(psf, AbstractPSF | AbstractPSFField) else ImagePSF(psf)
        if self.psf.n_bands not in (1, len(self.bands)):
            raise ValueError(
                f"psf: got {self.psf.n_bands} bands for images of {len(self.bands)}; give one PSF, or one per band."
            )
        self.wcs, self.unit = wcs, unit
        unknown = np.full(len(self.bands), np.nan)
        self.zero_point = (
            unknown if zero_point is None else np.broadcast_to(np.asarray(zero_point, float), unknown.shape)
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (y, x) of the images."""
        return (self.images.shape[1], self.images.shape[2])

    @property
    def box(self) -> Box:
        """Window of the whole exposure."""
        return Box((0, 0), self.shape)

    @property
    def pixel_scale(self) -> float | None:
        """Arcseconds per pixel at the middle, None without a WCS."""
        if self.wcs is None:
            return None
        area = self.wcs.celestial.proj_plane_pixel_area().to_value("arcsec2")
        return float(np.sqrt(area))

    def psf_at(self, position: object) -> AbstractPSF:
        """The PSF at a position (y, x) in pixels.

        Parameters
        ----------
        position
            Position; integers are pixel centres.

        Returns
        -------
        AbstractPSF
            The PSF itself where it is the same everywhere, else stamps of the field's own edge.

        Raises
        ------
        ValueError
            If it is not one position.
        """
        if isinstance(self.psf, AbstractPSF):
            return self.psf
        place = np.asarray(position, float)
        if place.shape != (2,):
            raise ValueError(f"position: got shape {place.shape}; give one position (y, x) in pixels.")
        return ImagePSF(np.asarray(self.psf.stamps(place[None]))[0])  # on the host, as all else here

    def widest_fwhm(self) -> float:
        """Largest FWHM of any band in pixels; of a field, the largest at the corners, edges and the middle."""
        if isinstance(self.psf, AbstractPSF):
            return float(np.max(np.asarray(self.psf.fwhm())))
        ny, nx = self.shape
        places = np.stack(np.meshgrid([0, (ny - 1) / 2, ny - 1], [0, (nx - 1) / 2, nx - 1], indexing="ij"), axis=-1)
        stamps = np.asarray(self.psf.stamps(places.reshape(-1, 2)))
        return float(np.max(np.asarray(ImagePSF(stamps.reshape(-1, *stamps.shape[-2:])).fwhm())))

    def observation(
        self,
        box: Box | None = None,
        *,
        exclude: np.ndarray | None = None,
        kernel: DifferenceKernel | None = None,
    ) -> Observation:
        """Cut out what is needed to fit one blend.

        Parameters
        ----------
        box
            Window inside the exposure; None: all of it.
        exclude
            True for pixels (y, x) of the window that are not used, whatever the mask says.
        kernel
            Difference kernel, where one was found for the same PSF before.

        Returns
        -------
        Observation
            The pixels of the window, with the PSF at its centre where that varies.

        Raises
        ------
        ValueError
            If the window is empty or reaches beyond the exposure.
        """
        box = self.box if box is None else box
        if min(box.shape) < 1 or self.box.overlap(box).shape != box.shape:
            raise ValueError(
                f"box: got {box}, which is empty or reaches beyond the exposure of shape {self.shape}; cut "
                "box.overlap(exposure.box)."
            )
        window = (slice(None), *box.slices)
        mask = self.mask[window] if exclude is None else self.mask[window] | exclude
        images, variance, psf = self.images[window], self.variance[window], self.psf_at(box.center)
        return Observation(images, variance, psf, bands=self.bands, mask=mask, kernel=kernel)


def as_float32(values: object) -> np.ndarray:
    """Host array of float32; values beyond its range become infinite, thus unusable."""
    host = np.asarray(jax.device_get(values))
    with np.errstate(over="ignore"):
        return host.astype(np.float32)


def _variance(value: object, shape: tuple[int, ...]) -> np.ndarray:
    given = np.asarray(jax.device_get(value))
    variance = as_float32(given)
    if variance.shape == shape[:1]:
        variance = variance[:, None, None]
    elif variance.shape != shape:
        raise ValueError(
            f"variance: got shape {variance.shape} for images of shape {shape}; give the same shape, or one "
            f"number for each of the {shape[0]} bands."
        )
    lost = (given > 0) & (given < _SMALLEST_VARIANCE)
    if lost.any():
        raise ValueError(
            f"variance: got values as small as {given[lost].min():.3g}, beyond single precision; change "
            "the unit (for example multiply the images by 1e20, and the variance by 1e40)."
        )
    return np.broadcast_to(variance, shape)


def _mask(value: object | None, shape: tuple[int, ...]) -> np.ndarray:
    if value is None:
        return np.zeros(shape, dtype=bool)
    mask = np.asarray(value)
    if mask.shape not in (shape, shape[1:]):
        raise ValueError(f"mask: got shape {mask.shape} for images of shape {shape}; give (band, y, x) or (y, x).")
    if mask.dtype != bool:
        raise ValueError(f"mask: got dtype {mask.dtype}; give booleans, True where a pixel is unusable.")
    return np.broadcast_to(mask, shape)
