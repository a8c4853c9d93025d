"""Exposures described in a TOML file: which files, bands, PSFs and mask planes."""

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..instrument.psf import AbstractPSF, MoffatPSF
from ..instrument.psf_field import AbstractPSFField, ConstantPSFField, PolynomialPSFField
from .exposure import Exposure
from .exposure_files import STAND_IN_PSF, open_exposure
from .exposure_writing import LAYOUTS, band_files
from .files import PathLike, staged_folder
from .lazy import LazyExposure
from .psf_files import read_psf_field, write_psf_field
from .reading import reading

DESCRIPTION = "exposure.toml"
"""Name of the file that describes an exposure."""

_PATHS = ("images", "psf", "variance", "weight", "rms", "exposure_time", "mask")


@dataclasses.dataclass(frozen=True)
class ExposureDescription:
    """What an exposure consists of, as a TOML file tells it; see `read_description`.

    Attributes
    ----------
    bands
        Names of the bands, in order.
    images
        Files of images: one per band, or one for all.
    psf
        Files of PSFs: PSFEx models, stamps, or a cube of stamps.
    psf_fwhm
        Instead: FWHM of Moffat profiles of β = 3 in pixels, one or one per band.
    variance, weight, rms, exposure_time, mask
        Files of variances, weights (1 / variance), standard deviations, exposure times and masks, where they are not in
        those of the images.
    noise_kind
        What the noise planes in the files of the images are, whatever their names: ``variance``, ``weight``, ``rms`` or
        ``exposure_time``.
    mask_kind
        Survey whose bits the masks have, see `read_exposure`.
    bad_mask
        Mask planes, or numbers of bits, whose pixels are not used.
    unit
        Unit of the images.
    zero_point
        AB magnitude of one image unit, one or one per band.
    psf_error
        Error of the PSF as a fraction of the light of a pixel, one or one per band, see `Observation`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> description = jd.ExposureDescription(("g", "r"), images=("g.fits", "r.fits"), psf_fwhm=(4.1, 3.8))
    >>> description.bands, description.bad_mask
    (('g', 'r'), None)
    """

    bands: tuple[str, ...]
    images: tuple[str, ...]
    psf: tuple[str, ...] = ()
    psf_fwhm: tuple[float, ...] = ()
    variance: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    rms: tuple[str, ...] = ()
    exposure_time: tuple[str, ...] = ()
    noise_kind: str | None = None
    mask: tuple[str, ...] = ()
    mask_kind: str | None = None
    bad_mask: tuple[str | int, ...] | None = None
    unit: str | None = None
    zero_point: tuple[float, ...] | None = None
    psf_error: tuple[float, ...] = ()

    def open(self) -> LazyExposure:
        """Open the exposure without reading its pixels, see `open_exposure`."""
        point = self.zero_point
        exposure = open_exposure(
            self.images,
            bands=self.bands,
            psf=STAND_IN_PSF,
            bad_mask=self.bad_mask,
            variance=self.variance or None,
            weight=self.weight or None,
            rms=self.rms or None,
            exposure_time=self.exposure_time or None,
            noise_kind=self.noise_kind,
            mask=self.mask or None,
            mask_kind=self.mask_kind,
            unit=self.unit,
            zero_point=point[0] if point is not None and len(point) == 1 else point,
            psf_error=self.psf_error or 0.0,
        )
        return exposure.with_psf(self.read_psf(exposure.pixel_scale))

    def read(self) -> Exposure:
        """Read the exposure."""
        return self.open().read()

    def read_psf(self, pixel_scale: float | None = None) -> AbstractPSF | AbstractPSFField:
        """Read the PSF, or make it from its widths. Oversampled stamps are known by the pixel scale of the images."""
        if self.psf_fwhm:
            return MoffatPSF(self.psf_fwhm)
        field = read_psf_field(self.psf, self.bands, pixel_scale=pixel_scale)
        return field.psf if isinstance(field, ConstantPSFField) else field


