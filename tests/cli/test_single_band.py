import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

from jaxdeblend import SingleBandFlag
from jaxdeblend.cli import run
from jaxdeblend.io import read_models
from tests import star_field

pytest.importorskip("click")
pytest.importorskip("tqdm")

ROWS = [2, 4]
"""Two stars that are alone, so that all blends are of one shape."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a small field, and a table of two of its stars and of one off the image."""
    path = tmp_path_factory.mktemp("field")
    star_field.write(path)
    y, x = np.vstack([star_field.STARS[ROWS], [-5.0, 50.0]]).T
    Table({"x": x + 1, "y": y + 1}).write(path / "peaks.ecsv")
    return path


@pytest.fixture(scope="module")
def arguments(folder):
    files = [str(folder / "field_{band}.fits"), "--bands", "g,i", "--psf", str(folder / "psf_{band}.fits")]
    return ["single-band", *files, "--peaks", str(folder / "peaks.ecsv"), "--origin", "1"]


@pytest.fixture(scope="module")
def output(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("single") / "out"
    assert run([*arguments, "-o", str(out)]) == 1  # one position is off the image
    return out


def one_line(capsys):
    """The only line on stderr, without its prefix."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and captured.out == "", captured.err
    return lines[0].removeprefix("jaxdeblend: error: ")


def test_catalog_has_a_row_for_each_position(output):
    table = QTable.read(output / "catalog.ecsv")
    assert len(table) == len(ROWS) + 1 and table.meta["unit"] == "nJy"
    np.testing.assert_allclose(table["x"].value, [*star_field.STARS[ROWS, 1], 50.0])
    for number, band in enumerate(star_field.BANDS):
        flux = np.asarray(np.ma.filled(table[f"flux_{band}"], np.nan))
        np.testing.assert_allclose(flux[:-1], star_field.FLUX[ROWS, number], rtol=0.05, atol=40)
        assert np.isnan(flux[-1])
        assert table[f"flags_{band}"][-1] == SingleBandFlag.SKIPPED | SingleBandFlag.OUT_OF_BOUNDS


def test_children_add_up_to_the_images(output, folder):
    children, templates = (read_models(output / name) for name in ("children.fits", "templates.fits"))
    assert children.bands == ("g", "i") and len(children.sources) == len(templates.sources) == len(ROWS)
    for number, band in enumerate(children.bands):
        image, total = fits.getdata(folder / f"field_{band}.fits", "IMAGE"), children.residual[number].copy()
        for child in children.sources:
            total[child.box.slices] += child.image[number]
        good = ~star_field.mask()[number]
        np.testing.assert_allclose(total[good], image[good], atol=1e-6 * image.max())
        left = (templates.model + templates.residual)[number]
        np.testing.assert_allclose(left[good], image[good], atol=1e-5 * image.max())


def test_record_and_pictures(output):
    pictures = ["single_band_g.png", "single_band_i.png"]
    names = ["catalog.ecsv", "children.fits", "run.json", *pictures, "templates.fits"]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)
    assert all((output / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for name in pictures)
    record = json.loads((output / "run.json").read_text())
    assert record["counts"] == {"sources": 3, "blends": 2, "largest_blend": 1, "failed": 1}
    assert record["flags"]["g"]["DEBLENDED_AS_PSF"] == 2 and record["options"]["config"]["symmetry"] == "subpixel"


def test_options_reach_the_deblender(arguments, tmp_path, capsys):
    options = [
        "--max-area",
        "10",
        "--no-psf-templates",
        "--stray-flux",
        "r-to-peak",
        "--format",
        "fits",
        "--no-pictures",
    ]
    assert run([*arguments, *options, "-o", str(tmp_path / "out")]) == 1
    text = capsys.readouterr().out
    assert "3 sources have no flux" in text and "catalog.fits, children.fits, templates.fits, run.json" in text
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["flags"]["i"]["PARENT_TOO_BIG"] == 2
    config = record["options"]["config"]
    assert config["stray_flux"] == "r-to-peak" and not config["fit_psf"] and config["max_footprint_area"] == 10


def test_an_empty_sky(folder, tmp_path, capsys):
    files = [str(folder / "field_i.fits"), "--bands", "i", "--psf", str(folder / "psf_i.fits")]
    assert run(["single-band", *files, "--threshold", "1000", "-o", str(tmp_path / "out")]) == 0
    assert "0 sources in 0 blends" in capsys.readouterr().out
    assert len(QTable.read(tmp_path / "out" / "catalog.ecsv")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.fits", "--bands", "g", "--psf-fwhm", "4"], "none.fits: no such file."),
        (["none.fits", "--psf-fwhm", "4"], "Missing option '--bands'"),
        (["IMAGE", "--bands", "g"], "give the PSF, either as files by --psf or as widths by --psf-fwhm"),
        (["IMAGE", "--bands", "g", "--psf-fwhm", "4", "--symmetry", "none"], "'none' is not one of 'subpixel'"),
        (["IMAGE", "--bands", "g", "--psf-fwhm", "4", "--max-area", "-1"], "max_footprint_area: got -1"),
        (["IMAGE", "--bands", "g", "--psf-fwhm", "4", "--peaks", "none.csv"], "none.csv: no such file."),
        (["IMAGE", "--bands", "g", "--psf-fwhm", "4", "--threshold", "-5"], "threshold: got -5"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(options, message, folder, tmp_path, capsys):
    options = [str(folder / "field_{band}.fits") if word == "IMAGE" else word for word in options]
    assert run(["single-band", *options, "-o", str(tmp_path / "new" / "out")]) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "new").exists()


def test_existing_files_are_kept(arguments, output, capsys):
    before = (output / "catalog.ecsv").read_bytes()
    assert run([*arguments, "-o", str(output)]) == 2
    assert "catalog.ecsv: exists already" in one_line(capsys)
    assert (output / "catalog.ecsv").read_bytes() == before
