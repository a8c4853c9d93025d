import gzip
import pickle

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.instrument.psf_field import GridPSFField
from jaxdeblend.io import open_exposure, read_exposure, read_planes

BANDS = ("g", "r")
SHAPE = (60, 83)
PSF = jd.GaussianPSF(1.5)
BOX = jd.Box((17, 40), (20, 31))
MASK_CARDS = [("MP_BAD", 0), ("MP_SAT", 1), ("HIERARCH MP_DETECTED", 5)]


def wcs():
    system = WCS(naxis=2)
    system.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    system.wcs.crval, system.wcs.crpix = [150.0, 2.0], [40.0, 30.0]
    system.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    system.wcs.set()
    return system


def planes(band, mask_type=np.int32):
    """Image, variance and mask of a band, all different everywhere."""
    rng = np.random.default_rng(ord(band))
    bits = rng.choice([0, 1, 2, 32, 34], SHAPE, p=[0.8, 0.05, 0.05, 0.05, 0.05]).astype(mask_type)
    return rng.normal(0, 3, SHAPE).astype(np.float32), rng.uniform(1, 4, SHAPE).astype(np.float32), bits


def write_plain(path, band):
    image, variance, bits = planes(band)
    header = wcs().to_header()
    header.update(BUNIT="nJy", FILTER=f"HSC-{band.upper()}")
    hdus = [
        fits.ImageHDU(image, header, name="IMAGE"),
        fits.ImageHDU(bits, fits.Header(MASK_CARDS), name="MASK"),
        fits.ImageHDU(variance, name="VARIANCE"),
    ]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)


def write_compressed(path, band):
    """Lossless, and a mask that FITS must shift."""
    image, variance, bits = planes(band, np.uint16)
    options = {"compression_type": "GZIP_2", "quantize_level": 0.0}
    hdus = [
        fits.CompImageHDU(image, wcs().to_header(), name="IMAGE", **options),
        fits.CompImageHDU(variance, name="VARIANCE", **options),
        fits.ImageHDU(bits, fits.Header(MASK_CARDS), name="MASK"),
    ]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)


def write_scaled(path, band):
    """Images of scaled integers, as raw data often are."""
    image, variance, bits = planes(band)
    scaled = fits.ImageHDU(np.round(image * 1000) / 1000, name="IMAGE")
    scaled.scale("int32", bscale=0.001, bzero=0.25)
    hdus = [scaled, fits.ImageHDU(variance.astype(">f8"), name="VARIANCE"), fits.ImageHDU(bits, name="MASK")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)


WRITERS = {"plain.fits": write_plain, "packed.fits.fz": write_compressed, "scaled.fits": write_scaled}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lazy")
    for name, write in WRITERS.items():
        for band in BANDS:
            write(path / f"{band}-{name}", band)
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_a_window_is_what_astropy_reads(folder, name):
    lazy = open_exposure(folder / f"{{band}}-{name}", bands=BANDS, psf=PSF)
    assert lazy.shape == SHAPE and lazy.box == jd.Box((0, 0), SHAPE)
    window, whole = lazy.window(BOX), lazy.read()
    for number, band in enumerate(BANDS):
        with fits.open(folder / f"{band}-{name}") as hdus:
            expected = {key: hdus[key].data for key in ("IMAGE", "VARIANCE", "MASK")}
        for exposure, slices in ((window, BOX.slices), (whole, lazy.box.slices)):
            np.testing.assert_array_equal(exposure.images[number], expected["IMAGE"][slices].astype(np.float32))
            np.testing.assert_array_equal(exposure.variance[number], expected["VARIANCE"][slices].astype(np.float32))
            np.testing.assert_array_equal(exposure.mask_bits[number], expected["MASK"][slices])


