"""Arrays on the host, as exposures hold them."""

import jax
import numpy as np

from ..runtime.inputs import plain_numbers


def as_float32(values: object, name: str = "values") -> np.ndarray:
    """Host array of float32; values beyond its range become infinite and masked ones NaN, thus unusable."""
    host = np.asarray(jax.device_get(plain_numbers(values, name)))
    with np.errstate(over="ignore"):
        return host.astype(np.float32, copy=False)


def as_float64(values: object, name: str = "values") -> np.ndarray:
    """Host array of float64; masked ones are NaN, thus unusable."""
    return np.asarray(jax.device_get(plain_numbers(values, name)), np.float64)
