import logging

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.io import read_exposure, write_exposure

PSF = jd.GaussianPSF(1.5)
SHAPE = (24, 30)


def make_wcs(crpix=(15.5, 12.5), scale=0.2):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = crpix
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    wcs.wcs.set()
    return wcs


def image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def write(path, *planes, primary=None):
    """Write a FITS file of (EXTNAME, data[, header]) extensions."""
    hdus = [fits.PrimaryHDU(primary)]
    for name, data, *header in planes:
        hdus.append(fits.ImageHDU(data, fits.Header(header[0]) if header else None, name=name))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("names", [("IMAGE", "VARIANCE"), ("SCI", "VAR"), ("sci", "var")])
def test_read_one_file_per_band(tmp_path, names):
    for seed, band in enumerate("gri"):
        write(tmp_path / f"c-{band}.fits", (names[0], image(seed)), (names[1], np.full(SHAPE, seed + 1.0)))
    exposure = read_exposure(tmp_path / "c-{band}.fits", bands=("g", "r", "i"), psf=PSF)
    for seed in range(3):
        np.testing.assert_array_equal(exposure.images[seed], image(seed))
    np.testing.assert_array_equal(exposure.variance[:, 0, 0], [1, 2, 3])
    assert not exposure.mask.any() and exposure.wcs is None and exposure.unit is None
    listed = read_exposure([tmp_path / f"c-{b}.fits" for b in "gri"], bands=("g", "r", "i"), psf=PSF)
    np.testing.assert_array_equal(listed.images, exposure.images)


@pytest.mark.parametrize(
    ("name", "values", "variance"),
    [
        ("VARIANCE", 4.0, 4.0),
        ("ERR", 3.0, 9.0),
        ("RMS", 3.0, 9.0),
        ("STDDEV", 3.0, 9.0),
        ("WHT", 0.25, 4.0),
        ("INVVAR", 0.25, 4.0),
        ("IVAR", 0.25, 4.0),
        ("WEIGHT", 0.25, 4.0),
    ],
)
def test_every_kind_of_noise_plane_becomes_a_variance(tmp_path, name, values, variance):
    path = write(tmp_path / "r.fits", (name, np.full(SHAPE, values)), primary=image())
    exposure = read_exposure(path, bands=["r"], psf=PSF)
    np.testing.assert_allclose(exposure.variance, variance)


def test_weight_zero_is_masked_and_variance_comes_before_weight(tmp_path):
    weight = np.full(SHAPE, 0.25)
    weight[3, 4] = 0
    only = write(tmp_path / "a.fits", ("SCI", image()), ("WGT", weight))
    exposure = read_exposure(only, bands=["r"], psf=PSF)
    assert exposure.mask.sum() == 1 and exposure.mask[0, 3, 4]
    both = write(tmp_path / "b.fits", ("SCI", image()), ("WHT", weight), ("VARIANCE", np.full(SHAPE, 7.0)))
    np.testing.assert_allclose(read_exposure(both, bands=["r"], psf=PSF).variance, 7.0)


def test_named_mask_planes(tmp_path):
    bits = np.zeros(SHAPE, np.int32)
    bits[1, 1], bits[2, 2], bits[3, 3], bits[4, 4] = 1 << 0, 1 << 1, 1 << 5, (1 << 1) | (1 << 5)
    header = [("MP_BAD", 0), ("MP_SAT", 1), ("HIERARCH MP_DETECTED", 5), ("HIERARCH MP_SENSOR_EDGE", 9)]
    path = write(tmp_path / "r.fits", ("IMAGE", image()), ("MASK", bits, header), ("VARIANCE", np.ones(SHAPE)))

    def bad(**options):
        mask = read_exposure(path, bands=["r"], psf=PSF, **options).mask[0]
        return {int(y) for y in np.nonzero(mask)[0]}

    assert bad() == {1, 2, 4}
    assert bad(bad_mask=["DETECTED"]) == {3, 4}
    assert bad(bad_mask=["BAD", 5]) == {1, 3, 4}
    assert bad(bad_mask=[]) == set()
    with pytest.raises(ValueError, match="bad_mask: got NO_DATA, which the mask of .*r.fits.*has BAD, SAT, DETECTED"):
        bad(bad_mask=["SAT", "NO_DATA"])


