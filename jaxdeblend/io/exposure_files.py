"""Exposures from FITS files."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy import units

from ..instrument.observation import check_psf_error
from ..runtime.inputs import numbers_in, plain_numbers, quantity_unit
from .arrays import as_float32
from .exposure import Exposure, checked_psf
from .files import PathLike, paths_of_bands
from .filters import check_chips, check_filters
from .grids import common_unit, common_wcs
from .lazy import BandSource, LazyExposure, MaskSource, Noise
from .mask_bits import mask_bits, mask_kind_of, warn_of_unnamed_bits
from .masks import any_of, as_bits, bad_pattern, mask_planes
from .noise import (
    NOISE_KINDS,
    ROLE_OF_KIND,
    VARIANCE_OF,
    OfExposureTime,
    background_rms,
    checked_estimate,
    same,
)
from .noise_check import windows_to_look_at
from .noise_sources import NoiseSource, look_at_noise
from .photometry import filter_of, stated_filter, unit_of, zero_point_of
from .pixels import FilePixels
from .planes import FilePlanes, Plane, read_planes
from .reading import reading

logger = logging.getLogger(__name__)

STAND_IN_PSF = np.ones((1, 1, 1))
"""Stands for a PSF that is read once the pixel scale of the images is known."""

Found = list[tuple[FilePlanes, Plane]]
"""One plane for each band, with its file."""


def read_exposure(
    paths: PathLike | Sequence[PathLike],
    *,
    bands: Sequence[str],
    psf: object,
    bad_mask: Sequence[str | int] | None = None,
    variance: object | None = None,
    weight: object | None = None,
    rms: object | None = None,
    exposure_time: object | None = None,
    noise_kind: str | None = None,
    mask: PathLike | Sequence[PathLike] | None = None,
    mask_kind: str | None = None,
    unit: str | None = None,
    zero_point: object | None = None,
    psf_error: object = 0.0,
) -> Exposure:
    """Read the images of several bands from FITS files.

    Extensions are found by name, see `read_planes`. The variance is taken from the first of VARIANCE (VAR), ERR (RMS,
    STDDEV; squared) and WEIGHT (WHT, INVVAR, IVAR; inverted, 0 means masked) that is there. Without any, the variance
    of the background is estimated (MAD of the sigma-clipped pixels) and a warning logged: it lacks the photon noise.

    The noise is compared with the scatter of the pixels. If it is less than half or more than twice of that, a warning
    is logged with the ratio and what the plane may be; `noise_kind` says what it is.

    Parameters
    ----------
    paths
        One file per band, a pattern with ``{band}``, or a single file with a cube or with extensions for each band.
    bands
        Names of the bands, in order.
    psf
        A PSF, stamps (band, y, x), or a PSF that varies, see `read_psf_field`.
    bad_mask
        Names of mask planes, or numbers of bits, whose pixels are not used. By default `DEFAULT_BAD_PLANES`
        where the mask names its planes (``MP_*`` cards, or Legacy Surveys' maskbits), what `mask_kind` says for masks
        of other surveys, else every pixel that is not zero.
    variance, weight, rms, exposure_time
        Variance, 1 / variance, standard deviation or exposure time, instead of what is in `paths`; one of them. An
        array (band, y, x), one number per band, or files. With exposure times t, the noise of the background is
        measured in the pixels, and goes with 1 / √t.
    noise_kind
        What the noise planes in `paths` are, whatever their names say: ``variance``, ``weight``, ``rms`` or
        ``exposure_time``.
    mask
        Files of masks, instead of what is in `paths`.
    mask_kind
        Survey whose bits the masks have, where they do not name their planes: ``jwst``, ``roman``, ``hst``, ``hst-ir``,
        ``euclid``, ``euclid-vis``, ``des``, ``legacy``, ``legacy-dq``, or ``any`` if every bit counts. By default what
        the headers say.
    unit
        Unit of the images; by default their BUNIT.
    zero_point
        AB magnitude of one image unit, one number or one per band; by default what the headers say.
    psf_error
        Error of the PSF as a fraction of the light of a pixel, one number or one per band, see `Observation`.

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
    return open_exposure(
        paths,
        bands=bands,
        psf=psf,
        bad_mask=bad_mask,
        variance=variance,
        weight=weight,
        rms=rms,
        exposure_time=exposure_time,
        noise_kind=noise_kind,
        mask=mask,
        mask_kind=mask_kind,
        unit=unit,
        zero_point=zero_point,
        psf_error=psf_error,
    ).read()


def open_exposure(
    paths: PathLike | Sequence[PathLike],
    *,
    bands: Sequence[str],
    psf: object,
    bad_mask: Sequence[str | int] | None = None,
    variance: object | None = None,
    weight: object | None = None,
    rms: object | None = None,
    exposure_time: object | None = None,
    noise_kind: str | None = None,
    mask: PathLike | Sequence[PathLike] | None = None,
    mask_kind: str | None = None,
    unit: str | None = None,
    zero_point: object | None = None,
    psf_error: object = 0.0,
) -> LazyExposure:
    """Open the files of an exposure without reading their pixels; whatever is wrong with them is said now.

    Only where there is no variance, or an exposure time alone, images are read, one after the other, to measure their
    noise. Of others, some windows are read to see whether the noise planes agree with the pixels.

    Parameters
    ----------
    paths, bands, psf, psf_error, bad_mask, variance, weight, rms, exposure_time, noise_kind, mask, mask_kind
        See `read_exposure`.
    unit, zero_point
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
    _check_bands(images, bands)
    image_unit = _common_unit(images) if unit is None else unit
    masks = _mask_sources(files if mask is None else _mask_files(mask, bands), bands, bad_mask, images, mask_kind)
    given = {"variance": variance, "weight": weight, "rms": rms, "exposure_time": exposure_time}
    noises = _noise_sources(files, images, masks, bands, _one_noise(given, noise_kind, image_unit), noise_kind)
    sources = [
        BandSource(plane.pixels, noise.values, noise.to_variance, masked)
        for (_, plane), noise, masked in zip(images, noises, masks, strict=True)
    ]
    for band, source, noise in zip(bands, sources, noises, strict=True):
        look_at_noise(band, source, noise)
    facts = [_photometry(file, plane, band) for (file, plane), band in zip(images, bands, strict=True)]
    stated = [point for _, point in facts] if zero_point is None else zero_point
    return LazyExposure(
        sources=tuple(sources),
        shape=shape,
        psf=psf,
        bands=bands,
        wcs=common_wcs([_label(*found) for found in images], [plane.wcs for _, plane in images], shape),
        unit=image_unit,
        zero_point=np.array(np.broadcast_to(np.asarray(stated, float), len(bands))),
        mask_planes=_common_planes(masks),
        filters=tuple(name for name, _ in facts),
        psf_error=check_psf_error(psf_error, len(bands)),
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


def _check_bands(images: Found, bands: tuple[str, ...]) -> None:
    """Refuse images that are not those of the bands, by their filters; planes of one cube share a header."""
    if len(bands) < 2 or any(plane.pixels.plane is not None for _, plane in images):
        return
    together = len({file.path for file, _ in images}) < len(images)
    stated = [stated_filter(plane.header, *(() if together else (file.primary,))) for file, plane in images]
    check_filters(bands, stated, [_label(*found) for found in images])
    names = {str(plane.header.get("EXTNAME", "")).strip() for _, plane in images}
    if together and len(names) == 1 and None in stated:
        check_chips(images[0][0].path, bands, [plane.header.get("EXTVER") for _, plane in images])


def _one_noise(given: dict[str, object | None], noise_kind: str | None, unit: str | None) -> tuple[str, object] | None:
    """Kind and values, or files, of the noise that was given beside the images; None if there is none."""
    if noise_kind is not None and noise_kind not in NOISE_KINDS:
        raise ValueError(f"noise_kind: got {noise_kind!r}; give one of {', '.join(NOISE_KINDS)}.")
    named = [(kind, value) for kind, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"{named[0][0]}: got {' and '.join(kind for kind, _ in named)} as well; give one of them.")
    if named and noise_kind not in (None, named[0][0]):
        raise ValueError(f"noise_kind: got {noise_kind!r} for what is given as {named[0][0]}; leave one of them out.")
    if not named:
        return None
    kind, value = named[0]
    if quantity_unit(value) is None:
        return kind, value
    power = {"variance": 2, "weight": -2, "rms": 1}.get(kind)
    wanted = None if power is None or unit is None else units.Unit(unit) ** power
    return kind, value if power is None else numbers_in(value, wanted, kind)


def _noise_sources(
    files: list[FilePlanes],
    images: Found,
    masks: list[MaskSource] | list[None],
    bands: tuple[str, ...],
    given: tuple[str, object] | None,
    noise_kind: str | None,
) -> list[NoiseSource]:
    """For each band, what says how noisy it is, and how it becomes a variance."""
    if given is not None and not _are_paths(given[1]):
        kind, values = given
        shape = (len(bands), *_common_shape(images, images))
        return _converted([(kind, noise) for noise in _given_noise(kind, values, shape)], kind, images, masks, bands)
    if given is not None:
        kind, paths = given
        others = _read_files(paths, bands)  # type: ignore[arg-type]
        found = _planes_of_kind(others, kind, bands) or (kind, _required(others, "image", bands))
    else:
        found = _planes_in_images(files, noise_kind, bands)
    if found is not None:
        kind, planes = found
        _common_shape(planes, images)
        return _converted([(_label(*plane), plane[1].pixels) for plane in planes], kind, images, masks, bands)
    pairs = zip(bands, images, masks, strict=True)
    rms = checked_estimate({band: _rms(plane, mask) for band, (_, plane), mask in pairs})
    return [NoiseSource("", None, value, same) for value in rms]


def _planes_of_kind(files: list[FilePlanes], kind: str, bands: tuple[str, ...]) -> tuple[str, Found] | None:
    """Planes of a kind in files of their own. Those of variances may hold ERR or WEIGHT, and are then believed."""
    if kind == "variance":
        return _planes_in_images(files, None, bands)
    found = _find(files, ROLE_OF_KIND[kind], bands)
    if found is None and kind == "exposure_time":
        found = _find(files, "weight", bands)
    return None if found is None else (kind, found)


def _planes_in_images(files: list[FilePlanes], kind: str | None, bands: tuple[str, ...]) -> tuple[str, Found] | None:
    """Planes of the noise beside the images, and their kind. If that is said, their names do not matter."""
    kinds = {role: known for known, role in ROLE_OF_KIND.items()}
    roles = list(VARIANCE_OF) if kind is None else [ROLE_OF_KIND[kind], *VARIANCE_OF]
    for role in roles:
        found = _find(files, role, bands)
        if found is not None:
            return kind or kinds[role], found
    if kind is None:
        return None
    names = ", ".join(str(file.path) for file in files)
    raise ValueError(f"noise_kind: got {kind!r}, but {names} has no plane of the noise.")


def _converted(
    noises: Sequence[tuple[str, Noise]],
    kind: str,
    images: Found,
    masks: list[MaskSource] | list[None],
    bands: tuple[str, ...],
) -> list[NoiseSource]:
    """What makes variances of planes of one kind."""
    if kind != "exposure_time":
        return [NoiseSource(label, kind, noise, VARIANCE_OF[ROLE_OF_KIND[kind]]) for label, noise in noises]
    converted = []
    for (label, noise), (_, plane), mask, band in zip(noises, images, masks, bands, strict=True):
        time = as_float32(noise.read() if isinstance(noise, FilePixels) else noise)
        scale = OfExposureTime.measured(as_float32(plane.data), time, _bad(mask), band)
        converted.append(NoiseSource(label, None, noise, scale))
    return converted


def _are_paths(value: object) -> bool:
    names = [value] if isinstance(value, str | Path) else value
    return isinstance(names, Sequence) and all(isinstance(name, str | Path) for name in names)


def _given_noise(kind: str, value: object, shape: tuple[int, int, int]) -> list[np.ndarray] | list[float]:
    """Noise of each band, of an array or of numbers; `Exposure` looks at the values."""
    given = plain_numbers(value, kind)
    if given.shape == shape:
        return list(given)
    if given.shape == shape[:1]:
        return [float(number) for number in given]
    raise ValueError(
        f"{kind}: got shape {given.shape} for images of shape {shape}; give the same shape, or one "
        f"number for each of the {shape[0]} bands."
    )


def _rms(plane: Plane, mask: MaskSource | None) -> float:
    return background_rms(as_float32(plane.data), _bad(mask))


def _bad(mask: MaskSource | None) -> np.ndarray | None:
    return None if mask is None else any_of(as_bits(mask.pixels.read()), mask.bad)


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
    files: list[FilePlanes],
    bands: tuple[str, ...],
    bad_mask: Sequence[str | int] | None,
    images: Found,
    mask_kind: str | None,
) -> list[MaskSource] | list[None]:
    """Masks of the bands, with the bits that make pixels unusable; None if there are none."""
    found = _find(files, "mask", bands)
    if found is None:
        if bad_mask is not None:
            names = ", ".join(str(file.path) for file in files)
            raise ValueError(f"bad_mask: got {', '.join(map(str, bad_mask))}, but {names} has no MASK or DQ plane.")
        return [None] * len(bands)
    _common_shape(found, images)
    return [
        _mask_source(mask, image, band, bad_mask, mask_kind)
        for mask, image, band in zip(found, images, bands, strict=True)
    ]


def _mask_source(
    mask: tuple[FilePlanes, Plane],
    image: tuple[FilePlanes, Plane],
    band: str,
    bad_mask: Sequence[str | int] | None,
    mask_kind: str | None,
) -> MaskSource:
    """Mask of a band; its bits have the names that the header or the survey gives them."""
    file, plane = mask
    planes = _named_planes(file, plane, band) if mask_kind is None else {}
    headers = (plane.header, file.primary, image[1].header, image[0].primary)
    kind = mask_kind_of(*headers) if mask_kind is None else mask_kind
    if not planes and kind is not None:
        known = mask_bits(kind, band)
        wanted = known.bad if bad_mask is None and known.planes else bad_mask
        return MaskSource(plane.pixels, known.planes, bad_pattern(file.path, known.planes, wanted))
    pattern = bad_pattern(file.path, planes, bad_mask)
    if pattern is None:
        warn_of_unnamed_bits(str(file.path), band, _masked_share(plane.pixels))
    return MaskSource(plane.pixels, planes, pattern)


def _masked_share(pixels: FilePixels) -> float:
    """Share of the pixels, in the windows that are looked at, that have any bit."""
    windows = windows_to_look_at((pixels.shape[0], pixels.shape[1]), mapped=pixels.dtype is not None)
    return float(np.mean([np.mean(as_bits(pixels.read(box)) != 0) for box in windows]))


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
