"""Polynomials of two coordinates, against NumPy's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import chebyshev, polynomial

from jaxdeblend.ops import polynomials

NUMPY = {"power": polynomial.polyval2d, "chebyshev": chebyshev.chebval2d}


@pytest.mark.parametrize("kind", polynomials.KINDS)
@pytest.mark.parametrize("order", range(5))
def test_terms_agree_with_numpy(kind, order):
    y, x = np.random.default_rng(1).uniform(-1.2, 1.2, (2, 3, 4))
    with jax.enable_x64(True):
        found = polynomials.terms(y, x, order, kind)
    assert found.shape == (3, 4, polynomials.n_terms(order))
    for number, (i, j) in enumerate(polynomials.exponents(order)):
        only = np.zeros((order + 1, order + 1))
        only[i, j] = 1
        np.testing.assert_allclose(found[..., number], NUMPY[kind](y, x, only), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 7])
def test_exponents_are_all_pairs_and_y_runs_fastest(order):
    pairs = polynomials.exponents(order)
    expected = {(i, j) for i, j in itertools.product(range(order + 1), repeat=2) if i + j <= order}
    assert {*pairs} == expected and len(pairs) == len(expected) == polynomials.n_terms(order)
    assert list(pairs) == sorted(pairs, key=lambda pair: (pair[1], pair[0]))


@pytest.mark.parametrize("kind", polynomials.KINDS)
def test_the_first_term_is_constant(kind):
    y, x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5)), dtype=float)
    np.testing.assert_array_equal(polynomials.terms(y, x, 3, kind)[:, 0], 1.0)


@pytest.mark.parametrize("x64", [False, True])
def test_dtype_jit_vmap_and_derivative(x64):
    with jax.enable_x64(x64):
        y, x = jnp.linspace(-1, 1, 5), jnp.zeros(5)
        one = jax.jit(lambda y, x: polynomials.terms(y, x, 3, "chebyshev"))
        np.testing.assert_allclose(jax.vmap(one)(y, x), one(y, x), atol=1e-6)
        assert one(y, x).dtype == y.dtype
        slope = jax.jacfwd(lambda y: polynomials.terms(y, jnp.zeros(()), 3))(jnp.zeros(()))
        np.testing.assert_allclose(slope, np.eye(10)[1])  # that of y alone; powers of 0 have one too


def test_scaled_reaches_one_at_the_outermost_pixels():
    corners = np.array([[[10.0, -3.0], [10.0, 36.0]], [[29.0, -3.0], [29.0, 36.0]]])
    found = polynomials.scaled(corners, ((10, -3), (20, 40)))
    np.testing.assert_allclose(found, [[[-1, -1], [-1, 1]], [[1, -1], [1, 1]]], atol=1e-6)
    middle, outside = polynomials.scaled(np.array([[19.5, 16.5], [48.0, 55.5]]), ((10, -3), (20, 40)))
    np.testing.assert_allclose(middle, 0, atol=1e-6)
    np.testing.assert_allclose(outside, [3, 2], atol=1e-6)


def test_a_single_pixel_is_a_box():
    found = polynomials.scaled(np.array([[4.0, 7.0], [4.5, 6.5]]), ((4, 7), (1, 1)))
    np.testing.assert_allclose(found, [[0, 0], [1, -1]])


def test_bad_input():
    with pytest.raises(ValueError, match="order: got -1; give the largest total degree"):
        polynomials.n_terms(-1)
    with pytest.raises(ValueError, match="order: got -2"):
        polynomials.terms(jnp.zeros(2), jnp.zeros(2), -2)
    with pytest.raises(ValueError, match="kind: got 'legendre'; give one of 'power', 'chebyshev'"):
        polynomials.terms(jnp.zeros(2), jnp.zeros(2), 1, "legendre")