def read_description(path: PathLike) -> ExposureDescription:
    r"""Read the description of an exposure from a TOML file.

    ``bands`` and ``images`` must be there, and either ``psf`` or ``psf_fwhm``. Other keys are those of
    `ExposureDescription`. What is of each band is a list in the order of the bands, a table by band, or one value for
    all; files may be a pattern with ``{band}``. Relative paths start at the folder of the file.

    Parameters
    ----------
    path
        The file, by custom ``exposure.toml``.

    Returns
    -------
    ExposureDescription
        The description; its ``open()`` and ``read()`` give the exposure.

    Raises
    ------
    ValueError
        If it is not TOML, if a key is unknown or missing, or a value is of another type.
    FileNotFoundError
        If the file does not exist.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from jaxdeblend.io import read_description
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "exposure.toml"
    >>> _ = path.write_text('bands = ["g", "r"]\nimages = "coadd_{band}.fits"\npsf_fwhm = {g = 4.1, r = 3.8}')
    >>> description = read_description(path)
    >>> pathlib.Path(description.images[1]).name, description.psf_fwhm
    ('coadd_r.fits', (4.1, 3.8))
    """
    path = Path(path)
    with reading(path, "TOML file", allow_empty=True):
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        try:
            return _description(given, path.parent)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def write_described(
    folder: PathLike, exposure: Exposure, *, name: str = "exposure", layout: str = "lsst", overwrite: bool = False
) -> Path:
    """Write an exposure in the layout of a survey, with its PSFs and a description of it all.

    Parameters
    ----------
    folder
        Where to write. The files appear together, once all are written.
    exposure
        The exposure; its PSF must be the same everywhere, or a `PolynomialPSFField`.
    name
        Beginning of the names of the images.
    layout
        ``"lsst"``: one file per band with IMAGE, MASK and VARIANCE. ``"sci"``: the same with SCI, MSK and WGT.
        ``"legacy"``: image and invvar of each band, and maskbits of all, in which only saturated and other unusable
        pixels are told apart.
    overwrite
        Whether the files may exist already.

    Returns
    -------
    Path
        The description, ``exposure.toml``, for `read_description`.

    Raises
    ------
    ValueError
        If there is no such layout, or the PSF cannot be written.
    FileExistsError
        If a file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> exposure = jd.Exposure(np.ones((2, 32, 40)), [1.0, 4.0], jd.GaussianPSF(1.5), bands="gr", unit="nJy")
    >>> path = jd.write_described(tempfile.mkdtemp(), exposure, layout="sci")
    >>> jd.read_description(path).read().variance[:, 0, 0].tolist()
    [1.0, 4.0]
    """
    files = band_files(exposure, name, layout)
    names = described_files(exposure.bands, name=name, layout=layout, varying=_varies(exposure))
    psf = _psf_pattern(_varies(exposure))
    with staged_folder(folder, names, overwrite=overwrite) as stage:
        for file, write in files.items():
            write(stage / file)
        _write_psfs(stage / psf, exposure)
        entries = {key: pattern.format(name=name) for key, pattern in LAYOUTS[layout].items()}
        (stage / DESCRIPTION).write_text(_toml({"bands": exposure.bands, **entries, "psf": psf}))
    return Path(folder) / DESCRIPTION