def test_unnamed_mask_planes(tmp_path):
    bits = np.zeros(SHAPE, np.uint16)
    bits[1, 1], bits[2, 2] = 1, 4
    path = write(tmp_path / "r.fits", ("SCI", image()), ("DQ", bits), ("ERR", np.ones(SHAPE)))
    assert read_exposure(path, bands=["r"], psf=PSF).mask.sum() == 2
    assert read_exposure(path, bands=["r"], psf=PSF, bad_mask=[0]).mask.sum() == 1
    with pytest.raises(ValueError, match="it names no planes .no MP_ cards., so give bit numbers"):
        read_exposure(path, bands=["r"], psf=PSF, bad_mask=["SAT"])


def test_bad_mask_needs_a_mask(tmp_path):
    path = write(tmp_path / "r.fits", ("SCI", image()), ("ERR", np.ones(SHAPE)))
    with pytest.raises(ValueError, match="bad_mask: got SAT, but .*r.fits has no MASK or DQ plane"):
        read_exposure(path, bands=["r"], psf=PSF, bad_mask=["SAT"])


@pytest.mark.parametrize("style", ["cube", "IMAGE_{}", "{}-SCI", "{}"])
def test_one_file_for_all_bands(tmp_path, style):
    cube, variance = image(1, (3, *SHAPE)), np.full((3, *SHAPE), 2.0)
    if style == "cube":
        mask = np.eye(*SHAPE, dtype=int)
        path = write(tmp_path / "all.fits", ("SCI", cube), ("VAR", variance), ("MASK", mask))
    else:
        planes = [(style.format(band), plane) for band, plane in zip("gri", cube, strict=True)]
        planes += [(f"VAR_{band}", plane) for band, plane in zip("gri", variance, strict=True)]
        path = write(tmp_path / "all.fits", *planes[::-1], ("MASK", np.eye(*SHAPE, dtype=int)))
    exposure = read_exposure(path, bands=("g", "r", "i"), psf=PSF)
    np.testing.assert_array_equal(exposure.images, cube)
    np.testing.assert_allclose(exposure.variance, 2.0)
    assert (exposure.mask == np.eye(*SHAPE, dtype=bool)).all()


def test_equally_named_extensions_are_bands_in_order(tmp_path):
    cube = image(1, (2, *SHAPE))
    error = np.ones(SHAPE)
    planes = [("SCI", cube[0]), ("ERR", error), ("SCI", cube[1]), ("ERR", error)]
    path = write(tmp_path / "all.fits", *planes)
    exposure = read_exposure(path, bands=("g", "r"), psf=PSF)
    np.testing.assert_array_equal(exposure.images, cube)


def test_bands_that_differ_only_in_case(tmp_path):
    hdus = [fits.PrimaryHDU()]
    for name, value in (("IMAGE_y", 1.0), ("IMAGE_Y", 2.0)):
        hdu = fits.ImageHDU(np.full(SHAPE, value))
        hdu.header["EXTNAME"] = name
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(tmp_path / "all.fits")
    exposure = read_exposure(tmp_path / "all.fits", bands=("Y", "y"), psf=PSF, variance=[1.0, 1.0])
    np.testing.assert_array_equal(exposure.images[:, 0, 0], [2, 1])


def test_missing_band_is_named(tmp_path):
    path = write(tmp_path / "all.fits", ("IMAGE_g", image()), ("IMAGE_r", image()))
    with pytest.raises(ValueError, match="found the image of band r, g but not of i"):
        read_exposure(path, bands=("g", "r", "i"), psf=PSF)


