"""Tables read in pieces hold what Python's json module reads from the whole."""

import json
import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.data import nuscenes_json
from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_json import Damage, Table, read_pieces
from perception.data.nuscenes_rows import Row, Whole

TRICKY = st.text(st.sampled_from('ab{}[],:"\\ \n}é'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.fixed_dictionaries({"token": TRICKY, "value": VALUES}), max_size=6)


class Any(Row):
    value: typing.Any


class Number(Row):
    value: Whole


def builtins(rows) -> list[dict]:
    return [{"token": row.token, "value": row.value} for row in rows]


def written(tmp_path, text: str):
    (tmp_path / "table.json").write_text(text, encoding="utf-8")
    return tmp_path


def same(found, expected) -> bool:
    return json.dumps(found) == json.dumps(expected)  # where NaN is NaN


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, indent=st.sampled_from([None, 0, 2]), block=st.integers(1, 40), data=st.data())
def test_pieces_are_what_the_whole_is(tmp_path, monkeypatch, rows, indent, block, data):
    """With one character changed too: either both take it, as the same, or both refuse."""
    monkeypatch.setattr(nuscenes_json, "_BLOCK_BYTES", block)
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    if data.draw(st.booleans()):
        i = data.draw(st.integers(0, len(text)))
        text = text[:i] + data.draw(st.sampled_from(["", "}", "{", "]", "[", ",", '"', " ", "\\"])) + text[i + 1 :]
    try:
        expected = json.loads(text)
        valid = isinstance(expected, list) and all(
            isinstance(r, dict) and {"token", "value"} <= r.keys() and isinstance(r["token"], str) for r in expected
        )
    except ValueError:
        valid = False
    if valid:
        found = builtins(Table(written(tmp_path, text), "table", Any).rows)
        assert same(found, [{"token": row["token"], "value": row["value"]} for row in expected])
    else:
        with pytest.raises(DataError, match=r"table\.json: ") as error:
            Table(written(tmp_path, text), "table", Any)
        assert "\n" not in str(error.value)


def test_a_table_comes_in_pieces_and_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(nuscenes_json, "_BLOCK_BYTES", 100)
    rows, sizes = [{"token": str(i), "value": i} for i in range(100)], []
    text = json.dumps(rows)
    first, *pieces = read_pieces(written(tmp_path, text), "table", Number, Damage(), sizes.append)
    assert first.rows == [] and len(pieces) > 10 and all(0 < len(piece.rows) <= 5 for piece in pieces)
    assert builtins(row for piece in pieces for row in piece.rows) == rows
    assert sum(sizes) == len(text)


def test_a_row_is_named_by_its_place_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(nuscenes_json, "_BLOCK_BYTES", 100)
    rows = [{"token": str(i), "value": i} for i in range(50)]
    del rows[40]["value"]
    with pytest.raises(DataError, match=r"table\.json: row 40 \(token '40'\): missing value"):
        Table(written(tmp_path, json.dumps(rows)), "table", Number)
    with pytest.raises(DataError, match=r"table\.json: row 41: an object was expected, found int"):
        Table(written(tmp_path, json.dumps([*rows[:40], rows[0], 7])), "table", Number)


def test_numbers_that_only_python_reads_come_after_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(nuscenes_json, "_BLOCK_BYTES", 50)
    rows = [{"token": str(i), "value": float("inf") if i == 30 else 0.1 * i} for i in range(50)]
    table = Table(written(tmp_path, json.dumps(rows)), "table", Number)
    assert builtins(table.rows) == rows
    with pytest.raises(DataError, match="token 30: a number was expected in value, found inf"):
        table.numbers("value", float)


@pytest.mark.parametrize("value", ["5", True, None, [5], 10**30, 2.5, 2**31])
def test_a_value_of_another_type_or_range_is_named(tmp_path, value):
    rows = [{"token": "a", "value": 5}, {"token": "b", "value": 5.0}, {"token": "c", "value": value}]
    with pytest.raises(DataError, match=r"table\.json: token c: .* in value, found"):
        Table(written(tmp_path, json.dumps(rows)), "table", Number).numbers("value", "int32")
    found = Table(written(tmp_path, json.dumps(rows[:2])), "table", Number).numbers("value", "int32")
    assert found.tolist() == [5, 5] and found.dtype == "int32"
