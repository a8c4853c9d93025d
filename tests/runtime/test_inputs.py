"""Masks and units that come with arrays are used; complex numbers are refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units
from astropy.utils.masked import Masked

import jaxdeblend as jd
from jaxdeblend.detection import detection_of_labels
from jaxdeblend.runtime.inputs import plain_mask, plain_numbers

SHAPE = (1, 8, 8)
PSF = jd.GaussianPSF(1.5)
IMAGE = np.arange(64.0).reshape(SHAPE)
HIDDEN = np.indices(SHAPE)[1] < 3
"""Three rows are masked: 24 pixels."""


def masked(values, kind):
    if kind == "numpy":
        return np.ma.array(values, mask=HIDDEN)
    if kind == "list":
        return [np.ma.array(values[0], mask=HIDDEN[0])]
    if kind == "quantity":
        return Masked(values * units.nJy, mask=HIDDEN)
    return Masked(values, mask=HIDDEN)


def observe(images, variance, **options):
    return jd.Observation(images, variance, PSF, bands=["r"], **options)


def expose(images, variance, **options):
    return jd.Exposure(images, variance, PSF, bands=["r"], **options)


@pytest.mark.parametrize("kind", ["numpy", "list", "astropy"])
@pytest.mark.parametrize("which", ["images", "variance", "mask"])
def test_masked_pixels_are_unusable(kind, which):
    given = {"images": IMAGE, "variance": np.ones(SHAPE), "mask": np.zeros(SHAPE, bool)}
    given[which] = masked(given[which], kind)
    weights = np.asarray(observe(**given).weights)
    np.testing.assert_array_equal(weights, np.where(HIDDEN, 0, 1))
    np.testing.assert_array_equal(expose(**given).mask, HIDDEN)


def test_a_single_band_respects_masks():
    image = np.ma.array(IMAGE[0], mask=HIDDEN[0])
    seen = jd.deblend_single_band(image, np.ones(SHAPE[1:]), PSF, [(5.0, 4.0)])
    told = jd.deblend_single_band(IMAGE[0], np.ones(SHAPE[1:]), PSF, [(5.0, 4.0)], mask=HIDDEN[0])
    np.testing.assert_array_equal(seen.templates, told.templates)


@pytest.mark.parametrize("make", [observe, expose])
def test_the_variance_is_converted_to_the_unit_of_the_images(make):
    made = make(np.zeros(SHAPE) * units.nJy, np.ones(SHAPE) * units.uJy**2)
    assert made.unit == "nJy"
    variance = made.variance if make is expose else 1 / np.asarray(made.weights)
    np.testing.assert_allclose(variance, 1e6, rtol=1e-6)


def test_quantities_in_a_list_and_with_masks():
    images = [np.ones(SHAPE[1:]) * units.nJy, np.ones(SHAPE[1:]) * units.uJy]
    both = jd.Observation(images, [1.0 * units.nJy**2, 2.0 * units.uJy**2], PSF, bands=["g", "r"])
    np.testing.assert_allclose(both.images[:, 0, 0], [1, 1000])
    np.testing.assert_allclose(1 / np.asarray(both.weights[:, 0, 0]), [1, 2e6], rtol=1e-6)
    one = observe(masked(IMAGE, "quantity"), [1.0])
    assert one.unit == "nJy" and int((np.asarray(one.weights) == 0).sum()) == 24


def test_an_exposure_converts_images_to_the_unit_that_is_wanted():
    made = expose(np.ones(SHAPE) * units.uJy, np.ones(SHAPE) * units.uJy**2, unit="nJy")
    assert made.unit == "nJy"
    np.testing.assert_allclose([made.images[0, 0, 0], made.variance[0, 0, 0]], [1e3, 1e6])
    with pytest.raises(ValueError, match="unit: got 'bananas', to which no quantity can be converted"):
        expose(np.ones(SHAPE) * units.uJy, [1.0], unit="bananas")


@pytest.mark.parametrize("make", [observe, expose])
@pytest.mark.parametrize(
    ("images", "variance", "message"),
    [
        (units.nJy, units.adu**2, "variance: got the unit 'adu2' for images of the unit 'nJy'"),
        (units.nJy, units.nJy, "variance: got the unit 'nJy' for images of the unit 'nJy'"),
        (1, units.nJy**2, "variance: got the unit 'nJy2' for images of no unit"),
    ],
)
def test_units_that_do_not_belong_together_are_refused(make, images, variance, message):
    with pytest.raises(ValueError, match=message):
        make(np.ones(SHAPE) * images, np.ones(SHAPE) * variance)


def test_images_of_different_kinds_are_refused():
    with pytest.raises(ValueError, match="images: got the unit 'adu', expected the unit 'nJy'"):
        jd.Observation([IMAGE[0] * units.nJy, IMAGE[0] * units.adu], [1.0, 1.0], PSF, bands=["g", "r"])


def test_tables_have_the_unit_of_the_images():
    obs = observe(np.ones(SHAPE) * units.nJy, np.ones(SHAPE) * units.nJy**2)
    blend = jd.Blend.of([jd.PointSource((4, 4), jnp.array([30.0]))], frame=SHAPE[1:])
    table = jd.measure(blend, obs)
    assert table["flux_r"].unit == units.nJy and table["flux_err_r"].unit == units.nJy


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray, list])
@pytest.mark.parametrize("name", ["images", "variance"])
def test_complex_numbers_are_refused(array, name):
    given = {"images": IMAGE, "variance": np.ones(SHAPE)}
    given[name] = array(given[name].astype(np.complex64))
    for make in (observe, expose):
        with pytest.raises(ValueError, match=f"{name}: got complex numbers .complex64.; give real ones"):
            make(**given)
    if name == "images":
        with pytest.raises(ValueError, match="image: got complex numbers"):
            jd.deblend_single_band(given[name][0], 1.0, PSF, [(5.0, 4.0)])
        with pytest.raises(ValueError, match="stamps: got complex numbers"):
            jd.ImagePSF(given[name])


def test_masked_stamps_are_refused():
    with pytest.raises(ValueError, match="finite|NaN"):
        jd.ImagePSF(np.ma.array(np.ones((1, 5, 5)), mask=np.eye(5, dtype=bool)[None]))


def test_labels_that_are_masked_belong_to_no_source():
    obs = observe(IMAGE, [1.0])
    labels = np.ma.array(np.ones(SHAPE[1:], int), mask=HIDDEN[0])
    found = detection_of_labels(obs, labels)
    assert int((found.labels > 0).sum()) == 40


@pytest.mark.parametrize("values", [[1, 2], (1.0, 2.0), np.array([1, 2]), range(1, 3)])
def test_plain_numbers_stay_what_they_are(values):
    assert plain_numbers(values).tolist() == [1, 2]


def test_masks_of_masks():
    assert plain_mask(Masked(np.array([False, True]), mask=[True, False])).tolist() == [True, True]
    assert plain_mask([False, True]).tolist() == [False, True]