def test_a_window_of_the_file_is_that_of_the_exposure(folder):
    options = {"bands": BANDS, "psf": varying(), "bad_mask": ["DETECTED"]}
    lazy = open_exposure(folder / "{band}-plain.fits", **options)
    whole = read_exposure(folder / "{band}-plain.fits", **options)
    one, two = lazy.window(BOX), whole.window(BOX)
    for name in ("images", "variance", "mask", "mask_bits", "zero_point"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.filters == two.filters == ("HSC-G", "HSC-R") and one.unit == two.unit == "nJy"
    assert one.mask_planes == two.mask_planes == {"BAD": 0, "SAT": 1, "DETECTED": 5}
    np.testing.assert_array_equal(one.mask, one.plane("DETECTED"))
    np.testing.assert_array_equal(one.zero_point, [31.4, 31.4])
    assert lazy.pixel_scale == pytest.approx(0.2)


def varying():
    stamps = np.asarray(jd.GaussianPSF([1.0, 1.5, 1.5, 2.0]).stamp(17)).reshape(2, 2, 1, 17, 17)
    return GridPSFField(stamps, [0, SHAPE[0] - 1], [0, SHAPE[1] - 1])


def test_windows_keep_their_place_on_the_sky_and_in_the_psf(folder):
    lazy = open_exposure(folder / "{band}-plain.fits", bands=BANDS, psf=varying())
    window = lazy.window(BOX)
    sky = [exposure.wcs.pixel_to_world_values(*place) for exposure, place in ((lazy, (45, 20)), (window, (5, 3)))]
    np.testing.assert_allclose(sky[1], sky[0], rtol=0, atol=1e-12)
    again = window.window(jd.Box((3, 4), (10, 11)))
    for exposure, place in ((window, (8.0, 9.0)), (again, (5.0, 5.0))):
        np.testing.assert_array_equal(exposure.psf_at(place).stamps, lazy.psf_at((25.0, 49.0)).stamps)
    assert lazy.widest_fwhm() == lazy.read().widest_fwhm() > window.widest_fwhm()


def test_an_observation_is_the_same_from_files_and_from_memory(folder):
    lazy = open_exposure(folder / "{band}-plain.fits", bands=BANDS, psf=varying())
    exclude = np.zeros(BOX.shape, bool)
    exclude[2, 3] = True
    one, two = (exposure.observation(BOX, exclude=exclude) for exposure in (lazy, lazy.read()))
    for name in ("images", "weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.psf.stamps, two.psf.stamps)


def test_only_the_window_is_read(folder, tmp_path):
    """What lies behind the window may even be gone."""
    source = (folder / "g-plain.fits").read_bytes()
    (tmp_path / "g.fits").write_bytes(source)
    pixels = read_planes(tmp_path / "g.fits").planes[0].pixels
    assert pixels.dtype is not None and pixels.read(BOX).base is None
    (tmp_path / "g.fits").write_bytes(source[: pixels.offset] + b"\0" * (len(source) - pixels.offset))
    assert not pixels.read(BOX).any()
    (tmp_path / "g.fits").unlink()
    with pytest.raises(ValueError, match="g.fits: not a readable FITS file any more"):
        pixels.read(BOX)


def test_cubes_and_files_of_noise(tmp_path):
    cube = np.random.default_rng(1).normal(0, 2, (2, *SHAPE))
    fits.PrimaryHDU(cube).writeto(tmp_path / "image.fits")
    fits.PrimaryHDU(np.full((1, 2, *SHAPE), 0.25)).writeto(tmp_path / "weight.fits")
    lazy = open_exposure(tmp_path / "image.fits", bands=BANDS, psf=PSF, zero_point=[27.0, 28.0], unit="adu")
    assert lazy.unit == "adu" and lazy.zero_point.tolist() == [27.0, 28.0]
    np.testing.assert_allclose(lazy.window(BOX).variance, 4.0, rtol=0.1)  # estimated
    weighted = open_exposure(tmp_path / "image.fits", bands=BANDS, psf=PSF, weight=tmp_path / "weight.fits")
    np.testing.assert_array_equal(weighted.window(BOX).variance, np.full((2, *BOX.shape), 4.0))
    variance = np.random.default_rng(2).uniform(1, 2, cube.shape)
    for given in (variance, [2.0, 3.0]):
        window = open_exposure(tmp_path / "image.fits", bands=BANDS, psf=PSF, variance=given).window(BOX)
        expected = np.reshape([2.0, 3.0], (2, 1, 1)) if given is not variance else variance[(..., *BOX.slices)]
        np.testing.assert_allclose(window.variance, np.broadcast_to(expected, window.images.shape), rtol=1e-6)
        np.testing.assert_allclose(window.images, cube[(..., *BOX.slices)], rtol=1e-6)


def test_a_lazy_exposure_goes_to_other_processes(folder):
    lazy = open_exposure(folder / "{band}-plain.fits", bands=BANDS, psf=PSF)
    sent = pickle.dumps(lazy)
    assert len(sent) < 50_000
    np.testing.assert_array_equal(pickle.loads(sent).window(BOX).images, lazy.window(BOX).images)


def test_planes_that_bands_number_differently_are_brought_together(tmp_path):
    for band, cards in (("g", [("MP_SAT", 1), ("MP_BAD", 0)]), ("r", [("MP_BAD", 3), ("HIERARCH MP_NO_DATA", 1)])):
        image = fits.ImageHDU(np.zeros(SHAPE), name="IMAGE")
        bits = np.zeros(SHAPE, np.uint8)
        bits[1, 1], bits[2, 2] = 2, 1 << 3
        fits.HDUList([fits.PrimaryHDU(), image, fits.ImageHDU(bits, fits.Header(cards), name="MASK")]).writeto(
            tmp_path / f"{band}.fits"
        )
    exposure = read_exposure(tmp_path / "{band}.fits", bands=BANDS, psf=PSF, variance=[1.0, 1.0])
    found = {
        name: {(int(b), int(y)) for b, y, _ in zip(*np.nonzero(exposure.plane(name)), strict=True)}
        for name in exposure.mask_planes
    }
    assert found == {"SAT": {(0, 1)}, "BAD": {(1, 2)}, "NO_DATA": {(1, 1)}}
    assert exposure.mask.sum() == 3


@pytest.mark.parametrize("box", [jd.Box((-1, 0), (5, 5)), jd.Box((50, 0), (11, 5)), jd.Box((2, 2), (0, 3))])
def test_windows_beyond_the_exposure_are_refused(folder, box):
    lazy = open_exposure(folder / "{band}-plain.fits", bands=BANDS, psf=PSF)
    for exposure in (lazy, lazy.read()):
        with pytest.raises(ValueError, match="box: got .*empty or reaches beyond the exposure of shape"):
            exposure.window(box)


# ---- what is wrong is said before any pixel is read


def test_truncated_files_are_found_when_they_are_opened(folder, tmp_path):
    for name in WRITERS:
        whole = (folder / f"g-{name}").read_bytes()
        path = tmp_path / name
        path.write_bytes(whole[: len(whole) - 5000])
        with pytest.raises(ValueError, match=f"{name}: not a readable FITS file .*truncated"):
            open_exposure(path, bands=["g"], psf=PSF)


def test_truncated_gzip_is_found_too(folder, tmp_path):
    packed = gzip.compress((folder / "g-plain.fits").read_bytes())
    (tmp_path / "g.fits.gz").write_bytes(packed)
    window = open_exposure(tmp_path / "g.fits.gz", bands=["g"], psf=PSF).window(BOX)
    np.testing.assert_array_equal(window.images[0], planes("g")[0][BOX.slices])
    (tmp_path / "g.fits.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match="g.fits.gz: not a readable FITS file"):
        open_exposure(tmp_path / "g.fits.gz", bands=["g"], psf=PSF)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hdus: hdus.pop(1), "r.fits: no image found; expected data in the primary HDU, or in an extension"),
        (lambda hdus: hdus.pop(2), "r.fits: no mask plane, but the files of the other bands have one"),
        (lambda hdus: hdus.pop(3), "r.fits: no variance plane, but the files of the other bands have one"),
        (
            lambda hdus: hdus.__setitem__(3, fits.ImageHDU(np.ones((9, 9)), name="VARIANCE")),
            r"r.fits: its variance has shape \(9, 9\), but that of .*g-plain.fits has \(60, 83\)",
        ),
        (
            lambda hdus: hdus.__setitem__(2, fits.ImageHDU(np.ones((9, 9), np.int32), name="MASK")),
            r"r.fits: its mask has shape \(9, 9\)",
        ),
        (
            lambda hdus: hdus[1].header.update(CRPIX1=42.5),
            r"r.fits\[IMAGE\]: its pixel grid is offset from that of .* by \(dy, dx\) = \(\+0.00, \+2.50\) pixels",
        ),
    ],
)
def test_what_a_band_lacks_is_said_at_once(folder, tmp_path, change, message):
    with fits.open(folder / "r-plain.fits") as hdus:
        change(hdus)
        hdus.writeto(tmp_path / "r.fits")
    with pytest.raises(ValueError, match=message):
        open_exposure([folder / "g-plain.fits", tmp_path / "r.fits"], bands=BANDS, psf=PSF)


def test_the_psf_must_be_there(folder):
    with pytest.raises(ValueError, match="psf: got 3 bands for images of 2"):
        open_exposure(folder / "{band}-plain.fits", bands=BANDS, psf=jd.GaussianPSF([1.0, 1.0, 1.0]))
