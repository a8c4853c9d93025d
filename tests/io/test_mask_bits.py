"""Bits of surveys have names; bits without names that mask much are worth a warning."""

import logging

import numpy as np
import pytest
from astropy.io import fits

import jaxdeblend as jd
from jaxdeblend.io import MASK_KINDS
from jaxdeblend.io.mask_bits import mask_bits, mask_kind_of

PSF = jd.GaussianPSF(1.5)
SHAPE = (48, 48)
IMAGE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def write(path, bits, *, primary=None, mask=None):
    """Image with a mask in which the i-th pixel of the first row has the i-th bit."""
    values = np.zeros(SHAPE, np.uint32)
    values[0, list(bits)] = [1 << bit for bit in bits]
    first = fits.PrimaryHDU()
    first.header.update(primary or {})
    dq = fits.ImageHDU(values, name="DQ")
    dq.header.update(mask or {})
    planes = [fits.ImageHDU(IMAGE, name="SCI"), fits.ImageHDU(np.ones(SHAPE, np.float32), name="ERR"), dq]
    fits.HDUList([first, *planes]).writeto(path)
    return path


@pytest.mark.parametrize(
    ("header", "bad", "names"),
    [
        ({"TELESCOP": "JWST"}, {0}, {"JUMP_DET": 2, "DEAD": 10, "REFERENCE_PIXEL": 31}),
        ({"TELESCOP": "ROMAN"}, {0}, {"OUTLIER": 7, "TELEGRAPH": 15, "UNRELIABLE_RESET": 28}),
        ({"TELESCOP": "HST", "INSTRUME": "ACS"}, set(range(15)) - {6}, {"HOT": 4, "SATURATED": 8, "CRREJ": 13}),
        ({"TELESCOP": "HST", "INSTRUME": "WFC3", "DETECTOR": "IR"}, {*range(10), 12} - {6}, {"ZEROSIG": 11}),
        ({"TELESCOP": "Euclid", "INSTRUME": "VIS"}, {0, 1, 2, 3, 4, 7, 8, 12, 21, 22}, {"NO_DATA": 22, "OBJECTS": 24}),
        ({"TELESCOP": "EUCLID", "INSTRUME": "NISP"}, {0}, {"INVALID": 0}),
        ({"DES_EXT": "IMAGE"}, {0, 1, 3, 4, 6, 7, 8, 9, 10}, {"CRAY": 4, "TRAIL": 6, "NEAREDGE": 13}),
    ],
)
def test_bits_of_surveys_have_names(tmp_path, header, bad, names):
    path = write(tmp_path / "r.fits", range(32), primary=header)
    exposure = jd.read_exposure(path, bands=["r"], psf=PSF)
    assert set(np.nonzero(exposure.mask[0, 0])[0].tolist()) == bad and not exposure.mask[0, 1:].any()
    assert names.items() <= exposure.mask_planes.items()
    name, bit = next(iter(names.items()))
    chosen = jd.read_exposure(path, bands=["r"], psf=PSF, bad_mask=[name])
    assert np.nonzero(chosen.mask[0, 0])[0].tolist() == [bit]


def test_a_mask_can_be_said_to_be_of_a_survey(tmp_path):
    path = write(tmp_path / "r.fits", range(10), primary={"TELESCOP": "HST", "INSTRUME": "ACS"})
    for kind, count in (("jwst", 1), ("any", 10), ("legacy-dq", 8)):
        assert jd.read_exposure(path, bands=["r"], psf=PSF, mask_kind=kind).mask.sum() == count
    with pytest.raises(ValueError, match="mask_kind: got 'hubble'; give one of jwst, roman, hst"):
        jd.read_exposure(path, bands=["r"], psf=PSF, mask_kind="hubble")
    (tmp_path / "exposure.toml").write_text('bands = ["r"]\nimages = "r.fits"\npsf_fwhm = 3.5\nmask_kind = "jwst"\n')
    assert jd.read_description(tmp_path / "exposure.toml").read().mask.sum() == 1


def test_names_in_headers_come_first(tmp_path):
    path = write(tmp_path / "r.fits", range(10), primary={"TELESCOP": "JWST"}, mask={"MP_SAT": 3})
    exposure = jd.read_exposure(path, bands=["r"], psf=PSF)
    assert np.nonzero(exposure.mask[0, 0])[0].tolist() == [3] and exposure.mask_planes == {"SAT": 3}


def test_masks_of_the_legacy_surveys():
    assert mask_bits("legacy", "z").planes["ALLMASK"] == 7 and "SAT" not in mask_bits("legacy", "y").planes
    assert mask_kind_of({"IMTYPE": "allmask"}) == "legacy-dq" and mask_kind_of({"IMTYPE": "maskbits"}) == "legacy"


@pytest.mark.parametrize("kind", [kind for kind in MASK_KINDS if kind not in ("any", "legacy")])
def test_bad_planes_are_planes(kind):
    known = mask_bits(kind)
    assert set(known.bad) <= set(known.planes) and len(set(known.planes.values())) == len(known.planes)


@pytest.mark.parametrize(("share", "warned"), [(0.05, False), (0.3, True)])
def test_many_pixels_masked_by_bits_without_names(tmp_path, caplog, share, warned):
    bits = np.where(np.random.default_rng(1).random(SHAPE) < share, 4, 0).astype(np.uint8)
    planes = [fits.ImageHDU(data, name=name) for name, data in (("SCI", IMAGE), ("DQ", bits))]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(tmp_path / "r.fits")
    options = {"bands": ["r"], "psf": PSF, "variance": [1.0]}
    with caplog.at_level(logging.WARNING):
        jd.read_exposure(tmp_path / "r.fits", **options)
    assert ("bits that have no names mask" in caplog.text) == warned
    caplog.clear()
    jd.read_exposure(tmp_path / "r.fits", bad_mask=[2], **options)
    assert not caplog.records
