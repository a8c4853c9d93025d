import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

import jaxdeblend as jd
from jaxdeblend.cli import run
from jaxdeblend.io import read_exposure, read_models, read_psf
from tests import star_field
from tests.compilations import compilations

pytest.importorskip("click")
pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a small field with a few sources."""
    path = tmp_path_factory.mktemp("field")
    star_field.write(path)
    return path


@pytest.fixture
def images(folder):
    return [str(folder / "field_{band}.fits"), "--bands", "g,i", "--psf", str(folder / "psf_{band}.fits")]


def one_line(capsys):
    """The only line on stderr, without its prefix."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("jaxdeblend: error: ") and captured.out == ""
    return lines[0].removeprefix("jaxdeblend: error: ")


# ---- deblend


def test_deblend_writes_everything(images, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["deblend", *images, "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert "sources in" in captured.out and captured.err == ""
    names = ["catalog.ecsv", "deblend.png", "models.fits", "run.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    table = QTable.read(out / "catalog.ecsv")
    models = read_models(out / "models.fits")
    assert len(table) == len(models.sources) > 2 and models.bands == ("g", "i")
    image = fits.getdata(folder / "field_g.fits", "IMAGE")
    np.testing.assert_allclose((models.model[0] + models.residual[0])[:, 6:], image[:, 6:], rtol=1e-4, atol=1e-3)
    record = json.loads((out / "run.json").read_text())
    assert record["counts"]["sources"] == len(table) and record["options"]["inputs"]["bands"] == ["g", "i"]
    assert record["software"] == table.meta["software"]
    with open(out / "deblend.png", "rb") as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"


def test_deblend_given_positions(images, folder, tmp_path):
    truth = Table.read(folder / "truth.ecsv")
    shifted = Table({"X_IMAGE": np.append(truth["x"] + 1, -50.0), "Y_IMAGE": np.append(truth["y"] + 1, 5.0)})
    shifted.write(tmp_path / "p.fits")
    out = tmp_path / "out"
    options = ["--peaks", str(tmp_path / "p.fits"), "--origin", "1", "--format", "fits", "--no-pictures"]
    assert run(["deblend", *images, *options, "-o", str(out)]) == 1  # one position is off the image
    table = QTable.read(out / "catalog.fits")
    assert len(table) == len(truth) + 1 and np.isnan(np.ma.filled(table["flux_g"], np.nan)[-1])
    assert sorted(path.name for path in out.iterdir()) == ["catalog.fits", "models.fits", "run.json"]
    assert np.median(np.abs(table["x"].value[:-1] - truth["x"])) < 0.5


@pytest.mark.parametrize(
    ("given", "reached"),
    [
        ([], {"threshold": 5.0, "priors": None, "max_steps": None, "psf_error": [0, 0]}),
        (["--max-steps", "3", "--threshold", "20"], {"threshold": 20.0, "max_steps": 3}),
        (["--no-symmetry"], {"priors": ()}),
        (["--psf-error", "0.5,0.25"], {"psf_error": [0.5, 0.25]}),
        (["--psf-error", "0.5"], {"psf_error": [0.5, 0.5]}),
    ],
)
def test_options_reach_the_fit(given, reached, images, tmp_path, monkeypatch):
    """Options are passed to `deblend_catalog`, which is not run: its own tests show what they do there."""

    class CalledError(Exception):
        pass

    def called(exposure, centers, *, threshold, options, optimizer, progress):
        found = {"threshold": threshold, "psf_error": exposure.psf_error.tolist()}
        found["priors"] = None if options is None else options.priors
        found["max_steps"] = None if optimizer is None else optimizer.max_steps
        raise CalledError(found)

    monkeypatch.setattr("jaxdeblend.cli.work.deblend_catalog", called)
    with pytest.raises(CalledError) as caught:
        run(["--debug", "deblend", *images, *given, "-o", str(tmp_path / "out")])
    (found,) = caught.value.args
    assert {name: found[name] for name in reached} == reached
    assert not (tmp_path / "out").exists()


def test_existing_files_are_kept(images, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "catalog.ecsv").write_text("precious")
    assert run(["deblend", *images, "-o", str(out)]) == 2
    assert "catalog.ecsv: exists already" in one_line(capsys)
    assert (out / "catalog.ecsv").read_text() == "precious" and len(list(out.iterdir())) == 1


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.fits", "--bands", "g", "--psf-fwhm", "4"], "none.fits: no such file."),
        (["IMAGE", "--bands", "g,i", "--psf", "none.fits"], "none.fits: no such file."),
        (["IMAGE", "--bands", "g,i"], "give the PSF, either as files by --psf or as widths by --psf-fwhm"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4,4,4"], "--psf-fwhm: got 3 widths for 2 bands"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4,a"], "'4,a' is not a list of numbers"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "-1"], "fwhm: got"),
        (["IMAGE", "--bands", "g,i", "--psf", "IMAGE"], "even edge"),
        (["IMAGE", "--bands", "g,r", "--psf-fwhm", "4"], "field_r.fits: no such file."),
        (["IMAGE", "--psf-fwhm", "4"], "Missing option '--bands'"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--bad-mask", "NONE"], "bad_mask: got NONE"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--peaks", "none.csv"], "none.csv: no such file."),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--threshold", "-5"], "threshold: got -5"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--oops"], "No such option"),
        ([], "Missing argument 'IMAGES...'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, folder, tmp_path, capsys):
    arguments = [str(folder / "field_{band}.fits") if word == "IMAGE" else word for word in arguments]
    out = tmp_path / "new" / "out"
    assert run(["deblend", *arguments, "-o", str(out)]) == 2
    assert message in one_line(capsys)
    assert not out.parent.exists()


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.fits"):
        run(["deblend", "none.fits", "--bands", "g", "--psf-fwhm", "4", "-o", str(tmp_path), "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            RuntimeError("out of memory"),
            3,
            "internal error, RuntimeError: out of memory (--debug shows where)",
        ),
    ],
)
def test_interruptions_leave_nothing(error, code, message, images, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("jaxdeblend.cli.work.deblend_catalog", fail)
    out = tmp_path / "out"
    assert run(["deblend", *images, "-o", str(out)]) == code
    assert one_line(capsys) == message
    assert not out.exists()


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "click", None)
    for name in [name for name in sys.modules if name.startswith("jaxdeblend.cli.")]:
        if name != "jaxdeblend.cli.main":
            monkeypatch.delitem(sys.modules, name)
    assert run(["--version"]) == 2
    assert one_line(capsys) == "the command line needs click: pip install 'jaxdeblend[cli]'"


