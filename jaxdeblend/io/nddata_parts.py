"""What astropy's NDData and CCDData say of an exposure."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy import units
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from ..instrument.psf import ImagePSF
from .arrays import as_float32
from .filters import check_filters
from .grids import common_unit, common_wcs
from .noise import ROLE_OF_KIND, VARIANCE_OF, background_rms, checked_estimate
from .noise_check import check_noise
from .photometry import filter_of, stated_filter, zero_point_of

logger = logging.getLogger(__name__)

_KINDS = {VarianceUncertainty: "variance", StdDevUncertainty: "rms", InverseVariance: "weight"}


def is_nddata(data: object) -> bool:
    """Whether it is an NDData, or a sequence of them."""
    return isinstance(data, NDData) or (
        isinstance(data, list | tuple) and len(data) > 0 and all(isinstance(part, NDData) for part in data)
    )


def facts_of(data: Any, bands: Sequence[str]) -> dict[str, Any]:
    """Arguments of an `Exposure`, by name: images, variance, psf, mask, wcs, unit, zero_point and filters."""
    parts = _planes_of(data, tuple(bands)) if isinstance(data, NDData) else tuple(data)
    shapes = [np.asarray(part.data).shape for part in parts]
    if len(parts) != len(bands) or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"data: got shapes {shapes} for the {len(bands)} bands {tuple(bands)}; give one image (y, x) of "
            "the same shape for each, or a cube (band, y, x)."
        )
    masks = [np.zeros(shapes[0], bool) if part.mask is None else np.asarray(part.mask) != 0 for part in parts]
    metas = [part.meta or {} for part in parts]
    if not isinstance(data, NDData):  # the planes of a cube share what is said of them
        check_filters(bands, [stated_filter(meta) for meta in metas], bands)
    grids = [_celestial(band, part.wcs) for band, part in zip(bands, parts, strict=True)]
    unit = common_unit(
        [(band, None if part.unit is None else str(part.unit)) for band, part in zip(bands, parts, strict=True)]
    )
    return {
        "images": np.stack([as_float32(part.data, "data") for part in parts]),
        "variance": _variance(parts, masks, bands),
        "psf": _common_psf(parts),
        "mask": np.stack([np.broadcast_to(mask, shapes[0]) for mask in masks]),
        "wcs": common_wcs(bands, grids, shapes[0]),
        "unit": unit,
        "zero_point": [_zero_point(part) for part in parts],
        "filters": [filter_of(meta, {}, band) for meta, band in zip(metas, bands, strict=True)],
    }


def _planes_of(cube: NDData, bands: tuple[str, ...]) -> tuple[NDData, ...]:
    """The bands of a cube, or the only band."""
    shape = np.asarray(cube.data).shape
    if len(shape) == 2:
        return (cube,)
    if len(shape) != 3 or shape[0] != len(bands):
        raise ValueError(f"data: got shape {shape} for the {len(bands)} bands {bands}; give a cube (band, y, x).")
    mask = None if cube.mask is None else np.broadcast_to(np.asarray(cube.mask), shape)
    wcs = cube.wcs.celestial if isinstance(cube.wcs, WCS) and cube.wcs.has_celestial else None
    shared = {"wcs": wcs, "unit": cube.unit, "meta": cube.meta}
    uncertainty: Any = cube.uncertainty
    return tuple(
        NDData(
            np.asarray(cube.data)[number],
            mask=None if mask is None else mask[number],
            uncertainty=None if uncertainty is None else _part(uncertainty, number),
            psf=_psf_of(cube, number),
            **shared,
        )
        for number in range(len(bands))
    )


def _variance(parts: Sequence[NDData], masks: Sequence[np.ndarray], bands: Sequence[str]) -> np.ndarray:
    kinds = [_KINDS.get(type(part.uncertainty)) for part in parts]
    if all(part.uncertainty is None for part in parts):
        pairs = zip(bands, parts, masks, strict=True)
        return np.array(checked_estimate({band: background_rms(as_float32(p.data), mask) for band, p, mask in pairs}))
    strange = [band for band, kind in zip(bands, kinds, strict=True) if kind is None]
    if strange:
        raise ValueError(
            f"data: band {', '.join(strange)} has no uncertainty that is known; give a StdDevUncertainty, "
            "VarianceUncertainty or InverseVariance for each band, or none at all."
        )
    variances = [_converted(part, kind or "") for part, kind in zip(parts, kinds, strict=True)]
    for band, part, mask, kind, variance in zip(bands, parts, masks, kinds, variances, strict=True):
        _look(band, part, mask, kind or "", variance)
    return np.stack(variances)


def _converted(part: NDData, kind: str) -> np.ndarray:
    """Variance of a band, in the squared unit of its data."""
    uncertainty: Any = part.uncertainty
    variance = VARIANCE_OF[ROLE_OF_KIND[kind]](as_float32(uncertainty.array))
    if uncertainty.unit is None or part.unit is None:
        return variance
    power = {"variance": 1, "rms": 2, "weight": -1}[kind]
    try:
        factor = (uncertainty.unit**power).to(part.unit**2)
    except units.UnitConversionError as error:
        raise ValueError(
            f"data: its uncertainty has the unit {str(uncertainty.unit)!r}, its pixels {str(part.unit)!r}; give an "
            "uncertainty that can be converted."
        ) from error
    return as_float32(variance.astype(float) * factor)


def _look(band: str, part: NDData, mask: np.ndarray, kind: str, variance: np.ndarray) -> None:
    """Compare the uncertainty of a band with the scatter of its pixels."""
    image, plane = as_float32(part.data), as_float32(getattr(part.uncertainty, "array", None))
    with np.errstate(invalid="ignore"):
        sigma = np.sqrt(variance)
    usable = ~np.broadcast_to(mask, image.shape) & np.isfinite(image) & np.isfinite(sigma) & (sigma > 0)
    check_noise("uncertainty", band, kind, [image], [np.broadcast_to(plane, image.shape)], [sigma], [usable])


def _part(uncertainty: Any, number: int) -> Any:
    """Uncertainty of one band of a cube."""
    return type(uncertainty)(np.asarray(uncertainty.array)[number], unit=uncertainty.unit)


def _psf_of(cube: NDData, number: int) -> np.ndarray | None:
    """PSF of one band of a cube: one stamp, or one per band."""
    psf = getattr(cube, "psf", None)
    if psf is None:
        return None
    return np.asarray(psf)[number] if np.ndim(psf) == 3 else np.asarray(psf)


def _common_psf(parts: Sequence[NDData]) -> np.ndarray | None:
    """Stamps of all bands, None if a band has none."""
    stamps = [getattr(part, "psf", None) for part in parts]
    if any(stamp is None for stamp in stamps):
        return None
    psfs = [ImagePSF(np.asarray(stamp, np.float32)[None]) for stamp in stamps]
    edge = max(psf.edge for psf in psfs)
    return np.concatenate([np.asarray(psf.stamp(edge)) for psf in psfs])


def _celestial(band: str, wcs: Any) -> WCS | None:
    if isinstance(wcs, WCS) and wcs.has_celestial:
        return wcs
    if wcs is not None:
        logger.warning("%s: its %s is not understood, thus the band has no coordinates.", band, type(wcs).__name__)
    return None


def _zero_point(part: NDData) -> float:
    unit = {} if part.unit is None else {"BUNIT": str(part.unit)}
    return zero_point_of(part.meta or {}, unit)