def test_compressed_images(tmp_path):
    values = np.round(image() * 100).astype(np.int32)
    hdu = fits.CompImageHDU(values, compression_type="RICE_1")
    noise = fits.CompImageHDU(np.full(SHAPE, 4, np.int32), compression_type="RICE_1", name="INVVAR")
    fits.HDUList([fits.PrimaryHDU(), hdu, noise]).writeto(tmp_path / "r.fits.fz")
    exposure = read_exposure(tmp_path / "r.fits.fz", bands=["r"], psf=PSF)
    np.testing.assert_array_equal(exposure.images[0], values)
    np.testing.assert_allclose(exposure.variance, 0.25)


def test_ccddata_written_by_astropy(tmp_path):
    data = CCDData(
        image(),
        unit="adu",
        uncertainty=StdDevUncertainty(np.full(SHAPE, 3.0)),
        mask=np.eye(*SHAPE, dtype=bool),
    )
    data.write(tmp_path / "r.fits")
    exposure = read_exposure(tmp_path / "r.fits", bands=["r"], psf=PSF)
    np.testing.assert_allclose(exposure.variance, 9.0)
    np.testing.assert_array_equal(exposure.mask[0], np.eye(*SHAPE, dtype=bool))
    assert exposure.unit == "adu"


def test_noise_is_estimated_where_none_is_given(tmp_path, caplog):
    noise = np.random.default_rng(5).normal(0, 3, (200, 200))
    noise[:10, :10] += 1e5  # sources do not count
    noise[50, 50] = np.nan
    path = write(tmp_path / "r.fits", primary=noise)
    with caplog.at_level(logging.WARNING):
        exposure = read_exposure(path, bands=["r"], psf=PSF)
    assert "No variance plane" in caplog.text
    np.testing.assert_allclose(exposure.variance, 9.0, rtol=0.05)


def test_noise_of_nothing_cannot_be_estimated(tmp_path):
    path = write(tmp_path / "r.fits", primary=np.zeros(SHAPE))
    with pytest.raises(ValueError, match="variance: no variance plane, and band r shows no noise"):
        read_exposure(path, bands=["r"], psf=PSF)


def test_planes_from_files_of_their_own(tmp_path):
    for band in "gr":
        write(tmp_path / f"image-{band}.fits", primary=image())
        write(tmp_path / f"invvar-{band}.fits", primary=np.full(SHAPE, 0.25))
        write(tmp_path / f"var-{band}.fits", primary=np.full(SHAPE, 5.0))
    write(tmp_path / "maskbits.fits", primary=np.eye(*SHAPE, dtype=np.int16))
    images = tmp_path / "image-{band}.fits"
    exposure = read_exposure(
        images,
        bands=("g", "r"),
        psf=PSF,
        weight=tmp_path / "invvar-{band}.fits",
        mask=tmp_path / "maskbits.fits",
    )
    np.testing.assert_allclose(exposure.variance, 4.0)
    np.testing.assert_array_equal(exposure.mask[1], np.eye(*SHAPE, dtype=bool))
    files = read_exposure(images, bands=("g", "r"), psf=PSF, variance=tmp_path / "var-{band}.fits")
    np.testing.assert_allclose(files.variance, 5.0)
    numbers = read_exposure(images, bands=("g", "r"), psf=PSF, variance=np.array([2.0, 3.0]))
    np.testing.assert_allclose(numbers.variance[:, 0, 0], [2.0, 3.0])


def test_units_and_zero_points(tmp_path):
    header = [("BUNIT", "nJy"), ("FLUXMAG0", 10**10.8)]
    for band in "gr":
        write(tmp_path / f"{band}.fits", ("SCI", image(), header), ("VAR", np.ones(SHAPE)))
    exposure = read_exposure(tmp_path / "{band}.fits", bands=("g", "r"), psf=PSF)
    assert exposure.unit == "nJy"
    np.testing.assert_allclose(exposure.zero_point, 27.0)
    write(tmp_path / "i.fits", ("SCI", image(), [("BUNIT", "adu")]), ("VAR", np.ones(SHAPE)))
    paths = [tmp_path / "g.fits", tmp_path / "i.fits"]
    units = "unit: the bands have different units .*g.fits 'nJy', .*i.fits 'adu'"
    with pytest.raises(ValueError, match=units):
        read_exposure(paths, bands=("g", "i"), psf=PSF)
    assert read_exposure(paths, bands=("g", "i"), psf=PSF, unit="adu").unit == "adu"


