import json

import numpy as np
import pytest

from benchmarks import ragged, stages, throughput
from jaxdeblend.simulate import save_truth_set, simulate_blend


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("set") / "small.npz"
    save_truth_set(path, [simulate_blend(seed, shape=(32, 32), n_sources=2) for seed in range(2)])
    return path


def test_throughput_prints_a_line(path, capsys):
    throughput.main(["--set", str(path), "--repeat", "1"])
    line = json.loads(capsys.readouterr().out)
    assert line["blends"] == 2 and line["sources"] == 4 and sum(line["statuses"].values()) == 2
    assert line["blends_per_s"] == pytest.approx(2 / line["run_s"], rel=0.1)
    assert line["compile_s"] >= 0 and line["fft_floor_s"] >= 0 and line["peak_rss_mb"] > 100


@pytest.mark.slow
def test_stages_prints_a_table(path, capsys):
    stages.main(["--set", str(path)])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "32 × 32 pixels, 5 bands, 2 sources"
    times = {row.split()[0]: float(row.split()[1]) for row in rows}
    assert {"initialize", "step", "convolution", "placing", "measure"} <= set(times)
    assert all(seconds > 0 for seconds in times.values())


def test_ragged_sets_are_read(tmp_path):
    arrays = {"bands": np.array(["g", "i"])}
    for k, shape in enumerate([(20, 31), (33, 24)]):
        arrays |= {
            f"b{k:03d}_images": np.ones((2, *shape), np.float32),
            f"b{k:03d}_variance": np.ones((2, *shape), np.float32),
            f"b{k:03d}_psfs": np.ones((2, 5, 5)) / 25,
            f"b{k:03d}_peaks": np.full((k + 1, 2), 9.0),
            f"b{k:03d}_truth": np.ones((k + 1, 2)),
            f"b{k:03d}_snr": np.ones((k + 1, 2)),
        }
    np.savez(tmp_path / "set.npz", **arrays)
    cases = ragged.load_cases(tmp_path / "set.npz")
    assert [case.obs.shape for case in cases] == [(20, 31), (33, 24)]
    assert [len(case.centers) for case in cases] == [1, 2] and cases[0].obs.bands == ("g", "i")
