"""Exposures from FITS files."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .exposure import Exposure, as_float32, checked_psf
from .files import PathLike, paths_of_bands
from .grids import common_unit, common_wcs
from .lazy import BandSource, LazyExposure, MaskSource, Noise
from .masks import any_of, as_bits, bad_pattern, mask_planes
from .noise import VARIANCE_OF, background_rms, checked_estimate, inverted, same
from .photometry import filter_of, unit_of, zero_point_of
from .planes import FilePlanes, Plane, read_planes
from .reading import reading

logger = logging.getLogger(__name__)

Found = list[tuple[FilePlanes, Plane]]
"""One plane for each band, with its file."""


def read_exposure(
    paths: PathLike | Sequence[PathLike],
    *,
    bands: Sequence[str],
    psf: object,
    bad_mask: Sequence[str | int] | None = None,
    variance: object | None = None,
    weight: PathLike | Sequence[PathLike] | None = None,
    mask: PathLike | Sequence[PathLike] | None = None,
    unit: str | None = None,
    zero_point: object | None = None,
) -> Exposure:
    """Read the images of several bands from FITS files.

    Extensions are found by name, see `read_planes`. The variance is taken from the first of VARIANCE (VAR),
    ERR (RMS, STDDEV; squared) and WEIGHT (WHT, INVVAR, IVAR; inverted, 0 means masked) that is there.
    Without any, the variance of the background is estimated (MAD of the sigma-clipped pixels) and a warning
    logged: it lacks the photon noise of the sources.

    Parameters
    ----------
    paths
        One file per band, a pattern with ``{band}``, or a single file with a cube or with extensions for
        each band.
    bands
        Names of the bands, in order.
    psf
        A PSF, stamps (band, y, x), or a PSF that varies, see `read_psf_field`.
    bad_mask
        Names of mask planes, or numbers of bits, whose pixels are not used. By default `DEFAULT_BAD_PLANES`
        where the mask names its planes (``MP_*`` cards, or Legacy Surveys' maskbits), else every pixel that is not
        zero.
    variance
        Variance, instead of what is in `paths`: array (band, y, x), one number per band, or files.
    weight
        Files of weights (1 / variance), instead of what is in `paths`.
    mask
        Files of masks, instead of what is in `paths`.
    unit
        Unit of the images; by default their BUNIT.
    zero_point
        AB magnitude of one image unit, one number or one per band; by default what the headers say.

    Returns
    -------
    Exposure
        The exposure, with the WCS of the first band that has one.

    Raises
    ------
    ValueError
        If a file is not readable, has no image, or the bands differ in shape, unit or pixel grid.
    FileNotFoundError
        If a file does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.io import read_exposure
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for band in "gr":
    ...     image, variance = (fits.ImageHDU(np.ones((32, 40)), name=name) for name in ("IMAGE", "VARIANCE"))
    ...     fits.HDUList([fits.PrimaryHDU(), image, variance]).writeto(folder / f"{band}.fits")
    >>> read_exposure(folder / "{band}.fits", bands=("g", "r"), psf=jd.GaussianPSF(1.5)).images.shape
    (2, 32, 40)
    """
    given = {"variance": variance, "weight": weight, "mask": mask, "unit": unit, "zero_point": zero_point}
    return open_exposure(paths, bands=bands, psf=psf, bad_mask=bad_mask, **given).read()  # type: ignore[arg-type]


def open_exposure(
    paths: PathLike | Sequence[PathLike],
    *,
    bands: Sequence[str],
    psf: object,
    bad_mask: Sequence[str | int] | None = None,
    variance: object | None = None,
    weight: PathLike | Sequence[PathLike] | None = None,
    mask: PathLike | Sequence[PathLike] | None = None,
    unit: str | None = None,
    zero_point: object | None = None,
) -> LazyExposure:
    """Open the files of an exposure without reading their pixels; whatever is wrong with them is said now.

    Only where there is no variance at all, images are read, one after the other, to estimate their noise.

    Parameters
    ----------
    paths, bands, psf, bad_mask, variance, weight, mask, unit, zero_point
        See `read_exposure`.

    Returns
    -------
    LazyExposure
        The exposure; its `window` reads part of it.

    Raises
    ------
    ValueError
        If a file is not readable, has no image, or the bands differ in shape, unit or pixel grid.
    FileNotFoundError
        If a file does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> import jaxdeblend as jd
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "r.fits"
    >>> image, variance = (fits.ImageHDU(np.ones((320, 400)), name=name) for name in ("IMAGE", "VARIANCE"))
    >>> fits.HDUList([fits.PrimaryHDU(), image, variance]).writeto(path)
    >>> exposure = jd.open_exposure(path, bands=["r"], psf=jd.GaussianPSF(1.5))
    >>> exposure.shape, exposure.window(jd.Box((10, 20), (5, 6))).images.shape
    ((320, 400), (1, 5, 6))
    """
    bands = tuple(bands)
    psf = checked_psf(psf, len(bands))
    files = _read_files(paths, bands)
    images = _required(files, "image", bands)
    shape = _common_shape(images, images)
    masks = _mask_sources(files if mask is None else _mask_files(mask, bands), bands, bad_mask, images)
    sources = [
        BandSource(plane.pixels, noise, to_variance, masked)
        for (_, plane), (noise, to_variance), masked in zip(
            images, _noise_sources(files, images, masks, bands, variance, weight), masks, strict=True
        )
    ]
    facts = [_photometry(file, plane, band) for (file, plane), band in zip(images, bands, strict=True)]
    stated = [point for _, point in facts] if zero_point is None else zero_point
    return LazyExposure(
        sources=tuple(sources),
        shape=shape,
        psf=psf,
        bands=bands,
        wcs=common_wcs([_label(*found) for found in images], [plane.wcs for _, plane in images], shape),
        unit=_common_unit(images) if unit is None else unit,
        zero_point=np.array(np.broadcast_to(np.asarray(stated, float), len(bands))),
        mask_planes=_common_planes(masks),
        filters=tuple(name for name, _ in facts),
    )


def _read_files(paths: PathLike | Sequence[PathLike], bands: tuple[str, ...]) -> list[FilePlanes]:
    return [read_planes(path, bands) for path in paths_of_bands(paths, bands)]


def _find(files: list[FilePlanes], role: str, bands: tuple[str, ...]) -> Found | None:
    """Find the planes of a role with the file of each, one per band; None if no file has any."""
    if len(files) == 1:
        planes = files[0].find(role, bands)
        return None if planes is None else [(files[0], plane) for plane in planes]
    found = [file.find(role, (band,)) for file, band in zip(files, bands, strict=True)]
    lacking = [str(file.path) for file, planes in zip(files, found, strict=True) if planes is None]
    if len(lacking) == len(files):
        return None
    if lacking and role == "image":
        return _required([file for file in files if str(file.path) in lacking], role, bands)
    if lacking:
        raise ValueError(f"{', '.join(lacking)}: no {role} plane, but the files of the other bands have one.")
    return [(file, planes[0]) for file, planes in zip(files, found, strict=True) if planes]


def _required(files: list[FilePlanes], role: str, bands: tuple[str, ...]) -> Found:
    found = _find(files, role, bands)
    if found is None:
        names = ", ".join(str(file.path) for file in files)
        raise ValueError(
            f"{names}: no {role} found; expected data in the primary HDU, or in an extension named IMAGE, "
            f"SCI or after the band ({', '.join(bands)})."
        )
    return found


def _noise_sources(
    files: list[FilePlanes],
    images: Found,
    masks: list[MaskSource] | list[None],
    bands: tuple[str, ...],
    variance: object | None,
    weight: PathLike | Sequence[PathLike] | None,
) -> list[tuple[Noise, Callable[[np.ndarray], np.ndarray]]]:
    """For each band, what says how noisy it is, and how it becomes a variance."""
    if weight is not None:
        others = _read_files(weight, bands)
        found = _find(others, "weight", bands) or _required(others, "image", bands)
        return _in_files(found, inverted, images)
    if variance is not None and not _are_paths(variance):
        return [(noise, same) for noise in _given_variance(variance, (len(bands), *_common_shape(images, images)))]
    others = files if variance is None else _read_files(variance, bands)  # type: ignore[arg-type]
    for role, to_variance in VARIANCE_OF.items():
        found = _find(others, role, bands)
        if found is not None:
            return _in_files(found, to_variance, images)
    if variance is not None:
        return _in_files(_required(others, "image", bands), same, images)
    planes = [plane for _, plane in images]
    rms = {band: _rms(plane, mask) for band, plane, mask in zip(bands, planes, masks, strict=True)}
    return [(value, same) for value in checked_estimate(rms)]


def _in_files(
    found: Found, to_variance: Callable[[np.ndarray], np.ndarray], images: Found
) -> list[tuple[Noise, Callable[[np.ndarray], np.ndarray]]]:
    _common_shape(found, images)
    return [(plane.pixels, to_variance) for _, plane in found]


def _are_paths(value: object) -> bool:
    names = [value] if isinstance(value, str | Path) else value
    return isinstance(names, Sequence) and all(isinstance(name, str | Path) for name in names)


def _given_variance(value: object, shape: tuple[int, int, int]) -> list[np.ndarray] | list[float]:
    """Variance of each band, of an array or of numbers; `Exposure` looks at the values."""
    given = np.asarray(value)
    if given.shape == shape:
        return list(given)
    if given.shape == shape[:1]:
        return [float(number) for number in given]
    raise ValueError(
        f"variance: got shape {given.shape} for images of shape {shape}; give the same shape, or one "
        f"number for each of the {shape[0]} bands."
    )


def _rms(plane: Plane, mask: MaskSource | None) -> float:
    bad = None if mask is None else any_of(as_bits(mask.pixels.read()), mask.bad)
    return background_rms(as_float32(plane.data), bad)


def _mask_files(paths: PathLike | Sequence[PathLike], bands: tuple[str, ...]) -> list[FilePlanes]:
    """Files of masks: their images are masks, unless they have planes that are named so."""
    files = _read_files(paths, bands)
    for number, file in enumerate(files):
        if any(plane.role == "mask" for plane in file.planes):
            continue
        masks = tuple(dataclasses.replace(plane, role="mask") for plane in file.planes if plane.role == "image")
        if not masks:
            raise ValueError(f"{file.path}: no mask found; expected data in the primary HDU or in an extension MASK.")
        files[number] = dataclasses.replace(file, planes=masks)
    return files


def _mask_sources(
    files: list[FilePlanes], bands: tuple[str, ...], bad_mask: Sequence[str | int] | None, images: Found
) -> list[MaskSource] | list[None]:
    """Masks of the bands, with the bits that make pixels unusable; None if there are none."""
    found = _find(files, "mask", bands)
    if found is None:
        if bad_mask is not None:
            names = ", ".join(str(file.path) for file in files)
            raise ValueError(f"bad_mask: got {', '.join(map(str, bad_mask))}, but {names} has no MASK or DQ plane.")
        return [None] * len(bands)
    _common_shape(found, images)
    named = [_named_planes(*one, band) for one, band in zip(found, bands, strict=True)]
    return [
        MaskSource(plane.pixels, planes, bad_pattern(file.path, planes, bad_mask))
        for (file, plane), planes in zip(found, named, strict=True)
    ]


def _named_planes(file: FilePlanes, plane: Plane, band: str) -> dict[str, int]:
    with reading(file.path, "FITS file"):
        return mask_planes(plane.header, band)


def _common_planes(masks: list[MaskSource] | list[None]) -> dict[str, int]:
    """Bits by name: those of the files if they agree, else numbered anew."""
    named = [dict(mask.planes) for mask in masks if mask is not None]
    if all(planes == named[0] for planes in named):
        return named[0] if named else {}
    return {name: bit for bit, name in enumerate(dict.fromkeys(name for planes in named for name in planes))}


def _common_shape(planes: Found, images: Found) -> tuple[int, int]:
    first_file, first = images[0]
    for file, plane in planes:
        if plane.pixels.ndim != 2:
            raise ValueError(
                f"{file.path}: its {plane.role} has shape {plane.pixels.shape}; expected one image (y, x)."
            )
        if plane.pixels.shape != first.pixels.shape:
            raise ValueError(
                f"{file.path}: its {plane.role} has shape {plane.pixels.shape}, but that of "
                f"{first_file.path} has "
                f"{first.pixels.shape}; all bands must be on one pixel grid (reproject can do that)."
            )
    return (first.pixels.shape[0], first.pixels.shape[1])


def _label(file: FilePlanes, plane: Plane) -> str:
    """Name of an image: its file, and the extension if it has a name."""
    name = str(plane.header.get("EXTNAME", "")).strip()
    return f"{file.path}[{name}]" if name else str(file.path)


def _photometry(file: FilePlanes, plane: Plane, band: str) -> tuple[str, float]:
    """Filter and zero point of an image; a card that they need may be damaged."""
    with reading(file.path, "FITS file"):
        return filter_of(plane.header, file.primary, band), zero_point_of(plane.header, file.primary)


def _common_unit(images: Found) -> str | None:
    units: list[tuple[str, str | None]] = []
    for file, plane in images:
        with reading(file.path, "FITS file"):
            units.append((str(file.path), unit_of(plane.header, file.primary)))
    return common_unit(units)