# ---- pixel grids


def grids(tmp_path, *wcss):
    for band, wcs in zip("gri", wcss, strict=False):
        header = wcs.to_header() if wcs else None
        fits.HDUList(
            [
                fits.PrimaryHDU(),
                fits.ImageHDU(image(), header, name="SCI"),
                fits.ImageHDU(np.ones(SHAPE), name="VAR"),
            ]
        ).writeto(tmp_path / f"{band}.fits")
    return {"paths": [tmp_path / f"{b}.fits" for b in "gri"[: len(wcss)]], "bands": tuple("gri"[: len(wcss)])}


def test_wcs_is_read(tmp_path):
    exposure = read_exposure(**grids(tmp_path, make_wcs(), make_wcs((15.505, 12.5))), psf=PSF)
    np.testing.assert_allclose(exposure.wcs.pixel_to_world_values(14.5, 11.5), [150.0, 2.0])
    assert exposure.pixel_scale == pytest.approx(0.2)


def test_shifted_grids_are_refused_with_their_offset(tmp_path):
    # the same star is 0.3 px to the right and 1 px lower
    files = grids(tmp_path, make_wcs(), make_wcs((15.8, 11.5)))
    with pytest.raises(
        ValueError, match=r"r.fits\[SCI\]: its pixel grid is offset .*g.fits\[SCI\] by .*\(-1.00, \+0.30\)"
    ):
        read_exposure(**files, psf=PSF)


def test_other_pixel_scales_are_refused(tmp_path):
    with pytest.raises(ValueError, match="its pixel grid is offset"):
        read_exposure(**grids(tmp_path, make_wcs(), make_wcs(scale=0.21)), psf=PSF)


def test_grids_of_opposite_skies_are_refused(tmp_path):
    other = make_wcs()
    other.wcs.crval = [330.0, -2.0]
    with pytest.raises(ValueError, match=r"\(dy, dx\) = \(\+?nan, \+?nan\)|its pixel grid is offset"):
        read_exposure(**grids(tmp_path, make_wcs(), other), psf=PSF)


def test_a_missing_wcs_is_taken_to_agree(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        exposure = read_exposure(**grids(tmp_path, make_wcs(), None), psf=PSF)
    assert exposure.wcs is not None
    assert "r.fits[SCI]: no celestial WCS" in caplog.text


def test_parent_origins_do_no_harm(tmp_path):
    header = make_wcs().to_header()
    header.update({"LTV1": -4000.0, "LTV2": -8000.0, "CRVAL1A": 4000.0, "CRPIX1A": 1.0, "CTYPE1A": "LINEAR"})
    hdu = fits.ImageHDU(image(), header, name="IMAGE")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "r.fits")
    exposure = read_exposure(tmp_path / "r.fits", bands=["r"], psf=PSF, variance=[1.0])
    np.testing.assert_allclose(exposure.wcs.pixel_to_world_values(14.5, 11.5), [150.0, 2.0])


def test_extensions_of_one_file_must_be_on_one_grid(tmp_path):
    hdus = [fits.PrimaryHDU()]
    for band, wcs in zip("gr", (make_wcs(), make_wcs((10, 10))), strict=True):
        hdus.append(fits.ImageHDU(image(), wcs.to_header(), name=f"IMAGE_{band}"))
    fits.HDUList(hdus).writeto(tmp_path / "all.fits")
    with pytest.raises(ValueError, match=r"all.fits\[IMAGE_R\]: its pixel grid is offset"):
        read_exposure(tmp_path / "all.fits", bands=("g", "r"), psf=PSF, variance=[1.0, 1.0])


