"""Figures into documents."""

import json

import pytest

from perception.errors import PerceptionError
from perception.report import put_between_markers, scores_tables


def scores(**changes):
    names = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    return {**dict.fromkeys(names, 0.5), "AP": {"car": 0.25, "bus": None}, "boxes": 7, **changes}


def test_only_what_is_between_the_markers_changes(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- x -->\nold\n<!-- end -->\nmiddle\n<!-- y -->\nkept\n<!-- end -->\n")
    put_between_markers(document, "new", "x")
    put_between_markers(document, "new", "x")
    want = "before\n<!-- x -->\nnew\n<!-- end -->\nmiddle\n<!-- y -->\nkept\n<!-- end -->\n"
    assert document.read_text() == want


@pytest.mark.parametrize("text", ["", "<!-- x -->", "<!-- end --> <!-- x -->"])
def test_missing_markers_are_an_error_and_change_nothing(tmp_path, text):
    document = tmp_path / "a.md"
    document.write_text(text)
    with pytest.raises(PerceptionError, match=r"a\.md"):
        put_between_markers(document, "new", "x")
    assert document.read_text() == text


def test_tables_by_hand(tmp_path):
    report = {"subsets": {"lidar": scores(mAVE=None)}, "ground_truth": {"car": 3, "bus": 0}, "frames": 2}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**report, "weights_sha256": "0123456789abcdef"}))
    lines = scores_tables(path).splitlines()
    assert lines[2] == "| lidar | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | – | 0.500 | 7 |"
    assert lines[-4:] == ["| car | 3 | 0.250 |", "| bus | 0 | – |", "", "2 frames; weights `0123456789ab`."]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"subsets": 3, "ground_truth": {}}'])
def test_another_file_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(PerceptionError, match=r"a\.json"):
        scores_tables(path)
