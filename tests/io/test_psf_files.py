import logging

import galsim
import galsim.des
import numpy as np
import pytest
from astropy.io import fits

import jaxdeblend as jd
from jaxdeblend.instrument.psf_field import ConstantPSFField, PolynomialPSFField
from jaxdeblend.io import read_psf
from jaxdeblend.io.psf_files import read_psf_field


def gaussian(sigma, edge=21, shift=(0.0, 0.0)):
    axis = np.arange(edge) - edge // 2
    y, x = axis[:, None] - shift[0], axis - shift[1]
    return np.exp(-0.5 * (y**2 + x**2) / sigma**2)


def write(path, data):
    fits.PrimaryHDU(data).writeto(path)
    return path


def test_one_file_per_band(tmp_path):
    write(tmp_path / "psf_g.fits", 5 * gaussian(2.0, 25))
    write(tmp_path / "psf_r.fits", gaussian(1.5, 21))
    psf = read_psf(tmp_path / "psf_{band}.fits", ("g", "r"))
    assert isinstance(psf, jd.ImagePSF) and psf.n_bands == 2 and psf.edge == 25
    np.testing.assert_allclose(np.asarray(psf.stamps.sum((1, 2))), 1, rtol=1e-6)
    expected = gaussian(1.5, 21) / gaussian(1.5, 21).sum()
    np.testing.assert_allclose(np.asarray(psf.stamps[1, 2:-2, 2:-2]), expected, atol=1e-7)
    assert not np.asarray(psf.stamps[1, :2]).any()


def test_a_cube_extensions_or_one_for_all(tmp_path):
    cube = np.stack([gaussian(2.0), gaussian(1.5)])
    path = write(tmp_path / "cube.fits", cube)
    both = read_psf(path, ("g", "r"))
    hdus = [
        fits.PrimaryHDU(),
        *(fits.ImageHDU(stamp, name=band) for stamp, band in zip(cube[::-1], "rg", strict=True)),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "mef.fits")
    np.testing.assert_array_equal(
        np.asarray(read_psf(tmp_path / "mef.fits", ("g", "r")).stamps), np.asarray(both.stamps)
    )
    assert read_psf(write(tmp_path / "one.fits", gaussian(2.0)), ("g", "r", "i")).n_bands == 1
    with pytest.raises(ValueError, match="cube.fits: its image has shape .*expected 3 bands"):
        read_psf(path, ("g", "r", "i"))


@pytest.mark.parametrize(
    ("stamp", "message"),
    [
        (np.ones((20, 21)), "even edge"),
        (-gaussian(2.0), "positive sum"),
        (np.where(gaussian(2.0) == 1, np.nan, gaussian(2.0)), "1 pixels that are NaN"),
        (None, "no image found"),
        (np.ones((2, 21, 21)), r"shape \(2, 21, 21\), expected 1 bands"),
    ],
)
def test_bad_stamps_are_named(tmp_path, stamp, message):
    write(tmp_path / "psf_g.fits", gaussian(2.0))
    write(tmp_path / "psf_r.fits", stamp)
    with pytest.raises(ValueError, match=f"psf_r.fits: .*{message}"):
        read_psf(tmp_path / "psf_{band}.fits", ("g", "r"))


def test_off_centre_stamps_are_reported(tmp_path, caplog):
    path = write(tmp_path / "psf.fits", gaussian(2.0, shift=(0.5, -0.3)))
    with caplog.at_level(logging.WARNING):
        read_psf(path, ("g",))
    assert "psf.fits: the centroid of the PSF is offset" in caplog.text
    assert "(+0.50, -0.3" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read_psf(write(tmp_path / "good.fits", gaussian(2.0)), ("g",))
    assert caplog.text == ""


def test_files_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="psf_g.fits: no such file"):
        read_psf(tmp_path / "psf_{band}.fits", ("g", "r"))


