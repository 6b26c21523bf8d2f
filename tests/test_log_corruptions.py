"""Faults put into a log: each does what its line says, to whom it says, when it says, and the same every time."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import START_NS, MemoryLog, every, image, transform
from nuscenes_world import World

from perception.geometry import SE3
from perception.logs.corruptions import CorruptionError, Corruptions, biases, parse_corruptions
from perception.logs.frames import LogFrames
from perception.logs.images import rectified_image
from perception.logs.log import Log, open_log
from perception.logs.measurements import Assembly
from perception.logs.messages import Calibration, Cloud, Image, Message, Sample, Transform
from perception.logs.rig import CameraSource, CloudSource, Rig
from perception.replay.job import rig_of

RIG = Rig(
    reference="LIDAR_TOP",
    cameras={
        "CAM_FRONT": CameraSource(image="/front", calibration="/front/info"),
        "CAM_BACK": CameraSource(image="/back", calibration="/back/info"),
    },
    lidars={"LIDAR_TOP": CloudSource(cloud="/lidar")},
    radars={"RADAR_FRONT": CloudSource(cloud="/radar")},
)


def numbered(i: int) -> Cloud:
    """A cloud whose only point says which it is."""
    return Cloud("lidar", np.array([(i,)], [("x", "<f4")]))


def number(message: Message) -> int:
    return int(message.data.records["x"][0])


def lidar_log(stamps_s=None) -> MemoryLog:
    """Ten seconds of a LiDAR at 2 Hz, and a radar at the same times."""
    log = MemoryLog()
    for i, stamp_s in enumerate(every(0.5) if stamps_s is None else stamps_s):
        log.add("/lidar", numbered(i), [stamp_s])
        log.add("/radar", numbered(i), [stamp_s])
    return log


def replayed(reader, *texts) -> list[Message]:
    log = Log(reader, "drive", None, (), {}, 0.0, None, strict=True)
    log.change = Corruptions(parse_corruptions(texts, RIG))
    messages = list(log)
    assert not log.late
    return messages


def on(messages, topic="/lidar") -> list[tuple[float, int]]:
    """(seconds, number) of the clouds on a topic."""
    return [(round((m.timestamp_ns - START_NS) / 1e9, 6), number(m)) for m in messages if m.topic == topic]


ALL = [(0.5 * i, i) for i in range(21)]


def later(seconds: float) -> list[tuple[float, int]]:
    return [(round(stamp_s + seconds, 6), i) for stamp_s, i in ALL]


def test_without_faults_nothing_changes():
    messages = replayed(lidar_log())
    assert on(messages) == on(messages, "/radar") == ALL


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("drop:LIDAR_TOP", []),
        ("drop:lidar:1", []),
        ("drop:lidar:0", ALL),
        ("drop:lidar@0-10", []),
        ("drop:lidar@2-9.5", [*ALL[:4], *ALL[20:]]),
        ("drop:lidar@2.1-2.4", ALL),
        ("drop:LIDAR_TOP:1@1.5-1.5", [*ALL[:3], *ALL[4:]]),
        ("delay:lidar:0.15", later(0.15)),
        ("delay:lidar:3", later(3)),
        ("delay:lidar:-0.1", later(-0.1)),
        ("delay:lidar:0.75@1-1", [ALL[0], ALL[1], ALL[3], (1.75, 2), *ALL[4:]]),
        ("jitter:lidar:0", ALL),
        ("freeze:lidar@1-2", [*ALL[:2], (1.0, 1), (1.5, 1), (2.0, 1), *ALL[5:]]),
        ("freeze:lidar", [(t, 0) for t, _ in ALL]),
        ("freeze:lidar@0-0.5", [(0.0, 0), (0.5, 0), *ALL[2:]]),
        ("bias:lidar:yaw=3", ALL),
    ],
)
def test_what_a_fault_makes_of_a_lidar(fault, found):
    messages = replayed(lidar_log(), fault)
    assert on(messages) == found
    assert on(messages, "/radar") == ALL, "another sensor"
    times = [m.timestamp_ns for m in messages]
    assert times == sorted(times)


def test_a_kind_of_sensor_is_all_of_that_kind():
    log = MemoryLog()
    for topic in ("/front", "/back"):
        log.add(topic, image("camera"), [0.0, 1.0])
    log.add("/lidar", numbered(0), [0.0])
    assert [m.topic for m in replayed(log, "drop:camera")] == ["/lidar"]
    assert [m.topic for m in replayed(log, "drop:CAM_BACK")] == ["/front", "/lidar", "/front"]


def test_seconds_count_from_the_first_measurement_of_any_sensor():
    log = MemoryLog()
    log.add("/tf", transform("map", "base"), [0.0])
    log.add("/radar", numbered(0), [5.0])
    log.add("/lidar", numbered(0), [6.0])
    log.add("/lidar", numbered(1), [7.0])
    assert on(replayed(log, "drop:lidar@1-1")) == [(7.0, 1)]


def test_a_share_of_the_messages_never_arrives():
    log = lidar_log(every(0.01, 100))
    kept = on(replayed(log, "drop:lidar:0.3"))
    assert 10001 * 0.7 == pytest.approx(len(kept), abs=4 * np.sqrt(10001 * 0.3 * 0.7)), "four standard deviations"
    assert kept == on(replayed(log, "drop:lidar:0.3")), "the same every time"
    both = replayed(log, "drop:lidar:0.3", "drop:radar:0.3")
    assert on(both) == kept, "whatever happens to others"
    assert {i for _, i in on(both, "/radar")} != {i for _, i in kept}, "not all at once"


def test_stamps_jitter_around_the_true_ones():
    log = lidar_log(every(0.01, 100))
    messages = replayed(log, "jitter:lidar:0.02")
    off = np.array([t - 0.01 * i for t, i in on(messages)])
    assert len(off) == 10001 and abs(off.mean()) < 4 * 0.02 / 100 and off.std() == pytest.approx(0.02, rel=0.05)
    assert on(messages) == on(replayed(log, "jitter:lidar:0.02"))
    assert [number(m) for m in messages if m.topic == "/lidar"] != list(range(10001)), "brought into their new order"


def test_several_faults_of_one_sensor_come_one_after_the_other():
    frozen_then_late = replayed(lidar_log(), "freeze:lidar@1-2", "delay:lidar:0.2@2-3")
    assert on(frozen_then_late)[:7] == [(0.0, 0), (0.5, 1), (1.0, 1), (1.5, 1), (2.2, 1), (2.7, 5), (3.2, 6)]
    # What never arrived cannot be what came last.
    assert on(replayed(lidar_log(), "drop:lidar@0.5-0.5", "freeze:lidar@1-2"))[:4] == [
        (0.0, 0), (1.0, 0), (1.5, 0), (2.0, 0),
    ]  # fmt: skip
    twice = replayed(lidar_log(), "freeze:lidar@1-1.5", "freeze:lidar@3-3")
    assert [i for _, i in on(twice)] == [0, 1, 1, 1, 4, 5, 5, *range(7, 21)]
    assert on(replayed(lidar_log(), "delay:lidar:0.1", "delay:lidar:0.1")) == later(0.2)


@given(st.lists(st.sampled_from(["drop:lidar:0.5", "delay:lidar:0.7", "jitter:radar:0.1", "freeze:lidar@2-4"])))
def test_runs_are_repeatable_and_in_order(texts):
    one, other = ([(m.timestamp_ns, m.topic, number(m)) for m in replayed(lidar_log(), *texts)] for _ in range(2))
    assert one == other and [line[:2] for line in one] == sorted(line[:2] for line in one)


def test_what_is_no_measurement_is_left_alone():
    rig = Rig(lidars={"ODD": CloudSource(cloud="/odd")})
    faults = Corruptions(parse_corruptions(["drop:lidar", "delay:lidar:1"], rig))
    calibration = Calibration("c", 1, 1, np.eye(3), np.zeros(0), "", np.eye(3), np.eye(3, 4))
    for data in (Sample("a"), transform("a", "b"), calibration):
        message = Message("/odd", 1, 1, 0, data)
        assert faults(message) is message


CALIBRATION = Calibration("c", 32, 16, np.eye(3), np.zeros(0), "", np.eye(3), np.eye(3, 4))
PIXELS = np.full((16, 32, 3), 90, np.uint8)


@pytest.mark.parametrize(
    "recorded",
    [
        Image("c", "jpeg", cv2.imencode(".jpg", PIXELS)[1].tobytes()),
        Image("c", "png", memoryview(cv2.imencode(".png", PIXELS)[1].tobytes()), 32, 16),
        Image("c", "rgb8", PIXELS.tobytes(), 32, 16, 96),
        Image("c", "bayer_rggb8", bytes(16 * 40), 32, 16, 40),
    ],
    ids=lambda image: image.encoding,
)
def test_a_blank_image_is_black_and_of_its_size(recorded):
    log = MemoryLog()
    log.add("/front", recorded, [0.0])
    [message] = replayed(log, "blank:camera")
    pixels, _ = rectified_image(message.data, CALIBRATION, True, None)
    assert pixels.shape == (16, 32, 3) and not pixels.any() and message.data.frame_id == "c"


@pytest.mark.parametrize(
    "recorded",
    [
        Image("c", "jpeg", b"no image"),
        Image("c", "jpeg", b""),
        Image("c", "rgb8", PIXELS.tobytes(), 1 << 31, 1 << 31, 1 << 31),
        Image("c", "rgb8", PIXELS.tobytes(), 32, 16, 0),
    ],
    ids=["noise", "nothing", "size of a damaged message", "no step"],
)
def test_a_damaged_image_stays_as_it_is(recorded):
    log = MemoryLog()
    log.add("/front", recorded, [0.0])
    [message] = replayed(log, "blank:camera")
    assert message.data is recorded


def test_a_blank_cloud_has_no_points_but_its_fields():
    [message] = [m for m in replayed(lidar_log([0.0]), "blank:lidar") if m.topic == "/lidar"]
    assert len(message.data.records) == 0 and message.data.records.dtype.names == ("x",)


def test_biases_are_turned_in_the_axes_of_the_sensor_and_add_up():
    found = biases(parse_corruptions(["bias:lidar:yaw=90,x=1", "drop:radar", "bias:LIDAR_TOP:x=2"], RIG))
    assert list(found) == ["/lidar"]
    # The second is 2 m along an x axis that the first has turned to y.
    assert found["/lidar"] == pytest.approx(np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    roll, pitch = (biases(parse_corruptions([f"bias:lidar:{angle}=90"], RIG))["/lidar"] for angle in ("roll", "pitch"))
    assert roll @ [0, 1, 0, 1] == pytest.approx([0, 0, 1, 1]), "left goes up"
    assert pitch @ [1, 0, 0, 1] == pytest.approx([0, 0, -1, 1]), "the nose goes down"


BAD = {
    "": "KIND:SENSOR",
    "drop": "KIND:SENSOR",
    "drop:": "KIND:SENSOR",
    "lose:lidar": "KIND out of drop, delay, jitter, freeze, blank, bias",
    "drop:lidar:": "KIND:SENSOR",
    "drop:lidar@": "KIND:SENSOR",
    "drop:lidar@3": "KIND:SENSOR",
    "drop:lidar@-1-3": "KIND:SENSOR",
    "drop:lidar@1.2.3-4": "a number was expected, found '1.2.3'",
    "drop:lidar@5-4": "an interval that begins before it ends",
    "drop:lidar:x": "a number was expected, found 'x'",
    "drop:lidar:30": "a share from 0 to 1 was expected, found 30",
    "drop:lidar:-0.1": "a share from 0 to 1",
    "drop:lidar:nan": "a number was expected, found 'nan'",
    "drop:sonar": "a sensor of camera, radar, lidar, CAM_FRONT, CAM_BACK, RADAR_FRONT, LIDAR_TOP was expected",
    "drop:/lidar": "a sensor of",
    "delay:lidar": "an amount was expected, such as delay:SENSOR:0.1",
    "delay:lidar@1-2": "an amount was expected",
    "delay:lidar:inf": "a number was expected",
    "jitter:lidar": "an amount was expected",
    "jitter:lidar:-1": "a deviation of 0 or more",
    "freeze:lidar:5": "no amount was expected, found '5'",
    "blank:camera:0.5": "no amount was expected",
    "bias:lidar": "an amount was expected, such as bias:SENSOR:yaw=2",
    "bias:lidar:2": "some of roll, pitch, yaw, x, y, z were expected, found '2'",
    "bias:lidar:tilt=2": "found 'tilt'",
    "bias:lidar:yaw": "a number was expected, found ''",
    "bias:lidar:yaw=2,": "found ''",
    "bias:lidar:yaw=2@1-2": "a bias holds throughout",
}


@pytest.mark.parametrize(("text", "message"), BAD.items())
def test_what_is_no_fault_is_said_in_one_line(text, message):
    with pytest.raises(CorruptionError) as error:
        parse_corruptions(["drop:lidar", text], RIG)
    assert str(error.value).startswith(f"fault {text!r}: ") and message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@given(st.text("drop:lidar@0123-.=,yawbias\n "))
def test_any_text_is_a_fault_or_an_error(text):
    try:
        [fault] = parse_corruptions([text], RIG)
    except CorruptionError:
        return
    assert fault.text == text


def frames_with(tmp_path: Path, *texts):
    """The frames of the tiny world, seen by its LiDAR, at (1, 0, 2) and turned to the right, and its radar."""
    with open_log(World().write(tmp_path)) as log:
        rig = rig_of(log, None)
        frames = LogFrames(log, rig, Assembly(), parse_corruptions(texts, rig))
        return list(frames), frames.problems


@pytest.mark.parametrize(
    ("faults", "target"),
    [
        # Ten metres along the x axis of the LiDAR, which is to the right of the vehicle.
        ([], [1, -10, 2]),
        (["bias:LIDAR_TOP:x=0.5"], [1, -10.5, 2]),
        (["bias:lidar:z=-1"], [1, -10, 1]),
        (["bias:LIDAR_TOP:yaw=90"], [11, 0, 2]),
        (["bias:LIDAR_TOP:yaw=90", "bias:LIDAR_TOP:x=0.5"], [11.5, 0, 2]),
        (["bias:LIDAR_TOP:pitch=-90"], [1, 0, 12]),
        (["bias:radar:x=5"], [1, -10, 2]),
    ],
)
def test_a_bias_moves_a_target_by_as_much(tmp_path, faults, target):
    frames, _ = frames_with(tmp_path, *faults)
    assert len(frames) == 2
    for frame in frames:
        assert frame.lidar.points[:, :3] == pytest.approx(np.array([target]), abs=1e-4)


def test_a_bias_turns_a_camera(tmp_path):
    """By 10 degrees about its own y axis, which points down: to the right of what it sees."""
    world = World()
    for i in (0, 1):
        world.row("sample_data", f"camera{i}")["timestamp"] -= 100_000
    with open_log(world.write(tmp_path)) as log:
        rig = rig_of(log, None)
        straight, turned = (
            next(iter(LogFrames(log, rig, Assembly(), parse_corruptions(texts, rig))))
            .cameras["CAM_FRONT"]
            .ego_SE3_camera
            for texts in ([], ["bias:camera:pitch=10"])
        )
    axis = np.array([0, 0, 1.0])
    assert straight.rotation @ axis == pytest.approx([1, 0, 0], abs=1e-6)
    yaw = np.deg2rad(-10)
    assert turned.rotation @ axis == pytest.approx([np.cos(yaw), np.sin(yaw), 0], abs=1e-6)
    assert isinstance(turned, SE3) and turned.translation == pytest.approx(straight.translation)


def test_a_delay_moves_what_a_frame_shows(tmp_path):
    """At 20 m/s a LiDAR that is stamped 50 ms late is taken to have been a metre further on."""
    frames, _ = frames_with(tmp_path, "delay:lidar:0.05")
    # The first frame shows the sweep of 50 ms before.
    assert [frame.lidar.points[0, 0] for frame in frames] == pytest.approx([1, 2], abs=1e-4)
    frames, problems = frames_with(tmp_path, "delay:lidar:0.2")
    assert [frame.lidar is None for frame in frames] == [True, True]
    assert "frames without LIDAR_TOP: 2" in problems


def test_what_is_dropped_is_absent_from_the_frames_and_said(tmp_path):
    frames, problems = frames_with(tmp_path, "drop:lidar@0.3-9")
    assert [frame.lidar is None for frame in frames] == [False, True] and frames[1].radar is not None
    assert "frames without LIDAR_TOP: 1" in problems


def test_transforms_of_a_log_are_never_touched():
    log = MemoryLog()
    log.add("/tf", transform("map", "base", 3.0), [0.0])
    assert isinstance(replayed(log, "drop:lidar", "drop:camera", "drop:radar")[0].data, Transform)
