"""The three tables of a catalog, made of blends whose numbers are known."""

import importlib.util

import numpy as np
import pytest
from astropy import units
from astropy.table import QTable, Table

import jaxdeblend as jd
from jaxdeblend.catalog import stored_tables
from jaxdeblend.catalog.columns import BLEND_COLUMNS, PARENT_COLUMNS, POSITION_COLUMNS, SOURCE_COLUMNS
from jaxdeblend.catalog.records import Outcome, blend_table, parent_table, source_table
from jaxdeblend.cli.cataloging import write_positions, write_tables
from jaxdeblend.io import write_catalog
from jaxdeblend.measurement.columns import of_bands
from jaxdeblend.measurement.photometry import Measurements

pytest.importorskip("h5py")

BANDS = ("g", "r")
POSITIONS = np.array([(4.0, 5.0), (6.0, 9.0), (20.0, 8.0), (40.0, 7.0), (60.0, 4.0), (61.0, 9.0), (-9.0, 3.0)])
POSITIONS = np.vstack([POSITIONS, [(80.0, 5.0), (82.0, 7.0)]])
HEADER = jd.StoreHeader(bands=BANDS, unit="nJy")


def fitted(number, parent, rows, status, chi2, n_dof, *, extended=False):
    """A blend on a window of its own; the first of its sources may have a second, extended component."""
    start = (20 * number, 3)
    centers = POSITIONS[rows] - start
    sources = [jd.PointSource(center, [1.0, 2.0]) for center in centers]
    if extended:
        two = (*sources[0].components, *jd.ExtendedSource(centers[0], [1.0, 2.0], np.ones((11, 11))).components)
        sources[0] = jd.Source(centers[0], two)
    fit = jd.FitResult(
        jd.Blend.of(sources, frame=(16, 16)), loss=np.zeros(3), n_steps=np.array(number + 2), status=np.array(status)
    )
    n = len(rows)
    flux = np.arange(2 * n, dtype=np.float32).reshape(n, 2) + 10 * number
    numbers = np.array([2 if extended and k == 0 else 1 for k in range(n)], np.int32)
    per_band, moved = (flux, flux / 4, 0 * flux, flux / 100, flux / 2), (centers + 0.25).astype(np.float32)
    values = Measurements(*per_band, moved, np.ones((n, 3), np.float32), numbers, np.zeros(n, np.int32))
    box = jd.Box(start, (16, 16))
    return jd.StoredBlend(number, parent, box, np.array(rows), fit, values, chi2=chi2, n_dof=n_dof)


def lost(number, parent, rows, reason):
    return jd.StoredBlend(number, parent, jd.Box((20 * number, 3), (16, 8)), np.array(rows), reason=reason)


@pytest.fixture(scope="module")
def records():
    """Two parents in pieces, of which one lost a piece; one alone, one skipped; and a row off the image."""
    return [
        fitted(0, 0, [0, 1], 0, 100.0, 90, extended=True),
        fitted(1, 0, [2], 1, 30.5, 40),
        fitted(2, 1, [3], 0, 7.0, 5),
        lost(3, 2, [4, 5], "skipped: max_number_of_peaks: 2 > 1"),
        fitted(4, 3, [7], 0, 1.0, 2),
        lost(5, 3, [8], "failed: ValueError: no"),
        lost(6, -1, [6], "skipped: outside the image"),
    ]


@pytest.fixture(scope="module")
def tables(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "models.h5"
    with jd.StoreWriter.create(path, HEADER) as writer:
        for record in records:
            writer.append(record)
    return stored_tables(path, POSITIONS)


def test_what_is_not_stored_is_the_same(records, tables):
    """Tables of records in memory are those of their store."""
    outcomes = [Outcome.of(record) for record in records]
    made = source_table(POSITIONS, BANDS, None, outcomes, unit="nJy"), parent_table(outcomes), blend_table(outcomes)
    for one, two in zip(made, tables, strict=True):
        assert one.colnames == two.colnames
        for name in one.colnames:
            assert one[name].dtype == two[name].dtype and one[name].unit == two[name].unit, name
            np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]), err_msg=name)


def test_every_unit_is_a_row_of_blends(tables):
    blends = tables[2]
    assert blends["id"].tolist() == list(range(7)) and blends["parent"].tolist() == [0, 0, 1, 2, 3, 3, -1]
    assert blends["status"].tolist() == [
        "converged", "max_steps", "converged", "skipped", "converged", "failed", "skipped"
    ]  # fmt: skip
    assert blends["n_components"].tolist() == [3, 1, 1, 0, 1, 0, 0]
    assert blends["n_steps"].tolist() == [2, 3, 4, 0, 6, 0, 0]
    assert [str(text) for text in blends["skip_reason"] if text] == ["max_number_of_peaks: 2 > 1", "outside the image"]
    assert blends["error"][5] == "ValueError: no" and blends["failed"].tolist() == [False] * 5 + [True, False]
    assert (blends["y0"][1], blends["x0"][1], blends["ny"][5], blends["nx"][5]) == (20, 3, 16, 8)
    assert np.isnan(np.asarray(blends["chi2"])[[3, 5, 6]]).all()


