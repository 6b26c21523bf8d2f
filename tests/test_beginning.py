"""The first seconds of a log: how far they reach, what is known from them, and that a replay reads them once."""

import numpy as np
import pytest
from memory_log import MemoryLog, calibration, cloud, drive, every, foxglove_log, image
from memory_log import transform as log_transform

from perception.logs.beginning import BEGINNING_S, Lasting, beginning
from perception.logs.default_rig import proposed_rig, with_mounts
from perception.logs.frames import LogFrames
from perception.logs.inspect import inspect
from perception.logs.log import Log
from perception.logs.measurements import Assembly
from perception.logs.messages import Calibration, Cloud, Image, Message, Transform, pinhole
from perception.logs.rig import CloudSource, Rig, check_rig
from perception.logs.units import SWEEPS

S = 1_000_000_000


def message(topic: str, log_time_s: float, data) -> Message:
    return Message(topic, 0, round(log_time_s * S), 0, data)


def transform(static: bool) -> Transform:
    return Transform("base_link", "camera", np.array([1.0, 0, 0, 1, 0, 0, 0]), static)


CLOUD = Cloud("lidar", np.zeros(1, dtype=[("x", "<f4")]))
IMAGE = Image("camera", "jpeg", b"")


def measured(topic: str, stamp_s: float, log_time_s: float, data=CLOUD) -> Message:
    return Message(topic, round(stamp_s * S), round(log_time_s * S), 0, data)


def test_the_beginning_ends_so_long_after_the_first_measurement_by_its_stamps():
    messages = [message("/tf", 0, transform(False)), message("/tf", 500, transform(False))]
    messages += [measured("/lidar", 100 + 0.5 * i, 600) for i in range(20)]  # written in one go
    assert len(list(beginning(messages, 2.0))) == 2 + 5
    slow = [measured("/camera", 0.1 * i, 600 + i, IMAGE) for i in range(60)]  # played at a tenth of the speed
    assert len(list(beginning(slow, 2.0))) == 21
    assert list(beginning(messages, 100.0)) == messages


def test_the_sensor_that_comes_furthest_ends_the_beginning():
    one = [measured("/lidar", 0.5 * i, 0.5 * i) for i in range(20)]
    dead = [measured("/camera", 0, 0, IMAGE)]
    assert len(list(beginning(dead + one, 2.0))) == 1 + 5


def test_a_sensor_that_comes_after_it_is_not_of_the_beginning():
    early = [measured("/lidar", 0.5 * i, 0.5 * i) for i in range(3)]
    late = [measured("/radar", 10 + 0.5 * i, 10 + 0.5 * i) for i in range(3)]
    assert list(beginning(early + late, 2.0)) == early


def test_a_clock_that_was_set_does_not_end_the_beginning():
    stamps = [0, 0.5, 3600, 3600.5, 1, 1.5, 2]
    messages = [measured("/lidar", stamp_s, i) for i, stamp_s in enumerate(stamps)]
    assert len(list(beginning(messages, 3.0))) == len(stamps)


def test_where_stamps_stand_still_the_recording_ends_the_beginning():
    messages = [measured("/lidar", 7, i) for i in range(100)]
    assert len(list(beginning(messages, 2.0))) == 41


def lasting(messages) -> list:
    found = Lasting()
    for each in messages:
        found.add(each)
    return [each.data for each in found.messages]


def test_mounts_and_first_calibrations_are_known_from_the_start():
    first, second, other = (pinhole("camera", 4, 3, focal * np.eye(3)) for focal in (1.0, 2.0, 3.0))
    assert isinstance(first, Calibration) and first.projection.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    static = [transform(True), transform(True)]
    messages = [
        message("/camera_info", 0, first),
        message("/tf_static", 1, static[0]),
        message("/camera_info", 1, second),
        message("/lidar", 1, CLOUD),
        message("/other_info", 2, other),
        message("/tf_static", 2, static[1]),
    ]
    assert lasting(messages) == [first, static[1], CLOUD, other]  # of a mount that is said twice the latest holds
    assert len(lasting(message("/lidar", i, CLOUD) for i in range(100))) == SWEEPS


def test_a_transform_that_is_repeated_is_a_mount_until_it_moves():
    again = [transform(False), transform(False)]
    moved = Transform("base_link", "camera", np.array([2.0, 0, 0, 1, 0, 0, 0]))
    assert lasting(message("/tf", i, data) for i, data in enumerate(again)) == again[:1]
    assert lasting(message("/tf", i, data) for i, data in enumerate([*again, moved, *again])) == []


def test_a_log_is_read_once_for_its_beginning_and_once_for_its_frames(monkeypatch):
    reads = []
    read = MemoryLog.messages
    monkeypatch.setattr(MemoryLog, "messages", lambda self, *args: reads.append(1) or read(self, *args))
    log = Log(foxglove_log().as_recorded(), "drive", None, (), {}, 0.0, None, strict=True)

    info = inspect(log, seconds=BEGINNING_S)
    rig = proposed_rig(log, info)
    from_inspection = [frame.token for frame in LogFrames(log, rig, Assembly(), info=info)]
    assert len(reads) == 2 and len(from_inspection) > 5

    frames = LogFrames(log, rig, Assembly())  # as with a rig file
    assert [frame.token for frame in frames] == from_inspection
    assert len(reads) == 4
    list(frames)
    assert len(reads) == 5


