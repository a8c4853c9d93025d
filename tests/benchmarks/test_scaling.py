import json

import numpy as np
import pytest

from benchmarks import scaling


def test_a_pool_is_mixed():
    pool = scaling.mixed_pool(20, seed=3)
    assert {len(scene.bands) for scene in pool} == {5, 6}
    assert all(30 <= edge <= 120 for scene in pool for edge in scene.images.shape[1:])
    assert all(2 <= len(scene.centers) <= 10 for scene in pool)
    assert len({scene.images.shape for scene in pool}) > 15 and scaling.programs(pool) <= 12


def test_a_catalog_has_noise_of_its_own():
    pool = scaling.mixed_pool(1, seed=3)
    (one, centers), (other, _) = scaling.catalog(pool, 2, seed=1)
    assert np.any(one.images != other.images) and np.array_equal(centers, np.round(pool[0].centers))
    pull = (np.asarray(one.images) - pool[0].noiseless) * np.sqrt(one.weights)
    assert abs(pull.std() - 1) < 0.02


@pytest.mark.slow
def test_scaling_prints_a_line_for_each_size(capsys, monkeypatch):
    monkeypatch.setattr(scaling, "SEVERAL", 2)
    scaling.main(["--pool", "1", "--sizes", "1", "2", "--seed", "2", "--cores", "1", "--lanes", "2"])
    first, *lines, one_core, two_lanes = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["programs"] == 1
    assert one_core["cores"] == 1 and two_lanes["lanes"] == 2 and one_core["each_once"] and two_lanes["each_once"]
    assert [line["blends"] for line in lines] == [1, 2] and all(line["each_once"] for line in lines)
    assert all(line["rss_mb"][-1] > 100 for line in lines)
