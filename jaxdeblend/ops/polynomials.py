"""Polynomials of two coordinates: how PSFs, kernels and backgrounds vary over an image.

All terms yⁱ xʲ with i + j <= order, the power of y running fastest: 1, y, y², …, x, y x, …, x², …
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

KINDS = ("power", "chebyshev")
"""What `terms` are made of: powers, or Chebyshev polynomials of the first kind."""


def n_terms(order: int) -> int:
    """Number of terms of total degree up to an order, (order + 1)(order + 2) / 2.

    Parameters
    ----------
    order
        Largest total degree.

    Returns
    -------
    int
        Number of terms.

    Raises
    ------
    ValueError
        If the order is negative.

    Examples
    --------
    >>> [n_terms(order) for order in range(4)]
    [1, 3, 6, 10]
    """
    if order < 0:
        raise ValueError(f"order: got {order}; give the largest total degree, 0 or more.")
    return (order + 1) * (order + 2) // 2


def exponents(order: int) -> tuple[tuple[int, int], ...]:
    """Degrees (in y, in x) of each term, in the order of `terms`.

    Parameters
    ----------
    order
        Largest total degree.

    Returns
    -------
    tuple[tuple[int, int], ...]
        A pair for each term, that of y running fastest.

    Raises
    ------
    ValueError
        If the order is negative.

    Examples
    --------
    >>> exponents(2)
    ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2))
    """
    n_terms(order)
    return tuple((i, j) for j in range(order + 1) for i in range(order + 1 - j))


def terms(
    y: Float[Array | np.ndarray, "*shape"], x: Float[Array | np.ndarray, "*shape"], order: int, kind: str = "power"
) -> Float[Array, "*shape term"]:
    """Values of all terms P_i(y) P_j(x) with i + j <= order; the first is 1.

    Parameters
    ----------
    y, x
        Coordinates, scaled to [-1, 1] (see `scaled`).
    order
        Largest total degree.
    kind
        ``"power"``, P_i(y) = yⁱ, or ``"chebyshev"``, P_i = T_i with T_i(y) = 2 y T_{i-1}(y) - T_{i-2}(y).

    Returns
    -------
    Float[Array, "*shape term"]
        The terms, in the order of `exponents`.

    Raises
    ------
    ValueError
        If the order is negative or the kind unknown.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> terms(jnp.array(0.5), jnp.array(2.0), 2).tolist()
    [1.0, 0.5, 0.25, 2.0, 1.0, 4.0]
    """
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}; give one of {', '.join(map(repr, KINDS))}.")
    pairs = exponents(order)
    of_y, of_x = (_polynomials(jnp.asarray(values), order, kind) for values in (y, x))
    return jnp.stack([of_y[i] * of_x[j] for i, j in pairs], axis=-1)


def scaled(
    positions: Float[Array | np.ndarray, "*shape 2"],
    box: tuple[Sequence[int] | Array | np.ndarray, Sequence[int] | Array | np.ndarray],
) -> Float[Array, "*shape 2"]:
    """Positions (y, x) in pixels in units of a box: -1 at the centre of its first pixel, +1 at that of its last.

    u = (p - start - (shape - 1) / 2) / ((shape - 1) / 2); an axis of one pixel is divided by 1/2 instead.

    Parameters
    ----------
    positions
        Positions in pixels; integers are pixel centres.
    box
        (start, shape) of the box, both (y, x).

    Returns
    -------
    Float[Array, "*shape 2"]
        The same positions in [-1, 1], and beyond that outside of the box.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> scaled(jnp.array([[10.0, 0.0], [15.0, 40.0]]), ((10, 0), (11, 41))).tolist()
    [[-1.0, -1.0], [0.0, 1.0]]
    """
    given = jnp.asarray(positions)
    start, shape = (jnp.asarray(values, given.dtype) for values in box)
    half = (shape - 1) / 2
    one = (1,) * (given.ndim - 1) + (2,)
    return (given - (start + half).reshape(one)) / jnp.maximum(half, 0.5).reshape(one)


def _polynomials(value: Float[Array, "*shape"], order: int, kind: str) -> list[Float[Array, "*shape"]]:
    """P_0, …, P_order by recurrence, which has a derivative at 0 too."""
    found = [jnp.ones_like(value), value]
    while len(found) <= order:
        following = value * found[-1]
        found.append(2 * following - found[-2] if kind == "chebyshev" else following)
    return found
