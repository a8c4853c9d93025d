import json

import equinox as eqx
import pytest

import jaxdeblend as jd
from benchmarks import defaults
from jaxdeblend.simulate import save_truth_set, simulate_blend

ONLY = ["--only", "defaults", "--only", "30 steps"]


@pytest.mark.parametrize("name", [name for name in defaults.variations() if name != "defaults"])
def test_every_variation_changes_a_default(name):
    changes = defaults.variations()[name]
    default = {"options": jd.Initialization(), "optimizer": jd.ProximalAdam()}
    for kind, values in changes.items():
        if kind == "center_error":
            assert values != 0.1
        else:
            made = type(default[kind])(**values)
            assert not any(eqx.tree_equal(getattr(made, key), getattr(default[kind], key)) for key in values)


@pytest.mark.slow
def test_the_study_makes_lines_and_a_table(tmp_path, capsys):
    path, output = tmp_path / "small.npz", tmp_path / "table.md"
    save_truth_set(path, [simulate_blend(seed, shape=(32, 32), n_sources=2) for seed in range(2)])
    defaults.main(["--set", str(path), *ONLY, "--output", str(output)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["variation"] for line in lines] == ["defaults", "30 steps"]
    assert lines[1]["steps_median"] <= 30
    rows = output.read_text(encoding="utf-8").splitlines()
    assert rows[0] == "**small**" and rows[4].startswith("| defaults |") and rows[5].startswith("| 30 steps |")
