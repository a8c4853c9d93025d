import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d, fftconvolve

import jaxdeblend as jd
from jaxdeblend.ops import fft

MODEL = jd.GaussianPSF(0.8)
between = eqx.filter_jit(jd.DifferenceKernel.between)
OBSERVED = {
    "Gaussian": lambda: jd.GaussianPSF([1.2, 2.0]),
    "elliptical": lambda: jd.GaussianPSF(1.6, (0.2, 0.1)),
    "Moffat": lambda: jd.MoffatPSF([3.0, 4.0], [2.5, 3.5]),
    "two Gaussians": lambda: jd.DoubleGaussianPSF(1.4, 3.0, 0.1),
}


def reached(kernel, model, edge):
    """K * M on the observed PSF's stamp, by a linear convolution."""
    shaped = np.asarray(model.stamp(model.edge), dtype=float)[0]
    full = [fftconvolve(np.pad(np.asarray(k, dtype=float), 20), shaped, mode="same") for k in kernel.image]
    margin = (full[0].shape[0] - edge) // 2
    return np.stack([image[margin : margin + edge, margin : margin + edge] for image in full])


def distance(found, wanted):
    """Largest relative L2 distance over the bands."""
    return (np.linalg.norm(found - wanted, axis=(1, 2)) / np.linalg.norm(wanted, axis=(1, 2))).max()


def negative_lobe(kernel):
    image = np.asarray(kernel.image, dtype=float)
    return (np.maximum(-image, 0).sum(axis=(1, 2)) / image.sum(axis=(1, 2))).max()


@pytest.mark.parametrize("name", OBSERVED)
def test_kernel_takes_the_model_psf_to_the_observed_one(name):
    observed = OBSERVED[name]()
    kernel = between(MODEL, observed)
    wanted = np.asarray(observed.stamp(observed.edge), dtype=float)
    assert distance(reached(kernel, MODEL, observed.edge), wanted) < 1e-3
    np.testing.assert_allclose(np.asarray(kernel.image).sum(axis=(1, 2)), 1.0, rtol=1e-5)
    assert negative_lobe(kernel) < 0.05


def test_kernels_of_real_psfs_do_not_ring(shared_data):
    psfs = np.load(shared_data("hsc_cosmos_35.npz"), allow_pickle=False)["psfs"]
    observed = jd.ImagePSF(psfs)
    kernel = between(MODEL, observed)
    assert distance(reached(kernel, MODEL, observed.edge), np.asarray(observed.stamps)) <= 1e-3
    assert negative_lobe(kernel) <= 0.15
    np.testing.assert_allclose(np.asarray(kernel.image).sum(axis=(1, 2)), 1.0, rtol=1e-5)


def test_kernel_between_gaussians_is_a_gaussian():
    """Of σ² = σ_P² - σ_M², not integrated over the pixels: both PSFs are, once."""
    kernel = between(MODEL, jd.GaussianPSF(2.0))
    profile = np.exp(-0.5 * np.arange(-10, 11) ** 2 / (4.0 - 0.64))
    expected = np.outer(profile, profile) / profile.sum() ** 2
    np.testing.assert_allclose(kernel.image[0], expected, atol=1e-3 * expected.max())


def test_kernel_to_itself_is_a_point():
    """As far as the regularization lets the highest frequencies through."""
    image = np.asarray(between(MODEL, MODEL, regularization=1e-12).image)[0]
    middle = image.shape[0] // 2
    assert image[middle, middle] > 0.9 and np.abs(image).sum() - image[middle, middle] < 0.3


def test_plain_division_rings_and_the_regularization_stops_it():
    noisy = np.asarray(jd.GaussianPSF(1.3).stamp(25)) + 1e-5 * np.random.default_rng(0).normal(size=(1, 25, 25))
    ringing, quiet = (negative_lobe(between(MODEL, jd.ImagePSF(noisy), regularization=r)) for r in (1e-14, 1e-4))
    assert ringing > 5 * quiet


def test_edge_of_the_kernel_can_be_chosen():
    kernel = between(MODEL, jd.GaussianPSF([1.5, 2.0]), edge=11)
    assert kernel.image.shape == (2, 11, 11)
    np.testing.assert_allclose(kernel.image.sum(axis=(1, 2)), 1.0, rtol=1e-5)


def test_transform_convolves_frames():
    kernel = between(MODEL, jd.GaussianPSF(1.5), edge=9)
    frame = np.random.default_rng(0).normal(size=(1, 12, 10))
    found = jax.jit(lambda f: fft.convolve(f, kernel.transform((12, 10)), kernel.fft_shape((12, 10))))(
        jnp.asarray(frame, dtype=float)
    )
    expected = convolve2d(frame[0], np.asarray(kernel.image[0], dtype=float), mode="same")
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_gradient_with_respect_to_the_parameters_of_both_psfs():
    with jax.enable_x64(True):
        weight = jnp.asarray(np.random.default_rng(0).normal(size=(1, 15, 15)))

        @jax.jit
        def value(parameters):
            model, observed = jd.GaussianPSF(parameters[0]), jd.MoffatPSF(parameters[1], parameters[2])
            return jnp.sum(between(model, observed, edge=15).image * weight)

        at = jnp.array([0.8, 3.4, 2.8])
        gradient = jax.grad(value)(at)
        for k in range(3):
            step = jnp.zeros(3).at[k].set(1e-5)
            expected = float((value(at + step) - value(at - step)) / 2e-5)
            assert float(gradient[k]) == pytest.approx(expected, rel=1e-5)


def test_a_kernel_of_numpy_arrays_is_a_kernel():
    image = np.zeros((1, 3, 3), np.asarray(jnp.zeros(())).dtype)
    image[0, 1, 1] = 1
    np.testing.assert_allclose(jd.DifferenceKernel(image).transform((6, 6)), 1.0, atol=1e-6)
