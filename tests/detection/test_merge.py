import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import jaxdeblend as jd
from jaxdeblend.detection import BandDetection, Culling, Detection, MergeOptions, detect_bands, merge_bands
from jaxdeblend.detection.footprints import connected_regions, cut_footprints
from jaxdeblend.detection.result import peak_table
from tests.detection.test_detection import COLUMNS, noise, observe, stars

SHAPE = (60, 60)
RADII = MergeOptions(same_radius=1.5, new_radius=4.0, together=False)


def band(name, centers, snr=None, error=0.1, grow=3, snr_map=None):
    """What a band would have seen: peaks at these places, each with a disk around it."""
    centers = np.asarray(centers, float).reshape(-1, 2)
    height = np.full(len(centers), 10.0) if snr is None else np.asarray(snr, float)
    centers, height = centers[np.argsort(-height, kind="stable")], np.sort(height)[::-1]
    pixels = np.rint(centers).astype(int)
    mask = np.zeros(SHAPE, bool)
    mask[tuple(pixels.T)] = True
    labels = connected_regions(mask, pixels, min_area=1, grow=grow)
    owner = labels[tuple(pixels.T)].astype(np.intp) - 1
    peaks = peak_table(centers, height, np.broadcast_to(float(error), len(centers)), owner)
    snr_map = np.zeros(SHAPE, np.float32) if snr_map is None else snr_map
    detection = Detection(peaks, cut_footprints(labels, owner), labels)
    return BandDetection(name, detection, snr_map, np.ones(SHAPE, bool), 3.5)


def flags(merged, prefix, names):
    return np.stack([np.asarray(merged.peaks[f"{prefix}_{name}"]) for name in names], axis=-1).astype(int).tolist()


def sorted_centers(merged):
    return sorted(merged.centers.tolist())


def test_the_distance_decides():
    first = band("i", [(10, 10), (30, 30), (50, 20)], [30, 20, 10])
    # the same source, one at a doubtful distance, a new one
    second = band("r", [(10.5, 11), (30, 33), (50, 25)], [29, 19, 9])
    merged = merge_bands([first, second], options=RADII)
    assert merged.centers.tolist() == [[10, 10], [30, 30], [50, 20], [50, 25]]
    assert flags(merged, "merge_peak", "ir") == [[1, 1], [1, 0], [1, 0], [0, 1]]
    assert flags(merged, "merge_ambiguous", "ir") == [[0, 0], [0, 1], [0, 0], [0, 0]]


def test_at_the_radii_themselves():
    merged = merge_bands([band("i", [(10, 10), (40, 40)]), band("r", [(10, 11.5), (40, 44)])], options=RADII)
    assert len(merged.peaks) == 3
    assert flags(merged, "merge_ambiguous", "ir")[0] == [0, 1]


def test_a_band_that_sees_both_makes_them_two():
    first = band("i", [(30, 30)], [50])
    second = band("r", [(30, 30.4), (30, 33)], [20, 15])
    merged = merge_bands([first, second], options=dataclasses.replace(RADII, priority=("i", "r")))
    assert merged.centers.tolist() == [[30, 30], [30, 33]]
    assert flags(merged, "merge_peak", "ir") == [[1, 1], [0, 1]]
    assert not np.any(flags(merged, "merge_ambiguous", "ir"))


def test_priority_decides_what_is_ambiguous():
    # One band sees two, the other their blurred light between them.
    sharp, blurred = band("i", [(30, 28), (30, 32)], [20, 19]), band("r", [(30, 29.6)], [30])
    merged = merge_bands([sharp, blurred], options=MergeOptions(("i", "r"), same_radius=1.5, new_radius=4.0))
    assert sorted_centers(merged) == [[30, 28], [30, 32]]
    merged = merge_bands([sharp, blurred], options=MergeOptions(("r", "i"), same_radius=1.5, new_radius=4.0))
    assert sorted_centers(merged) == [[30, 29.6]] and flags(merged, "merge_ambiguous", "ir") == [[1, 0]]
    # by default, that with more peaks is first
    assert len(merge_bands([blurred, sharp], options=RADII).peaks) == 2


