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


def trajectory(gradients, steps, c=0.0, **options):
    optimizer = jd.ProximalAdam(**options)
    state = optimizer.init(steps)
    curvatures = jnp.broadcast_to(jnp.asarray(c, dtype=float), steps.shape)
    changes = []
    for number, gradient in enumerate(gradients):
        change, state = optimizer.update(gradient, state, steps, curvatures, jnp.asarray(number))
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


def test_a_small_gradient_makes_a_newton_step():
    """Of L = 1/2 h x² in units of a step α: u = α² h x, c = α² h, and the Newton step is -x."""
    h, x, alpha = 4e6, 1e-3, jnp.array([0.1])
    curvature = alpha**2 * h
    change = trajectory([jnp.array([h * x])], alpha, curvature, first_step=1.0, curvature=1.0)
    np.testing.assert_allclose(change, -x, rtol=0.01)


def test_the_share_of_the_curvature_fades():
    gradients, alpha, c = [jnp.array([1.0])] * 6, jnp.array([1.0]), 1e4
    change = trajectory(gradients, alpha, c, first_step=1.0, curvature=0.5, fading=5.0, decay=1e9)
    np.testing.assert_allclose(change[:, 0], -(1 + np.arange(6) / 5) / (0.5 * c), rtol=1e-3)


def test_units_do_not_matter(rng):
    """Parameters in units u times smaller: gradients are u times smaller, steps and changes u times larger."""
    gradients = jnp.asarray(rng.normal(size=(6, 4)), dtype=float)
    scale = jnp.array([1e-4, 1.0, 1e3, 1e6])
    plain = trajectory(gradients, jnp.ones(4), 3.0)
    scaled = trajectory(gradients / scale[None], scale, 3.0)
    np.testing.assert_allclose(scaled / np.asarray(scale), plain, rtol=1e-4)
