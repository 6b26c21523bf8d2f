"""The clock: what a stage took, cold and warm apart, and which frames missed a deadline."""

import numpy as np
import pytest

from perception.replay import latency
from perception.replay.latency import Clock, table

ROW = ("cold_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")


@pytest.fixture
def timed(monkeypatch):
    """A function that makes a Clock of rows of milliseconds by stage, one a frame."""

    def clock_of(frames: list[dict[str, float]]) -> Clock:
        now_s = [0.0]
        monkeypatch.setattr(latency.time, "perf_counter", lambda: now_s[0])
        clock = Clock()
        for frame in frames:
            for name, ms in frame.items():
                with clock.stage(name):
                    now_s[0] += ms / 1000
        return clock

    return clock_of


def test_the_first_frame_is_cold_and_the_others_have_quantiles(timed):
    clock = timed([{"model": 1000.0}] + [{"model": float(ms)} for ms in range(101)])
    row = clock.summary()["model"]
    assert row == pytest.approx({"cold_ms": 1000, "p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}, rel=1e-4)


def test_the_total_is_that_of_every_frame_not_the_sum_of_quantiles(timed):
    summary = timed([{"a": 1, "b": 1}, {"a": 5, "b": 1}, {"a": 1, "b": 5}]).summary()
    assert summary["a"]["max_ms"] == pytest.approx(5) and summary["b"]["max_ms"] == pytest.approx(5)
    assert summary["total"] == pytest.approx(dict.fromkeys(ROW, 6.0) | {"cold_ms": 2.0})


def test_last_ms_adds_up_the_stages_of_the_latest_frame(timed):
    clock = timed([{"check": 1, "model": 2, "draw": 4}, {"check": 10, "model": 20, "draw": 40}])
    assert clock.last_ms("check", "model") == pytest.approx(30)


def test_a_deadline_is_missed_by_the_stages_of_the_detector_only(timed):
    frame = {"load": 500, "check": 1, "prepare": 2, "model": 30, "decode": 4, "draw": 500}
    clock = timed([frame | {"model": 300}, frame, frame | {"model": 60}])
    missed = {deadline: clock.summary(deadline)["deadline_misses"] for deadline in (36.0, 38.0, 100.0, 400.0)}
    assert missed == {36.0: 3, 38.0: 2, 100.0: 1, 400.0: 0}
    assert clock.summary(36.0)["deadline_ms"] == 36.0


def test_without_a_deadline_none_is_missed_or_kept(timed):
    summary = timed([{"model": 5}]).summary()
    assert summary["deadline_ms"] is None and summary["deadline_misses"] is None


def test_no_frame_and_a_single_one(timed):
    assert timed([]).summary(10.0) == {
        "total": dict.fromkeys(ROW),
        "deadline_ms": 10.0,
        "deadline_misses": 0,
    }
    row = timed([{"model": 5}]).summary()["model"]
    assert row == dict.fromkeys(ROW) | {"cold_ms": pytest.approx(5)}


def test_a_stage_that_raises_and_one_that_is_forgotten_do_not_count(timed):
    clock = timed([{"load": 1, "model": 2}, {"load": 3, "model": 4}, {"load": 7}])
    with pytest.raises(KeyError), clock.stage("model"):
        raise KeyError
    assert clock.summary()["total"]["cold_ms"] == pytest.approx(3)
    assert clock.summary()["total"]["max_ms"] == pytest.approx(7), "the third frame did not get through"
    clock.forget_last("load")
    assert clock.last_ms("load") == pytest.approx(3)


def test_an_endless_replay_costs_four_bytes_a_stage(timed):
    clock = timed([{"model": float(ms)} for ms in range(10_000)])
    kept = clock._ms["model"]
    assert kept.itemsize * len(kept) == 40_000
    np.testing.assert_allclose(kept[-1], 9_999, rtol=1e-4)


def test_the_table_has_a_line_a_stage(timed):
    clock = timed([{"check": 1, "model": 20}, {"check": 2, "model": 30}])
    lines = table(clock.summary()).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "check", "model", "total"]
    assert lines[2].split() == ["model", "30.0", "30.0", "30.0", "30.0", "20.0"]
    assert table(clock.summary(25.0)).splitlines()[-1] == "deadline 25 ms missed by 1 frames"


def test_the_table_of_a_single_frame_shows_what_there_is(timed):
    assert table(timed([{"model": 5}]).summary()).splitlines()[1].split() == ["model", "-", "-", "-", "-", "5.0"]
