"""Weighted non-negative least squares for spectra."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

MAX_EXCHANGES = 30
"""Exchanges of the active set after which projected gradients go on; up to ten are usual."""

LEAST_EXCHANGES, USUAL_SIZE = 3, 300
"""Exchanges of very large problems, and the number of columns from which on there are fewer, as they take longer."""

FEW = 30
"""Columns up to which the exchanges have always ended; for so few, nothing else is compiled."""

LEAST_PRECISION = 1e-9
"""Relative precision of single columns at best: with less, nearly equal columns are exchanged without end."""

MAX_DESCENTS, SMALL_CHANGE = 500, 1e-6
"""Projected gradients at most, and the largest change in one, relative to the largest value, that ends them."""

PATIENCE = 3
"""Exchanges of all infeasible coordinates without progress, before one is exchanged at a time."""


def one_by_one(function: Callable[..., PyTree], *arrays: Array) -> PyTree:
    """Apply a function that factorizes matrices along a leading axis, as `jax.vmap` does; on a CPU in a loop.

    A batch of factorizations is spread over the threads on which whole programs run, and waits for them: two programs
    that do so side by side may wait for each other forever.

    Parameters
    ----------
    function
        Function of one entry of each array.
    arrays
        Arrays with a leading axis.

    Returns
    -------
    Array
        Its values, stacked.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> one_by_one(jnp.linalg.inv, jnp.array([[[2.0]], [[4.0]]])).ravel()
    Array([0.5 , 0.25], dtype=float32)
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda entry: function(*entry), arrays)
    return jax.vmap(function)(*arrays)


