import numpy as np
import pytest
import scipy.ndimage
from photutils.segmentation import detect_sources

import jaxdeblend as jd
from jaxdeblend.detection import PeakLimits, detect_bands
from jaxdeblend.detection.bands import TOGETHER, detect_together
from tests.detection.test_detection import SIGMA, check_consistent, noise, observe, stars

CENTERS = [(12.0, 14.0), (30.4, 33.3), (33.0, 12.0)]


@pytest.fixture(scope="module")
def field():
    fluxes = [[400.0, 150.0, 0.0], [200.0, 0.0, 300.0], [0.0, 0.0, 500.0]]
    return stars(CENTERS, fluxes) + noise(2, (3, 48, 48))


def test_each_band_is_as_if_it_were_alone(field):
    psf = jd.GaussianPSF([1.3, 1.5, 1.8])
    found = detect_bands(jd.Observation(field, [1.0, 2.0, 1.0], psf, bands=("g", "r", "i")))
    assert [one.band for one in found] == ["g", "r", "i"]
    for k, one in enumerate(found):
        band = jd.GaussianPSF([1.3, 1.5, 1.8][k])
        alone = jd.detect(jd.Observation(field[k : k + 1], [[1.0, 2.0, 1.0][k]], band, bands=(one.band,)))
        check_consistent(one.detection, (48, 48))
        np.testing.assert_allclose(one.detection.centers, alone.centers, atol=1e-9)
        np.testing.assert_array_equal(one.detection.labels, alone.labels)
        assert one.fwhm == pytest.approx(float(band.fwhm()[0]))
    assert [len(one.detection.peaks) for one in found] == [2, 1, 2]


def test_the_map_is_the_smoothed_image_over_its_propagated_noise(field):
    variance = np.random.default_rng(0).uniform(0.5, 2.0, field.shape)
    (one, *_) = detect_bands(observe(field, variance))
    kernel = np.asarray(jd.GaussianPSF(SIGMA).stamp(jd.GaussianPSF(SIGMA).edge)[0], float)
    weight = 1 / variance[0]
    smoothed = scipy.ndimage.correlate(weight * field[0], kernel, mode="constant")
    spread = np.sqrt(scipy.ndimage.correlate(weight, kernel**2, mode="constant"))
    np.testing.assert_allclose(one.snr, np.maximum(smoothed / spread, 0), atol=1e-4)


def test_footprints_are_the_regions_of_photutils(field):
    limits = PeakLimits(threshold=5.0, footprint_threshold=5.0, min_area=5)
    for one in detect_bands(observe(field), limits=limits, grow=0):
        theirs = detect_sources(one.snr, 5.0, n_pixels=5, connectivity=8)
        np.testing.assert_array_equal(one.detection.labels, theirs.data)


def test_footprints_grow_with_the_width_of_the_psf(field):
    obs = jd.Observation(field, [1.0, 1.0, 1.0], jd.GaussianPSF([1.5, 1.5, 2.5]), bands=("g", "r", "i"))
    bare = detect_bands(obs, grow=0)
    grown = detect_bands(obs, growth=2.4)
    for small, large, radius in zip(bare, grown, (4, 4, 6), strict=True):
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        expected = scipy.ndimage.binary_dilation(small.detection.labels > 0, y**2 + x**2 <= radius**2)
        np.testing.assert_array_equal(large.detection.labels > 0, expected)


def test_nothing_is_known_where_a_band_has_no_data(field):
    mask = np.zeros(field.shape, bool)
    mask[0, :, 24:], mask[1] = True, True
    green, red, _ = detect_bands(observe(np.where(mask, np.nan, field), mask=mask))
    assert green.known[:, :24].all() and not green.known[:, 30:].any()
    assert not red.known.any() and not red.snr.any() and len(red.detection.peaks) == 0


def test_together_they_see_what_each_misses():
    obs = observe(stars([(24, 24)], [[22.0] * 4]))
    one = detect_together(obs)
    assert one.band == TOGETHER and len(one.detection.peaks) == 1 and not one.snr.any() and not one.known.any()
    assert [len(band.detection.peaks) for band in detect_bands(obs)] == [0] * 4


def test_bad_growth():
    with pytest.raises(ValueError, match="growth: got -1.0; give a multiple"):
        detect_bands(observe(np.zeros((1, 16, 16))), growth=-1.0)
    with pytest.raises(ValueError, match="grow: got -1; give a whole number of pixels"):
        detect_bands(observe(np.zeros((1, 16, 16))), grow=-1)
