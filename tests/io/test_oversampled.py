"""PSF files of finer pixels than those of the images."""

import numpy as np
import pytest
from astropy.io import fits
from scipy.stats import norm

import jaxdeblend as jd
from jaxdeblend.io.oversampled import binned

SIGMA = 1.5
"""In pixels of the images."""


def gaussian(n, factor):
    """Gaussian integrated over n x n pixels that are finer by a factor, about the middle of the stamp."""
    edges = (np.arange(n + 1) - n / 2) / factor
    profile = np.diff(norm.cdf(edges, scale=SIGMA))
    return np.outer(profile, profile)


def write(path, stamp, **cards):
    hdu = fits.PrimaryHDU(stamp)
    hdu.header.update(cards)
    hdu.writeto(path)
    return path


@pytest.mark.parametrize(("n", "factor"), [(100, 4), (99, 3), (75, 3), (101, 5), (64, 4), (66, 2)])
def test_binning_gives_the_integral_over_larger_pixels(n, factor):
    small = binned(gaussian(n, factor), factor)
    assert small.shape[0] % 2 == 1
    np.testing.assert_allclose(small, gaussian(small.shape[0], 1), atol=1e-7)


@pytest.mark.parametrize(("n", "factor"), [(101, 4), (60, 3)])
def test_pixels_across_a_border_are_shared(n, factor):
    """The middle stays in the middle, and no light is lost."""
    small = binned(gaussian(n, factor), factor)
    np.testing.assert_allclose(small.sum(), gaussian(n, factor).sum(), rtol=1e-12)
    np.testing.assert_allclose(small, small[::-1, ::-1], atol=1e-15)
    np.testing.assert_allclose(small, gaussian(small.shape[0], 1), atol=2e-3)


@pytest.mark.parametrize("cards", [{"OVERSAMP": 4}, {"DET_SAMP": 4}])
def test_oversampled_stamps_are_binned(tmp_path, cards):
    path = write(tmp_path / "psf.fits", gaussian(100, 4), **cards)
    stamps = jd.read_psf(path, ["r"]).stamps
    np.testing.assert_allclose(stamps[0], gaussian(25, 1), atol=1e-6)


def test_the_pixel_scale_of_the_images_decides(tmp_path):
    path = write(tmp_path / "psf.fits", gaussian(100, 4), OVERSAMP=8, PIXELSCL=0.05)
    np.testing.assert_allclose(jd.read_psf(path, ["r"], pixel_scale=0.2).stamps[0], gaussian(25, 1), atol=1e-6)
    with pytest.raises(ValueError, match=r"psf.fits: has 3.2 pixels per pixel of the images .PIXELSCL is 0.05 arcsec"):
        jd.read_psf(path, ["r"], pixel_scale=0.16)
    with pytest.raises(ValueError, match="only whole numbers are binned"):
        jd.read_psf(path, ["r"], pixel_scale=0.02)


def test_stamps_of_the_pixels_of_the_images_stay(tmp_path):
    path = write(tmp_path / "psf.fits", gaussian(25, 1), PIXELSCL=0.2, OVERSAMP=1)
    np.testing.assert_allclose(jd.read_psf(path, ["r"], pixel_scale=0.2).stamps[0], gaussian(25, 1), atol=1e-6)


@pytest.mark.parametrize("edge", [25, 24])
def test_files_of_stpsf(tmp_path, edge):
    """The stamp of the detector's pixels is used if its edge is odd, else the finer one is binned."""
    fine = fits.PrimaryHDU(gaussian(4 * edge, 4), fits.Header([("EXTNAME", "OVERSAMP"), ("OVERSAMP", 4)]))
    coarse = fits.ImageHDU(gaussian(edge, 1), fits.Header([("OVERSAMP", 1), ("DET_SAMP", 4)]), name="DET_SAMP")
    fits.HDUList([fine, coarse]).writeto(tmp_path / "psf.fits")
    stamps = jd.read_psf(tmp_path / "psf.fits", ["r"]).stamps
    np.testing.assert_allclose(stamps[0], gaussian(25, 1), atol=1e-6)


def test_a_description_knows_the_pixel_scale(tmp_path):
    write(tmp_path / "psf.fits", gaussian(75, 3), PIXELSCL=0.1)
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -0.3 / 3600, "CDELT2": 0.3 / 3600}
    write(tmp_path / "r.fits", np.random.default_rng(0).normal(size=(64, 64)), **cards)
    text = 'bands = ["r"]\nimages = "r.fits"\npsf = "psf.fits"\n'
    (tmp_path / "exposure.toml").write_text(text)
    exposure = jd.read_description(tmp_path / "exposure.toml").read()
    np.testing.assert_allclose(exposure.psf.stamps[0], gaussian(25, 1), atol=1e-6)
