import dataclasses
import json

import numpy as np
import pytest

import jaxdeblend as jd
from benchmarks import psf_matching
from jaxdeblend.psf_match.sparse import Sparse

FIGURES = ["l2", "linf", "ee", "w_minus", "noise_gain", "sum_error"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Moffat profiles as wide as the PSFs of HSC."""
    path = tmp_path_factory.mktemp("psfs") / "psfs.npz"
    np.savez(path, filters=np.array(["g", "r"]), psfs=np.asarray(jd.MoffatPSF([4.3, 3.0], 3.0).stamp(43), float))
    return path


@pytest.fixture
def few_solvers(monkeypatch):
    """Of all solvers, those that compile fast."""
    found = {"lsq": (1e-6, jd.LeastSquares()), "sparse": (1e-6, Sparse(psf_matching.THRESHOLD))}
    monkeypatch.setattr(psf_matching, "solvers", lambda _: found)


def lines_of(capsys, *arguments):
    psf_matching.main(list(arguments))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_lines_of_a_pair(path, few_solvers, tmp_path, monkeypatch, capsys):
    case = dataclasses.replace(psf_matching.CASES[4], required={"l2": 6e-3})  # wings of Moffat profiles go on
    monkeypatch.setattr(psf_matching, "CASES", [case])
    results = tmp_path / "lines.jsonl"
    lines = lines_of(capsys, "--data", str(path), "--case", "K4", "--results", str(results))
    assert [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] == lines
    assert all(line["case"] == "K4" and line["kernel_size"] == 21 and set(FIGURES) <= set(line) for line in lines)
    methods = {line["method"]: line for line in lines}
    assert len(methods) == 2 + len(psf_matching.photutils_kernels()) and methods["lsq"]["met"]
    assert 0 < methods["sparse"]["pixels"] <= 1 and "met" not in methods["photutils ratio"]
    best = min(line["l2"] for name, line in methods.items() if name.startswith("photutils"))
    assert methods["lsq"]["l2"] < best  # theirs are cropped


def test_a_gaussian_is_found_again(path, few_solvers, capsys):
    methods = {line["method"]: line for line in lines_of(capsys, "--data", str(path), "--case", "K9")}
    assert methods["lsq"]["met"] and abs(methods["lsq"]["sigma"] - 4) < 1e-3
    assert abs(methods["photutils wiener laplacian 1e-06"]["sigma"] - 4) < 0.06


@pytest.mark.slow
def test_real_psfs(shared_data, few_solvers, capsys):
    path = str(shared_data("hsc_cosmos_35.npz"))
    lines = lines_of(capsys, "--data", path, "--case", "K6", "--case", "K7")
    judged = [line for line in lines if "met" in line]
    assert {line["case"] for line in judged} == {"K6", "K7"} and all(line["met"] for line in judged)


def test_the_varying_psf_is_that_of_its_widths():
    corners = np.array([[0.0, 0.0], [1.0, 1.0], [-1.0, 1.0]])
    widths = np.asarray(jd.ImagePSF(psf_matching.varying_stamps(corners)).fwhm())
    np.testing.assert_allclose(widths, [3.5, 4.2, 3.0], rtol=0.07)  # pixels included


def test_a_limit_that_is_not_kept_fails(path, few_solvers, monkeypatch, capsys):
    case = dataclasses.replace(psf_matching.CASES[4], required={"l2": 1e-9})
    monkeypatch.setattr(psf_matching, "CASES", [case])
    with pytest.raises(SystemExit, match="1"):
        psf_matching.main(["--data", str(path), "--case", "K4"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["met"] for line in lines if "met" in line] == [False]
