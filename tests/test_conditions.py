"""The conditions of the benchmark: the same for everyone who runs them, and as frequent and as strong as published."""

import dataclasses

import numpy as np
import pytest
from frames import FRAMES, changed_parts, content, make_frame

from benchmarks.conditions import CAMERAS, RADARS, Moment, all_conditions, multicorrupt
from perception.data.corruptions import EGO_SE3_LIDAR

CONDITIONS = {condition.key: condition for condition in all_conditions()}
FULL, BEFORE, FIRST = make_frame(2), make_frame(1), make_frame(0)
MOMENT = Moment(FULL, BEFORE, FIRST)


def with_token(token: str) -> Moment:
    return Moment(dataclasses.replace(FULL, token=token), BEFORE, FIRST)


def share_changed(key: str, part: str, tokens: int = 600) -> float:
    """In how many of many frames the condition changes this part of the frame."""
    moments = [with_token(str(i)) for i in range(tokens)]
    return float(np.mean([part in changed_parts(m.frame, CONDITIONS[key].apply(m)) for m in moments]))


def test_every_condition_has_a_key_of_its_own():
    assert len(CONDITIONS) == len(all_conditions())
    assert next(iter(CONDITIONS)) == "clean"
    assert CONDITIONS["clean"].apply(MOMENT) is FULL


def test_multicorrupt_is_nine_corruptions_at_three_severities():
    cells = [(condition.name, condition.severity) for condition in multicorrupt()]
    assert len(cells) == len(set(cells)) == 27
    names = {name for name, _ in cells}
    assert len(names) == 9 and all(name.startswith("mc:") for name in names)
    assert {(name, severity) for name in names for severity in (1, 2, 3)} == set(cells)


def test_every_proper_subset_and_every_single_device_has_its_condition():
    assert {key for key in CONDITIONS if key.startswith("only:")} == {
        *("only:camera", "only:radar", "only:lidar"),
        *("only:camera+radar", "only:camera+lidar", "only:radar+lidar"),
    }
    for key in ("only:radar", "only:camera+lidar"):
        assert CONDITIONS[key].apply(MOMENT).sensors == tuple(key.removeprefix("only:").split("+"))
    assert [CONDITIONS[f"dead:{name}"].source for name in (*CAMERAS, *RADARS)] == [
        {"without": (name,)} for name in (*CAMERAS, *RADARS)
    ]


@pytest.mark.parametrize("kind", FRAMES)
def test_whatever_a_frame_holds_a_condition_gives_a_frame_and_leaves_its_input_alone(kind):
    moment = Moment(FRAMES[kind], BEFORE, FIRST)
    held = [content(frame) for frame in (moment.frame, BEFORE, FIRST)]
    for key, condition in CONDITIONS.items():
        after = condition.apply(moment)
        assert [content(frame) for frame in (moment.frame, BEFORE, FIRST)] == held, key
        assert (after.token, after.timestamp_ns) == (moment.frame.token, moment.frame.timestamp_ns), key
        gone = {"radar"} if key.startswith("no_radar:") else set()
        wanted = set(key.removeprefix("only:").split("+")) if key.startswith("only:") else {"camera", "radar", "lidar"}
        assert set(after.sensors) == set(moment.frame.sensors) & wanted - gone, key


def test_a_frame_is_hit_the_same_way_whatever_else_is_run():
    forwards = {key: content(condition.apply(MOMENT)) for key, condition in CONDITIONS.items()}
    backwards = {key: content(CONDITIONS[key].apply(MOMENT)) for key in reversed(CONDITIONS)}
    assert forwards == backwards


RANDOM = ("mc:points/1", "mc:motion/1", "mc:dark/1", "mc:fog/1", "extrinsic:all_5deg", "radar:ghosts/1")


@pytest.mark.parametrize("key", RANDOM)
def test_another_frame_is_hit_another_way(key):
    first, second = (content(CONDITIONS[key].apply(with_token(token))) for token in "ab")
    assert first != second


