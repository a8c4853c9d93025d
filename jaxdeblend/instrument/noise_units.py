"""Images in units of about their noise, where single precision cannot hold the squares of their own unit.

In CGS units a pixel may be 1e-20 and its inverse variance 1e42, which single precision does not hold. An observation
of such images stays in double precision on the host, in the unit in which it came. Whatever computes with weights
divides it by one power of two, which is exact, and multiplies fluxes by it afterwards.
"""

import math

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from ..runtime.host import AnyArray, default_dtype
from .observation import Observation


def noise_unit(variance: Float[np.ndarray, "*shape"]) -> float:
    """The power of two next to √ of the median of what is finite and positive; 1 where nothing is.

    Divisions by it are exact.

    Examples
    --------
    >>> import numpy as np
    >>> noise_unit(np.array([60.0, 70.0, np.inf, -1.0]))
    8.0
    """
    known = variance[np.isfinite(variance) & (variance > 0)]
    if known.size == 0:
        return 1.0
    return 2.0 ** round(0.5 * math.log2(float(np.median(known))))


def in_noise_units(obs: Observation) -> tuple[Observation, float]:
    """An observation in a unit whose squares single precision holds, and that unit.

    Parameters
    ----------
    obs
        Observation.

    Returns
    -------
    tuple[Observation, float]
        The observation as it is and 1 for usual units; else the same in units of the power of two next to its typical
        noise. The bands share the unit: spectra of any kind can then be multiplied by it.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> erg = np.full((1, 16, 16), 3e-20), [1e-42]
    >>> obs, unit = in_noise_units(jd.Observation(*erg, jd.GaussianPSF(1.5), bands=["r"]))
    >>> round(unit * 2**70, 3), round(float(obs.images[0, 0, 0]) * unit * 1e20, 3), obs.images.dtype
    (1.0, 3.0, dtype('float32'))
    """
    if not in_double(obs):
        return obs, 1.0
    weights = np.asarray(obs.weights)
    unit = 1 / noise_unit(weights)
    images = _single(np.asarray(obs.images) / unit)
    return eqx.tree_at(lambda o: (o.images, o.weights), obs, (images, _single(weights * unit**2))), unit


def in_double(obs: Observation) -> bool:
    """Whether an observation is in double precision because single precision does not hold its weights."""
    on_host = isinstance(obs.weights, np.ndarray) and not isinstance(obs.weights, jax.Array)
    return on_host and obs.weights.dtype == np.float64 and default_dtype() != np.float64


def _single(values: Float[np.ndarray, "..."]) -> Float[AnyArray, "..."]:
    """Values in single precision; those that it does not hold are the largest and the smallest that it does."""
    limit = np.finfo(np.float32).max
    return np.clip(values, -limit, limit).astype(np.float32)
