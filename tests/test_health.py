"""Sensors that deliver nothing that was measured now: found, moved while they are of use, then left out."""

import dataclasses

import numpy as np
import pytest
from frames import content, make_frame

from perception.geometry import SE3, project
from perception.health import HealthMonitor, without_dead
from perception.sample import CameraImage, Frame, LidarCloud, PointCloud, RadarCloud

HALF_A_SECOND = 500_000_000
FULL = make_frame(0)


def with_all_black(frame: Frame, level=0) -> Frame:
    black = {name: dataclasses.replace(c, image=np.full_like(c.image, level)) for name, c in frame.cameras.items()}
    return dataclasses.replace(frame, cameras=black)


def with_empty_clouds(frame: Frame) -> Frame:
    return dataclasses.replace(frame, radar=RadarCloud(np.zeros((0, 7))), lidar=LidarCloud(np.zeros((0, 5))))


def test_a_healthy_frame_is_itself():
    assert without_dead(FULL) is FULL
    bare = FULL.only(["radar"])
    assert without_dead(bare) is bare
    nothing = FULL.only([])
    assert without_dead(nothing) is nothing


@pytest.mark.parametrize("level", [0, 8])
def test_black_cameras_are_left_out(level):
    assert without_dead(with_all_black(FULL, level)).sensors == ("radar", "lidar")
    one = dataclasses.replace(FULL, cameras={**FULL.cameras, "CAM_BACK": with_all_black(FULL).cameras["CAM_BACK"]})
    assert without_dead(one).cameras.keys() == FULL.cameras.keys() - {"CAM_BACK"}


def test_empty_clouds_are_left_out():
    alive = without_dead(with_empty_clouds(FULL))
    assert alive.sensors == ("camera",) and alive.cameras == FULL.cameras


def test_a_frame_that_would_be_left_with_nothing_stays_as_it_is():
    dead = with_empty_clouds(with_all_black(FULL))
    assert without_dead(dead) is dead
    assert without_dead(dead.only(["lidar"])).sensors == ("lidar",)


class Radar4D(PointCloud):
    fields = ("x", "y", "z", "vx", "vy", "power")


