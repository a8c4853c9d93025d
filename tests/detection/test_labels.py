import numpy as np
import pytest
import scipy.ndimage
from astropy.convolution import convolve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources

import jaxdeblend as jd
from jaxdeblend.detection import detection_of_labels
from tests.detection.test_detection import COLUMNS, SIGMA, noise, observe, stars

CENTERS = np.array([(20.3, 15.1), (20.4, 23.2), (50.1, 45.6), (70.7, 20.2), (70.2, 70.4), (77.3, 70.1), (77.6, 62.3)])
FLUXES = [[900.0], [500.0], [300.0], [2000.0], [800.0], [700.0], [400.0]]
EDGE = 96


@pytest.fixture(scope="module")
def scene():
    """Image, its observation, and photutils' maps: of parents, deblended, and the image they were made from."""
    image = (stars(CENTERS, FLUXES, (EDGE, EDGE)) + noise(3, (1, EDGE, EDGE)))[0]
    smooth = convolve(image, np.asarray(jd.GaussianPSF(SIGMA).stamp(13)[0], float), boundary="fill")
    parents = detect_sources(smooth, 1.0, n_pixels=5)
    deblended = deblend_sources(smooth, parents, n_pixels=5, contrast=0.001)
    return image, observe(image[None]), parents, deblended, smooth


def test_a_map_of_parents_keeps_its_segments(scene):
    _, obs, parents, _, _ = scene
    found = detection_of_labels(obs, parents.data)
    assert found.peaks.colnames == [*COLUMNS, "label"] and len(found.peaks) == len(found.footprints) == parents.n_labels
    np.testing.assert_array_equal(found.labels > 0, parents.data > 0)
    for row in found.peaks:
        np.testing.assert_array_equal(found.labels == row["footprint"] + 1, parents.data == row["label"])
    assert (np.diff(found.peaks["significance"]) <= 0).all()


def test_peaks_are_the_brightest_pixels_of_photutils(scene):
    _, obs, parents, deblended, smooth = scene
    for labels in (parents, deblended):
        theirs = SourceCatalog(smooth, labels)
        found = detection_of_labels(obs, labels.data)
        order = np.argsort(np.asarray(found.peaks["label"]))
        expected = np.stack([np.asarray(theirs.max_value_yindex), np.asarray(theirs.max_value_xindex)], axis=-1)
        assert np.abs(found.centers[order] - expected).max() <= 0.75


def test_touching_segments_share_a_footprint(scene):
    _, obs, parents, deblended, _ = scene
    found = detection_of_labels(obs, deblended.data)
    assert deblended.n_labels == len(CENTERS) > parents.n_labels == len(found.footprints)
    np.testing.assert_array_equal(found.labels > 0, parents.data > 0)
    gap = np.hypot(*np.moveaxis(found.centers[:, None] - CENTERS[None], -1, 0))
    assert gap.min(axis=1).max() < 0.5
    assert sorted(len(footprint.peaks) for footprint in found.footprints) == [1, 1, 2, 3]


def test_numbers_of_labels_do_not_matter(scene):
    _, obs, _, deblended, _ = scene
    expected = detection_of_labels(obs, deblended.data)
    for dtype, factor in ((">i4", 1000), (np.uint8, 7), (np.int64, 10**12)):
        found = detection_of_labels(obs, (deblended.data.astype(np.int64) * factor).astype(dtype))
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.centers, expected.centers)
        assert found.peaks["label"].tolist() == [factor * label for label in expected.peaks["label"]]


def test_a_segment_on_a_slope_has_a_peak_of_its_own():
    # No pixel of the faint star is above its neighbours towards the bright one.
    images = stars([(24, 20), (24, 26)], [[50000.0], [3300.0]])
    labels = np.zeros((48, 48), int)
    labels[16:33, 10:24], labels[16:33, 24:31] = 1, 2
    found = detection_of_labels(observe(images), labels)
    centers = found.centers[np.argsort(found.peaks["label"])]
    np.testing.assert_allclose(centers, [(24, 20), (24, 26)], atol=1.5)


