import json

import pytest

from benchmarks import hotpants


def test_coefficients_are_those_of_hotpants(shared_data, capsys):
    path = shared_data("hotpants_oracle.json")
    hotpants.main([str(path)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["case"] for line in lines} == set(json.loads(path.read_text(encoding="utf-8"))["cases"])
    assert max(line[key] for line in lines for key in ("max_abs_kernel", "max_abs_background")) < 1e-5


def test_a_wrong_table_fails(shared_data, tmp_path):
    path = shared_data("hotpants_oracle.json")
    oracle = json.loads(path.read_text(encoding="utf-8"))
    name = "testSingleNoVariation"
    oracle["cases"] = {name: oracle["cases"][name]}
    oracle["cases"][name]["background_coefficients"][0] += 2e-5
    for image in ("template", "science"):
        (tmp_path / f"hotpants_{image}.fits").symlink_to(path.with_name(f"hotpants_{image}.fits"))
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(oracle), encoding="utf-8")
    with pytest.raises(SystemExit, match="1"):
        hotpants.main([str(wrong)])


def test_a_convention_must_be_stated():
    assert hotpants.stated(["kernel 19x19 pixels,", "stamps 49x49"], r"stamps (\d+)x\d+") == 49
    with pytest.raises(SystemExit, match="convention: found nothing that reads"):
        hotpants.stated(["no numbers"], r"sigma ([\d.]+)")
