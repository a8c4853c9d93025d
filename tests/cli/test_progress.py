"""Messages and progress bars on a terminal."""

import io
import logging
import sys
import threading

import numpy as np
import pytest
from astropy.io import fits

import jaxdeblend as jd
from jaxdeblend.cli import run
from jaxdeblend.runtime.progress import announce

progress = pytest.importorskip("jaxdeblend.cli.progress")


class Terminal(io.StringIO):
    """Text as a terminal gets it."""

    def isatty(self):
        return True


@pytest.fixture
def star(tmp_path):
    """Arguments that read an image of one star."""
    image = np.pad(100 * np.asarray(jd.GaussianPSF(1.5).stamp(15)[0]), 10)
    path = tmp_path / "r.fits"
    planes = [fits.ImageHDU(image, name="IMAGE"), fits.ImageHDU(np.ones_like(image), name="VARIANCE")]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(path)
    return [str(path), "--bands", "r", "--psf-fwhm", "3.5", "-o", str(tmp_path / "out")]


def test_a_terminal_shows_each_stage(star, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert run(["detect", *star]) == 0
    lines = sys.stderr.getvalue().splitlines()
    stages = [line.partition(" s  ")[2] for line in lines]
    assert stages == [
        "reading images of 1 bands, 35 x 35 pixels",
        "detecting sources in 1 bands of 35 x 35 pixels",
        "1 sources in 1 footprints above 5 sigma",
        "writing peaks.ecsv, footprints.ecsv, footprints.fits, detect.png",
    ]
    seconds = [float(line.partition(" s  ")[0]) for line in lines]
    assert seconds == sorted(seconds) and seconds[0] >= 0


def test_a_file_gets_no_more_than_warnings(star, capsys):
    assert run(["detect", *star]) == 0
    assert capsys.readouterr().err == ""


def test_messages_reach_the_logger_of_progress(caplog):
    with caplog.at_level(logging.INFO, logger="jaxdeblend.progress"):
        announce("reading %d images", 3)
    assert caplog.messages == ["reading 3 images"]


class Awaited(Terminal):
    """A terminal that says when a text was drawn."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.drawn = threading.Event()

    def write(self, text):
        if self.text in text:
            self.drawn.set()
        return super().write(text)


def test_a_bar_counts(monkeypatch):
    terminal = Awaited("4/5")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress_bar("deblending", "blend") as report:
        assert "deblending: 00:00" in terminal.getvalue()
        report(2, 5)
        report(2, 5)
        assert terminal.drawn.wait(60)


def test_the_clock_of_a_bar_runs_by_itself(monkeypatch):
    terminal = Awaited("00:01")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.progress_bar("deblending", "blend"):
        assert terminal.drawn.wait(60)
    assert not any("refresh" in thread.name for thread in threading.enumerate())


def test_without_a_terminal_there_is_no_bar(capsys):
    with progress.progress_bar("deblending", "blend") as report:
        report(1, 2)
    assert capsys.readouterr().err == ""
