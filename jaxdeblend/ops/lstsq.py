"""Weighted non-negative least squares for spectra."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def nonnegative_normal(
    matrix: Float[Array, "n n"],
    vector: Float[Array, " n"],
    *,
    start: Float[Array, " n"] | None = None,
    sweeps: int = 200,
) -> Float[Array, " n"]:
    """Solve min ½ xᵀ A x - bᵀ x for x >= 0 by cyclic coordinate descent.

    Each coordinate is set to its constrained optimum in turn, x_i <- max(0, x_i + (b_i - (A x)_i) / A_ii). For a
    positive semi-definite A this converges to the solution; a coordinate with A_ii = 0 (a source without data)
    stays 0, and of two identical columns the flux is shared in a way that reproduces the data.

    Parameters
    ----------
    matrix
        Normal matrix A, positive semi-definite.
    vector
        Right-hand side b.
    start
        Where to begin; from close by, few sweeps are enough.
    sweeps
        Number of sweeps.

    Returns
    -------
    Float[Array, " n"]
        The non-negative solution.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> nonnegative_normal(jnp.eye(2), jnp.array([1.0, -1.0]))
    Array([1., 0.], dtype=float32)
    """
    diagonal = jnp.diagonal(matrix)
    inverse = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1.0), 0.0)

    def coordinate(i: Array, x: Array) -> Array:
        return x.at[i].set(jnp.maximum(0.0, x[i] + (vector[i] - matrix[i] @ x) * inverse[i]))

    def sweep(_: Array, x: Array) -> Array:
        return jax.lax.fori_loop(0, vector.shape[0], coordinate, x)

    if start is None:
        start = jnp.maximum(vector, 0.0) * inverse / vector.shape[0]
    return jax.lax.fori_loop(0, sweeps, sweep, start)


def spectra(
    models: Float[Array, "n y x"],
    image: Float[Array, "y x"],
    weights: Float[Array, "y x"],
    sparsity: Float[Array, ""] | float = 0.0,
) -> Float[Array, " n"]:
    """Joint non-negative amplitudes of several models in one band.

    They minimise ½ Σ w (I - Σ_n a_n M_n)² + λ Σ_n a_n / σ_n, with σ_n = 1 / √(Σ w M_n²) the error of an amplitude on
    its own.

    Parameters
    ----------
    models
        Models of unit amplitude, as observed.
    image
        Image.
    weights
        Weights w.
    sparsity
        λ, the L1 penalty on an amplitude in units of its error.

    Returns
    -------
    Float[Array, " n"]
        Amplitudes a.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> models = jnp.eye(3)[:2, None, :]
    >>> spectra(models, jnp.array([[2.0, 3.0, 0.0]]), jnp.ones((1, 3)))
    Array([2., 3.], dtype=float32)
    """
    flat = models.reshape(models.shape[0], -1)
    weighted = flat * weights.reshape(1, -1)
    matrix = weighted @ flat.T
    penalty = sparsity * jnp.sqrt(jnp.diagonal(matrix))
    return nonnegative_normal(matrix, weighted @ image.reshape(-1) - penalty)
