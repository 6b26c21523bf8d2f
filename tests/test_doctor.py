"""Faults of logs: each is made in a log that is otherwise sound, and is the one finding."""

import re
from dataclasses import replace

import numpy as np
import pytest
from memory_log import (
    START_NS,
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
from perception.logs.log import Log
from perception.logs.rehearsal import Rehearsal, rehearse
from perception.logs.rig import CloudSource, Rig


def diagnosed(log: MemoryLog, rig: Rig | None = None) -> list[Finding]:
    info = inspect(log, rig)
    return diagnose(info, rehearse(Log(log, "drive", None, (), {}, 0.0, None, False), rig, info.duration_s))


def findings(log: MemoryLog, rig: Rig | None = None) -> list[str]:
    """Those that the replay itself does not make."""
    found = diagnosed(log, rig)
    assert all("\n" not in finding.text for finding in found)
    return [str(finding) for finding in found if not finding.text.startswith("the replay")]


def of_the_replay(log: MemoryLog, rig: Rig | None = None) -> list[str]:
    return [str(finding) for finding in diagnosed(log, rig) if finding.text.startswith("the replay: ")]


def lidar_log(stamps_s, pose_s=None, **options) -> MemoryLog:
    """A LiDAR on a vehicle that drives for ten seconds."""
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", static=True), [0.0])
    drive(log, "map", "base_link", every(0.1) if pose_s is None else pose_s)
    log.add("/lidar", cloud("lidar"), stamps_s, **options)
    return log


@pytest.mark.parametrize("log", [foxglove_log, turtlebot_log, lambda: lidar_log(every(0.1))])
def test_sound_logs_have_no_findings(log):
    assert diagnosed(log().as_recorded()) == []
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
        ([-START_NS * 1e-9, *every(0.1)], "error: /lidar: 1 of 102 messages have no time"),
        (
            [*every(0.1, 4), *(4 + s for s in every(0.2, 3)[1:]), *(7 + s for s in every(0.1, 3)[1:])],
            "warning: /lidar: rate falls from 10.0 to [45].* Hz from \\+4.0 s to \\+7.0 s",
        ),
    ],
)
def test_faults_of_stamps(stamps, expected):
    (found,) = findings(lidar_log(stamps))
    assert re.match(expected, found), found


def test_what_is_too_late_to_be_sorted_is_not_said_to_be_sorted():
    first, *_ = findings(lidar_log([*every(0.1)[:50], 4.2, *every(0.1)[50:]]))
    assert first == (
        "warning: /lidar: time goes backwards once, by up to 0.7 s; by more than 0.5 s they may come too late for their"
        " frame"
    )


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
    assert warning.endswith("its clock is off, which offset_s: 0.50 in the rig corrects, or it comes late")


def test_a_clock_that_is_ahead_is_corrected_by_the_rig():
    log = lidar_log(every(0.1))
    for name, ahead_s in (("left", 18.0), ("right", 0.0)):
        log.add(f"/{name}/points", cloud("lidar"), [s + ahead_s for s in every(0.1)], delay_s=-ahead_s)
    info = inspect(log)
    (warning,) = [str(finding) for finding in diagnose(info, Rehearsal()) if "/left" in finding.text]
    assert "/left/points: stamped 18 s after" in warning
    assert warning.endswith("its clock is off, which offset_s: -18.00 in the rig corrects")
    info.rig.lidars["LIDAR_LEFT"].offset_s = -18.0
    assert not any("/left" in finding.text for finding in diagnose(info, Rehearsal()))
    info.rig.lidars["LIDAR_LEFT"].offset_s = -37.0
    assert any("offset_s: -18.00" in finding.text for finding in diagnose(info, Rehearsal()))


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
    ("picture", "calibrated", "expected"),
    [
        (image("lidar"), calibration("cam", focal=0.0), "intrinsics: fx, fy > 0 .* found 0.0, 0.0"),
        (image("lidar"), calibration("cam", 128, 96), r"height, width \(96, 128\) were expected, found \(48, 64\)"),
        (
            image("lidar"),
            replace(calibration("cam", distortion=[0.1] * 5), model="double_sphere"),
            "distortion plumb_bob.* was expected, found 'double_sphere' of 5 numbers",
        ),
        (replace(image("lidar"), encoding="16UC7"), calibration("cam"), "an encoding of .* expected, found '16UC7'"),
        (replace(image("lidar"), encoding="jpeg", width=0), calibration("cam"), "a JPEG or PNG image was expected"),
    ],
)
def test_images_that_the_replay_cannot_use(picture, calibrated, expected):
    log = lidar_log(every(0.1))
    log.add("/cam/image_raw", picture, every(0.1))
    log.add("/cam/camera_info", calibrated, [0.0])
    (found,) = of_the_replay(log.as_recorded())
    expected = rf"error: the replay: /cam/image_raw: {expected}.*: measurements that cannot be used: \d+"
    assert re.fullmatch(expected, found), found


