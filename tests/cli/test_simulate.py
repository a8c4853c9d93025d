import numpy as np
import pytest
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.cli import run
from jaxdeblend.cli.pictures import OVERVIEW, _binned
from jaxdeblend.simulate import simulate_patch

pytest.importorskip("click")

ASKED = ["--shape", "120", "150", "--bands", "g,i", "--seed", "3"]
BOX = jd.Box((40, 50), (30, 41))


@pytest.fixture(scope="module")
def patch():
    return simulate_patch(3, shape=(120, 150), bands=("g", "i"), n_sources=20)


@pytest.mark.parametrize("layout", ["lsst", "legacy"])
def test_what_is_written_is_what_was_simulated(patch, layout, tmp_path, capsys):
    out = tmp_path / "patch"
    assert run(["simulate", "patch", *ASKED, "--sources", "20", "--layout", layout, "-o", str(out)]) == 0
    assert capsys.readouterr().out.startswith("20 sources in 120 x 150 pixels, bands g, i; ")
    description = jd.read_description(out / "exposure.toml")
    exposure = description.read()
    np.testing.assert_array_equal(exposure.images, patch.images)
    np.testing.assert_array_equal(exposure.mask, patch.mask)
    np.testing.assert_allclose(exposure.variance[~patch.mask], patch.variance[~patch.mask], rtol=3e-7)
    np.testing.assert_allclose(exposure.zero_point, patch.zero_point)
    assert exposure.unit == "electron" and exposure.filters == ("g", "i")
    places = np.array([[10.0, 20.0], [100.0, 140.0]])
    np.testing.assert_array_equal(exposure.psf.stamps(places), patch.psf.stamps(places))
    truth = Table.read(out / "truth.fits")
    np.testing.assert_allclose(exposure.wcs.world_to_pixel_values(truth["ra"], truth["dec"]), [truth["x"], truth["y"]])
    np.testing.assert_array_equal(truth["flux_i"], patch.truth["flux_i"])
    assert truth["kind"].astype(str).tolist() == patch.truth["kind"].tolist()
    assert (out / "overview.png").read_bytes()[:4] == b"\x89PNG"
    window = description.open().window(BOX)
    np.testing.assert_array_equal(window.images, patch.images[(slice(None), *BOX.slices)])


def test_a_cluster(tmp_path, capsys):
    out = tmp_path / "cluster"
    assert run(["simulate", "cluster", *ASKED, "--stars", "30", "--no-pictures", "-o", str(out)]) == 0
    assert capsys.readouterr().out.startswith("30 sources in 120 x 150 pixels")
    truth = Table.read(out / "truth.fits")
    assert len(truth) == 30 and not (out / "overview.png").exists()
    assert not jd.read_description(out / "exposure.toml").read().mask.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bands", "g,H"], "`bands` must be different names out of ugrizy"),
        (["--shape", "10", "100"], "10 is not in the range"),
        (["--sources", "-1"], "-1 is not in the range"),
        (["--layout", "sdss"], "'sdss' is not one of"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert run(["simulate", "patch", *arguments, "-o", str(out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line and not out.parent.exists()


def test_existing_files_are_kept(tmp_path, capsys, monkeypatch):
    """And found before anything is simulated."""
    monkeypatch.setattr("jaxdeblend.cli.simulate.simulate_patch", lambda *_, **__: pytest.fail("was simulated"))
    (tmp_path / "patch_i.fits").write_text("precious")
    assert run(["simulate", "patch", *ASKED, "-o", str(tmp_path)]) == 2
    assert "patch_i.fits: exists already" in capsys.readouterr().err
    assert (tmp_path / "patch_i.fits").read_text() == "precious"


def test_overviews_are_means_of_usable_pixels():
    image, bad = np.arange(30.0).reshape(5, 6), np.zeros((5, 6), bool)
    bad[0, 0] = bad[2:4, 2:4] = True
    image[0, 0] = np.nan
    np.testing.assert_allclose(_binned(image, bad, 2), [[14 / 3, 5.5, 7.5], [15.5, np.nan, 19.5]])
    assert OVERVIEW >= 1000


@pytest.mark.parametrize("command", [["simulate"], ["simulate", "patch"], ["simulate", "cluster"]])
def test_help_teaches(command, capsys):
    assert run([*command, "--help"]) == 0
    assert f"jaxdeblend {' '.join(command)}" in capsys.readouterr().out
