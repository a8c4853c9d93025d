"""Exposures from FITS files, and to them."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.stats import sigma_clipped_stats
from astropy.wcs import WCS

from .exposure import Exposure, as_float32
from .files import PathLike, atomic_path, paths_of_bands
from .planes import FilePlanes, Plane, bad_pixels, read_planes

logger = logging.getLogger(__name__)

GRID_TOLERANCE = 0.01
"""Largest offset in pixels between the WCS of two bands that counts as the same grid."""

_ZERO_POINT_KEYWORDS = ("MAGZERO", "MAGZPT", "PHOTZP", "ZEROPNT", "MAGZP")


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
        A PSF, or stamps (band, y, x).
    bad_mask
        Names of mask planes, or numbers of bits, whose pixels are not used. By default `DEFAULT_BAD_PLANES`
        where the mask names its planes (``MP_*`` cards), else every pixel that is not zero.
    variance
        Variance, instead of what is in `paths`: array (band, y, x), one number per band, or files.
    weight
        Files of weights (1 / variance), instead of what is in `paths`.
    mask
        Files of masks, instead of what is in `paths`.
    unit
        Unit of the images; by default their BUNIT.

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
    bands = tuple(bands)
    files = _read_files(paths, bands)
    images = _required(files, "image", bands)
    _check_shapes(images)
    masks = files if mask is None else [_as_mask(file) for file in _read_files(mask, bands)]
    bad = _bad_planes(masks, bands, bad_mask)
    cube = np.stack([as_float32(plane.data) for _, plane in images])
    if weight is not None:
        spread = _invert(_plane_cube(_read_files(weight, bands), ("weight", "image"), bands))
    elif variance is not None:
        spread = _given_variance(variance, bands)
    else:
        spread = _variance_of(files, bands)
    if spread is None:
        spread = _estimate_variance(cube, bad, bands)
    return Exposure(
        cube,
        spread,
        psf,
        bands=bands,
        mask=bad,
        wcs=_common_wcs(images, (cube.shape[1], cube.shape[2])),
        unit=_common_unit(images) if unit is None else unit,
        zero_point=[_zero_point(plane.header) for _, plane in images],
    )


def write_exposure(path: PathLike, exposure: Exposure, *, overwrite: bool = False) -> Path:
    """Write an exposure to a FITS file, whole or not at all; `read_exposure` reads it back.

    Each band has three extensions: IMAGE_<band> with the WCS, BUNIT and FILTER, and the zero point as MAGZERO where it
    is known; VARIANCE_<band>; and MASK_<band>, 1 (MP_BAD) where a pixel is unusable. The PSF is not written.

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
    common = fits.Header() if exposure.wcs is None else exposure.wcs.to_header(relax=True)
    if exposure.unit is not None:
        common["BUNIT"] = exposure.unit
    hdus: list[Any] = [fits.PrimaryHDU()]
    for number, band in enumerate(exposure.bands):
        header = common.copy()
        header["FILTER"] = band
        if np.isfinite(exposure.zero_point[number]):
            header["MAGZERO"] = (float(exposure.zero_point[number]), "AB magnitude of one image unit")
        planes = {
            "IMAGE": (exposure.images, header),
            "VARIANCE": (exposure.variance, fits.Header()),
            "MASK": (exposure.mask.astype(np.uint8), fits.Header([("MP_BAD", 0)])),
        }
        for name, (cube, cards) in planes.items():
            hdu = fits.ImageHDU(np.ascontiguousarray(cube[number]), cards)
            hdu.header["EXTNAME"] = f"{name}_{band}"  # in this very case: y and Y can be two bands
            hdus.append(hdu)
    with atomic_path(path, overwrite=overwrite) as temporary:
        fits.HDUList(hdus).writeto(temporary)
    return Path(path)


def _read_files(paths: PathLike | Sequence[PathLike], bands: tuple[str, ...]) -> list[FilePlanes]:
    return [read_planes(path, bands) for path in paths_of_bands(paths, bands)]


