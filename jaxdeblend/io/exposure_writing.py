"""Exposures to FITS files, in the layouts of surveys."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from .exposure import Exposure
from .files import PathLike, atomic_path
from .masks import any_of, bad_pattern, free_bit, with_bit

_BAD = "BAD"
"""Plane of pixels that are unusable for a reason that no other plane tells."""


def write_exposure(path: PathLike, exposure: Exposure, *, overwrite: bool = False) -> Path:
    """Write an exposure to a FITS file, whole or not at all; `read_exposure` reads it back.

    Each band has three extensions: IMAGE_<band> with the WCS, BUNIT and FILTER, and the zero point as MAGZERO where it
    is known; VARIANCE_<band>; and MASK_<band>, with the bits of the mask planes and their names (MP_<name>). Pixels
    that are unusable for another reason have the bit of BAD. The PSF is not written.

    Parameters
    ----------
    path
        The file, ``.fits``.
    exposure
        The exposure.
    overwrite
        Whether the file may exist already.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import read_exposure, write_exposure
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "gr.fits"
    >>> exposure = jd.Exposure(np.ones((2, 32, 40)), [1.0, 4.0], jd.GaussianPSF(1.5), bands="gr", unit="nJy")
    >>> again = read_exposure(write_exposure(path, exposure), bands="gr", psf=exposure.psf)
    >>> again.unit, again.variance[:, 0, 0].tolist()
    ('nJy', [1.0, 4.0])
    """
    hdus: list[Any] = [fits.PrimaryHDU()]
    for number, band in enumerate(exposure.bands):
        planes = _lsst_planes(exposure, number)
        hdus += [_image_hdu(f"{name}_{band}", *plane) for name, plane in planes.items()]
    with atomic_path(path, overwrite=overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary)
    return Path(path)


def write_mask(path: PathLike, exposure: Exposure, *, overwrite: bool = False) -> Path:
    """Write the mask of an exposure alone to a FITS file, whole or not at all.

    Each band has an extension MASK_<band> with the bits, the names of their planes (MP_<name>) and the WCS, as in the
    files of `write_exposure`; ``read_exposure(images, mask=path)`` uses it in place of the images' own.

    Parameters
    ----------
    path
        The file, ``.fits``.
    exposure
        The exposure.
    overwrite
        Whether the file may exist already.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import write_exposure, write_mask
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> exposure = jd.Exposure(np.ones((1, 32, 40)), [1.0], jd.GaussianPSF(1.5), bands="g")
    >>> marked = exposure.with_plane("STREAK", np.eye(32, 40) > 0)
    >>> files = write_exposure(folder / "g.fits", exposure), write_mask(folder / "mask.fits", marked)
    >>> again = jd.read_exposure(files[0], bands="g", psf=exposure.psf, mask=files[1])
    >>> int(again.plane("STREAK").sum())
    32
    """
    hdus: list[Any] = [fits.PrimaryHDU()]
    for number, band in enumerate(exposure.bands):
        bits, planes = _bits(exposure, number)
        header = fits.Header() if exposure.wcs is None else exposure.wcs.to_header(relax=True)
        header.extend(_mask_header(planes))
        hdus.append(_image_hdu(f"MASK_{band}", bits, header))
    with atomic_path(path, overwrite=overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary)
    return Path(path)


def band_files(exposure: Exposure, name: str, layout: str) -> dict[str, Callable[[Path], None]]:
    """What writes each file of an exposure in the layout of a survey.

    Parameters
    ----------
    exposure
        The exposure.
    name
        Beginning of the names of the files.
    layout
        A key of `LAYOUTS`.

    Returns
    -------
    dict[str, Callable[[Path], None]]
        For each name of a file, what writes it to a path.

    Raises
    ------
    ValueError
        If there is no such layout, or it cannot hold the bands.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> exposure = jd.Exposure(np.ones((2, 32, 40)), [1.0, 4.0], jd.GaussianPSF(1.5), bands="gr")
    >>> sorted(band_files(exposure, "sky", "legacy"))
    ['sky-image-g.fits', 'sky-image-r.fits', 'sky-invvar-g.fits', 'sky-invvar-r.fits', 'sky-maskbits.fits']
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: got {layout!r}; give one of {', '.join(LAYOUTS)}.")
    if layout == "legacy":
        return _legacy_files(exposure, name)
    planes = {"lsst": _lsst_planes, "sci": _sci_planes}[layout]
    return {
        f"{name}_{band}.fits": _writer(lambda number=number: _multi_extension(planes(exposure, number)))
        for number, band in enumerate(exposure.bands)
    }


LAYOUTS: dict[str, dict[str, str]] = {
    "lsst": {"images": "{name}_{{band}}.fits"},
    "sci": {"images": "{name}_{{band}}.fits"},
    "legacy": {
        "images": "{name}-image-{{band}}.fits",
        "weight": "{name}-invvar-{{band}}.fits",
        "mask": "{name}-maskbits.fits",
    },
}
"""Files of each layout: IMAGE, MASK and VARIANCE in one file per band (LSST, HSC); SCI, WGT and MSK in one file per
band (DES); image and inverse variance in a file each, and the mask of all bands in one (Legacy Surveys)."""