def test_the_most_precise_band_places_the_source():
    merged = merge_bands([band("i", [(30, 30)], error=0.3), band("r", [(30.5, 30)], error=0.1)], options=RADII)
    assert merged.centers.tolist() == [[30.5, 30]] and merged.peaks["error"].tolist() == [0.1]


def test_significance_is_that_of_all_bands():
    star = stars([(24, 24)], [[100.0, 60.0, 5.0]])
    obs = observe(star)
    merged, together = jd.detect(obs, method="merge"), jd.detect(obs)
    assert merged.peaks["significance"][0] == pytest.approx(together.peaks["significance"][0], rel=1e-4)


def test_bands_that_know_nothing_do_not_count():
    star = stars([(24, 24)], [[100.0, 100.0]])
    merged = jd.detect(observe(star, np.stack([np.ones((48, 48)), np.full((48, 48), np.inf)])), method="merge")
    alone = jd.detect(observe(star[:1]))
    assert merged.peaks["significance"][0] == pytest.approx(alone.peaks["significance"][0], rel=1e-4)
    assert flags(merged, "merge_peak", "ug") == [[1, 0]]


def test_footprints_join_and_tell_of_their_bands():
    first = band("i", [(10, 10), (40, 40)], grow=2)
    second = band("r", [(10, 15), (10, 50)], grow=2)
    merged = merge_bands([first, second], options=RADII)
    assert len(merged.footprints) == 3
    assert merged.footprint_flags.colnames == ["merge_footprint_i", "merge_footprint_r"]
    rows = np.array([list(row) for row in merged.footprint_flags])
    expected = {(10, 10): (True, True), (10, 50): (False, True), (40, 40): (True, False)}
    for (y, x), told in expected.items():
        assert tuple(rows[merged.labels[y, x] - 1]) == told
    np.testing.assert_array_equal(merged.labels > 0, (first.detection.labels > 0) | (second.detection.labels > 0))
    assert merged.footprints[merged.labels[10, 10] - 1].peaks.size == 2


points = st.lists(st.tuples(st.floats(4, 55), st.floats(4, 55)), min_size=0, max_size=12)


@settings(max_examples=40)
@given(st.lists(points, min_size=1, max_size=4), st.integers(0, 99))
def test_nothing_is_lost(lists, seed):
    rng = np.random.default_rng(seed)
    names = "grizy"[: len(lists)]
    found = [band(name, centers, rng.uniform(5, 50, len(centers))) for name, centers in zip(names, lists, strict=True)]
    merged = merge_bands(found, options=RADII)
    check(merged, found, names)
    # Every peak of every band is near a source that says that this band saw it, or may have.
    for name, one in zip(names, found, strict=True):
        told = np.asarray(merged.peaks[f"merge_peak_{name}"]) | np.asarray(merged.peaks[f"merge_ambiguous_{name}"])
        if len(one.detection.peaks):
            assert cdist(one.detection.centers, merged.centers[told]).min(axis=1).max() < 4.0 + 1.5 * len(lists)
    # and every source was seen by some band.
    assert np.any(flags(merged, "merge_peak", names), axis=1).all() if len(merged.peaks) else True


def check(merged, found, names):
    peaks = merged.peaks
    extra = [f"{prefix}_{name}" for prefix in ("merge_peak", "merge_ambiguous") for name in names]
    assert peaks.colnames == COLUMNS + extra and all(peaks[name].dtype == bool for name in extra)
    assert peaks["id"].tolist() == list(range(len(peaks))) and (np.diff(peaks["significance"]) <= 0).all()
    assert sorted(np.concatenate([np.zeros(0, int), *[f.peaks for f in merged.footprints]])) == peaks["id"].tolist()
    assert len(merged.footprint_flags) == len(merged.footprints) == merged.labels.max()
    for k, footprint in enumerate(merged.footprints):
        assert (peaks["footprint"][footprint.peaks] == k).all() and len(footprint.peaks)


