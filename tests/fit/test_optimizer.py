import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": 9}, "window: got 9; give at least 10"), ({"max_steps": 0}, "max_steps: got 0; give at least 1")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        jd.ProximalAdam(**options)


def trajectory(gradients, steps, **options):
    optimizer = jd.ProximalAdam(**options)
    state = optimizer.init(steps)
    changes = []
    for number, gradient in enumerate(gradients):
        change, state = optimizer.update(gradient, state, steps, jnp.asarray(number))
        changes.append(change)
    return np.array(changes)


def test_first_step_is_a_damped_sign():
    steps = jnp.array([0.5, 2.0, 0.0])
    change = trajectory([jnp.array([-3.0, 1e-3, 7.0])], steps, first_step=0.1, learning_rate=2.0, eps=1e-12)
    np.testing.assert_allclose(change, [[0.1, -0.4, 0.0]], rtol=1e-5)


def test_a_constant_gradient_moves_by_steps_that_shorten():
    """With bias-corrected moments the direction of a constant gradient is its sign."""
    change = trajectory(
        [jnp.array([4.0])] * 5, jnp.array([0.3]), first_step=1.0, learning_rate=2.0, decay=4.0, eps=1e-12
    )
    np.testing.assert_allclose(change[:, 0], -0.6 / (1 + np.arange(5) / 4), rtol=1e-3)


def test_what_the_data_do_not_see_hardly_moves():
    """A step that changes the loss by a thousandth of eps is a thousandth of a step."""
    change = trajectory([jnp.array([1e-4])], jnp.array([1.0]), first_step=1.0, learning_rate=1.0, eps=0.1)
    np.testing.assert_allclose(change, -1e-3, rtol=2e-3)


def test_units_do_not_matter(rng):
    """Parameters in units u times smaller: gradients are u times smaller, steps and changes u times larger."""
    gradients = jnp.asarray(rng.normal(size=(6, 4)), dtype=float)
    scale = jnp.array([1e-4, 1.0, 1e3, 1e6])
    plain = trajectory(gradients, jnp.ones(4))
    scaled = trajectory(gradients / scale[None], scale)
    np.testing.assert_allclose(scaled / np.asarray(scale), plain, rtol=1e-4)
