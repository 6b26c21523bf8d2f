"""Messages as a ROS 2 bag, for ``ros2 bag play`` and for RosbagReader, from which they come out unchanged.

    with RosbagWriter("drive", storage="mcap") as writer:
        for message in messages:
            writer.write(message)

Through the library rosbags: no ROS installation is needed.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from perception.files import part_path
from perception.geometry import to_xyzw
from perception.logs.decoding import CODECS, PIXEL_BYTES, compressed_format
from perception.logs.messages import (
    SAMPLE_NAME,
    Attitude,
    Calibration,
    Cloud,
    GnssFix,
    Image,
    LogError,
    Message,
    Pose,
    Sample,
    Transform,
)
from perception.logs.ros_messages import POINT_TYPES, is_static, known_types

_POINT_NUMBERS = {name: number for number, name in enumerate(POINT_TYPES, start=1)}
_INFO = 20  # the level of rcl_interfaces/msg/Log


class RosbagWriter:
    """A context manager: a folder is written inside ``<name>.part``, and moved out when the block ends without error.

    After an error the part folder is left, closed and readable. One that an earlier writer left is replaced.

    Args:
        path: a folder that does not exist yet.  storage: the format of the file in it.

    Raises:
        LogError: the path exists, or cannot be written; a message that its ROS type cannot hold.
        PerceptionError: rosbags is not installed.
    """

    def __init__(self, path: Path | str, storage: Literal["sqlite3", "mcap"] = "sqlite3") -> None:
        self.path = Path(path)
        self._types = known_types()  # first: it says what to install
        if storage not in ("sqlite3", "mcap"):
            raise LogError(f"{self.path}: storage sqlite3 or mcap was expected, found '{storage}'")
        if self.path.exists():
            raise LogError(f"{self.path}: a path for a new bag was expected, found one that exists")
        self._partial = part_path(self.path)
        self._storage = storage
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> RosbagWriter:
        from rosbags.rosbag2 import StoragePlugin, Writer

        with self._said_plainly():
            if self._partial.exists():
                shutil.rmtree(self._partial)
            # The file takes its name from its folder, which therefore has its final name from the start.
            plugin = StoragePlugin[self._storage.upper()]
            self._writer = Writer(self._partial / self.path.name, version=9, storage_plugin=plugin)
            self._writer.open()
        return self

    def holds(self, message: Message) -> bool:
        return True

    def write(self, message: Message) -> None:
        try:
            type_name, content = self._content(message)
            data = self._types.serialize_cdr(content, type_name)
        except (LogError, ValueError, OverflowError) as error:
            raise LogError(f"{self.path}: {message.topic} at {message.log_time_ns} ns: {error}") from None
        if message.topic not in self._connections:
            self._connections[message.topic] = self._connect(message.topic, type_name)
        connection = self._connections[message.topic]
        if connection.msgtype != type_name:
            raise LogError(f"{self.path}: {message.topic}: {connection.msgtype} was expected, found {type_name}")
        with self._said_plainly():
            self._writer.write(connection, message.log_time_ns, data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._said_plainly():
            self._writer.close()
            if error is not None:
                return
            if self.path.exists():
                raise LogError(f"{self.path}: a path for a new bag was expected, found one that was made meanwhile")
            (self._partial / self.path.name).rename(self.path)
            self._partial.rmdir()

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        """Errors of files, such as a full disk, become a LogError."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise LogError(f"{self.path}: a bag that can be written was expected, found: {error}") from None

    def _content(self, message: Message) -> tuple[str, Any]:
        """The name of the ROS type, and the message of it."""
        t, payload = self._types.types, message.data
        stamp = t["builtin_interfaces/msg/Time"](*divmod(_checked_stamp(message), 1_000_000_000))
        header = t["std_msgs/msg/Header"](stamp, getattr(payload, "frame_id", ""))
        match payload:
            case Image(encoding="jpeg" | "png"):
                type_name = "sensor_msgs/msg/CompressedImage"
                content = t[type_name](header, compressed_format(payload), np.frombuffer(payload.data, np.uint8))
            case Image(frame_id, encoding, data) if encoding in CODECS:
                type_name = "foxglove_msgs/msg/CompressedVideo"
                content = t[type_name](stamp, frame_id, np.frombuffer(data, np.uint8), encoding)
            case Image():
                type_name = "sensor_msgs/msg/Image"
                content = t[type_name](header, *_raw_image(payload))
            case Calibration():
                type_name = "sensor_msgs/msg/CameraInfo"
                distortion, *matrices = (
                    np.ascontiguousarray(numbers, dtype=np.float64).ravel()
                    for numbers in (payload.distortion, payload.intrinsics, payload.rectification, payload.projection)
                )
                whole = t["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
                size = (payload.height, payload.width)
                content = t[type_name](header, *size, payload.model, distortion, *matrices, 0, 0, whole)
            case Cloud():
                type_name = "sensor_msgs/msg/PointCloud2"
                content = self._cloud(header, payload.records)
            case Transform():
                if payload.static != is_static(message.topic):
                    raise LogError("static transforms were expected on tf_static, and all others elsewhere")
                type_name = "tf2_msgs/msg/TFMessage"
                header = t["std_msgs/msg/Header"](stamp, payload.parent)
                translation = t["geometry_msgs/msg/Vector3"](*payload.pose[:3].tolist())
                transform = t["geometry_msgs/msg/Transform"](translation, self._quaternion(payload.pose[3:]))
                content = t[type_name]([t["geometry_msgs/msg/TransformStamped"](header, payload.child, transform)])
            case Pose() | GnssFix() | Attitude():
                type_name, content = self._location(header, payload)
            case Sample():
                type_name = "rcl_interfaces/msg/Log"
                content = t[type_name](stamp, _INFO, SAMPLE_NAME, payload.token, "", "", 0)
        return type_name, content

    def _location(self, header: Any, payload: Pose | GnssFix | Attitude) -> tuple[str, Any]:
        """What the payload does not say is zero, or said to be unknown."""
        t = self._types.types
        zero, unknown = t["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0), np.array([-1.0] + [0.0] * 8)
        match payload:
            case Pose():
                header = t["std_msgs/msg/Header"](header.stamp, payload.parent)
                position = t["geometry_msgs/msg/Point"](*payload.pose[:3].tolist())
                pose = t["geometry_msgs/msg/Pose"](position, self._quaternion(payload.pose[3:]))
                if not payload.frame_id:
                    return "geometry_msgs/msg/PoseStamped", t["geometry_msgs/msg/PoseStamped"](header, pose)
                located = t["geometry_msgs/msg/PoseWithCovariance"](pose, np.zeros(36))
                twist = t["geometry_msgs/msg/Twist"](zero, zero)
                moving = t["geometry_msgs/msg/TwistWithCovariance"](twist, np.zeros(36))
                type_name = "nav_msgs/msg/Odometry"
                return type_name, t[type_name](header, payload.frame_id, located, moving)
            case GnssFix(_, latitude, longitude, altitude):
                status = t["sensor_msgs/msg/NavSatStatus"](0 if payload.is_valid else -1, 0)
                type_name = "sensor_msgs/msg/NavSatFix"
                return type_name, t[type_name](header, status, latitude, longitude, altitude, np.zeros(9), 0)
            case Attitude():
                known = np.zeros(9) if payload.is_valid else unknown
                orientation = self._quaternion(payload.rotation)
                type_name = "sensor_msgs/msg/Imu"
                return type_name, t[type_name](header, orientation, known, zero, unknown, zero, unknown)

    def _quaternion(self, wxyz: np.ndarray) -> Any:
        return self._types.types["geometry_msgs/msg/Quaternion"](*to_xyzw(wxyz).tolist())

    def _cloud(self, header: Any, records: np.ndarray) -> Any:
        t, fields, orders = self._types.types, [], set()
        for name, (dtype, offset, *_) in (records.dtype.fields or {}).items():
            number = _POINT_NUMBERS.get(dtype.base.str[1:])
            if number is None or len(dtype.shape) > 1:
                raise LogError(f"field {name}: a type of sensor_msgs/PointField was expected, found {dtype}")
            orders |= {dtype.base.str[0]} - {"|"}
            fields.append(t["sensor_msgs/msg/PointField"](name, offset, number, *dtype.shape or (1,)))
        if not fields or len(orders) > 1 or records.ndim != 1:
            raise LogError(f"points [N] with fields of one byte order were expected, found {records.dtype}")
        step, data = records.dtype.itemsize, np.ascontiguousarray(records).view(np.uint8)
        shape = (1, len(records))
        # is_dense would promise that no coordinate is NaN.
        return t["sensor_msgs/msg/PointCloud2"](header, *shape, fields, ">" in orders, step, len(data), data, False)

    def _connect(self, topic: str, type_name: str) -> Any:
        """Static transforms are kept for subscribers that come late, as ``ros2 bag play`` does for them."""
        from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

        always = QosTime(9_223_372_036, 854_775_807)
        kept = Qos(
            history=QosHistory.KEEP_LAST,
            depth=1,
            reliability=QosReliability.RELIABLE,
            durability=QosDurability.TRANSIENT_LOCAL,
            deadline=always,
            lifespan=always,
            liveliness=QosLiveliness.AUTOMATIC,
            liveliness_lease_duration=always,
            avoid_ros_namespace_conventions=False,
        )
        profiles = [kept] if is_static(topic) else []
        return self._writer.add_connection(topic, type_name, typestore=self._types, offered_qos_profiles=profiles)


def _raw_image(image: Image) -> tuple:
    """height, width, encoding, is_bigendian, step, data."""
    if image.encoding not in PIXEL_BYTES:
        raise LogError(f"an encoding of jpeg, png, {', '.join(PIXEL_BYTES)} was expected, found '{image.encoding}'")
    return image.height, image.width, image.encoding, 0, image.step, np.frombuffer(image.data, np.uint8)


def _checked_stamp(message: Message) -> int:
    """Zero means "not known" in ROS, and its seconds have 32 bits."""
    stamp = message.timestamp_ns
    if not 0 <= stamp < 1_000_000_000 << 31 or (stamp == 0 and message.log_time_ns):
        raise LogError(f"a timestamp from 1970 to 2038 was expected, found {stamp} ns")
    if not 0 <= message.log_time_ns < 1 << 63:
        raise LogError(f"a log time since 1970 was expected, found {message.log_time_ns} ns")
    return stamp
