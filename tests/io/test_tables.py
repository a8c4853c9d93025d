import importlib.util
import logging

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.wcs import WCS

from jaxdeblend.io import read_positions, write_catalog

X, Y = np.array([11.25, 5.5, 30.0]), np.array([2.0, 3.75, 8.0])


@pytest.fixture
def wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [15.5, 12.5]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("p.ecsv", "ascii.ecsv"),
        ("p.csv", "ascii.csv"),
        ("p.fits", "fits"),
        ("p.xml", "votable"),
        ("p.txt", "ascii.commented_header"),
    ],
)
@pytest.mark.parametrize("names", [("x", "y"), ("xcentroid", "ycentroid"), ("X_PEAK", "Y_PEAK")])
def test_formats_and_names(tmp_path, name, kind, names):
    Table({"id": [1, 2, 3], names[0]: X, names[1]: Y}).write(tmp_path / name, format=kind)
    centers, table = read_positions(tmp_path / name)
    assert centers.dtype == np.float64 and len(table) == 3
    np.testing.assert_allclose(centers, np.stack([Y, X], axis=1))
    np.testing.assert_allclose(read_positions(tmp_path / name, origin=1)[0], np.stack([Y, X], axis=1) - 1)


def test_sextractor(tmp_path, caplog):
    lines = ["#   1 NUMBER  Running object number", "#   2 X_IMAGE  x  [pixel]", "#   3 Y_IMAGE  y  [pixel]"]
    lines += [f"{n} {x} {y}" for n, (x, y) in enumerate(zip(X, Y, strict=True))]
    (tmp_path / "sex.cat").write_text("\n".join(lines) + "\n")
    with caplog.at_level(logging.WARNING):
        centers, _ = read_positions(tmp_path / "sex.cat", origin=1)
    assert caplog.text == ""
    np.testing.assert_allclose(centers, np.stack([Y - 1, X - 1], axis=1))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_positions(tmp_path / "sex.cat")[0], centers)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_positions(tmp_path / "sex.cat", origin=0)[0], centers + 1)
    assert "usually count pixels from 1, but origin is 0" in caplog.text


def test_ldac(tmp_path):
    header = fits.BinTableHDU(Table({"Field Header Card": ["x"]}), name="LDAC_IMHEAD")
    objects = fits.BinTableHDU(Table({"x": X, "y": Y}), name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), header, objects]).writeto(tmp_path / "p.cat")
    np.testing.assert_allclose(read_positions(tmp_path / "p.cat")[0][:, 1], X)


def test_photutils_quantities(tmp_path):
    QTable({"xcentroid": X * units.pix, "ycentroid": Y * units.pix}).write(tmp_path / "p.ecsv")
    np.testing.assert_allclose(read_positions(tmp_path / "p.ecsv")[0], np.stack([Y, X], axis=1))


@pytest.mark.parametrize("names", [("ra", "dec"), ("ALPHA_J2000", "DELTA_J2000"), ("RAJ2000", "DEJ2000")])
def test_sky_positions(tmp_path, wcs, names):
    ra, dec = wcs.all_pix2world(X, Y, 0)
    Table({names[0]: ra, names[1]: dec}).write(tmp_path / "p.ecsv")
    centers, _ = read_positions(tmp_path / "p.ecsv", wcs=wcs, origin=1)  # origin is of pixels
    np.testing.assert_allclose(centers, np.stack([Y, X], axis=1), atol=1e-6)
    with pytest.raises(ValueError, match="p.ecsv: has sky positions only, but the images have no WCS"):
        read_positions(tmp_path / "p.ecsv")


def test_sky_positions_in_other_units(tmp_path, wcs):
    ra, dec = wcs.all_pix2world(X, Y, 0)
    QTable({"ra": np.radians(ra) * units.rad, "dec": dec * 60 * units.arcmin}).write(tmp_path / "p.ecsv")
    centers, _ = read_positions(tmp_path / "p.ecsv", wcs=wcs)
    np.testing.assert_allclose(centers, np.stack([Y, X], axis=1), atol=1e-5)


def test_given_columns_win(tmp_path, wcs):
    ra, dec = wcs.all_pix2world(X, Y, 0)
    Table({"x": X + 5, "y": Y + 5, "u": X, "v": Y, "r": ra, "d": dec}).write(tmp_path / "p.ecsv")
    expected = np.stack([Y, X], axis=1)
    np.testing.assert_allclose(read_positions(tmp_path / "p.ecsv", x="u", y="v")[0], expected)
    sky, _ = read_positions(tmp_path / "p.ecsv", ra="r", dec="d", wcs=wcs)
    np.testing.assert_allclose(sky, expected, atol=1e-6)


