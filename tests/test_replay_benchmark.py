"""What replay promises, on a drive that is small enough for every run of the tests; the figures are a benchmark's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_drive import save_tiny_detector, tiny_world, write_logs

from benchmarks import document, mangle, replay
from perception.files import write_json

pytest.importorskip("mcap")
pytest.importorskip("rosbags")


def test_every_form_of_a_drive_gives_the_same_and_a_cut_one_what_is_left(tmp_path):
    rows = replay.replay_checks(tiny_world().write(tmp_path / "drive"), str(save_tiny_detector(tmp_path / "detector")))
    replayed = [row for row in rows if row["check"] == "replayed"]
    assert len(replayed) == 8 and len({row["detections_sha256"] for row in replayed}) == 1
    salvaged = [row for row in rows if row["check"] == "salvaged"]
    assert len(salvaged) == 10 and all(row["share"] >= 1.0 and row["stopped"] != "None" for row in salvaged)


def test_an_hour_is_a_scene_many_times(tmp_path):
    drive, detector = tiny_world().write(tmp_path / "drive"), str(save_tiny_detector(tmp_path / "detector"))
    (row,) = replay.hour_long(drive, detector, ("lidar",), seconds=20.0)
    assert row["frames"] >= 35 and row["sensors"] == "lidar" and row["rise_mb"] < 50


@pytest.mark.parametrize(("kind", "count"), [("bytes", 60), ("text", 30), ("bag", 12), ("picture", 10)])
def test_damaged_logs_give_frames_or_one_line(tmp_path, kind, count):
    found = mangle.mangled([*write_logs(tmp_path).values()], count=count, seed=1, kind=kind)
    assert found["others"] == {}
    assert found["frames"] + found["refused"] == found["inputs"] == count and found["frames"]


@given(st.binary(max_size=400), st.integers(0, 2**32))
def test_any_bytes_can_be_damaged(data, seed):
    damaged = mangle.damage(data, np.random.default_rng(seed))
    assert isinstance(damaged, bytes) and len(damaged) <= 8 * len(data)
    assert damaged == mangle.damage(data, np.random.default_rng(seed))


def test_the_tables_of_the_document(tmp_path):
    path = tmp_path / "rows.json"
    rows = [
        {"check": "replayed", "form": "MCAP", "turn": 1, "frames": 40, "detections_sha256": "ab" * 32,
         "load_ms": 20.0, "detector_ms": 180.0, "load_share": 0.1},
        {"check": "salvaged", "recording": "cut", "messages_in_complete_chunks": 10, "messages_back": 10,
         "share": 1.0, "stopped": "at byte 5"},
    ]  # fmt: skip
    write_json(document.extra_path(path, "replay"), rows)
    text = document.performance(path)
    assert "| MCAP | 1 | 40 | `abababababababab` | 20 | 180 | 10.0% |" in text and "| cut | 10 | 10 | 100.0% |" in text
