"""Columns come back as they were written, or not at all."""

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from perception.data.column_file import read_columns, write_columns

SOME = {"number": np.arange(6.0).reshape(3, 2), "name": np.array([b"a", b"", b"xyz"]), "flag": np.array([True, False])}
NUMBERS = st.sampled_from(["bool", "int32", "int64", "float64"]).flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
)
NAMES = st.lists(st.binary(max_size=5), max_size=4).map(lambda names: np.array(names, dtype=np.bytes_))


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)
        assert found[name].dtype == column.dtype


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.dictionaries(st.text(max_size=5), NUMBERS | NAMES, max_size=5), note=st.text(max_size=5))
def test_columns_come_back(tmp_path, columns, note):
    columns.pop("__metadata__", None)
    written = write_columns(tmp_path / "file", columns, {"note": note})
    for found, metadata in (written, read_columns(tmp_path / "file")):
        same(found, columns)
        assert metadata == {"note": note}


def test_the_library_reads_the_file(tmp_path):
    write_columns(tmp_path / "file", SOME, {"note": "hi"})
    from safetensors import safe_open

    with safe_open(tmp_path / "file", "numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}
        assert file.metadata()["note"] == "hi"
    found["name"] = found["name"].view("S3")[:, 0]
    same(found, SOME)


def test_columns_are_views_that_cannot_be_written(tmp_path):
    write_columns(tmp_path / "file", SOME, {})
    columns, _ = read_columns(tmp_path / "file")
    for column in columns.values():
        assert not column.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            column[0] = column[1]


def test_replacing_leaves_what_is_mapped_as_it_was(tmp_path):
    write_columns(tmp_path / "file", SOME, {})
    columns, _ = read_columns(tmp_path / "file")
    write_columns(tmp_path / "file", {"other": np.zeros(1)}, {})
    same(columns, SOME)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b"data_offsets", b"data_offset!"),
        lambda data: data.replace(b'"F64"', b'"I32"'),
        lambda data: data.replace(b'"F64"', b'"X64"'),
        lambda data: data.replace(b"[3, 2]", b"[3, 3]"),
        lambda data: data.replace(b"__metadata__", b"--metadata--"),
        lambda data: pickle.dumps(SOME),
        lambda data: b"\2\0\0\0\0\0\0\0[]",
    ],
)
def test_a_damaged_file_is_none(tmp_path, damage):
    path = tmp_path / "file"
    write_columns(path, SOME, {})
    path.write_bytes(damage(path.read_bytes()))
    assert read_columns(path) is None


def test_no_file_is_none_and_a_folder_is_none(tmp_path):
    assert read_columns(tmp_path / "file") is None and read_columns(tmp_path) is None


def test_nothing_is_left_of_what_could_not_be_written(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):
        write_columns(tmp_path / "file", SOME, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
