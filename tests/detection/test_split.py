import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import jaxdeblend as jd
from jaxdeblend.detection import light_extent, split_parent

SHAPE = (300, 260)

peaks = st.builds(
    lambda seed, n, spread: np.clip(
        np.random.default_rng(seed).normal(size=(n, 2)) * spread + 130, -0.5, np.array(SHAPE) - 0.51
    ),
    st.integers(0, 1000),
    st.integers(1, 90),
    st.sampled_from([0.0, 8.0, 30.0, 90.0]),
)


def extents(centers, seed):
    """One number for all, or many short and a few long ones."""
    rng = np.random.default_rng(seed)
    return 4.5 if seed % 2 else rng.pareto(1.5, len(centers)) * 2 + 1.5


@settings(max_examples=40)
@given(peaks, st.integers(0, 99), st.integers(1, 40), st.integers(24, 90), st.integers(0, 6))
def test_what_every_split_must_fulfil(centers, seed, max_sources, max_window, margin):
    extent = extents(centers, seed)
    pieces = split_parent(centers, SHAPE, extent=extent, margin=margin, max_sources=max_sources, max_window=max_window)
    # every peak is owned by exactly one piece
    assert sorted(np.concatenate([piece.own for piece in pieces]).tolist()) == list(range(len(centers)))
    half = (max_window - 1) // 2
    reach = np.minimum(np.broadcast_to(extent, len(centers)), min(half - margin, half / 2))
    overlaps = cdist(centers, centers) <= reach[None, :] + reach[:, None]
    pixel = np.floor(centers + 0.5).astype(int)
    for piece in pieces:
        # its neighbours are those, and only those, that overlap with an own peak
        expected = np.flatnonzero(overlaps[piece.own].any(axis=0))
        assert np.sort(piece.rows).tolist() == expected.tolist() and (np.diff(piece.own) > 0).all()
        # its window holds all peaks, and of the own ones their extent and a margin, where the image has them
        start, stop = np.array(piece.box.start), np.array(piece.box.stop)
        assert (pixel[piece.rows] >= start).all() and (pixel[piece.rows] < stop).all()
        wide = np.ceil(reach[piece.own]).astype(int)[:, None] + margin
        assert (np.maximum(pixel[piece.own] - wide, 0) >= start).all()
        assert (np.minimum(pixel[piece.own] + wide + 1, SHAPE) <= stop).all()
        assert max(piece.box.shape) <= max_window
        # more sources than allowed only where each own peak has too many neighbours by itself
        alone = overlaps[piece.own].sum(axis=1)
        assert len(piece.rows) <= max(max_sources, 1.25 * alone.min()) if alone.min() > max_sources else True
        assert len(piece.rows) <= max_sources or alone.min() > max_sources
    for piece in pieces[:3]:
        check_exclude(piece, centers)


def check_exclude(piece, centers):
    y, x = np.mgrid[piece.box.slices]
    distance = cdist(np.stack([y.ravel(), x.ravel()], axis=-1), centers)
    mine = distance[:, piece.rows].min(axis=1)
    rest = np.delete(distance, piece.rows, axis=1).min(axis=1, initial=np.inf)
    clear = np.abs(mine - rest) > 1e-9
    np.testing.assert_array_equal(piece.exclude.ravel()[clear], (rest < mine)[clear])


def test_a_bright_source_is_a_neighbour_of_all_that_it_reaches():
    centers = np.array([(150.0, 130.0), (150.0, 160.0), (150.0, 190.0)])
    options = {"margin": 2, "max_sources": 2, "max_window": 150}
    pieces = split_parent(centers, SHAPE, extent=[28.0, 4.0, 4.0], **options)
    assert [piece.own.tolist() for piece in pieces] == [[0, 1], [2]]
    pieces = split_parent(centers, SHAPE, extent=[28.0, 4.0, 4.0], **options | {"max_window": 90})
    assert [(piece.own.tolist(), piece.neighbours.tolist()) for piece in pieces] == [([0], []), ([1], []), ([2], [])]
    pieces = split_parent(centers, SHAPE, extent=[28.0, 4.0, 27.0], **options)
    assert [(piece.own.tolist(), piece.neighbours.tolist()) for piece in pieces] == [
        ([0], [1]),
        ([1], [0, 2]),
        ([2], [1]),
    ]