def test_raw_images_without_distortion():
    log = lidar_log(every(0.1))
    log.add("/cam/image_raw", image("lidar"), every(0.1))
    log.add("/cam/camera_info", calibration("cam"), [0.0])
    (found,) = findings(log)
    assert found.startswith("warning: CAM: raw images, and /cam/camera_info has no distortion"), found


def test_clouds_that_the_replay_cannot_use():
    log = lidar_log(every(0.1))
    log.add("/flat/points", cloud("lidar", ("x", "y")), every(0.1))
    log.add("/radar/points", cloud("lidar", ("x", "y", "z", "rcs")), every(0.1))
    found = of_the_replay(log.as_recorded())
    assert [line.rpartition(" cannot")[0] for line in found] == [
        "error: the replay: /flat/points: a field z was expected, found x y: measurements that",
        "error: the replay: /radar/points: a field of a radar's speed was expected, such as doppler_velocity,"
        " found x y z rcs: measurements that",
    ]


def test_what_the_replay_goes_on_without_is_a_warning():
    log = lidar_log(every(0.1))
    log.add("/radar/points", cloud("lidar", ("x", "y", "z", "v_r")), every(0.1))
    for message in log.messages(["/radar/points"]):
        message.data.records["z"] = np.nan
    found = [str(finding) for finding in diagnosed(log.as_recorded())]
    assert found == [
        "warning: the replay: no point of any radar is left in any frame",
        "warning: the replay: /radar/points: points that are not finite: 357",  # 7 in each of 51 frames, five a second
        "note: the replay was tried with 51 frames from all over the log",
    ]


def test_messages_without_a_stamp_are_used_at_the_time_of_their_recording():
    (found,) = of_the_replay(lidar_log([None, *every(0.1)[1:]]))
    assert found == "warning: the replay: /lidar: 1 messages without a stamp, the time of their recording is used"


def test_mounts_that_come_late_are_no_fault_of_static_transforms_and_one_of_others():
    for topic, static, expected in (
        ("/tf_static", True, []),
        ("/tf", False, ["a rig file was expected (--rig)", "no transform from base_link to lidar: give LIDAR"]),
    ):
        log = MemoryLog()
        log.add("/lidar", cloud("lidar"), every(0.1))
        drive(log, "map", "base_link", every(0.1))
        log.add(topic, transform("base_link", "lidar", static=static), [6.0])
        found = of_the_replay(log.as_recorded())
        assert [line.removeprefix("error: the replay: ").removesuffix(" ego_SE3_sensor") for line in found] == expected


def test_faults_of_topics():
    log = lidar_log(every(0.1))
    log.topic("/silent", "sensor_msgs/msg/PointCloud2", "cloud", count=0)
    log.topic("/broken", "sensor_msgs/msg/PointCloud2", "cloud", count=9)
    log.topic("/packets", "velodyne_msgs/msg/VelodyneScan", None, "raw packets", 9)
    log.topic("/words", "std_msgs/msg/String", None, "", 9)
    log.add("/left/points", cloud("lidar"), every(0.1)[:50])
    log.add("/left/points", cloud("other", points=0), every(0.1)[50:])
    found = findings(log)
    assert [line.split(";")[0] for line in found] == [
        "warning: /broken: none of 9 messages could be decoded",
        "warning: /left/points: messages of several frames (lidar, other): give the rig a frame_id",
        "warning: /left/points: 51 of 101 clouds have no point",
        "warning: /packets: velodyne_msgs/msg/VelodyneScan cannot be decoded: raw packets",
        "warning: /silent: no message",
        "note: 1 topic of 8 not decoded: /words",
    ]


def test_truncation_and_damage_are_errors():
    log = lidar_log(every(0.1))
    log.stopped, log.damage = "after chunk 3 of 9 at byte 77", [f"chunk {i}: wrong checksum" for i in range(7)]
    found = diagnosed(log)
    assert [f.severity for f in found] == ["error"] * 7
    assert "after chunk 3 of 9 at byte 77" in found[0].text and found[-1].text == "damaged: and 2 more"
    assert report(found).splitlines()[-1] == "7 errors"


def test_frames_with_two_parents_and_a_reference_that_is_none():
    log = lidar_log(every(0.1))
    log.add("/tf_static", transform("mast", "lidar", static=True), [0.0])
    assert findings(log) == ["note: frame lidar has several parents, base_link, mast"]
    rig = Rig(lidars={"L": CloudSource(cloud="/lidar")})
    assert findings(lidar_log(every(0.1)), rig) == [
        "error: no reference: name the sensor whose measurements make frames"
    ]


def test_nothing_and_packets_alone():
    assert [f.severity for f in diagnosed(MemoryLog())] == ["error"]
    log = MemoryLog()
    log.topic("/packets", "nebula_msgs/msg/NebulaPackets", None, "raw packets", 9)
    assert [f.split(":")[0] for f in findings(log)] == ["error", "warning"]


def test_the_report_counts():
    found = [Finding("error", "a"), Finding("warning", "b"), Finding("warning", "c")]
    assert report(found) == "error: a\nwarning: b\nwarning: c\n1 error, 2 warnings"
