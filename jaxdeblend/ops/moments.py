"""Moments of stamps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def centroid(image: Float[Array, "y x"]) -> Float[Array, "2"]:
    """Flux-weighted mean position (y, x), with the middle pixel of the stamp as origin.

    Parameters
    ----------
    image
        Stamp with odd edges.

    Returns
    -------
    Float[Array, "2"]
        Σ x f / Σ f in pixels; 0 for a stamp without flux.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> centroid(jnp.array([[0.0, 1.0, 1.0]]))
    Array([0. , 0.5], dtype=float32)
    """
    y, x = _offsets(image)
    flux = _safe(image.sum())
    return jnp.stack([(image * y).sum(), (image * x).sum()]) / flux


def second_moments(image: Float[Array, "y x"]) -> Float[Array, "3"]:
    """Second moments (Q_yy, Q_yx, Q_xx) = Σ f u v / Σ f about the centroid.

    Parameters
    ----------
    image
        Stamp with odd edges.

    Returns
    -------
    Float[Array, "3"]
        Moments in square pixels; 0 for a stamp without flux.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> second_moments(jnp.array([[1.0, 0.0, 1.0]]))
    Array([0., 0., 1.], dtype=float32)
    """
    y, x = _offsets(image)
    middle = centroid(image)
    y, x = y - middle[0], x - middle[1]
    return jnp.stack([(image * y**2).sum(), (image * y * x).sum(), (image * x**2).sum()]) / _safe(image.sum())


def core_centroid(stamps: Float[np.ndarray, "*batch n n"]) -> Float[np.ndarray, "*batch 2"]:
    """Centroid (y, x) of what is above a tenth of the maximum, in pixels from the middle; on the host.

    Parameters
    ----------
    stamps
        Stamps of odd edge.

    Returns
    -------
    Float[np.ndarray, "*batch 2"]
        Offsets.

    Examples
    --------
    >>> import numpy as np
    >>> from jaxdeblend.ops.moments import core_centroid
    >>> core_centroid(np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).tolist()
    [-0.5, 0.0]
    """
    core = np.maximum(stamps - 0.1 * stamps.max(axis=(-2, -1), keepdims=True), 0.0)
    axis = np.arange(stamps.shape[-1]) - stamps.shape[-1] // 2
    total = core.sum(axis=(-2, -1))
    return np.stack([(core.sum(-1) * axis).sum(-1), (core.sum(-2) * axis).sum(-1)], axis=-1) / total[..., None]


def _offsets(image: Float[Array, "y x"]) -> tuple[Float[Array, "y 1"], Float[Array, "1 x"]]:
    y, x = (jnp.arange(edge, dtype=image.dtype) - (edge - 1) // 2 for edge in image.shape)
    return y[:, None], x[None, :]


def _safe(flux: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(flux > 0, flux, 1.0)
