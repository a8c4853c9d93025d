import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.ops import starlet
from jaxdeblend.ops.starlet import starlet_adjoint, starlet_reconstruction, starlet_transform

smooth = jax.jit(starlet.smooth, static_argnums=1)
transform = jax.jit(starlet_transform, static_argnums=1, static_argnames="generation")
reconstruction = jax.jit(starlet_reconstruction, static_argnames="generation")
adjoint = jax.jit(starlet_adjoint, static_argnames="generation")
GENERATIONS = pytest.mark.parametrize("generation", [1, 2])


def draw(*shape):
    return jnp.asarray(np.random.default_rng(3).normal(size=shape), dtype=float)


def tolerance(array):
    return 50 * np.finfo(array.dtype).eps


@pytest.mark.parametrize("scale", [0, 1, 3])
def test_smoothing_is_that_of_scipy(scale):
    image = draw(21, 18)
    kernel = np.zeros(4 * 2**scale + 1)
    kernel[:: 2**scale] = np.array([1, 4, 6, 4, 1]) / 16
    expected = np.asarray(image, float)
    for axis in (0, 1):
        expected = scipy.ndimage.convolve1d(expected, kernel, axis=axis, mode="constant")
    np.testing.assert_allclose(smooth(image, scale), expected, atol=tolerance(image))


@GENERATIONS
@pytest.mark.parametrize(("shape", "scales"), [((19, 24), 3), ((5, 3), 4), ((5, 3), 0)])
def test_reconstruction_is_exact(generation, shape, scales):
    image = draw(*shape)
    coefficients = transform(image, scales, generation=generation)
    assert coefficients.shape == (scales + 1, *shape)
    back = reconstruction(coefficients, generation=generation)
    np.testing.assert_allclose(back, image, atol=tolerance(image))


@GENERATIONS
def test_the_adjoint_is_the_transpose(generation):
    image, coefficients = draw(19, 24), draw(4, 19, 24)
    left = jnp.vdot(transform(image, 3, generation=generation), coefficients)
    assert float(left) == pytest.approx(float(jnp.vdot(image, adjoint(coefficients, generation=generation))), rel=1e-4)
    _, pull = jax.vjp(lambda x: transform(x, 3, generation=generation), image)
    np.testing.assert_allclose(pull(coefficients)[0], adjoint(coefficients, generation=generation), atol=1e-5)


@GENERATIONS
def test_details_of_the_first_scales_have_the_published_noise(generation):
    # Noise of each scale for white noise of 1 sigma, from the kernels themselves in one dimension at a time.
    size = 257
    kernel = np.zeros(size)
    kernel[size // 2] = 1.0
    coarse, expected = np.outer(kernel, kernel), []
    taps = np.array([1, 4, 6, 4, 1]) / 16
    for scale in range(3):
        wide = np.zeros(4 * 2**scale + 1)
        wide[:: 2**scale] = taps
        smoothed = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(coarse, wide, axis=0), wide, axis=1)
        twice = scipy.ndimage.convolve1d(scipy.ndimage.convolve1d(smoothed, wide, axis=0), wide, axis=1)
        expected.append(np.sqrt(np.sum((coarse - (smoothed if generation == 1 else twice)) ** 2)))
        coarse = smoothed
    noise = transform(draw(400, 400), 3, generation=generation)[:3, 50:-50, 50:-50]
    np.testing.assert_allclose(np.std(noise, axis=(1, 2)), expected, rtol=0.04)
    if generation == 1:  # Starck & Murtagh (2006), Astronomical Image and Data Analysis, table 2.1
        np.testing.assert_allclose(expected, [0.890, 0.201, 0.086], atol=0.002)


@settings(max_examples=10)
@given(st.floats(-3, 3), st.sampled_from([1, 2]))
def test_it_is_linear(factor, generation):
    first, second = draw(2, 19, 24)
    whole = transform(first + factor * second, 3, generation=generation)
    parts = (transform(one, 3, generation=generation) for one in (first, second))
    expected = sum(weight * part for weight, part in zip((1.0, factor), parts, strict=True))
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_it_maps_over_images_and_compiles():
    images = draw(3, 16, 16)
    whole = transform(images, 2)
    each = jax.jit(jax.vmap(lambda image: starlet_transform(image, 2)))(images)
    assert whole.shape == (3, 3, 16, 16) and whole.dtype == images.dtype
    np.testing.assert_allclose(whole, each, atol=1e-6)


def test_a_constant_has_no_details_within():
    details = transform(jnp.ones((64, 64)), 3)
    np.testing.assert_allclose(details[:3, 30:34, 30:34], 0.0, atol=1e-6)
    np.testing.assert_allclose(details[3, 30:34, 30:34], 1.0, atol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="generation: got 3; choose 1 or 2"):
        starlet_transform(jnp.ones((4, 4)), 1, generation=3)
    with pytest.raises(ValueError, match="scales: got -1; give a number"):
        starlet_transform(jnp.ones((4, 4)), -1)