def test_warnings_of_the_library_are_shown(folder, tmp_path, capsys):
    fits.PrimaryHDU(fits.getdata(folder / "field_g.fits", "IMAGE")).writeto(tmp_path / "g.fits")
    out = tmp_path / "out"
    assert run(["detect", str(tmp_path / "g.fits"), "--bands", "g", "--psf-fwhm", "4", "-o", str(out)]) == 0
    assert capsys.readouterr().err.startswith("jaxdeblend: warning: No variance plane")


# ---- the other commands


def test_detect(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["detect", *images, "-o", str(out)]) == 0
    assert "sources in" in capsys.readouterr().out
    peaks, footprints = Table.read(out / "peaks.ecsv"), Table.read(out / "footprints.ecsv")
    labels = fits.getdata(out / "footprints.fits")
    assert len(peaks) == footprints["n_peaks"].sum() > 2 and labels.max() == len(footprints)
    assert footprints["area"].sum() == (labels > 0).sum() and {"ra", "dec"} <= set(peaks.colnames)
    assert (out / "detect.png").stat().st_size > 1000
    assert run(["detect", *images, "-o", str(out)]) == 2
    assert "exists already" in one_line(capsys)
    assert run(["detect", *images, "-o", str(out), "--overwrite", "--no-pictures", "--method", "starlet"]) == 0


def test_info(folder, capsys):
    assert run(["info", str(folder / "field_g.fits"), str(folder / "psf_g.fits")]) == 0
    text = capsys.readouterr().out
    for expected in (
        "VARIANCE 72x88",
        "unit         nJy",
        "pixel scale  0.2 arcsec",
        "BAD 1.1%",
        "FWHM 3.61",
    ):
        assert expected in text, text
    assert run(["info", str(folder / "truth.ecsv")]) == 2
    assert "truth.ecsv: not a readable FITS file" in one_line(capsys)


def test_demo(tmp_path, capsys):
    out = tmp_path / "demo"
    assert run(["demo", "--size", "64", "--seed", "4", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "compared with the truth" in text and "completeness" in text
    names = {path.name for path in out.iterdir()}
    assert {"field_g.fits", "psf_i.fits", "truth.ecsv", "catalog.ecsv", "models.fits", "deblend.png"} <= names
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["found"] > 2
    again = read_exposure(out / "field_{band}.fits", bands="gri", psf=read_psf(out / "psf_{band}.fits", "gri"))
    assert again.unit == "electron" and again.wcs is not None


@pytest.mark.parametrize("command", [[], ["deblend"], ["single-band"], ["detect"], ["info"], ["demo"]])
def test_help_teaches(command, capsys):
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: jaxdeblend" in text and f"  jaxdeblend {' '.join(command)}" in text


def test_no_command_shows_help_and_version_is_told(capsys):
    assert run([]) == 0
    assert "See it work:" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jaxdeblend 0.")


def test_the_process_exits_with_the_code():
    code = "import sys; from jaxdeblend.cli import main; sys.argv = ['jaxdeblend', 'info', 'none.fits']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == "jaxdeblend: error: none.fits: no such file.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("signal_sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing(signal_sent, code, images, tmp_path):
    out = tmp_path / "out"
    script = (
        "import signal, sys, time\nimport jaxdeblend.cli.work as work\nfrom jaxdeblend.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell has background jobs ignore it
        "work.deblend_catalog = lambda *_, **__: time.sleep(120)\n"
        f"sys.argv = ['jaxdeblend', *{['deblend', *images, '-o', str(out)]!r}]\nmain()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not out.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal_sent)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code and not out.exists(), error
    assert "Traceback" not in error


# ---- warmup


def test_warmup_compiles_every_combination(capsys):
    assert (
        run(["warmup", "--bands", "g,r", "--size", "20", "--sources", "1", "--sources", "2", "--psf-edge", "11"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["20 pixels, 1 sources", "20 pixels, 2 sources"]


def test_after_warmup_bright_blends_compile_nothing(capsys, rng):
    """Those whose first models are refined need a program more than faint ones."""
    assert run(["warmup", "--bands", "g", "--size", "20", "--sources", "2", "--psf-edge", "15"]) == 0
    psf = np.asarray(jd.GaussianPSF([1.4]).stamp(15))
    images = rng.normal(size=(1, 20, 20)).astype(np.float32)
    images[:, 3:18, 2:17] += 5000 * psf
    obs = jd.Observation(images, np.ones_like(images), psf, bands=["g"])
    with compilations() as names:
        jd.deblend(obs, [(10.0, 9.0)])
    stages = ("prepare_observation", "expand_sources", "refine_models", "make_blend", "fit_blend", "measure_blend")
    assert not {*names} & {f"jit({stage})" for stage in stages}
