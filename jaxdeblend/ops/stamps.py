"""Placing sub-pixel stamps into a frame and cutting them out again, an exact adjoint pair.

A stamp is sampled on its own grid, whose centre sample lies on the source's (sub-pixel) centre. A frame pixel
receives the band-limited interpolation of the stamp at its own position. The interpolation is separable,

    frame = P_y · stamp · P_xᵀ,      P_y[y, s] = L(y - (c_y + s - half)),

with L the Lanczos kernel: shift, integer offset and clipping at the frame's border are one pair of small
matrices, which differ between sources only by the numbers in them. So positions are arrays (nothing
recompiles when a source moves), a batch of stamps is two batched matrix products, gradients with respect to
the centre exist, and the transposed matrices are the exact adjoint.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LANCZOS_ORDER = 5
"""Half-width of the interpolation kernel in pixels.

Interpolating the model-space PSF (a Gaussian of 0.8 px, pixel-integrated) half-way between samples leaves a
largest error of 1.7 % of its peak at order 3, 0.4 % at order 5, and no less beyond: the rest is aliasing of that
PSF, which every band's difference kernel then suppresses.
"""

N_POWERS = 16
"""Number of coefficients of the polynomials for the weights, a power of two. 8 leave errors of 1e-6, 16 of 1e-12."""


def lanczos(x: Float[Array, "..."], order: int = LANCZOS_ORDER) -> Float[Array, "..."]:
    """Lanczos kernel L(x) = sinc(x) sinc(x / a) for abs(x) < a, else 0.

    Parameters
    ----------
    x
        Distance in pixels.
    order
        The half-width a.

    Returns
    -------
    Float[Array, "..."]
        L(x); L(0) = 1 and L(n) = 0 at every other integer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> [round(float(v), 3) for v in lanczos(jnp.array([0.0, 0.5, 1.5]))]
    [1.0, 0.626, -0.182]
    """
    return jnp.where(jnp.abs(x) < order, jnp.sinc(x) * jnp.sinc(x / order), 0.0)


def placement(
    center: Float[Array, ""], frame_edge: int, stamp_edge: int, order: int = LANCZOS_ORDER
) -> Float[Array, "frame stamp"]:
    """Matrix that places a stamp along one axis of a frame.

    The weights of one frame pixel are the Lanczos weights of the stamp samples around it, divided by the sum
    over the full (untruncated) comb, so that a constant stays constant.

    Parameters
    ----------
    center
        Position of the stamp's middle sample in frame pixels (0-based, integers are pixel centres).
    frame_edge
        Edge of the frame in pixels.
    stamp_edge
        Edge of the stamp in samples; odd.
    order
        Order of the Lanczos kernel.

    Returns
    -------
    Float[Array, "frame stamp"]
        The matrix P; P @ stamp places, P.T @ frame cuts.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> frame = placement(jnp.asarray(2.0), 5, 3) @ jnp.array([1.0, 2.0, 1.0])
    >>> bool(jnp.allclose(frame, jnp.array([0.0, 1.0, 2.0, 1.0, 0.0]), atol=1e-6))
    True
    """
    center = jnp.asarray(center)
    return placement_of_taps(center, taps(center, order), frame_edge, stamp_edge)


def taps(
    center: Float[Array, ""], order: int = LANCZOS_ORDER
) -> tuple[Float[Array, " tap"], Float[Array, " tap"], Float[Array, ""]]:
    """The few weights that are not 0 about a centre, their derivatives with respect to it, and its whole part.

    Stamps of several sizes, and both axes, share them.
    """
    whole = jnp.floor(center)
    x = 2 * (center - whole) - 1
    powers = jnp.stack([jnp.ones_like(x), x])
    while len(powers) < N_POWERS:  # x⁰ to x³ from x⁰ and x¹, and so on: few operations to compile
        powers = jnp.concatenate([powers, powers * x ** len(powers)])
    coefficients = jnp.asarray(_tap_polynomials(order), center.dtype)
    values, slopes = jnp.matmul(powers, coefficients, precision=jax.lax.Precision.HIGHEST).reshape(2, -1)
    return values, slopes, whole


@functools.cache
def _tap_polynomials(order: int) -> np.ndarray:
    """Coefficients (power, 2 taps) of polynomials for the weights of `taps`, then for their derivatives.

    On one pixel, the weights are smooth functions of the centre. Sines and their derivatives would be a third of all
    that is compiled for a fit; these polynomials, which agree at the Chebyshev nodes, differ by less than 1e-12.
    """
    nodes = np.polynomial.chebyshev.chebpts1(N_POWERS)
    near = np.arange(1 - order, order + 1)
    distance = near[None, :] - 0.5 * (nodes[:, None] + 1)
    kernel = np.sinc(distance) * np.sinc(distance / order)
    weights = kernel / kernel.sum(axis=1, keepdims=True)
    fitted = [np.polynomial.Chebyshev.fit(nodes, tap, N_POWERS - 1, domain=(-1, 1)) for tap in weights.T]
    # the polynomials are in x = 2 c - 1, where c is the centre's fraction of a pixel
    both = [polynomial.convert(kind=np.polynomial.Polynomial) for polynomial in fitted]
    both += [2 * polynomial.deriv() for polynomial in both]
    coefficients = np.zeros((N_POWERS, len(both)))
    for index, polynomial in enumerate(both):
        coefficients[: len(polynomial.coef), index] = polynomial.coef
    return coefficients


def cubic(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Kernel of cubic interpolation (Keys 1981, IEEE Trans. ASSP 29, 1153; a = -1/2); 0 from a distance of 2 on.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> cubic(jnp.array([0.0, 0.5, 1.0, 1.5, 2.0]))
    Array([ 1.    ,  0.5625,  0.    , -0.0625,  0.    ], dtype=float32)
    """
    x = jnp.minimum(jnp.abs(x), 2.0)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, far)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def placement_of_taps(
    center: Float[Array, ""],
    taps: tuple[Float[Array, " tap"], Float[Array, " tap"], Float[Array, ""]],
    frame_edge: int,
    stamp_edge: int,
) -> Float[Array, "frame stamp"]:
    """The matrix of `placement` from the weights about a centre.

    It is a Toeplitz matrix, and so is its derivative: the gradient with respect to the centre is then a product and a
    sum, not a scattering.
    """
    del center
    values, _, whole = taps
    return _toeplitz(values, whole, frame_edge, stamp_edge)