def nonnegative_normal(
    matrix: Float[Array, "n n"], vector: Float[Array, " n"], *, start: Float[Array, " n"] | None = None
) -> Float[Array, " n"]:
    """Solve min ½ xᵀ A x - bᵀ x for x >= 0 by block principal pivoting.

    With F the coordinates that are free, A_FF x_F = b_F and x = 0 elsewhere; the solution has x_F >= 0 and a gradient
    A x - b >= 0 elsewhere. Coordinates that violate this are exchanged, all at once while that helps, else the last
    one alone (Portugal, Júdice & Vicente 1994, Math. Comp. 63, 625). A coordinate with A_ii = 0 (a source without data)
    stays 0, and identical columns share the flux equally.

    Hundreds of columns that overlap can make A singular within the precision: the exchanges never end, or the
    factorization fails. From the best point found, projected gradients then go on.

    Parameters
    ----------
    matrix
        Normal matrix A, positive semi-definite.
    vector
        Right-hand side b.
    start
        A guess; what is positive in it is free at first.

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
    known = diagonal > 0
    scale = jnp.where(known, jax.lax.rsqrt(jnp.where(known, diagonal, 1.0)), 0.0)
    matrix, vector = matrix * scale[:, None] * scale[None, :], vector * scale
    epsilon = max(float(jnp.finfo(matrix.dtype).eps), LEAST_PRECISION)
    tolerance = 10 * epsilon * jnp.abs(vector).max()

    def solve(free: Array) -> Array:
        block = jnp.where(free[:, None] & free[None, :], matrix, 0.0)
        right = jnp.where(free, vector, 0.0)
        ridge = jnp.where(free, 100 * epsilon, 1.0).astype(matrix.dtype)
        factor = jax.lax.linalg.cholesky(block + jnp.diag(ridge), symmetrize_input=False)

        def of_factor(right: Array) -> Array:
            half = jax.lax.linalg.triangular_solve(factor, right[:, None], left_side=True, lower=True)
            return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[:, 0]

        x = of_factor(right)
        return x + of_factor(right - block @ x)  # less the ridge

    def exchange(state: _Exchange) -> _Exchange:
        """Solve for the free coordinates, and exchange those that violate the conditions, for the next solution."""
        x = solve(state.free)
        wrong = known & (jnp.where(state.free, x, matrix @ x - vector) < -tolerance)
        count = wrong.sum(dtype=int)
        progress = count < state.fewest
        patience = jnp.where(progress, PATIENCE, state.patience - 1)
        last = jnp.arange(wrong.size) == wrong.size - 1 - jnp.argmax(wrong[::-1])
        exchanged = wrong & (progress | (patience >= 0) | last)
        fewest = jnp.where(progress, count, state.fewest)
        return _Exchange(state.free ^ exchanged, x, count == 0, fewest, patience, state.index + 1)

    most = min(MAX_EXCHANGES, max(LEAST_EXCHANGES, MAX_EXCHANGES * USUAL_SIZE // max(vector.size, 1)))
    state = _Exchange(
        free=known & ((vector if start is None else start) > 0),
        x=jnp.zeros_like(vector),
        solved=jnp.zeros((), bool),
        fewest=jnp.asarray(vector.size + 1),
        patience=jnp.asarray(PATIENCE),
        index=jnp.asarray(0),
    )
    state = jax.lax.while_loop(lambda state: ~state.solved & (state.index <= most), exchange, state)
    x = state.x
    if vector.size <= FEW:
        return jnp.maximum(x, 0.0) * scale
    solved = state.solved & jnp.isfinite(x).all()
    guess = jnp.zeros_like(vector) if start is None else start / jnp.where(known, scale, 1.0)
    x = _descended(matrix, vector, (jnp.maximum(x, 0.0), jnp.where(known, guess, 0.0)), known, solved)
    return x * scale


class _Exchange(NamedTuple):
    """How far the exchanges of the active set are.

    Attributes
    ----------
    free
        Coordinates that the next solution takes as free.
    x
        The last solution.
    solved
        Whether it fulfils the conditions.
    fewest, patience
        Fewest violations so far, and how many more exchanges of all of them may make no progress.
    index
        Number of solutions.
    """

    free: Bool[Array, " n"]
    x: Float[Array, " n"]
    solved: Bool[Array, ""]
    fewest: Int[Array, ""]
    patience: Int[Array, ""]
    index: Int[Array, ""]


def _descended(
    matrix: Float[Array, "n n"],
    vector: Float[Array, " n"],
    points: tuple[Float[Array, " n"], Float[Array, " n"]],
    known: Bool[Array, " n"],
    solved: Bool[Array, ""],
) -> Float[Array, " n"]:
    """The first of two points if it is the solution, else where projected gradients lead from the better one or 0.

    Accelerated, with restarts where the momentum points uphill (Beck & Teboulle 2009, SIAM J. Imaging Sci. 2, 183;
    O'Donoghue & Candès 2015, Found. Comput. Math. 15, 715).
    """
    step = 1 / jnp.maximum(jnp.abs(matrix).sum(axis=1).max(), 1.0)

    def value(x: Array) -> Array:
        found = 0.5 * x @ (matrix @ x) - vector @ x
        return jnp.where(jnp.isfinite(found), found, jnp.inf)

    def descend(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, ahead, momentum, _, number = state
        moved = jnp.where(known, jnp.maximum(ahead - step * (matrix @ ahead - vector), 0.0), 0.0)
        uphill = (ahead - moved) @ (moved - x) > 0
        momentum = jnp.where(uphill, 1.0, momentum)
        larger = 0.5 * (1 + jnp.sqrt(1 + 4 * momentum**2))
        small = jnp.abs(moved - x).max() <= SMALL_CHANGE * moved.max()
        return moved, moved + (momentum - 1) / larger * (moved - x), larger, small, number + 1

    candidates = jnp.stack([*points, jnp.zeros_like(vector)])
    best = candidates[jnp.argmin(jax.vmap(value)(candidates))]
    began = jnp.where(solved, points[0], best)
    state = began, began, jnp.ones_like(step), solved, jnp.asarray(0)
    return jax.lax.while_loop(lambda state: ~state[3] & (state[4] < MAX_DESCENTS), descend, state)[0]


def normal_equations(
    models: Float[Array, "n y x"], image: Float[Array, "y x"], weights: Float[Array, "y x"]
) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    """Matrix Σ w M_n M_m and vector Σ w M_n I of the amplitudes of several models in one band.

    Parameters
    ----------
    models
        Models of unit amplitude, as observed.
    image
        Image.
    weights
        Weights w.

    Returns
    -------
    tuple
        Matrix and vector.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> matrix, vector = normal_equations(jnp.ones((1, 2, 2)), jnp.full((2, 2), 3.0), jnp.ones((2, 2)))
    >>> float(matrix[0, 0]), float(vector[0])
    (4.0, 12.0)
    """
    flat = models.reshape(models.shape[0], -1)
    weighted = flat * weights.reshape(1, -1)
    return weighted @ flat.T, weighted @ image.reshape(-1)


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
    matrix, vector = normal_equations(models, image, weights)
    penalty = sparsity * jnp.sqrt(jnp.diagonal(matrix))
    return nonnegative_normal(matrix, vector - penalty)
