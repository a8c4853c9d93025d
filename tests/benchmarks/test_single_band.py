import json

import numpy as np
import pytest

from benchmarks import single_band


def test_light_of_a_galaxy_is_where_it_should_be():
    image = single_band.galaxy(np.array([30.2, 29.6]))
    y, x = np.mgrid[: len(image), : len(image)]
    assert image.sum() == pytest.approx(1, abs=0.03)
    assert ((image * y).sum() / image.sum(), (image * x).sum() / image.sum()) == pytest.approx((30.2, 29.6), abs=0.02)


def test_figures_in_small(monkeypatch, capsys):
    monkeypatch.setattr(single_band, "EDGE", 41)
    monkeypatch.setattr(single_band, "CASES", [case for case in single_band.CASES if case.name[-3:] == "1.5"])
    monkeypatch.setattr(single_band, "CASES", [single_band.Case("equal 1.0", (1.0, 1.0), 1.0), *single_band.CASES])
    monkeypatch.setattr(single_band, "ROWS", [single_band.ROWS[0]])
    single_band.main(["--runs", "4"])
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert len(table) == 5
    assert figures["f1_max_difference"] == 0
    assert figures["f2_conservation"] < 1e-6
    assert max(figures["f3_rms_1fwhm"], figures["f3_rms_15fwhm"], figures["f3_faint_rms_15fwhm"]) < 0.1
    assert figures["f4_centroid_error_px"] < 0.05
    assert figures["f5_flagged_fraction"] == 1
    assert figures["f7_ms"] > 0
