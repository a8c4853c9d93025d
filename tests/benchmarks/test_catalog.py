import numpy as np
import pytest
from astropy.table import Table

from benchmarks import catalog
from jaxdeblend.simulate.survey import make_survey


def test_scores_of_a_known_catalog():
    """Four sources: one is found 10 % too bright, one exactly, one is missed, one is too faint to count."""
    flux = make_survey(["i"]).flux(np.array([[20.5], [21.5], [21.7], [26.0]]))[:, 0]
    truth = Table({"x": [10.0, 30.0, 50.0, 70.0], "y": [10.0, 12.0, 14.0, 16.0], "flux_i": flux})
    truth["snr_i"] = [100.0, 50.0, 40.0, 1.0]
    table = Table({"x": [30.4, 9.8, 90.0], "y": [12.1, 10.0, 3.0], "flux_i": [flux[1], 1.1 * flux[0], 7.0]})
    found = catalog.score(table, truth)
    assert found["n_true"] == 4
    assert found["completeness"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["purity"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["flux_abs_median"] == pytest.approx(0.05)
    assert found["flux_by_magnitude"] == {
        "20-21": {"n": 1, "median": 0.1, "abs_median": 0.1},
        "21-22": {"n": 1, "median": 0.0, "abs_median": 0.0},
    }


@pytest.mark.slow
def test_a_small_patch_survives_its_accidents(tmp_path):
    pytest.importorskip("h5py")
    pytest.importorskip("distributed")
    found = catalog.benchmark(tmp_path, edge=256, sources=80, kills=1, workers=2)
    assert found["n_rows"] == found["n_peaks"] > 20
    assert found["resumed_equal"] and found["dask_equal"] and found["workers_killed"] == 1
    assert found["completeness"] > 0.8 and found["flux_abs_median"] < 0.1
