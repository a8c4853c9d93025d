"""PSFs that vary over the image, against analytic ones, SciPy and GalSim."""

import galsim
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate

import jaxdeblend as jd
from jaxdeblend.instrument.psf_field import (
    ConstantPSFField,
    FunctionPSFField,
    GridPSFField,
    PolynomialPSFField,
    ShiftedPSFField,
    as_field,
)

POSITIONS = np.array([[0.0, 0.0], [17.3, 90.1], [55.5, 42.0], [99.0, 3.25]])


def gaussians(sigmas, edge=15):
    return np.asarray(jd.GaussianPSF(np.ravel(sigmas)).stamp(edge)).reshape(*np.shape(sigmas), edge, edge)


def drawn(sigma, edge, scale=1.0):
    """A Gaussian, integrated over the pixels of the image, at samples a fraction of a pixel apart."""
    profile = galsim.Convolve(galsim.Gaussian(sigma=sigma), galsim.Pixel(1))
    stamp = profile.drawImage(nx=edge, ny=edge, scale=scale, method="no_pixel", dtype=float).array
    return stamp / stamp.sum()


def test_a_constant_field_is_its_psf():
    psf = jd.MoffatPSF([3.0, 4.0])
    field = as_field(psf)
    assert isinstance(field, ConstantPSFField) and field.psf is psf and as_field(field) is field
    np.testing.assert_array_equal(field.stamps(POSITIONS), [psf.stamp(psf.edge)] * 4)
    assert as_field(gaussians(1.5)).n_bands == 1


def test_a_grid_is_interpolated_as_scipy_does():
    y, x = np.array([10.0, 40.0, 90.0]), np.array([0.0, 60.0])
    sigmas = np.random.default_rng(1).uniform(1.0, 2.0, (3, 2, 2))
    stamps = gaussians(sigmas)
    inside = np.array([[10.0, 0.0], [40.0, 60.0], [63.1, 17.9], [12.0, 59.0]])
    expected = scipy.interpolate.RegularGridInterpolator((y, x), stamps)(inside)
    field = GridPSFField(7 * stamps, y, x)
    np.testing.assert_allclose(field.stamps(inside), expected, atol=1e-6)
    assert field.edge == 15 and field.n_bands == 2


def test_beyond_a_grid_the_psf_stays():
    field = GridPSFField(gaussians([[[1.0], [1.5]], [[1.2], [2.0]]]), [0.0, 50.0], [0.0, 50.0])
    for outside, border in (((-30, 20), (0, 20)), ((80, 999), (50, 50)), ((20, -1), (20, 0))):
        np.testing.assert_allclose(field.at(outside).stamps, field.at(border).stamps, atol=1e-6)


def test_a_grid_of_one_position_is_constant():
    field = GridPSFField(gaussians([[[1.3, 1.6]]]), [5.0], [9.0])
    np.testing.assert_allclose(field.stamps(POSITIONS), [gaussians([1.3, 1.6])] * 4, atol=1e-6)


def test_polynomials_are_added_up_with_the_power_of_x_fastest():
    rng = np.random.default_rng(3)
    coefficients = rng.normal(size=(1, 6, 5, 5))
    with jax.enable_x64(True):
        field = PolynomialPSFField(coefficients, zero_point=(50, 60), scale=(40, 80))
        models = field.models(POSITIONS)
    v, u = (POSITIONS - [50, 60]).T / [[40], [80]]
    weights = np.stack([np.ones(4), u, u**2, v, v * u, v**2], axis=1)
    np.testing.assert_allclose(models[:, 0], np.tensordot(weights, coefficients[0], 1), rtol=1e-10)


@pytest.mark.parametrize(("sampling", "samples"), [(0.7, 41), (0.5, 51), (1.25, 25), (1.0, 27)])
def test_samples_become_pixels(sampling, samples):
    """GalSim's samples of an analytic profile, resampled, are its samples at the pixels."""
    field = PolynomialPSFField(drawn(1.6, samples, sampling)[None, None], sampling=sampling)
    found = field.stamps(POSITIONS[:1])[0, 0]
    assert field.edge == 2 * int(samples // 2 * sampling + 1e-6) + 1
    expected = drawn(1.6, field.edge)
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())


