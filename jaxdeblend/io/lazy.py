"""Exposures that stay in their files: only the pixels of a window are read."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from astropy.wcs import WCS

from ..instrument.box import Box
from ..instrument.kernel import DifferenceKernel
from ..instrument.observation import Observation, beyond_single
from ..instrument.psf import AbstractPSF
from ..instrument.psf_field import AbstractPSFField
from ..runtime.progress import announce
from .arrays import as_float32, as_float64
from .exposure import (
    Exposure,
    check_window,
    checked_psf,
    moved_psf,
    moved_wcs,
    pixel_scale,
    psf_at,
    widest_fwhm,
)
from .masks import any_of, as_bits, renumbered
from .pixels import FilePixels

Noise = FilePixels | np.ndarray | float
"""Variance of a band, or what it is computed from: in a file, in memory, or one number."""


@dataclasses.dataclass(frozen=True)
class MaskSource:
    """The mask of one band.

    Attributes
    ----------
    pixels
        Where it is.
    planes
        Its bits by name.
    bad
        Bits that make a pixel unusable; None: any.
    """

    pixels: FilePixels
    planes: Mapping[str, int]
    bad: int | None


@dataclasses.dataclass(frozen=True)
class BandSource:
    """Where the pixels of one band are.

    Attributes
    ----------
    image
        The image.
    noise
        What says how noisy it is.
    to_variance
        Makes a variance of that.
    mask
        The mask, None if there is none.
    """

    image: FilePixels
    noise: Noise
    to_variance: Callable[[np.ndarray], np.ndarray]
    mask: MaskSource | None


@dataclasses.dataclass(frozen=True)
class LazyExposure:
    """An exposure whose pixels are still in their files; made by `open_exposure`.

    Files are opened only while a window is read, and memory-mapped unless they are compressed or scaled. The exposure
    itself is small, and can be sent to other processes.

    Attributes
    ----------
    sources
        Where the pixels of each band are.
    shape
        Shape (y, x) of the images.
    psf, bands, wcs, unit, zero_point, mask_planes, filters, psf_error
        As those of `Exposure`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "gr.fits"
    >>> whole = jd.Exposure(np.ones((2, 400, 300)), [1.0, 4.0], jd.GaussianPSF(1.5), bands="gr")
    >>> lazy = jd.open_exposure(jd.write_exposure(path, whole), bands="gr", psf=jd.GaussianPSF(1.5))
    >>> lazy.shape, lazy.window(jd.Box((100, 200), (50, 60))).shape
    ((400, 300), (50, 60))
    """

    sources: tuple[BandSource, ...]
    shape: tuple[int, int]
    psf: AbstractPSF | AbstractPSFField
    bands: tuple[str, ...]
    wcs: WCS | None
    unit: str | None
    zero_point: np.ndarray
    mask_planes: dict[str, int]
    filters: tuple[str, ...]
    psf_error: np.ndarray

    @property
    def box(self) -> Box:
        """Window of the whole exposure."""
        return Box((0, 0), self.shape)

    @property
    def pixel_scale(self) -> float | None:
        """Arcseconds per pixel at the middle, None without a WCS."""
        return pixel_scale(self.wcs)

    def psf_at(self, position: object) -> AbstractPSF:
        """The PSF at a position (y, x) in pixels, see `Exposure.psf_at`."""
        return psf_at(self.psf, position)

    def widest_fwhm(self) -> float:
        """Largest FWHM of any band in pixels, see `Exposure.widest_fwhm`."""
        return widest_fwhm(self.psf, self.shape)

    def with_psf(self, psf: object) -> "LazyExposure":
        """The same exposure with another PSF, whatever stands for one."""
        return dataclasses.replace(self, psf=checked_psf(psf, len(self.bands)))

    def read(self) -> Exposure:
        """Read all pixels."""
        announce("reading images of %d bands, %d x %d pixels", len(self.bands), *self.shape)
        return self.window(self.box)

    def window(self, box: Box) -> Exposure:
        """Read part of the exposure, as one of its own: its pixels are counted from its own corner.

        Parameters
        ----------
        box
            Window inside the exposure.

        Returns
        -------
        Exposure
            The pixels of the window, with the WCS and the PSF moved.

        Raises
        ------
        ValueError
            If the window is empty or reaches beyond the exposure, or a file has become unreadable.
        """
        check_window(box, self.shape)
        planes = [_image_and_variance(source, box) for source in self.sources]
        images, variance = (np.stack(part) for part in zip(*planes, strict=True))
        bits, bad = self._mask(box)
        try:
            return Exposure(
                images,
                variance,
                moved_psf(self.psf, box),
                bands=self.bands,
                mask=bad,
                wcs=self.wcs if box.start == (0, 0) else moved_wcs(self.wcs, box),
                unit=self.unit,
                zero_point=self.zero_point,
                mask_bits=bits,
                mask_planes=self.mask_planes,
                filters=self.filters,
                psf_error=self.psf_error,
            )
        except ValueError as error:  # it does not know what its pixels were read from
            raise ValueError(f"{', '.join(self._files())}: {error}") from error

    def observation(
        self, box: Box, *, exclude: np.ndarray | None = None, kernel: DifferenceKernel | None = None
    ) -> Observation:
        """Read what is needed to fit one blend, see `Exposure.observation`."""
        return self.window(box).observation(exclude=exclude, kernel=kernel)

    def _files(self) -> list[str]:
        """Files of the pixels, each once."""
        parts = [(one.image, one.noise, None if one.mask is None else one.mask.pixels) for one in self.sources]
        paths = [str(part.path) for band in parts for part in band if isinstance(part, FilePixels)]
        return list(dict.fromkeys(paths))

    def _mask(self, box: Box) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Bits and unusable pixels of a window, by the mask alone."""
        masks = [source.mask for source in self.sources]
        if None in masks:
            return None, None
        found = [(mask, as_bits(mask.pixels.read(box))) for mask in masks if mask is not None]
        bad = np.stack([any_of(bits, mask.bad) for mask, bits in found])
        bits = [
            bits if mask.planes == self.mask_planes else renumbered(bits, mask.planes, self.mask_planes)
            for mask, bits in found
        ]
        return np.stack(bits), bad


def _image_and_variance(source: BandSource, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a window, in double precision where single precision cannot hold their variance."""
    image = source.image.read(box)
    variance = np.broadcast_to(source.to_variance(as_float64(cut(source.noise, box))), image.shape)
    as_float = as_float64 if beyond_single(variance) else as_float32
    return as_float(image), as_float(variance)


def cut(noise: Noise, box: Box) -> np.ndarray:
    """Values of a window; one value of a number."""
    if isinstance(noise, FilePixels):
        return noise.read(box)
    return noise[box.slices] if isinstance(noise, np.ndarray) else np.full((1, 1), noise)
