"""Noise planes are compared with the pixels, and can be said to be of another kind."""

import logging

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty, VarianceUncertainty
from scipy.ndimage import gaussian_filter, uniform_filter

import jaxdeblend as jd
from jaxdeblend.io.noise_check import noise_ratio, windows_to_look_at

PSF = jd.GaussianPSF(1.5)
SHAPE = (96, 96)
SIGMA = 3.0


def noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, SIGMA, shape).astype(np.float32)


def write(path, *planes):
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(np.asarray(data, np.float32), name=name) for name, data in planes)]
    fits.HDUList(hdus).writeto(path)
    return path


def warnings_of(caplog, *args, **options):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        exposure = jd.read_exposure(*args, bands=["r"], psf=PSF, **options)
    return exposure, [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("name", "value", "likely"),
    [
        ("VARIANCE", 9.0, None),
        ("ERR", 3.0, None),
        ("WHT", 1 / 9.0, None),
        ("VARIANCE", 3.0, None),  # a ratio of .58 is not far enough to say
        ("VARIANCE", 1 / 9.0, "an inverse variance"),
        ("ERR", 9.0, "a variance"),
        ("ERR", 1 / 9.0, "an inverse variance"),
        ("WHT", 9.0, "a variance"),
        ("WHT", 5000.0, "an exposure-time map or relative weights"),
        ("VARIANCE", 1e5, "of another unit"),
    ],
)
def test_planes_that_do_not_agree_with_the_pixels(tmp_path, caplog, name, value, likely):
    path = write(tmp_path / "r.fits", ("SCI", noise()), (name, np.full(SHAPE, value)))
    _, messages = warnings_of(caplog, path)
    assert len(messages) == (0 if likely is None else 1)
    if likely is not None:
        assert str(path) in messages[0] and "band r" in messages[0] and likely in messages[0]


@pytest.mark.parametrize(("factor", "warned"), [(0.45, True), (0.6, False), (1.7, False), (2.3, True)])
def test_the_limits_of_the_ratio(tmp_path, caplog, factor, warned):
    path = write(tmp_path / "r.fits", ("SCI", noise(1, (256, 256))), ("ERR", np.full((256, 256), factor * SIGMA)))
    _, messages = warnings_of(caplog, path)
    assert bool(messages) == warned


def test_correlated_noise_is_seen_as_what_it_is():
    """Differences of neighbours are a quarter of what they are in white noise."""
    smooth = gaussian_filter(noise(2, (256, 256)), 2.0)
    sigma = np.full(smooth.shape, smooth.std())
    everywhere = np.ones(smooth.shape, bool)
    assert 0.8 < noise_ratio([smooth], [sigma], [everywhere]) < 1.25
    assert np.std(np.diff(smooth)) / np.sqrt(2) < 0.5 * smooth.std()


@pytest.mark.parametrize("assumed", [0.3, 3.0])
def test_drizzled_noise_does_not_hide_a_wrong_plane(assumed):
    """Noise summed over 2 x 2 pixels, as by a drop of twice the pixel."""
    drizzled = uniform_filter(noise(2, (256, 256)), 2)
    sigma = np.full(drizzled.shape, assumed * drizzled.std())
    ratio = noise_ratio([drizzled], [sigma], [np.ones(drizzled.shape, bool)])
    assert 0.8 < ratio / assumed < 1.25


def test_a_field_without_empty_sky_raises_no_doubt():
    """Stars of FWHM 3.5 px, one for each 60 pixels."""
    rng = np.random.default_rng(6)
    stars = np.zeros((256, 256))
    np.add.at(stars, tuple(rng.integers(0, 256, (2, 1100))), 10 ** rng.uniform(1.5, 4, 1100))
    light = gaussian_filter(stars, 1.5)
    sigma = np.sqrt(SIGMA**2 + light)
    image = rng.normal(light, sigma)
    assert np.median(light) > 0.5 * SIGMA
    assert 0.5 < noise_ratio([image], [sigma], [np.ones(image.shape, bool)]) < 2


def test_sources_do_not_count():
    y, x = np.indices(SHAPE)
    galaxies = [(20.0, 30.0), (60.0, 40.0), (45.0, 80.0)]
    light = sum(300 * np.exp(-np.hypot(y - a, x - b) / 5) for a, b in galaxies)
    sigma = np.sqrt(SIGMA**2 + light)
    image = np.random.default_rng(3).normal(light, sigma)
    assert 0.7 < noise_ratio([image], [sigma], [np.ones(SHAPE, bool)]) < 1.3


def test_masked_pixels_do_not_count():
    image, usable = noise(4), np.ones(SHAPE, bool)
    usable[::2] = False
    image[~usable] = 1e4
    assert 0.8 < noise_ratio([image], [np.full(SHAPE, SIGMA)], [usable]) < 1.25


def test_images_without_noise_or_pixels_raise_no_doubt():
    everywhere = np.ones(SHAPE, bool)
    assert noise_ratio([np.zeros(SHAPE)], [np.ones(SHAPE)], [everywhere]) is None
    assert noise_ratio([noise()], [np.ones(SHAPE)], [~everywhere]) is None
    assert noise_ratio([noise()[:20, :20]], [np.ones((20, 20))], [everywhere[:20, :20]]) is None


@pytest.mark.parametrize("shape", [(100, 90), (5000, 300), (200, 4000), (4000, 4000)])
@pytest.mark.parametrize("mapped", [True, False])
def test_windows_lie_in_the_image(shape, mapped):
    for box in windows_to_look_at(shape, mapped=mapped):
        assert min(box.start) >= 0 and box.stop[0] <= shape[0] and box.stop[1] <= shape[1] and min(box.shape) > 0


