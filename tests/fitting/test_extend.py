"""Sources that were missed join a blend that was fitted."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd

CENTERS = np.array([[14.0, 13.0], [19.5, 20.0], [13.0, 24.5]])
FLUXES = np.array([[900.0, 500.0], [700.0, 1100.0], [400.0, 300.0]])
MISSED = 2
SIMPLE = jd.Initialization(max_components=1, passes=3)


@pytest.fixture(scope="module")
def obs():
    """Three galaxies that overlap, in noise."""
    psf = jd.GaussianPSF([1.4, 1.6])
    shapes = [jd.GaussianPSF([np.hypot(s, width) for s in (1.4, 1.6)]) for width in (1.0, 1.6, 1.2)]
    images = np.zeros((2, 40, 40))
    for (y, x), flux, shape in zip(CENTERS, FLUXES, shapes, strict=True):
        star = jd.Blend.of([jd.PointSource((y, x), jnp.ones(2))], frame=(40, 40))
        blank = jd.Observation(np.zeros((2, 40, 40)), np.ones((2, 40, 40)), shape, bands=("g", "r"))
        images += flux[:, None, None] * np.asarray(jd.render(star, blank))
    images += np.random.default_rng(1).normal(size=images.shape)
    return jd.Observation(images, np.ones_like(images), psf, bands=("g", "r"))


@pytest.fixture(scope="module")
def fits(obs):
    """All three sources from scratch; two of them; and the third added to these."""
    scratch = jd.fit(jd.initialize(obs, CENTERS, options=SIMPLE), obs)
    before = jd.fit(jd.initialize(obs, CENTERS[:MISSED], options=SIMPLE), obs)
    return scratch, before, jd.fit(jd.add_sources(before.blend, obs, CENTERS[MISSED:], options=SIMPLE), obs)


def chi_square(result, obs):
    return float(jnp.sum(obs.weights * (obs.images - jd.render(result.blend, obs)) ** 2))


def test_the_fit_is_as_good_as_one_from_scratch(fits, obs):
    scratch, before, after = (chi_square(result, obs) for result in fits)
    assert before > 1.5 * scratch
    assert after < 1.01 * scratch


def test_fluxes_are_found(fits):
    flux = np.array([np.asarray(source.flux) for source in fits[2].blend.sources])
    np.testing.assert_allclose(flux, FLUXES, rtol=0.12)


def test_sources_keep_their_order_and_priors(fits, obs):
    _, before, after = fits
    blend = after.blend
    assert len(blend.sources) == 3
    np.testing.assert_array_equal(blend.center_prior.mean[:MISSED], before.blend.center_prior.mean)
    np.testing.assert_allclose(blend.center_prior.mean[MISSED:], CENTERS[MISSED:], rtol=1e-6)


def test_nothing_is_added_to_a_blend(fits, obs):
    blend = fits[1].blend
    same = jd.add_sources(blend, obs, [])
    np.testing.assert_allclose(
        np.asarray(jd.render(same, obs)), np.asarray(jd.render(blend, obs)), atol=0.02 * float(obs.images.max())
    )
    assert len(same.sources) == MISSED


def test_another_frame_is_refused(fits):
    other = jd.Observation(np.ones((2, 30, 40)), np.ones((2, 30, 40)), jd.GaussianPSF(1.5), bands=("g", "r"))
    with pytest.raises(ValueError, match=r"blend: got a blend for the frame \(40, 40\)"):
        jd.add_sources(fits[0].blend, other, [(3, 3)])