def test_positions_of_a_catalog_are_kept_in_order(scene):
    _, obs, parents, _, _ = scene
    rows = np.concatenate([CENTERS[::-1], [(5.0, 90.0), (np.nan, 3.0), (-3.0, 5.0), (20.0, 200.0)]])
    found = detection_of_labels(obs, parents.data, rows, center_error=np.arange(len(rows)) + 1.0)
    np.testing.assert_array_equal(found.centers, rows)
    assert found.peaks["error"].tolist() == (np.arange(len(rows)) + 1.0).tolist()
    pixels = np.rint(CENTERS[::-1]).astype(int)
    assert found.peaks["label"].tolist() == [*parents.data[tuple(pixels.T)], 0, 0, 0, 0]
    assert (found.peaks["footprint"][-4:] == -1).all() and (found.peaks["footprint"][:-4] >= 0).all()
    assert found.peaks["significance"][-3:].tolist() == [0, 0, 0]
    snr = np.array(FLUXES[::-1])[:, 0] / (SIGMA * np.sqrt(4 * np.pi))
    np.testing.assert_allclose(found.peaks["significance"][3:5], snr[3:5], rtol=0.1)
    for footprint in found.footprints:
        assert (np.diff(found.peaks["significance"][footprint.peaks]) <= 0).all()


def test_a_segment_without_a_position_is_a_footprint_without_peaks(scene):
    _, obs, parents, _, _ = scene
    found = detection_of_labels(obs, parents.data, CENTERS[:1])
    assert [len(footprint.peaks) for footprint in found.footprints].count(0) == parents.n_labels - 1
    empty = detection_of_labels(obs, parents.data, [])
    assert len(empty.peaks) == 0 and len(empty.footprints) == parents.n_labels


@settings(max_examples=40)
@given(hnp.arrays(np.int32, (9, 11), elements=st.sampled_from([0, 0, 0, 0, 3, 8, 20])))
def test_footprints_are_the_finest_that_part_no_segment(labels):
    found = detection_of_labels(observe(np.zeros((1, 9, 11))), labels)
    np.testing.assert_array_equal(found.labels > 0, labels > 0)
    # Neither a segment nor a region of touching pixels is in two footprints, and only these two join pixels.
    regions = scipy.ndimage.label(labels > 0, np.ones((3, 3)))[0]
    for parts in (labels, regions):
        for part in np.unique(parts[parts > 0]):
            assert len(np.unique(found.labels[parts == part])) == 1
    for footprint in range(1, found.labels.max(initial=0) + 1):
        reached = regions == regions[found.labels == footprint][0]
        for _ in range(20):
            reached = np.isin(regions, np.unique(regions[reached])) & (regions > 0)
            reached |= np.isin(labels, np.unique(labels[reached])) & (labels > 0)
        np.testing.assert_array_equal(reached, found.labels == footprint)
    assert sorted(found.peaks["label"]) == np.unique(labels[labels > 0]).tolist()


@pytest.mark.parametrize(
    ("labels", "centers", "message"),
    [
        (np.zeros((5, 5), int), None, r"labels: got shape \(5, 5\) for images of shape \(16, 16\)"),
        (np.zeros((16, 16)), None, "labels: got dtype float64; give whole numbers"),
        (np.zeros((16, 16), bool), None, "labels: got dtype bool"),
        (np.full((16, 16), -2), None, "labels: got -2; give 0 where"),
        (np.zeros((16, 16), int), np.zeros((2, 3)), r"centers: got shape \(2, 3\); give \(source, 2\)"),
    ],
)
def test_bad_input(labels, centers, message):
    with pytest.raises(ValueError, match=message):
        detection_of_labels(observe(np.zeros((1, 16, 16))), labels, centers)


def test_bad_errors():
    with pytest.raises(ValueError, match=r"center_error: got shape \(3,\) for 2 sources"):
        labels = np.zeros((16, 16), int)
        detection_of_labels(observe(np.zeros((1, 16, 16))), labels, np.zeros((2, 2)), center_error=np.ones(3))