def test_positions_that_are_missing_stay_as_rows(tmp_path, wcs):
    x = MaskedColumn([1.0, 2.0, np.nan], mask=[False, True, False])
    Table({"x": x, "y": Y}).write(tmp_path / "p.ecsv")
    centers, _ = read_positions(tmp_path / "p.ecsv")
    np.testing.assert_array_equal(np.isnan(centers[:, 1]), [False, True, True])
    Table({"ra": [150.0, np.nan], "dec": [2.0, 2.0]}).write(tmp_path / "sky.ecsv")
    sky, _ = read_positions(tmp_path / "sky.ecsv", wcs=wcs)
    np.testing.assert_allclose(sky[0], [11.5, 14.5])
    assert np.isnan(sky[1]).all()


def test_masked_quantities_and_no_rows(tmp_path):
    table = QTable({"x": X * units.pix, "y": Y * units.pix}, masked=True)
    table["x"].mask[1] = True
    table.write(tmp_path / "p.ecsv")
    assert np.isnan(read_positions(tmp_path / "p.ecsv")[0][1, 1])
    Table({"x": np.zeros(0), "y": np.zeros(0)}).write(tmp_path / "none.ecsv")
    assert read_positions(tmp_path / "none.ecsv", allow_empty=True)[0].shape == (0, 2)
    with pytest.raises(ValueError, match="none.ecsv: the table has columns, but no rows"):
        read_positions(tmp_path / "none.ecsv")


NAMES = {
    ("x_fit", "y_fit"): 0,
    ("X_IMAGE", "Y_IMAGE"): 1,
    ("pixel_centroid_x", "pixel_centroid_y"): 1,
    ("base_SdssCentroid_x", "base_SdssCentroid_y"): 0,
    ("bx", "by"): 0,
}


@pytest.mark.parametrize(("names", "first"), NAMES.items())
def test_columns_of_other_programs_count_from_their_first_pixel(tmp_path, names, first):
    Table({names[0]: X + first, names[1]: Y + first}).write(tmp_path / "p.fits")
    np.testing.assert_allclose(read_positions(tmp_path / "p.fits")[0], np.stack([Y, X], axis=1))


def test_sexagesimal_positions(tmp_path, wcs):
    sky = SkyCoord(*wcs.all_pix2world(X, Y, 0), unit="deg")
    expected = np.stack([Y, X], axis=1)
    for sep in (":", " ", "hms"):
        ra = sky.ra.to_string("hour", sep=sep, precision=6)
        dec = sky.dec.to_string("deg", sep=sep.replace("h", "d"), precision=5, alwayssign=True)
        Table({"RAJ2000": ra, "DEJ2000": dec}).write(tmp_path / "p.csv", overwrite=True)
        np.testing.assert_allclose(read_positions(tmp_path / "p.csv", wcs=wcs)[0], expected, atol=1e-3)
    QTable({"sky_centroid": sky}).write(tmp_path / "p.ecsv")
    np.testing.assert_allclose(read_positions(tmp_path / "p.ecsv", wcs=wcs)[0], expected, atol=1e-6)
    np.testing.assert_allclose(read_positions(tmp_path / "p.ecsv", wcs=wcs, columns="sky_centroid")[0], expected)


@pytest.mark.parametrize("unit", ["rad", "", "deg"])
def test_lsst_sky_positions(tmp_path, wcs, unit):
    sky = [one if unit == "deg" else np.radians(one) for one in wcs.all_pix2world(X, Y, 0)]
    table = Table({"coord_ra": sky[0], "coord_dec": sky[1]})
    if unit == "rad":
        table["coord_ra"].unit = table["coord_dec"].unit = "rad"
    table.write(tmp_path / "p.fits")
    np.testing.assert_allclose(read_positions(tmp_path / "p.fits", wcs=wcs)[0], np.stack([Y, X], axis=1), atol=1e-5)


