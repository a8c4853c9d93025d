"""Images are in the order of the bands."""

import numpy as np
import pytest
from astropy.io import fits

import jaxdeblend as jd
from jaxdeblend.io.filters import check_filters

IMAGE = np.random.default_rng(0).normal(size=(48, 48)).astype(np.float32)
PSF = jd.GaussianPSF(1.5)


@pytest.mark.parametrize(
    ("bands", "filters"),
    [
        (("g", "r"), ("g", "r")),
        (("g", "r"), ("HSC-G", "HSC-R2")),
        (("g", "r"), ("G.MP9402", "r.MP9602")),
        (("F606W", "F814W"), ("f606w", "F814W")),
        (("blue", "red"), ("g", "r")),
        (("g", "r"), ("g DECam SDSS c0001 4720.0 1520.0", "r DECam SDSS c0002 6415.0 1480.0")),
        (("Y", "y"), ("Y", "y")),
        (("VIS", "Y"), ("VIS", "NIR_Y")),
        (("g", "r"), (None, "r")),
        (("g", "r"), ("CLEAR", "none")),
        (("g", "r"), ("none", "none")),
    ],
)
def test_filters_of_the_bands_are_accepted(bands, filters):
    check_filters(bands, filters, bands)


@pytest.mark.parametrize(
    ("bands", "filters"),
    [
        (("g", "r"), ("r", "g")),
        (("g", "r"), ("HSC-R", "HSC-G")),
        (("g", "r"), ("HSC-R", None)),
        (("F606W", "F814W"), ("F814W", "F606W")),
        (("y", "Y"), ("Y", "y")),
    ],
)
def test_another_order_is_refused(bands, filters):
    message = f"bands: got {', '.join(bands)}, but the headers say {filters[0]} .a.fits., .*another order"
    with pytest.raises(ValueError, match=message):
        check_filters(bands, filters, ["a.fits", "b.fits"])


def files(folder, **filters):
    for band, name in filters.items():
        hdu = fits.PrimaryHDU(IMAGE)
        hdu.header["FILTER"] = name
        hdu.writeto(folder / f"{band}.fits")
    return folder / "{band}.fits"


def test_files_in_another_order(tmp_path):
    files(tmp_path, g="g", r="r")
    with pytest.raises(ValueError, match=r"got g, r, but the headers say r .*r.fits., g .*g.fits"):
        jd.read_exposure([tmp_path / "r.fits", tmp_path / "g.fits"], bands=["g", "r"], psf=PSF, variance=[1.0, 1.0])
    exposure = jd.read_exposure(tmp_path / "{band}.fits", bands=["g", "r"], psf=PSF, variance=[1.0, 1.0])
    assert exposure.filters == ("g", "r")


def test_two_images_of_one_filter(tmp_path):
    pattern = files(tmp_path, a="F606W", b="F606W")
    with pytest.raises(ValueError, match="images of one filter, or chips of one exposure, are not bands"):
        jd.read_exposure(pattern, bands=["a", "b"], psf=PSF, variance=[1.0, 1.0])


def test_two_chips_of_one_file(tmp_path):
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(IMAGE, name="SCI", ver=version) for version in (1, 2))]
    fits.HDUList(hdus).writeto(tmp_path / "flc.fits")
    with pytest.raises(ValueError, match="flc.fits that differ in EXTVER alone .1, 2., as chips of one exposure do"):
        jd.read_exposure(tmp_path / "flc.fits", bands=["g", "r"], psf=PSF, variance=[1.0, 1.0])


def test_extensions_that_say_their_filters_are_bands(tmp_path):
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(IMAGE, name="SCI", ver=version) for version in (1, 2))]
    for hdu, name in zip(hdus[1:], "gr", strict=True):
        hdu.header["FILTER"] = name
    fits.HDUList(hdus).writeto(tmp_path / "gr.fits")
    exposure = jd.read_exposure(tmp_path / "gr.fits", bands=["g", "r"], psf=PSF, variance=[1.0, 1.0])
    assert exposure.filters == ("g", "r")
    with pytest.raises(ValueError, match="another order"):
        jd.read_exposure(tmp_path / "gr.fits", bands=["r", "g"], psf=PSF, variance=[1.0, 1.0])


def test_a_cube_has_one_header(tmp_path):
    hdu = fits.PrimaryHDU(np.stack([IMAGE, IMAGE]))
    hdu.header["FILTER"] = "r"
    hdu.writeto(tmp_path / "cube.fits")
    jd.read_exposure(tmp_path / "cube.fits", bands=["g", "r"], psf=PSF, variance=[1.0, 1.0])