def test_bands_may_be_sampled_differently():
    coefficients = np.stack([drawn(1.6, 31, 0.5), drawn(1.6, 31, 0.9)])[:, None]
    field = PolynomialPSFField(coefficients, sampling=[0.5, 0.9])
    assert field.edge == 27
    expected = drawn(1.6, 27)
    np.testing.assert_allclose(field.stamps(POSITIONS[:1])[0], [expected, expected], atol=4e-3 * expected.max())
    cut = PolynomialPSFField(coefficients, sampling=[0.5, 0.9], edge=15)
    expected = drawn(1.6, 15)
    np.testing.assert_allclose(cut.stamps(POSITIONS[:1])[0], [expected, expected], atol=4e-3 * expected.max())


def test_a_function_is_called_with_y_and_x():
    def width(y, x):
        return [1.0 + y / 100, 1.0 + x / 100]

    def on_host(y, x):
        assert type(y) is type(x) is float
        return gaussians(width(y, x))

    field = FunctionPSFField(on_host, 15, 2)
    expected = gaussians([width(y, x) for y, x in POSITIONS])
    np.testing.assert_allclose(field.stamps(POSITIONS), expected, atol=1e-6)
    traced = FunctionPSFField(lambda y, x: jd.GaussianPSF(jnp.stack([1 + y / 100, 1 + x / 100])).stamp(15), 15, 2)
    np.testing.assert_allclose(jax.jit(traced.stamps)(jnp.asarray(POSITIONS, dtype=float)), expected, atol=1e-6)


def test_no_positions_give_no_stamps():
    for field in (as_field(gaussians(1.5)), FunctionPSFField(lambda *_: gaussians([1.5]), 15, 1)):
        assert field.stamps(np.zeros((0, 2))).shape == (0, 1, 15, 15)


ONES = np.ones((2, 2, 1, 5, 5))
COEFFICIENTS = np.ones((2, 3, 5, 5))
NAN = np.full((1, 3, 5, 5), np.nan)
BAD = [
    (lambda: GridPSFField(ONES, [0, 1, 2], [0, 1]), r"stamps: got shape \(2, 2, 1, 5, 5\) for a grid of 3 x 2"),
    (lambda: GridPSFField(ONES[0], [0, 1], [0, 1]), r"stamps: got shape \(2, 1, 5, 5\)"),
    (lambda: GridPSFField(ONES[..., :4], [0, 1], [0, 1]), "psf: got stamps of even edge"),
    (lambda: GridPSFField(ONES * np.nan, [0, 1], [0, 1]), "psf: got 100 pixels that are NaN"),
    (lambda: GridPSFField(ONES, [1, 0], [0, 1]), "y: got .* positions of the grid must be finite and ascend"),
    (lambda: GridPSFField(ONES, [0, 1], [0, np.nan]), "x: got .* must be finite and ascend"),
    (lambda: GridPSFField(ONES, [[0, 1]], [0, 1]), r"y: got shape \(1, 2\); give the positions of the grid"),
    (lambda: PolynomialPSFField(COEFFICIENTS[0]), r"coefficients: got shape \(3, 5, 5\); give images"),
    (lambda: PolynomialPSFField(COEFFICIENTS[..., :4, :4]), "coefficients: got shape .* odd edge"),
    (lambda: PolynomialPSFField(COEFFICIENTS[:, :2]), "coefficients: got 2 terms; give"),
    (lambda: PolynomialPSFField(NAN), "coefficients: got values that are NaN"),
    (lambda: PolynomialPSFField(COEFFICIENTS, scale=(1, 0)), r"scale: got \(1, 0\); give finite positive numbers"),
    (lambda: PolynomialPSFField(COEFFICIENTS, zero_point=np.zeros(3)), r"zero_point: got shape \(3,\); give shape"),
    (lambda: PolynomialPSFField(COEFFICIENTS, sampling=[1, -1]), "sampling: got .* finite positive numbers"),
    (lambda: PolynomialPSFField(COEFFICIENTS, edge=8), "edge: got 8; a PSF stamp needs an odd edge"),
    (lambda: FunctionPSFField(lambda *_: ONES[0, 0], 4, 1), "edge: got 4; a PSF stamp needs an odd edge"),
    (lambda: FunctionPSFField(lambda *_: ONES[0, 0], 7, 1).at((0, 0)), r"function: got stamps of shape \(1, 5, 5\)"),
    (lambda: FunctionPSFField(lambda *_: 0 * ONES[0, 0], 5, 1).at((0, 0)), "psf: got stamps of sum"),
    (lambda: ConstantPSFField(np.ones((4, 4))), "psf: got stamps of even edge"),
    (lambda: ShiftedPSFField(as_field(ONES[0, 0]), 3), r"start: got shape \(\); give the first pixel"),
    (lambda: as_field(ONES[0, 0]).at([[1, 2]]), r"position: got shape \(1, 2\); give one position"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
