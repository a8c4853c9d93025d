"""Rows of blends, taken apart and put together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.catalog.store.kinds import lossless
from jaxdeblend.catalog.store.layout import (
    MIGRATIONS,
    RAGGED,
    SCHEMA_VERSION,
    TABLES,
    Migration,
    empty_rows,
    joined,
    migrations_from,
    selected,
    split,
    totals,
    with_first_rows,
    without_first_rows,
)
from tests.stored_blends import HEADER

COUNTS = st.lists(st.tuples(*(st.integers(0, 3) for _ in RAGGED)), max_size=6)


def rows_of(counts):
    """Rows of blends with these numbers of rows; each value tells of which blend it is."""
    rows = empty_rows(HEADER)
    for name, column in rows.items():
        table, field = name.split("/")
        if table != "blends":
            n = [each[list(RAGGED).index(table)] for each in counts]
            values = np.repeat(np.arange(len(counts)), n) if len(n) else np.zeros(0)
            rows[name] = np.broadcast_to(values.reshape(-1, *[1] * (column.ndim - 1)), (sum(n), *column.shape[1:]))
        elif field[2:] in RAGGED:
            rows[name] = np.array([each[list(RAGGED).index(field[2:])] for each in counts], np.int64)
        else:
            rows[name] = np.arange(len(counts))
    return rows


def assert_same_rows(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@settings(max_examples=20)
@given(COUNTS, st.randoms(use_true_random=False))
def test_blends_keep_their_rows_in_any_order(counts, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    taken = selected(rows_of(counts), np.array(order, int))
    assert taken["blends/id"].tolist() == order
    for table in RAGGED:
        first = next(iter(TABLES[table]))
        found = taken[f"{table}/{first}"].reshape(-1)
        expected = [number for number in order for _ in range(counts[number][list(RAGGED).index(table)])]
        assert found.tolist() == expected


@settings(max_examples=20)
@given(COUNTS)
def test_pieces_add_up(counts):
    rows = rows_of(counts)
    pieces = list(split(rows))
    assert len(pieces) == len(counts)
    if pieces:
        assert_same_rows(joined(pieces, HEADER), rows)
    assert totals(rows) == {"blends": len(counts)} | {
        table: sum(each[k] for each in counts) for k, table in enumerate(RAGGED)
    }


@settings(max_examples=20)
@given(COUNTS)
def test_first_rows_are_where_rows_begin(counts):
    rows = rows_of(counts)
    before = {table: 10 * number for number, table in enumerate(TABLES)}
    numbered = with_first_rows(rows, before)
    for table, one in RAGGED.items():
        stops = np.cumsum([0, *rows[f"blends/n_{table}"]])
        np.testing.assert_array_equal(numbered[f"blends/first_{one}"], before[table] + stops[:-1])
    assert_same_rows(without_first_rows(numbered), rows)


def test_every_column_says_what_it_holds():
    assert all(column.meaning for columns in TABLES.values() for column in columns.values())
    assert {f"n_{table}" for table in RAGGED} < TABLES["blends"].keys() and {"blends", *RAGGED} == TABLES.keys()


def test_every_column_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "files.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
    assert rows.keys() == TABLES.keys()
    first = [f"first_{one}" for one in RAGGED.values()]
    for table, columns in TABLES.items():
        assert not [
            name for name in (*columns, *(first if table == "blends" else ())) if f"`{name}`" not in rows[table]
        ]


def test_ways_between_versions():
    step = Migration()
    assert migrations_from(SCHEMA_VERSION, MIGRATIONS) == ()
    assert migrations_from(SCHEMA_VERSION - 1, {SCHEMA_VERSION - 1: step}) == (step,)
    assert step.header({"a": 1}) == {"a": 1} and step.rows({}) == {} and step.kinds(("k",)) == ("k",)


def test_nothing_is_rounded():
    assert lossless(np.array([1, 2**24]), "float32", "x").dtype == np.float32
    assert np.isnan(lossless(np.array([np.nan, 0.5]), "float32", "x")[0])
    for values in (np.array([2**24 + 1]), np.array([0.1]), np.array([1e300])):
        with pytest.raises(ValueError, match=r"x: (int|float)64 does not fit into float32"):
            lossless(values, "float32", "x")
