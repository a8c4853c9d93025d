"""Flux-conserving re-distribution of an image over models, and the overlap between models."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def apportion(
    models: Float[Array, "source *image"],
    image: Float[Array, "*image"],
    good: Bool[Array, "*image"],
    floor: Float[Array, "..."] | float = 0.0,
) -> tuple[Float[Array, "source *image"], Float[Array, "*image"]]:
    """Divide an image in proportion to models, child_k = I · max(M_k, 0) / Σ_j max(M_j, 0).

    Parameters
    ----------
    models
        Models as observed.
    image
        The image I.
    good
        Where the image may be used; nothing is assigned elsewhere.
    floor
        Pixels whose summed models do not exceed this stay unassigned.

    Returns
    -------
    tuple
        The children, and the unassigned rest I - Σ child.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> children, rest = apportion(jnp.array([[1.0, 0.0], [3.0, 0.0]]), jnp.array([8.0, 5.0]), jnp.array([True, True]))
    >>> children[:, 0], rest
    (Array([2., 6.], dtype=float32), Array([0., 5.], dtype=float32))
    """
    positive = jnp.maximum(models, 0.0)
    total = positive.sum(axis=0)
    assigned = good & (total > floor)
    share = positive / jnp.where(assigned, total, 1.0)[None]
    children = jnp.where(assigned[None], share * image[None], 0.0)
    return children, image - children.sum(axis=0)


def blendedness(
    models: Float[Array, "source y x"],
) -> Float[Array, " source"]:
    """Share of a source's own pixels that belongs to others, 1 - Σ m_k² / Σ m_k M with M = Σ_j m_j.

    0 for an isolated source, near 1 for one lost in another's light (Bosch et al. 2018, PASJ 70, S5, eq. 9,
    with the models in place of the children).

    Parameters
    ----------
    models
        Models as observed.

    Returns
    -------
    Float[Array, " source"]
        Blendedness; 0 for a source without flux.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> blendedness(jnp.ones((2, 3, 3)))
    Array([0.5, 0.5], dtype=float32)
    """
    positive = jnp.maximum(models, 0.0)
    # in units of each model's maximum: squares of fluxes leave the range of float32 easily
    peak = _safe(positive.max(axis=(-2, -1)))
    own = (positive / peak[:, None, None]).reshape(len(models), -1)
    products = own @ own.T
    overlap = products @ peak / peak
    return jnp.where(overlap > 0, 1 - jnp.diagonal(products) / _safe(overlap), 0.0)


def _safe(value: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(value > 0, value, 1.0)