def test_one_band_is_what_it_was():
    images = stars([(12, 14), (30, 33)], [[300.0], [200.0]]) + noise(0, (1, 48, 48))
    (one,) = detect_bands(observe(images))
    merged = merge_bands([one])
    np.testing.assert_array_equal(merged.centers, one.detection.centers)
    np.testing.assert_array_equal(merged.labels, one.detection.labels)
    np.testing.assert_allclose(merged.peaks["significance"], one.detection.peaks["significance"], rtol=1e-6)


def test_culling_keeps_by_significance_and_bands():
    centers = [(10, x) for x in range(5, 55, 5)]
    first = band("i", centers, np.arange(30, 20, -1.0))
    second = band("r", centers[-1:], [8.0])
    options = MergeOptions(same_radius=1.0, new_radius=2.0, culling=Culling(rank=2, soft_rank=5, soft_fraction=0.3))
    merged = merge_bands([first, second], options=options)
    # the two most significant, a third that is among 30 % of ten, and the one that two bands see
    assert sorted(merged.centers[:, 1].tolist()) == [5, 10, 15, 50]
    assert merged.peaks.meta["n_culled"] == 6 and len(merged.footprints[0].peaks) == 4


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 40), st.floats(0, 1))
def test_culling_keeps_the_most_significant_and_those_of_several_bands(n, rank, soft_rank, fraction):
    culling = Culling(rank=rank, soft_rank=soft_rank, soft_fraction=fraction)
    n_bands = np.random.default_rng(n).integers(1, 4, n)
    keeps = culling.keeps(np.arange(n), n_bands, np.full(n, n))
    assert keeps[0] and keeps[:rank].all() and keeps[n_bands >= 2].all()
    rest = keeps[rank:][n_bands[rank:] < 2]
    assert rest.sum() <= max(0, min(soft_rank, np.ceil(fraction * n)) - rank)


def test_two_colours_that_one_map_merges():
    # 1.1 FWHM apart, one source in each band: the sum shows one hump, each band its own.
    images = stars([(24, 22.3), (24, 25.7)], [[3000.0, 0.0], [0.0, 3000.0]])
    merged = jd.detect(observe(images + noise(1, images.shape)), method="merge")
    assert len(merged.peaks) == 2
    np.testing.assert_allclose(sorted_centers(merged), [[24, 22.3], [24, 25.7]], atol=0.15)


def test_what_is_too_faint_for_each_band_is_found_together():
    obs = observe(stars([(24, 24)], [[22.0] * 4]))
    merged = jd.detect(obs, method="merge")
    assert len(merged.peaks) == 1 and merged.peaks["merge_peak_chi2"][0] and not merged.peaks["merge_peak_u"][0]
    assert len(jd.detect(obs, method="merge", merge=MergeOptions(together=False)).peaks) == 0


def test_no_peaks_at_all():
    merged = jd.detect(observe(np.zeros((2, 48, 48))), method="merge")
    check(merged, None, ["u", "g", "chi2"])
    assert len(merged.peaks) == 0 and merged.footprints == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MergeOptions(same_radius=-1.0), "same_radius: got -1.0; give a number of pixels"),
        (lambda: MergeOptions(new_radius=np.nan), "new_radius: got nan"),
        (lambda: MergeOptions(same_radius=3.0, new_radius=2.0), "new_radius: got 2.0, which is below"),
        (lambda: Culling(rank=0), "rank: got 0; give at least 1"),
        (lambda: Culling(soft_fraction=2.0), "soft_fraction: got 2.0; give a fraction"),
        (lambda: merge_bands([]), "found: got .*; give detections"),
        (lambda: merge_bands([band("i", []), band("i", [])]), "each of a band of another name"),
        (lambda: merge_bands([band("i", [])], options=MergeOptions(("r",))), r"priority: got \('r',\)"),
        (lambda: jd.detect(observe(np.zeros((1, 16, 16))), method="sum"), "method: got 'sum'; choose one of"),
        (lambda: jd.detect(observe(np.zeros((1, 16, 16))), merge=RADII), "merge: got options for method 'chi2'"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()
