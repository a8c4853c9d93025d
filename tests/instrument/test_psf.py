import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.ops import moments


@eqx.filter_jit
def stamp_of(psf, edge):
    return psf.stamp(edge)


def shape_of(stamp):
    """(σ², e1, e2) by the moments of a stamp, without the 1/12 that the pixel adds."""
    yy, yx, xx = np.asarray(jax.jit(moments.second_moments)(jnp.asarray(stamp)), dtype=float) - [1 / 12, 0, 1 / 12]
    return np.sqrt(yy * xx - yx**2), (xx - yy) / (xx + yy), 2 * yx / (xx + yy)


@pytest.mark.parametrize("ellipticity", [(0.0, 0.0), (0.4, 0.0), (0.0, -0.4), (-0.3, 0.3)])
def test_moments_of_an_elliptical_gaussian(ellipticity):
    psf = jd.GaussianPSF(2.0, ellipticity)
    np.testing.assert_allclose(shape_of(stamp_of(psf, 61)[0]), (4.0, *ellipticity), atol=3e-3)


def test_round_is_the_limit_of_elliptical():
    np.testing.assert_allclose(
        stamp_of(jd.GaussianPSF(1.3, (0.0, 0.0)), 15), stamp_of(jd.GaussianPSF(1.3), 15), atol=1e-6
    )
    np.testing.assert_allclose(
        stamp_of(jd.MoffatPSF(3.0, 2.5, (0.0, 0.0)), 15), stamp_of(jd.MoffatPSF(3.0, 2.5), 15), atol=1e-6
    )


def test_double_gaussian_without_wing_is_a_gaussian():
    psf = jd.DoubleGaussianPSF(1.4, 3.0, 0.0)
    np.testing.assert_allclose(stamp_of(psf, 31), stamp_of(jd.GaussianPSF(1.4), 31), atol=1e-6)
    np.testing.assert_allclose(psf.fwhm(), jd.GaussianPSF(1.4).fwhm(), rtol=1e-5)


def test_numbers_are_shared_by_all_bands():
    assert stamp_of(jd.MoffatPSF([3.0, 4.0, 5.0], 2.5, (0.1, 0.2)), 9).shape == (3, 9, 9)
    assert jd.MoffatPSF(3.0, [2.5, 3.0]).fwhm().shape == (2,)
    assert stamp_of(jd.DoubleGaussianPSF(1.4, [3.0, 3.5], 0.1), 9).shape == (2, 9, 9)


def test_image_is_padded_and_cropped_about_its_middle():
    image = np.random.default_rng(0).uniform(1, 2, (1, 5, 7))
    psf = jd.ImagePSF(image)
    wide, narrow = np.asarray(psf.stamp(9)), np.asarray(psf.stamp(3))
    np.testing.assert_allclose(wide[:, 2:7, 1:8], image / image.sum(), rtol=1e-6)
    assert wide[:, :2].sum() == wide[:, 7:].sum() == 0
    np.testing.assert_allclose(narrow, image[:, 1:4, 2:5] / image[:, 1:4, 2:5].sum(), rtol=1e-6)


def test_one_image_is_a_psf_of_one_band():
    assert jd.ImagePSF(np.ones((5, 5))).n_bands == 1


@pytest.mark.parametrize("edge", [5, 21])
def test_fwhm_of_images_is_that_of_finer_ones_on_host_and_device(edge):
    stamps = np.asarray(jd.MoffatPSF([2.5, 4.0], ellipticity=(0.2, 0.1)).stamp(edge))
    fine = np.asarray(jax.image.resize(stamps, (2, 4 * edge, 4 * edge), method="cubic"))
    area = (fine > 0.5 * fine.max(axis=(1, 2), keepdims=True)).sum(axis=(1, 2)) / 16
    for psf in (jd.ImagePSF(stamps), jd.ImagePSF(jnp.asarray(stamps))):
        np.testing.assert_allclose(psf.fwhm(), 2 * np.sqrt(area / np.pi), rtol=1e-6)


def test_images_stay_where_they_are():
    host, device = jd.ImagePSF(np.ones((1, 5, 5))), jd.ImagePSF(jnp.ones((1, 5, 5)))
    assert isinstance(host.stamps, np.ndarray) and isinstance(host.stamp(7), np.ndarray)
    assert isinstance(device.stamps, jax.Array) and isinstance(device.stamp(7), jax.Array)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.GaussianPSF(0.0), r"sigma: got 0.0; every value must be above 0"),
        (lambda: jd.GaussianPSF([1.0, -2.0]), r"sigma: got \[1.0, -2.0\]; every value must be above 0"),
        (lambda: jd.GaussianPSF(np.nan), r"sigma: got nan; every value must be above 0"),
        (lambda: jd.GaussianPSF(np.ones((2, 2))), r"sigma: got shape \(2, 2\); give one number, or one per band"),
        (lambda: jd.GaussianPSF(1.0, (0.8, 0.7)), r"ellipticity: got \(0.8, 0.7\); \|e\| must be below 1"),
        (lambda: jd.GaussianPSF(1.0, (np.nan, 0.0)), r"ellipticity: got \(nan, 0.0\); \|e\| must be below 1"),
        (lambda: jd.GaussianPSF([1.0, 2.0], np.zeros((3, 2))), r"ellipticity: got shape \(3, 2\); give \(e1, e2\)"),
        (lambda: jd.MoffatPSF(-3.0), r"fwhm: got -3.0; every value must be above 0"),
        (lambda: jd.MoffatPSF(3.0, 1.0), r"beta: got 1.0; every value must be above 1"),
        (lambda: jd.MoffatPSF([3.0, 3.1, 3.2], [2.0, 3.0]), r"beta: got 2 values for 3 of fwhm; give one, or one per"),
        (lambda: jd.DoubleGaussianPSF(1.0, 0.0, 0.1), r"sigma_wing: got 0.0; every value must be above 0"),
        (lambda: jd.DoubleGaussianPSF(1.0, 2.0, 1.0), r"wing_fraction: got 1.0; .* in \[0, 1\)"),
        (lambda: jd.DoubleGaussianPSF(1.0, 2.0, -0.1), r"wing_fraction: got -0.1; .* in \[0, 1\)"),
        (lambda: jd.ImagePSF(np.ones(5)), r"psf: got an array of shape \(5,\); give stamps \(band, y, x\)"),
        (lambda: jd.ImagePSF(np.ones((1, 5, 6))), r"psf: got stamps of even edge, shape \(1, 5, 6\)"),
        (lambda: jd.ImagePSF(np.full((1, 3, 3), np.nan)), r"psf: got 9 pixels that are NaN or infinite"),
        (lambda: jd.ImagePSF(jnp.full((1, 3, 3), jnp.inf)), r"psf: got 9 pixels that are NaN or infinite"),
        (lambda: jd.ImagePSF(np.zeros((1, 3, 3))), r"psf: got stamps of sum \[0\.\]; .* positive sum"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_psf_can_be_made_inside_a_compiled_function():
    stamp = jax.jit(lambda sigma, image: jd.GaussianPSF(sigma).stamp(9) + jd.ImagePSF(image).stamp(9))
    expected = jd.GaussianPSF(1.5).stamp(9) + jd.ImagePSF(jnp.ones((1, 9, 9))).stamp(9)
    np.testing.assert_allclose(stamp(jnp.asarray(1.5), jnp.ones((1, 9, 9))), expected, rtol=1e-5)
