import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.io import SourceModel, read_exposure, read_models, write_models

BANDS = ("g", "r")


def sources():
    rng = np.random.default_rng(1)
    boxes = [jd.Box((2, 3), (5, 4)), jd.Box((0, 0), (1, 1)), jd.Box((7, 1), (3, 9))]
    return [
        SourceModel(10 + n, box, rng.normal(size=(2, *box.shape)).astype(np.float32)) for n, box in enumerate(boxes)
    ]


def test_round_trip(tmp_path):
    rng = np.random.default_rng(2)
    model, residual = rng.normal(size=(2, 2, 16, 20)).astype(np.float32)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-1e-4, 1e-4], [3.0, 4.0]
    path = write_models(
        tmp_path / "m.fits",
        bands=BANDS,
        model=model,
        residual=residual,
        sources=sources(),
        wcs=wcs,
        unit="nJy",
    )
    back = read_models(path)
    assert back.bands == BANDS
    np.testing.assert_array_equal(back.model, model)
    np.testing.assert_array_equal(back.residual, residual)
    assert len(back.sources) == 3
    for one, two in zip(back.sources, sources(), strict=True):
        assert one.id == two.id and one.box == two.box and one.image.dtype == np.float32
        np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_allclose(back.wcs.pixel_to_world_values(2.0, 3.0), [150.0, 2.0])
    header = fits.getheader(path, "MODEL")
    assert header["BUNIT"] == "nJy" and header["BAND2"] == "r"
    with fits.open(path) as hdus:
        hdus.verify("exception")


def test_parts_may_be_missing(tmp_path):
    path = write_models(tmp_path / "m.fits", bands=BANDS, residual=np.ones((2, 4, 4), np.float32))
    back = read_models(path)
    assert back.model is None and back.sources == () and back.wcs is None
    np.testing.assert_array_equal(back.residual, 1.0)


def test_double_precision_is_kept(tmp_path):
    image = np.full((1, 2, 2), 1 / 3)
    path = write_models(tmp_path / "m.fits", bands=["g"], sources=[SourceModel(1, jd.Box((0, 0), (2, 2)), image)])
    np.testing.assert_array_equal(read_models(path).sources[0].image, image)


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "m.fits"
    with pytest.raises(ValueError, match=r"model: got shape \(3, 4, 4\)"):
        write_models(path, bands=BANDS, model=np.ones((3, 4, 4)))
    with pytest.raises(ValueError, match="sources: source 4 has a stamp of shape"):
        write_models(path, bands=BANDS, sources=[SourceModel(4, jd.Box((0, 0), (2, 2)), np.ones((2, 3, 2)))])
    assert not path.exists()
    write_models(path, bands=BANDS)
    with pytest.raises(FileExistsError, match="exists already"):
        write_models(path, bands=BANDS)


def test_other_files_are_refused(tmp_path):
    fits.PrimaryHDU(np.ones((4, 4))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="image.fits: .*no extension SOURCES"):
        read_models(tmp_path / "image.fits")
    with pytest.raises(FileNotFoundError, match="none.fits: no such file"):
        read_models(tmp_path / "none.fits")


def test_a_model_can_be_read_as_an_exposure(tmp_path):
    path = write_models(tmp_path / "m.fits", bands=BANDS, model=np.ones((2, 8, 9), np.float32))
    hdus = fits.open(path)
    hdus["MODEL"].name = "IMAGE"
    hdus.writeto(tmp_path / "i.fits")
    hdus.close()
    exposure = read_exposure(tmp_path / "i.fits", bands=BANDS, psf=jd.GaussianPSF(1.5), variance=[1.0, 1.0])
    assert exposure.shape == (8, 9)
