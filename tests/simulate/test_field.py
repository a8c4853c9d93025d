import numpy as np
import pytest
from astropy.wcs.utils import proj_plane_pixel_scales

from jaxdeblend.simulate import simulate_field


@pytest.fixture(scope="module")
def field():
    return simulate_field(2, shape=(120, 150), bands=("g", "i"), density=150.0)


def test_shapes(field):
    assert field.images.shape == field.variance.shape == field.mask.shape == field.noiseless.shape == (2, 120, 150)
    assert field.psf.shape == (2, 51, 51)
    assert field.images.dtype == field.noiseless.dtype == np.float32 and field.mask.dtype == bool


def test_truth_is_inside_and_neighbours_outside(field):
    def inside(table):
        x, y = table["x"], table["y"]
        return (x >= -0.5) & (x < 149.5) & (y >= -0.5) & (y < 119.5)

    assert np.all(inside(field.truth)) and not np.any(inside(field.outside))
    assert len(field.outside) > 0
    expected = 162 * 120 * 150 * (0.2 / 60) ** 2
    assert abs(len(field.truth) - expected) < 5 * np.sqrt(expected)


def test_truth_columns(field):
    assert field.truth.colnames == [
        "x", "y", "ra", "dec", "kind", "radius", "flux_g", "flux_i", "snr_g", "snr_i"
    ]  # fmt: skip
    assert np.all(field.truth["flux_i"] > 0) and np.all(field.truth["snr_i"] > 0)


def test_light_in_the_frame_is_that_of_the_sources(field):
    inner = (field.truth["x"] > 25) & (field.truth["x"] < 124) & (field.truth["y"] > 25) & (field.truth["y"] < 94)
    total = field.noiseless[1].sum()
    everything = field.truth["flux_i"].sum() + field.outside["flux_i"].sum()
    assert 0.97 * field.truth["flux_i"][inner].sum() < total < 1.01 * everything


def test_bright_sources_are_where_the_truth_says(field):
    stars = field.truth[field.truth["kind"] == "star"]
    star = stars[np.argmax(stars["snr_i"])]
    y, x = round(star["y"]), round(star["x"])
    patch = field.noiseless[1][max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    assert patch.max() > 0.02 * star["flux_i"]


def test_noise_is_what_the_variance_says(field):
    good = ~field.mask
    pull = ((field.images - field.noiseless) / np.sqrt(field.variance))[good]
    assert pull.std() == pytest.approx(1, abs=0.02)


def test_world_coordinates(field):
    assert proj_plane_pixel_scales(field.wcs) * 3600 == pytest.approx([0.2, 0.2])
    x, y = field.wcs.all_world2pix(field.truth["ra"], field.truth["dec"], 0)
    np.testing.assert_allclose([x, y], [field.truth["x"], field.truth["y"]], atol=1e-6)


def test_a_seed_gives_one_field(field):
    again = simulate_field(2, shape=(120, 150), bands=("g", "i"), density=150.0)
    np.testing.assert_array_equal(field.images, again.images)
    np.testing.assert_array_equal(field.mask, again.mask)


def test_defects_are_masked_and_nothing_else_is():
    options = {
        "shape": (160, 160),
        "bands": ("i",),
        "density": 10.0,
        "star_density": 60.0,
        "magnitudes": (17.0, 19.0),
    }
    field, clean = (simulate_field(1, defects=defects, **options) for defects in (True, False))
    assert set(field.mask_planes) == {"BAD", "SAT"} and field.mask_planes["SAT"].any()
    np.testing.assert_array_equal(field.mask, field.mask_planes["BAD"] | field.mask_planes["SAT"])
    np.testing.assert_array_equal(field.images[~field.mask], clean.images[~field.mask])
    assert not clean.mask.any()


def test_an_empty_sky():
    field = simulate_field(1, shape=(40, 40), bands=("r",), density=0.0, star_density=0.0)
    assert len(field.truth) == 0 and "flux_r" in field.truth.colnames
    assert np.all(field.noiseless == 0)


def test_bad_kind():
    with pytest.raises(ValueError, match="`kind` must be one of"):
        simulate_field(1, kind="round")
