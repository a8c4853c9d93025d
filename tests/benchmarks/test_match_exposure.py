"""The benchmark of matched exposures, in small."""

import json

from benchmarks import match_exposure


def test_the_figures_are_there_and_good(capsys):
    match_exposure.main(["--size", "300", "--order", "3"])
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert row["fwhm_after"] < 0.05 < row["fwhm_before"] and row["ellipticity_after"] < row["ellipticity_before"]
    assert row["flux_error"] < 1e-4 and abs(row["pull_width"] - 1) < 0.03
