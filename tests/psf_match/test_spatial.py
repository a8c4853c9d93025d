"""Kernels that vary over an image, against loops over pixels and against what they were made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdeblend as jd
from jaxdeblend.ops import polynomials
from jaxdeblend.psf_match import fit_spatial_kernel, kernel_quality
from jaxdeblend.psf_match.match import find_kernels

BOX = jd.Box((0, 0), (33, 41))


def random_kernel(order, edge=5, kind="chebyshev", box=BOX, n_bands=2):
    rng = np.random.default_rng(4)
    images = rng.normal(size=(n_bands, polynomials.n_terms(order), edge, edge)).astype(np.float32)
    return jd.SpatialKernel(images, box, order, kind)


def grid(n, box=BOX):
    axes = [np.linspace(at, at + edge - 1, n) for at, edge in zip(box.start, box.shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def convolved_by_loops(kernel, images, start=(0, 0)):
    """Every pixel with its own kernel."""
    half = kernel.edge // 2
    padded = np.pad(np.asarray(images, float), ((0, 0), (half, half), (half, half)))
    result = np.zeros(images.shape)
    for y, x in np.ndindex(images.shape[1:]):
        own = np.asarray(kernel.at(np.array([[y + start[0], x + start[1]]], float))[0], float)
        patch = padded[:, y : y + kernel.edge, x : x + kernel.edge]
        result[:, y, x] = (own[:, ::-1, ::-1] * patch).sum(axis=(1, 2))
    return result


@pytest.mark.parametrize("kind", ["chebyshev", "power"])
def test_every_pixel_is_convolved_with_its_own_kernel(kind):
    kernel = random_kernel(2, kind=kind)
    images = np.random.default_rng(0).normal(size=(2, 12, 10)).astype(np.float32)
    for start in [(0, 0), (20, 31)]:
        expected = convolved_by_loops(kernel, images, start)
        np.testing.assert_allclose(kernel.convolve(images, start), expected, atol=2e-5 * np.abs(expected).max())


def test_an_order_of_zero_is_a_plain_convolution():
    kernel = random_kernel(0)
    images = np.random.default_rng(0).normal(size=(2, 12, 10)).astype(np.float32)
    one = jax.scipy.signal.convolve(jnp.asarray(images[0]), jnp.asarray(kernel.images[0, 0]), mode="same")
    np.testing.assert_allclose(kernel.convolve(images)[0], one, atol=1e-4)


@pytest.mark.parametrize("kind", ["chebyshev", "power"])
@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_the_square_is_that_of_the_kernel_everywhere(order, kind):
    kernel = random_kernel(order, kind=kind)
    where = grid(4)
    squared = kernel.squared()
    expected = np.asarray(kernel.at(where), float) ** 2
    assert squared.order == 2 * order
    np.testing.assert_allclose(squared.at(where), expected, atol=1e-4 * expected.max())


def test_variances_are_those_of_many_realisations():
    """White noise of a variance that varies, convolved 400 times."""
    kernel, rng = random_kernel(1, edge=3), np.random.default_rng(7)
    variance = 1 + rng.uniform(size=(2, 12, 10)).astype(np.float32)
    noise = rng.normal(size=(400, *variance.shape)).astype(np.float32) * np.sqrt(variance)
    seen = jax.vmap(kernel.convolve)(jnp.asarray(noise)).var(axis=0)
    ratio = np.asarray(seen) / np.asarray(kernel.squared().convolve(variance))
    assert abs(ratio.mean() - 1) < 0.02 and ratio.std() < 1.3 * np.sqrt(2 / 400)


@settings(max_examples=20)
@given(order=st.integers(0, 4), start=st.tuples(st.integers(-50, 50), st.integers(-50, 50)), seed=st.integers(0, 9))
def test_a_polynomial_is_found_again(order, start, seed):
    box = jd.Box(start, (101, 57))
    kernel = random_kernel(order, edge=3, box=box)
    where = np.random.default_rng(seed).uniform(0, 1, (80, 2)) * (100, 56) + np.asarray(start)
    found = fit_spatial_kernel(where, kernel.at(where), box, order=order)
    np.testing.assert_allclose(found.images, kernel.images, atol=2e-3)


def test_candidates_that_are_not_good_do_not_count():
    kernel, where = random_kernel(1), grid(4)
    kernels = np.array(kernel.at(where))
    good = np.ones((16, 2), bool)
    good[3, 0] = good[7, 1] = False
    kernels[~good] = np.nan
    found = fit_spatial_kernel(where, kernels, BOX, good=good, order=1)
    np.testing.assert_allclose(found.images, kernel.images, atol=1e-4)


def test_sums_are_kept_and_scaled():
    where = grid(5)
    kernels = np.random.default_rng(1).uniform(size=(25, 1, 7, 7))
    kernels /= kernels.sum(axis=(2, 3), keepdims=True)
    kernel = fit_spatial_kernel(where, kernels, BOX, order=2)
    anywhere = grid(9) * 1.3 - 5
    np.testing.assert_allclose(kernel.at(anywhere).sum(axis=(2, 3)), 1.0, atol=1e-5)
    np.testing.assert_allclose(kernel.with_sum(2.5).at(anywhere), 2.5 * kernel.at(anywhere), rtol=1e-5, atol=1e-6)


def test_positions_outside_of_the_box_are_flagged():
    kernel = random_kernel(1, box=jd.Box((10, 20), (5, 5)))
    where = np.array([[10.0, 20.0], [9.5, 20.0], [9.4, 20.0], [14.4, 24.4], [12.0, 24.6]])
    assert kernel.outside(where).tolist() == [False, False, True, False, True]


def test_the_kernel_at_a_position_is_what_an_observation_takes():
    kernel = random_kernel(2)
    local = kernel.difference_kernel(np.array([3.0, 4.0]))
    assert isinstance(local, jd.DifferenceKernel)
    np.testing.assert_array_equal(local.image, kernel.at(np.array([[3.0, 4.0]]))[0])


def varying_psf(positions):
    """Moffat profiles whose width and ellipticity vary with position (in [-1, 1])."""
    y, x = positions.T
    fwhm = 3.5 + 0.3 * x + 0.25 * y + 0.25 * x * y - 0.2 * x**2 + 0.1 * y**3
    shape = np.stack([0.05 * x + 0.03 * y**2, 0.04 * x * y - 0.03 * y], axis=-1)
    return np.asarray(jd.MoffatPSF(fwhm, 3.2, shape).stamp(41))


def test_a_field_that_varies_is_matched_better_with_every_order():
    nodes = (np.arange(6) + 0.5) / 3 - 1
    cells, test = (np.stack(np.meshgrid(n, n), axis=-1).reshape(-1, 2) for n in (nodes, np.linspace(-1, 1, 7)))
    box, target = jd.Box((0, 0), (201, 201)), np.asarray(jd.MoffatPSF(4.73, 3.2).stamp(41))
    with jax.enable_x64(True):
        kernels = find_kernels(
            np.asarray(varying_psf(cells), float), np.asarray(target, float), jd.LeastSquares(1e-6), 31, 1.0
        )[0]
    worst, wanted = [], jnp.asarray(target[0])
    for order in range(5):
        kernel = fit_spatial_kernel(100 + 100 * cells, np.asarray(kernels)[:, None], box, order=order)
        quality = jax.vmap(kernel_quality, in_axes=(0, 0, None))
        worst.append(float(quality(kernel.at(100 + 100 * test)[:, 0], jnp.asarray(varying_psf(test)), wanted).l2.max()))
    assert (np.diff(worst) < 0).all() and worst[3] < 1.2e-2 and worst[4] < 3e-3


def test_too_few_candidates():
    kernels = np.ones((5, 1, 3, 3))
    with pytest.raises(ValueError, match="order: 5 good candidates cannot determine the 6 terms of order 2"):
        fit_spatial_kernel(grid(3)[:5], kernels, BOX, order=2)
    with pytest.warns(UserWarning, match="only 5 good candidates for the 3 terms of order 1"):
        fit_spatial_kernel(grid(3)[:5], kernels, BOX, order=1)


def test_candidates_on_a_line():
    where = np.stack([np.arange(20.0), np.arange(20.0)], axis=-1)
    with pytest.raises(ValueError, match="positions: the spatial solution is degenerate"):
        fit_spatial_kernel(where, np.ones((20, 1, 3, 3)), BOX, order=1)


def test_images_must_have_as_many_terms_as_the_order():
    with pytest.raises(ValueError, match=r"images: got shape \(1, 2, 3, 3\); .* with 3 terms for order 1"):
        jd.SpatialKernel(np.ones((1, 2, 3, 3)), BOX, 1)


def test_one_position_is_as_good_as_many():
    rng = np.random.default_rng(1)
    kernel = jd.SpatialKernel(rng.normal(size=(2, 3, 5, 5)).astype(np.float32), jd.Box((0, 0), (64, 64)), 1)
    many = kernel.at(np.array([[10.0, 20.0], [70.0, 3.0]]))
    np.testing.assert_array_equal(kernel.at((10, 20)), many[0])
    np.testing.assert_array_equal(kernel.difference_kernel([10.0, 20.0]).image, many[0])
    assert not kernel.outside((10, 20)) and kernel.outside(np.array([70.0, 3.0]))
    with pytest.raises(ValueError, match=r"positions: got shape \(3,\); give \(y, x\) in pixels"):
        kernel.at((1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(order=-1), "order: got -1; give the degree"),
        (dict(kind="legendre"), "kind: got 'legendre'; give one of"),
        (dict(positions=np.zeros((3, 2))), r"positions: got shape \(3, 2\) for 4 kernels"),
    ],
)
def test_fits_that_cannot_work(options, message):
    arguments = {"positions": np.eye(4)[:, :2]} | options
    with pytest.raises(ValueError, match=message):
        fit_spatial_kernel(arguments.pop("positions"), np.ones((4, 1, 3, 3)), jd.Box((0, 0), (9, 9)), **arguments)


def test_kernels_have_a_middle_pixel():
    with pytest.raises(ValueError, match="images: got 4; give an odd number"):
        jd.SpatialKernel(np.ones((1, 1, 4, 4)), jd.Box((0, 0), (64, 64)), 0)