Planes = dict[str, tuple[np.ndarray, fits.Header]]
"""Pixels and cards by the name of the extension."""


def _writer(make: Callable[[], fits.HDUList]) -> Callable[[Path], None]:
    return lambda path: make().writeto(path)


def _lsst_planes(exposure: Exposure, number: int) -> Planes:
    bits, planes = _bits(exposure, number)
    return {
        "IMAGE": (exposure.images[number], _image_header(exposure, number)),
        "MASK": (bits, _mask_header(planes)),
        "VARIANCE": (exposure.variance[number], fits.Header()),
    }


def _sci_planes(exposure: Exposure, number: int) -> Planes:
    bits, planes = _bits(exposure, number)
    return {
        "SCI": (exposure.images[number], _image_header(exposure, number)),
        "MSK": (bits, _mask_header(planes)),
        "WGT": (_inverse_variance(exposure, number), fits.Header()),
    }


def _legacy_files(exposure: Exposure, name: str) -> dict[str, Callable[[Path], None]]:
    upper = [band.upper() for band in exposure.bands]
    if len(set(upper)) < len(upper):
        raise ValueError(f"layout: got 'legacy' for the bands {exposure.bands}, but its masks know them in capitals.")

    def image(number: int) -> fits.HDUList:
        header = _image_header(exposure, number)
        return fits.HDUList([fits.PrimaryHDU(np.ascontiguousarray(exposure.images[number]), header)])

    files = {"maskbits": _writer(lambda: _maskbits(exposure))}
    for number, band in enumerate(exposure.bands):
        files[f"image-{band}"] = _writer(lambda number=number: image(number))
        files[f"invvar-{band}"] = _writer(
            lambda number=number: fits.HDUList([fits.PrimaryHDU(_inverse_variance(exposure, number))])
        )
    return {f"{name}-{kind}.fits": write for kind, write in files.items()}


def _maskbits(exposure: Exposure) -> fits.HDUList:
    """One mask of all bands: bits of saturated and of otherwise unusable pixels for each band."""
    header = fits.Header([("IMTYPE", "maskbits", "Legacy Surveys image type")])
    values = np.zeros(exposure.shape, np.int32)
    n_bands = len(exposure.bands)
    for number, band in enumerate(exposure.bands):
        saturated = np.zeros(exposure.shape, bool)
        if exposure.mask_bits is not None and "SAT" in exposure.mask_planes:
            saturated = any_of(exposure.mask_bits[number], 1 << exposure.mask_planes["SAT"])
        for start, pixels, bit in (
            ("SATUR_", saturated, 2 + number),
            ("ALLM_", exposure.mask[number] & ~saturated, 2 + n_bands + number),
        ):
            header[f"HIERARCH {start}{band.upper()}"] = 1 << bit
            values[pixels] |= 1 << bit
    return fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(values, header, name="MASKBITS")])


def _multi_extension(planes: Planes) -> fits.HDUList:
    return fits.HDUList([fits.PrimaryHDU(), *(_image_hdu(name, *plane) for name, plane in planes.items())])


def _image_hdu(name: str, pixels: np.ndarray, cards: fits.Header) -> fits.ImageHDU:
    hdu = fits.ImageHDU(np.ascontiguousarray(pixels), cards)
    hdu.header["EXTNAME"] = name  # in this very case: y and Y can be two bands
    return hdu


def _image_header(exposure: Exposure, number: int) -> fits.Header:
    header = fits.Header() if exposure.wcs is None else exposure.wcs.to_header(relax=True)
    if exposure.unit is not None:
        header["BUNIT"] = exposure.unit
    header["FILTER"] = exposure.filters[number]
    if np.isfinite(exposure.zero_point[number]):
        header["MAGZERO"] = (float(exposure.zero_point[number]), "AB magnitude of one image unit")
    return header


def _mask_header(planes: Mapping[str, int]) -> fits.Header:
    return fits.Header([(f"HIERARCH MP_{name}", bit) for name, bit in planes.items()])


def _bits(exposure: Exposure, number: int) -> tuple[np.ndarray, dict[str, int]]:
    """Mask of a band and the names of its bits, the same in each band."""
    if exposure.mask_bits is None:
        return exposure.mask[number].astype(np.uint8), {_BAD: 0}
    bits, planes = exposure.mask_bits[number], exposure.mask_planes
    untold = exposure.mask[number] & ~any_of(bits, bad_pattern("mask_bits", planes))
    bit = planes.get(_BAD, free_bit(exposure.mask_bits, planes))
    return with_bit(bits, untold, bit), {**planes, _BAD: bit} if planes else {}


def _inverse_variance(exposure: Exposure, number: int) -> np.ndarray:
    """Weights; 0 where there is no variance."""
    variance = exposure.variance[number]
    good = np.isfinite(variance) & (variance > 0)
    return np.where(good, 1 / np.where(good, variance, 1), 0).astype(np.float32)
