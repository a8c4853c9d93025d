import json

import numpy as np
import pytest

from benchmarks import first_result


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A blend as those of the shared data, but small."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:24, :24]
    galaxy = 50 * np.exp(-0.5 * ((y - 12) ** 2 + (x - 11) ** 2) / 6)
    images = (galaxy[None] + rng.normal(size=(1, 24, 24))).astype(np.float32)
    psf = np.exp(-0.5 * ((np.mgrid[:15, :15] - 7) ** 2).sum(axis=0) / 2)[None]
    catalog = np.array([(12.0, 11.0)], dtype=[("y", float), ("x", float)])
    path = tmp_path_factory.mktemp("blend") / "small.npz"
    variance = np.ones_like(images)
    np.savez(path, images=images, variance=variance, psfs=psf, filters=np.array(["r"]), catalog=catalog)
    return path


@pytest.mark.slow
def test_it_prints_a_line(path, capsys):
    first_result.main(["--set", str(path)])
    line = json.loads(capsys.readouterr().out)
    assert line["n_programs_again"] == 0 and 0 < line["n_programs"] < 30
    assert 0 < line["again_s"] < line["five_lines_s"]
    assert line["import_s"] < line["second_process_s"] < line["five_lines_s"]
    assert line["edited_prior_s"] > 0 and line["n_operations"] > 1000
