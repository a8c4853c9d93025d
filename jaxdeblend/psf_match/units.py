"""Images in units of about their noise: single precision holds neither 1e-42 nor 1e42, squares of usual CGS units."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from ..instrument.noise_units import noise_unit
from .apply import E, Imaged

SAFE = 2.0**40
"""Largest noise, or inverse of the smallest, whose images stay in their own unit; its square is far from the limits."""


def safe_unit(variance: Float[np.ndarray, "*shape"], mask: Bool[np.ndarray, "*shape"]) -> float:
    """The power of two near the noise of usable pixels; 1 for usual ones."""
    unit = noise_unit(variance[~mask])
    return 1.0 if 1 / SAFE <= unit <= SAFE else unit


def units_of(exposure: Imaged) -> Float[np.ndarray, " band"]:
    """The unit of each band, see `safe_unit`."""
    bands = zip(exposure.variance, exposure.mask, strict=True)
    return np.asarray([safe_unit(variance, mask) for variance, mask in bands])


def common_units(one: Float[np.ndarray, " band"], other: Float[np.ndarray, " band"]) -> Float[np.ndarray, " band"]:
    """The second units, but the first where the two are alike: kernels between such images keep their sums."""
    ratio = one / other
    alike = (ratio > 1 / SAFE) & (ratio < SAFE) & (one != 1.0)
    return np.where(alike, one, other)


def multiplied(exposure: E, factors: Float[np.ndarray, " band"]) -> E:
    """An exposure with images multiplied by a factor for each band, and variances by its square."""
    if (factors == 1.0).all():
        return exposure
    factors = factors[:, None, None]
    images = in_range(np.asarray(exposure.images, np.float64) * factors)
    variance = in_range(np.asarray(exposure.variance, np.float64) * factors**2)
    return dataclasses.replace(exposure, images=images, variance=variance)  # type: ignore[type-var]


def in_range(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Values in single precision, or in double where their median lies outside of what that holds safely."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    typical = float(np.median(size)) if size.size else 1.0
    return values.astype(np.float32) if SAFE**-2 <= typical <= SAFE**2 else values
