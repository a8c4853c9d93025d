import logging

import numpy as np
import pytest
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from astropy.wcs import WCS
from astropy.wcs.wcsapi import SlicedLowLevelWCS

import jaxdeblend as jd
from jaxdeblend.io import exposure_from_nddata

PSF = jd.GaussianPSF(1.5)
SHAPE = (12, 16)
FLAT = np.ones(SHAPE)


def wcs(crpix=8.0):
    system = WCS(naxis=2)
    system.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    system.wcs.crval, system.wcs.crpix = [150.0, 2.0], [crpix, 6.0]
    system.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    system.wcs.set()
    return system


def ccd(value=1.0, **options):
    return CCDData(value * FLAT, **{"unit": "adu", "uncertainty": StdDevUncertainty(2 * FLAT), **options})


def test_bands_by_name():
    mask = np.eye(*SHAPE, dtype=bool)
    bands = {"g": ccd(1.0, wcs=wcs(), mask=mask), "r": ccd(2.0, wcs=wcs(), meta={"MAGZERO": 27.5, "FILTER": "r2"})}
    exposure = exposure_from_nddata(bands, PSF)
    np.testing.assert_array_equal(exposure.images[:, 3, 4], [1, 2])
    np.testing.assert_array_equal(exposure.variance, np.full((2, *SHAPE), 4.0))
    np.testing.assert_array_equal(exposure.mask, [mask, np.zeros(SHAPE, bool)])
    assert exposure.unit == "adu" and exposure.filters == ("g", "r2") and exposure.pixel_scale == pytest.approx(0.2)
    np.testing.assert_array_equal(exposure.zero_point, [np.nan, 27.5])
    given = exposure_from_nddata(list(bands.values()), PSF, bands=["g", "r"], zero_point=25.0)
    assert given.bands == ("g", "r") and given.zero_point.tolist() == [25.0, 25.0]
    janskys = exposure_from_nddata({"g": ccd(unit="nJy")}, PSF)
    assert janskys.zero_point[0] == pytest.approx(31.4)


@pytest.mark.parametrize(
    "uncertainty", [StdDevUncertainty(2 * FLAT), VarianceUncertainty(4 * FLAT), InverseVariance(FLAT / 4)]
)
def test_every_uncertainty_becomes_a_variance(uncertainty):
    exposure = exposure_from_nddata(NDData(FLAT, uncertainty=uncertainty), PSF, bands=["r"])
    np.testing.assert_array_equal(exposure.variance[0], 4 * FLAT)


def test_a_cube(caplog):
    cube = np.random.default_rng(1).normal(0, 3, (2, 64, 64))
    mask = np.zeros(cube.shape, bool)
    mask[1, 2, 3] = True
    with caplog.at_level(logging.WARNING):
        exposure = exposure_from_nddata(NDData(cube, mask=mask), PSF, bands="gr")
    np.testing.assert_allclose(exposure.images, cube, rtol=1e-6)
    np.testing.assert_allclose(exposure.variance, 9.0, rtol=0.1)
    np.testing.assert_array_equal(exposure.mask, mask)
    assert "No variance plane" in caplog.text


def test_a_part_of_an_image_keeps_its_place():
    exposure = exposure_from_nddata({"g": ccd(wcs=wcs())[2:8, 3:9]}, PSF)
    np.testing.assert_allclose(exposure.wcs.pixel_to_world_values(0, 0), wcs().pixel_to_world_values(3, 2))


def test_coordinates_that_are_not_understood_are_dropped_with_a_warning(caplog):
    part = NDData(FLAT, uncertainty=StdDevUncertainty(FLAT), wcs=SlicedLowLevelWCS(wcs(), (slice(2, 8), slice(3, 9))))
    with caplog.at_level(logging.WARNING):
        exposure = exposure_from_nddata(part, PSF, bands="g")
    assert exposure.wcs is None and "g: its HighLevelWCSWrapper is not understood" in caplog.text


@pytest.mark.parametrize(
    ("data", "bands", "message"),
    [
        ([ccd()], None, "bands: got None; name the bands"),
        ([ccd()], "gr", "data: got shapes .* for the 2 bands"),
        ({"g": ccd(), "r": CCDData(np.ones((3, 4)), unit="adu")}, None, "data: got shapes"),
        (NDData(np.ones((3, 4, 5))), "gr", r"data: got shape \(3, 4, 5\) for the 2 bands"),
        ({"g": ccd(), "r": ccd(unit="electron")}, None, "unit: the bands have different units"),
        (
            {"g": ccd(wcs=wcs()), "r": ccd(wcs=wcs(9.5))},
            None,
            r"r: its pixel grid is offset from that of g by .*\+1.50",
        ),
        ({"g": ccd(), "r": ccd(uncertainty=None)}, None, "data: band r has no uncertainty that is known"),
        ({"g": ccd(uncertainty=UnknownUncertainty(FLAT))}, None, "data: band g has no uncertainty that is known"),
    ],
)
def test_what_is_refused(data, bands, message):
    with pytest.raises(ValueError, match=message):
        exposure_from_nddata(data, PSF, bands=bands)
