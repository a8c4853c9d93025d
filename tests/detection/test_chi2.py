import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

import jaxdeblend as jd
from jaxdeblend.detection import chi2 as module
from jaxdeblend.detection.chi2 import MARGIN, matched_filter, significance, significance_maps

FRAME = (slice(MARGIN, -MARGIN),) * 2


def arrays(maps):
    return maps.chi2, maps.curvature, maps.n_bands, maps.coverage


def observation(images, variance, sigma=1.5, mask=None):
    bands = "ugrizy"[: len(images)]
    return jd.Observation(images, variance, jd.GaussianPSF(sigma), bands=tuple(bands), mask=mask)


@pytest.mark.parametrize(("shape", "edge"), [((20, 17), 7), ((9, 12), 25), ((1, 30), 9)])
def test_matched_filter_is_the_weighted_least_squares_flux(shape, edge):
    rng = np.random.default_rng(1)
    image, weight = rng.normal(size=shape), rng.uniform(0, 2, shape) * (rng.random(shape) > 0.2)
    psf = rng.uniform(0, 1, (edge, edge))
    flux, information = matched_filter(image, weight, psf)
    half = edge // 2
    padded = (np.pad(weight * image, half), np.pad(weight, half))
    np.testing.assert_allclose(information, correlate2d(padded[1], psf**2, "valid"), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        flux,
        correlate2d(padded[0], psf, "valid") / correlate2d(padded[1], psf**2, "valid"),
        rtol=1e-7,
        atol=1e-9,
    )


def test_matched_filter_knows_nothing_without_weights():
    flux, information = matched_filter(np.ones((8, 8)), np.zeros((8, 8)), np.ones((3, 3)))
    assert not flux.any() and not information.any()


def test_matched_filter_knows_nothing_beyond_the_reach_of_the_psf():
    weight = np.zeros((5, 40))
    weight[:, :10] = 3.0
    flux, information = matched_filter(np.ones((5, 40)), weight, np.ones((5, 5)))
    assert (information[:, :12] > 0).all() and not information[:, 12:].any() and not flux[:, 12:].any()


def test_a_noiseless_star_has_its_analytic_signal_to_noise_ratio():
    fluxes, rms = np.array([100.0, 30.0, 0.0]), np.array([1.0, 2.0, 0.5])
    psf = jd.GaussianPSF([1.2, 1.5, 2.0])
    stamp = np.asarray(psf.stamp(31), dtype=float)
    obs = jd.Observation(fluxes[:, None, None] * stamp, rms**2, psf, bands=("g", "r", "i"))
    maps = significance_maps(obs)
    chi2, n_bands = maps.chi2, maps.n_bands
    expected = np.sum(fluxes**2 * np.sum(stamp**2, axis=(1, 2)) / rms**2)
    assert np.unravel_index(chi2.argmax(), chi2.shape) == (15 + MARGIN, 15 + MARGIN)
    assert chi2.max() == pytest.approx(expected, rel=1e-5)
    assert (n_bands[FRAME] == 3).all()


def tail(chi2, bands):
    """p(> χ²) from scipy's own distributions."""
    k = np.arange(1, bands + 1)
    return np.sum(scipy.stats.binom.pmf(k, bands, 0.5) * scipy.stats.chi2.sf(chi2, k))


@given(st.floats(0.1, 1000), st.integers(1, 8))
def test_significance_has_the_tail_probability_of_its_chi2(chi2, bands):
    sigma = significance(np.array([chi2]), np.array([bands]))[0]
    assert scipy.stats.norm.sf(sigma) == pytest.approx(tail(chi2, bands), rel=1e-9)


@given(st.floats(0, 1e9))
def test_for_one_band_significance_is_the_signal_to_noise_ratio(ratio):
    assert significance(np.array([ratio**2]), np.array([1]))[0] == pytest.approx(ratio, rel=1e-9, abs=1e-9)


@given(st.floats(0.0, 1e16), st.floats(1e-3, 1.0), st.integers(1, 8))
def test_significance_increases_with_chi2_and_decreases_with_bands(chi2, more, bands):
    low, high = significance(np.array([chi2, chi2 * (1 + more)]), np.full(2, bands))
    assert np.isfinite([low, high]).all() and low <= high + 1e-9
    assert significance(np.array([chi2]), np.array([bands + 1]))[0] <= low + 1e-9


def test_significance_far_in_the_tail():
    # For two bands p is elementary; ln p of a Gaussian tends to -z²/2 - ln z - ln √(2π).
    chi2 = 1e8
    half = chi2 / 2
    erfc = 1 / np.sqrt(np.pi * half)  # exp(x) erfc(√x) for large x
    terms = 2 * erfc + 1
    log_p = np.log(terms / 4) - half
    z = significance(np.array([chi2]), np.array([2]))[0]
    assert -(z**2) / 2 - np.log(z) - 0.5 * np.log(2 * np.pi) == pytest.approx(log_p, abs=1e-3)


