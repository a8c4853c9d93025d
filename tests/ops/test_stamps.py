import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.ops import stamps

positions = st.floats(-4.0, 20.0, width=32)
few = settings(max_examples=20)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape), dtype=float)


@functools.partial(jax.jit, static_argnums=(1, 2))
def placement(center, frame_edge, stamp_edge):
    return stamps.placement(center, frame_edge, stamp_edge)


def matrix(center, frame_edge, stamp_edge):
    return placement(jnp.asarray(center, dtype=float), frame_edge, stamp_edge)


def gaussian(center, edge, sigma=2.0):
    profile = jnp.exp(-0.5 * ((jnp.arange(edge, dtype=float) - center) / sigma) ** 2)
    return profile[:, None] * profile[None, :]


def test_lanczos_is_one_at_zero_and_zero_at_other_integers():
    x = jnp.arange(-8, 9, dtype=float)
    np.testing.assert_allclose(stamps.lanczos(x), np.arange(-8, 9) == 0, atol=1e-7)


@pytest.mark.parametrize("order", [3, 5])
def test_lanczos_in_closed_form(order):
    x = np.array([-2.6, -0.3, 0.4, 1.7, order + 0.1])
    expected = np.where(np.abs(x) < order, np.sinc(x) * np.sinc(x / order), 0)
    np.testing.assert_allclose(stamps.lanczos(jnp.asarray(x, dtype=float), order), expected, atol=1e-6)


@given(st.integers(-6, 18), st.sampled_from([1, 2, 5, 12]), st.sampled_from([0, 1, 5]))
@few
def test_whole_pixel_positions_copy_and_clip(center, frame_edge, half):
    """At whole pixels a placement is a copy, without what falls outside the frame."""
    expected = np.eye(frame_edge + 60)[30:-30, 30 + center - half : 31 + center + half]
    np.testing.assert_allclose(matrix(center, frame_edge, 2 * half + 1), expected, atol=1e-6)


@given(st.floats(11.0, 13.0, width=32), st.floats(11.0, 13.0, width=32))
@few
def test_well_sampled_gaussian_is_shifted_to_its_own_position(y, x):
    placed = stamps.place(gaussian(11, 23), matrix(y, 25, 23), matrix(x, 25, 23))
    offset = np.arange(25)
    expected = np.exp(-((offset[:, None] - y) ** 2 + (offset[None, :] - x) ** 2) / 8)
    np.testing.assert_allclose(placed, expected, atol=3e-3)


@given(positions)
@few
def test_a_constant_stays_constant(center):
    """Where the interpolation has all its samples, that is LANCZOS_ORDER inside the stamp."""
    inside = np.abs(np.arange(16) - center) <= 15 - stamps.LANCZOS_ORDER
    np.testing.assert_allclose(matrix(center, 16, 31).sum(axis=1)[inside], 1.0, atol=1e-2)


def test_the_sum_over_the_full_comb_is_one():
    for fraction in np.linspace(0, 1, 11):
        assert float(matrix(20 + fraction, 41, 41)[20].sum()) == pytest.approx(1.0, abs=1e-6)


@given(positions, positions, st.sampled_from([1, 6, 16]), st.sampled_from([1, 6, 16]))
@few
def test_cut_is_the_adjoint_of_place(y, x, height, width):
    rows, columns = matrix(y, height, 9), matrix(x, width, 7)
    stamp, frame = draw(9, 7), draw(height, width, seed=1)
    left = jnp.sum(stamps.place(stamp, rows, columns) * frame)
    right = jnp.sum(stamp * stamps.cut(frame, rows, columns))
    assert float(left) == pytest.approx(float(right), abs=1e-4)


def test_cut_of_what_was_placed_is_the_stamp():
    rows, columns = matrix(12.3, 41, 23), matrix(20.8, 41, 23)
    back = stamps.cut(stamps.place(gaussian(11, 23), rows, columns), rows, columns)
    np.testing.assert_allclose(back, gaussian(11, 23), atol=6e-3)


def test_a_stamp_beyond_the_frame_leaves_it_dark():
    assert not np.any(np.asarray(matrix(-20.5, 8, 9)))
    assert not np.any(np.asarray(matrix(40.5, 8, 9)))


@pytest.mark.parametrize("center", [6.0, 6.37, 0.4, -1.8, 12.5])
def test_gradient_with_respect_to_the_centre(center):
    with jax.enable_x64(True):
        stamp, weight = jnp.asarray(draw(9), dtype=float), jnp.asarray(draw(13, seed=1), dtype=float)

        def value(c):
            return weight @ (stamps.placement(c, 13, 9) @ stamp)

        at, step = jnp.asarray(center, dtype=float), 1e-6
        expected = (value(at + step) - value(at - step)) / (2 * step)
        assert float(jax.grad(value)(at)) == pytest.approx(float(expected), rel=1e-6, abs=1e-7)


def test_positions_are_arrays():
    """Another position compiles nothing."""
    place = jax.jit(lambda c: stamps.placement(c, 9, 5))
    place(jnp.asarray(2.0)), place(jnp.asarray(4.7))
    assert place._cache_size() == 1


def test_dtype_follows_the_position():
    assert matrix(3.5, 8, 5).dtype == jnp.zeros(()).dtype
