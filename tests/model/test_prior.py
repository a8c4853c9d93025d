import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd

NOISE = jnp.asarray(0.1)


def test_symmetric_stamps_are_the_most_likely():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 5)), dtype=float)
    prior = jd.SymmetricPrior()
    assert float(prior.log_prob(image + image[::-1, ::-1], NOISE)) == 0 > float(prior.log_prob(image, NOISE))


def test_symmetric_prior_of_one_pair_in_closed_form():
    image = jnp.zeros((3, 3)).at[0, 1].set(0.6).at[2, 1].set(0.4)
    variance = (0.3 * 0.5) ** 2 + (0.5 * 0.1) ** 2
    expected = -0.5 * (0.6 - 0.4) ** 2 / variance
    assert float(jd.SymmetricPrior(0.3, 0.5).log_prob(image, NOISE)) == pytest.approx(expected, rel=1e-5)


def test_symmetric_prior_pulls_the_pixels_of_a_pair_together():
    image = jnp.zeros((3, 3)).at[0, 1].set(0.6).at[2, 1].set(0.4)
    gradient = jax.grad(jd.SymmetricPrior().log_prob)(image, NOISE)
    assert float(gradient[0, 1]) == pytest.approx(-float(gradient[2, 1]))
    assert float(gradient[0, 1]) < 0


def test_symmetric_prior_does_not_pull_on_the_noise():
    gradient = jax.grad(jd.SymmetricPrior().log_prob, argnums=1)(jnp.eye(3), NOISE)
    assert float(gradient) == 0


def test_center_prior_in_closed_form():
    prior = jd.CenterPrior(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0.1, 0.5]))
    found = prior.log_prob(jnp.array([[1.1, 1.8], [3.0, 4.5]]))
    np.testing.assert_allclose(found, [-0.5 * (1 + 4), -0.5], rtol=1e-4)


def test_center_prior_takes_numpy_arrays():
    dtype = np.asarray(jnp.zeros(())).dtype
    prior = jd.CenterPrior(np.zeros((2, 2), dtype), np.ones(2, dtype))
    np.testing.assert_allclose(prior.log_prob(np.ones((2, 2), dtype)), [-1, -1])
