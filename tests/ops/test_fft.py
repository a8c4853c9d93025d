import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d

from jaxdeblend.ops import fft

edges = st.integers(1, 14)
odd_edges = st.integers(0, 9).map(lambda half: 2 * half + 1)
few = settings(max_examples=15)


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def full(values):
    return jnp.asarray(values, dtype=float)


@jax.jit
def both(image, kernel):
    shape = fft.same_shape(image.shape, kernel.shape)
    transform = fft.kernel_transform(kernel, image.shape, shape)
    return fft.convolve(image, transform, shape), fft.correlate(image, transform, shape)


def convolved(image, kernel):
    return both(full(image), full(kernel))[0]


def correlated(image, kernel):
    return both(full(image), full(kernel))[1]


def direct(image, kernel):
    """The "same" convolution about the kernel's middle pixel, also when the kernel is the larger one."""
    y, x = (edge // 2 for edge in kernel.shape)
    return convolve2d(image, kernel, mode="full")[y : y + image.shape[0], x : x + image.shape[1]]


@given(st.integers(1, 5000))
def test_good_sizes_are_even_smooth_and_the_smallest(minimum):
    def is_good(size):
        odd_part = size
        for factor in (2, 3, 5, 7):
            while odd_part % factor == 0:
                odd_part //= factor
        return size % 2 == 0 and odd_part == 1

    size = fft.good_size(minimum)
    assert is_good(size) and size >= minimum
    assert not any(is_good(other) for other in range(max(minimum, 2), size))


@given(edges, edges, odd_edges, odd_edges)
@few
def test_convolution_is_the_direct_one_and_wraps_nothing(height, width, kernel_height, kernel_width):
    image, kernel = draw(height, width), draw(kernel_height, kernel_width, seed=1)
    expected = direct(image, kernel)
    np.testing.assert_allclose(convolved(image, kernel), expected, atol=2e-6 * np.abs(kernel).sum())


@given(edges, edges, odd_edges, odd_edges)
@few
def test_correlation_is_the_adjoint(height, width, kernel_height, kernel_width):
    f, g, kernel = draw(height, width), draw(height, width, seed=1), draw(kernel_height, kernel_width, seed=2)
    left, right = np.sum(convolved(f, kernel) * g), np.sum(f * correlated(g, kernel))
    assert left == pytest.approx(right, abs=3e-5 * np.abs(kernel).sum())


def test_fft_is_no_longer_than_needed():
    assert fft.same_shape((58, 48), (43, 43)) == (80, 70)
    assert fft.same_shape((5, 5), (41, 41)) == (10, 10)


def test_light_at_one_border_does_not_come_back_at_the_other():
    image = np.zeros((11, 12))
    image[0], image[:, -1] = 1e3, 1e3
    kernel = np.ones((9, 9))
    np.testing.assert_allclose(convolved(image, kernel)[6:, :7], 0.0, atol=1e-2)


def test_batches_of_kernels_are_convolved_one_by_one():
    images, kernels = draw(3, 8, 9), draw(3, 5, 5)
    shape = fft.same_shape((8, 9), (5, 5))
    batch = fft.convolve(full(images), fft.kernel_transform(full(kernels), (8, 9), shape), shape)
    expected = [direct(image, kernel) for image, kernel in zip(images, kernels, strict=True)]
    np.testing.assert_allclose(batch, expected, atol=1e-5)


def test_one_kernel_serves_a_stack_of_images():
    images, kernel = draw(4, 2, 8, 8), draw(1, 1, 5, 5)
    shape = fft.same_shape((8, 8), (5, 5))
    batch = fft.convolve(full(images), fft.kernel_transform(full(kernel), (8, 8), shape), shape)
    np.testing.assert_allclose(batch[3, 1], direct(images[3, 1], kernel[0, 0]), atol=1e-5)


def test_gradient_of_the_convolution_is_the_correlation():
    image, kernel, weight = draw(6, 7), draw(3, 5, seed=1), draw(6, 7, seed=2)
    shape = fft.same_shape((6, 7), (3, 5))
    transform = fft.kernel_transform(full(kernel), (6, 7), shape)
    gradient = jax.grad(lambda f: jnp.sum(fft.convolve(f, transform, shape) * full(weight)))(full(image))
    np.testing.assert_allclose(gradient, fft.correlate(full(weight), transform, shape), atol=1e-5)


def test_dtype_follows_the_image():
    assert convolved(draw(4, 4), draw(3, 3)).dtype == jnp.zeros(()).dtype
