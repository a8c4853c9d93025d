"""Exposures: the images of one piece of sky in several bands, with all that belongs to them, on the host."""

import dataclasses
from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import numpy as np
from astropy import units
from astropy.wcs import WCS
from jaxtyping import Bool, Float, Integer

from ..instrument.box import Box
from ..instrument.kernel import DifferenceKernel
from ..instrument.observation import Observation, beyond_single, check_psf_error
from ..instrument.psf import AbstractPSF, ImagePSF
from ..instrument.psf_field import AbstractPSFField, ShiftedPSFField
from ..runtime.inputs import images_and_variance, plain_mask, plain_numbers, quantity_unit
from .arrays import as_float32, as_float64
from .masks import any_of, as_bits, bad_pattern, free_bit, with_bit
from .nddata_parts import facts_of, is_nddata

_SMALLEST_VARIANCE = float(np.finfo(np.float32).tiny)


class Exposure(eqx.Module):
    """Images of several bands on one pixel grid, as they come from a survey; NumPy arrays.

    Parameters
    ----------
    images
        Images (band, y, x), sky subtracted, on one pixel grid. Masked pixels of masked arrays are unusable. Or
        astropy's `NDData` or `CCDData`, one per band or a cube: what they say stands for arguments that are not given.
    variance
        Variance (band, y, x) in the squared unit, or one number per band. A quantity is converted to the squared unit
        of the images.
    psf
        A PSF, stamps (band, y, x), or an `AbstractPSFField` if it varies over the image.
    bands
        Name of each band.
    mask
        True where a pixel is unusable; (band, y, x) or (y, x). By default those with a bit of a plane that is bad
        (`jaxdeblend.io.DEFAULT_BAD_PLANES`), or with any bit if the planes have no names.
    wcs
        Celestial coordinates of the pixels.
    unit
        Unit of the images, for example ``nJy``; images that are quantities are converted to it. By default their own.
    zero_point
        AB magnitude of one image unit in each band, NaN where unknown.
    mask_bits
        Bits that say what is wrong with a pixel, integers (band, y, x) or (y, x).
    mask_planes
        Number of the bit of each plane that has a name.
    filters
        Name of the filter of each band; by default that of the band.
    psf_error
        Error of the PSF as a fraction of the light of a pixel, one number or one per band, see `Observation`.

    Attributes
    ----------
    mask
        True where a pixel is unusable for whatever reason: masked, NaN or infinite, or of a variance that
        is not positive and finite.

    Raises
    ------
    ValueError
        If shapes, bands, units or PSF do not agree, or numbers are complex.

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
    psf_error: Float[np.ndarray, " band"]
    mask_bits: Integer[np.ndarray, "band y x"] | None
    bands: tuple[str, ...] = eqx.field(static=True)
    wcs: WCS | None = eqx.field(static=True)
    unit: str | None = eqx.field(static=True)
    mask_planes: dict[str, int] = eqx.field(static=True)
    filters: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        images: object,
        variance: object | None = None,
        psf: object | None = None,
        *,
        bands: Sequence[str],
        mask: object | None = None,
        wcs: WCS | None = None,
        unit: str | None = None,
        zero_point: object | None = None,
        mask_bits: object | None = None,
        mask_planes: Mapping[str, int] | None = None,
        filters: Sequence[str] | None = None,
        psf_error: object = 0.0,
    ):
        self.bands = tuple(str(band) for band in bands)
        if is_nddata(images):
            facts = facts_of(images, self.bands)
            images = facts["images"]
            variance = facts["variance"] if variance is None else variance
            psf = facts["psf"] if psf is None else psf
            mask = facts["mask"] if mask is None else facts["mask"] | _mask(mask, facts["mask"].shape)
            wcs = facts["wcs"] if wcs is None else wcs
            unit = facts["unit"] if unit is None else unit
            zero_point = facts["zero_point"] if zero_point is None else zero_point
            filters = facts["filters"] if filters is None else filters
        if variance is None:
            raise ValueError("variance: got None; give the variance of the pixels, or one number per band.")
        images, variance, self.unit = _in_one_unit(images, variance, unit)
        # squares of fluxes in CGS units leave single precision: such exposures stay in double
        double = beyond_single(variance)
        self.images = as_float64(images, "images") if double else as_float32(images, "images")
        if self.images.ndim != 3 or len(self.images) != len(self.bands) or self.images.size == 0:
            raise ValueError(
                f"images: got shape {self.images.shape} for the {len(self.bands)} bands {self.bands}; give "
                "(band, y, x), not empty, with one image per band."
            )
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands: got {self.bands}; every band needs a name of its own.")
        self.variance = _variance(variance, self.images.shape, double=double)
        self.mask_planes = dict(mask_planes or {})
        self.mask_bits = None if mask_bits is None else _bits(mask_bits, self.images.shape)
        if mask is None and self.mask_bits is not None:
            mask = any_of(self.mask_bits, bad_pattern("mask_bits", self.mask_planes))
        good = np.isfinite(self.images) & np.isfinite(self.variance) & (self.variance > 0)
        self.mask = _mask(mask, self.images.shape) | ~good
        self.psf = checked_psf(psf, len(self.bands))
        self.psf_error = check_psf_error(psf_error, len(self.bands))
        self.wcs = wcs
        self.filters = self.bands if filters is None else tuple(filters)
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
        return pixel_scale(self.wcs)

    def plane(self, name: str | int) -> Bool[np.ndarray, "band y x"]:
        """Pixels that have the bit of one mask plane.

        Parameters
        ----------
        name
            Name of the plane, or number of the bit.

        Returns
        -------
        Bool[np.ndarray, "band y x"]
            True where the bit is set.

        Raises
        ------
        ValueError
            If there is no such plane.
        """
        if self.mask_bits is None or (isinstance(name, str) and name not in self.mask_planes):
            known = ", ".join(self.mask_planes) or "no named planes"
            raise ValueError(f"name: got {name!r}, but the exposure has {known}.")
        return any_of(self.mask_bits, 1 << (self.mask_planes[name] if isinstance(name, str) else name))

    def with_plane(self, name: str, pixels: Bool[np.ndarray, "*shape"]) -> "Exposure":
        """The exposure with one more mask plane, or more pixels in one that it has; `mask` stays what it is.

        Parameters
        ----------
        name
            Name of the plane.
        pixels
            True where the bit is to be set; (band, y, x) or (y, x).

        Returns
        -------
        Exposure
            Another exposure that shares all else.

        Raises
        ------
        ValueError
            If the shape is another, or if all 63 bits are taken.
        """
        before = np.zeros(self.images.shape, np.int32) if self.mask_bits is None else self.mask_bits
        bit = self.mask_planes.get(name, free_bit(before, self.mask_planes))
        bits = with_bit(before, _mask(pixels, self.images.shape), bit)
        return dataclasses.replace(self, mask_bits=bits, mask_planes={**self.mask_planes, name: bit})

    def window(self, box: Box) -> "Exposure":
        """Part of the exposure, as one of its own: its pixels are counted from its own corner.

        Parameters
        ----------
        box
            Window inside the exposure.

        Returns
        -------
        Exposure
            Views of the pixels, with the WCS and the PSF moved.

        Raises
        ------
        ValueError
            If the window is empty or reaches beyond the exposure.
        """
        check_window(box, self.shape)
        window = (slice(None), *box.slices)
        return Exposure(
            self.images[window],
            self.variance[window],
            moved_psf(self.psf, box),
            bands=self.bands,
            mask=self.mask[window],
            wcs=moved_wcs(self.wcs, box),
            unit=self.unit,
            zero_point=self.zero_point,
            mask_bits=None if self.mask_bits is None else self.mask_bits[window],
            mask_planes=self.mask_planes,
            filters=self.filters,
            psf_error=self.psf_error,
        )

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
        return psf_at(self.psf, position)

    def widest_fwhm(self) -> float:
        """Largest FWHM of any band in pixels; of a field, the largest at the corners, edges and the middle."""
        return widest_fwhm(self.psf, self.shape)

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
        check_window(box, self.shape)
        window = (slice(None), *box.slices)
        mask = self.mask[window] if exclude is None else self.mask[window] | exclude
        images, variance, psf = self.images[window], self.variance[window], self.psf_at(box.center)
        error = self.psf_error
        return Observation(images, variance, psf, bands=self.bands, mask=mask, kernel=kernel, psf_error=error)


def psf_at(psf: AbstractPSF | AbstractPSFField, position: object) -> AbstractPSF:
    """The PSF at a position, see `Exposure.psf_at`."""
    if isinstance(psf, AbstractPSF):
        return psf
    place = np.asarray(position, float)
    if place.shape != (2,):
        raise ValueError(f"position: got shape {place.shape}; give one position (y, x) in pixels.")
    return ImagePSF(np.asarray(psf.stamps(place[None]))[0])  # on the host, as all else here


def widest_fwhm(psf: AbstractPSF | AbstractPSFField, shape: tuple[int, int]) -> float:
    """Largest FWHM on an image of a shape, see `Exposure.widest_fwhm`."""
    if isinstance(psf, AbstractPSF):
        return float(np.max(np.asarray(psf.fwhm())))
    ny, nx = shape
    places = np.stack(np.meshgrid([0, (ny - 1) / 2, ny - 1], [0, (nx - 1) / 2, nx - 1], indexing="ij"), axis=-1)
    stamps = np.asarray(psf.stamps(places.reshape(-1, 2)))
    return float(np.max(np.asarray(ImagePSF(stamps.reshape(-1, *stamps.shape[-2:])).fwhm())))


def pixel_scale(wcs: WCS | None) -> float | None:
    """Arcseconds per pixel at the middle, None without a WCS."""
    if wcs is None:
        return None
    return float(np.sqrt(wcs.celestial.proj_plane_pixel_area().to_value("arcsec2")))


def moved_psf(psf: AbstractPSF | AbstractPSFField, box: Box) -> AbstractPSF | AbstractPSFField:
    """The PSF in the pixels of a window."""
    return psf if isinstance(psf, AbstractPSF) or box.start == (0, 0) else ShiftedPSFField(psf, box.start)


def moved_wcs(wcs: WCS | None, box: Box) -> WCS | None:
    """Coordinates of the pixels of a window."""
    return None if wcs is None else wcs.slice(box.slices)


def check_window(box: Box, shape: tuple[int, int]) -> None:
    """Refuse a window that is empty or reaches beyond an exposure of a shape."""
    if min(box.shape) < 1 or Box((0, 0), shape).overlap(box).shape != box.shape:
        raise ValueError(
            f"box: got {box}, which is empty or reaches beyond the exposure of shape {shape}; cut "
            "box.overlap(exposure.box)."
        )


def checked_psf(psf: object, n_bands: int) -> AbstractPSF | AbstractPSFField:
    """A PSF, from whatever stands for one, for that many bands."""
    if psf is None:
        raise ValueError("psf: got None; an exposure needs a PSF, see read_psf, or GaussianPSF to begin with.")
    found = psf if isinstance(psf, AbstractPSF | AbstractPSFField) else ImagePSF(psf)
    if found.n_bands not in (1, n_bands):
        raise ValueError(f"psf: got {found.n_bands} bands for images of {n_bands}; give one PSF, or one per band.")
    return found


def _in_one_unit(images: object, variance: object, unit: str | None) -> tuple[object, object, str | None]:
    """Images and variance as plain numbers, and the unit of the images as it is written."""
    if quantity_unit(images) is None and quantity_unit(variance) is None:  # the unit need not be one that astropy knows
        return images, variance, unit
    try:
        wanted = None if unit is None else units.Unit(unit)
    except ValueError as error:
        raise ValueError(f"unit: got {unit!r}, to which no quantity can be converted.") from error
    numbers, spread, found = images_and_variance(images, variance, unit=wanted)
    return numbers, spread, str(found) if unit is None and found is not None else unit


def _variance(value: object, shape: tuple[int, ...], *, double: bool) -> np.ndarray:
    given = as_float64(value, "variance") if double else np.asarray(jax.device_get(plain_numbers(value, "variance")))
    variance = given if double else as_float32(given)
    if variance.shape == shape[:1]:
        variance = variance[:, None, None]
    elif variance.shape != shape:
        raise ValueError(
            f"variance: got shape {variance.shape} for images of shape {shape}; give the same shape, or one "
            f"number for each of the {shape[0]} bands."
        )
    lost = (given > 0) & (given < _SMALLEST_VARIANCE) & (not double)
    if lost.any():
        raise ValueError(
            f"variance: got values as small as {given[lost].min():.3g}, beyond single precision; change "
            "the unit (for example multiply the images by 1e20, and the variance by 1e40)."
        )
    return np.broadcast_to(variance, shape)


def _mask(value: object | None, shape: tuple[int, ...]) -> np.ndarray:
    if value is None:
        return np.zeros(shape, dtype=bool)
    mask = np.asarray(plain_mask(value))
    if mask.shape not in (shape, shape[1:]):
        raise ValueError(f"mask: got shape {mask.shape} for images of shape {shape}; give (band, y, x) or (y, x).")
    if mask.dtype != bool:
        raise ValueError(f"mask: got dtype {mask.dtype}; give booleans, True where a pixel is unusable.")
    return np.broadcast_to(mask, shape)


def _bits(value: object, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.asarray(value)
    if bits.shape not in (shape, shape[1:]) or not (np.issubdtype(bits.dtype, np.integer) or bits.dtype == bool):
        raise ValueError(
            f"mask_bits: got {bits.dtype} of shape {bits.shape} for images of shape {shape}; give integers "
            "(band, y, x) or (y, x)."
        )
    return np.broadcast_to(as_bits(bits), shape)
