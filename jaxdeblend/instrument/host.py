"""Arrays that stay on the side where they are: NumPy on the host, JAX on the device.

Host work in NumPy compiles nothing, so that inputs of ever new shapes cost no compilation.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

AnyArray = Array | np.ndarray
"""A NumPy or a JAX array."""


def host_or_device(values: object) -> Float[AnyArray, "..."]:
    """Floating-point array of JAX's default type that stays where it is.

    Parameters
    ----------
    values
        A JAX array or tracer, or what NumPy makes an array of. Host values too large for the type become infinite.

    Returns
    -------
    Float[AnyArray, "..."]
        A JAX array for a JAX array, else a NumPy array.

    Examples
    --------
    >>> type(host_or_device([1, 2])).__name__
    'ndarray'
    """
    if isinstance(values, jax.Array):
        return jnp.asarray(values, dtype=float)
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=default_dtype())


def default_dtype() -> np.dtype:
    """JAX's default floating-point type: float32, or float64 under x64.

    Examples
    --------
    >>> default_dtype().kind
    'f'
    """
    return jax.dtypes.canonicalize_dtype(float)