def with_others(frame: Frame, points: int = 3, level: int = 90) -> Frame:
    """Also with two thermal cameras, the right of which always sees, and a 4D radar, whose points have no age."""
    camera = dataclasses.replace(frame.cameras["CAM_FRONT"], image=np.full((9, 16, 3), level, np.uint8))
    right = dataclasses.replace(camera, image=np.full((9, 16, 3), 90 + frame.timestamp_ns // HALF_A_SECOND, np.uint8))
    cloud = Radar4D(np.tile([POST[0][0], POST[0][1], 1.0, 3.0, 1.0, 7.0], (points, 1)))
    return dataclasses.replace(frame, others={"thermal": {"LEFT": camera, "RIGHT": right}, "radar4d": cloud})


def test_other_sensors_that_are_dead_are_left_out_as_well():
    frame = with_others(FULL)
    assert without_dead(frame) is frame
    alive = without_dead(with_others(FULL, points=0, level=0))
    assert alive.sensors == ("camera", "radar", "lidar", "thermal") and alive.others["thermal"].keys() == {"RIGHT"}
    assert drive(with_others(FULL, points=0, level=0))[0][1] == {"thermal/LEFT": "dead", "radar4d": "dead"}


def test_other_sensors_that_are_frozen_are_moved_by_their_columns():
    """The vehicle moves from POST's frame to 10 m ahead, turned to the left; see below for the numbers."""
    then = dataclasses.replace(with_others(FULL), world_SE3_ego=THEN)
    now = dataclasses.replace(with_others(at(1, scene=FULL.scene)), world_SE3_ego=NOW)
    checked, faults = drive(then, now)[1]
    assert faults == {"thermal/LEFT": "frozen", "radar4d": "frozen"}  # RIGHT sees something new
    np.testing.assert_allclose(checked.others["radar4d"].points, [[5, -10, 1, 1, -3, 7]] * 3, atol=1e-5)
    assert type(checked.others["radar4d"]) is Radar4D
    left = then.others["thermal"]["LEFT"].ego_SE3_camera
    moved = checked.others["thermal"]["LEFT"].ego_SE3_camera
    np.testing.assert_allclose(moved.matrix, (NOW.inverse() @ left).matrix, atol=1e-12)
    assert checked.others["thermal"]["RIGHT"] is now.others["thermal"]["RIGHT"]


def test_a_lamp_at_night_is_light():
    """Also where it is one pixel, which none of the pixels looked at first is."""
    night = with_all_black(FULL)
    night.cameras["CAM_BACK"].image[3, 5] = 200
    assert without_dead(night).cameras.keys() == {"CAM_BACK"}


def drive(*frames: Frame, **kwargs) -> list[tuple[Frame, dict[str, str]]]:
    monitor = HealthMonitor(**kwargs)
    return [monitor.check(frame) for frame in frames]


def at(step: int, seen: int | None = None, scene="scene") -> Frame:
    """A frame of a drive; where ``seen`` is given, with what its sensors saw at that step."""
    frame = dataclasses.replace(make_frame(step), scene=scene)
    if seen is None:
        return frame
    old = make_frame(seen)
    cameras = {name: dataclasses.replace(c, image=old.cameras[name].image) for name, c in frame.cameras.items()}
    return dataclasses.replace(frame, cameras=cameras, radar=old.radar, lidar=old.lidar)


EVERYTHING = {*FULL.cameras, "radar", "lidar"}


def test_a_healthy_drive_passes_as_it_is():
    frames = [at(step) for step in range(4)]
    for frame, (checked, faults) in zip(frames, drive(*frames)):
        assert faults == {} and checked.radar is frame.radar and checked.lidar is frame.lidar
        assert all(checked.cameras[name] is camera for name, camera in frame.cameras.items())


def test_the_dead_are_named_and_left_out():
    checked, faults = drive(with_all_black(with_empty_clouds(FULL)), with_all_black(at(1)), with_empty_clouds(at(2)))[1]
    assert faults == dict.fromkeys(FULL.cameras, "dead") and checked.sensors == ("radar", "lidar")
    assert drive(with_empty_clouds(FULL))[0][1] == {"radar": "dead", "lidar": "dead"}


def test_a_sensor_that_is_absent_is_not_at_fault():
    assert drive(FULL.only(["radar"]))[0][1] == {}
    assert drive(FULL.only([]))[0][0].sensors == ()


def test_the_same_bytes_again_are_frozen_even_in_another_array():
    again = at(1, seen=0)
    again = dataclasses.replace(again, lidar=LidarCloud(again.lidar.points.copy()))
    assert drive(at(0), again)[1][1] == dict.fromkeys(EVERYTHING, "frozen")


def test_one_different_number_is_a_new_measurement():
    again = at(1, seen=0)
    again.lidar.points[0, 0] += 1e-3
    _, faults = drive(at(0), again)[1]
    assert faults == dict.fromkeys(EVERYTHING - {"lidar"}, "frozen")


# The vehicle drove 10 m along the world's x and turned a quarter to the left.
THEN, NOW = SE3(), SE3.from_yaw(np.pi / 2, [10.0, 0.0, 0.0])
POST = np.array([[20.0, 5.0, 1.0]])  # in the world, which was the ego frame then
LOOKING_AHEAD = SE3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), [1.0, 0.0, 1.5])


def frozen_frame() -> Frame:
    """What a monitor makes of the second of two frames with the same data."""
    image = np.full((16, 32, 3), 90, np.uint8)
    camera = CameraImage(image, np.array([[10.0, 0, 16], [0, 10, 8], [0, 0, 1]]), LOOKING_AHEAD, 7)
    radar, lidar = RadarCloud([[*POST[0], 7, 3, 1, 0.1]]), LidarCloud([[*POST[0], 50, 0.2]])
    then = Frame("then", 0, THEN, {"CAM": camera}, radar, lidar)
    # The pose that comes with a frozen image is wrong: it is that of an image taken now.
    now_camera = dataclasses.replace(camera, ego_SE3_camera=LOOKING_AHEAD @ SE3.from_yaw(0.3), timestamp_ns=9)
    now = dataclasses.replace(then, timestamp_ns=HALF_A_SECOND, world_SE3_ego=NOW, cameras={"CAM": now_camera})
    held = content(now)
    (_, faults), (checked, frozen) = drive(then, now)
    assert faults == {} and frozen == dict.fromkeys(["CAM", "radar", "lidar"], "frozen") and content(now) == held
    return checked


