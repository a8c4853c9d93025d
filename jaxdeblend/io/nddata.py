"""Exposures from astropy's NDData and CCDData."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from .exposure import Exposure, as_float32
from .grids import common_unit, common_wcs
from .noise import VARIANCE_OF, background_rms, checked_estimate
from .photometry import filter_of, zero_point_of

logger = logging.getLogger(__name__)

_KINDS = {VarianceUncertainty: "variance", StdDevUncertainty: "error", InverseVariance: "weight"}


def exposure_from_nddata(
    data: NDData | Sequence[NDData] | Mapping[str, NDData],
    psf: object,
    *,
    bands: Sequence[str] | None = None,
    zero_point: object | None = None,
) -> Exposure:
    """Make an exposure of astropy's `NDData` or `CCDData`.

    Uncertainties of any kind become variances; without any, the noise of the background is estimated, as
    `read_exposure` does. A mask is True, or not zero, where a pixel is unusable. Zero points and filters are looked for
    in `meta`.

    Parameters
    ----------
    data
        One for each band, by name or in the order of the bands; or one that holds a cube (band, y, x).
    psf
        A PSF, stamps (band, y, x), or a PSF that varies.
    bands
        Names of the bands, where `data` does not tell them.
    zero_point
        AB magnitude of one image unit, one number or one per band; by default what `meta` says.

    Returns
    -------
    Exposure
        The exposure.

    Raises
    ------
    ValueError
        If the bands differ in shape, unit or pixel grid, or their number is not that of the names.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.nddata import CCDData, StdDevUncertainty
    >>> import jaxdeblend as jd
    >>> ccd = CCDData(np.ones((32, 40)), unit="adu", uncertainty=StdDevUncertainty(np.full((32, 40), 2.0)))
    >>> exposure = jd.exposure_from_nddata({"g": ccd, "r": ccd}, jd.GaussianPSF(1.5))
    >>> exposure.bands, exposure.unit, float(exposure.variance[1, 0, 0])
    (('g', 'r'), 'adu', 4.0)
    """
    if isinstance(data, Mapping):
        bands, data = tuple(data), tuple(data.values())
    if bands is None:
        raise ValueError("bands: got None; name the bands, or give a dictionary of NDData by band.")
    parts = _planes_of(data, tuple(bands)) if isinstance(data, NDData) else tuple(data)
    shapes = [np.asarray(part.data).shape for part in parts]
    if len(parts) != len(bands) or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"data: got shapes {shapes} for the {len(bands)} bands {tuple(bands)}; give one image (y, x) of "
            "the same shape for each, or a cube (band, y, x)."
        )
    masks = [np.zeros(shapes[0], bool) if part.mask is None else np.asarray(part.mask) != 0 for part in parts]
    metas = [part.meta or {} for part in parts]
    return Exposure(
        np.stack([as_float32(part.data) for part in parts]),
        _variance(parts, masks, bands),
        psf,
        bands=bands,
        mask=np.stack([np.broadcast_to(mask, shapes[0]) for mask in masks]),
        wcs=common_wcs(bands, [_celestial(band, part.wcs) for band, part in zip(bands, parts, strict=True)], shapes[0]),
        unit=common_unit(
            [(band, None if part.unit is None else str(part.unit)) for band, part in zip(bands, parts, strict=True)]
        ),
        zero_point=[_zero_point(part) for part in parts] if zero_point is None else zero_point,
        filters=[filter_of(meta, {}, band) for meta, band in zip(metas, bands, strict=True)],
    )


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
            uncertainty=None if uncertainty is None else type(uncertainty)(np.asarray(uncertainty.array)[number]),
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
    arrays = [as_float32(getattr(part.uncertainty, "array", None)) for part in parts]
    return np.stack([VARIANCE_OF[kind or ""](array) for kind, array in zip(kinds, arrays, strict=True)])


def _celestial(band: str, wcs: Any) -> WCS | None:
    if isinstance(wcs, WCS) and wcs.has_celestial:
        return wcs
    if wcs is not None:
        logger.warning("%s: its %s is not understood, thus the band has no coordinates.", band, type(wcs).__name__)
    return None


def _zero_point(part: NDData) -> float:
    unit = {} if part.unit is None else {"BUNIT": str(part.unit)}
    return zero_point_of(part.meta or {}, unit)
