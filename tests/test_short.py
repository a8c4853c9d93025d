"""One test of each main path. `make oldest` runs this file with the oldest supported versions of all dependencies."""

import numpy as np
import pytest
from astropy.table import QTable

import jaxdeblend as jd
from jaxdeblend.cli import run
from tests import star_field

PAIR, ALONE = star_field.STARS[:2], star_field.STARS[2]
CONFIG = jd.DeblendConfig(max_iter=30)


def cutout(center, shape=(32, 32)):
    """The pixels around a star of the field: an observation, and the position of its first pixel."""
    origin = np.round(center).astype(int) - np.array(shape) // 2
    window = (slice(None), *(slice(first, first + n) for first, n in zip(origin, shape, strict=True)))
    image = star_field.images()[window]
    return jd.Observation(image, np.ones(2), star_field.psf(), bands=star_field.BANDS), origin


def assert_right(flux, truth):
    np.testing.assert_allclose(flux, truth, rtol=0.1, atol=40)  # five times the noise of a star's flux


def test_a_deblend():
    obs, origin = cutout(ALONE)
    result = jd.deblend(obs, [ALONE - origin])
    assert_right(result.measurements.flux[0], star_field.FLUX[2])


def test_a_batch_and_a_figure(tmp_path):
    pytest.importorskip("matplotlib")
    from jaxdeblend.view import deblend_figure

    (pair, origin), (star, corner) = cutout(PAIR.mean(axis=0)), cutout(ALONE)
    two, one = jd.deblend_batch([(pair, PAIR - origin), (star, [ALONE - corner])])
    assert_right(two.measurements.flux, star_field.FLUX[:2])
    assert_right(one.measurements.flux, star_field.FLUX[2:3])
    deblend_figure(pair.images, two.model, bands=star_field.BANDS, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_catalog_with_a_store(tmp_path):
    pytest.importorskip("h5py")
    path = tmp_path / "models.h5"
    result = jd.deblend_catalog(star_field.exposure(), star_field.STARS[2:4], config=CONFIG, store=path)
    assert_right(np.stack([result.table[f"flux_{band}"].value for band in "gi"], axis=1), star_field.FLUX[2:4])
    assert len(jd.ModelStore(path)) == 2


def test_the_command_line(tmp_path):
    pytest.importorskip("click")
    pytest.importorskip("tqdm")
    star_field.write(tmp_path)
    files = [str(tmp_path / f"field_{band}.fits") for band in star_field.BANDS]
    options = ["--bands", "g,i", "--psf", str(tmp_path / "psf_{band}.fits"), "-o", str(tmp_path / "out")]
    assert run(["deblend", *files, *options]) == 0
    table = QTable.read(tmp_path / "out" / "catalog.ecsv")
    assert len(table) >= 5
    assert run(["--version"]) == 0
