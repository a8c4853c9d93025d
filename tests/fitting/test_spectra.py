"""Spectra at fixed shapes, against SciPy's non-negative least squares."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdeblend as jd
from jaxdeblend.fitting.render import render_terms
from jaxdeblend.fitting.spectra import chi_square, solve_spectra

FRAME = (21, 23)
CENTERS = [(9.0, 8.0), (10.3, 11.4), (12.0, 15.0)]


def star(center, flux):
    return jd.PointSource(center, jnp.asarray(flux))


@pytest.fixture(scope="module")
def obs():
    rng = np.random.default_rng(3)
    images = rng.normal(size=(2, *FRAME)) * 2
    images[0, 8:12, 7:13] += 5
    variance = rng.uniform(0.5, 2.0, size=images.shape)
    mask = np.zeros(images.shape, bool)
    mask[1, 9] = True
    return jd.Observation(images, variance, jd.GaussianPSF([1.5, 2.0]), bands=("g", "r"), mask=mask)


def nnls(obs, shapes, rest=0.0):
    """Amplitude of each shape (source, band, y, x) in each band."""
    root = np.sqrt(np.asarray(obs.weights, float))
    data = root * (np.asarray(obs.images, float) - rest)
    columns = root * np.asarray(shapes, float)
    return np.array(
        [scipy.optimize.nnls(columns[:, b].reshape(len(shapes), -1).T, data[b].reshape(-1))[0] for b in range(2)]
    ).T


def test_they_are_those_of_scipy(obs):
    blend = jd.Blend.of([star(center, [1.0, 1.0]) for center in CENTERS], frame=FRAME)
    solved = solve_spectra(blend, obs, render_terms(blend, obs))
    expected = nnls(obs, jd.render_sources(blend, obs))
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_allclose([source.flux for source in solved.sources], expected, rtol=2e-4, atol=1e-4)


def test_what_is_not_a_spectrum_times_a_shape_is_left_and_taken_into_account(obs):
    cube = jnp.zeros((2, 5, 5)).at[:, 2, 2].set(jnp.array([30.0, 5.0]))
    fixed = jd.Source(CENTERS[2], (jd.CubeComponent(cube),), frame=FRAME)
    blend = jd.Blend.of([star(CENTERS[0], [1.0, 1.0]), fixed, star(CENTERS[1], [1.0, 1.0])], frame=FRAME)
    solved = solve_spectra(blend, obs, render_terms(blend, obs))
    np.testing.assert_array_equal(solved.sources[1].flux, [30.0, 5.0])
    models = np.asarray(jd.render_sources(blend, obs))
    expected = nnls(obs, models[[0, 2]], rest=models[1])
    found = [solved.sources[number].flux for number in (0, 2)]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-4)


def test_stacks_that_are_not_free_keep_their_spectra(obs):
    blend = jd.Blend.of([star(center, [3.0, 4.0]) for center in CENTERS], frame=FRAME)
    solved = solve_spectra(blend, obs, render_terms(blend, obs), free=(False,))
    assert eqx.tree_equal(solved, blend)


def test_chi_square_needs_no_convolution(obs):
    blend = jd.Blend.of([star(center, [30.0, 4.0]) for center in CENTERS], frame=FRAME)
    expected = jnp.sum(obs.weights * (obs.images - jd.render(blend, obs)) ** 2)
    np.testing.assert_allclose(chi_square(blend, obs, render_terms(blend, obs)), expected, rtol=1e-5)