def _find(files: list[FilePlanes], role: str, bands: tuple[str, ...]) -> list[tuple[FilePlanes, Plane]] | None:
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


def _required(files: list[FilePlanes], role: str, bands: tuple[str, ...]) -> list[tuple[FilePlanes, Plane]]:
    found = _find(files, role, bands)
    if found is None:
        names = ", ".join(str(file.path) for file in files)
        raise ValueError(
            f"{names}: no {role} found; expected data in the primary HDU, or in an extension named IMAGE, "
            f"SCI or after the band ({', '.join(bands)})."
        )
    return found


def _plane_cube(files: list[FilePlanes], roles: tuple[str, ...], bands: tuple[str, ...]) -> np.ndarray:
    """Cube of the first role that the files have."""
    for role in roles[:-1]:
        found = _find(files, role, bands)
        if found is not None:
            return _stack(found)
    return _stack(_required(files, roles[-1], bands))


def _stack(planes: list[tuple[FilePlanes, Plane]]) -> np.ndarray:
    _check_shapes(planes)
    return np.stack([as_float32(plane.data) for _, plane in planes])


def _variance_of(files: list[FilePlanes], bands: tuple[str, ...]) -> np.ndarray | None:
    """Variance from whichever plane the files have."""
    for role, convert in (("variance", _same), ("error", np.square), ("weight", _invert)):
        planes = _find(files, role, bands)
        if planes is not None:
            return convert(_stack(planes))
    return None


