"""What a log says, whatever format it is in: sensor messages with the time at which they were measured.

Readers (one format a file in this folder) turn recordings into :class:`Message`; what is built on them (reordering,
the rig, the assembly of frames, the converters) knows nothing else. Payloads stay as recorded as long as possible:
images compressed, clouds with the fields of their sensor. What they mean is said by the rig.

A transform ``parent_SE3_child`` maps points in the child frame to the parent frame, as in ROS and Foxglove.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from perception.errors import PerceptionError


class LogError(PerceptionError):
    """A log, or a message in one, that cannot be read; names file, topic and time."""


@dataclass(frozen=True, eq=False, slots=True)
class Image:
    """One camera image as recorded.

    encoding: "jpeg" or "png" (data is the compressed file; width and height are 0 where the message does not say), or
        "h264", "h265", "vp9", "av1" (data is a packet of a video: see ``video.py``), or an encoding of raw pixels by
        its ROS name: rgb8, bgr8, rgba8, bgra8, mono8, bayer_rggb8, yuv422, ...
    step: bytes a row of raw pixels; 0 for compressed images.
    mosaic: "" or the Bayer pattern, such as "bayer_rggb", that the grey picture in a compressed file is.
    """

    frame_id: str
    encoding: str
    data: bytes | memoryview
    width: int = 0
    height: int = 0
    step: int = 0
    mosaic: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Calibration:
    """A camera's calibration, as in sensor_msgs/CameraInfo and foxglove.CameraCalibration.

    intrinsics: float64 [3, 3], K, of the raw image.  distortion: float64 [D], by ``model`` ("plumb_bob",
    "rational_polynomial", "equidistant", "" where there is none).  rectification: float64 [3, 3], R.
    projection: float64 [3, 4], P, whose left part is the intrinsics of the rectified image.
    """

    frame_id: str
    width: int
    height: int
    intrinsics: np.ndarray
    distortion: np.ndarray
    model: str
    rectification: np.ndarray
    projection: np.ndarray


def pinhole(frame_id: str, width: int, height: int, intrinsics: np.ndarray) -> Calibration:
    """The calibration of a camera without distortion."""
    projection = pinhole_projection(intrinsics)
    return Calibration(frame_id, width, height, intrinsics, np.zeros(0), "", np.eye(3), projection)


def pinhole_projection(intrinsics: np.ndarray) -> np.ndarray:
    return np.c_[intrinsics, np.zeros(3)]


@dataclass(frozen=True, eq=False, slots=True)
class Cloud:
    """Points of a LiDAR or a radar.

    records: structured array [N], the fields by their recorded names and types.
    defects: lines on what was left out of it, such as a field of an unknown type.
    """

    frame_id: str
    records: np.ndarray
    defects: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Transform:
    """parent_SE3_child: float64 [7], translation (x, y, z) in metres, then quaternion (w, x, y, z).

    They are as recorded: see :func:`perception.logs.transforms.checked_pose`.  static: holds at all times.
    """

    parent: str
    child: str
    pose: np.ndarray
    static: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Pose:
    """Where something was: pose as in :class:`Transform`.  frame_id: what was located, "" if it is not said."""

    frame_id: str
    parent: str
    pose: np.ndarray

    @property
    def is_valid(self) -> bool:
        return bool(np.isfinite(self.pose).all()) and _is_rotation(self.pose[3:])


@dataclass(frozen=True, eq=False, slots=True)
class GnssFix:
    """Latitude and longitude in degrees, altitude in metres above the ellipsoid, NaN where it is not known.

    frame_id: the antenna. Without a fix the numbers are NaN.
    """

    frame_id: str
    latitude: float
    longitude: float
    altitude: float

    @property
    def is_valid(self) -> bool:
        return abs(self.latitude) <= 90 and abs(self.longitude) <= 180  # nor is NaN less than anything


@dataclass(frozen=True, eq=False, slots=True)
class Attitude:
    """The orientation of an IMU against east, north and up: rotation float64 [4], w, x, y, z; NaN where unknown."""

    frame_id: str
    rotation: np.ndarray

    @property
    def is_valid(self) -> bool:
        return _is_rotation(self.rotation)


QUATERNION_TOLERANCE = 0.05  # how far its norm may be from 1


def _is_rotation(quaternion: np.ndarray) -> bool:
    return abs(float(np.linalg.norm(quaternion)) - 1) <= QUATERNION_TOLERANCE


SAMPLE_NAME = "sample"  # of a foxglove.Log or rcl_interfaces/Log that marks a sample, its message being the token


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """Marks the time of a frame; token: of the sample in the tables that the log was converted from."""

    token: str


Located = Pose | GnssFix | Attitude
Motion = Transform | Located  # where things are
Payload = Image | Calibration | Cloud | Motion | Sample
P = TypeVar("P", bound=Payload, covariant=True)
KINDS: dict[type, str] = {
    Image: "image",
    Calibration: "calibration",
    Cloud: "cloud",
    Transform: "transform",
    Pose: "pose",
    GnssFix: "fix",
    Attitude: "attitude",
    Sample: "sample",
}


class RecordingTime(int):
    """The log time of a message without a stamp of its own (0), in place of its time of measurement."""


# How a decoder of one message type is called: (serialised message, log_time_ns) -> [(timestamp_ns, payload), ...]. A tf
# message holds several transforms; one that holds nothing gives an empty list. Raises LogError, without file or topic.
Decode = Callable[[bytes | memoryview, int], list[tuple[int, Payload]]]


@dataclass(frozen=True, eq=False, slots=True)
class Message(Generic[P]):
    """timestamp_ns: of measurement, from the message's own header; a :class:`RecordingTime` where that has none.

    log_time_ns: when it was recorded.

    sequence: its place in the file, which breaks ties.
    """

    topic: str
    timestamp_ns: int
    log_time_ns: int
    sequence: int
    data: P


def is_timeless(message: Message) -> bool:
    """Whether it is a static transform, which holds at all times whatever its stamp."""
    return isinstance(message.data, Transform) and message.data.static


def content(data: Payload) -> bytes:
    """The bytes by which two payloads differ, which order them where nothing else does."""
    values = [type(data).__name__, *(getattr(data, field.name) for field in fields(data))]
    return b"".join(v.tobytes() if isinstance(v, np.ndarray | memoryview) else repr(v).encode() for v in values)


@dataclass(frozen=True, slots=True)
class Topic:
    """type: the name of the message type, as recorded.  kind: one of the values of KINDS, or None if not decodable.

    note: why it cannot be decoded, in a few words.  count: messages, None where the file does not say.
    """

    name: str
    type: str
    kind: str | None
    note: str = ""
    count: int | None = None


def merged(one: Topic, other: Topic) -> Topic:
    """One topic of several files or publishers; a decodable one takes precedence."""
    count = None if one.count is None or other.count is None else one.count + other.count
    return replace(one if one.kind or not other.kind else other, count=count)


class Reader(Protocol):
    """One recording, read in the order of the file (or of recording time, where the file has an index of it).

    path: what was opened.  topics: name -> Topic, known after opening; a truncated file may add some while it is read.
    stopped: None, or one line: where and why the recording ends before its proper end. Complete after ``messages``.
    damage: lines on what was left out on the way: chunks with a wrong checksum, messages that cannot be decoded.
    failed: topic -> what was wrong with the first of its messages that cannot be decoded.

    ``messages`` may be called several times. It yields only decodable messages of the topics asked for. With
    ``strict`` a message that cannot be decoded raises LogError instead of being added to ``damage``.
    """

    @property
    def path(self) -> Path: ...

    @property
    def topics(self) -> dict[str, Topic]: ...

    @property
    def stopped(self) -> str | None: ...

    @property
    def damage(self) -> list[str]: ...

    @property
    def failed(self) -> Mapping[str, str]: ...

    def messages(self, topics: Collection[str] | None = None, strict: bool = False) -> Iterator[Message]: ...

    def close(self) -> None: ...
