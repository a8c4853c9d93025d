import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdeblend as jd
from jaxdeblend.instrument.psf_field import ConstantPSFField, GridPSFField
from jaxdeblend.io import Exposure

PSF = jd.GaussianPSF(1.5)
SHAPE = (24, 30)


def image(seed, shape):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def test_exposure_marks_everything_unusable():
    images, variance = np.ones((2, 4, 5)), np.ones((2, 4, 5))
    mask = np.zeros((4, 5), bool)
    images[0, 0, 0], images[0, 0, 1] = np.nan, np.inf
    variance[1, 1, 0], variance[1, 1, 1], variance[1, 1, 2] = 0, np.nan, np.inf
    mask[3, 4] = True
    exposure = Exposure(images, variance, PSF, bands=("g", "r"), mask=mask)
    unusable = {(int(b), int(y), int(x)) for b, y, x in zip(*np.nonzero(exposure.mask), strict=True)}
    assert unusable == {(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (1, 1, 2), (0, 3, 4), (1, 3, 4)}
    weights = np.asarray(exposure.observation().weights)
    np.testing.assert_array_equal(weights == 0, exposure.mask)


def test_exposure_is_float32_on_the_host():
    exposure = Exposure(np.ones((1, 4, 5), ">f8"), [2.0], PSF, bands=["r"])
    assert type(exposure.images) is np.ndarray and exposure.images.dtype == np.float32
    assert exposure.images.dtype.isnative and exposure.variance.shape == (1, 4, 5)
    assert exposure.shape == (4, 5) and exposure.box == jd.Box((0, 0), (4, 5))
    assert exposure.pixel_scale is None and np.isnan(exposure.zero_point).all()


@settings(max_examples=20)
@given(st.integers(0, 20), st.integers(0, 25), st.integers(1, 4), st.integers(1, 5))
def test_observation_cuts_the_box(y, x, ny, nx):
    cube = image(3, (2, *SHAPE))
    exposure = Exposure(cube, np.full(cube.shape, 4.0), PSF, bands=("g", "r"))
    obs = exposure.observation(jd.Box((y, x), (ny, nx)))
    np.testing.assert_array_equal(np.asarray(obs.images), cube[:, y : y + ny, x : x + nx])
    assert obs.bands == ("g", "r")


def test_observation_excludes_pixels_and_takes_a_kernel():
    exposure = Exposure(image(3, (1, *SHAPE)), [4.0], PSF, bands=("g",))
    exclude = np.zeros((5, 6), bool)
    exclude[1, 2] = True
    whole = exposure.observation()
    obs = exposure.observation(jd.Box((3, 4), (5, 6)), exclude=exclude, kernel=whole.kernel)
    np.testing.assert_array_equal(np.asarray(obs.weights[0] == 0), exclude)
    assert obs.kernel is whole.kernel


def varying():
    """The PSF's σ is 1 in the upper left corner and 2 in the lower right one, bilinear between stamps."""
    stamps = np.asarray(jd.GaussianPSF([1.0, 1.5, 1.5, 2.0]).stamp(17)).reshape(2, 2, 1, 17, 17)
    return stamps, GridPSFField(stamps, [0, 23], [0, 29])


def test_an_observation_has_the_psf_at_its_centre():
    stamps, field = varying()
    exposure = Exposure(image(3, (2, *SHAPE)), [4.0, 4.0], field, bands=("g", "r"))
    assert exposure.psf is field
    for box, expected in (
        (jd.Box((0, 0), (1, 1)), stamps[0, 0]),
        (jd.Box((23, 29), (1, 1)), stamps[1, 1]),
        (jd.Box((3, 0), (8, 1)), (23 - 6.5) / 23 * stamps[0, 0] + 6.5 / 23 * stamps[1, 0]),
        (None, stamps.mean(axis=(0, 1))),
    ):
        psf = exposure.observation(box).psf
        assert isinstance(psf, jd.ImagePSF) and type(psf.stamps) is np.ndarray and psf.edge == 17
        np.testing.assert_allclose(psf.stamps, expected, atol=1e-6)
        np.testing.assert_array_equal(psf.stamps, exposure.psf_at((exposure.box if box is None else box).center).stamps)


def test_a_place_is_one_position():
    exposure = Exposure(image(3, (1, *SHAPE)), [4.0], varying()[1], bands=("g",))
    with pytest.raises(ValueError, match=r"position: got shape \(1, 2\); give one position"):
        exposure.psf_at([[3, 4]])


def test_a_constant_psf_stays_the_same_object():
    exposure = Exposure(image(3, (1, *SHAPE)), [4.0], PSF, bands=("g",))
    assert exposure.psf is exposure.psf_at((3, 4)) is exposure.observation(jd.Box((1, 2), (5, 6))).psf is PSF


def test_the_widest_fwhm_is_of_all_bands_and_places():
    _, field = varying()
    for psf, expected in ((field, 2.0), (jd.GaussianPSF([1.0, 1.5]), 1.5), (ConstantPSFField(PSF), 1.5)):
        exposure = Exposure(image(3, (2, *SHAPE)), [4.0, 4.0], psf, bands=("g", "r"))
        assert exposure.widest_fwhm() == pytest.approx(expected * 2 * np.sqrt(2 * np.log(2)), rel=0.05)


@pytest.mark.parametrize("box", [jd.Box((-1, 0), (5, 5)), jd.Box((20, 0), (5, 5)), jd.Box((2, 2), (0, 3))])
def test_observation_refuses_boxes_beyond_the_exposure(box):
    exposure = Exposure(image(3, (1, *SHAPE)), [4.0], PSF, bands=("g",))
    with pytest.raises(ValueError, match="box: got .*empty or reaches beyond the exposure of shape"):
        exposure.observation(box)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.ones((4, 5))}, "images: got shape .4, 5. for the 2 bands"),
        ({"images": np.ones((3, 4, 5))}, "images: got shape"),
        ({"images": np.ones((2, 0, 5))}, "not empty"),
        ({"variance": np.ones((4, 5))}, "variance: got shape .4, 5."),
        ({"variance": [1e-40, 1.0]}, "variance: got values as small as 1e-40"),
        ({"mask": np.zeros((2, 4, 4), bool)}, "mask: got shape .2, 4, 4."),
        ({"mask": np.zeros((4, 5), int)}, "mask: got dtype int64"),
        ({"bands": ("g", "g")}, "bands: got .* a name of its own"),
        ({"psf": np.ones((3, 5, 5))}, "psf: got 3 bands"),
        ({"psf": np.ones((2, 4, 4))}, "even edge"),
        ({"psf": ConstantPSFField(np.ones((3, 5, 5)))}, "psf: got 3 bands"),
    ],
)
def test_exposure_refuses(changes, message):
    given = {"images": np.ones((2, 4, 5)), "variance": [1.0, 1.0], "psf": PSF, "bands": ("g", "r")} | changes
    with pytest.raises(ValueError, match=message):
        Exposure(given.pop("images"), given.pop("variance"), given.pop("psf"), **given)
