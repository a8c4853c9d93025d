import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdeblend.ops import moments

COVARIANCE = np.array([[6.0, 1.5], [1.5, 3.0]])
CENTER = np.array([0.7, -1.2])


def gaussian(covariance=COVARIANCE, center=CENTER, edges=(45, 41)):
    y, x = np.mgrid[: edges[0], : edges[1]]
    offset = np.stack([y - edges[0] // 2 - center[0], x - edges[1] // 2 - center[1]], axis=-1)
    return jnp.asarray(
        np.exp(-0.5 * np.einsum("yxi,ij,yxj->yx", offset, np.linalg.inv(covariance), offset)), dtype=float
    )


def test_centroid_of_a_gaussian():
    np.testing.assert_allclose(moments.centroid(gaussian()), CENTER, atol=1e-4)


def test_second_moments_of_a_gaussian():
    (yy, yx), (_, xx) = COVARIANCE
    np.testing.assert_allclose(moments.second_moments(gaussian()), [yy, yx, xx], rtol=1e-3)


def test_second_moments_of_a_uniform_square():
    """(n² - 1) / 12 along each axis."""
    np.testing.assert_allclose(moments.second_moments(jnp.ones((7, 5))), [4, 0, 2], atol=1e-5)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_moments_do_not_depend_on_the_unit(unit):
    np.testing.assert_allclose(moments.second_moments(gaussian() * unit), moments.second_moments(gaussian()), rtol=1e-4)


def test_without_flux_all_moments_are_zero():
    np.testing.assert_array_equal(moments.centroid(jnp.zeros((5, 5))), np.zeros(2))
    np.testing.assert_array_equal(moments.second_moments(jnp.zeros((5, 5))), np.zeros(3))


def test_moments_under_jit_vmap_and_grad():
    images = jnp.stack([gaussian(), 2 * gaussian(center=-CENTER)])
    np.testing.assert_allclose(jax.jit(jax.vmap(moments.centroid))(images), [CENTER, -CENTER], atol=1e-4)
    assert np.isfinite(jax.grad(lambda image: moments.second_moments(image).sum())(images[0])).all()
    assert moments.second_moments(images[0]).dtype == images.dtype
