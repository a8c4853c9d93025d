"""Pixels of FITS files that are read only where they are asked for."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..instrument.box import Box
from .files import PathLike
from .fits_structure import check_structure
from .reading import one_line, reading

_DTYPES = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}
"""Types of pixels by BITPIX."""


@dataclasses.dataclass(frozen=True)
class FilePixels:
    """Where the pixels of an image in a FITS file are; a window of them is read without the rest.

    Attributes
    ----------
    path
        The file.
    extension
        Number of the extension.
    shape
        (y, x), or (band, y, x) for a cube.
    header
        Header of the extension.
    dtype
        Type of the pixels in a file from which they are read directly (memory-mapped); None if they are compressed or
        scaled, and Astropy reads them.
    offset
        First byte of the pixels.
    plane
        Which plane of a cube they are, None for all of it.
    n_axes
        Number of axes in the file, which may begin with some of length 1.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from astropy.io import fits
    >>> from jaxdeblend.io import read_planes
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "g.fits"
    >>> fits.PrimaryHDU(np.arange(12.0).reshape(3, 4)).writeto(path)
    >>> read_planes(path).planes[0].pixels.read(jd.Box((1, 2), (2, 2))).tolist()
    [[6.0, 7.0], [10.0, 11.0]]
    """

    path: Path
    extension: int
    shape: tuple[int, ...]
    header: fits.Header = dataclasses.field(repr=False)
    dtype: np.dtype | None = None
    offset: int = 0
    plane: int | None = None
    n_axes: int = 2

    @property
    def ndim(self) -> int:
        """2 for an image, 3 for a cube."""
        return len(self.shape)

    def of_plane(self, number: int) -> "FilePixels":
        """One plane of a cube."""
        return dataclasses.replace(self, shape=self.shape[1:], plane=number)

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read the pixels.

        Parameters
        ----------
        box
            Window inside the image; None: all of it.

        Returns
        -------
        np.ndarray
            Pixels of the window, scaled as the header says, in the byte order of this machine.

        Raises
        ------
        ValueError
            If the file cannot be read.
        """
        window = (slice(None), slice(None)) if box is None else box.slices
        values = self._through_astropy(window) if self.dtype is None else self._mapped(window)
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _mapped(self, window: tuple[slice, slice]) -> np.ndarray:
        assert self.dtype is not None
        whole = self.shape if self.plane is None else (self.plane + 1, *self.shape)
        try:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, whole)
        except (OSError, ValueError) as error:  # it was there when it was opened
            raise ValueError(f"{self.path}: not a readable FITS file any more ({one_line(error)}).") from error
        image = mapped if self.plane is None else mapped[self.plane]
        values = np.array(image[(..., *window)])
        return _unsigned(values) if self.header.get("BZERO", 0) else values

    def _through_astropy(self, window: tuple[slice, slice]) -> np.ndarray:
        lead = [0] * (self.n_axes - self.ndim)
        if self.plane is not None:
            lead[-1] = self.plane
        inner = (slice(None),) * (self.ndim - 2)
        with open_fits(self.path, check=False) as hdus:
            return np.asarray(hdus[self.extension].section[(*lead, *inner, *window)])


def pixels_of(hdu: Any, path: Path, number: int) -> FilePixels | None:
    """Pixels of an extension, None if it has no image.

    Parameters
    ----------
    hdu
        The extension.
    path
        Its file.
    number
        Number of the extension.

    Returns
    -------
    FilePixels | None
        Where they are.
    """
    full = tuple(hdu.shape or ())
    if len(full) < 2 or 0 in full:
        return None
    shape = full
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    info = hdu.fileinfo()
    plain = not isinstance(hdu, fits.CompImageHDU) and getattr(info["file"], "compression", None) is None
    dtype = _dtype_of_bytes(hdu.header) if plain else None
    return FilePixels(path, number, shape, hdu.header.copy(), dtype, info["datLoc"], None, len(full))


def _dtype_of_bytes(header: Any) -> np.dtype | None:
    """Type of the pixels if the bytes are the values, or unsigned integers by the usual convention; else None."""
    size = int(header["BITPIX"])
    zero = header.get("BZERO", 0)
    unsigned = size in (16, 32, 64) and zero == 1 << (size - 1)
    if header.get("BSCALE", 1) != 1 or (zero != 0 and not unsigned) or "BLANK" in header:
        return None
    return np.dtype(">" + _DTYPES[size])


def _unsigned(values: np.ndarray) -> np.ndarray:
    """Unsigned integers of which half the range was subtracted: the highest bit is flipped."""
    native = values.astype(values.dtype.newbyteorder("="))
    kind = np.dtype(f"u{native.itemsize}")
    return native.view(kind) ^ kind.type(1 << (8 * native.itemsize - 1))


@contextlib.contextmanager
def open_fits(path: PathLike, *, check: bool = True, checksum: bool = False) -> Iterator[Any]:
    """Open a FITS file; whatever goes wrong while it is read becomes one ValueError that names it.

    Parameters
    ----------
    path
        The file.
    check
        Whether to compare the headers with the length of the file first; not needed for one that was opened before.
    checksum
        Whether data must agree with the card DATASUM, where it is there.

    Yields
    ------
    fits.HDUList
        Its extensions.

    Raises
    ------
    ValueError
        If the file is not readable FITS.
    OSError
        If it does not exist, or cannot be read.
    """
    with reading(path, "FITS file") as seen:
        count = check_structure(Path(path)) if check else None
        with fits.open(path, memmap=False, checksum=checksum) as hdus:
            _check_count(hdus, count)
            try:
                yield hdus
            except Exception as error:
                if _truncation(seen):  # which says more than what it led to
                    raise ValueError(_truncation(seen)) from error
                raise
        wrong = _truncation(seen) or (_checksum(seen) if checksum else "")
        if wrong:
            raise ValueError(wrong)


def _check_count(hdus: Any, count: int | None) -> None:
    """Astropy finds the extensions that are there, and no more: else it may go on to find some for ever."""
    if count is None:
        return
    for number in range(count):
        if not isinstance(hdus[number], fits.hdu.base._ValidHDU):
            raise ValueError(f"the header of extension {number} is damaged")
    with contextlib.suppress(IndexError):
        raise ValueError(f"after extension {count - 1} follows what is none: {hdus[count].name or 'unnamed'}")


def read_segmentation(path: PathLike) -> np.ndarray:
    """Read a segmentation map: the first image of a FITS file, whatever its name.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    np.ndarray
        Labels (y, x), for `jaxdeblend.detection.detection_of_labels`.

    Raises
    ------
    ValueError
        If the file is not readable FITS, or holds no image.
    FileNotFoundError
        If it does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "segments.fits"
    >>> fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.eye(3, dtype=int), name="SEGMAP")]).writeto(path)
    >>> read_segmentation(path).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    with open_fits(path) as hdus:
        images = [pixels_of(hdu, Path(path), number) for number, hdu in enumerate(hdus)]
    for pixels in images:
        if pixels is not None and pixels.ndim == 2:
            return pixels.read()
    raise ValueError(f"{path}: holds no image; a segmentation map is one.")


def _truncation(seen: list[warnings.WarningMessage]) -> str:
    """What astropy said about a file that ends too early, if it did."""
    return next((str(warning.message) for warning in seen if "truncated" in str(warning.message)), "")


def _checksum(seen: list[warnings.WarningMessage]) -> str:
    """What astropy said about data that do not agree with their sum; headers may be edited by hand."""
    return next((str(warning.message) for warning in seen if "Datasum verification failed" in str(warning.message)), "")
