import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d

import jaxdeblend as jd
from tests.scenes import PSF_SIGMA, gaussian, observe


@pytest.fixture(scope="module", params=[(21, 34), (9, 13)], ids=["frame", "frame smaller than the kernel"])
def scene(request):
    shape = request.param
    middle = np.array(shape) / 2
    # points are not convolved but drawn: see tests/instrument/test_point_spread.py
    star = jd.ExtendedSource(middle - 1.3, [5.0, 2.0], gaussian((15, 15), (7, 7), 0.85))
    galaxy = jd.ExtendedSource(middle + (1.2, 2.4), [3.0, 6.0], gaussian((11, 11), (5, 5), 1.5))
    edge = jd.ExtendedSource((0.2, shape[1] - 0.6), [1.0, 4.0], gaussian((15, 15), (7, 7), 0.85))
    psf = jd.GaussianPSF([PSF_SIGMA, 1.9], (0.2, -0.1))
    blend, obs = jd.Blend.of([star, galaxy, edge], frame=shape), observe(np.zeros((2, *shape)), psf=psf)
    return jax.device_get(everything(blend, obs))


@eqx.filter_jit
def everything(blend, obs):
    return (
        blend.cube(margin=obs.margin),
        obs.prepared().kernel.image,
        jd.render(blend, obs),
        jd.render_sources(blend, obs),
    )


def test_render_is_the_direct_convolution(scene):
    cube, kernels, whole, _ = scene
    expected = [convolve2d(image, kernel, mode="full") for image, kernel in zip(cube, kernels, strict=True)]
    first = kernels.shape[-1] // 2 + (cube.shape[-1] - whole.shape[-1]) // 2
    expected = [image[first:, first:][: whole.shape[1], : whole.shape[2]] for image in expected]
    np.testing.assert_allclose(whole, expected, atol=2e-6 * np.max(expected))


def test_rendered_sources_add_up(scene):
    _, _, whole, parts = scene
    assert parts.shape == (3, *whole.shape)
    np.testing.assert_allclose(parts.sum(axis=0), whole, atol=2e-6 * whole.max())


@pytest.mark.parametrize("center", [(10.0, 12.0), (10.5, 11.5), (9.8, 12.31), (0.3, 24.4), (20.0, -0.5), (-1.2, 8.0)])
def test_a_star_is_the_psf_at_its_position(center):
    """Also of a star at the border or just outside, whose light in model space lies partly beyond the image."""
    obs = observe(np.zeros((1, 21, 25)))
    star = jd.Blend.of([jd.PointSource(center, [1.0])], frame=obs.shape)
    truth = gaussian(obs.shape, center, PSF_SIGMA)
    np.testing.assert_allclose(jd.render(star, obs)[0], truth, atol=3e-3 * truth.max())


def test_nothing_shines_beyond_the_extent():
    obs = jd.Observation(
        jnp.zeros((1, 24, 40)), jnp.ones(1), jd.GaussianPSF(PSF_SIGMA), bands=("r",), extent=jnp.array([20, 17])
    )
    star = jd.PointSource((10, 33), [1.0])
    np.testing.assert_allclose(jd.render(jd.Blend.of([star], frame=(24, 40)), obs), 0.0, atol=1e-5)


def test_a_blend_without_sources_is_dark():
    obs = observe(np.zeros((2, 16, 16)))
    empty = jd.Blend.of([], frame=(16, 16))
    assert not np.any(jd.render(empty, obs))
    assert jd.render_sources(empty, obs).shape[0] == 0
