"""Kernels K with K * S = T for one pair of PSFs: pure functions of arrays, to be lifted over bands and positions.

All speak of true convolution, (K * S)(p) = Σ_q K(q) S(p - q), with the kernel's centre on its middle pixel.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..instrument.kernel import regularized_division
from ..ops import fft

REFINEMENTS = 3
"""Times that a solution is improved with its own residual: in single precision, the factors alone are not enough."""


def least_squares(
    source: Float[Array, "n n"],
    target: Float[Array, "n n"],
    edge: int,
    regularization: Float[Array, ""] | float,
) -> Float[Array, "k k"]:
    """Every pixel of the kernel is free: the minimum of ‖K * S - T‖² + λ ‖∇²K‖² with ΣK = 1.

    The convolution is the full linear one, and ∇² is the five-point Laplacian of the kernel continued by zeros: were
    its border free, the noiseless kernel between two Gaussians would fit to 1e-6 and be useless (W₋ of 190). The normal
    matrix depends on the difference of two pixels only; it is S ⋆ S + λ ∇²∇². A Lagrange multiplier keeps the sum.

    Parameters
    ----------
    source, target
        PSFs S and T on stamps of the same odd edge.
    edge
        Odd edge k of the kernel.
    regularization
        λ.

    Returns
    -------
    Float[Array, "k k"]
        The kernel.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(21)[0] for sigma in (1.2, 1.6))
    >>> round(float(least_squares(narrow, wide, 15, 1e-6).sum()), 5)
    1.0
    """
    size = fft.good_size(source.shape[-1] + edge)
    grid = (size, size)
    s, t = (fft.kernel_transform(psf, grid, grid) for psf in (source, target))
    auto = jnp.fft.irfft2(jnp.abs(s) ** 2, s=grid)
    cross = jnp.fft.irfft2(t * jnp.conj(s), s=grid)
    pixel = jnp.arange(edge)
    apart = pixel[:, None] - pixel[None, :]  # differences of two pixels, along one axis
    both = (apart[:, None, :, None], apart[None, :, None, :])
    matrix = auto[both[0], both[1]] + regularization * _laplacian_squared(*both).astype(source.dtype)
    matrix = matrix.reshape(edge**2, edge**2)
    shift = pixel - edge // 2
    right = jnp.stack([cross[shift[:, None], shift[None, :]].reshape(-1), jnp.ones(edge**2, source.dtype)], axis=1)
    solution = _solve(matrix, right)
    free, constant = solution[:, 0], solution[:, 1]
    kernel = free + constant * (1 - free.sum()) / constant.sum()
    return kernel.reshape(edge, edge)


def fourier(
    source: Float[Array, "n n"],
    target: Float[Array, "n n"],
    edge: int,
    regularization: Float[Array, ""] | float,
) -> Float[Array, "k k"]:
    """The same minimum on a periodic grid, K̂ = T̂ Ŝ* / (|Ŝ|² + λ |L̂|²), cropped to the kernel's edge.

    Almost nothing to compute, and as good as `least_squares` where the kernel is as large as the PSFs; cropped to less,
    it is several times worse (r to g of HSC at 21 pixels: 1.2e-2 for 2.6e-3).

    Parameters
    ----------
    source, target, edge, regularization
        As for `least_squares`.

    Returns
    -------
    Float[Array, "k k"]
        The kernel.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(21)[0] for sigma in (1.2, 1.6))
    >>> fourier(narrow, wide, 15, 1e-6).shape
    (15, 15)
    """
    return regularized_division(source[None], target[None], edge, regularization)[0]


SOLVERS = {"lsq": least_squares, "fourier": fourier}
"""Solver of each name."""


def _laplacian_squared(y: Array, x: Array) -> Array:
    """∇²∇² between two pixels (y, x) apart, both far from any border: what zeros around the kernel amount to."""
    y, x = jnp.abs(y), jnp.abs(x)
    nearest, furthest = jnp.maximum(y, x), y + x
    straight = jnp.where(nearest == 0, 20, jnp.where(nearest == 1, -8, 1))
    return jnp.where(furthest > 2, 0, jnp.where((y == 1) & (x == 1), 2, straight))


def _solve(matrix: Float[Array, "n n"], right: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Solution of a positive definite system, refined."""
    factor = jax.scipy.linalg.cho_factor(matrix)
    solution = jax.scipy.linalg.cho_solve(factor, right)
    for _ in range(REFINEMENTS):
        solution = solution + jax.scipy.linalg.cho_solve(factor, right - matrix @ solution)
    return solution
