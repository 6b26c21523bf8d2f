"""Benchmarks: what is timed and gathered, not how fast it is."""

import json

import pytest

from benchmarks import document, suite
from benchmarks.timing import compare, peak_mb, row, timed
from perception.errors import PerceptionError

NEEDS = suite.Needs("sim", None, None, None, None, None)


def test_candidates_take_turns_and_medians_count():
    calls, own_seconds = [], iter([9.0, 1.0, 3.0, 2.0])  # the first is the warm-up
    peers = {"clock": lambda: calls.append("peer") or next(own_seconds)}
    (found,) = compare("x", lambda: calls.append("ours"), peers, repeats=3)
    assert calls[:4] == ["ours", "peer", "ours", "peer"]
    assert found["peer_ms"] == pytest.approx(2000.0)
    assert found["ratio"] == pytest.approx(found["peer_ms"] / found["ours_ms"])


def test_a_candidate_that_times_itself():
    assert timed(lambda: 4.5) == 4.5
    assert 0 <= timed(lambda: None) < 4.5


def test_peak_memory_is_what_a_call_adds():
    assert 90 < peak_mb(lambda: bytearray(100_000_000)) < 130


def test_rows_replace_those_of_the_same_name_and_peer(tmp_path, monkeypatch):
    path = tmp_path / "out" / "rows.json"
    monkeypatch.setitem(suite.BENCHMARKS, "pool", lambda _: [row("a", 1.0, "p", 2.0, 0.0)])
    monkeypatch.setitem(suite.BENCHMARKS, "metric", lambda _: [row("a", 1.0, "q", 8.0, 0.0)])
    suite.run(["metric", "pool"], NEEDS, path)
    monkeypatch.setitem(suite.BENCHMARKS, "pool", lambda _: [row("a", 1.0, "p", 4.0, 0.0)])
    monkeypatch.setitem(suite.EXTRAS, "model", lambda _: [{"stage": "all", "ms": 3.0}])
    suite.run(["pool", "model"], NEEDS, path)
    assert {r["peer"]: r["ratio"] for r in json.loads(path.read_text())} == {"p": 4.0, "q": 8.0}
    assert json.loads((tmp_path / "out" / "rows.model.json").read_text()) == [{"stage": "all", "ms": 3.0}]

    tables = document.performance(path)
    assert "| `a` | p | 1 | 4 | 4× | 0 | cpu |" in tables
    assert "Still to be taken, for want of a GPU: `gpu_voxelize`" in tables and "| all | 3 |" in tables


@pytest.mark.parametrize(
    ("name", "missing"), [("loading", "--scene"), ("tables", "--tables"), ("frames", "--peers-python")]
)
def test_what_a_benchmark_lacks_is_named(tmp_path, name, missing):
    with pytest.raises(PerceptionError, match=missing):
        suite.run([name], NEEDS, tmp_path / "rows.json")


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "rows.json").write_text('{"a": 1}')
    with pytest.raises(PerceptionError, match=r"rows\.json: rows of benchmarks were expected"):
        suite.read_rows(tmp_path / "rows.json")
