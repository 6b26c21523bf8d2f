"""YAML as plain data: what stays text, what is a reference, and what is refused within bounds."""

import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from perception.plain_yaml import MAX_BYTES, ConfigError, dump_yaml, parse_yaml, read_yaml

TEXTS = st.text(
    st.sampled_from("a1e.${}\\\\:-#'\"[]~ ,\n") | st.characters(exclude_categories=["Cs", "Cc"]), max_size=12
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            "a: 0061\nb: 1.10\nc: on\nd: 2024-01-01\ne: 1_000",
            dict(a="0061", b="1.10", c="on", d="2024-01-01", e="1_000"),
        ),
        ("a: ~\nb: null\nc:\nd: '~'\ne: ''", dict(a=None, b=None, c=None, d="~", e="")),
        ("a: nullable\nb: ~/data", dict(a="nullable", b="~/data")),
        ("on: 1\n0061: 2", {"on": "1", "0061": "2"}),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": "1"}, "c": {"b": "1", "d": "2"}}),
        ("a: 1\nb: {c: '${a}0'}", {"a": "1", "b": {"c": "10"}}),
        ("a: ${oc.env:HOME}\nb: ${", {"a": "${oc.env:HOME}", "b": "${"}),
        ("", None),
    ],
)
def test_values_by_hand(text, values):
    assert parse_yaml(text, "here") == values


def test_infinity_and_nan_are_numbers():
    assert str(parse_yaml("[.inf, -.Inf, .nan]", "here")) == "[inf, -inf, nan]"


@given(st.dictionaries(st.sampled_from("abc"), TEXTS | st.lists(TEXTS, max_size=3) | st.none()))
def test_texts_are_read_as_they_were_written(values):
    assert parse_yaml(dump_yaml(values), "here") == values


@given(TEXTS)
def test_other_readers_see_texts(text):
    found = yaml.safe_load(dump_yaml({"a": text}))["a"]
    assert found == text or "${" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "here: not valid YAML: duplicate key a"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML: could not determine a constructor"),
        ("a: !!python/name:os.system", "not valid YAML"),
        ("a: '${a}'", "Recursive interpolation.*key 'a'"),
        ("a: ${b}", "b.* not found.*key 'a'"),
        ("a: ???", "Missing mandatory value: a"),
        ("a: [", "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("a: !!set {b}", "key 'a'"),
        ("a: " + "[" * 100_000, "at most 100000 values, 50 deep"),
        ("{a: " * 100_000, "at most 100000 values, 50 deep"),
        ("a: &a [x, *a]", "the alias .a. was expected to be complete"),
        (
            "a0: &a0 [" + "x," * 9 + "]\n" + "".join(f"a{i}: &a{i} [{(f'*a{i - 1},') * 9}]\n" for i in range(1, 9)),
            "100000",
        ),
    ],
)
def test_what_is_no_plain_data_is_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_yaml(text, "here")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_files_that_are_none_or_too_large_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"a: b\n" * (MAX_BYTES // 5 + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfa: b")
    messages = {"pipe": "a file of at most 1048576 bytes, was expected, found none", "large": "found 1048580 bytes"}
    messages |= {"binary": "cannot read the rig", "nowhere": "cannot read the rig: .*No such file", "": "found none"}
    for name, message in messages.items():
        with pytest.raises(ConfigError, match=message):
            read_yaml(tmp_path / name, "rig")
    assert read_yaml(tmp_path / "empty") == {} and read_yaml(tmp_path / "bom") == {"a": "b"}
