import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxdeblend as jd
from tests.scenes import gaussian

STEP = 1e-4


def test_gradient_of_the_posterior_by_finite_differences(rng):
    """With respect to spectra, pixels, centres, every pixel of the images and a PSF parameter."""
    with jax.enable_x64(True):
        star = jd.PointSource((3.3, 4.6), jnp.array([3.0, 1.0]), edge=7, center_error=0.2)
        stamp = jnp.asarray(gaussian((5, 5), (2, 2), 1.1))
        galaxy = jd.ExtendedSource((5.8, 5.1), (40.0, 60.0), stamp, priors=(), center_error=0.3)
        blend = jd.Blend.of([star, galaxy], frame=(9, 10))
        # off the maximum of the prior, so that its gradient counts
        blend = eqx.tree_at(lambda b: b.centers, blend, blend.centers + 0.1)
        images = jnp.asarray(rng.normal(size=(2, 9, 10)))
        variables, fixed = eqx.partition((blend, images, jnp.asarray(1.5)), _varied)
        vector, unravel = ravel_pytree(variables)

        def log_posterior(vector):
            model, data, sigma = eqx.combine(unravel(vector), fixed)
            obs = jd.Observation(data, jnp.full((2,), 0.5), jd.GaussianPSF(sigma), bands=("g", "r"), kernel=None)
            return jd.log_posterior(model, obs)

        nudges = STEP * jnp.eye(len(vector))
        nudged = vector[None] + jnp.concatenate([nudges, -nudges])
        both = jax.jit(lambda: (jax.grad(log_posterior)(vector), jax.lax.map(log_posterior, nudged)))
        gradient, values = jax.device_get(both())
    assert len(vector) >= 4 + 4 + 25 + 49 + 180 + 1
    above, below = np.split(values, 2)
    expected = (above - below) / (2 * STEP)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert (np.abs(expected) > 0).sum() > 200


def _varied(leaf):
    return eqx.is_inexact_array(leaf)
