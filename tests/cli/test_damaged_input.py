"""What users give by mistake, or find damaged: one line, exit code 2, and nothing is written."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.cli import run
from jaxdeblend.io import output_folder

pytest.importorskip("click")
pytest.importorskip("h5py")
pytest.importorskip("tqdm")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with an image, tables, and things that are none."""
    monkeypatch.chdir(tmp_path)
    image, variance = (fits.ImageHDU(np.ones((32, 40), np.float32), name=name) for name in ("IMAGE", "VARIANCE"))
    fits.HDUList([fits.PrimaryHDU(), image, variance]).writeto("r.fits")
    whole = (tmp_path / "r.fits").read_bytes()
    (tmp_path / "short.fits").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.fits").mkdir()
    (tmp_path / "gone.fits").symlink_to("nowhere.fits")
    (tmp_path / "empty.fits").touch()
    Table({"x": np.zeros(0), "y": np.zeros(0)}).write("none.csv")
    Table({"col": [3.0], "row": [4.0]}).write("peaks.csv")
    (tmp_path / "letters.csv").write_text("x,y\n1o,2\n")
    (tmp_path / "exposure.toml").write_text('bands = ["r"]\nimages = "r.fits"\npsf_fwhm = 4\n')
    (tmp_path / "bad.toml").write_text('bands = ["r"\n')
    return tmp_path


def said(capsys):
    """The only line on stderr, without its prefix."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("jaxdeblend: error: ")


IMAGE = ["r.fits", "--bands", "r", "--psf-fwhm", "4"]

MISTAKES = {
    "no bands": (["deblend", "r.fits", "--bands", "", "--psf-fwhm", "4"], "'--bands': '' names nothing"),
    "only commas": (["detect", "r.fits", "--bands", " , ", "--psf-fwhm", "4"], "'--bands': ' , ' names nothing"),
    "folder": (["detect", "folder.fits", *IMAGE[1:]], "folder.fits: is a folder; give the name of a file"),
    "link": (
        ["detect", "gone.fits", *IMAGE[1:]],
        "gone.fits: is a symbolic link to nowhere.fits, which does not",
    ),
    "empty": (["detect", "empty.fits", *IMAGE[1:]], "empty.fits: not a readable FITS file (it is empty, 0 bytes)"),
    "short": (["detect", "short.fits", *IMAGE[1:]], "short.fits: not a readable FITS file ("),
    "info": (["info", "short.fits"], "short.fits: not a readable FITS file ("),
    "no rows": (["deblend", *IMAGE, "--peaks", "none.csv"], "none.csv: the table has columns, but no rows"),
    "letters": (["deblend", *IMAGE, "--peaks", "letters.csv"], "letters.csv: column x, row 1: '1o' is no number"),
    "columns": (["deblend", *IMAGE, "--peaks", "peaks.csv"], "peaks.csv: no columns of positions found among col, row"),
    "option": (["deblend", *IMAGE, "--peaks", "peaks.csv", "--columns", "y,col"], "peaks.csv: no column y; it has"),
    "order": (["single-band", *IMAGE, "--peaks", "peaks.csv", "--columns", "x,y"], "columns: got x,y, x before y"),
    "toml": (["deblend-catalog", "bad.toml"], "bad.toml: not a readable TOML file ("),
    "config": (["deblend-catalog", "exposure.toml", "--config", "bad.toml"], "bad.toml: not readable as TOML ("),
    "rows": (["deblend-catalog", "exposure.toml", "--peaks", "none.csv"], "none.csv: the table has columns, but no"),
    "store": (["products", ".", "exposure.toml", "--model"], "models.h5: no such file"),
    "output": (["detect", *IMAGE, "-o", "r.fits/out"], "r.fits: is a file; give the name of a folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_line_and_exit_code_2(folder, capsys, mistake):
    arguments, message = MISTAKES[mistake]
    assert run(arguments) == 2
    assert message in said(capsys)
    assert not (folder / "out").exists()


COMMANDS = {
    "detect": ["detect", *IMAGE],
    "deblend": ["deblend", *IMAGE],
    "single-band": ["single-band", *IMAGE],
    "deblend-catalog": ["deblend-catalog", "exposure.toml"],
    "shard": ["deblend-catalog", "exposure.toml", "--shard", "1/2"],
    "resume": ["deblend-catalog", "exposure.toml", "--resume"],
    "restart": ["restart", "run", "exposure.toml", "--add", "peaks.csv", "-o", "out"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_is_refused_where_another_runs(folder, capsys, command):
    output = [] if command == "restart" else ["-o", "out"]
    with output_folder(folder / "out"):
        assert run([*COMMANDS[command], *output]) == 2
    assert said(capsys).startswith("out: this process on ")


def test_a_shard_is_refused_where_the_same_shard_runs(folder, capsys):
    """Other shards may write to the folder, but a store has one writer."""
    header = jd.StoreHeader(bands=("r",))
    writer = jd.StoreWriter.create(folder / "out" / "models-1-of-2.h5", header)
    assert run(["deblend-catalog", "exposure.toml", "--shard", "1/2", "-o", "out"]) == 2
    assert "out/models-1-of-2.h5: this process on" in said(capsys)
    writer.suspend()


INTERRUPTED = """
    import os, signal, sys
    from jaxdeblend.io import output_folder
    with output_folder(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_does_not_block(folder):
    subprocess.run([sys.executable, "-c", textwrap.dedent(INTERRUPTED), "out"], timeout=300)
    assert (folder / "out" / ".jaxdeblend.lock").exists()
    with output_folder(folder / "out"):
        pass
    assert not (folder / "out" / ".jaxdeblend.lock").exists()