def described_files(
    bands: Sequence[str], *, name: str = "exposure", layout: str = "lsst", varying: bool = True
) -> tuple[str, ...]:
    """Names of the files that `write_described` writes.

    Parameters
    ----------
    bands
        Names of the bands.
    name, layout
        As for `write_described`.
    varying
        Whether the PSF varies.

    Returns
    -------
    tuple[str, ...]
        The names.

    Raises
    ------
    ValueError
        If there is no such layout.

    Examples
    --------
    >>> described_files(["r"], name="sky")
    ('sky_r.fits', 'psf_r.psf', 'exposure.toml')
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: got {layout!r}; give one of {', '.join(LAYOUTS)}.")
    patterns = [pattern.format(name=name) for pattern in LAYOUTS[layout].values()] + [_psf_pattern(varying)]
    spelled = [pattern.replace("{band}", band) for pattern in patterns for band in bands]
    return (*dict.fromkeys(spelled), DESCRIPTION)


def _varies(exposure: Exposure) -> bool:
    return isinstance(exposure.psf, PolynomialPSFField)


def _psf_pattern(varying: bool) -> str:
    return "psf_{band}.psf" if varying else "psf_{band}.fits"


def _write_psfs(pattern: Path, exposure: Exposure) -> None:
    psf = exposure.psf
    if isinstance(psf, ConstantPSFField):
        psf = psf.psf
    if isinstance(psf, AbstractPSF):
        stamps = [*psf.stamp(psf.edge)] * (len(exposure.bands) if psf.n_bands == 1 else 1)
        for band, stamp in zip(exposure.bands, stamps, strict=True):
            fits.PrimaryHDU(np.asarray(stamp, np.float32)).writeto(str(pattern).replace("{band}", band))
    elif isinstance(psf, PolynomialPSFField):
        write_psf_field(pattern, psf, exposure.bands)
    else:
        raise ValueError(f"exposure: its PSF is a {type(psf).__name__}, which no file holds; fit polynomials to it.")


def _toml(entries: Mapping[str, object]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())


def _description(given: dict[str, Any], folder: Path) -> ExposureDescription:
    known = [field.name for field in dataclasses.fields(ExposureDescription)]
    for key in given:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key {key!r}; did you mean {nearest!r}? Known are {', '.join(known)}.")
    for key in ("bands", "images"):
        if key not in given:
            raise ValueError(f"the key {key!r} is missing.")
    if ("psf" in given) == ("psf_fwhm" in given):
        raise ValueError("give the PSF, either as files, psf, or as widths, psf_fwhm.")
    bands = _list("bands", given["bands"], str)
    values: dict[str, Any] = {"bands": bands}
    for key in _PATHS:
        if key in given:
            values[key] = tuple(str(folder / name) for name in _of_bands(key, given[key], bands, str))
    for key in ("psf_fwhm", "zero_point", "psf_error"):
        if key in given:
            values[key] = tuple(float(number) for number in _of_bands(key, given[key], bands, int | float))
    if not all(0 < width < math.inf for width in values.get("psf_fwhm", ())):
        raise ValueError(f"psf_fwhm: got {values['psf_fwhm']}; give positive numbers of pixels.")
    if not all(0 <= error < 1 for error in values.get("psf_error", ())):
        raise ValueError(f"psf_error: got {values['psf_error']}; give fractions of the light, from 0 to 1.")
    if any(math.isinf(point) for point in values.get("zero_point", ())):
        raise ValueError(f"zero_point: got {values['zero_point']}; give magnitudes, or nan where unknown.")
    if "bad_mask" in given:
        values["bad_mask"] = _list("bad_mask", given["bad_mask"], str | int)
    for key in ("unit", "noise_kind", "mask_kind"):
        if key in given:
            (values[key],) = _list(key, [given[key]], str)
    return ExposureDescription(**values)


def _of_bands(key: str, value: Any, bands: tuple[str, ...], kind: Any) -> tuple[Any, ...]:
    """One value for each band, or one for all, from a value, a list or a table."""
    if isinstance(value, dict):
        unlike = sorted(set(value) ^ set(bands))
        if unlike:
            raise ValueError(f"{key}: got entries for {', '.join(value)}, but the bands are {', '.join(bands)}.")
        value = [value[band] for band in bands]
    if isinstance(value, str) and "{band}" in value:
        value = [value.replace("{band}", band) for band in bands]
    values = _list(key, value if isinstance(value, list) else [value], kind)
    if len(values) not in (1, len(bands)):
        raise ValueError(f"{key}: got {len(values)} values for {len(bands)} bands; give one, or one per band.")
    return values


def _list(key: str, value: Any, kind: Any) -> tuple[Any, ...]:
    """A list of values of one type; in TOML, true is no number."""
    fits_in = isinstance(value, list) and all(isinstance(one, kind) and not isinstance(one, bool) for one in value)
    if not fits_in or not (value or key == "bad_mask"):
        wanted = {str: "text", int | float: "numbers", str | int: "names or numbers of bits"}[kind]
        raise ValueError(f"{key}: got {value!r}; give {wanted}.")
    return tuple(value)
