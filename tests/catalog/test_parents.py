import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdeblend as jd
from jaxdeblend.catalog import find_parents
from jaxdeblend.catalog.parents import default_margin, grid_box
from jaxdeblend.detection import detect
from jaxdeblend.io import Exposure

PSF = jd.GaussianPSF(1.5)
SHAPE = (90, 120)


def exposure_of(centers, flux=1000.0):
    """Stars without noise, of unit variance."""
    y, x = np.indices(SHAPE)
    image = sum((np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / 2.25) for cy, cx in centers), np.zeros(SHAPE))
    return Exposure(flux / (2 * np.pi * 2.25) * image[None], [1.0], PSF, bands=["r"])


STARS = np.array([[20.0, 20.0], [24.0, 26.0], [60.0, 90.0], [87.0, 3.0]])


def test_detected_peaks_are_grouped_by_footprint():
    exposure = exposure_of(STARS)
    found = detect(exposure.observation())
    parents = find_parents(exposure, found)
    groups = [sorted(np.round(found.centers[parent.rows]).astype(int).tolist()) for parent in parents]
    assert sorted(groups) == [[[20, 20], [24, 26]], [[60, 90]], [[87, 3]]]
    for parent in parents:
        assert exposure.box.overlap(parent.box) == parent.box
        y, x = found.centers[parent.rows].T
        assert (y >= parent.box.start[0]).all() and (x < parent.box.stop[1]).all()


def test_windows_reach_beyond_footprints_and_exclude_others():
    exposure = exposure_of(STARS)
    found = detect(exposure.observation())
    for parent in find_parents(exposure, found, margin=70):
        labels = found.labels[parent.box.slices]
        own = found.labels[tuple(np.round(found.centers[parent.rows[0]]).astype(int))]
        np.testing.assert_array_equal(parent.exclude, (labels != 0) & (labels != own))
        np.testing.assert_array_equal(parent.footprint, labels == own)
        footprint = found.footprints[own - 1].box
        grown = footprint.grow(70).overlap(exposure.box)
        assert parent.box.overlap(grown) == grown
    assert any(parent.exclude.any() for parent in find_parents(exposure, found, margin=70))


def test_given_centers_keep_their_rows():
    exposure = exposure_of(STARS)
    centers = np.array(
        [[60.0, 91.0], [50.0, 20.0], [20.0, 20.0], [np.nan, 3.0], [-3.0, 5.0], [89.49, 2.0], [23.0, 27.0]]
    )
    parents = find_parents(exposure, detect(exposure.observation()), centers)
    assert sorted(parent.rows.tolist() for parent in parents) == [[0], [1], [2, 6], [5]]
    alone = next(parent for parent in parents if parent.rows.tolist() == [1])
    assert (
        alone.box.contains(np.array([[50.0, 20.0]])).all()
        and min(alone.box.shape) >= 3 * 3.5
        and not alone.exclude.all()
    )


def test_a_position_just_outside_a_footprint_joins_it():
    exposure = exposure_of(STARS[2:3])
    found = detect(exposure.observation())
    x = found.footprints[0].box.stop[1] + 2
    (parent,) = find_parents(exposure, found, np.array([[60.0, 90.0], [60.0, x]]))
    assert parent.rows.tolist() == [0, 1] and not parent.exclude.any()


def test_undetected_neighbours_are_excluded():
    exposure = exposure_of(STARS[:3])
    found = detect(exposure.observation())
    (parent,) = find_parents(exposure, found, STARS[2:3], margin=100)
    assert parent.exclude[20, 20] and not parent.exclude[60, 90]


def test_no_sources():
    exposure = exposure_of([])
    found = detect(exposure.observation())
    assert find_parents(exposure, found) == ()
    assert find_parents(exposure, found, np.zeros((0, 2))) == ()
    assert find_parents(exposure, found, np.array([[np.nan, np.nan]])) == ()


@pytest.mark.parametrize("fwhm", [2.0, 5.2])
def test_default_margin_follows_the_broadest_psf(fwhm):
    psf = jd.MoffatPSF([1.5, fwhm])
    exposure = Exposure(np.zeros((2, 40, 40)), [1.0, 1.0], psf, bands=["g", "r"])
    assert default_margin(exposure) == np.ceil(np.float32(fwhm))


sizes = st.tuples(st.integers(1, 60), st.integers(1, 60))


@given(st.data(), sizes)
def test_grid_boxes_contain_the_box_and_stay_inside(data, shape):
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    edges = tuple(data.draw(st.integers(1, n - s)) for n, s in zip(shape, start, strict=True))
    box, image = jd.Box(start, edges), jd.Box((0, 0), shape)
    grown = grid_box(box, shape)
    assert grown.overlap(image) == grown and grown.overlap(box) == box
    assert all(g % 8 == 0 or g == n for g, n in zip(grown.shape, shape, strict=True))
    assert all(g < e + 8 for g, e in zip(grown.shape, edges, strict=True))


@settings(max_examples=15)
@given(st.lists(st.tuples(st.floats(-10, 100), st.floats(-10, 130)), max_size=25))
def test_every_position_on_the_image_has_one_parent(centers):
    centers = np.array(centers).reshape(-1, 2)
    exposure = exposure_of(STARS)
    parents = find_parents(exposure, detect(exposure.observation()), centers)
    rows = np.sort(np.concatenate([np.zeros(0, int), *(parent.rows for parent in parents)]))
    inside = exposure.box.contains(centers)
    np.testing.assert_array_equal(rows, np.flatnonzero(inside))
    for parent in parents:
        assert parent.box.contains(centers[parent.rows]).all()


def test_close_positions_share_a_square():
    exposure = exposure_of([])
    centers = np.array([[30.0, 30.0], [30.0, 36.0], [30.0, 80.0]])
    parents = find_parents(exposure, detect(exposure.observation()), centers)
    assert [parent.rows.tolist() for parent in parents] == [[0, 1], [2]]
    squares = np.zeros(SHAPE, bool)
    for y, x in centers.astype(int):
        squares[y - 6 : y + 7, x - 6 : x + 7] = True  # 1.5 FWHM = 5.3
    assert scipy.ndimage.label(squares)[1] == len(parents)
