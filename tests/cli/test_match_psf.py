import contextlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.cli import matching, run
from jaxdeblend.cli.matching_demo import demo_stars, starlight
from jaxdeblend.cli.options import Inputs
from jaxdeblend.io import read_exposure, read_psf, read_psf_field
from tests import star_field

pytest.importorskip("click")

SIZE, WIDTH, SEED = 128, 5.6, 3
QUICK = ["--order", "2", "--cell", "64", "--kernel-size", "31", "--method", "fourier"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of a demo, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    said = io.StringIO()
    asked = ["--size", str(SIZE), "--seed", str(SEED), "--reference-fwhm", str(WIDTH), *QUICK]
    with contextlib.redirect_stdout(said):
        assert run(["match-psf", "--demo", *asked, "-o", str(folder)]) == 0
    return folder, said.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a small field; the PSFs are Gaussian and the same everywhere."""
    path = tmp_path_factory.mktemp("field")
    star_field.write(path)
    return path


@pytest.fixture
def images(folder):
    return [str(folder / "field_{band}.fits"), "--bands", "g,i", "--psf", str(folder / "psf_{band}.fits")]


def error_of(capsys):
    """The only line on stderr."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("jaxdeblend: error: ")


def test_stars_are_what_the_reference_makes_of_them(demo):
    """The truth is a field with the reference PSF everywhere: what is left is noise of the variance told."""
    exposure = read_exposure(demo[0] / "matched.fits", bands="gr", psf=read_psf(demo[0] / "psf.fits", "gr"))
    centers, fluxes = demo_stars(SIZE, SEED)
    for number in range(2):
        truth = starlight(SIZE, centers, fluxes[:, number], lambda _: (WIDTH, 0.0, 0.0), edge=exposure.psf.edge)
        left = (exposure.images[number] - truth) / np.sqrt(exposure.variance[number])
        usable = ~exposure.mask[number]
        assert usable.mean() > 0.2
        assert np.abs(left[usable].mean()) < 0.5 and left[usable].std() == pytest.approx(1, abs=0.25)


def test_every_file_is_written(demo):
    names = {path.name for path in demo[0].iterdir()}
    assert names == {
        *(f"demo_{band}.{kind}" for band in "gr" for kind in ("fits", "psf")),
        *("matched.fits", "psf.fits", "kernel.fits", "candidates.ecsv", "run.json"),
        *matching.PICTURES,
    }
    assert all((demo[0] / name).read_bytes()[:4] == b"\x89PNG" for name in matching.PICTURES)


def test_coordinates_unit_and_zero_point_are_kept(demo):
    before, after = (
        read_exposure(str(demo[0] / name), bands="gr", psf=jd.GaussianPSF(1.5))
        for name in ("demo_{band}.fits", "matched.fits")
    )
    assert after.unit == before.unit == "electron" and after.zero_point.tolist() == [31.4, 31.4]
    np.testing.assert_allclose(*(one.wcs.pixel_to_world_values(10, 20) for one in (before, after)))
    assert (after.mask | ~before.mask).all()


def test_the_kernel_can_be_rebuilt(demo):
    """From the file alone, it does what was done."""
    with fits.open(demo[0] / "kernel.fits") as hdus:
        cards, coefficients = hdus[0].header, hdus[0].data.astype(np.float32)
    box = jd.Box((cards["BOXY0"], cards["BOXX0"]), (cards["BOXNY"], cards["BOXNX"]))
    kernel = jd.SpatialKernel(coefficients, box, cards["ORDER"], cards["KIND"])
    before, after = (
        read_exposure(str(demo[0] / name), bands="gr", psf=jd.GaussianPSF(1.5))
        for name in ("demo_{band}.fits", "matched.fits")
    )
    again = kernel.convolve(np.where(before.mask, 0, before.images).astype(np.float32))
    np.testing.assert_allclose(again, after.images, atol=1e-5 * after.images.max())
    assert [cards["BAND1"], cards["BAND2"]] == ["g", "r"] and kernel.edge == 31


def test_psfs_of_the_grid_are_the_reference(demo):
    with fits.open(demo[0] / "psf.fits") as hdus:
        grid, reference = hdus["PSF_GRID"].data, hdus["REFERENCE"].data
    psf = read_psf(demo[0] / "psf.fits", "gr")
    assert grid["PSF"].shape == (9, 2, psf.edge, psf.edge) and (grid["Y"][8], grid["X"][1]) == (127, 63.5)
    np.testing.assert_allclose(psf.stamps, grid["PSF"][4], rtol=1e-5)
    np.testing.assert_allclose(reference, np.asarray(jd.MoffatPSF([WIDTH] * 2).stamp(reference.shape[-1])), atol=1e-6)
    wanted = np.asarray(jd.ImagePSF(reference).stamp(psf.edge))
    worst = np.linalg.norm(grid["PSF"] - wanted, axis=(2, 3)) / np.linalg.norm(wanted[0])
    assert worst.max() < 0.03


def test_what_is_told(demo):
    record = json.loads((demo[0] / "run.json").read_text())
    table = Table.read(demo[0] / "candidates.ecsv")
    assert record["counts"]["candidates"] == len(table) == 16 and table["good_r"].all()
    assert record["options"]["config"]["order"] == 2 and record["options"]["inputs"]["psf"][0].endswith(
        "demo_{band}.psf"
    )
    for band in "gr":
        found = record["bands"][band]
        assert found["worst_l2"] == pytest.approx(table[f"spatial_l2_{band}"].max(), rel=1e-5)
        assert found["fwhm_before"][0] < found["fwhm_before"][1] < found["fwhm_reference"]
        np.testing.assert_allclose(found["fwhm_after"], found["fwhm_reference"], rtol=0.02)
        assert f"\n{band}       16     0   {found['fwhm_before'][0]:.2f} - " in demo[1]


def test_a_demo_does_not_replace_files(demo, capsys):
    assert run(["match-psf", "--demo", "-o", str(demo[0])]) == 2
    assert "demo_g.fits: exists already" in error_of(capsys)


def test_stamps_and_a_reference_from_files(images, folder, tmp_path, capsys):
    """PSFs that are the same everywhere: one candidate, kernels of order 0."""
    reference = np.asarray(jd.GaussianPSF(1.9).stamp(21))[0]
    fits.PrimaryHDU(reference).writeto(tmp_path / "wanted.fits")
    out = tmp_path / "out"
    asked = ["--reference", str(tmp_path / "wanted.fits"), "--kernel-sum", "2", "--no-pictures"]
    assert run(["match-psf", *images, *asked, "-o", str(out)]) == 0
    assert "PSFs at 1 positions matched" in capsys.readouterr().out and not list(out.glob("*.png"))
    found = read_psf(out / "psf.fits", "gi")
    np.testing.assert_allclose(found.stamps[0], reference, atol=0.01 * reference.max())
    before, after = (
        read_exposure(str(path), bands="gi", psf=jd.GaussianPSF(1.5))
        for path in (folder / "field_{band}.fits", out / "matched.fits")
    )
    flux = [float(one.images[1, 30:51, 60:81].sum()) for one in (before, after)]
    assert flux[1] == pytest.approx(2 * flux[0], rel=0.05)


def test_reference_by_its_width(images):
    bands = ("g", "i")
    inputs = Inputs((), bands)
    exposure = star_field.exposure()
    by_width = {
        model: matching.read_reference(
            matching.MatchOptions(inputs, Path(), jd.MatchConfig(), reference_fwhm=(5.0,), reference_model=model),
            exposure,
        )
        for model in ("moffat", "gaussian")
    }
    assert isinstance(by_width["moffat"], jd.MoffatPSF) and isinstance(by_width["gaussian"], jd.GaussianPSF)
    assert [round(float(psf.fwhm()[0]), 4) for psf in by_width.values()] == [5, 5]
    broader = matching.read_reference(matching.MatchOptions(inputs, Path(), jd.MatchConfig()), exposure)
    assert isinstance(broader, jd.MoffatPSF) and broader.n_bands == 1
    assert float(broader.fwhm()[0]) == pytest.approx(1.1 * 2.3548 * 1.5, rel=0.02)  # pixels widen it a little


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give IMAGES, --bands and a PSF, or --demo alone"),
        (["IMAGE", "--demo"], "give IMAGES, --bands and a PSF, or --demo alone"),
        (["--demo", "--bands", "g,r"], "give IMAGES, --bands and a PSF, or --demo alone"),
        (["IMAGE"], "Missing option '--bands'"),
        (["IMAGE", "--bands", "g,i"], "give the PSF, either as files by --psf"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--reference-fwhm", "5,5,5"], "--reference-fwhm: got 3 widths"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--reference", "none.fits"], "none.fits: no such file"),
        (
            ["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--reference", "a.fits", "--reference-fwhm", "5"],
            "give either --reference or --reference-fwhm",
        ),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--order", "-1"], "order: got -1"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--kernel-size", "20"], "kernel_edge: got 20"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--mask-share", "2"], "mask_share: got 2"),
        (["IMAGE", "--bands", "g,i", "--psf-fwhm", "4", "--method", "magic"], "'magic' is not one of"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, folder, tmp_path, capsys):
    arguments = [str(folder / "field_{band}.fits") if word == "IMAGE" else word for word in arguments]
    out = tmp_path / "new" / "out"
    assert run(["match-psf", *arguments, "-o", str(out)]) == 2
    assert message in error_of(capsys)
    assert not out.parent.exists()