def test_parents_are_the_sums_of_their_blends(tables):
    sources, parents, blends = tables
    for row in parents:
        own = blends[np.asarray(blends["parent"]) == row["id"]]
        assert row["n_pieces"] == len(own)
        for name in ("n_sources", "n_components", "n_dof"):
            assert row[name] == np.sum(own[name]), name
        for total, name in (("n_skipped", "skipped"), ("n_failed", "failed")):
            assert row[total] == np.sum(own[name]) and row[name] == bool(row[total])
        assert row["converged"] == (np.asarray(own["status"]) == "converged").all()
        assert row["n_steps"] == np.max(own["n_steps"])
        assert row["y0"] == np.min(own["y0"]) and row["y0"] + row["ny"] == np.max(own["y0"] + own["ny"])
    np.testing.assert_array_equal(parents["chi2"], [130.5, 7.0, np.nan, 1.0])
    assert parents["status"].tolist() == ["max_steps", "converged", "skipped", "failed"]


def test_the_tables_agree(tables):
    sources, parents, blends = tables
    assert sources["id"].tolist() == list(range(len(POSITIONS)))
    blend, parent = np.asarray(sources["blend"]), np.asarray(sources["parent"])
    np.testing.assert_array_equal(np.asarray(blends["parent"])[blend], parent)
    np.testing.assert_array_equal(np.bincount(blend), blends["n_sources"])
    np.testing.assert_array_equal(np.bincount(parent[parent >= 0]), parents["n_sources"])
    np.testing.assert_array_equal(sources["blend_n_sources"], np.asarray(blends["n_sources"])[blend])
    for name in ("chi2", "n_dof"):
        np.testing.assert_array_equal(sources[f"blend_{name}"], np.asarray(blends[name])[blend])


def test_sources_know_their_company(tables):
    sources = tables[0]
    assert sources["parent_n_sources"].tolist() == [3, 3, 3, 1, 2, 2, 0, 2, 2]
    assert sources["is_isolated"].tolist() == [row == 3 for row in range(9)]
    expected = ["extended+point", "point", "point", "point", "", "", "", "point", ""]
    assert sources["model_type"].tolist() == expected
    np.testing.assert_array_equal(sources["peak_x"].value, POSITIONS[:, 1])
    np.testing.assert_array_equal(sources["peak_y"].value, POSITIONS[:, 0])
    fit = np.isfinite(np.asarray(sources["flux_g"]))
    np.testing.assert_array_equal(sources["y"].value - sources["peak_y"].value, np.where(fit, 0.25, 0))
    np.testing.assert_array_equal(np.isnan(np.asarray(sources["data_coverage_r"])), ~fit)
    np.testing.assert_allclose(np.asarray(sources["peak_flux_r"])[fit], np.asarray(sources["flux_r"])[fit] / 2)


def test_columns_are_those_that_are_documented(tables):
    for table, columns in zip(tables, (SOURCE_COLUMNS, PARENT_COLUMNS, BLEND_COLUMNS), strict=True):
        known = of_bands(columns, BANDS)
        assert table.colnames == [name for name in known if name not in ("ra", "dec")]
        for name in table.colnames:
            kind = known[name].dtype
            expected = table[name].dtype.kind == "U" if kind == "str" else kind in ("float", table[name].dtype)
            assert expected, (name, table[name].dtype)


def test_no_time_of_the_clock_is_in_a_table(tables):
    assert not [name for table in tables for name in table.colnames if "second" in name or "time" in name]


def texts(column):
    """Values as texts; readers mask NaN and what is empty."""
    if np.any(getattr(column, "mask", False)):
        column = column.filled("" if column.dtype.kind in "SU" else np.nan)
    return np.asarray(column).astype(str)


@pytest.mark.parametrize("kind", ["ecsv", "fits", "parquet"])
def test_descriptions_and_units_survive_files(tables, kind, tmp_path):
    if kind == "parquet" and not (importlib.util.find_spec("pyarrow") and importlib.util.find_spec("pandas")):
        pytest.skip("needs pyarrow and pandas")
    names = write_tables(tmp_path, kind, *tables, BANDS)
    assert names == (f"catalog.{kind}", f"parents.{kind}", f"blends.{kind}")
    for name, table in zip(names, tables, strict=True):
        back = QTable.read(tmp_path / name)
        assert back.colnames == table.colnames
        for column in table.colnames:
            assert back[column].info.description == table[column].info.description != "", column
            assert back[column].info.unit == table[column].info.unit, column
            np.testing.assert_array_equal(texts(back[column]), texts(table[column]), err_msg=column)
    assert tables[0]["flux_g"].unit == units.nJy and tables[0]["x"].unit == units.pix


def test_units_that_fits_does_not_know_are_in_descriptions(tmp_path):
    table = Table({"flux": [1.0]}, units={"flux": units.Unit("nanomaggy")}, descriptions={"flux": "the flux"})
    back = Table.read(write_catalog(table, tmp_path / "catalog.fits"))
    assert back["flux"].unit is None and back["flux"].description == "the flux, in nmgy"
    assert table["flux"].unit == units.Unit("nanomaggy") and table["flux"].description == "the flux"


def test_positions_are_described(tmp_path):
    write_positions(tmp_path, POSITIONS)
    back = Table.read(tmp_path / "positions.ecsv")
    np.testing.assert_array_equal(back["y"], POSITIONS[:, 0])
    assert {name: back[name].description for name in back.colnames} == {
        name: about.description for name, about in POSITION_COLUMNS.items()
    }