def test_severities_draw_on_their_own():
    kept = [CONDITIONS[f"mc:points/{severity}"].apply(MOMENT).lidar.points for severity in (1, 2, 3)]
    assert [len(points) for points in kept] == [12, 8, 4]
    rows = [{row.tobytes() for row in points} for points in kept]
    assert not rows[2] <= rows[0]


@pytest.mark.parametrize(("severity", "share"), [(1, 0.2), (2, 0.4), (3, 0.6)])
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("mc:missing_camera", "CAM_FRONT"),
        ("mc:missing_camera", "CAM_BACK"),
        ("mc:temporal", "CAM_FRONT"),
        ("mc:temporal", "lidar"),
        ("mc:spatial", "lidar"),
    ],
)
def test_the_share_of_frames_that_is_hit(name, part, severity, share):
    assert share_changed(f"{name}/{severity}", part) == pytest.approx(share, abs=0.07)  # 3.5 standard deviations


def test_what_is_late_is_the_frame_before_and_never_the_radar():
    for i in range(30):
        moment = with_token(str(i))
        after = CONDITIONS["mc:temporal/3"].apply(moment)
        parts = changed_parts(moment.frame, after)
        assert parts <= {*FULL.cameras, "lidar"}
        for part in parts:
            assert content(after)[part] == content(BEFORE)[part]


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_nothing_is_late_in_the_first_frame_of_a_scene(severity):
    for i in range(30):
        first = dataclasses.replace(FIRST, token=str(i))
        assert CONDITIONS[f"mc:temporal/{severity}"].apply(Moment(first, None, first)) is first


def test_a_spatial_misalignment_by_hand():
    """A hit LiDAR is shifted 2 m to its right and turned by 3 degrees about each of its axes."""
    lidar_SE3_ego = EGO_SE3_LIDAR.inverse()
    after = (CONDITIONS["mc:spatial/3"].apply(with_token(str(i))) for i in range(9))
    hit = next(frame for frame in after if changed_parts(FULL, frame))
    before, after = (lidar_SE3_ego.transform(f.lidar.points[:, :3].astype(float)) for f in (FULL, hit))
    c, s = np.cos(np.deg2rad(3)), np.sin(np.deg2rad(3))
    x, y, z = (np.array(m) for m in (
        [[1, 0, 0], [0, c, s], [0, -s, c]],
        [[c, 0, -s], [0, 1, 0], [s, 0, c]],
        [[c, s, 0], [-s, c, 0], [0, 0, 1]],
    ))  # fmt: skip
    np.testing.assert_allclose(after, before @ (x @ y @ z).T + [2, 0, 0], atol=1e-4)
    np.testing.assert_array_equal(hit.lidar.points[:, 3:], FULL.lidar.points[:, 3:])


def test_silent_sensors_are_still_there():
    black = CONDITIONS["silent:camera_black"].apply(MOMENT)
    assert not any(camera.image.any() for camera in black.cameras.values())
    assert len(CONDITIONS["silent:lidar_empty"].apply(MOMENT).lidar.points) == 0
    assert len(CONDITIONS["silent:radar_empty"].apply(MOMENT).radar.points) == 0
    assert CONDITIONS["silent:lidar_stuck"].apply(MOMENT).lidar is FIRST.lidar
    assert CONDITIONS["silent:radar_stuck"].apply(MOMENT).radar is FIRST.radar
    stuck = CONDITIONS["silent:camera_stuck"].apply(MOMENT)
    assert all(stuck.cameras[name].image is FIRST.cameras[name].image for name in FULL.cameras)


def test_one_miscalibrated_camera_is_the_front_one():
    assert changed_parts(FULL, CONDITIONS["extrinsic:one_5deg"].apply(MOMENT)) == {"CAM_FRONT pose"}
    everything = {f"{name} pose" for name in FULL.cameras}
    assert changed_parts(FULL, CONDITIONS["extrinsic:all_20cm"].apply(MOMENT)) == everything


def test_fewer_beams_come_from_the_source():
    rings = [CONDITIONS[f"mc:beams/{severity}"].source["lidar_rings"] for severity in (1, 2, 3)]
    assert [len(kept) for kept in rings] == [16, 8, 4]
    assert CONDITIONS["no_radar:mc:beams/3"].source == CONDITIONS["mc:beams/3"].source