def late_log(**more) -> MemoryLog:
    """A camera and a LiDAR; their mounts are first recorded when the drive is nearly over."""
    log = MemoryLog()
    log.add("/cam/image_rect", image("cam"), every(0.1))
    log.add("/cam/camera_info", calibration("cam"), every(0.1))
    log.add("/lidar", cloud("lidar"), every(0.1))
    drive(log, "odom", "base_link", every(0.05))
    for child in ("cam", "lidar"):
        log.add("/tf_static", log_transform("base_link", child, 1.0, static=True), [9.0])
    return log.as_recorded()


@pytest.mark.parametrize("rig", [None, Rig("odom", reference="L", lidars={"L": CloudSource(cloud="/lidar")})])
def test_mounts_that_are_recorded_late_hold_from_the_beginning(rig):
    log = Log(late_log(), "drive", None, (), {}, 0.0, None, strict=True)
    frames = LogFrames(log, rig or proposed_rig(log, inspect(log, seconds=BEGINNING_S)), Assembly())
    assert len(list(frames)) == 101 and frames.problems == []


def test_a_mount_that_is_known_early_is_not_replaced_by_a_later_one_before_that_comes():
    source = late_log()
    source.add("/tf_static", log_transform("base_link", "lidar", 5.0, static=True), [0.0])
    log = Log(source.as_recorded(), "drive", None, (), {}, 0.0, None, strict=True)
    info = inspect(log, seconds=BEGINNING_S)
    mounts = {m.data.child: m.data.pose[0] for m in info.known if isinstance(m.data, Transform) and m.data.static}
    assert mounts == {"lidar": 5.0, "cam": 1.0}


def test_a_mount_that_is_nowhere_costs_the_sensor():
    source = late_log()
    rig = Rig("odom", reference="L", lidars={n: CloudSource(cloud="/lidar" + n.strip("L")) for n in ("L", "L2")})
    source.add("/lidar2", cloud("roof"), every(0.1))
    log = Log(source.as_recorded(), "drive", None, (), {}, 0.0, None, strict=True)
    frames = LogFrames(log, rig, Assembly())
    assert len(list(frames)) == 101
    assert frames.problems == ["/lidar2: measurements without a transform from base_link to roof: 101"]


def test_the_saved_rig_has_the_mounts():
    source = late_log()
    source.add("/tf", log_transform("base_link", "mast", 2.0), every(1.0))
    source.add("/tf", log_transform("mast", "top", 3.0), every(1.0))
    source.add("/top", cloud("top"), every(0.1))
    source.add("/arm", cloud("arm"), every(0.1))
    drive(source, "base_link", "arm", every(1.0))
    rig = with_mounts(inspect(source.as_recorded()))
    mounts = {name: lidar.ego_SE3_sensor for name, lidar in rig.lidars.items()}
    still = [1.0, 0.0, 0.0, 0.0]
    assert mounts == {"LIDAR": [1, 0, 0, *still], "LIDAR_TOP": [5, 0, 0, *still], "LIDAR_ARM": None}
    assert rig.cameras["CAM"].ego_SE3_sensor == [1, 0, 0, *still]
    check_rig(rig, "saved")


def test_a_defective_transform_costs_what_needs_it_only():
    source = late_log()
    for i, child in enumerate(["wheel"] * 3 + ["base_link"] * 2):
        parent = "odom" if child == "base_link" else "base_link"
        broken = Transform(parent, child, np.array([np.nan, 0, 0, 1, 0, 0, 0]))
        source.add("/tf", broken, [1.01 + 0.1 * i])
    source.add("/tf", log_transform("lidar", "lidar"), [2.0])
    source.add("/tf", log_transform("gps_map", "base_link", 7.0), every(0.1))
    log = Log(source.as_recorded(), "drive", None, (), {}, 0.0, None, strict=True)
    frames = LogFrames(log, proposed_rig(log, inspect(log, seconds=BEGINNING_S)), Assembly())
    found = list(frames)
    assert len(found) == 101 and found[50].world_SE3_ego.translation[0] == pytest.approx(100)  # by odom, at 5.0 s
    assert [line.rsplit(": ", 1)[1] for line in frames.problems] == ["3", "2", "1"]
    assert "base_link -> wheel: metres and a unit quaternion" in frames.problems[0]


def test_transforms_can_be_excluded():
    source = late_log()
    drive(source, "map", "base_link", every(0.05))
    log = Log(source.as_recorded(), "drive", None, (), {}, 0.0, None, True, [("map", "base_link"), ("a", "b")])
    rig = proposed_rig(log, inspect(log, seconds=BEGINNING_S))
    frames = LogFrames(log, rig, Assembly())
    assert rig.world_frame == "odom" and len(list(frames)) == 101
    assert frames.problems == ["transform map -> base_link: 201 excluded", "transform a -> b: 0 excluded"]


def test_two_ways_to_the_ego_frame_are_said():
    source = late_log()
    drive(source, "map", "base_link", every(0.05))
    source.add("/tf", log_transform("map", "odom"), every(0.1))
    log = Log(source.as_recorded(), "drive", None, (), {}, 0.0, None, strict=True)
    frames = LogFrames(log, proposed_rig(log, inspect(log, seconds=BEGINNING_S)), Assembly())
    assert len(list(frames)) == 101
    (line,) = frames.problems
    assert line.startswith("two ways from base_link to map: map -> base_link is taken, odom -> base_link, map -> odom")
