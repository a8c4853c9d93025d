import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.io import read_description, read_exposure, write_described, write_exposure
from jaxdeblend.io.exposure_writing import LAYOUTS

BANDS = ("g", "r")
SHAPE = (24, 30)
PLANES = {"BAD": 0, "SAT": 1, "CR": 3, "NO_DATA": 8}


def wcs():
    system = WCS(naxis=2)
    system.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    system.wcs.crval, system.wcs.crpix = [150.0, 2.0], [10.0, 12.0]
    system.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    system.wcs.set()
    return system


def polynomial_psf():
    stamps = np.asarray(jd.GaussianPSF([1.3, 1.6]).stamp(17))
    changes = np.stack([stamps, 0.1 * (stamps[::-1] - stamps), 0.05 * (stamps - stamps[::-1])], axis=1)
    return jd.PolynomialPSFField(changes, zero_point=(11.5, 14.5), scale=(12.0, 15.0))


def exposure(psf=None):
    """Each plane of the mask has a pixel of its own; one more is unusable without a plane, and one has no data."""
    rng = np.random.default_rng(3)
    images, variance = rng.normal(0, 2, (2, *SHAPE)), rng.uniform(1, 3, (2, *SHAPE))
    bits = np.zeros((2, *SHAPE), np.uint16)
    for row, bit in enumerate(PLANES.values()):
        bits[:, row, 4] = 1 << bit
    bits[1, 7, 7] = 2
    images[0, 9, 9], variance[:, 3, 4] = np.nan, np.inf
    return jd.Exposure(
        images,
        variance,
        polynomial_psf() if psf is None else psf,
        bands=BANDS,
        wcs=wcs(),
        unit="electron",
        zero_point=[27.0, 28.5],
        mask_bits=bits,
        mask_planes=PLANES,
        filters=["HSC-G", "HSC-R2"],
    )