def _given_variance(value: object, bands: tuple[str, ...]) -> np.ndarray:
    """Variance from an array, numbers, or files."""
    names = [value] if isinstance(value, str | Path) else value
    if isinstance(names, Sequence) and all(isinstance(name, str | Path) for name in names):
        files = _read_files(list(names), bands)
        found = _variance_of(files, bands)
        return _plane_cube(files, ("image",), bands) if found is None else found
    return np.asarray(value)


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _invert(weight: np.ndarray) -> np.ndarray:
    """Variance of weights; infinite where a weight is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, 1 / weight, np.inf).astype(weight.dtype)


def _as_mask(file: FilePlanes) -> FilePlanes:
    """Take the images of a file for masks, unless it has planes that are named so."""
    if any(plane.role == "mask" for plane in file.planes):
        return file
    masks = [Plane("mask", plane.band, plane.data, plane.header) for plane in file.planes if plane.role == "image"]
    if not masks:
        raise ValueError(f"{file.path}: no mask found; expected data in the primary HDU or in an extension MASK.")
    return FilePlanes(file.path, tuple(masks))


def _bad_planes(
    files: list[FilePlanes], bands: tuple[str, ...], bad_mask: Sequence[str | int] | None
) -> np.ndarray | None:
    """Unusable pixels by the mask planes of the files, None if there are none."""
    found = _find(files, "mask", bands)
    if found is None:
        if bad_mask is not None:
            names = ", ".join(str(file.path) for file in files)
            raise ValueError(f"bad_mask: got {', '.join(map(str, bad_mask))}, but {names} has no MASK or DQ plane.")
        return None
    return np.stack([bad_pixels(file.path, plane, bad_mask) for file, plane in found])


def _estimate_variance(cube: np.ndarray, bad: np.ndarray | None, bands: tuple[str, ...]) -> np.ndarray:
    usable = np.isfinite(cube) if bad is None else np.isfinite(cube) & ~bad
    spread = [_background_rms(image[good]) for image, good in zip(cube, usable, strict=True)]
    flat = [band for band, value in zip(bands, spread, strict=True) if value <= 0]
    if flat:
        raise ValueError(f"variance: no variance plane, and band {', '.join(flat)} shows no noise; give a variance.")
    values = ", ".join(f"{band} {value:.4g}" for band, value in zip(bands, spread, strict=True))
    logger.warning(
        "No variance plane: using the background noise estimated from the pixels (rms: %s); the photon "
        "noise of bright sources is not in it.",
        values,
    )
    return np.broadcast_to(np.square(spread, dtype=np.float32)[:, None, None], cube.shape)


def _background_rms(values: np.ndarray) -> float:
    """Noise of the background; 1 where there are no pixels, which stay masked."""
    if values.size == 0:
        return 1.0
    return float(sigma_clipped_stats(values.astype(float), sigma=3, maxiters=5, stdfunc="mad_std")[2])


def _check_shapes(planes: list[tuple[FilePlanes, Plane]]) -> None:
    first_file, first = planes[0]
    for file, plane in planes:
        if plane.data.ndim != 2:
            raise ValueError(f"{file.path}: its {plane.role} has shape {plane.data.shape}; expected one image (y, x).")
        if plane.data.shape != first.data.shape:
            raise ValueError(
                f"{file.path}: its {plane.role} has shape {plane.data.shape}, but that of "
                f"{first_file.path} has "
                f"{first.data.shape}; all bands must be on one pixel grid (reproject can do that)."
            )


def _common_wcs(images: list[tuple[FilePlanes, Plane]], shape: tuple[int, int]) -> WCS | None:
    """WCS of the first image that has one; the others must agree with it."""
    labels = [_label(file, plane) for file, plane in images]
    known = [(label, plane.wcs) for label, (_, plane) in zip(labels, images, strict=True) if plane.wcs is not None]
    if not known:
        return None
    if len(known) < len(images):
        lacking = ", ".join(label for label in labels if label not in dict(known))
        logger.warning("%s: no celestial WCS; taken to be on the pixel grid of %s.", lacking, known[0][0])
    (first, reference), *others = known
    for label, wcs in others:
        dy, dx = _grid_offset(reference, wcs, shape)
        if not max(abs(dy), abs(dx)) <= GRID_TOLERANCE:
            raise ValueError(
                f"{label}: its pixel grid is offset from that of {first} by (dy, dx) = ({dy:+.2f}, "
                f"{dx:+.2f}) pixels; all bands must be on one grid (reproject can do that)."
            )
    return reference


def _label(file: FilePlanes, plane: Plane) -> str:
    """Name of an image: its file, and the extension if it has a name."""
    name = str(plane.header.get("EXTNAME", "")).strip()
    return f"{file.path}[{name}]" if name else str(file.path)


def _grid_offset(reference: WCS, other: WCS, shape: tuple[int, int]) -> tuple[float, float]:
    """Largest offset (dy, dx) between two grids at the corners and the middle."""
    ny, nx = shape
    x = np.array([0, nx - 1, 0, nx - 1, (nx - 1) / 2])
    y = np.array([0, 0, ny - 1, ny - 1, (ny - 1) / 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a distortion that has no inverse there: NaN, hence no agreement
        seen_x, seen_y = other.world_to_pixel_values(*reference.pixel_to_world_values(x, y))
    worst = int(np.argmax(np.nan_to_num(np.hypot(seen_y - y, seen_x - x), nan=np.inf)))
    return float(seen_y[worst] - y[worst]), float(seen_x[worst] - x[worst])


def _common_unit(images: list[tuple[FilePlanes, Plane]]) -> str | None:
    units = {str(file.path): str(plane.header["BUNIT"]).strip() for file, plane in images if "BUNIT" in plane.header}
    if len(set(units.values())) > 1:
        listed = ", ".join(f"{path} {unit!r}" for path, unit in units.items())
        raise ValueError(f"unit: the bands have different units ({listed}); convert them, or give `unit` yourself.")
    return next(iter(units.values()), None)


def _zero_point(header: Any) -> float:
    """AB magnitude of one image unit, NaN if the header does not say."""
    if isinstance(header.get("FLUXMAG0"), float | int) and header["FLUXMAG0"] > 0:
        return 2.5 * float(np.log10(header["FLUXMAG0"]))
    values = [header.get(key) for key in _ZERO_POINT_KEYWORDS]
    return next((float(value) for value in values if isinstance(value, float | int)), float("nan"))
