"""Stores as FITS tables, and back."""

import dataclasses
import filecmp

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.catalog.store.layout import MIGRATIONS, TABLES, Migration
from tests.stored_blends import HEADER, assert_same_bits, record

NUMBERS = (7, 3, 12)


def write(path, numbers=NUMBERS, header=HEADER):
    with jd.StoreWriter.create(path, header) as writer:
        for number in numbers:
            writer.append(record(number))
        if numbers:
            lost = jd.StoredBlend(40, 2, jd.Box((-3, 5), (9, 8)), np.array([5, 6]), reason="zu groß")
            writer.append(lost)
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    path = write(folder / "models.h5")
    return path, jd.store_to_fits(path, folder / "models.fits")


def test_there_and_back_without_the_loss_of_a_bit(stores, tmp_path):
    path, exported = stores
    again = jd.store_from_fits(exported, tmp_path / "again.h5")
    assert filecmp.cmp(path, again, shallow=False)
    with jd.ModelStore(again) as store:
        for number in NUMBERS:
            assert_same_bits(store.blend(number), record(number).blend)


def test_large_stores_are_the_same_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdeblend.catalog.store.merge.BLOCK", 1500)
    path = write(tmp_path / "models.h5")
    jd.store_to_fits(path, tmp_path / "models.fits")
    jd.store_from_fits(tmp_path / "models.fits", tmp_path / "again.h5")
    assert filecmp.cmp(path, tmp_path / "again.h5", shallow=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_texts_and_the_model_psf_survive(tmp_path, dtype):
    psf = np.random.default_rng(1).uniform(size=(15, 15)).astype(dtype)
    header = dataclasses.replace(HEADER, config="π = 3.14  \n\n[a]\n", wcs="", model_psf=psf, dtype=dtype)
    path = write(tmp_path / "models.h5", (3,) if dtype == "float64" else (), header)
    jd.store_to_fits(path, tmp_path / "models.fits")
    jd.store_from_fits(tmp_path / "models.fits", tmp_path / "again.h5")
    assert filecmp.cmp(path, tmp_path / "again.h5", shallow=False)


def test_the_tables_can_be_read_by_others(stores):
    path, exported = stores
    with fits.open(exported) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:]] == ["ABOUT", *(name.upper() for name in TABLES)]
    sources = Table.read(exported, hdu="SOURCES")
    with jd.ModelStore(path) as store:
        table = store.table("sources")
    for name in ("id", "row", "flux", "flags", "active"):
        np.testing.assert_array_equal(sources[name], table[name])
    components, pixels = (Table.read(exported, hdu=name) for name in ("COMPONENTS", "PIXELS"))
    first = components["first_pixel"][0]
    stack = record(3).blend.stacks[0]
    np.testing.assert_array_equal(
        pixels["value"][first : first + 225].reshape(15, 15), stack.component.morphology.pixels[0]
    )


def test_other_files_are_refused(stores, tmp_path):
    path, exported = stores
    whole = exported.read_bytes()
    (tmp_path / "short.fits").write_bytes(whole[: len(whole) // 2])
    fits.PrimaryHDU(np.ones((4, 4))).writeto(tmp_path / "image.fits")
    (tmp_path / "text.fits").write_text("nothing")
    for name, message in (
        ("short.fits", "short.fits: not a readable FITS file"),
        ("image.fits", "image.fits: .*not a store of models"),
        ("text.fits", "text.fits: not a readable FITS file"),
    ):
        with pytest.raises(ValueError, match=message):
            jd.store_from_fits(tmp_path / name, tmp_path / "out.h5")
    with pytest.raises(FileNotFoundError, match="none.fits: no such file"):
        jd.store_from_fits(tmp_path / "none.fits", tmp_path / "out.h5")
    with pytest.raises(FileExistsError, match="exists already"):
        jd.store_to_fits(path, exported)
    with pytest.raises(FileExistsError, match="models.h5: exists already"):
        jd.store_from_fits(exported, path)
    assert not (tmp_path / "out.h5").exists()


def test_tables_that_do_not_add_up_are_refused(stores, tmp_path):
    with fits.open(stores[1]) as hdus:
        hdus["PIXELS"].data = hdus["PIXELS"].data[:-1]
        hdus.writeto(tmp_path / "less.fits")
    with pytest.raises(ValueError, match=r"less.fits: .*the table PIXELS does not have \d+ rows"):
        jd.store_from_fits(tmp_path / "less.fits", tmp_path / "out.h5")


def test_versions(stores, tmp_path):
    for version in (0, 99):
        with fits.open(stores[1]) as hdus:
            hdus[0].header["SCHEMA"] = version
            hdus.writeto(tmp_path / f"{version}.fits")
    with pytest.raises(ValueError, match=r"99.fits: .*written in version 99 of the layout"):
        jd.store_from_fits(tmp_path / "99.fits", tmp_path / "out.h5")
    with pytest.raises(ValueError, match=r"0.fits: .*version 0 of the layout, which .* cannot read any more"):
        jd.store_from_fits(tmp_path / "0.fits", tmp_path / "out.h5")
    old = MIGRATIONS | {0: Migration(header=lambda header: header | {"config": "new"})}
    jd.store_from_fits(tmp_path / "0.fits", tmp_path / "out.h5", migrations=old)
    assert jd.ModelStore(tmp_path / "out.h5").header.config == "new"


def test_a_changed_byte_of_the_data_is_found(stores, tmp_path):
    content = bytearray(stores[1].read_bytes())
    content[-2880 * 3] ^= 1
    (tmp_path / "changed.fits").write_bytes(content)
    with pytest.raises(ValueError, match=r"changed.fits: not a readable FITS file \(Datasum verification failed"):
        jd.store_from_fits(tmp_path / "changed.fits", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
