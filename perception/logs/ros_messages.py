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
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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
from perception.logs.video import why_not

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

# sensor_msgs/msg/PointField, numbered from 1, not as in foxglove.PackedElementField
POINT_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
_POINT_DTYPES = {order: tuple(np.dtype(order + name) for name in POINT_TYPES) for order in "<>"}
RETURN = np.dtype([(name, "<f4") for name in ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")])
TRACK = np.dtype(
    [(name, "<f8") for name in ("x", "y", "z", "vx", "vy", "vz")]
    + [(name, "<f4") for name in ("size_x", "size_y", "size_z")]
)

_MORE_DEFINITIONS = {  # of packages that do not belong to ROS itself, or not to the types of ROS 1 that rosbags has
    "tf2_msgs/msg/TFMessage": "geometry_msgs/TransformStamped[] transforms",
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": """
        std_msgs/Header header
        int32 width
        int32 height
        string encoding
        uint64 pts
        uint8 flags
        bool is_bigendian
        uint8[] data""",
    "foxglove_msgs/msg/CompressedVideo": """
        builtin_interfaces/Time timestamp
        string frame_id
        uint8[] data
        string format""",
    "radar_msgs/msg/RadarReturn": """
        float32 range
        float32 azimuth
        float32 elevation
        float32 doppler_velocity
        float32 amplitude""",
    "radar_msgs/msg/RadarScan": """
        std_msgs/Header header
        radar_msgs/RadarReturn[] returns""",
    "radar_msgs/msg/RadarTrack": """
        unique_identifier_msgs/UUID uuid
        geometry_msgs/Point position
        geometry_msgs/Vector3 velocity
        geometry_msgs/Vector3 acceleration
        geometry_msgs/Vector3 size
        uint16 classification
        float32[6] position_covariance
        float32[6] velocity_covariance
        float32[6] acceleration_covariance
        float32[6] size_covariance""",
    "radar_msgs/msg/RadarTracks": """
        std_msgs/Header header
        radar_msgs/RadarTrack[] tracks""",
}
_LONGEST_DEFINITION = 1 << 16  # characters: four times those of CameraInfo, which are mostly comments
_MOST_VALUES = 1000  # of one element of a message, by its definition; CameraInfo has 20
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
    type_name = ros2_name(type_name)
    if type_name not in _PAYLOADS:
        return None, undecoded.why_not(type_name, known_types().fielddefs), None
    kind, payloads = _PAYLOADS[type_name]
    if payloads in (_compressed_video, _ffmpeg_packet) and why_not():
        return None, why_not(), None
    is_ros1 = definition_encoding == "ros1msg"
    store = (definition and _recorded_types(type_name, definition, definition_encoding)) or known_types(is_ros1)
    read = store.deserialize_ros1 if is_ros1 else store.deserialize_cdr
    from rosbags.serde import SerdeError

    def decode(data: bytes | memoryview, log_time_ns: int) -> list[tuple[int, Payload]]:
        if not is_ros1 and bytes(data[:4]) == _ZSTD:  # a bag with compression_mode: message; CDR begins with a zero
            data = _decompressed(data)
        try:
            return payloads(read(data, type_name), log_time_ns)
        except (SerdeError, struct.error, ValueError, LookupError, OverflowError, MemoryError) as error:
            raise LogError(f"a {type_name} was expected, found {len(data)} bytes that are none: {error}") from None
        except (AttributeError, TypeError) as error:  # a recorded definition with other fields
            raise LogError(f"the fields of {type_name} were expected, found others: {error}") from None

    return kind, "", decode


def is_static(topic: str) -> bool:
    """Whether transforms on a topic hold at all times: /tf_static, in any namespace."""
    return topic.rsplit("/", 1)[-1] == "tf_static"


def as_static(payload: Payload) -> Payload:
    """A transform as one that holds at all times; any other payload as it is."""
    return replace(payload, static=True) if isinstance(payload, Transform) else payload


def ros2_name(type_name: str) -> str:
    """The name of a type as ROS 2 spells it, from those of ROS 1, DDS and C++."""
    parts = re.split("/|::", type_name)
    if len(parts) < 2 or set(parts[1:-1]) - {"msg", "dds_"}:
        return type_name
    name = f"{parts[0]}/msg/{parts[-1].removesuffix('_') if 'dds_' in parts else parts[-1]}"
    return "tf2_msgs/msg/TFMessage" if name == "tf/msg/tfMessage" else name


@lru_cache(maxsize=2)
def known_types(is_ros1: bool = False) -> Typestore:
    """The types of ROS 2 Humble, or of ROS 1 Noetic, radar_msgs and videos.

    Raises:
        PerceptionError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise PerceptionError(missing_extra("logs", "ROS 2 messages need an extra")) from None
    store = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_HUMBLE)
    for name, text in _MORE_DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


def _recorded_types(type_name: str, definition: str, encoding: str) -> Typestore | None:
    """Types as the recording defines them; None where its definition cannot be used."""
    known = known_types(encoding == "ros1msg")  # first: it says what to install
    from rosbags.interfaces import Nodetype
    from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

    def values(name: str, above: tuple[str, ...] = ()) -> int:
        """How many values one element of a message has; rosbags unrolls the code for them."""
        if name in above:
            raise ValueError(f"{name} holds itself")
        total = 0
        for _, (node, inner) in types[name][1]:
            element, length = inner if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) else ((node, inner), 1)
            single = values(element[1], (*above, name)) if element[0] == Nodetype.NAME else 1
            is_unrolled = node == Nodetype.ARRAY and (element[0] == Nodetype.NAME or element[1][0] == "string")
            total += single * (length if is_unrolled else 1) + 1
            if total > _MOST_VALUES:
                raise ValueError(f"{name} has more than {_MOST_VALUES} values")
        return total

    try:
        if len(definition) > _LONGEST_DEFINITION:
            return None
        if encoding == "ros2idl":
            parsed = get_types_from_idl(definition)
        else:
            parsed = get_types_from_msg(definition, type_name)
        types: dict[str, tuple[list, Any]] = {
            name: ([], fields) for name, (_, fields) in parsed.items()
        }  # constants are not needed
        if type_name not in types or all(known.fielddefs.get(name, ([], None))[1] == types[name][1] for name in types):
            return None
        values(type_name)
        store = get_typestore(Stores.EMPTY)
        store.register(types)
        store.get_msgdef(type_name)
    except (
        TypesysError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        RecursionError,
        SyntaxError,
    ):
        return None  # what the library makes of damaged text
    return store


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
        stamped += _stamped(each.header, log_time_ns, transform)
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