def test_what_frozen_clouds_show_is_moved_to_where_it_is_now():
    checked = frozen_frame()
    # 10 m further on the post is at (10, 5); facing left, that is 5 m ahead and 10 m to the right. What went forward
    # at 3 m/s and left at 1 m/s now goes left at -3 m/s and forward at 1 m/s.
    np.testing.assert_allclose(checked.lidar.points, [[5, -10, 1, 50, 0.7]], atol=1e-5)
    np.testing.assert_allclose(checked.radar.points, [[5, -10, 1, 7, 1, -3, 0.6]], atol=1e-5)
    assert checked.world_SE3_ego is NOW and checked.timestamp_ns == HALF_A_SECOND


def test_what_stands_still_stays_in_the_same_pixel_of_a_frozen_image():
    camera = frozen_frame().cameras["CAM"]
    before, _ = project(LOOKING_AHEAD.inverse().transform(POST), camera.intrinsics)
    in_ego = NOW.inverse().transform(POST)
    after, _ = project(camera.ego_SE3_camera.inverse().transform(in_ego), camera.intrinsics)
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert camera.timestamp_ns == 7


def test_the_frozen_age_until_they_are_too_old():
    frames = drive(at(0), at(1, seen=0), at(2, seen=0), at(3, seen=0), max_age_s=1.0)
    ages = [checked.lidar.points[0, 4] - FULL.lidar.points[0, 4] for checked, _ in frames[:3]]
    np.testing.assert_allclose(ages, [0, 0.5, 1.0], atol=1e-6)
    checked, faults = frames[3]
    assert checked.sensors == () and faults == dict.fromkeys(EVERYTHING, "frozen")


def test_by_default_one_keyframe_is_bridged():
    sensors = [checked.sensors for checked, _ in drive(at(0), at(1, seen=0), at(2, seen=0))]
    assert sensors == [("camera", "radar", "lidar"), ("camera", "radar", "lidar"), ()]


def test_new_data_after_a_freeze_are_healthy():
    checked, faults = drive(at(0), at(1, seen=0), at(2, seen=0), at(3), at(4, seen=3))[3]
    assert faults == {} and checked.sensors == ("camera", "radar", "lidar")
    again = drive(at(0), at(1, seen=0), at(2, seen=0), at(3), at(4, seen=3))[4][0]
    assert again.lidar.points[0, 4] - at(3).lidar.points[0, 4] == pytest.approx(0.5)  # since the last new data


def test_another_scene_starts_anew():
    assert [faults for _, faults in drive(at(0), at(1, seen=0, scene="other"))] == [{}, {}]


def test_an_earlier_time_starts_anew():
    assert [faults for _, faults in drive(at(2, seen=0), at(1, seen=0))] == [{}, {}]


def seen_by_a_camera(frame_ms: int, measured_ms: int, grey: int, pose: SE3 = LOOKING_AHEAD) -> Frame:
    image = CameraImage(np.full((9, 16, 3), grey, np.uint8), np.eye(3), pose, measured_ms * 1_000_000)
    return Frame("", frame_ms * 1_000_000, cameras={"CAM": image})


def test_a_measurement_that_is_used_again_is_not_frozen():
    """Frames at 20 Hz, a camera at 12 Hz: its images are of 0, 83 and 167 ms; some are the nearest to two frames."""
    nearest = [(0, 0, 50), (50, 0, 50), (100, 83, 60), (150, 167, 70), (200, 167, 70)]
    poses = [SE3.from_yaw(0.1 * i) for i in range(len(nearest))]
    frames = [seen_by_a_camera(*seen, pose) for seen, pose in zip(nearest, poses)]
    for frame, (checked, faults) in zip(frames, drive(*frames)):
        assert faults == {} and checked is frame


def test_a_measurement_is_not_used_again_for_ever():
    checked, faults = drive(*(seen_by_a_camera(t, 0, 50) for t in (0, 300, 600, 601)))[-1]
    assert faults == {"CAM": "frozen"} and checked.cameras is None
    assert drive(*(seen_by_a_camera(t, 0, 50) for t in (0, 300, 600)))[-1][1] == {}


def test_a_camera_that_freezes_after_a_measurement_was_used_twice():
    frames = [seen_by_a_camera(*seen) for seen in ((0, 0, 50), (50, 0, 50), (100, 100, 50), (700, 700, 50))]
    assert [faults for _, faults in drive(*frames)] == [{}, {}, {"CAM": "frozen"}, {"CAM": "frozen"}]
    assert [checked.sensors for checked, _ in drive(*frames)] == [("camera",)] * 3 + [()]
