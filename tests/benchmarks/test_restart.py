import json

import numpy as np
import pytest

import jaxdeblend as jd
from benchmarks import restart
from jaxdeblend.catalog.plan import make_plan
from jaxdeblend.simulate import simulate_patch


def test_one_source_of_a_blend_is_missed_and_never_the_brightest():
    patch = simulate_patch(1, shape=(160, 160), n_sources=40, bands=("i",), defects=False)
    known, missed = restart.draw_missed(patch, 3, seed=1)
    truth = patch.truth[np.asarray(patch.truth["snr_i"]) > restart.MIN_SNR]
    columns = (np.asarray(truth[name], float).tolist() for name in ("y", "x", "snr_i"))
    snr = {(y, x): value for y, x, value in zip(*columns, strict=True)}
    assert len(known) + len(missed) == len(truth)
    assert {*map(tuple, known), *map(tuple, missed)} == set(snr)
    exposure, both = restart.exposure_of(patch), np.concatenate([known, missed])
    plan = make_plan(exposure, jd.detect(exposure.observation()), both, jd.DeblendConfig())
    touched = [unit.own for unit in plan if (unit.own >= len(known)).any()]
    assert len(touched) == len(missed) == 3
    for rows in touched:
        assert snr[tuple(both[rows.max()])] < max(snr[tuple(both[row])] for row in rows)


@pytest.mark.slow
def test_restarted_fits_are_as_good_as_those_from_scratch(capsys):
    restart.main(["--small"])
    line = json.loads(capsys.readouterr().out)
    assert line["n_added"] == 4 and line["n_touched"] >= 3  # one of them may be a blend of its own
    assert line["chi2_before"][0] > 1.05 and line["chi2_ratio"][-1] < 1.01
    assert line["within_1_percent"] == 1
    assert line["steps_restart"] < line["steps_first"]
    assert line["fraction"] > 0 and line["fraction_touched"] > 0  # on so small a patch these are mostly overhead
