import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.cli import cataloging, run
from tests import star_field

pytest.importorskip("click")
pytest.importorskip("h5py")
pytest.importorskip("tqdm")

ROWS = [2, 4]
"""Two stars that are alone, so that all blends are of one shape."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small field, described, with a table of two of its stars, an empty place, and a position off the image."""
    path = tmp_path_factory.mktemp("field")
    star_field.write(path)
    files = 'images = "field_{band}.fits"\npsf = "psf_{band}.fits"\n'
    (path / "exposure.toml").write_text(f'bands = ["g", "i"]\n{files}')
    (path / "config.toml").write_text("max_iter = 12\nmax_components = 1\n")
    y, x = np.vstack([star_field.STARS[ROWS], [63.0, 40.0], [-5.0, 50.0]]).T
    Table({"x": x + 1, "y": y + 1, "sky_source": [False, False, True, False]}).write(path / "peaks.ecsv")
    return path


@pytest.fixture(scope="module")
def arguments(folder):
    given = ["--config", str(folder / "config.toml"), "--peaks", str(folder / "peaks.ecsv"), "--origin", "1"]
    return ["deblend-catalog", str(folder / "exposure.toml"), *given]


@pytest.fixture(scope="module")
def output(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("catalog") / "out"
    assert run([*arguments, "-o", str(out)]) == 1  # one position is off the image
    return out


def one_line(capsys):
    """The only line on stderr, without its prefix."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and captured.out == "", captured.err
    return lines[0].removeprefix("jaxdeblend: error: ")


def test_everything_is_written(output):
    names = ["blends.ecsv", "catalog.ecsv", "models.h5", "parents.ecsv", "positions.ecsv", "run.json"]
    assert sorted(path.name for path in output.iterdir()) == names
    table, parents = QTable.read(output / "catalog.ecsv"), Table.read(output / "parents.ecsv")
    assert len(table) == 4 and len(parents) == 2
    np.testing.assert_allclose(table["flux_i"][:2].to_value("nJy"), star_field.FLUX[ROWS, 1], rtol=0.1, atol=40)
    assert table["skip_reason"].tolist()[2:] == ["skipped: pseudo source", "skipped: outside the image"]
    assert (np.asarray(table["flags"])[2:] == [jd.Flag.NOT_DEBLENDED, jd.Flag.OUTSIDE_IMAGE]).all()
    record = json.loads((output / "run.json").read_text())
    assert record["counts"]["without_flux"] == 2 and record["config"]["max_iter"] == 12
    assert len(jd.ModelStore(output / "models.h5")) == 4


def test_a_finished_run_goes_on_to_the_same(arguments, output, capsys):
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.name != "run.json"}
    capsys.readouterr()
    assert run([*arguments, "-o", str(output)]) == 2
    assert "models.h5: exists already; go on with it by --resume" in one_line(capsys)
    assert run([*arguments, "-o", str(output), "--resume"]) == 1
    assert before == {path.name: path.read_bytes() for path in output.iterdir() if path.name != "run.json"}


def test_shards_are_merged(arguments, output, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([*arguments, "-o", str(out), "--shard", "2/2"]) == 0
    capsys.readouterr()
    assert run(["merge", str(out)]) == 2
    assert "models-1-of-2.h5: is missing; run that shard first" in one_line(capsys)
    assert run([*arguments, "-o", str(out), "--shard", "1/2"]) == 0
    assert not (out / "catalog.ecsv").exists()
    assert run(["merge", str(out)]) == 1
    for name in ("catalog.ecsv", "parents.ecsv", "blends.ecsv", "positions.ecsv", "models.h5"):
        assert (out / name).read_bytes() == (output / name).read_bytes(), name
    capsys.readouterr()
    assert run(["merge", str(out)]) == 2 and "exists already" in one_line(capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none.toml"], r"none.toml: no such file"),
        (["{folder}/exposure.toml", "--shard", "3/2"], "'3/2' is no part of a whole"),
        (["{folder}/exposure.toml", "--workers", "2", "--scheduler", "tcp://here:1"], "give --workers, which are"),
        (["{folder}/exposure.toml", "--config", "{folder}/exposure.toml"], "unknown key 'bands'; did you mean"),
        (["{folder}/exposure.toml", "--peaks", "{folder}/none.ecsv"], "none.ecsv: no such file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(options, message, folder, tmp_path, capsys):
    given = [option.format(folder=folder) for option in options]
    assert run(["deblend-catalog", *given, "-o", str(tmp_path / "out")]) == 2
    assert message in one_line(capsys) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "workers", "chunk"),
    [
        ([], None, 64),
        (["--workers", "3"], 3, 64),
        (["--scheduler", "tcp://here:1", "--chunk", "500"], "tcp://here:1", 500),
    ],
)
def test_workers_are_passed_on(options, workers, chunk, arguments, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")  # as it was, in the end
    given = {}

    def deblended(*_, **options):
        given.update(options)
        raise OSError("enough")

    monkeypatch.setattr(cataloging, "deblend_catalog", deblended)
    assert run([*arguments, "-o", str(tmp_path / "out"), *options]) == 2
    assert (given["workers"], given["chunk"]) == (workers, chunk)


@pytest.mark.slow
def test_processes_write_the_same_files(arguments, output, tmp_path):
    pytest.importorskip("distributed")
    out = tmp_path / "out"
    assert run([*arguments, "-o", str(out), "--workers", "2", "--chunk", "1"]) == 1
    for name in ("catalog.ecsv", "parents.ecsv", "blends.ecsv", "positions.ecsv", "models.h5"):
        assert (out / name).read_bytes() == (output / name).read_bytes(), name


def test_nothing_to_merge(tmp_path, capsys):
    assert run(["merge", str(tmp_path)]) == 2 and "has no shards to merge" in one_line(capsys)


def test_a_segmentation_map_is_read(folder, tmp_path, capsys):
    given = ["deblend-catalog", str(folder / "exposure.toml"), "-o", str(tmp_path / "out"), "--segmentation"]
    fits.ImageHDU(np.ones((8, 9), np.int16), name="SEGMAP").writeto(tmp_path / "map.fits")
    for name, message in (("map", "got shape (8, 9)"), ("none", "none.fits: no such file")):
        capsys.readouterr()
        assert run([*given, str(tmp_path / f"{name}.fits")]) == 2
        assert message in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_products(folder, output, capsys):
    products = ["products", str(output), str(folder / "exposure.toml")]
    capsys.readouterr()
    assert (
        run([*products, "--model", "--residual", "--overlap", "--mask", "--picture", "--cutout", "1", "--bands", "i"])
        == 0
    )
    names = ["model.fits", "residual.fits", "overlap.ecsv", "mask.fits", "overview.png", "cutout_1.fits"]
    try:
        assert f"wrote {', '.join(names)} to" in capsys.readouterr().out
        model, residual = (fits.getdata(output / name, 1) for name in names[:2])
        image = star_field.images()[1:]
        np.testing.assert_allclose(model + residual, image, atol=1e-3)
        with fits.open(output / "cutout_1.fits") as cut:
            y, x = WCS(cut["MODEL"].header, naxis=2).world_to_pixel_values(150.0, 2.0)[::-1]
            assert (y + cut[0].header["Y0"], x + cut[0].header["X0"]) == pytest.approx((35, 43), abs=1e-3)
            assert cut[0].header["ID"] == 1 and cut["CLEANED"].header["BUNIT"] == "nJy"
            np.testing.assert_allclose(cut["CLEANED"].data - cut["MODEL"].data, cut["RESIDUAL"].data, atol=1e-3)
        assert len(Table.read(output / "overlap.ecsv")) == 4
        assert run([*products, "--model"]) == 2 and "model.fits: exists already" in one_line(capsys)
    finally:
        for name in names:
            (output / name).unlink(missing_ok=True)


def test_bad_products(folder, output, capsys):
    products = ["products", str(output), str(folder / "exposure.toml")]
    for options, message in (
        ([], "give at least one of --model"),
        (["--cutout", "9"], "id: got 9, but"),
        (["--cutout", "3"], "source 3 has no model, for it was not fitted (skipped: outside the image)"),
        (["--model", "--bands", "z"], "bands: got 'z'"),
    ):
        capsys.readouterr()
        assert run([*products, *options]) == 2
        assert message in one_line(capsys)


def test_a_mask_is_written(folder, arguments, tmp_path, capsys):
    """No footprint is round enough: both stars are skipped."""
    (tmp_path / "config.toml").write_text("max_iter = 12\nmax_components = 1\nmin_footprint_axis_ratio = 1.0\n")
    given = [*arguments, "--config", str(tmp_path / "config.toml"), "-o", str(tmp_path / "out")]
    assert run([*given, "--write-mask", "--shard", "1/2"]) == 2 and "jaxdeblend products" in one_line(capsys)
    assert run([*given, "--write-mask"]) == 1
    again = jd.read_exposure(
        str(folder / "field_{band}.fits"), bands=star_field.BANDS, psf=star_field.psf(), mask=tmp_path / "out/mask.fits"
    )
    marked = again.plane("NOT_DEBLENDED")
    y, x = np.round(star_field.STARS[ROWS]).astype(int).T
    assert marked[:, y, x].all() and marked.mean() < 0.5
    np.testing.assert_array_equal(again.mask, star_field.mask())


def test_missed_sources_are_added(folder, output, tmp_path, capsys):
    y, x = np.vstack([star_field.STARS[3], [500.0, 3.0]]).T
    Table({"x": x + 1, "y": y + 1}).write(tmp_path / "more.ecsv")
    given = [
        "restart",
        str(output),
        str(folder / "exposure.toml"),
        "--add",
        str(tmp_path / "more.ecsv"),
        "--origin",
        "1",
    ]
    before = (output / "models.h5").read_bytes()
    assert run([*given, "-o", str(tmp_path / "new")]) == 1  # two positions are off the image
    assert "2 sources added, of which 1 were fitted; now 6 in 3 parents" in capsys.readouterr().out
    table, old = QTable.read(tmp_path / "new" / "catalog.ecsv"), QTable.read(output / "catalog.ecsv")
    np.testing.assert_allclose(table["flux_i"][4].to_value("nJy"), star_field.FLUX[3, 1], rtol=0.1)
    assert (table["flux_i"][:2] == old["flux_i"][:2]).all() and table["id"].tolist() == list(range(6))
    assert (output / "models.h5").read_bytes() == before
    assert len(Table.read(tmp_path / "new" / "positions.ecsv")) == 6
    assert run([*given, "-o", str(output)]) == 2 and "exists already" in one_line(capsys)
    assert run([*given, "-o", str(tmp_path / "new"), "--resume"]) == 1
