import numpy as np
import pytest
from astropy.io import fits

import jaxdeblend as jd
from jaxdeblend.io import LazyExposure, read_description

BANDS = ("g", "r")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    for number, band in enumerate(BANDS):
        image = fits.ImageHDU(np.full((16, 20), 1.0 + number), name="IMAGE")
        mask = fits.ImageHDU(
            np.eye(16, 20, dtype=np.int32) * 2, fits.Header([("MP_SAT", 1), ("MP_CR", 2)]), name="MASK"
        )
        fits.HDUList([fits.PrimaryHDU(), image, mask]).writeto(tmp_path / "data" / f"c_{band}.fits")
        fits.PrimaryHDU(np.full((16, 20), 4.0 + number)).writeto(tmp_path / "data" / f"v_{band}.fits")
        fits.PrimaryHDU(np.asarray(jd.GaussianPSF(1.5).stamp(21)[0])).writeto(tmp_path / "data" / f"p_{band}.fits")
    return tmp_path


def write(folder, text):
    (folder / "exposure.toml").write_text(text)
    return folder / "exposure.toml"


def test_paths_are_relative_to_the_file(folder, monkeypatch):
    monkeypatch.chdir("/")
    text = """
    bands = ["g", "r"]
    images = "data/c_{band}.fits"
    psf = ["data/p_g.fits", "data/p_r.fits"]
    variance = {r = "data/v_r.fits", g = "data/v_g.fits"}
    bad_mask = ["CR"]
    unit = "nJy"
    zero_point = 31.4
    """
    description = read_description(write(folder, text))
    exposure = description.read()
    np.testing.assert_array_equal(exposure.images[:, 0, 0], [1, 2])
    np.testing.assert_array_equal(exposure.variance[:, 0, 0], [4, 5])
    assert not exposure.mask.any() and exposure.unit == "nJy" and exposure.zero_point.tolist() == [31.4, 31.4]
    assert isinstance(exposure.psf, jd.ImagePSF) and exposure.psf.n_bands == 2
    lazy = description.open()
    assert isinstance(lazy, LazyExposure)
    np.testing.assert_array_equal(lazy.window(jd.Box((2, 3), (4, 5))).variance[1], np.full((4, 5), 5.0))


def test_widths_instead_of_files_and_absolute_paths(folder):
    text = f"""
    bands = ["g", "r"]
    images = ["{folder}/data/c_g.fits", "{folder}/data/c_r.fits"]
    psf_fwhm = {{g = 4, r = 3.5}}
    zero_point = [27, 28.5]
    psf_error = 0.01
    weight = "data/v_{{band}}.fits"
    """
    exposure = read_description(write(folder, text)).read()
    assert isinstance(exposure.psf, jd.MoffatPSF)
    np.testing.assert_allclose(exposure.psf.fwhm(), [4.0, 3.5])
    assert exposure.zero_point.tolist() == [27.0, 28.5] and exposure.mask.sum() == 32
    np.testing.assert_allclose(exposure.variance[:, 0, 1], [0.25, 0.2])
    for part in (exposure, read_description(folder / "exposure.toml").open().window(jd.Box((2, 3), (4, 5)))):
        np.testing.assert_allclose(part.psf_error, 0.01)
        weights = part.observation().weights[:, 0, 1]
        np.testing.assert_allclose(weights, 1 / (part.variance + (0.01 * part.images) ** 2)[:, 0, 1], rtol=1e-6)


GOOD = 'bands = ["g", "r"]\nimages = "data/c_{band}.fits"\npsf_fwhm = 4.0\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + 'bad_masks = ["SAT"]', "exposure.toml: unknown key 'bad_masks'; did you mean 'bad_mask'"),
        (GOOD.replace("images", "image"), "unknown key 'image'; did you mean 'images'"),
        (GOOD + "[deblend]\nmax_iter = 3", "unknown key 'deblend'"),
        (GOOD.replace('images = "data/c_{band}.fits"\n', ""), "the key 'images' is missing"),
        ("", "the key 'bands' is missing"),
        (GOOD + 'psf = "data/p_{band}.fits"', "give the PSF, either as files, psf, or as widths, psf_fwhm"),
        (GOOD.replace("psf_fwhm = 4.0", ""), "give the PSF, either as files"),
        (GOOD + "zero_point = [1, 2, 3]", "zero_point: got 3 values for 2 bands; give one, or one per band"),
        (GOOD + "psf_error = 1.5", "psf_error: got .*; give fractions of the light"),
        (GOOD + 'variance = {g = "data/v_g.fits"}', "variance: got entries for g, but the bands are g, r"),
        (GOOD.replace("4.0", '"wide"'), "psf_fwhm: got .*'wide'.*; give numbers"),
        (GOOD.replace("4.0", "true"), "psf_fwhm: got .*True.*; give numbers"),
        (GOOD.replace('["g", "r"]', '"gr"'), "bands: got 'gr'; give text"),
        (GOOD.replace('["g", "r"]', "[]"), "bands: got .*; give text"),
        (GOOD + "unit = 3", "unit: got .*3.*; give text"),
        (GOOD + "bad_mask = [1.5]", "bad_mask: got .*; give names or numbers of bits"),
        ("bands = [", "exposure.toml: not a readable TOML file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_description(write(folder, text))
    assert "\n" not in str(caught.value)


def test_files_that_are_missing(folder):
    with pytest.raises(FileNotFoundError, match="none.toml: no such file"):
        read_description(folder / "none.toml")
    with pytest.raises(FileNotFoundError, match="data/none.fits: no such file"):
        read_description(write(folder, GOOD.replace("data/c_{band}.fits", "data/none.fits"))).open()
