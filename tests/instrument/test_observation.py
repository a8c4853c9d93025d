import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import convolve2d

import jaxdeblend as jd

BANDS = ("g", "r", "i")
PSF = jd.GaussianPSF(1.5)


def pixels(shape=(3, 8, 10), seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def observe(images=None, variance=None, psf=PSF, bands=BANDS, **options):
    images = pixels() if images is None else images
    return jd.Observation(images, np.ones(len(bands)) if variance is None else variance, psf, bands=bands, **options)


def arrays(obs):
    return np.asarray(obs.images), np.asarray(obs.weights)


prepared = eqx.filter_jit(lambda obs: obs.prepared())
convolve = eqx.filter_jit(lambda obs, cube: obs.convolve(cube))
correlate = eqx.filter_jit(lambda obs, cube: obs.correlate(cube))


# --------------------------------------------------------------------------------------------------------- hygiene


def test_weights_are_one_over_the_variance():
    variance = np.random.default_rng(1).uniform(0.5, 2, (3, 8, 10))
    obs = observe(variance=variance)
    np.testing.assert_allclose(obs.weights, 1 / variance, rtol=1e-6)
    np.testing.assert_allclose(obs.images, pixels(), rtol=1e-6)
    assert obs.shape == (8, 10) and obs.bands == BANDS and obs.extent.tolist() == [8, 10]


def test_one_variance_per_band():
    np.testing.assert_allclose(observe(variance=[1.0, 2.0, 4.0]).weights[:, 3, 3], [1, 0.5, 0.25])


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("error", [0.01, [0.0, 0.01, 0.02]])
def test_errors_of_the_psf_are_part_of_the_noise(error, on_device):
    """σ² + (ε max(I, 0))²; dark and negative pixels keep their weights."""
    images = np.random.default_rng(1).normal(0, 100, (3, 8, 10))
    variance = np.array([1.0, 2.0, 4.0])[:, None, None]
    each = np.broadcast_to(error, 3)[:, None, None]
    obs = observe(jnp.asarray(images, float) if on_device else images, variance=variance.ravel(), psf_error=error)
    expected = 1 / (variance + (each * np.maximum(images, 0)) ** 2)
    np.testing.assert_allclose(obs.weights, expected, rtol=1e-5)
    np.testing.assert_allclose(obs.psf_error, each.ravel(), rtol=1e-6)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_have_no_weight_and_no_value(value, on_device):
    images = pixels()
    images[1, 2, 3] = value
    obs = observe(jnp.asarray(images, dtype=float) if on_device else images)
    assert obs.weights[1, 2, 3] == 0 and obs.images[1, 2, 3] == 0
    assert (np.asarray(obs.weights) > 0).sum() == images.size - 1


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_bad_variance_takes_weight_and_value_away(value, on_device):
    variance = np.ones((3, 8, 10))
    variance[1, 2, 3] = value
    obs = observe(variance=jnp.asarray(variance, dtype=float) if on_device else variance)
    assert obs.weights[1, 2, 3] == 0 and obs.images[1, 2, 3] == 0
    assert (np.asarray(obs.weights) > 0).sum() == variance.size - 1


def test_a_variance_whose_inverse_overflows_takes_weight_and_value_away():
    variance = np.ones((3, 8, 10))
    variance[1, 2, 3] = np.nextafter(np.float32(0), np.float32(1))
    with jax.enable_x64(False):
        obs = observe(variance=variance)
    assert obs.weights[1, 2, 3] == 0 and obs.images[1, 2, 3] == 0


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_what_lies_under_the_mask_changes_no_bit(flat, on_device):
    mask = np.random.default_rng(2).random((8, 10) if flat else (3, 8, 10)) < 0.3
    found = []
    for image, variance in ((1.0, 1.0), (np.nan, np.nan), (1e30, 1e-30), (-np.inf, 0.0), (1e300, 1e300), (-5, -5)):
        images = np.where(mask, image, pixels())
        spread = np.where(mask, variance, 2.0) * np.ones_like(images)
        if on_device:
            with np.errstate(over="ignore"):
                images, spread, hidden = (jnp.asarray(a) for a in (images, spread, mask))
        else:
            hidden = mask
        found.append(arrays(observe(images, spread, mask=hidden)))
    for images, weights in found:
        assert images.tobytes() == found[0][0].tobytes() and weights.tobytes() == found[0][1].tobytes()
    everywhere = np.broadcast_to(mask, (3, 8, 10))
    assert not found[0][0][everywhere].any() and not found[0][1][everywhere].any()
    assert (found[0][1][~everywhere] == 0.5).all()


def test_background_rms_is_that_of_a_typical_usable_pixel():
    variance = np.ones((3, 8, 10)) * np.array([4.0, 9.0, 1.0])[:, None, None]
    mask = np.zeros((3, 8, 10), dtype=bool)
    mask[0, :4], mask[2] = True, True
    np.testing.assert_allclose(observe(variance=variance, mask=mask).background_rms, [2, 3, 0], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------ host arrays


def test_host_data_stay_on_the_host():
    obs = observe(psf=np.ones((3, 5, 5)), mask=np.zeros((8, 10), dtype=bool))
    for array in (obs.images, obs.weights, obs.extent, obs.psf.stamps):
        assert isinstance(array, np.ndarray)
    assert isinstance(observe(jnp.ones((3, 8, 10))).images, jax.Array)
    assert isinstance(observe(mask=jnp.zeros((8, 10), dtype=bool)).images, jax.Array)


def compilations(caplog, function):
    """How many programs JAX compiles in a call."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        function()
    return sum("Finished XLA compilation" in record.getMessage() for record in caplog.records)


def test_an_observation_of_a_new_shape_compiles_nothing(caplog):
    def build(height, edge):
        shape = (3, height, height + 1)
        mask = np.zeros(shape, dtype=bool)
        for psf in (np.ones((3, edge, edge)), np.ones((1, edge, edge))):
            observe(pixels(shape), np.ones(shape), psf, mask=mask)

    build(17, 5)
    assert compilations(caplog, lambda: [build(height, edge) for height, edge in ((19, 7), (23, 9), (29, 11))]) == 0
    assert compilations(caplog, lambda: jnp.ones((3, 31, 37)) * 2) > 0, "the count does not work"


def test_an_observation_can_be_made_inside_a_compiled_function():
    @jax.jit
    def weights(images, variance):
        return observe(images, variance, jnp.ones((1, 5, 5))).weights

    images = jnp.ones((3, 8, 10)).at[0, 0, 0].set(jnp.nan)
    np.testing.assert_array_equal(weights(images, jnp.ones(3)), np.isfinite(images))


# --------------------------------------------------------------------------------------------------------- optics


def test_convolve_is_the_direct_convolution_with_the_kernel():
    obs = prepared(observe(psf=jd.GaussianPSF([1.2, 1.6, 2.0])))
    cube = pixels(seed=3)
    expected = [
        convolve2d(image, np.asarray(kernel, dtype=float))[k : k + 8, k : k + 10]
        for image, kernel in zip(cube, obs.kernel.image, strict=True)
        for k in [kernel.shape[0] // 2]
    ]
    np.testing.assert_allclose(convolve(obs, jnp.asarray(cube, dtype=float)), expected, atol=1e-4)


@pytest.mark.parametrize("psf", [PSF, jd.GaussianPSF([1.2, 1.6, 2.0])], ids=["shared", "per band"])
def test_correlate_is_the_adjoint_of_convolve(psf):
    obs = observe(psf=psf)
    f, g = (jnp.asarray(pixels((2, 3, 8, 10), seed), dtype=float) for seed in (1, 2))
    left, right = jnp.sum(convolve(obs, f) * g), jnp.sum(f * correlate(obs, g))
    assert float(left) == pytest.approx(float(right), abs=1e-3)


def test_a_grey_model_is_convolved_for_every_band():
    obs = observe(psf=jd.GaussianPSF([1.2, 1.6, 2.0]))
    grey = jnp.asarray(pixels((4, 1, 8, 10)), dtype=float)
    expected = convolve(obs, jnp.broadcast_to(grey, (4, 3, 8, 10)))
    np.testing.assert_allclose(convolve(obs, grey), expected, atol=1e-5)


def test_prepared_changes_nothing_but_the_work_left():
    obs = observe()
    ready = prepared(obs)
    assert obs.transform is None and ready.prepared() is ready
    cube = jnp.asarray(pixels(), dtype=float)
    np.testing.assert_allclose(convolve(obs, cube), convolve(ready, cube), atol=1e-6)


def test_own_kernel_and_model_psf_are_used():
    point = np.zeros((3, 3, 3), np.asarray(jnp.zeros(())).dtype)
    point[:, 1, 1] = 1
    cube = jnp.asarray(pixels(), dtype=float)
    np.testing.assert_allclose(convolve(observe(kernel=jd.DifferenceKernel(point)), cube), cube, atol=1e-5)
    wide = observe(model_psf=jd.GaussianPSF(1.2))
    expected = eqx.filter_jit(jd.DifferenceKernel.between)(jd.GaussianPSF(1.2), PSF)
    np.testing.assert_allclose(prepared(wide).kernel.image, expected.image, atol=1e-6)


def test_observations_are_trees_of_arrays():
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[observe(pixels(seed=k)) for k in range(2)])
    cube = jnp.asarray(pixels(), dtype=float)
    many = eqx.filter_jit(eqx.filter_vmap(lambda obs: obs.convolve(cube)))(stack)
    np.testing.assert_allclose(many[1], convolve(observe(), cube), atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": pixels((8, 10))}, r"images: got shape \(8, 10\) for the 3 bands .*give \(band, y, x\)"),
        ({"images": pixels((2, 8, 10))}, r"images: got shape \(2, 8, 10\) for the 3 bands"),
        ({"images": pixels((3, 0, 10))}, r"images: got shape \(3, 0, 10\) .*not empty"),
        ({"variance": np.ones((3, 8, 9))}, r"variance: got shape \(3, 8, 9\) for images of shape \(3, 8, 10\)"),
        ({"variance": np.ones(2)}, r"variance: got shape \(2,\) .*one number for each of the 3 bands"),
        ({"mask": np.zeros((8, 9), dtype=bool)}, r"mask: got shape \(8, 9\) for images of shape \(3, 8, 10\)"),
        ({"mask": np.zeros((8, 10), dtype=int)}, r"mask: got dtype int64; give booleans.*Bit planes"),
        ({"psf": jd.GaussianPSF([1.0, 2.0])}, r"psf: got 2 bands for images of 3; give one PSF, or one per band"),
        ({"psf": np.ones((2, 5, 5))}, r"psf: got 2 bands for images of 3"),
        ({"psf": np.ones((3, 4, 4))}, r"psf: got stamps of even edge, shape \(3, 4, 4\)"),
        ({"psf_error": [0.1, 0.1]}, r"psf_error: got shape \(2,\) for 3 bands; give one number, or one per band"),
        ({"psf_error": -0.1}, r"psf_error: got -0.1; give fractions of the light, from 0 to 1"),
        ({"psf_error": np.nan}, r"psf_error: got nan; give fractions"),
        ({"psf": np.full((3, 5, 5), np.nan)}, r"psf: got 75 pixels that are NaN or infinite"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        observe(**options)


def test_positions_on_padding_are_not_contained():
    """The extent of a padded observation counts, and half a pixel beyond the centres of the outermost pixels."""
    obs = jd.Observation(
        np.ones((1, 8, 9)), np.ones((1, 8, 9)), jd.GaussianPSF(1.5), bands=["r"], extent=np.array([6, 5])
    )
    positions = jnp.array([[-0.5, -0.5], [-0.51, 0.0], [5.49, 4.49], [5.5, 0.0], [0.0, 4.5], [jnp.inf, 0.0]])
    assert obs.contains(positions).tolist() == [True, False, True, False, False, False]
