import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd

NOISE = jnp.asarray(0.1)


def test_the_scale_that_a_projection_takes_away_is_given_back():
    pixels = jnp.asarray(np.random.default_rng(0).uniform(0, 3, (5, 5)), dtype=float)
    projected, factor = jd.ImageMorphology(pixels).project(NOISE)
    assert float(projected.image().max()) == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_allclose(projected.image() * factor, pixels, rtol=1e-5)


def test_step_zero_keeps_the_shape_fixed():
    morphology = jd.ImageMorphology(-jnp.eye(3), (jd.Positive(),), (jd.SymmetricPrior(),), step=0.0)
    projected, factor = morphology.project(NOISE)
    np.testing.assert_array_equal(projected.image(), -jnp.eye(3))
    assert float(factor) == 1 and float(morphology.log_prior(NOISE)) == 0
    np.testing.assert_array_equal(morphology.step_sizes().pixels, np.zeros((3, 3)))


def test_priors_add_up():
    one = jd.ImageMorphology(jnp.triu(jnp.ones((3, 3))), priors=(jd.SymmetricPrior(),))
    two = jd.ImageMorphology(one.pixels, priors=(jd.SymmetricPrior(),) * 2)
    assert float(two.log_prior(NOISE)) == pytest.approx(2 * float(one.log_prior(NOISE)))
    assert float(one.log_prior(NOISE)) < 0


def test_a_point_is_the_psf_of_model_space():
    point = jd.PointMorphology.of(jd.GaussianPSF(0.8), 11)
    stamp = jd.GaussianPSF(0.8).stamp(11)[0]
    np.testing.assert_allclose(point.image(), stamp / stamp.max(), rtol=1e-5)
    assert point.step_sizes().pixels is None
