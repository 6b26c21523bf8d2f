"""Steadiness of detections: figures that one can derive by hand."""

import numpy as np
import pytest

from perception.geometry import SE3
from perception.replay.stability import Stability
from perception.sample import Boxes3D, Detections, Frame
from perception.task import CLASSES

CAR, TRUCK = CLASSES.index("car"), CLASSES.index("truck")


def frame_at(seconds: float, scene: str = "a", pose: SE3 | None = None) -> Frame:
    return Frame(f"{scene}{seconds}", round(seconds * 1e9), pose or SE3(), scene=scene)


def seen(*rows) -> tuple[Detections, np.ndarray]:
    """Of rows (id, x, {what is not usual}); usual is a car of 4 x 2 x 1.5 m that stands, score 0.5."""
    usual = {"y": 0.0, "vx": 0.0, "label": CAR, "yaw": 0.0, "score": 0.5, "length": 4.0}
    table = [{"id": row[0], "x": row[1], **usual, **(row[2] if len(row) > 2 else {})} for row in rows]
    column = {name: np.array([row[name] for row in table], float) for name in ("id", "x", *usual)}
    n = len(table)
    boxes = Boxes3D(
        center=np.column_stack([column["x"], column["y"], np.zeros(n)]),
        size=np.column_stack([column["length"], np.full(n, 2.0), np.full(n, 1.5)]),
        yaw=column["yaw"],
        velocity=np.column_stack([column["vx"], np.zeros(n)]),
        label=column["label"],
    )
    return Detections(boxes, column["score"]), column["id"].astype(np.int64)


def summary_of(*frames) -> dict:
    stability = Stability()
    for i, rows in enumerate(frames):
        stability.add(frame_at(0.5 * i), *seen(*rows))
    return stability.summary()


def test_a_steady_object():
    summary = summary_of(*[[(0, 5.0 * i, {"vx": 10.0})] for i in range(6)])
    classes = summary.pop("classes")
    assert summary.pop("frames") == 6
    assert summary == {
        "detections": 6,
        "tracks": 1,
        "flicker": 0.0,
        "short": 0.0,
        "class_flips": 0.0,
        "heading_jumps": 0.0,
        "velocity_median_mps": 0.05,
        "velocity_p90_mps": 0.05,
        "score_change": 0.0,
        "size_change": 0.0,
    }
    assert classes == {"car": summary}


def test_nothing():
    summary = summary_of([], [])
    assert summary.pop("frames") == 2 and summary.pop("classes") == {}
    assert summary.pop("detections") == summary.pop("tracks") == 0 and set(summary.values()) == {None}


def test_flicker_counts_the_gaps_and_not_what_comes_after():
    summary = summary_of([(0, 0)], [], [(0, 0)], [], [], [(0, 0)], [])  # missing in 3 of the 5 frames after its first
    assert summary["flicker"] == 3 / 5


def test_short_tracks():
    """Of three tracks one is short; the fourth began in the last frame but one and is none of either kind."""
    summary = summary_of(
        [(0, 0), (1, 20)], [(0, 0), (1, 20), (2, 40)], [(0, 0), (2, 40)], [(0, 0), (2, 40), (3, 60)], []
    )
    assert summary["tracks"] == 3 and summary["short"] == 1 / 3


def test_the_velocity_is_compared_with_the_way():
    """5 m/s detected, 10 m/s driven, in 4 of 20 steps; else right."""
    rows, x = [], 0.0
    for i in range(21):
        x += 5.0 if i % 5 == 4 else 2.5
        rows.append([(0, x, {"vx": 5.0})])
    summary = summary_of(*rows)
    assert (summary["velocity_median_mps"], summary["velocity_p90_mps"]) == (0.05, 5.05)


def test_an_acceleration_is_no_error():
    summary = summary_of(*[[(0, (0.5 * i) ** 2, {"vx": float(i)})] for i in range(8)])  # 2 m/s^2
    assert summary["velocity_p90_mps"] == 0.05


def test_an_unknown_velocity_is_passed_over():
    summary = summary_of(*[[(0, i, {"vx": np.nan})] for i in range(4)])
    assert summary["velocity_median_mps"] is None and summary["flicker"] == 0.0


def test_changes_along_a_track():
    grown = 4.0 * np.exp(0.3)
    summary = summary_of(
        [(0, 0)],
        [(0, 0, {"yaw": 3.0, "score": 0.9, "length": grown})],
        [(0, 0, {"yaw": 3.2, "score": 0.9, "length": grown})],
        [(0, 0, {"yaw": 3.2, "score": 0.7, "length": 4.0})],
    )
    assert summary["heading_jumps"] == pytest.approx(1 / 3)
    assert summary["score_change"] == pytest.approx((0.4 + 0.0 + 0.2) / 3)
    assert summary["size_change"] == pytest.approx((0.1 + 0.0 + 0.1) / 3)


def test_a_class_flip():
    """A car becomes a truck where it was expected. The truck beside it, that far away and the car seen on are none."""
    summary = summary_of(
        [(0, 0, {"vx": 10.0}), (1, 50), (2, 90)],
        [(3, 5.0, {"label": TRUCK}), (1, 50), (4, 50, {"label": TRUCK}), (5, 92, {"label": TRUCK})],
    )
    assert summary["class_flips"] == 1 / 7 and summary["classes"]["truck"]["class_flips"] == 1 / 3


def test_the_motion_of_the_vehicle_is_taken_out():
    stability = Stability()
    for i in range(5):
        pose = SE3.from_yaw(1.0 * i, (3.0 * i, 0, 0))
        x, y, _ = pose.inverse().transform([7.0, 8.0, 0.0])
        stability.add(frame_at(0.5 * i, pose=pose), *seen((0, x, {"y": y, "yaw": -1.0 * i})))
    summary = stability.summary()
    assert (summary["velocity_p90_mps"], summary["heading_jumps"]) == (0.05, 0.0)


def test_what_belongs_to_no_track_and_copied_frames_are_left_out():
    stability = Stability()
    for seconds in (0, 0.5, 0.5, 1.0):
        stability.add(frame_at(seconds), *seen((0, 0), (-1, 9)))
    summary = stability.summary()
    assert (summary["frames"], summary["detections"], summary["flicker"]) == (3, 3, 0.0)


@pytest.mark.parametrize("then", [frame_at(2.0, "b"), frame_at(0.1), frame_at(9.0)])
def test_a_step_joins_no_two_scenes(then):
    stability = Stability()
    for frame in (frame_at(1.0), frame_at(1.5), then):
        stability.add(frame, *seen((0, 0)))
    assert stability.summary()["size_change"] == 0.0
    assert stability._sums["steps"].sum() == 1


def test_a_summary_changes_nothing_and_memory_is_bounded():
    stability, asked = Stability(), Stability()
    for i in range(300):
        rows = seen(*((4 * i + k, 10.0 * k) for k in range(4)))
        stability.add(frame_at(0.5 * i), *rows)
        asked.add(frame_at(0.5 * i), *rows)
        asked.summary()
        assert len(stability._last) <= 4 * 7  # of 3 s
    assert stability.summary() == asked.summary() and stability.summary()["short"] == 1.0
