import json
import sys
import types

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.ragged import Case, flux_error
from jaxdeblend import Observation
from jaxdeblend.simulate import simulate_blend

ADAPTER = """
import sys
import numpy as np

with np.load(sys.argv[1], allow_pickle=False) as file:
    blends = dict(file)
assert list(blends["bands"]) == ["g", "i"]
out = {"version": "fake 1.0", "device": "cpu"}
for number in range(2):
    b = f"b{number:03d}"
    assert blends[b + "_centers"].shape == (2, 2)
    assert blends[b + "_images"].shape == blends[b + "_variance"].shape and blends[b + "_psfs"].shape[0] == 2
    assert np.isinf(blends[b + "_variance"][0, 0, 0]) and (blends[b + "_variance"] > 0).all()
    out[b + "_first_s"], out[b + "_again_s"], out[b + "_steps"] = 500.0, AGAIN, np.nan
    out[b + "_flux"] = 1.25 * TRUTH[number]
np.savez(sys.argv[2], **out)
"""
"""A peer whose times are known, and whose fluxes are all a quarter too high."""


@pytest.fixture(scope="module")
def cases():
    cases = []
    for seed in range(2):
        scene = simulate_blend(seed, shape=(32, 32), bands=("g", "i"), n_sources=2)
        mask = np.zeros((32, 32), bool)
        mask[0, 0] = True
        obs = Observation(scene.images, scene.variance, scene.psf, bands=scene.bands, mask=mask)
        cases.append(Case(obs, scene.centers, 0.1, scene.flux, np.full_like(scene.snr, 30.0)))
    return cases


def adapter(folder, cases, again="100.0"):
    truth = [case.truth.tolist() for case in cases]
    path = folder / "peers_fake.py"
    path.write_text(ADAPTER.replace("AGAIN", again).replace("TRUTH", f"np.array({truth})"))
    return path


def test_ratios_are_those_of_the_seconds(tmp_path, cases, monkeypatch, capsys):
    results = [
        types.SimpleNamespace(measurements=types.SimpleNamespace(flux=0.9 * case.truth), n_steps=20 + k)
        for k, case in enumerate(cases)
    ]
    seconds = iter([8.0, 1.0, 9.0, 2.0])
    monkeypatch.setattr(peers, "deblend_all", lambda _: (results, next(seconds)))
    monkeypatch.setattr(peers, "load_cases", lambda _: cases)
    path = adapter(tmp_path, cases)
    peers.main(["--set", __file__, "--python", sys.executable, "--adapter", str(path), "--repeat", "3"])
    line = json.loads(capsys.readouterr().out)
    assert (line["peer"], line["blends"], line["sources"]) == ("fake 1.0", 2, 4)
    assert (line["speedup_first"], line["speedup_again"]) == (1000 / 8, 200 / 2)
    ours, theirs = line["ours"], line["theirs"]
    assert (ours["first_s"], ours["again_s"], ours["steps_median"]) == (8.0, 2.0, 20.5)
    assert (theirs["first_s"], theirs["again_s"], theirs["steps_median"]) == (1000.0, 200.0, None)
    assert (ours["flux_error_snr20"], theirs["flux_error_snr20"]) == (0.1, 0.25)
    assert theirs["lost"] == ours["lost"] == 0


def test_what_cannot_be_told_is_null(tmp_path, cases):
    peer = peers.run_peer(cases, python=sys.executable, adapter=adapter(tmp_path, cases, again="np.nan"))
    assert np.isnan(peer["again_s"]).all() and peers._rounded(peer["again_s"].sum(), 2) is None


def test_lost_sources_count(cases):
    lost = [np.full_like(case.truth, np.nan) for case in cases]
    assert flux_error(cases, [cases[0].truth, lost[1]], snr_min=20.0) == np.inf
    assert flux_error(cases, [cases[0].truth, cases[1].truth], snr_min=20.0) == 0


def test_a_missing_environment_is_named(tmp_path, cases):
    with pytest.raises(SystemExit, match="^--python: cannot run .*nowhere.*: .*pip install fake$"):
        peers.run_peer(cases, python=tmp_path / "nowhere", adapter=adapter(tmp_path, cases))
    path = tmp_path / "peers_fake.py"
    path.write_text("import a_peer_that_nobody_installed")
    with pytest.raises(SystemExit, match="^fake: ModuleNotFoundError: .*nobody_installed.*pip install fake$"):
        peers.run_peer(cases, python=sys.executable, adapter=path)


@pytest.mark.parametrize("body", ["pass", "import sys, numpy; numpy.savez(sys.argv[2], version='1', device='cpu')"])
def test_an_adapter_that_writes_something_else(tmp_path, cases, body):
    path = tmp_path / "peers_fake.py"
    path.write_text(body)
    with pytest.raises(SystemExit, match="^fake: not what an adapter should write"):
        peers.run_peer(cases, python=sys.executable, adapter=path)


def test_blends_are_taken_from_the_whole_set():
    assert peers.select(list(range(100)), 12) == list(range(0, 96, 8))
    assert peers.select(list(range(3)), 12) == [0, 1, 2]
