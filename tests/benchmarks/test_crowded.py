import json

import numpy as np
import pytest

from benchmarks import crowded


def test_footprint_is_where_the_sources_are():
    inside = np.zeros((5, 5), bool)
    inside[1:4, 1:4] = True
    centers = np.array([[2, 2], [1, 3]])
    for footprint in (inside, ~inside):
        np.testing.assert_array_equal(crowded.footprint_of({"footprint": footprint, "centers": centers}), inside)
    with pytest.raises(SystemExit, match="some sources lie in the footprint and some do not"):
        crowded.footprint_of({"footprint": inside, "centers": np.array([[2, 2], [0, 0]])})


@pytest.mark.slow
def test_all_light_of_a_real_blend_is_kept(shared_data, capsys, tmp_path):
    crowded.main(["--set", str(shared_data("testdata_3_0.npz")), "--figure", str(tmp_path / "crowded.png")])
    report = json.loads(capsys.readouterr().out)
    assert report["finite"] and report["conservation"] < 1e-6 and report["sources"] == 11
    assert min(report["children"].values()) >= 10 and (tmp_path / "crowded.png").stat().st_size > 1000
    assert report["flags"]["y"]["SYMMETRY_AMBIGUOUS"] == 1  # between the two bright galaxies