def test_significance_without_bands_is_zero():
    assert significance(np.array([0.0, 7.0]), np.array([0, 0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_noise_is_gaussian_above_its_median(bands):
    rng = np.random.default_rng(3)
    rms = np.linspace(1, 3, bands)
    images = rng.normal(size=(bands, 400, 400)) * rms[:, None, None]
    maps = significance_maps(observation(images, rms**2))
    for squared in (maps.chi2, maps.curvature**2):
        sigma = significance(squared[FRAME], maps.n_bands[FRAME])
        for limit in (1.0, 2.0, 3.0):
            # About 400² / (4π σ²) = 5700 pixels are independent.
            expected = scipy.stats.norm.sf(limit)
            assert np.mean(sigma > limit) == pytest.approx(expected, abs=4 * np.sqrt(expected / 5700))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -5.0])
def test_values_under_the_mask_change_nothing(value):
    rng = np.random.default_rng(0)
    images, mask = rng.normal(size=(2, 40, 40)), rng.random((2, 40, 40)) > 0.8
    variance = np.ones_like(images)
    expected = significance_maps(observation(images, variance, mask=mask))
    found = significance_maps(observation(np.where(mask, value, images), np.where(mask, value, variance), mask=mask))
    for a, b in zip(arrays(expected), arrays(found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_band_without_data_is_as_if_it_were_not_there():
    images = np.random.default_rng(0).normal(size=(3, 40, 40))
    variance = np.ones_like(images)
    variance[1] = np.inf
    without = significance_maps(observation(images[[0, 2]], variance[[0, 2]]))
    for a, b in zip(arrays(significance_maps(observation(images, variance))), arrays(without), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_data_at_all():
    maps = significance_maps(observation(np.ones((2, 12, 12)), np.full((2, 12, 12), np.nan)))
    assert not maps.chi2.any() and not maps.curvature.any() and not maps.n_bands.any()


def test_a_masked_star_is_seen_by_its_wings():
    star = 1000 * np.asarray(jd.GaussianPSF(1.5).stamp(31), dtype=float)
    mask = np.zeros((31, 31), dtype=bool)
    mask[14:17, 14:17] = True
    chi2 = significance_maps(observation(star, np.ones(1), mask=mask)).chi2
    assert np.unravel_index(chi2.argmax(), chi2.shape) == (15 + MARGIN, 15 + MARGIN)
    psf = np.asarray(jd.GaussianPSF(1.5).stamp(31))[0]
    assert chi2.max() == pytest.approx(1000**2 * np.sum(psf[~mask] ** 2), rel=1e-5)


def test_a_band_counts_only_where_its_pixels_hold_information():
    mask = np.zeros((1, 60, 60), dtype=bool)
    mask[:, 20:, :] = True
    images = np.zeros((1, 60, 60))
    images[:, :20] = 100.0
    maps = significance_maps(observation(images, np.ones(1), mask=mask))
    chi2, n_bands = maps.chi2, maps.n_bands
    assert n_bands[FRAME][19].all() and n_bands[FRAME][20].all() and not n_bands[FRAME][24:].any()
    assert not chi2[FRAME][24:].any()
    np.testing.assert_allclose(maps.coverage[FRAME][6:13, 10:50], 1.0, atol=1e-3)
    np.testing.assert_allclose(
        maps.coverage[FRAME][20, 10:50], scipy.stats.norm.cdf(-0.5 * np.sqrt(2) / 1.5), atol=0.02
    )


@settings(max_examples=10)
@given(st.integers(5, 60), st.integers(5, 60))
def test_tiles_join_without_a_seam(height, width):
    images = np.random.default_rng(0).normal(size=(2, height, width))
    obs = observation(images, np.random.default_rng(1).uniform(0, 2, images.shape))
    whole = significance_maps(obs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", 16)
        parts = significance_maps(obs)
    for a, b in zip(arrays(whole), arrays(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_a_huge_pixel_leaves_no_ripples():
    images = np.random.default_rng(0).normal(size=(1, 120, 120))
    quiet = significance_maps(observation(images, np.ones(1)))
    images[0, 20, 20] = 1e9
    loud = significance_maps(observation(images, np.ones(1)))
    far = (slice(60, None), slice(60, None))
    for a, b in zip(arrays(quiet), arrays(loud), strict=True):
        np.testing.assert_allclose(a[far], b[far], rtol=1e-3, atol=1e-3)


def test_the_curvature_map_parts_two_stars_that_the_matched_filter_merges():
    psf = jd.GaussianPSF(1.5)
    stamp = np.asarray(psf.stamp(31), dtype=float)
    pair = 1000 * (np.roll(stamp, 2, axis=-1) + np.roll(stamp, -2, axis=-1))
    maps = significance_maps(observation(pair, np.ones(1)))
    chi2, curvature = maps.chi2, maps.curvature
    row, centre = 15 + MARGIN, 15 + MARGIN
    assert chi2[row].argmax() == centre
    assert curvature[row, centre - 2] > curvature[row, centre] + 4
    assert curvature[row, centre + 2] > curvature[row, centre] + 4


def test_the_maps_are_in_double_precision_whatever_the_observation_is_in():
    obs = observation(jnp.ones((1, 16, 16), dtype=jnp.float32), np.ones(1))
    maps = significance_maps(obs)
    assert maps.chi2.dtype == maps.curvature.dtype == np.float64