# ---- bad files


def test_shapes_must_agree(tmp_path):
    write(tmp_path / "g.fits", primary=image())
    write(tmp_path / "r.fits", primary=image(shape=(10, 11)))
    with pytest.raises(ValueError, match=r"r.fits: its image has shape \(10, 11\), but that of .*g.fits has"):
        read_exposure(tmp_path / "{band}.fits", bands=("g", "r"), psf=PSF)


def test_number_of_files(tmp_path):
    for band in "gr":
        write(tmp_path / f"{band}.fits", primary=image())
    paths = [tmp_path / "g.fits", tmp_path / "r.fits"]
    with pytest.raises(ValueError, match="paths: got 2 files for the 3 bands"):
        read_exposure(paths, bands=("g", "r", "i"), psf=PSF)
    with pytest.raises(ValueError, match=r"g.fits: its image has shape \(24, 30\), expected 2 bands"):
        read_exposure(paths[0], bands=("g", "r"), psf=PSF)


def test_files_that_are_no_fits(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.fits: no such file"):
        read_exposure(tmp_path / "none.fits", bands=["r"], psf=PSF)
    (tmp_path / "text.fits").write_text("hello")
    with pytest.raises(ValueError, match="text.fits: not a readable FITS file"):
        read_exposure(tmp_path / "text.fits", bands=["r"], psf=PSF)
    path = write(tmp_path / "r.fits", primary=image(shape=(100, 100)))
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(ValueError, match="r.fits: not a readable FITS file .*truncated"):
        read_exposure(path, bands=["r"], psf=PSF)


def test_files_without_an_image(tmp_path):
    path = write(tmp_path / "r.fits", ("VARIANCE", np.ones(SHAPE)))
    with pytest.raises(ValueError, match="r.fits: no image found; expected data in the primary HDU"):
        read_exposure(path, bands=["r"], psf=PSF)


def test_planes_of_some_bands_only(tmp_path):
    write(tmp_path / "g.fits", ("SCI", image()), ("VAR", np.ones(SHAPE)))
    write(tmp_path / "r.fits", ("SCI", image()))
    with pytest.raises(ValueError, match="r.fits: no variance plane, but the files of the other bands"):
        read_exposure(tmp_path / "{band}.fits", bands=("g", "r"), psf=PSF)


# ---- written and read again


def test_what_is_written_is_read_again(tmp_path):
    images, mask = np.stack([image(1), image(2)]), np.zeros((2, *SHAPE), bool)
    mask[0, 3, 4] = mask[1, 5, 6] = True
    images[0, 7, 7], variance = np.nan, np.stack([np.full(SHAPE, 2.0), np.full(SHAPE, 3.0)])
    variance[1, 8, 8] = 0
    exposure = jd.Exposure(
        images, variance, PSF, bands=("y", "Y"), mask=mask, wcs=make_wcs(), unit="adu", zero_point=[31.4, np.nan]
    )
    path = write_exposure(tmp_path / "both.fits", exposure)
    again = read_exposure(path, bands=("y", "Y"), psf=PSF)
    for name in ("images", "variance", "mask", "zero_point"):
        np.testing.assert_array_equal(getattr(again, name), getattr(exposure, name))
    assert again.unit == "adu" and exposure.mask.sum() == 4
    np.testing.assert_allclose(again.wcs.pixel_to_world_values(3, 4), make_wcs().pixel_to_world_values(3, 4))


def test_files_are_not_replaced_unasked(tmp_path):
    exposure = jd.Exposure(image()[None], [1.0], PSF, bands=["r"])
    path = write_exposure(tmp_path / "r.fits", exposure)
    with pytest.raises(FileExistsError, match="r.fits: exists already"):
        write_exposure(path, exposure)
    assert read_exposure(write_exposure(path, exposure, overwrite=True), bands=["r"], psf=PSF).wcs is None
