"""Faults of logs: each is made in a log that is otherwise sound, and is the one finding."""

import re
from dataclasses import replace

import pytest
from memory_log import (
    MemoryLog,
    calibration,
    cloud,
    drive,
    every,
    foxglove_log,
    image,
    transform,
    turtlebot_log,
)

from perception.logs.doctor import Finding, diagnose, report
from perception.logs.inspect import inspect
from perception.logs.rig import CloudSource, Rig


def findings(log: MemoryLog, rig: Rig | None = None) -> list[str]:
    found = diagnose(inspect(log, rig))
    assert all("\n" not in finding.text for finding in found)
    return [str(finding) for finding in found]


def lidar_log(stamps_s, pose_s=None, **options) -> MemoryLog:
    """A LiDAR on a vehicle that drives for ten seconds."""
    log = MemoryLog()
    log.add("/lidar", cloud("lidar"), stamps_s, **options)
    drive(log, "map", "base_link", every(0.1) if pose_s is None else pose_s)
    log.add("/tf_static", transform("base_link", "lidar", static=True), [0.0])
    return log


@pytest.mark.parametrize("log", [foxglove_log, turtlebot_log, lambda: lidar_log(every(0.1))])
def test_sound_logs_have_no_findings(log):
    assert findings(log()) == []
    assert report([]) == "nothing found that is wrong"


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([s for s in every(0.1) if not 4.05 < s < 5.95], "warning: /lidar: once .* longest 2 s from \\+4.0 s"),
        ([*every(0.1)[:50], 4.8, *every(0.1)[50:]], "warning: /lidar: time goes backwards once, by up to 0.1 s"),
        ([*every(0.1)[:80], *every(0.1)[30:]], "error: /lidar: time goes backwards once, by up to 4.9 s; the clock"),
        (
            [*every(0.1)[:50], 4.9, *every(0.1)[50:]],
            "warning: /lidar: a message has the time of the one before it once",
        ),
        ([None, *every(0.1)], "error: /lidar: 1 of 102 messages have no time"),
        (
            [*every(0.1, 4), *(4 + s for s in every(0.2, 3)[1:]), *(7 + s for s in every(0.1, 3)[1:])],
            "warning: /lidar: rate falls from 10.0 to [45].* Hz from \\+4.0 s to \\+7.0 s",
        ),
    ],
)
def test_faults_of_stamps(stamps, expected):
    (found,) = findings(lidar_log(stamps))
    assert re.match(expected, found), found


def test_a_clock_that_was_set_forward_is_told_from_a_pause():
    log = lidar_log(every(0.1, 5))
    log.add("/lidar", cloud("lidar"), [s + 3600 for s in every(0.1, 5)], delay_s=-3595)
    (jump, *rest) = findings(log)
    assert (
        jump.startswith("error: /lidar: once nothing") and "3.6e+03 s from +5.0 s" in jump and "clock was set" in jump
    )
    assert all("ends" in line or "stamped" in line for line in rest)


def test_a_common_offset_is_a_note_and_one_sensors_own_a_warning():
    log = lidar_log(every(0.1), delay_s=100.0)
    assert findings(log) == ["note: measurements are stamped 100 s before they were recorded; stamps are what is used"]
    log.add("/left/points", cloud("lidar"), every(0.1), delay_s=100.5)
    log.add("/right/points", cloud("lidar"), every(0.1), delay_s=100.0)
    warning, note = findings(log)
    assert warning.startswith("warning: /left/points: stamped 0.5 s before") and note.startswith("note: measurements")


@pytest.mark.parametrize(
    ("pose", "expected"),
    [
        ([s for s in every(0.1) if s >= 2], ["begins 2 s after the sensors"]),
        ([s for s in every(0.1) if s <= 7], ["ends 3 s before the sensors"]),
        ([s for s in every(0.1) if not 2.05 < s < 4.95], ["no pose for 3 s from \\+2.0 s"]),
        ([5.0], ["base_link never moves in map"]),
    ],
)
def test_the_pose_must_cover_the_drive(pose, expected):
    found = findings(lidar_log(every(0.1), pose))
    assert len(found) == len(expected) and all(
        re.search(e, f) and f.startswith("warning") for e, f in zip(expected, found)
    )