def psfex(path, coefficients, sampling, *, axes=("X_IMAGE", "Y_IMAGE"), **changes):
    """Write coefficients (term, n, n) as PSFEx does, for an image of 200 x 300 pixels."""
    n_terms, n, _ = coefficients.shape
    degree = int(np.sqrt(2 * n_terms)) - 1
    column = fits.Column("PSF_MASK", f"{coefficients.size}E", dim=f"({n}, {n}, {n_terms})", array=coefficients[None])
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header.update(POLNAXIS=len(axes), POLNGRP=min(len(axes), 1), PSF_SAMP=sampling, PSFNAXIS=3)
    for number, (axis, size) in enumerate(zip(axes, (300, 200), strict=False), 1):
        table.header.update({f"POLGRP{number}": 1, f"POLNAME{number}": axis})
        table.header.update({f"POLZERO{number}": (size + 1) / 2, f"POLSCAL{number}": size - 1.0})
    if axes:
        table.header["POLDEG1"] = degree
    table.header.update({f"PSFAXIS{number}": size for number, size in enumerate((n, n, n_terms), 1)})
    table.header.update(changes)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def model(degree, sampling, edge, width=1.7):
    """A PSF that gets wider to the right and sheared upwards, sampled finely."""
    axis = (np.arange(edge) - edge // 2) * sampling
    y, x = axis[:, None], axis[None, :]
    core = np.exp(-0.5 * (y**2 + x**2) / width**2)
    slopes = [1, 0.2 * (y**2 + x**2 - 2 * width**2), 0.05 * x**2, 0.2 * y * x, 0.03 * (y**2 - x**2), 0.04 * y**2]
    names = {0: [0], 1: [0, 1, 3], 2: range(6)}[degree]
    return np.stack([core * slopes[name] for name in names]).astype(np.float32)


PLACES = np.array([[0.0, 0.0], [12.5, 280.0], [99.5, 149.5], [180.0, 31.0]])


@pytest.mark.parametrize(("degree", "sampling", "edge"), [(2, 0.7, 31), (1, 0.5, 41), (2, 1.0, 25)])
def test_psfex_agrees_with_galsim(tmp_path, degree, sampling, edge):
    path = psfex(tmp_path / "r.psf", model(degree, sampling, edge), sampling)
    field = read_psf_field(path, ["r"])
    assert isinstance(field, PolynomialPSFField) and field.n_bands == 1
    other = galsim.des.DES_PSFEx(str(path))
    for (y, x), samples, stamp in zip(PLACES, field.models(PLACES), field.stamps(PLACES), strict=True):
        place = galsim.PositionD(x + 1, y + 1)
        expected = other.getPSFArray(place)
        np.testing.assert_allclose(samples[0], expected, atol=1e-6 * expected.max())
        same = galsim.InterpolatedImage(galsim.Image(expected), scale=sampling, x_interpolant=galsim.Lanczos(4))
        for profile, tolerance in ((other.getPSF(place), 1e-2), (same, 1e-6)):  # by itself GalSim takes order 3
            image = profile.drawImage(nx=field.edge, ny=field.edge, scale=1, method="no_pixel").array
            np.testing.assert_allclose(stamp[0], image / image.sum(), atol=tolerance * image.max())


def test_psfex_of_a_constant_psf(tmp_path):
    path = psfex(tmp_path / "r.psf", model(0, 0.5, 41), 0.5, axes=())
    stamps = read_psf_field(path, ["g", "r"]).stamps(PLACES)
    expected = np.exp(-0.5 * ((np.arange(21) - 10) / 1.7) ** 2)
    expected = np.outer(expected, expected) / expected.sum() ** 2
    np.testing.assert_allclose(stamps, np.broadcast_to(expected, (4, 1, 21, 21)), atol=2e-3 * expected.max())


def test_psfex_of_different_bands(tmp_path):
    """Each band comes out as if it were alone, on an edge for all."""
    psfex(tmp_path / "g.psf", model(2, 0.7, 31), 0.7)
    psfex(tmp_path / "r.psf", model(1, 0.4, 35, 1.2), 0.4, axes=("XWIN_IMAGE", "YWIN_IMAGE"))
    psfex(tmp_path / "i.psf", model(0, 0.9, 25), 0.9, axes=())
    field = read_psf_field(tmp_path / "{band}.psf", "gri")
    assert field.edge == 21 and field.n_bands == 3
    for number, band in enumerate("gri"):
        alone = read_psf_field(tmp_path / f"{band}.psf", [band])
        margin = (field.edge - alone.edge) // 2
        inside = slice(margin, field.edge - margin)
        stamps = np.asarray(field.stamps(PLACES)[:, number, inside, inside])
        assert stamps.sum(axis=(1, 2)) == pytest.approx(1.0, abs=2e-3)
        stamps = stamps / stamps.sum(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(stamps, alone.stamps(PLACES)[:, 0], atol=1e-5)


def test_stamps_make_a_constant_field(tmp_path):
    path = write(tmp_path / "cube.fits", np.stack([gaussian(2.0), gaussian(1.5)]))
    field = read_psf_field(path, ("g", "r"))
    assert isinstance(field, ConstantPSFField)
    np.testing.assert_allclose(field.at((3, 4)).stamps, read_psf(path, ("g", "r")).stamps, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ("X_IMAGE", "MAG_AUTO")}, r"POLNAME: got \('X_IMAGE', 'MAG_AUTO'\); only"),
        ({"axes": ("Y_IMAGE", "X_IMAGE")}, "POLNAME: got"),
        ({"POLNAXIS": 3}, "POLNAXIS: got 3; only PSFs that vary with the position"),
        ({"POLNGRP": 2}, "POLNGRP: got 2 groups of axes"),
        ({"POLDEG1": 3}, "PSF_MASK: got 6 images for polynomials of degree 3"),
        ({"POLZERO2": "no"}, "POLZERO2: got 'no' in the header"),
        ({"PSF_SAMP": None}, "PSF_SAMP: got .* PSFEx writes a number"),
        ({"PSF_SAMP": -0.5}, "sampling: got -0.5; give finite positive numbers"),
    ],
)
def test_other_psfex_files_are_refused(tmp_path, changes, message):
    path = psfex(tmp_path / "r.psf", model(2, 0.7, 31), 0.7, **changes)
    with pytest.raises(ValueError, match=f"r.psf: {message}"):
        read_psf_field(path, ["r"])


def test_bad_psfex_samples_are_named(tmp_path):
    for coefficients, message in ((np.full((6, 5, 5), np.nan), "NaN"), (np.ones((6, 4, 4)), "odd edge")):
        path = psfex(tmp_path / f"{message[:3]}.psf", coefficients.astype(np.float32), 0.7)
        with pytest.raises(ValueError, match=rf"{path.name}: coefficients: got .*{message}"):
            read_psf_field(path, ["r"])


def test_psfex_files_and_stamps_do_not_mix(tmp_path):
    path = psfex(tmp_path / "g.psf", model(1, 0.7, 31), 0.7)
    write(tmp_path / "r.psf", gaussian(2.0))
    with pytest.raises(ValueError, match="r.psf: no PSFEx model found"):
        read_psf_field(tmp_path / "{band}.psf", "gr")
    with pytest.raises(ValueError, match="g.psf: no image found.*read by read_psf_field"):
        read_psf(path, ["g"])