def test_a_chain_comes_apart_at_its_gaps():
    x = np.array([10, 16, 22, 60, 66, 120.0])
    centers = np.stack([np.full(6, 50.0), x], axis=-1)
    pieces = split_parent(centers, SHAPE, extent=4.0, margin=4, max_sources=99, max_window=200)
    assert [piece.own.tolist() for piece in pieces] == [[0, 1, 2], [3, 4], [5]]
    assert all(len(piece.neighbours) == 0 for piece in pieces)


def test_given_groups_have_the_others_for_neighbours():
    centers = np.stack([np.full(4, 50.0), [20, 26, 32, 60]], axis=-1)
    options = {"extent": 4.0, "margin": 4, "max_sources": 99, "max_window": 200}
    pieces = split_parent(centers, SHAPE, groups=np.array([5, 5, 3, 3]), **options)
    assert [(piece.own.tolist(), piece.neighbours.tolist()) for piece in pieces] == [([0, 1], [2]), ([2, 3], [1])]
    with pytest.raises(ValueError, match=r"groups: got shape \(3,\) for 4 peaks"):
        split_parent(centers, SHAPE, groups=np.zeros(3, int), **options)


def test_a_group_within_the_budget_stays_whole():
    centers = np.random.default_rng(0).uniform(100, 150, (50, 2))
    (piece,) = split_parent(centers, SHAPE, extent=10.0, margin=4, max_sources=50, max_window=120)
    assert len(piece.own) == 50 and not piece.exclude.any()


def test_a_crowd_is_tiled_and_none_of_it_is_fitted_too_often():
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(2500, 2)) * 70 + 300
    pieces = split_parent(centers, (600, 600), extent=4.5, margin=4, max_sources=100, max_window=128)
    assert max(len(piece.rows) for piece in pieces) <= 100
    assert max(max(piece.box.shape) for piece in pieces) <= 128
    assert sum(len(piece.rows) for piece in pieces) < 2.5 * len(centers)


def test_where_all_reach_all_nothing_is_gained_by_cutting():
    centers = np.random.default_rng(2).uniform(100, 110, (200, 2))
    pieces = split_parent(centers, SHAPE, extent=20.0, margin=4, max_sources=10, max_window=128)
    assert len(pieces) == 1


def test_peaks_at_one_place():
    pieces = split_parent(np.full((7, 2), 50.0), SHAPE, extent=0.0, margin=4, max_sources=99, max_window=50)
    assert len(pieces) == 1 and pieces[0].box == jd.Box((46, 46), (9, 9))


def test_no_peaks():
    assert split_parent(np.zeros((0, 2)), SHAPE, extent=4.5, margin=4, max_sources=9, max_window=50) == ()


@pytest.mark.parametrize("beta", [2.0, 2.5, 4.0])
def test_light_extent_is_where_the_profile_has_fallen_to_the_level(beta):
    significance, fwhm = np.array([30.0, 1000.0]), 4.0
    reach = light_extent(significance, fwhm, level=2.0, beta=beta)

    def profile(r):
        # a Moffat profile, by its definition of the FWHM
        return (1 + (2 ** (1 / beta) - 1) * (2 * r / fwhm) ** 2) ** -beta

    assert profile(fwhm / 2) == pytest.approx(0.5)
    np.testing.assert_allclose(significance * profile(reach), 2.0)
    assert light_extent(np.array([0.0, 1.0]), 4.0).tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extent": -1.0}, "extent: got -1.0 for 1 peaks; give a number of pixels"),
        ({"extent": [1.0, 2.0]}, r"extent: got \[1.0, 2.0\] for 1 peaks"),
        ({"extent": np.nan}, "extent: got nan"),
        ({"margin": 25}, "margin: got 25 for windows of up to 50 pixels"),
        ({"margin": -1}, "margin: got -1"),
        ({"max_sources": 0}, "max_sources: got 0; give at least 1"),
        ({"centers": np.array([[5.0, 260.0]])}, r"centers: got positions that are not on the image of shape \(300"),
        ({"centers": np.array([[np.nan, 3.0]])}, "centers: got positions that are not on the image"),
    ],
)
def test_bad_input(change, message):
    given = {"centers": np.ones((1, 2)), "extent": 9.0, "margin": 4, "max_sources": 9, "max_window": 50} | change
    with pytest.raises(ValueError, match=message):
        split_parent(given.pop("centers"), SHAPE, **given)


def test_bad_levels():
    with pytest.raises(ValueError, match="level, beta: got 0.0 and 2.5"):
        light_extent(np.ones(1), 4.0, level=0.0)
