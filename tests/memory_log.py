"""A log in memory, for tests of what reads logs."""

from pathlib import Path

import numpy as np

from perception.logs.messages import KINDS, Calibration, Cloud, Image, Message, RecordingTime, Sample, Topic, Transform

START_NS = 1_700_000_000_000_000_000
LIDAR_FIELDS = ("x", "y", "z", "intensity", "ring")
RADAR_FIELDS = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")


class MemoryLog:
    """A :class:`perception.logs.messages.Reader` of what was added, in that order."""

    def __init__(self):
        self.path, self.stopped, self.damage = Path("drive.log"), None, []
        self.failed: dict[str, str] = {}
        self.topics: dict[str, Topic] = {}
        self._messages: list[Message] = []

    def topic(self, name: str, type_: str, kind: str | None, note: str = "", count: int | None = None) -> None:
        self.topics[name] = Topic(name, type_, kind, note, count)

    def add(self, topic: str, data, stamps_s, delay_s: float = 0.0, type_: str = "some/Type") -> None:
        """``data`` at each of ``stamps_s`` since START_NS, recorded ``delay_s`` later; None is no stamp."""
        self.topics.setdefault(topic, Topic(topic, type_, KINDS[type(data)]))
        for stamp_s in stamps_s:
            at = START_NS + round((stamp_s or 0) * 1e9)
            stamp = RecordingTime(at) if stamp_s is None else at
            message = Message(topic, stamp, at + round(delay_s * 1e9), len(self._messages), data)
            self._messages.append(message)

    def as_recorded(self) -> "MemoryLog":
        """In order of recording time instead."""
        self._messages.sort(key=lambda message: message.log_time_ns)
        return self

    def messages(self, topics=None, strict=False):
        yield from (message for message in self._messages if topics is None or message.topic in topics)

    def close(self) -> None:
        pass


def every(step_s: float, duration_s: float = 10.0) -> list[float]:
    return [i * step_s for i in range(round(duration_s / step_s) + 1)]


def image(frame_id: str, width: int = 64, height: int = 48) -> Image:
    return Image(frame_id, "rgb8", bytes(width * height * 3), width, height, width * 3)


def calibration(frame_id: str, width: int = 64, height: int = 48, distortion=(), focal: float = 50.0) -> Calibration:
    k = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    p = np.column_stack([k, np.zeros(3)])
    return Calibration(frame_id, width, height, k, np.array(distortion, float), "plumb_bob", np.eye(3), p)


def cloud(frame_id: str, fields=LIDAR_FIELDS, points: int = 7) -> Cloud:
    """Points 10 m ahead."""
    records = np.zeros(points, dtype=[(name, "<f4") for name in fields])
    records["x"] = 10
    return Cloud(frame_id, records)


def transform(parent: str, child: str, x: float = 0.0, static: bool = False) -> Transform:
    return Transform(parent, child, np.array([x, 0, 0, 1, 0, 0, 0], float), static)


def drive(log: MemoryLog, parent: str, child: str, stamps_s) -> None:
    """A pose that moves on by a metre at every stamp, on /tf."""
    for i, stamp_s in enumerate(stamps_s):
        log.add("/tf", transform(parent, child, float(i)), [stamp_s], type_="tf2_msgs/msg/TFMessage")


def foxglove_log() -> MemoryLog:
    """The layout of Foxglove's nuScenes converter, two cameras of it."""
    log = MemoryLog()
    for name in ("cam_front", "cam_back"):
        log.add(f"/{name}/image_rect_compressed", image(name), every(1 / 12), type_="foxglove.CompressedImage")
        log.add(f"/{name}/camera_info", calibration(name), every(1 / 12), type_="foxglove.CameraCalibration")
    log.add("/lidar_top", cloud("lidar_top"), every(0.05), type_="foxglove.PointCloud")
    log.add("/radar_front", cloud("radar_front", RADAR_FIELDS), every(0.07), type_="foxglove.PointCloud")
    drive(log, "map", "base_link", every(0.05))
    for name in ("cam_front", "cam_back", "lidar_top", "radar_front"):
        log.add("/tf", transform("base_link", name), every(0.05))
    log.add("/sample", Sample("a"), every(0.5))
    return log


def turtlebot_log() -> MemoryLog:
    """One camera, one LiDAR, odometry."""
    log = MemoryLog()
    log.add("/camera/image_raw", image("camera_optical"), every(1 / 30), type_="sensor_msgs/msg/Image")
    log.add("/camera/camera_info", calibration("camera_optical", distortion=[0.1, 0, 0, 0, 0]), every(1 / 30))
    log.add("/velodyne_points", cloud("velodyne"), every(0.1), type_="sensor_msgs/msg/PointCloud2")
    drive(log, "odom", "base_footprint", every(1 / 50))
    for parent, child in (
        ("base_footprint", "base_link"),
        ("base_link", "camera_link"),
        ("camera_link", "camera_optical"),
        ("base_link", "velodyne"),
    ):
        log.add("/tf_static", transform(parent, child, static=True), [0.0])
    return log