def test_what_the_rig_lacks_is_an_error_and_what_is_assumed_a_warning():
    log = MemoryLog()
    log.add("/cam/image_rect", image("cam"), every(0.1))
    log.add("/lidar", cloud("lidar"), every(0.1))
    log.add("/tf_static", transform("base_link", "cam", static=True), [0.0])
    errors = findings(log)
    assert errors == [
        "error: no camera calibration for /cam/image_rect: give CAM intrinsics, [fx, fy, cx, cy]",
        "error: no transform from base_link to lidar: give LIDAR ego_SE3_sensor",
        errors[2],
    ]
    assert errors[2].startswith("warning: no odometry or map frame above base_link")


@pytest.mark.parametrize(
    ("calibrated", "topic", "expected"),
    [
        (calibration("cam"), "/cam/image_raw", "warning: CAM: raw images, and /cam/camera_info has no distortion"),
        (calibration("cam", focal=0.0), "/cam/image_raw", "error: CAM: /cam/camera_info has no focal length"),
        (calibration("cam", 128, 96), "/cam/image_rect", "error: CAM: images are 64 x 48 but 128 x 96"),
    ],
)
def test_faults_of_calibrations(calibrated, topic, expected):
    log = lidar_log(every(0.1))
    log.add(topic, image("lidar"), every(0.1))
    log.add("/cam/camera_info", calibrated, [0.0])
    (found,) = findings(log)
    assert found.startswith(expected), found


def test_images_that_nothing_decodes():
    log = lidar_log(every(0.1))
    for name, encoding in (("a", "16UC1"), ("b", "jpeg")):
        log.add(f"/{name}/image_rect", replace(image("lidar"), encoding=encoding, width=0), every(0.1))
        log.add(f"/{name}/camera_info", calibration("lidar"), [0.0])
    unknown, broken = findings(log)
    assert unknown.startswith("error: CAM_A: encoding '16UC1' is none of jpeg, png")
    assert broken == "error: CAM_B: the first image of /b/image_rect cannot be decoded"


def test_faults_of_topics():
    log = lidar_log(every(0.1))
    log.topic("/silent", "sensor_msgs/msg/PointCloud2", "cloud", count=0)
    log.topic("/broken", "sensor_msgs/msg/PointCloud2", "cloud", count=9)
    log.topic("/packets", "velodyne_msgs/msg/VelodyneScan", None, "raw packets", 9)
    log.add("/left/points", cloud("lidar"), every(0.1)[:50])
    log.add("/left/points", cloud("other", points=0), every(0.1)[50:])
    log.add("/flat/points", cloud("lidar", ("x", "y")), every(0.1))
    found = findings(log)
    assert [line.split(";")[0] for line in found] == [
        "error: LIDAR_FLAT: /flat/points has no x, y, z, found x y",
        "warning: /broken: none of 9 messages could be decoded",
        "warning: /left/points: messages of several frames (lidar, other): give the rig a frame_id",
        "warning: /left/points: 51 of 101 clouds have no point",
        "warning: /silent: no message",
        "note: 1 topic of 8 cannot be decoded: /packets",
    ]


def test_truncation_and_damage_are_errors():
    log = lidar_log(every(0.1))
    log.stopped, log.damage = "after chunk 3 of 9 at byte 77", [f"chunk {i}: wrong checksum" for i in range(7)]
    found = diagnose(inspect(log))
    assert [f.severity for f in found] == ["error"] * 7
    assert "after chunk 3 of 9 at byte 77" in found[0].text and found[-1].text == "damaged: and 2 more"
    assert report(found).splitlines()[-1] == "7 errors"


def test_frames_that_are_no_tree_and_a_reference_that_is_none():
    log = lidar_log(every(0.1))
    log.add("/tf_static", transform("mast", "lidar", static=True), [0.0])
    (found,) = findings(log)
    assert found == "error: frame lidar has several parents, base_link, mast: drop all but one"
    rig = Rig(lidars={"L": CloudSource(cloud="/lidar")})
    assert findings(lidar_log(every(0.1)), rig) == [
        "error: no reference: name the sensor whose measurements make frames"
    ]


def test_nothing_and_packets_alone():
    assert [f.severity for f in diagnose(inspect(MemoryLog()))] == ["error"]
    log = MemoryLog()
    log.topic("/packets", "nebula_msgs/msg/NebulaPackets", None, "raw packets", 9)
    assert [f.split(":")[0] for f in findings(log)] == ["error", "note"]


def test_the_report_counts():
    found = [Finding("error", "a"), Finding("warning", "b"), Finding("warning", "c")]
    assert report(found) == "error: a\nwarning: b\nwarning: c\n1 error, 2 warnings"
