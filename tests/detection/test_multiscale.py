import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.signal import correlate2d

import jaxdeblend as jd
from jaxdeblend.detection import MergeOptions, detect, significance, wavelet_maps
from jaxdeblend.detection import chi2 as module
from jaxdeblend.detection.chi2 import MARGIN
from jaxdeblend.detection.multiscale import reach, spline, spline_sigma, wavelet, wavelet_scales
from jaxdeblend.ops.starlet import starlet_transform
from jaxdeblend.simulate.profiles import Profile

PSF = jd.GaussianPSF(1.5)
FRAME = (slice(MARGIN, -MARGIN),) * 2


def gaussian(center, sigma, flux, shape=(97, 97)):
    """A pixel-integrated Gaussian, in closed form."""
    profile = [
        np.diff(scipy.stats.norm.cdf(np.arange(edge + 1) - 0.5, at, sigma))
        for edge, at in zip(shape, center, strict=True)
    ]
    return flux * np.outer(*profile)


def observe(images, variance=None, mask=None, psf=PSF):
    variance = np.ones(len(images)) if variance is None else variance
    return jd.Observation(images, variance, psf, bands=tuple("ugrizy"[: len(images)]), mask=mask)


def noise(seed, shape=(1, 97, 97)):
    return np.random.default_rng(seed).normal(size=shape)


def near(found, center, limit):
    """Rows of the peaks that are near a place."""
    return np.flatnonzero(np.hypot(*(found.centers - center).T) < limit)


