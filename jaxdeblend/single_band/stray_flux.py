"""Dividing the image between the templates, and the light that no template reaches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FAR = 1e6
"""Pixels; farther than anything in an image."""


def template_fractions(
    templates: Float[Array, "source y x"],
) -> tuple[Float[Array, "source y x"], Bool[Array, "y x"]]:
    """Share of every source in every pixel, t_i / Σ_j t_j, and where there is any template.

    Parameters
    ----------
    templates
        Templates, not negative.

    Returns
    -------
    tuple
        Shares, 0 where no template reaches; and where one does.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> shares, reached = template_fractions(jnp.array([[[1.0, 0.0]], [[3.0, 0.0]]]))
    >>> shares[:, 0, 0], reached[0]
    (Array([0.25, 0.75], dtype=float32), Array([ True, False], dtype=bool))
    """
    total = templates.sum(axis=0)
    reached = total > jnp.finfo(total.dtype).tiny / jnp.finfo(total.dtype).eps
    return jnp.where(reached[None], templates / jnp.where(reached, total, 1.0)[None], 0.0), reached


def stray_fractions(
    templates: Float[Array, "source y x"],
    centers: Float[Array, "source 2"],
    is_psf: Bool[Array, " source"],
    *,
    rule: str,
    to_point_sources: str,
    smallest: float,
) -> Float[Array, "source y x"]:
    """Share of every source in every pixel, were it one of stray light.

    Parameters
    ----------
    templates
        Templates; a source without a positive pixel gets nothing.
    centers
        Peaks in pixels.
    is_psf
        Which are point sources.
    rule
        ``"r-to-peak"``, ``"r-to-footprint"``, ``"nearest-footprint"`` or ``"trim"``; see
        `jaxdeblend.single_band.SingleBandConfig`.
    to_point_sources
        ``"necessary"``, ``"always"`` or ``"never"``.
    smallest
        Shares below this are given to the others.

    Returns
    -------
    Float[Array, "source y x"]
        Shares; their sum is 1, or 0 where nobody gets anything.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> templates = jnp.zeros((2, 1, 5)).at[0, 0, 0].set(1.0).at[1, 0, 3].set(1.0)
    >>> centers, options = jnp.array([[0.0, 0.0], [0.0, 3.0]]), {"to_point_sources": "always", "smallest": 0.001}
    >>> stray_fractions(templates, centers, jnp.zeros(2, bool), rule="nearest-footprint", **options)[0, 0]
    Array([1., 1., 0., 0., 0.], dtype=float32)
    """
    support = templates > 0
    eligible = _eligible(support.any(axis=(-2, -1)), is_psf, to_point_sources)
    if rule == "trim":
        return jnp.zeros_like(templates)
    if rule == "nearest-footprint":
        distance = jnp.where(eligible[:, None, None], jax.vmap(step_distance)(support), 2 * FAR)
        nearest = jnp.argmin(distance, axis=0)[None] == jnp.arange(len(templates))[:, None, None]
        return (nearest & eligible[:, None, None]).astype(templates.dtype)
    r2 = _squared_radius(templates, centers) if rule == "r-to-peak" else jax.vmap(squared_distance)(support)
    weight = jnp.where(eligible[:, None, None], 1 / (1 + r2), 0.0)
    fractions = _normalized(weight)
    return _normalized(jnp.where(fractions < smallest, 0.0, fractions))


def _eligible(has_template: Bool[Array, " n"], is_psf: Bool[Array, " n"], to_point_sources: str) -> Bool[Array, " n"]:
    extended = has_template & ~is_psf
    if to_point_sources == "always":
        return has_template
    return extended if to_point_sources == "never" else jnp.where(extended.any(), extended, has_template)


def _squared_radius(
    templates: Float[Array, "source y x"], centers: Float[Array, "source 2"]
) -> Float[Array, "source y x"]:
    y, x = (jnp.arange(edge, dtype=centers.dtype) for edge in templates.shape[1:])
    return (y[None, :, None] - centers[:, 0, None, None]) ** 2 + (x[None, None, :] - centers[:, 1, None, None]) ** 2


def _normalized(weight: Float[Array, "source y x"]) -> Float[Array, "source y x"]:
    total = weight.sum(axis=0)
    return weight / jnp.where(total > 0, total, 1.0)[None]


def step_distance(mask: Bool[Array, "y x"]) -> Float[Array, "y x"]:
    """Steps along rows and columns to the nearest pixel of a mask; at least `FAR` if it is empty.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> step_distance(jnp.array([[True, False], [False, False]]))
    Array([[0., 1.],
           [1., 2.]], dtype=float32)
    """
    distance = jnp.where(mask, 0.0, FAR).astype(float)
    return _steps_along(_steps_along(distance).T).T


def _steps_along(distance: Float[Array, "y x"]) -> Float[Array, "y x"]:
    """min_q (d(q) + abs(p - q)) along y."""
    place = jnp.arange(distance.shape[0], dtype=distance.dtype)[:, None]
    forward = jax.lax.cummin(distance - place, axis=0) + place
    return jnp.minimum(forward, jax.lax.cummin(distance + place, axis=0, reverse=True) - place)


def squared_distance(mask: Bool[Array, "y x"]) -> Float[Array, "y x"]:
    """Square of the distance to the nearest pixel of a mask; at least `FAR` if it is empty.

    The distance along x first, then min_q (d²(q) + (p - q)²) along y (Felzenszwalb & Huttenlocher 2012, Theory of
    Computing 8, 415), over all q: rows are few.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> squared_distance(jnp.array([[True, False], [False, False]]))
    Array([[0., 1.],
           [1., 2.]], dtype=float32)
    """
    along_x = _steps_along(jnp.where(mask, 0.0, FAR).astype(float).T).T
    place = jnp.arange(mask.shape[0], dtype=along_x.dtype)
    apart = (place[:, None] - place[None, :]) ** 2
    return (apart[:, :, None] + along_x[None, :, :] ** 2).min(axis=1)
