import json

import numpy as np

import jaxdeblend as jd
from benchmarks import detection


def sky_of(centers, radius):
    obs = jd.Observation(np.zeros((1, 8, 8)), [1.0], jd.GaussianPSF(1.5), bands=("r",))
    columns = (np.full(len(centers), value) for value in (10.0, "star"))
    return detection.Sky(obs, np.array(centers), *columns, np.array(radius), np.full(len(centers), np.inf))


def test_one_peak_is_one_source():
    sky = sky_of([[0.0, 0.0], [9.0, 9.0], [30.0, 30.0]], [0.0, 0.0, 5.0])
    hit, real = detection.matched(sky, np.array([[0.0, 1.0], [0.0, 2.0], [9.0, 13.0], [30.0, 34.0]]))
    assert hit.tolist() == [True, False, True] and real.tolist() == [True, False, False, True]
    assert detection.matched(sky, np.zeros((0, 2)))[0].tolist() == [False] * 3


def test_a_line_for_each_scene(capsys):
    detection.main(["--small", "--method", "chi2"])
    grid, patch = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (grid["scene"], patch["scene"]) == ("neighbours", "patch")
    assert grid["galaxies"] == 1.0 and grid["purity"] > 0.9 and grid["star_alone"]["25"] == 1.0
    assert patch["purity"] > 0.8 and patch["by_snr"]["100-inf"] > 0.8