def assert_same(again, before, *, names):
    for name in names:
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
    assert again.unit == before.unit and again.filters == before.filters
    sky = [one.wcs.pixel_to_world_values(5, 6) for one in (again, before)]
    np.testing.assert_allclose(sky[0], sky[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_back(tmp_path, layout):
    before = exposure()
    path = write_described(tmp_path / "out", before, name="patch", layout=layout)
    again = read_description(path).read()
    assert_same(again, before, names=("images", "mask", "zero_point"))
    usable = ~before.mask
    np.testing.assert_allclose(again.variance[usable], before.variance[usable], rtol=3e-7)
    np.testing.assert_array_equal(again.plane("SAT"), before.plane("SAT"))
    if layout != "legacy":
        assert again.mask_planes == PLANES
        np.testing.assert_array_equal(again.plane("CR"), before.plane("CR"))
    places = np.array([[3.0, 4.0], [20.0, 28.0]])
    np.testing.assert_array_equal(again.psf.stamps(places), before.psf.stamps(places))
    assert not list((tmp_path / "out").glob(".*"))


def test_layouts_are_those_of_the_surveys(tmp_path):
    for layout in LAYOUTS:
        write_described(tmp_path / layout, exposure(), name="p", layout=layout)
    with fits.open(tmp_path / "lsst" / "p_r.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["IMAGE", "MASK", "VARIANCE"]
        assert hdus["MASK"].header["MP_NO_DATA"] == 8 and hdus["MASK"].data[3, 4] == 1 << 8
        assert hdus["IMAGE"].header["MAGZERO"] == 28.5 and hdus["IMAGE"].header["FILTER"] == "HSC-R2"
    with fits.open(tmp_path / "sci" / "p_g.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["SCI", "MSK", "WGT"]
        assert hdus["WGT"].data[3, 4] == 0 and hdus["WGT"].data[0, 0] > 0
    names = {path.name for path in (tmp_path / "legacy").iterdir()}
    assert {"p-image-g.fits", "p-invvar-r.fits", "p-maskbits.fits", "psf_g.psf", "exposure.toml"} <= names
    with fits.open(tmp_path / "legacy" / "p-maskbits.fits") as hdus:
        header, bits = hdus["MASKBITS"].header, hdus["MASKBITS"].data
    assert bits[1, 4] == header["SATUR_G"] | header["SATUR_R"] and bits[7, 7] == header["SATUR_R"]
    assert bits[9, 9] == header["ALLM_G"]


def test_one_file_keeps_the_planes(tmp_path):
    before = exposure()
    again = read_exposure(write_exposure(tmp_path / "gr.fits", before), bands=BANDS, psf=before.psf)
    assert_same(again, before, names=("images", "variance", "mask", "zero_point"))
    assert again.mask_planes == PLANES
    for name in ("SAT", "CR", "NO_DATA"):
        np.testing.assert_array_equal(again.plane(name), before.plane(name))
    added = again.plane("BAD") & ~before.plane("BAD")
    assert added.sum() == 1 and added[0, 9, 9]  # the NaN, which had no plane


def test_masks_without_names_stay_so(tmp_path):
    bits = np.zeros((2, *SHAPE), np.uint8)
    bits[0, 1, 1], bits[1, 2, 2] = 4, 1
    before = jd.Exposure(np.ones((2, *SHAPE)), [1.0, 1.0], jd.GaussianPSF(1.5), bands=BANDS, mask_bits=bits)
    assert before.mask.sum() == 2
    again = read_exposure(write_exposure(tmp_path / "gr.fits", before), bands=BANDS, psf=before.psf)
    np.testing.assert_array_equal(again.mask_bits, bits)
    np.testing.assert_array_equal(again.mask, before.mask)


def test_constant_psfs_become_stamps(tmp_path):
    for name, psf in (("one", jd.GaussianPSF(1.5)), ("two", jd.ConstantPSFField(jd.GaussianPSF([1.5, 1.8])))):
        path = write_described(tmp_path / name, exposure(psf))
        found = read_description(path).read_psf()
        assert isinstance(found, jd.ImagePSF) and found.n_bands == 2
        stamp = psf.stamps(np.zeros((1, 2)))[0] if name == "two" else psf.stamp(psf.edge)
        np.testing.assert_allclose(found.stamps, np.broadcast_to(stamp, found.stamps.shape), rtol=1e-5)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="layout: got 'sdss'; give one of lsst, sci, legacy"):
        write_described(tmp_path / "a", exposure(), layout="sdss")
    field = jd.FunctionPSFField(lambda *_: jd.GaussianPSF([1.5, 1.5]).stamp(21), 21, 2)
    with pytest.raises(ValueError, match="exposure: its PSF is a FunctionPSFField, which no file holds"):
        write_described(tmp_path / "a", exposure(field))
    assert not (tmp_path / "a").exists()
    write_described(tmp_path / "b", exposure())
    with pytest.raises(FileExistsError, match="exposure_g.fits: exists already"):
        write_described(tmp_path / "b", exposure())
    alike = jd.Exposure(np.ones((2, *SHAPE)), [1.0, 1.0], jd.GaussianPSF(1.5), bands="yY")
    with pytest.raises(ValueError, match="layout: got 'legacy' for the bands"):
        write_described(tmp_path / "c", alike, layout="legacy")


# ---- mask planes of an exposure in memory


def test_planes_choose_what_is_unusable():
    before = exposure()
    assert before.plane("CR").sum() == 2 and not before.mask[:, 2, 4].any()  # a plane that is not bad by default
    assert before.mask[:, [0, 1, 3], 4].all() and before.mask[1, 7, 7] and before.mask.sum() == 8
    np.testing.assert_array_equal(before.plane(1), before.plane("SAT"))
    with pytest.raises(ValueError, match="name: got 'DETECTED', but the exposure has BAD, SAT, CR, NO_DATA"):
        before.plane("DETECTED")
    with pytest.raises(ValueError, match="but the exposure has no named planes"):
        jd.Exposure(np.ones((1, 4, 5)), [1.0], jd.GaussianPSF(1.5), bands="r").plane("SAT")


def test_planes_can_be_added():
    before = exposure()
    pixels = np.zeros(SHAPE, bool)
    pixels[20:, 3] = True
    after = before.with_plane("NOT_DEBLENDED", pixels)
    np.testing.assert_array_equal(after.plane("NOT_DEBLENDED"), np.broadcast_to(pixels, (2, *SHAPE)))
    for name in PLANES:
        np.testing.assert_array_equal(after.plane(name), before.plane(name))
    np.testing.assert_array_equal(after.mask, before.mask)
    assert "NOT_DEBLENDED" not in before.mask_planes
    more = after.with_plane("NOT_DEBLENDED", ~pixels)
    assert more.plane("NOT_DEBLENDED").all() and more.mask_planes == after.mask_planes
    first = jd.Exposure(np.ones((1, 4, 5)), [1.0], jd.GaussianPSF(1.5), bands="r").with_plane("A", np.eye(4, 5) > 0)
    assert first.plane("A").sum() == 4 and not first.mask.any()


@pytest.mark.parametrize("bits", [np.zeros((2, 9, 9), int), np.zeros(SHAPE)])
def test_bits_are_integers_of_the_shape(bits):
    with pytest.raises(ValueError, match="mask_bits: got .* for images of shape .*; give integers"):
        jd.Exposure(np.ones((2, *SHAPE)), [1.0, 1.0], jd.GaussianPSF(1.5), bands=BANDS, mask_bits=bits)
