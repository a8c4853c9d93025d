import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photutils.segmentation import detect_sources
from scipy.ndimage import binary_dilation

import jaxdeblend as jd
from jaxdeblend.detection.footprints import connected_regions, cut_footprints, grow_mask


def random_mask(seed, shape=(30, 25), fraction=0.15):
    return np.random.default_rng(seed).random(shape) < fraction


@given(st.integers(0, 1000), st.integers(1, 6))
def test_regions_are_those_of_photutils(seed, min_area):
    mask = random_mask(seed)
    labels = connected_regions(mask, np.argwhere(mask), min_area=min_area, grow=0)
    if np.any(labels):
        expected = detect_sources(mask.astype(float), 0.5, n_pixels=min_area, connectivity=8)
        np.testing.assert_array_equal(labels > 0, expected.data > 0)
        assert labels.max() == expected.n_labels
        pairs = np.unique(np.stack([labels[mask], expected.data[mask]]), axis=1)
        assert pairs.shape[1] == len(np.unique(pairs[0]))


@given(st.integers(0, 1000), st.integers(0, 5))
def test_growing_is_a_dilation_by_a_disk(seed, radius):
    mask = random_mask(seed, fraction=0.02)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    np.testing.assert_array_equal(grow_mask(mask, radius), binary_dilation(mask, y**2 + x**2 <= radius**2))


def test_regions_without_a_peak_are_left_out():
    mask = np.zeros((5, 12), dtype=bool)
    mask[1:3, 1:3] = mask[1:3, 8:10] = True
    labels = connected_regions(mask, np.array([[1, 8]]), min_area=1, grow=1)
    assert labels.max() == 1 and not labels[:, :6].any() and labels[1, 8] == 1


def test_regions_that_touch_once_grown_are_one():
    mask = np.zeros((5, 20), dtype=bool)
    mask[2, 4] = mask[2, 9] = True
    peaks = np.argwhere(mask)
    assert connected_regions(mask, peaks, min_area=1, grow=1).max() == 2
    assert connected_regions(mask, peaks, min_area=1, grow=2).max() == 1


def test_no_peaks():
    labels = connected_regions(np.ones((4, 4), dtype=bool), np.zeros((0, 2), dtype=int), min_area=1, grow=1)
    assert labels.dtype == np.int32 and not labels.any()
    assert cut_footprints(labels, np.zeros(0, dtype=int)) == ()


def test_footprints_are_cut_where_the_labels_are():
    labels = np.zeros((8, 9), dtype=np.int32)
    labels[1:4, 2] = labels[3, 2:5] = 1
    labels[6, 7:9] = 2
    first, second = cut_footprints(labels, np.array([1, 0, 0]))
    assert first.box == jd.Box((1, 2), (3, 3)) and second.box == jd.Box((6, 7), (1, 2))
    assert first.peaks.tolist() == [1, 2] and second.peaks.tolist() == [0]
    for number, footprint in enumerate((first, second), start=1):
        np.testing.assert_array_equal(footprint.mask, labels[footprint.box.slices] == number)
        assert footprint.area == np.sum(labels == number)


def test_a_footprint_is_immutable():
    (footprint,) = cut_footprints(np.ones((2, 2), dtype=np.int32), np.array([0]))
    with pytest.raises(AttributeError, match="cannot assign"):
        footprint.box = jd.Box((0, 0), (1, 1))
