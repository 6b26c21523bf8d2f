"""Messages of Foxglove's schemas, in protobuf or JSON, as payloads.

    kind, note, decode = decoder("foxglove.PointCloud", schema_data)

The schemas: https://docs.foxglove.dev/docs/sdk/schemas. A recording carries the descriptors of its messages, by which
they are parsed; of those, the fields that are used here must be what Foxglove says. Damage is a LogError: a message
that does not parse, contents that contradict each other, descriptors that do not fit together or say something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from perception.errors import PerceptionError, missing_extra
from perception.logs import undecoded
from perception.logs.decoding import (
    MOST_FIELDS,
    compressed_image,
    numbers,
    point_dtype,
    pose,
    raw_image,
    timestamp_ns,
    timestamp_or_recording_ns,
    video_image,
)
from perception.logs.foxglove_json import parsed
from perception.logs.messages import (
    SAMPLE_NAME,
    Calibration,
    Cloud,
    Decode,
    GnssFix,
    LogError,
    Payload,
    Pose,
    Sample,
    Transform,
    pinhole_projection,
)
from perception.logs.video import why_not

# https://docs.foxglove.dev/docs/sdk/schemas/packed-element-field, numbered from 1, not as in sensor_msgs/PointField
NUMERIC_TYPES = tuple(np.dtype(f"<{name}") for name in ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"))
_FIELDS = {  # those that are used
    "google.protobuf.Timestamp": "int64 seconds; int32 nanos",
    "foxglove.Vector3": "double x; double y; double z",
    "foxglove.Quaternion": "double x; double y; double z; double w",
    "foxglove.Pose": "foxglove.Vector3 position; foxglove.Quaternion orientation",
    "foxglove.PackedElementField": "string name; fixed32 offset; enum type",
    "foxglove.CompressedImage": "google.protobuf.Timestamp timestamp; string frame_id; bytes data; string format",
    "foxglove.CompressedVideo": "google.protobuf.Timestamp timestamp; string frame_id; bytes data; string format",
    "foxglove.RawImage": "google.protobuf.Timestamp timestamp; string frame_id; fixed32 width; fixed32 height; "
    "string encoding; fixed32 step; bytes data",
    "foxglove.CameraCalibration": "google.protobuf.Timestamp timestamp; string frame_id; fixed32 width; "
    "fixed32 height; string distortion_model; repeated double D; repeated double K; repeated double R; "
    "repeated double P",
    "foxglove.PointCloud": "google.protobuf.Timestamp timestamp; string frame_id; foxglove.Pose pose; "
    "fixed32 point_stride; repeated foxglove.PackedElementField fields; bytes data",
    "foxglove.FrameTransform": "google.protobuf.Timestamp timestamp; string parent_frame_id; string child_frame_id; "
    "foxglove.Vector3 translation; foxglove.Quaternion rotation",
    "foxglove.PoseInFrame": "google.protobuf.Timestamp timestamp; string frame_id; foxglove.Pose pose",
    "foxglove.LocationFix": "google.protobuf.Timestamp timestamp; string frame_id; double latitude; double longitude; "
    "double altitude",
    "foxglove.FrameTransforms": "repeated foxglove.FrameTransform transforms",
    "foxglove.Log": "google.protobuf.Timestamp timestamp; string message; string name",
}


def decoder(schema_name: str, schema_data: bytes, encoding: str = "protobuf") -> tuple[str | None, str, Decode | None]:
    """Kind of the messages of a schema (see KINDS), a note on why there is none, and their decoder.

    Args:
        schema_data: of protobuf, the serialised FileDescriptorSet that an MCAP schema record holds.
        encoding: "protobuf" or "json".

    Raises:
        LogError: damaged descriptors.
        PerceptionError: the packages that read them are not installed.
    """
    if schema_name not in _PAYLOADS:
        return None, undecoded.why_not(schema_name, [schema_name]), None
    kind, payloads = _PAYLOADS[schema_name]
    if payloads is _compressed_video and why_not():
        return None, why_not(), None
    if encoding == "json":
        return kind, "", lambda data, log_time_ns: payloads(parsed(data, schema_name, _FIELDS), log_time_ns)
    return kind, "", _protobuf_decoder(schema_name, schema_data, payloads)


def _protobuf_decoder(schema_name: str, schema_data: bytes, payloads: Callable) -> Decode:
    try:
        from google.protobuf.message import DecodeError
        from mcap.exceptions import McapError
        from mcap.records import Schema
        from mcap_protobuf.decoder import DecoderFactory
    except ImportError:
        raise PerceptionError(missing_extra("logs", "MCAP logs of protobuf messages need an extra")) from None

    schema = Schema(id=1, name=schema_name, encoding="protobuf", data=bytes(schema_data))
    try:
        parse: Any = DecoderFactory().decoder_for("protobuf", schema)
        _check_fields(parse(b"").DESCRIPTOR)
    except (DecodeError, McapError, TypeError, ValueError, KeyError, RecursionError) as error:
        raise LogError(f"the descriptors of {schema_name} were expected, found damaged ones: {_brief(error)}") from None

    def decode(data: bytes | memoryview, log_time_ns: int) -> list[tuple[int, Payload]]:
        try:
            return payloads(parse(data), log_time_ns)
        except (DecodeError, UnicodeDecodeError):
            raise LogError(f"a {schema_name} was expected, found {len(data)} bytes that do not parse as one") from None

    return decode


def _check_fields(descriptor) -> None:
    """Check the fields of a message type and, recursively, of the types in it."""
    from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

    proto, found = DescriptorProto(), set()
    descriptor.CopyToProto(proto)  # in which every version of protobuf says what is repeated
    for field in proto.field:
        message = descriptor.fields_by_name[field.name].message_type
        kind = message.full_name if message else FieldDescriptorProto.Type.Name(field.type)[len("TYPE_") :].lower()
        repeated = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
        found.add(f"{repeated}{kind} {field.name}")
    for declaration in _FIELDS[descriptor.full_name].split("; "):
        if declaration not in found:
            raise LogError(f"{descriptor.full_name} with '{declaration}' was expected in the schema, found it without")
        *_, kind, name = declaration.split()
        if kind in _FIELDS:
            _check_fields(descriptor.fields_by_name[name].message_type)


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _compressed_image(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return _stamped(message, log_time_ns, compressed_image(message.frame_id, message.format, message.data))


def _compressed_video(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return _stamped(message, log_time_ns, video_image(message.frame_id, message.format, message.data))


def _raw_image(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    size = message.width, message.height, message.step
    return _stamped(message, log_time_ns, raw_image(message.frame_id, message.encoding, message.data, *size))


def _calibration(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    intrinsics = numbers("K", message.K, 3, 3)
    calibration = Calibration(
        frame_id=message.frame_id,
        width=message.width,
        height=message.height,
        intrinsics=intrinsics,
        distortion=numbers("D", message.D),
        model=message.distortion_model,
        rectification=numbers("R", message.R, 3, 3) if message.R else np.eye(3),
        projection=numbers("P", message.P, 3, 4) if message.P else pinhole_projection(intrinsics),
    )
    return _stamped(message, log_time_ns, calibration)


def _cloud(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    if not _is_identity(message.pose):
        raise LogError("a cloud in the frame that it names was expected, found one with a pose of its own in it")
    if len(message.fields) > MOST_FIELDS:
        raise LogError(f"at most {MOST_FIELDS} fields of a point were expected, found {len(message.fields)}")
    fields = tuple((field.name, field.offset, field.type, 1) for field in message.fields)
    dtype, defects = point_dtype(fields, NUMERIC_TYPES, message.point_stride, "point_stride")
    data = message.data
    if len(data) % dtype.itemsize:
        raise LogError(f"a multiple of point_stride {dtype.itemsize} was expected, found {len(data)} bytes of data")
    return _stamped(message, log_time_ns, Cloud(message.frame_id, np.frombuffer(data, dtype), defects))


def _is_identity(pose) -> bool:
    """Of a foxglove.Pose. An orientation without numbers has not been set."""
    at, q = pose.position, pose.orientation
    return (at.x, at.y, at.z, q.x, q.y, q.z) == (0,) * 6 and q.w in (0, 1, -1)


def _transform(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    found = pose(message.translation, message.rotation)
    stamp_ns = timestamp_or_recording_ns(message.timestamp.seconds, message.timestamp.nanos, log_time_ns)
    return [(stamp_ns, Transform(message.parent_frame_id, message.child_frame_id, found))]


def _transforms(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return [stamped for transform in message.transforms for stamped in _transform(transform, log_time_ns)]


def _pose(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    found = pose(message.pose.position, message.pose.orientation)
    return _stamped(message, log_time_ns, Pose("", message.frame_id, found))


def _fix(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    fix = GnssFix(message.frame_id, message.latitude, message.longitude, message.altitude)
    return _stamped(message, log_time_ns, fix)


def _sample(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return _stamped(message, log_time_ns, Sample(message.message)) if message.name == SAMPLE_NAME else []


def _stamped(message, log_time_ns: int, payload: Payload) -> list[tuple[int, Payload]]:
    return [(timestamp_ns(message.timestamp.seconds, message.timestamp.nanos, log_time_ns), payload)]


_PAYLOADS: dict[str, tuple[str, Callable]] = {
    "foxglove.CompressedImage": ("image", _compressed_image),
    "foxglove.CompressedVideo": ("image", _compressed_video),
    "foxglove.RawImage": ("image", _raw_image),
    "foxglove.CameraCalibration": ("calibration", _calibration),
    "foxglove.PointCloud": ("cloud", _cloud),
    "foxglove.FrameTransform": ("transform", _transform),
    "foxglove.FrameTransforms": ("transform", _transforms),
    "foxglove.PoseInFrame": ("pose", _pose),
    "foxglove.LocationFix": ("fix", _fix),
    "foxglove.Log": ("sample", _sample),
}
