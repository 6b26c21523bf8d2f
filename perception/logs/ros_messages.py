"""ROS 2 messages (CDR), as payloads.

    kind, note, decode = decoder("sensor_msgs/msg/PointCloud2", definition, "ros2msg")

A recording that carries the definitions of its messages is read by them, fields found by name; one that does not, or
whose definition is damaged, is read by those of ROS 2 Humble, radar_msgs
(https://github.com/ros-perception/radar_msgs) and ffmpeg_image_transport_msgs. No ROS installation is needed.

Radar returns are in the radar's frame: azimuth in radians anticlockwise from its x axis (REP 103), Doppler speed
against the radar, which moves. Tracks too: position and velocity "relative to the radar's frame of reference", which
makers of radars read as against the radar or as over ground in its axes. What they say is passed on.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from perception.errors import PerceptionError, missing_extra
from perception.logs import livox_messages, undecoded
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
from perception.logs.messages import (
    SAMPLE_NAME,
    Attitude,
    Calibration,
    Cloud,
    Decode,
    GnssFix,
    LogError,
    Payload,
    Pose,
    Sample,
    Transform,
)
from perception.logs.ros_types import known_types, recorded_types, ros2_name
from perception.logs.video import why_not

# sensor_msgs/msg/PointField, numbered from 1, not as in foxglove.PackedElementField
POINT_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
_POINT_DTYPES = {order: tuple(np.dtype(order + name) for name in POINT_TYPES) for order in "<>"}
RETURN = np.dtype([(name, "<f4") for name in ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")])
TRACK = np.dtype(  # whose velocities are over ground
    [(name, "<f8") for name in ("x", "y", "z", "vx_comp", "vy_comp", "vz_comp")]
    + [(name, "<f4") for name in ("size_x", "size_y", "size_z")]
)

_LARGEST_MESSAGE = 1 << 28  # bytes that a compressed message may become

_ZSTD = b"\x28\xb5\x2f\xfd"


def decoder(type_name: str, definition: str | None, definition_encoding: str) -> tuple[str | None, str, Decode | None]:
    """Kind of the messages of a type (see KINDS), a note on why there is none, and their decoder.

    Transforms come with static=False: a message does not know its topic. See :func:`is_static` and :func:`as_static`.

    Args:
        definition: of the type and those it is made of, as recorded.  definition_encoding: "ros2msg", "ros2idl", or
            "ros1msg", whose messages are serialised as ROS 1 does it.

    Raises:
        PerceptionError: rosbags is not installed.
    """
    type_name, is_ros1 = ros2_name(type_name), definition_encoding == "ros1msg"
    if type_name in livox_messages.TYPES:
        return "cloud", "", lambda data, log_time_ns: livox_messages.decode_livox(data, log_time_ns, is_ros1)
    if type_name not in _PAYLOADS:
        return None, undecoded.why_not(type_name, known_types().fielddefs), None
    kind, payloads = _PAYLOADS[type_name]
    if payloads in (_compressed_video, _ffmpeg_packet) and why_not():
        return None, why_not(), None
    recorded = recorded_types(type_name, definition, definition_encoding) if definition else None
    stores = [*filter(None, [recorded]), known_types(is_ros1)]  # the recorded definition may be of another type
    from rosbags.serde import SerdeError

    def decode(data: bytes | memoryview, log_time_ns: int) -> list[tuple[int, Payload]]:
        if not is_ros1 and bytes(data[:4]) == _ZSTD:  # a bag with compression_mode: message; CDR begins with a zero
            data = _decompressed(data)
        reasons = []
        for store in stores:
            read = store.deserialize_ros1 if is_ros1 else store.deserialize_cdr
            try:
                return payloads(read(data, type_name), log_time_ns)
            except (SerdeError, struct.error, ValueError, LookupError, OverflowError, MemoryError) as error:
                reasons.append(f"a {type_name} was expected, found {len(data)} bytes that are none: {error}")
            except (AttributeError, TypeError) as error:  # a recorded definition with other fields
                reasons.append(f"the fields of {type_name} were expected, found others: {error}")
        raise LogError(reasons[0])

    return kind, "", decode


def is_static(topic: str) -> bool:
    """Whether transforms on a topic hold at all times: /tf_static, in any namespace."""
    return topic.rsplit("/", 1)[-1] == "tf_static"


def as_static(payload: Payload) -> Payload:
    """A transform as one that holds at all times; any other payload as it is."""
    return replace(payload, static=True) if isinstance(payload, Transform) else payload


def decompressed_size(data: bytes | memoryview) -> int:
    """Bytes that a message compressed by itself says it becomes; 0 of another one."""
    if bytes(data[:4]) != _ZSTD:
        return 0
    import zstandard

    try:
        return max(zstandard.frame_content_size(data), 0)
    except zstandard.ZstdError:
        return 0


def _decompressed(data: bytes | memoryview) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise PerceptionError(missing_extra("logs", "compressed messages need an extra")) from None
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= _LARGEST_MESSAGE:
            raise LogError(f"a compressed message of up to {_LARGEST_MESSAGE} bytes was expected, found {size}")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise LogError(f"a message compressed by zstd was expected, found damaged bytes: {error}") from None


def _image(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    size = (message.width, message.height, message.step)
    frame_id, big_endian = _frame(message.header.frame_id), bool(message.is_bigendian)
    image = raw_image(frame_id, message.encoding, message.data.data, *size, big_endian)
    return _stamped(message.header, log_time_ns, image)


def _compressed_image(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    image = compressed_image(_frame(message.header.frame_id), message.format, message.data.data)
    return _stamped(message.header, log_time_ns, image)


def _compressed_video(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    image = video_image(_frame(message.frame_id), message.format, message.data.data)
    return [(timestamp_ns(message.timestamp.sec, message.timestamp.nanosec, log_time_ns), image)]


def _ffmpeg_packet(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    size = message.width, message.height
    image = video_image(_frame(message.header.frame_id), message.encoding, message.data.data, *size)
    return _stamped(message.header, log_time_ns, image)


def _calibration(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    letters = "kdrp" if hasattr(message, "k") else "KDRP"  # as ROS 1 has them
    k, d, r, p = (getattr(message, letter) for letter in letters)
    calibration = Calibration(
        frame_id=_frame(message.header.frame_id),
        width=message.width,
        height=message.height,
        intrinsics=numbers("k", k, 3, 3),
        distortion=numbers("d", d),
        model=message.distortion_model,
        rectification=numbers("r", r, 3, 3),
        projection=numbers("p", p, 3, 4),
    )
    return _stamped(message.header, log_time_ns, calibration)


def _cloud(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    """Rows may be padded. A ``row_step`` that contradicts the data is ignored where the rows are dense."""
    fields = message.fields
    if len(fields) > MOST_FIELDS:
        raise LogError(f"at most {MOST_FIELDS} fields of a point were expected, found {len(fields)}")
    height, width, data, dense = message.height, message.width, message.data, message.width * message.point_step
    needed = (height - 1) * message.row_step + dense  # the last row may lack its padding
    row_step = message.row_step if message.row_step >= dense and needed <= len(data) else dense
    if len(data) < height * dense:
        raise LogError(
            f"{height} rows of {width} points of {message.point_step} bytes were expected, found {len(data)} bytes in"
            f" rows of {message.row_step}"
        )
    layout = tuple((field.name, field.offset, field.datatype, max(field.count, 1)) for field in fields)
    types = _POINT_DTYPES[">" if message.is_bigendian else "<"]
    dtype, defects = point_dtype(layout, types, message.point_step, "point_step")
    if len(data) > height * row_step:
        defects += (f"bytes behind the last point: {len(data) - height * row_step}",)
    shape = (height, width) if height * width else (0, 0)
    records: np.ndarray = np.ndarray(shape, dtype, data, strides=(row_step, message.point_step)).reshape(-1)
    return _stamped(message.header, log_time_ns, Cloud(_frame(message.header.frame_id), records, defects))


def _transforms(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    stamped: list[tuple[int, Payload]] = []
    for each in message.transforms:
        transform = Transform(
            parent=_frame(each.header.frame_id),
            child=_frame(each.child_frame_id),
            pose=pose(each.transform.translation, each.transform.rotation),
        )
        stamp = each.header.stamp
        stamped.append((timestamp_or_recording_ns(stamp.sec, stamp.nanosec, log_time_ns), transform))
    return stamped


def _odometry(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return _pose(message.header, _frame(message.child_frame_id), message.pose.pose, log_time_ns)


def _pose_stamped(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return _pose(message.header, "", message.pose, log_time_ns)


def _pose_with_covariance(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return _pose(message.header, "", message.pose.pose, log_time_ns)


def _pose(header, frame_id: str, found, log_time_ns: int) -> list[tuple[int, Payload]]:
    payload = Pose(frame_id, _frame(header.frame_id), pose(found.position, found.orientation))
    return _stamped(header, log_time_ns, payload)


def _fix(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    numbers = (message.latitude, message.longitude, message.altitude)
    if message.status.status < 0:
        numbers = (math.nan,) * 3
    return _stamped(message.header, log_time_ns, GnssFix(_frame(message.header.frame_id), *numbers))


def _attitude(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    """A covariance that begins with -1 says that there is none."""
    q = message.orientation
    rotation = np.array((q.w, q.x, q.y, q.z), dtype=np.float64)
    if message.orientation_covariance[0] == -1:
        rotation[:] = np.nan
    return _stamped(message.header, log_time_ns, Attitude(_frame(message.header.frame_id), rotation))


def _radar_scan(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    returns = [(r.range, r.azimuth, r.elevation, r.doppler_velocity, r.amplitude) for r in message.returns]
    cloud = Cloud(_frame(message.header.frame_id), np.array(returns, dtype=RETURN))
    return _stamped(message.header, log_time_ns, cloud)


def _radar_tracks(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    tracks = [
        tuple(getattr(vector, axis) for vector in (track.position, track.velocity, track.size) for axis in "xyz")
        for track in message.tracks
    ]
    cloud = Cloud(_frame(message.header.frame_id), np.array(tracks, dtype=TRACK))
    return _stamped(message.header, log_time_ns, cloud)


def _sample(message, log_time_ns: int) -> list[tuple[int, Payload]]:
    return _stamped(message, log_time_ns, Sample(message.msg)) if message.name == SAMPLE_NAME else []


def _frame(frame_id: str) -> str:
    """Bags converted from ROS 1 have names with a leading slash, which is ignored, as in tf2."""
    return frame_id.removeprefix("/")


def _stamped(header, log_time_ns: int, payload: Payload) -> list[tuple[int, Payload]]:
    return [(timestamp_ns(header.stamp.sec, header.stamp.nanosec, log_time_ns), payload)]


_PAYLOADS: dict[str, tuple[str, Callable]] = {
    "sensor_msgs/msg/Image": ("image", _image),
    "sensor_msgs/msg/CompressedImage": ("image", _compressed_image),
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": ("image", _ffmpeg_packet),
    "foxglove_msgs/msg/CompressedVideo": ("image", _compressed_video),
    "sensor_msgs/msg/CameraInfo": ("calibration", _calibration),
    "sensor_msgs/msg/PointCloud2": ("cloud", _cloud),
    "tf2_msgs/msg/TFMessage": ("transform", _transforms),
    "nav_msgs/msg/Odometry": ("pose", _odometry),
    "geometry_msgs/msg/PoseStamped": ("pose", _pose_stamped),
    "geometry_msgs/msg/PoseWithCovarianceStamped": ("pose", _pose_with_covariance),
    "sensor_msgs/msg/NavSatFix": ("fix", _fix),
    "sensor_msgs/msg/Imu": ("attitude", _attitude),
    "radar_msgs/msg/RadarScan": ("cloud", _radar_scan),
    "radar_msgs/msg/RadarTracks": ("cloud", _radar_tracks),
    "rcl_interfaces/msg/Log": ("sample", _sample),
}