def test_deconvolution_is_refused_unless_allowed_and_warnings_are_told(images, tmp_path, capsys):
    asked = [*images, "--reference-fwhm", "3.0", "--kernel-size", "5", "--no-pictures", "-o", str(tmp_path)]
    assert run(["match-psf", *asked]) == 2
    assert error_of(capsys).startswith("target: the kernel would deconvolve: the target is narrower")
    assert not list(tmp_path.iterdir())
    assert run(["match-psf", *asked, "--allow-deconvolution"]) == 0
    assert error_of(capsys).startswith("jaxdeblend: warning: match_psf: the kernels leave")


def test_warnings_are_told_once(caplog):
    with matching.told_warnings():
        warnings.warn("be careful", stacklevel=1)
        warnings.warn("be careful", stacklevel=1)
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
    assert [record.getMessage() for record in caplog.records] == ["be careful"]


def test_other_commands_take_psfs_that_vary(demo, tmp_path):
    """The field arrives; stamps arrive as they always did."""
    asked = [str(demo[0] / "demo_{band}.fits"), "--bands", "g,r", "--psf", str(demo[0] / "demo_{band}.psf")]
    assert run(["detect", *asked, "--no-pictures", "-o", str(tmp_path)]) == 0
    assert len(Table.read(tmp_path / "peaks.ecsv")) >= 3
    assert read_psf_field(str(demo[0] / "demo_{band}.psf"), "gr").degree == 3


def test_help_teaches(capsys):
    assert run(["match-psf", "--help"]) == 0
    assert "jaxdeblend match-psf --demo -o matched/" in capsys.readouterr().out
