import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd


def test_step_is_a_share_of_the_amplitude_or_of_the_noise():
    steps = jd.FreeSpectrum(jnp.array([100.0, -200.0, 1.0])).step_sizes(jnp.array([1.0, 1.0, 5.0]))
    np.testing.assert_allclose(steps.amplitude, [1, 2, 0.5], rtol=1e-6)


def test_projection_is_the_nearest_spectrum_that_is_not_negative():
    projected = jd.FreeSpectrum(jnp.array([-1.0, 0.0, 2.0])).project(jnp.ones(3))
    np.testing.assert_array_equal(projected.values(), [0, 0, 2])
