import json

import numpy as np
import pytest

import jaxdeblend as jd
from benchmarks import stragglers
from jaxdeblend.batch.schedule import Limits


def test_one_in_twenty_is_a_straggler():
    usual = stragglers.make_items(21, shape=(24, 24), stragglers=False, seed=1)
    mixed = stragglers.make_items(21, shape=(24, 24), stragglers=True, seed=1)
    ratios = [(a.given.weights / b.given.weights).mean() for a, b in zip(mixed, usual, strict=True)]
    assert np.allclose(ratios, [1] * 10 + [1e10] + [1] * 10)


@pytest.mark.slow
def test_catalogs_are_compared():
    usual, slow = (stragglers.make_items(20, shape=(24, 24), stragglers=some, seed=1) for some in (False, True))
    line = stragglers.measure((usual, slow), Limits(lanes=1), jd.ProximalAdam(max_steps=30), repeat=1)
    assert line["slowdown"] > 0 and line["work"] > 1 and line["steps_stragglers"] == 30 > line["steps_usual"]
    json.dumps(line)