@pytest.mark.parametrize(
    ("kind", "value"), [("variance", SIGMA**2), ("weight", SIGMA**-2), ("rms", SIGMA), ("exposure_time", 500.0)]
)
def test_what_is_said_counts(tmp_path, caplog, kind, value):
    """A plane of any name, a file beside the images, an array, or one number."""
    plane = np.full(SHAPE, value)
    for name in ("WHT", "ERR"):
        path = write(tmp_path / f"{name}.fits", ("SCI", noise()), (name, plane))
        exposure, messages = warnings_of(caplog, path, noise_kind=kind)
        np.testing.assert_allclose(exposure.variance, SIGMA**2, rtol=0.1)
        assert not messages
    fits.PrimaryHDU(plane).writeto(tmp_path / "plane.fits")
    for given in (tmp_path / "plane.fits", plane[None], [value]):
        exposure, messages = warnings_of(caplog, path, **{kind: given})
        np.testing.assert_allclose(exposure.variance, SIGMA**2, rtol=0.1)
        assert not messages


def test_noise_goes_with_the_root_of_the_exposure_time(tmp_path):
    time = np.full(SHAPE, 100.0)
    time[:, :48], time[5, 5] = 400.0, 0.0
    image = np.random.default_rng(5).normal(0, 60 / np.sqrt(np.maximum(time, 1)))
    path = write(tmp_path / "r.fits", ("SCI", image), ("EXP", time))
    exposure = jd.read_exposure(path, bands=["r"], psf=PSF, noise_kind="exposure_time")
    np.testing.assert_allclose(np.sqrt(exposure.variance[0, 10, [10, 60]]), [3, 6], rtol=0.05)
    assert exposure.mask.sum() == 1 and exposure.mask[0, 5, 5]


def test_a_description_says_what_planes_are(tmp_path):
    write(tmp_path / "r.fits", ("SCI", noise()), ("WHT", np.full(SHAPE, SIGMA)))
    (tmp_path / "exposure.toml").write_text('bands = ["r"]\nimages = "r.fits"\npsf_fwhm = 3.5\nnoise_kind = "rms"\n')
    np.testing.assert_allclose(jd.read_description(tmp_path / "exposure.toml").read().variance, SIGMA**2)
    fits.PrimaryHDU(np.full(SHAPE, SIGMA)).writeto(tmp_path / "rms.fits")
    (tmp_path / "exposure.toml").write_text('bands = ["r"]\nimages = "r.fits"\npsf_fwhm = 3.5\nrms = "rms.fits"\n')
    np.testing.assert_allclose(jd.read_description(tmp_path / "exposure.toml").read().variance, SIGMA**2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": [1.0], "rms": [1.0]}, "variance: got variance and rms as well; give one of them"),
        ({"noise_kind": "sigma"}, "noise_kind: got 'sigma'; give one of variance, weight, rms, exposure_time"),
        ({"noise_kind": "rms", "weight": [1.0]}, "noise_kind: got 'rms' for what is given as weight"),
        ({"noise_kind": "rms"}, "noise_kind: got 'rms', but .*r.fits has no plane of the noise"),
        ({"rms": np.ones((2, 2))}, r"rms: got shape \(2, 2\) for images of shape \(1, 96, 96\)"),
        ({"variance": [1.0] * units.uJy}, "variance: got the unit 'uJy', expected the unit 'nJy2'"),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    path = write(tmp_path / "r.fits", ("SCI", noise()))
    with pytest.raises(ValueError, match=message):
        jd.read_exposure(path, bands=["r"], psf=PSF, unit="nJy", **options)


def test_a_variance_that_is_a_quantity_is_converted(tmp_path):
    path = write(tmp_path / "r.fits", ("SCI", noise()))
    exposure = jd.read_exposure(path, bands=["r"], psf=PSF, unit="nJy", variance=[9e-6] * units.uJy**2)
    np.testing.assert_allclose(exposure.variance, 9.0, rtol=1e-6)


def test_uncertainties_of_nddata_are_compared_and_converted(caplog):
    image = noise()
    error = StdDevUncertainty(np.full(SHAPE, SIGMA / 1000), unit="uJy")
    exposure = jd.exposure_from_nddata({"r": CCDData(image, unit="nJy", uncertainty=error)}, PSF)
    np.testing.assert_allclose(exposure.variance, SIGMA**2, rtol=1e-5)
    assert not caplog.records
    jd.exposure_from_nddata({"r": NDData(image, uncertainty=VarianceUncertainty(np.full(SHAPE, 1 / 9)))}, PSF)
    assert "taken for a variance" in caplog.text and "an inverse variance" in caplog.text


def test_an_exposure_takes_what_nddata_says():
    mask = np.eye(*SHAPE, dtype=bool)
    stamp = np.asarray(PSF.stamp(15))[0]
    data = CCDData(
        noise(),
        unit="nJy",
        uncertainty=StdDevUncertainty(np.full(SHAPE, SIGMA)),
        mask=mask,
        psf=stamp,
        meta={"FILTER": "r2"},
    )
    exposure = jd.Exposure([data], bands=["r"])
    np.testing.assert_array_equal(exposure.mask[0], mask)
    np.testing.assert_allclose(exposure.variance, SIGMA**2, rtol=1e-6)
    np.testing.assert_allclose(exposure.psf.stamps[0], stamp, rtol=1e-4)
    assert exposure.unit == "nJy" and exposure.filters == ("r2",)
    given = jd.Exposure([data], [4.0], PSF, bands=["r"])
    np.testing.assert_array_equal(given.variance, np.full((1, *SHAPE), 4.0))
    with pytest.raises(ValueError, match="images: got CCDData; make an exposure of it with exposure_from_nddata"):
        jd.Observation(data, [1.0], PSF, bands=["r"])
