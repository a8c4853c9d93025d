import numpy as np
from astropy.table import Table
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from jaxdeblend.catalog import compare_with_truth, match_positions


def test_pairs_are_one_to_one_and_the_closest_first():
    truth = np.array([[0.0, 0.0], [0.0, 1.5]])
    found = np.array([[0.0, 1.0], [0.0, 0.9], [9.0, 9.0]])
    a, b = match_positions(found, truth)
    # 0.5 px from the second; the other found one gets the first, 0.9 px away
    assert a.tolist() == [0, 1] and b.tolist() == [1, 0]


def test_agrees_with_optimal_assignment_where_it_is_unique():
    rng = np.random.default_rng(4)
    truth = np.stack(np.meshgrid(np.arange(10) * 9.0, np.arange(10) * 9.0), -1).reshape(-1, 2)
    found = (truth + rng.uniform(-1, 1, truth.shape))[rng.permutation(len(truth))][:80]
    a, b = match_positions(found, truth, radius=2.0)
    rows, columns = linear_sum_assignment(cdist(found, truth))
    np.testing.assert_array_equal(a, rows)
    np.testing.assert_array_equal(b, columns)


def test_nothing_matches_nothing():
    nan = np.full((2, 2), np.nan)
    for found, truth in (
        (nan, np.zeros((3, 2))),
        (np.zeros((0, 2)), nan),
        (np.zeros((1, 2)), np.full((1, 2), 9.0)),
    ):
        a, b = match_positions(found, truth)
        assert a.shape == b.shape == (0,)
    a, b = match_positions(np.array([[np.nan, 0], [1.0, 1.0]]), np.array([[np.nan, 0], [1.0, 1.0]]))
    assert a.tolist() == [1] and b.tolist() == [1]


def test_comparison():
    truth = Table({"x": [5.0, 20.0, 40.0, 60.0], "y": [5.0, 9.0, 9.0, 9.0]})
    truth["flux_g"], truth["flux_r"] = [100.0, 100.0, 10.0, 1.0], [50.0, 40.0, 30.0, 1.0]
    truth["snr_g"], truth["snr_r"] = [50.0, 8.0, 20.0, 1.0], [20.0, 8.0, 5.0, 1.0]
    found = Table(
        {
            "x": [5.5, 40.0, 80.0],
            "y": [5.0, 9.0, 9.0],
            "flux_g": [110.0, 12.0, 3.0],
            "flux_r": [45.0, 99.0, 3.0],
        }
    )
    summary = compare_with_truth(found, truth, ["g", "r"])
    assert summary["found"] == 3 and summary["true"] == 4 and summary["matched"] == 2 and summary["spurious"] == 1
    # 8 and 8 make 11.3 in both bands together
    assert summary["bright"] == 3 and summary["completeness"] == 2 / 3
    np.testing.assert_allclose(summary["flux_error"]["g"], 0.15)
    np.testing.assert_allclose(summary["flux_error"]["r"], 0.1)


def test_comparison_with_nothing():
    empty = Table({"x": [], "y": [], "flux_g": [], "snr_g": []}, dtype=[float] * 4)
    summary = compare_with_truth(empty, empty, ["g"])
    assert summary["found"] == summary["bright"] == 0
    assert np.isnan(summary["completeness"]) and np.isnan(summary["flux_error"]["g"])
