import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.ops import prox

CONVEX = {
    "positive": prox.positive,
    "symmetric": prox.symmetric,
    "center_kept": lambda image: prox.center_kept(image, 0.4),
}
PROJECTIONS = CONVEX | {
    "hard_threshold": lambda image: prox.hard_threshold(image, 0.3),
    "normalized": lambda image: prox.normalized(image)[0],
    "connected": prox.connected,
}
shapes = st.sampled_from([(1, 1), (1, 7), (5, 5), (9, 3)])
seeds = st.integers(0, 10**6)
few = settings(max_examples=15)


def draw(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype=float)


@pytest.mark.parametrize("name", PROJECTIONS)
@given(shapes, seeds)
@few
def test_projecting_twice_changes_nothing(name, shape, seed):
    once = PROJECTIONS[name](draw(shape, seed))
    np.testing.assert_allclose(PROJECTIONS[name](once), once, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONVEX)
@given(shapes, seeds)
@few
def test_projections_onto_convex_sets_do_not_expand(name, shape, seed):
    a, b = draw(shape, seed), draw(shape, seed + 1)
    after = jnp.linalg.norm(CONVEX[name](a) - CONVEX[name](b))
    assert float(after) <= float(jnp.linalg.norm(a - b)) * (1 + 1e-6)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_dtype_is_kept_under_jit_and_vmap(name):
    images = draw((3, 5, 7), 1)
    batch = jax.jit(jax.vmap(PROJECTIONS[name]))(images)
    assert batch.dtype == images.dtype
    np.testing.assert_allclose(batch[1], PROJECTIONS[name](images[1]), rtol=1e-6)


def test_positive():
    np.testing.assert_array_equal(prox.positive(jnp.array([[-1.0, 0.0, 2.0]])), [[0, 0, 2]])


def test_symmetric_is_the_mean_with_the_rotated_image():
    image = draw((5, 7), 0)
    np.testing.assert_allclose(prox.symmetric(image), (image + np.rot90(image, 2)) / 2, atol=1e-6)


def test_symmetric_of_strength_zero_changes_nothing():
    image = draw((5, 5), 0)
    np.testing.assert_array_equal(prox.symmetric(image, 0.0), image)


def test_hard_threshold_keeps_what_is_not_below_it():
    np.testing.assert_array_equal(prox.hard_threshold(jnp.array([[0.25, 0.5, 0.75]]), 0.5), [[0, 0.5, 0.75]])


def test_center_kept_raises_the_middle_pixel_only():
    image = jnp.full((3, 5), -1.0)
    kept = np.asarray(prox.center_kept(image, 0.5))
    assert kept[1, 2] == 0.5 and (np.delete(kept.reshape(-1), 7) == -1).all()
    np.testing.assert_array_equal(prox.center_kept(jnp.ones((3, 3)), 0.5), np.ones((3, 3)))


@given(shapes, seeds, st.sampled_from([1e-12, 1.0, 1e12]))
@few
def test_normalized_times_its_factor_is_the_image(shape, seed, unit):
    image = draw(shape, seed) * unit
    scaled, factor = prox.normalized(image)
    np.testing.assert_allclose(scaled * factor, image, rtol=1e-5)
    if np.asarray(image).max() > 0:
        assert float(scaled.max()) == pytest.approx(1.0, rel=1e-6)


def test_normalized_leaves_an_image_without_light_alone():
    for image in (jnp.zeros((3, 3)), -jnp.ones((3, 3))):
        scaled, factor = prox.normalized(image)
        np.testing.assert_array_equal(scaled, image)
        assert float(factor) == 1.0


@given(shapes, seeds)
@few
def test_connected_is_the_label_of_the_middle_pixel(shape, seed):
    image = np.asarray(draw(shape, seed))
    labels, _ = scipy.ndimage.label(image > 0)
    middle = labels[shape[0] // 2, shape[1] // 2]
    expected = np.where((labels == middle) & (middle > 0), image, 0)
    np.testing.assert_array_equal(prox.connected(jnp.asarray(image)), expected)
