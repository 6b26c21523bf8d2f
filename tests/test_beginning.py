"""The first seconds of a log: how far they reach, what is known from them, and that a replay reads them once."""

import numpy as np
from memory_log import MemoryLog, foxglove_log

from perception.logs.beginning import BEGINNING_S, beginning, known_from_the_start
from perception.logs.frames import LogFrames
from perception.logs.inspect import inspect
from perception.logs.log import Log
from perception.logs.measurements import Assembly
from perception.logs.messages import Calibration, Cloud, Image, Message, Transform, pinhole
from perception.replay.job import proposed_rig

S = 1_000_000_000


def message(topic: str, log_time_s: float, data) -> Message:
    return Message(topic, 0, round(log_time_s * S), 0, data)


def transform(static: bool) -> Transform:
    return Transform("base_link", "camera", np.array([1.0, 0, 0, 1, 0, 0, 0]), static)


CLOUD = Cloud("lidar", np.zeros(1, dtype=[("x", "<f4")]))
IMAGE = Image("camera", "jpeg", b"")


def test_the_beginning_ends_so_long_after_the_first_measurement_by_the_clock_of_the_recording():
    messages = [
        message("/tf", 0, transform(False)),
        message("/lidar", 10, CLOUD),
        message("/tf", 12, transform(False)),
        message("/camera", 11, IMAGE),
        message("/tf", 12.5, transform(False)),
        message("/lidar", 11, CLOUD),
    ]
    assert [m.log_time_ns / S for m in beginning(messages, 2.0)] == [0, 10, 12, 11]
    only_images = beginning(messages, 1.0, lambda m: m.topic == "/camera")
    assert [m.log_time_ns / S for m in only_images] == [0, 10, 12, 11]
    assert list(beginning(messages, 100.0)) == messages


def test_static_transforms_and_first_calibrations_are_known_from_the_start():
    first, second, other = (pinhole("camera", 4, 3, focal * np.eye(3)) for focal in (1.0, 2.0, 3.0))
    assert isinstance(first, Calibration) and first.projection.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    static = [transform(True), transform(True)]
    messages = [
        message("/camera_info", 0, first),
        message("/tf", 0, transform(False)),
        message("/tf_static", 1, static[0]),
        message("/camera_info", 1, second),
        message("/lidar", 1, CLOUD),
        message("/other_info", 2, other),
        message("/tf_static", 2, static[1]),
    ]
    assert [m.data for m in known_from_the_start(messages)] == [first, static[0], other, static[1]]


def test_a_log_is_read_once_for_its_beginning_and_once_for_its_frames(monkeypatch):
    reads = []
    read = MemoryLog.messages
    monkeypatch.setattr(MemoryLog, "messages", lambda self, *args: reads.append(1) or read(self, *args))
    log = Log(foxglove_log().as_recorded(), "drive", None, (), {}, 0.0, None, strict=True)

    info = inspect(log, seconds=BEGINNING_S)
    rig = proposed_rig(log, info)
    from_inspection = [frame.token for frame in LogFrames(log, rig, Assembly(), known=info.known)]
    assert len(reads) == 2 and len(from_inspection) > 5

    frames = LogFrames(log, rig, Assembly())  # as with a rig file
    assert [frame.token for frame in frames] == from_inspection
    assert len(reads) == 4
    list(frames)
    assert len(reads) == 5
