import logging

import numpy as np
import pytest
from astropy.io import fits

import jaxdeblend as jd
from jaxdeblend.io import read_psf


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
