import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.ops import apportion

few = settings(max_examples=20)


def full(values):
    return jnp.asarray(values, dtype=float)


@given(st.sampled_from([1, 3]), st.integers(0, 10**6), st.sampled_from([1e-20, 1.0, 1e20]))
@few
def test_children_and_rest_add_up_to_the_image(n_sources, seed, unit):
    rng = np.random.default_rng(seed)
    models, image = rng.normal(0.3, 1, (n_sources, 2, 6, 5)), full(rng.normal(size=(2, 6, 5)) * unit)
    good = jnp.asarray(rng.random((2, 6, 5)) < 0.8)
    children, rest = apportion.apportion(full(models), image, good)
    total = np.asarray(children.sum(axis=0) + rest)
    np.testing.assert_allclose(total, image, rtol=1e-6)
    assert not np.asarray(children)[:, ~np.asarray(good)].any()
    lit = (models > 0).any(axis=0) & np.asarray(good)
    np.testing.assert_allclose(np.asarray(children).sum(axis=0)[lit], np.asarray(image)[lit], rtol=1e-5)


def test_children_are_in_proportion_to_the_models():
    models = full([[[1.0, 2.0, -3.0]], [[3.0, 2.0, 1.0]]])
    children, rest = apportion.apportion(models, full([[8.0, 8.0, 8.0]]), jnp.ones((1, 3), dtype=bool))
    np.testing.assert_allclose(children[:, 0], [[2, 4, 0], [6, 4, 8]], rtol=1e-6)
    np.testing.assert_allclose(rest, 0, atol=1e-6)


def test_pixels_below_the_floor_stay_unassigned():
    models, image = full([[[0.5, 2.0]]]), full([[7.0, 7.0]])
    children, rest = apportion.apportion(models, image, jnp.ones((1, 2), dtype=bool), floor=full([[1.0]]))
    np.testing.assert_array_equal(children[0], [[0, 7]])
    np.testing.assert_array_equal(rest, [[7, 0]])


def test_masked_pixels_are_nobodys_whatever_lies_there():
    image = full([[np.nan, 4.0]])
    children, rest = apportion.apportion(full([[[1.0, 1.0]]]), image, jnp.array([[False, True]]))
    np.testing.assert_array_equal(children[0], [[0, 4]])
    np.testing.assert_array_equal(rest, [[np.nan, 0]])


@pytest.mark.parametrize("unit", [1e-25, 1.0, 1e25])
def test_blendedness_in_closed_form(unit):
    """For two Gaussians of equal flux at distance d, m₁·m₂ = m₁² exp(-d² / 4σ²)."""
    offset, sigma, distance = np.arange(41) - 20, 2.5, 4.0
    profile = np.exp(-0.5 * (offset / sigma) ** 2)
    models = np.stack(
        [profile[:, None] * np.exp(-0.5 * ((offset - at) / sigma) ** 2) for at in (-distance / 2, distance / 2)]
    )
    overlap = np.exp(-(distance**2) / (4 * sigma**2))
    found = apportion.blendedness(full(models * unit))
    np.testing.assert_allclose(found, 1 - 1 / (1 + overlap), rtol=1e-4)


def test_blendedness_of_an_isolated_and_of_a_dark_source_is_zero():
    models = np.zeros((3, 4, 4))
    models[0, 0], models[1, 3] = 1.0, 5.0
    np.testing.assert_array_equal(apportion.blendedness(full(models)), np.zeros(3))


def test_a_faint_source_in_a_bright_one_is_nearly_all_blended():
    models = np.ones((2, 3, 3)) * np.array([1.0, 1e4])[:, None, None]
    np.testing.assert_allclose(apportion.blendedness(full(models)), [1 - 1 / 10001, 1e-4], rtol=1e-2)