def test_columns_that_are_named(tmp_path, wcs):
    ra, dec = wcs.all_pix2world(X, Y, 0)
    path = tmp_path / "p.ecsv"
    Table({"x": X + 5, "y": Y + 5, "u": X, "v": Y, "r": ra, "d": dec}).write(path)
    expected = np.stack([Y, X], axis=1)
    for columns in ("v,u", ("v", "u"), "x=u,y=v", {"y": "v", "x": "u"}, "ra=r,dec=d", {"ra": "r", "dec": "d"}):
        np.testing.assert_allclose(read_positions(path, wcs=wcs, columns=columns)[0], expected, atol=1e-6)
    for columns, message in {
        "x,y": "x before y; the order is y, x: y,x",
        "dec,ra": "which are on the sky; say ra=ra,dec=dec",
        "a,b,c": "give two names of pixel columns",
        "ra=r": "give two names of pixel columns",
        "q,u": "p.ecsv: no column q; it has x, y",
        "v": "p.ecsv: column v is no column of SkyCoord",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_positions(path, wcs=wcs, columns=columns)
    with pytest.raises(ValueError, match="give the columns of one position"):
        read_positions(path, columns="v,u", x="u", y="v")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n18v0,18.0\n", "p.csv: column x, row 1: '18v0' is no number"),
        ("ra,dec\n1:2:3,4:5\nnorth,5:6\n", "p.csv: column ra, row 2: 'north' is no angle"),
        ("ra,dec\n10,95\n", "p.csv: columns ra and dec: .* beyond 90 degrees"),
        ("", "p.csv: not a readable table .it is empty"),
        ("x,y\n", "p.csv: the table has columns, but no rows"),
    ],
)
def test_values_that_are_no_positions(tmp_path, wcs, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_positions(tmp_path / "p.csv", wcs=wcs)


def test_bad_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.ecsv: no such file"):
        read_positions(tmp_path / "none.ecsv")
    Table({"a": X, "b": Y}).write(tmp_path / "p.ecsv")
    with pytest.raises(ValueError, match="p.ecsv: no columns of positions found among a, b"):
        read_positions(tmp_path / "p.ecsv")
    with pytest.raises(ValueError, match="p.ecsv: no column c; it has a, b"):
        read_positions(tmp_path / "p.ecsv", x="a", y="c")
    with pytest.raises(ValueError, match="both columns"):
        read_positions(tmp_path / "p.ecsv", x="a")
    with pytest.raises(ValueError, match="origin: got 2"):
        read_positions(tmp_path / "p.ecsv", origin=2)
    (tmp_path / "broken.ecsv").write_text("# %ECSV 1.0\n# ---\n# nonsense")
    with pytest.raises(ValueError, match="broken.ecsv: not a readable table"):
        read_positions(tmp_path / "broken.ecsv")
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="image.fits: not a readable table .the FITS file holds no table"):
        read_positions(tmp_path / "image.fits")


def catalog():
    table = QTable({"id": [1, 2], "flux_g": [1.5, np.nan] * units.nJy, "flags": np.array([0, 5], np.int32)})
    table.meta = {"version": "0.1", "seed": 3, "a long name": "x" * 200, "options": {"threshold": 5}}
    return table


@pytest.mark.parametrize("name", ["c.ecsv", "c.fits"])
def test_catalogs_come_back(tmp_path, name):
    path = write_catalog(catalog(), tmp_path / "deep" / name)
    back = QTable.read(path)
    assert back.colnames == ["id", "flux_g", "flags"] and back["flux_g"].unit == units.nJy
    np.testing.assert_array_equal(back["flux_g"].value, [1.5, np.nan])
    assert {str(key).lower(): value for key, value in back.meta.items()}["version"] == "0.1"
    with pytest.raises(FileExistsError, match="exists already"):
        write_catalog(catalog(), path)
    write_catalog(catalog()[:1], path, overwrite=True)
    assert len(QTable.read(path)) == 1 and len(list(path.parent.iterdir())) == 1


def test_empty_catalog(tmp_path):
    assert len(QTable.read(write_catalog(catalog()[:0], tmp_path / "c.fits"))) == 0


def test_catalog_endings(tmp_path):
    with pytest.raises(ValueError, match="path: got c.txt; a catalog is written to .ecsv, .fits, .parquet"):
        write_catalog(catalog(), tmp_path / "c.txt")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_asks_for_pyarrow(tmp_path):
    with pytest.raises(ImportError, match="Parquet needs pandas and pyarrow: pip install"):
        write_catalog(catalog(), tmp_path / "c.parquet")
    (tmp_path / "p.parquet").touch()
    with pytest.raises(ImportError, match="Parquet needs pandas and pyarrow"):
        read_positions(tmp_path / "p.parquet")


def test_parquet_round_trip(tmp_path):
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    Table({"x": X, "y": Y}).write(tmp_path / "p.parquet")
    np.testing.assert_allclose(read_positions(tmp_path / "p.parquet")[0][:, 1], X)
    write_catalog(catalog(), tmp_path / "c.parquet")
