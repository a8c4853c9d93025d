import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.ops import lstsq

few = settings(max_examples=15)
spectra = jax.jit(lstsq.spectra)


def full(values):
    return jnp.asarray(values, dtype=float)


def problem(n_models, seed, signal=3.0):
    rng = np.random.default_rng(seed)
    models = rng.uniform(0, 1, (n_models, 7, 6)) ** 4
    image = np.einsum("n,nyx->yx", rng.uniform(-1, signal, n_models), models) + 0.1 * rng.normal(size=(7, 6))
    return models, image, rng.uniform(0.5, 2, (7, 6))


@given(st.integers(1, 6), st.integers(0, 10**6))
@few
def test_amplitudes_are_those_of_scipy(n_models, seed):
    models, image, weights = problem(n_models, seed)
    root = np.sqrt(weights).reshape(-1)
    expected, _ = scipy.optimize.nnls((models.reshape(n_models, -1) * root).T, image.reshape(-1) * root)
    found = np.asarray(spectra(full(models), full(image), full(weights)))
    assert (found >= 0).all()
    np.testing.assert_allclose(found, expected, atol=1e-3)


@given(st.integers(0, 10**6), st.floats(0.5, 3))
@few
def test_sparsity_is_an_l1_penalty_in_units_of_the_errors(seed, sparsity):
    """The conditions of Karush, Kuhn and Tucker: g = λ/σ - b + A x is 0 where x > 0, and not negative elsewhere."""
    models, image, weights = problem(4, seed)
    flat = models.reshape(4, -1)
    normal, right = flat * weights.reshape(-1) @ flat.T, flat * weights.reshape(-1) @ image.reshape(-1)
    x = np.asarray(spectra(full(models), full(image), full(weights), sparsity), dtype=float)
    gradient = sparsity * np.sqrt(np.diagonal(normal)) - right + normal @ x
    assert (gradient > -2e-3).all()
    np.testing.assert_allclose(gradient[x > 0], 0, atol=2e-3)


def test_a_model_without_data_stays_dark():
    models = np.zeros((2, 3, 3))
    models[0, 0], models[1, 2] = 1.0, 1.0
    weights = np.ones((3, 3))
    weights[2] = 0
    np.testing.assert_allclose(lstsq.spectra(full(models), full(2 * models[0]), full(weights)), [2, 0], atol=1e-6)


def test_identical_models_share_the_light():
    models = np.ones((2, 3, 3))
    found = lstsq.spectra(full(models), full(np.full((3, 3), 5.0)), full(np.ones((3, 3))))
    assert float(found.sum()) == pytest.approx(5.0, rel=1e-5)
    assert float(found.min()) > 0


def test_nothing_but_sky_gives_nothing():
    models, _, weights = problem(3, 0)
    np.testing.assert_array_equal(lstsq.spectra(full(models), full(-np.ones((7, 6))), full(weights)), np.zeros(3))


def test_bands_are_solved_together_under_vmap():
    models, image, weights = problem(3, 1)
    images = full(np.stack([image, 2 * image]))
    batch = jax.jit(jax.vmap(lstsq.spectra, in_axes=(None, 0, None)))(full(models), images, full(weights))
    np.testing.assert_allclose(batch[1], 2 * batch[0], rtol=1e-4, atol=1e-5)
    assert batch.dtype == images.dtype


@given(st.integers(0, 2**31))
@few
def test_the_start_does_not_decide_the_end(seed):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(40, 5))
    data = rng.normal(size=40)
    expected, _ = scipy.optimize.nnls(design, data)
    for start in (np.zeros(5), rng.uniform(0, 10, 5), expected):
        found = lstsq.nonnegative_normal(full(design.T @ design), full(design.T @ data), start=full(start))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    near = lstsq.nonnegative_normal(full(design.T @ design), full(design.T @ data), start=full(expected))
    np.testing.assert_allclose(near, expected, atol=1e-4)


@pytest.mark.parametrize("n_models", [25, 60, 400])
def test_columns_that_overlap_by_the_hundred(n_models):
    """The matrix is singular within the precision; the value reached is nearly that of SciPy."""
    rng = np.random.default_rng(n_models)
    y, x = np.indices((24, 24))
    centers, widths = rng.uniform(1, 23, (n_models, 2)), rng.choice([1.4, 2.0, 3.6, 7.0, 13.6], n_models)
    models = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 2 / s**2) for (a, b), s in zip(centers, widths, strict=True)]
    flat = np.stack(models).reshape(n_models, -1)
    image = 50 * rng.uniform(0, 1, n_models) @ flat + rng.normal(size=flat.shape[1])
    found = np.asarray(lstsq.nonnegative_normal(full(flat @ flat.T), full(flat @ image)), dtype=float)
    expected, _ = scipy.optimize.nnls(flat.T, image)
    assert np.isfinite(found).all() and (found >= 0).all()
    misfit, least = (((image - x @ flat) ** 2).sum() for x in (found, expected))
    assert misfit < least + image.size  # where the active set does not settle, it is a thousand times as much
