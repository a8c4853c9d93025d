import numpy as np
import pytest
from astropy.io import fits

import jaxdeblend as jd
from jaxdeblend.io import read_exposure
from jaxdeblend.io.photometry import zero_point_of


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"FLUXMAG0": 10**10.8, "MAGZERO": 25.0}, 27.0),
        ({"MAGZERO": 22.5}, 22.5),
        ({"BUNIT": "nanomaggy"}, 22.5),
        ({"BUNIT": "Jy"}, 8.9),
        ({"BUNIT": "uJy"}, 23.9),
        ({"BUNIT": "10*nJy"}, 28.9),
        # JWST documentation: AB = -6.10 - 2.5 log10(PIXAR_SR) for MJy/sr
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 2.29e-14}, -6.10 - 2.5 * np.log10(2.29e-14)),
        # HST documentation, ACS WFC F814W: zero points 25.943 (AB) of PHOTFLAM 7.033e-20, PHOTPLAM 8045
        ({"PHOTFLAM": 7.0332e-20, "PHOTPLAM": 8045.0, "BUNIT": "ELECTRONS/S"}, 25.943),
    ],
)
def test_zero_points(header, expected):
    assert zero_point_of(header, {}) == pytest.approx(expected, abs=0.01)
    assert zero_point_of({}, header) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("header", [{}, {"BUNIT": "adu"}, {"BUNIT": "MJy/sr"}, {"BUNIT": "what?"}, {"MAGZERO": "25"}])
def test_unknown_zero_points(header):
    assert np.isnan(zero_point_of(header, {}))


def test_a_file_like_those_of_jwst(tmp_path):
    """i2d: a primary header with the filter; SCI, ERR and planes of no use here, with NaN where nothing was seen."""
    sci = np.random.default_rng(1).normal(0, 0.1, (20, 24)).astype(np.float32)
    sci[:3] = np.nan
    cards = fits.Header([("BUNIT", "MJy/sr"), ("PIXAR_SR", 2.29e-14)])
    hdus = [
        fits.ImageHDU(sci, cards, name="SCI"),
        fits.ImageHDU(np.full(sci.shape, 0.1, np.float32), name="ERR"),
        fits.ImageHDU(np.ones((1, *sci.shape), np.int32), name="CON"),
        fits.ImageHDU(np.full(sci.shape, 900.0, np.float32), name="WHT"),
        fits.ImageHDU(np.full(sci.shape, 0.001, np.float32), name="VAR_POISSON"),
    ]
    primary = fits.PrimaryHDU(header=fits.Header([("FILTER", "F200W"), ("TELESCOP", "JWST")]))
    fits.HDUList([primary, *hdus]).writeto(tmp_path / "f200w_i2d.fits")
    exposure = read_exposure(tmp_path / "f200w_i2d.fits", bands=["f200w"], psf=jd.GaussianPSF(1.5))
    np.testing.assert_allclose(exposure.variance, 0.01, rtol=1e-6)
    assert exposure.mask[0, :3].all() and not exposure.mask[0, 3:].any()
    assert exposure.filters == ("F200W",) and exposure.unit == "MJy/sr"
    assert exposure.zero_point[0] == pytest.approx(28.0, abs=0.05)


def test_files_like_those_of_the_legacy_surveys(tmp_path):
    """Bits of other bands, and those that say where a bright star is near, make no pixel unusable."""
    bits = np.zeros((20, 24), np.int32)
    bits[1], bits[2], bits[3], bits[4], bits[5] = 1, 2, 4, 8, 64
    cards = [("IMTYPE", "maskbits"), ("NPRIMARY", 1), ("BRIGHT", 2), ("SATUR_G", 4), ("SATUR_R", 8), ("ALLM_R", 64)]
    mask = fits.ImageHDU(bits, fits.Header(cards), name="MASKBITS")
    wise = fits.ImageHDU(np.ones((20, 24), np.uint8), name="WISEM1")
    fits.HDUList([fits.PrimaryHDU(), mask, wise]).writeto(tmp_path / "maskbits.fits")
    for band in "gr":
        header = fits.Header([("BUNIT", "nanomaggy"), ("FILTER", band)])
        fits.PrimaryHDU(np.ones((20, 24)), header).writeto(tmp_path / f"image-{band}.fits")
        fits.PrimaryHDU(np.full((20, 24), 16.0)).writeto(tmp_path / f"invvar-{band}.fits")
    exposure = read_exposure(
        tmp_path / "image-{band}.fits",
        bands="gr",
        psf=jd.GaussianPSF(1.5),
        weight=tmp_path / "invvar-{band}.fits",
        mask=tmp_path / "maskbits.fits",
    )
    rows = [{int(y) for y in np.nonzero(mask.any(axis=1))[0]} for mask in exposure.mask]
    assert rows == [{3}, {4, 5}]
    assert exposure.zero_point.tolist() == [22.5, 22.5]
    assert np.nonzero(exposure.plane("SAT").any(axis=2))[1].tolist() == [3, 4]
    assert exposure.plane("NPRIMARY")[:, 1].all()
