import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.fitting.initialize import initialize_arrays
from jaxdeblend.single_band import handover
from jaxdeblend.single_band.handover import model_shape
from tests.scenes import CENTERS, FLUXES, PSF_SIGMA, SHAPE, fluxes_of, gaussian, observe, sky

OPTIONS = jd.Initialization(max_components=1)
EDGE = 31
"""Edge of the stamps of these blends."""


@pytest.fixture(scope="module")
def obs():
    return observe(sky() + np.random.default_rng(1).normal(0, 1, (2, *SHAPE)))


@pytest.fixture(scope="module")
def result(obs):
    """Two stars and two galaxies, one of them outside the footprint."""
    footprint = np.ones(SHAPE, bool)
    footprint[17:24, 5:13] = False
    return jd.deblend_single_band(*jd.one_band(obs), CENTERS, footprint=footprint)


@pytest.fixture(scope="module")
def blend(obs, result):
    return jd.initialize_from_templates(obs, result, options=OPTIONS)


def shapes_of(blend):
    return np.asarray(blend.stacks[0].component.morphology.pixels)


@pytest.mark.parametrize("sigma, error", [(1.2, 0.12), (1.8, 0.05), (3.0, 0.02)])
def test_the_shape_of_a_template_is_what_model_space_shows(sigma, error):
    center = (15.3, 14.6)
    observed = gaussian((31, 31), center, np.hypot(sigma, PSF_SIGMA))
    kernel = jd.DifferenceKernel.between(jd.GaussianPSF(0.8), jd.GaussianPSF(PSF_SIGMA)).image[0]
    shape = jax.jit(model_shape, static_argnums=3)(jnp.asarray(observed), jnp.asarray(center), kernel, 31)
    expected = gaussian((31, 31), (15, 15), np.hypot(sigma, 0.8))
    assert np.abs(np.asarray(shape) - expected).max() < error * expected.max()
    assert np.abs(observed - expected).max() > 3 * error * expected.max()


def test_spectra_are_those_of_the_sources(blend):
    np.testing.assert_allclose(fluxes_of(blend)[[0, 1, 3]], FLUXES[[0, 1, 3]], rtol=0.15)
    assert len(blend.sources) == len(CENTERS)


def test_a_fit_from_templates_needs_no_program_of_its_own(obs, blend):
    n = len(CENTERS)
    usual = eqx.filter_eval_shape(
        initialize_arrays, obs, jnp.zeros((n, 2)), jnp.zeros(n), jnp.ones(n, bool), EDGE, OPTIONS
    )
    assert jax.tree.structure(usual) == jax.tree.structure(blend)
    for one, other in zip(jax.tree.leaves(usual), jax.tree.leaves(blend), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_stars_begin_as_points_and_may_remain_so(obs, result, blend):
    is_psf = (result.flags & jd.SingleBandFlag.DEBLENDED_AS_PSF) != 0
    assert is_psf.tolist() == [False, False, False, True]
    star = np.asarray(obs.model_psf.stamp(EDGE))[0]
    np.testing.assert_allclose(shapes_of(blend)[is_psf], (star / star.max())[None], atol=1e-6)
    fixed = jd.initialize_from_templates(obs, result, fixed_points=True, options=OPTIONS)
    assert np.all(blend.stacks[0].component.morphology.step > 0)
    assert (np.asarray(fixed.stacks[0].component.morphology.step) == 0).tolist() == is_psf.tolist()


def test_a_peak_without_a_template_begins_as_a_faint_point(obs, result, blend):
    assert result.flags[2] & jd.SingleBandFlag.OUT_OF_BOUNDS and not result.templates[2].any()
    star = np.asarray(obs.model_psf.stamp(EDGE))[0]
    np.testing.assert_allclose(shapes_of(blend)[2], star / star.max(), atol=1e-6)
    assert blend.stacks[0].component.morphology.step[2] > 0
    assert fluxes_of(blend)[2].min() > 100  # its light in the image is found nevertheless


def test_peaks_that_are_nowhere_are_dark(obs, result):
    centers = np.array(result.centers)
    centers[:2] = (np.nan, 3.0), (200.0, 3.0)
    lost = eqx.tree_at(lambda r: r.centers, result, centers)
    blend = jd.initialize_from_templates(obs, lost, band="g", options=OPTIONS)
    assert len(blend.sources) == len(CENTERS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(blend.stacks))
    np.testing.assert_allclose(np.asarray(jd.render_sources(blend, obs))[:2], 0.0, atol=1e-3)


def test_no_peaks_are_no_sources(obs, result, monkeypatch):
    none = jax.tree.map(lambda array: array[:0] if len(array) == len(CENTERS) else array, result)
    dark = jd.Blend.of([], frame=SHAPE)
    monkeypatch.setattr(handover, "initialize", lambda _, centers, **__: centers or dark)  # that is tested elsewhere
    assert jd.initialize_from_templates(obs, none, options=OPTIONS) is dark


def test_the_mean_of_all_bands_has_one_psf():
    rng = np.random.default_rng(2)
    images, rms, mask = rng.normal(size=(3, *SHAPE)), np.array([1.0, 2.0, 4.0]), np.zeros((3, *SHAPE), bool)
    mask[1, 3, 4], mask[2] = True, True
    psf = jd.GaussianPSF([1.2, 1.5, 1.8])
    image, variance, mean = jd.one_band(jd.Observation(images, rms**2, psf, bands=("g", "r", "i"), mask=mask))
    share = np.array([4.0, 1.0]) / 5  # the last band has no data
    seen = ~mask[1]
    np.testing.assert_allclose(image[seen], np.tensordot(share, images[:2], 1)[seen], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(variance[seen], (share**2 * rms[:2] ** 2).sum(), rtol=1e-3)
    assert np.isnan(variance[3, 4]) and np.isfinite(variance).sum() == variance.size - 1
    expected = np.tensordot(share, np.asarray(psf.stamp(psf.edge))[:2], 1)
    np.testing.assert_allclose(np.asarray(mean.stamp(psf.edge))[0], expected, rtol=1e-3, atol=1e-6)


def test_one_band_is_as_it_is(obs):
    image, variance, psf = jd.one_band(obs, "r")
    np.testing.assert_allclose(image, obs.images[1])
    np.testing.assert_allclose(variance, 1.0, rtol=1e-5)
    np.testing.assert_allclose(psf.stamp(21), obs.psf.stamp(21), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "options, message",
    [({"band": "z"}, "band: got 'z'; the observation has 'g', 'r'"), ({"stamp_edge": 10}, "stamp_edge: got 10"),
     ({"center_error": [0.1]}, r"center_error: got shape \(1,\)")],
)  # fmt: skip
def test_bad_options_are_refused(obs, result, options, message):
    with pytest.raises(ValueError, match=message):
        jd.initialize_from_templates(obs, result, **options)


def test_templates_of_another_frame_are_refused(obs, result):
    other = eqx.tree_at(lambda r: r.templates, result, result.templates[:, :20])
    with pytest.raises(ValueError, match=r"result: got templates of shape \(20, 27\); the observation's shape is"):
        jd.initialize_from_templates(obs, other)