def dense_kernel(scale, usable, at):
    """Kernel of the wavelet of one pixel, from the definition: two weighted means of what is usable."""
    means = []
    for step in (scale, scale + 1):
        taps = np.pad(spline(step), usable.shape[0])
        rows = [taps[len(taps) // 2 - pixel :][:edge] for pixel, edge in zip(at, usable.shape, strict=True)]
        weight = np.outer(*rows) * usable
        means.append(weight / weight.sum())
    return means[0] - means[1]


# ------------------------------------------------------------------------------------------------------- the transform


@pytest.mark.parametrize("scale", [0, 1, 2, 3])
def test_splines_have_unit_sum_and_their_variance(scale):
    taps = spline(scale)
    place = np.arange(len(taps)) - len(taps) // 2
    assert taps.sum() == 1 and (taps == taps[::-1]).all()
    assert np.sum(place**2 * taps) == pytest.approx(spline_sigma(scale) ** 2)


def test_far_from_borders_it_is_the_starlet_transform():
    image = noise(1, (64, 70))
    expected = np.asarray(starlet_transform(jnp.asarray(image, jnp.float32), 3, generation=1))
    for scale in range(3):
        detail, _, coverage = wavelet(image, np.ones_like(image), scale)
        inner = (slice(reach(scale), -reach(scale)),) * 2
        np.testing.assert_allclose(detail[inner], expected[scale][inner], atol=1e-6)
        np.testing.assert_allclose(coverage[inner], 1.0)


def test_values_and_noise_are_those_of_the_kernel_of_each_pixel():
    rng = np.random.default_rng(2)
    image, variance = rng.normal(size=(24, 30)), rng.uniform(0.5, 3.0, (24, 30))
    usable = rng.random(image.shape) > 0.3
    usable[10:16, 12:20] = False
    detail, deviation, _ = wavelet(np.where(usable, image, 0), usable / variance, 2)
    for at in ((0, 0), (12, 15), (9, 29), (20, 3)):
        kernel = dense_kernel(2, usable, at)
        assert detail[at] == pytest.approx(np.sum(kernel * image), rel=1e-9)
        assert deviation[at] == pytest.approx(np.sqrt(np.sum(kernel**2 * variance)), rel=1e-9)


def test_a_constant_sky_has_no_wavelets_whatever_is_masked():
    usable = np.random.default_rng(3).random((50, 50)) > 0.4
    usable[:, 20:24] = False
    for scale in range(4):
        detail = wavelet(np.where(usable, 1e6, 0.0), usable.astype(float), scale)[0]
        np.testing.assert_allclose(detail, 0, atol=1e-6)


def test_one_usable_pixel_tells_nothing():
    weight = np.zeros((9, 9))
    weight[4, 4] = 1.0
    detail, deviation, _ = wavelet(100 * weight, weight, 0)
    assert not detail.any() and not deviation.any()


@pytest.mark.parametrize("scale", [0, 1, 2, 3])
def test_noise_has_unit_variance_at_each_scale(scale):
    edge = 320
    rms = np.linspace(0.5, 4.0, edge) * np.where(np.arange(edge) < 150, 1, 3)[:, None]
    usable = np.random.default_rng(scale).random((edge, edge)) > 0.1
    usable[100:108] = False
    detail, deviation, _ = wavelet(np.where(usable, rms * noise(scale, (edge, edge)), 0), usable / rms**2, scale)
    known = deviation > 0
    assert np.mean(known) > 0.95 or scale == 0
    ratio = np.divide(detail, deviation, out=np.zeros_like(detail), where=known)
    # Independent numbers: the pixels, divided by the sum of the squared autocorrelation.
    kernel = np.outer(*[np.pad(spline(scale), 2 * 2**scale)] * 2) - np.outer(*[spline(scale + 1)] * 2)
    rho = correlate2d(kernel, kernel) / np.sum(kernel**2) if scale < 3 else None
    correlated = np.sum(rho**2) if rho is not None else 4.0 * 12**2
    tolerance = 4 * np.sqrt(2 * correlated / edge**2)
    for rows, wider in ((slice(None), 1.0), (slice(None, 150), 1.6), (slice(150, None), 1.6)):
        assert np.mean(ratio[rows][known[rows]] ** 2) == pytest.approx(1.0, abs=wider * tolerance)


@pytest.mark.parametrize("bands", [1, 4])
def test_noise_is_gaussian_above_its_median(bands):
    rms = np.linspace(1, 3, bands)
    maps = wavelet_maps(observe(noise(5, (bands, 400, 400)) * rms[:, None, None], rms**2), 1)
    sigma = significance(maps.chi2[FRAME], maps.n_bands[FRAME])
    for limit in (1.0, 2.0, 3.0):
        expected = scipy.stats.norm.sf(limit)
        # At this scale some ten pixels are correlated.
        assert np.mean(sigma > limit) == pytest.approx(expected, abs=4 * np.sqrt(10 * expected / 400**2))


def test_a_star_of_the_width_of_a_scale_has_its_analytic_signal_to_noise_ratio():
    image = gaussian((48, 48), 4.0, 100.0)
    kernel = dense_kernel(3, np.ones_like(image), (48, 48))
    maps = wavelet_maps(observe(np.stack([image, 2 * image]), np.array([1.0, 9.0])), 3)
    expected = np.sum(kernel * image) ** 2 / np.sum(kernel**2) * (1 + 4 / 9)
    assert maps.chi2[FRAME][48, 48] == maps.chi2.max() == pytest.approx(expected, rel=1e-5)


def test_tiles_join_without_a_seam(monkeypatch):
    obs = observe(noise(0, (2, 50, 60)), np.random.default_rng(1).uniform(0.2, 2, (2, 50, 60)))
    whole = wavelet_maps(obs, 2)
    monkeypatch.setattr(module, "TILE", 16)
    parts = wavelet_maps(obs, 2)
    for name in ("chi2", "n_bands", "coverage"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-9, atol=1e-9)


def test_a_huge_pixel_changes_nothing_beyond_the_reach_of_the_wavelet():
    images = noise(0, (1, 80, 80))
    quiet = wavelet_maps(observe(images), 2)
    images[0, 20, 20] = 1e9
    loud = wavelet_maps(observe(images), 2)
    far = (slice(20 + reach(2) + 1 + MARGIN, None),)
    np.testing.assert_array_equal(quiet.chi2[far], loud.chi2[far])


# ------------------------------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("bands", [1, 5])
def test_noise_has_no_peaks_at_five_sigma(bands):
    usable = np.random.default_rng(9).random((bands, 300, 300)) > 0.02
    rms = np.linspace(1, 3, 300)
    found = detect(observe(rms * noise(bands, usable.shape), rms**2 + 0 * usable, ~usable), method="starlet")
    assert len(found.peaks) == 0 and found.peaks.colnames[-1] == "scale"


def test_noise_has_the_expected_number_of_peaks():
    edge, threshold = 500, 3.5
    obs = observe(noise(11, (1, edge, edge)))
    scales = np.asarray(detect(obs, method="starlet", threshold=threshold).peaks["scale"])
    # Mean Euler number of the excursions of a smooth Gaussian field (Adler 1981), from the curvatures of the noise.
    for scale in (1, 2):
        curvature = wavelet_maps(obs, scale).noise_curvatures[0]
        expected = edge**2 * curvature * threshold * np.exp(-(threshold**2) / 2) / (2 * np.pi) ** 1.5
        # Those that the finer scales have seen are not counted again.
        assert np.sum(np.isclose(scales, spline_sigma(scale + 1))) < expected + 3 * np.sqrt(expected)


@pytest.mark.parametrize("flux", [60.0, 1e3, 1e6])
def test_a_star_is_one_peak(flux):
    found = detect(observe(gaussian((48.3, 47.6), 1.5, flux)[None] + noise(1)), method="starlet")
    assert len(found.peaks) == 1 and found.peaks["scale"][0] == 0
    assert np.abs(found.centers - (48.3, 47.6)).max() < 4 * found.peaks["error"][0]


def galaxy(center, radius, flux, index=1.0, axis_ratio=0.6, shape=(161, 161)):
    """A Sérsic galaxy through the PSF, in Fourier space."""
    y, x = (np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    seeing = np.exp(-2 * (np.pi * 1.5) ** 2 * (y**2 + x**2))
    profile = Profile(radius, index, axis_ratio, 0.4)
    return flux * np.fft.irfft2(profile.transform(np.array(center), shape) * seeing, s=shape)


@pytest.mark.parametrize(("flux", "index"), [(3e3, 1.0), (1e5, 1.0), (1e6, 4.0)])
def test_a_large_galaxy_is_one_peak(flux, index):
    image = galaxy((80.2, 79.7), 12.0, flux, index)[None]
    found = detect(observe(image + noise(2, image.shape)), method="starlet")
    assert len(found.peaks) == 1 and len(near(found, (80.2, 79.7), 2.0)) == 1


def test_a_faint_star_on_a_bright_halo_is_found():
    bright = galaxy((80, 80), 10.0, 1e6, 4.0, 1.0)
    variance = bright + 25.0
    place = (80.0, 99.0)
    star = gaussian(place, 1.5, 1.0, variance.shape)
    star *= 12 / np.sqrt(np.sum(star**2 / variance))
    n_found = 0
    for seed in range(5):
        images = (bright + star + np.sqrt(variance) * noise(seed, variance.shape))[None]
        found = detect(observe(images, variance[None]), method="starlet")
        n_found += len(near(found, place, 2.0))
        assert len(near(found, (80, 80), 2.0)) == 1
    assert n_found >= 4


def smudge_of(ratio, sigma=6.0, center=(48.0, 45.0)):
    """A faint, wide source of a S/N in a perfect filter, in noise of 1."""
    image = gaussian(center, sigma, 1.0)
    return ratio * image / np.sqrt(np.sum(image**2))


def test_a_faint_extended_source_is_found_that_the_filter_of_the_psf_misses():
    n_found = {"chi2": 0, "starlet": 0}
    for seed in range(8):
        obs = observe((smudge_of(7.5) + noise(seed, (97, 97)))[None])
        for method in n_found:
            n_found[method] += len(near(detect(obs, method=method), (48, 45), 5.0))
    assert n_found["chi2"] <= 4 and n_found["starlet"] >= 7


def test_an_extended_source_is_placed_at_the_scale_that_finds_it():
    center = (48.3, 44.8)
    found = detect(observe(smudge_of(9.0, center=center)[None]), method="starlet")
    assert len(found.peaks) == 1 and found.peaks["scale"][0] == pytest.approx(spline_sigma(4))
    np.testing.assert_allclose(found.centers[0], center, atol=0.1)
    row = found.footprints[0]
    assert found.labels[48, 45] == 1 and row.peaks.tolist() == [0] and row.area > 30
    expected = np.sqrt(wavelet_maps(observe(smudge_of(9.0, center=center)[None]), 3).chi2.max())
    assert found.peaks["significance"][0] == pytest.approx(expected)


def test_a_faint_extended_source_is_found_beside_a_bright_one():
    star = gaussian((48.0, 20.0), 1.5, 1e5)
    obs = observe((star + smudge_of(12.0, center=(48.0, 60.0)) + noise(4, (97, 97)))[None])
    found = detect(obs, method="starlet")
    assert len(found.peaks) == 2 and len(near(found, (48.0, 60.0), 4.0)) == 1


def test_what_the_filter_of_the_psf_finds_stays_as_it_is():
    image = gaussian((30, 30), 1.5, 500.0) + gaussian((30, 36), 1.5, 400.0) + smudge_of(8.0, center=(66.0, 60.0))
    obs = observe((image + noise(3, (97, 97)))[None])
    fine, more = detect(obs), detect(obs, method="starlet")
    first = more.peaks[np.asarray(more.peaks["scale"]) == 0]
    assert len(more.peaks) > len(fine.peaks) == len(first)
    for name in ("y", "x", "significance", "error"):
        np.testing.assert_array_equal(first[name], fine.peaks[name])
    none = detect(obs, method="starlet", scales=0)
    np.testing.assert_array_equal(none.labels, fine.labels)
    assert (none.peaks["footprint"] == fine.peaks["footprint"]).all()


def test_the_table_and_the_footprints_agree():
    image = gaussian((30, 30), 1.5, 500.0) + smudge_of(12.0, center=(66.0, 60.0)) + noise(3, (97, 97))
    found = detect(observe(image[None]), method="starlet")
    assert found.peaks["id"].tolist() == list(range(len(found.peaks))) and found.labels.max() == len(found.footprints)
    assert (np.diff(found.peaks["significance"]) <= 0).all() and (found.peaks["error"] > 0).all()
    for k, footprint in enumerate(found.footprints):
        assert len(footprint.peaks) and (found.peaks["footprint"][footprint.peaks] == k).all()
        np.testing.assert_array_equal(footprint.mask, found.labels[footprint.box.slices] == k + 1)


# --------------------------------------------------------------------------------------------------- masks and borders


@pytest.mark.parametrize("value", [np.nan, 1e9, -1e9])
def test_masked_hot_pixels_are_not_seen(value):
    images = noise(0, (2, 97, 97))
    mask = np.zeros((97, 97), bool)
    mask[30, 40], mask[60:62, 10:90] = True, True
    found = detect(observe(np.where(mask, value, images), mask=mask), method="starlet")
    assert len(found.peaks) == 0


def test_a_band_without_data_is_as_if_it_were_not_there():
    images = np.stack([smudge_of(9.0)] * 3) + noise(1, (3, 97, 97))
    variance = np.ones_like(images)
    variance[1] = np.inf
    found = detect(observe(images, variance), method="starlet")
    expected = detect(observe(images[[0, 2]], variance[[0, 2]]), method="starlet")
    assert len(found.peaks) >= 1
    assert all((found.peaks[name] == expected.peaks[name]).all() for name in found.peaks.colnames)


def test_no_data_at_all():
    found = detect(observe(np.ones((2, 40, 40)), np.full((2, 40, 40), np.nan)), method="starlet")
    assert len(found.peaks) == 0 and not found.labels.any()


@pytest.mark.parametrize("center", [(0.0, 40.3), (95.8, 96.1), (40.2, -0.4)])
def test_sources_at_the_border_are_one(center):
    found = detect(observe(gaussian(center, 1.5, 3000.0)[None] + noise(6)), method="starlet")
    assert len(found.peaks) == 1 and len(near(found, center, 1.0)) == 1


def test_light_from_beyond_the_border_is_no_new_source():
    found = detect(observe(gaussian((-12.0, 50.0), 5.0, 1e5)[None] + noise(7)), method="starlet")
    wide = found.centers[np.asarray(found.peaks["scale"]) > 0]
    assert len(wide) == 0


def test_images_smaller_than_a_wavelet():
    obs = observe(gaussian((5, 6), 1.5, 300.0, (11, 13))[None])
    assert list(wavelet_scales(obs, 3)) == [1]
    assert len(detect(obs, method="starlet").peaks) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"method": "starlet", "scales": -1}, "scales: got -1; give a whole number"),
        ({"scales": 2}, "scales: got 2 for method 'chi2', which has none"),
        ({"method": "starlet", "merge": MergeOptions()}, "merge: got options for method 'starlet'"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        detect(observe(np.zeros((1, 48, 48))), **option)
