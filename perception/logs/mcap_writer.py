"""Messages written as MCAP, in protobuf messages of Foxglove's schemas.

That is the form of Foxglove's nuScenes converter, which its viewer opens, and Lichtblick. What is written is exact:
the bytes of images and points, poses to the last bit, times to the nanosecond. The same messages make the same file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from perception.errors import PerceptionError, missing_extra
from perception.files import begin_part, finish_part
from perception.geometry import to_xyzw
from perception.logs.decoding import CODECS, compressed_format
from perception.logs.foxglove_messages import NUMERIC_TYPES
from perception.logs.messages import (
    SAMPLE_NAME,
    Attitude,
    Calibration,
    Cloud,
    GnssFix,
    Image,
    LogError,
    Message,
    Payload,
    Pose,
    Sample,
    Transform,
)

_TYPE_NAMES = {dtype: dtype.name.capitalize() for dtype in NUMERIC_TYPES}  # such as Uint8
_COMPRESSED = ("jpeg", "png")
_LATEST_NS = 10**9 << 32  # foxglove-sdk counts seconds in 32 bits


class McapLogWriter:
    """A new MCAP file: zstd chunks with checksums, an index at the end.

        with McapLogWriter("drive.mcap") as writer:
            writer.write(message)

    Until all is written it is called ``drive.part.mcap``. Where an exception ends the writing, what came before is
    closed properly and keeps that name; the next attempt overwrites it.

    Args:
        path: ends in ".mcap"; a folder that is not there is made.

    Raises:
        LogError: a file that is there already or cannot be written; by ``write``, a message that cannot be.
        PerceptionError: the packages that write it are not installed.
    """

    def __init__(self, path: str | Path):
        try:
            import foxglove  # noqa: F401
            from mcap.writer import Writer
        except ImportError:
            raise PerceptionError(missing_extra("logs", "writing MCAP needs an extra")) from None
        self.path = Path(path)
        if self.path.suffix != ".mcap":
            raise LogError(f"{self.path}: a name ending in .mcap was expected")
        if self.path.exists():
            raise LogError(f"{self.path}: a new file was expected, found one that is there already")
        self._schemas: dict[type, int] = {}
        self._channels: dict[tuple[str, type], int] = {}
        self._count = 0
        with self._writing():
            self._file = begin_part(self.path).open("wb")
            self._writer = Writer(self._file)
            self._writer.start(library="perception")

    def __enter__(self) -> McapLogWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        with self._writing(), self._file:
            self._writer.finish()
        if kind is None:
            with self._writing():
                finish_part(self.path)

    def write(self, message: Message) -> None:
        """Messages of one topic may have several types; each type is a channel of its own."""
        try:
            encoded = _to_foxglove(message.data, message.timestamp_ns)
        except LogError as error:
            raise LogError(f"{self.path}: {message.topic} at {message.timestamp_ns} ns: {error}") from None
        with self._writing():
            self._writer.add_message(
                channel_id=self._channel(message.topic, type(encoded)),
                log_time=message.log_time_ns,
                data=encoded.encode(),
                publish_time=message.timestamp_ns,
                sequence=self._count & 0xFFFFFFFF,
            )
        self._count += 1

    def holds(self, message: Message) -> bool:
        """Foxglove's messages have no attitude, and no pose that says whose it is."""
        data = message.data
        return not (isinstance(data, Attitude) or (isinstance(data, Pose) and data.frame_id))

    def _channel(self, topic: str, kind: Any) -> int:
        """The number of the channel for messages of a class of ``foxglove.messages``."""
        if kind not in self._schemas:
            schema = kind.get_schema()
            self._schemas[kind] = self._writer.register_schema(schema.name, schema.encoding, schema.data)
        if (topic, kind) not in self._channels:
            self._channels[topic, kind] = self._writer.register_channel(topic, "protobuf", self._schemas[kind])
        return self._channels[topic, kind]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogError(f"{self.path}: cannot be written: {error.strerror or error}") from None


def _to_foxglove(payload: Payload, timestamp_ns: int):
    """The equivalent message of ``foxglove.messages``."""
    from foxglove import messages as fox

    if not 0 <= timestamp_ns < _LATEST_NS:
        raise LogError(f"a time from 1970 to 2106 was expected, found {timestamp_ns} ns")
    seconds, nanos = divmod(timestamp_ns, 1_000_000_000)
    timestamp = fox.Timestamp(sec=seconds, nsec=nanos)
    match payload:
        case Image(frame_id, encoding, data) if encoding in _COMPRESSED:
            format = compressed_format(payload)
            return fox.CompressedImage(timestamp=timestamp, frame_id=frame_id, data=bytes(data), format=format)
        case Image(frame_id, encoding, data) if encoding in CODECS:
            return fox.CompressedVideo(timestamp=timestamp, frame_id=frame_id, data=bytes(data), format=encoding)
        case Image():
            return fox.RawImage(
                timestamp=timestamp,
                frame_id=payload.frame_id,
                width=payload.width,
                height=payload.height,
                encoding=payload.encoding,
                step=payload.step,
                data=bytes(payload.data),
            )
        case Calibration():
            return fox.CameraCalibration(
                timestamp=timestamp,
                frame_id=payload.frame_id,
                width=payload.width,
                height=payload.height,
                distortion_model=payload.model,
                D=payload.distortion.tolist(),
                K=payload.intrinsics.ravel().tolist(),
                R=payload.rectification.ravel().tolist(),
                P=payload.projection.ravel().tolist(),
            )
        case Cloud(frame_id, records):
            return fox.PointCloud(
                timestamp=timestamp,
                frame_id=frame_id,
                point_stride=records.dtype.itemsize,
                fields=_packed_fields(records.dtype),
                data=records.tobytes(),
            )
        case Transform():
            translation, rotation = _vector_and_quaternion(payload.pose)
            return fox.FrameTransform(
                timestamp=timestamp,
                parent_frame_id=payload.parent,
                child_frame_id=payload.child,
                translation=translation,
                rotation=rotation,
            )
        case Pose():
            position, orientation = _vector_and_quaternion(payload.pose)
            pose = fox.Pose(position=position, orientation=orientation)
            return fox.PoseInFrame(timestamp=timestamp, frame_id=payload.parent, pose=pose)
        case GnssFix(frame_id, latitude, longitude, altitude):
            return fox.LocationFix(
                timestamp=timestamp, frame_id=frame_id, latitude=latitude, longitude=longitude, altitude=altitude
            )
        case Sample(token):
            return fox.Log(timestamp=timestamp, level=fox.LogLevel.Info, message=token, name=SAMPLE_NAME)
    raise LogError(f"a payload of perception.logs.messages was expected, found {type(payload).__name__}")


def _vector_and_quaternion(pose: np.ndarray) -> tuple:
    from foxglove.messages import Quaternion, Vector3

    rotation = dict(zip("xyzw", to_xyzw(pose[3:]).tolist()))
    return Vector3(**dict(zip("xyz", pose[:3].tolist()))), Quaternion(**rotation)


@lru_cache(maxsize=64)
def _packed_fields(dtype: np.dtype) -> list:
    from foxglove.messages import PackedElementField, PackedElementFieldNumericType

    fields = []
    for name, (number, offset, *_) in (dtype.fields or {}).items():
        if number not in _TYPE_NAMES:
            raise LogError(f"field {name}: an integer of at most 32 bits or a float was expected, found {number}")
        numeric_type = getattr(PackedElementFieldNumericType, _TYPE_NAMES[number])
        fields.append(PackedElementField(name=name, offset=offset, type=numeric_type))
    return fields