@placement_of_taps.defjvp
def _placement_of_taps_jvp(
    frame_edge: int, stamp_edge: int, primals: tuple[Array, tuple], tangents: tuple[Array, tuple]
) -> tuple[Float[Array, "frame stamp"], Float[Array, "frame stamp"]]:
    """The change of the centre alone counts: that of the weights follows from it."""
    values, slopes, whole = primals[1]
    slope = _toeplitz(slopes, whole, frame_edge, stamp_edge)
    return _toeplitz(values, whole, frame_edge, stamp_edge), slope * tangents[0]


def _toeplitz(
    taps: Float[Array, " tap"], whole: Float[Array, ""], frame_edge: int, stamp_edge: int
) -> Float[Array, "frame stamp"]:
    """Matrix of one weight for each difference between a pixel's number and a sample's.

    The weights are put where they belong by a product with a matrix of zeros and ones (a compiler would merge anything
    cheaper into what comes next, and compute it for every pixel); each row is a window of them, which slides by one.
    """
    order = taps.shape[0] // 2
    near = jnp.arange(1 - order, order + 1, dtype=taps.dtype)
    difference = jnp.arange(1 - stamp_edge, frame_edge, dtype=taps.dtype) + (stamp_edge - 1) // 2
    weights = (difference[:, None] == whole + near[None, :]).astype(taps.dtype) @ taps
    windows = jax.vmap(lambda pixel: jax.lax.dynamic_slice(weights, (pixel,), (stamp_edge,)))
    return windows(jnp.arange(frame_edge))[:, ::-1]


def place(
    stamp: Float[Array, "s t"],
    rows: Float[Array, "y s"],
    columns: Float[Array, "x t"],
) -> Float[Array, "y x"]:
    """Place a stamp into a frame: P_y · stamp · P_xᵀ.

    Both products run over the last axes of their factors, and so do their gradients: no compiler has to turn an array
    around first.

    Parameters
    ----------
    stamp
        Stamp on its own sub-pixel grid.
    rows, columns
        Matrices of `placement` along y and x.

    Returns
    -------
    Float[Array, "y x"]
        The frame, zero where the stamp does not reach.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> P = placement(jnp.asarray(3.5), 8, 5)
    >>> place(jnp.ones((5, 5)), P, P).shape
    (8, 8)
    """
    return _product(rows, _product(columns, stamp))


def cut(
    frame: Float[Array, "y x"],
    rows: Float[Array, "y s"],
    columns: Float[Array, "x t"],
) -> Float[Array, "s t"]:
    """Cut a stamp out of a frame: P_yᵀ · frame · P_x, the adjoint of `place`.

    As the interpolation kernel is symmetric, this is also the frame sampled at the stamp's grid.

    Parameters
    ----------
    frame
        Frame.
    rows, columns
        Matrices of `placement` along y and x.

    Returns
    -------
    Float[Array, "s t"]
        The stamp; zero where it lies outside the frame.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> P = placement(jnp.asarray(2.0), 5, 3)
    >>> bool(jnp.allclose(cut(jnp.eye(5), P, P), jnp.eye(3), atol=1e-6))
    True
    """
    return rows.T @ frame @ columns


def _product(a: Float[Array, "m k"], b: Float[Array, "n k"]) -> Float[Array, "m n"]:
    """The product a · bᵀ."""
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())))
