"""Steps as messages of Foxglove's schemas, on channels by topic, for a file and a live view alike.

    /detections, /ground_truth    foxglove.SceneUpdate     boxes, each an entity that expires when frames stop
    /tf                           foxglove.FrameTransform  map -> base_link -> every camera
    /lidar, /radar                foxglove.PointCloud      the fields of LidarCloud and RadarCloud, float32
    /cam_front/image              foxglove.CompressedImage JPEG, likewise for every camera
    /cam_front/calibration        foxglove.CameraCalibration
    /faults                       foxglove.Log             faults found by the health monitor
    /latency, /summary            JSON                     numbers for plots

Every message of a step is stamped with the frame's time, images too: a camera's transform already holds the motion
between exposure and frame, so that this is the time at which boxes and images fit.

The schemas: https://docs.foxglove.dev/docs/sdk/schemas. This module needs foxglove-sdk as soon as it is imported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import foxglove
import numpy as np
import simplejpeg
from foxglove import channels
from foxglove import messages as fox

from perception.files import ResultsError
from perception.geometry import SE3, box_corners
from perception.replay.step import Step
from perception.sample import Boxes3D, CameraImage, Frame, PointCloud
from perception.task import Task
from perception.viz import ARROW_S, STANDING_MPS, images_of

WORLD, EGO = "map", "base_link"
JPEG_QUALITY = 85
OPACITY = 0.6  # of a box with score 1; points are seen through it
LIFETIME_FRAMES = 1.5  # boxes outlast a late frame, not a missing one
FIRST_INTERVAL_S = 0.5  # until there are two frames to measure it by
_WHITE = fox.Color(r=1.0, g=1.0, b=1.0, a=1.0)
# Corners by the order of geometry.box_corners, two an edge.
_EDGES = [0, 1, 1, 2, 2, 3, 3, 0, 4, 5, 5, 6, 6, 7, 7, 4, 0, 4, 1, 5, 2, 6, 3, 7]
_LATEST_S = 2**32  # the timestamps of the format are unsigned 32-bit seconds


class Publisher:
    """Logs steps to the channels of one context, which hands them to whatever file or server was opened with it.

    Args:
        score_threshold: of the boxes that are shown.
        sensors: False leaves images and points out.
        task: of the detector.
    """

    def __init__(self, context: foxglove.Context, score_threshold: float, sensors: bool, task: Task):
        self._context, self._score_threshold, self._sensors, self._task = context, score_threshold, sensors, task
        self._channels: dict[str, Any] = {}
        self._intervals_s: deque[float] = deque(maxlen=9)
        self._last_ns: int | None = None

    def publish(self, step: Step) -> None:
        """Raises what :func:`time_of` does."""
        timestamp_ns = time_of(step.frame)
        for topic, message in self._messages(step):
            self._channel(topic, message).log(message, log_time=timestamp_ns)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _messages(self, step: Step) -> Iterator[tuple[str, object]]:
        frame, time, lifetime = step.frame, _time(step.frame.timestamp_ns), self._lifetime(step.frame.timestamp_ns)
        shown = np.flatnonzero(step.detections.scores >= self._score_threshold)
        yield "/tf", _transform(time, WORLD, EGO, frame.world_SE3_ego)
        yield "/detections", _scene(time, lifetime, _detected(step, shown, self._task))
        if frame.boxes is not None:
            yield "/ground_truth", _scene(time, lifetime, _true(frame.boxes, self._task.classes))
        if self._sensors:
            yield from _sensor_messages(frame, time)
        for name, fault in step.faults.items():
            yield "/faults", fox.Log(timestamp=time, level=fox.LogLevel.Warning, name=name, message=fault)
        if step.latency_ms:
            yield "/latency", {name: float(ms) for name, ms in step.latency_ms.items()}
        yield "/summary", _summary(step, shown)

    def _lifetime(self, timestamp_ns: int) -> fox.Duration:
        """Of this frame's boxes, by the median of the latest intervals, which a gap or a jump back leaves as it is."""
        if self._last_ns is not None and timestamp_ns > self._last_ns:
            self._intervals_s.append((timestamp_ns - self._last_ns) / 1e9)
        self._last_ns = timestamp_ns
        return fox.Duration.from_secs(LIFETIME_FRAMES * float(np.median(self._intervals_s or [FIRST_INTERVAL_S])))

    def _channel(self, topic: str, message):
        if topic not in self._channels:
            if isinstance(message, dict):
                title = f"perception.{topic[1:].capitalize()}"
                channel = foxglove.Channel(topic, schema=_json_schema(title, message), context=self._context)
            else:
                channel = getattr(channels, f"{type(message).__name__}Channel")(topic, context=self._context)
            self._channels[topic] = channel
        return self._channels[topic]


def time_of(frame: Frame) -> int:
    """The nanoseconds that all messages of a frame are stamped with.

    Raises:
        ResultsError: the format cannot hold them.
    """
    if not 0 <= frame.timestamp_ns < _LATEST_S * 10**9:
        found = frame.timestamp_ns
        raise ResultsError(f"frame {frame.token}: a time from 1970 to 2106 was expected, found {found} ns")
    return frame.timestamp_ns


def _sensor_messages(frame: Frame, time: fox.Timestamp) -> Iterator[tuple[str, object]]:
    for name, data in reversed(frame.data.items()):
        if isinstance(data, PointCloud):
            yield f"/{name}", _cloud(time, data)
    for name, camera in images_of(frame).items():
        topic = f"/{name.lower()}"
        yield "/tf", _transform(time, EGO, name, camera.ego_SE3_camera)
        yield f"{topic}/calibration", _calibration(time, name, camera)
        image = np.ascontiguousarray(camera.image)
        jpeg = simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420")
        yield f"{topic}/image", fox.CompressedImage(timestamp=time, frame_id=name, data=jpeg, format="jpeg")


def _scene(time: fox.Timestamp, lifetime: fox.Duration, entities: Iterator[dict]) -> fox.SceneUpdate:
    """All boxes of a frame. Those of the frame before go at once; what is not seen again would else stay a while."""
    return fox.SceneUpdate(
        deletions=[fox.SceneEntityDeletion(timestamp=time, type=fox.SceneEntityDeletionType.All)],
        entities=[fox.SceneEntity(timestamp=time, lifetime=lifetime, frame_id=EGO, **entity) for entity in entities],
    )


def _detected(step: Step, shown: np.ndarray, task: Task) -> Iterator[dict]:
    """A solid box, a label above it and an arrow where it moves. Its id is "#7" for track 7, "7" for detection 7."""
    boxes, scores, classes, colours = step.detections.boxes, step.detections.scores, task.classes, task.colors / 255
    for i in shown.tolist():
        name, score = classes[boxes.label[i]], float(scores[i])
        track = -1 if step.tracks is None else int(step.tracks[i])
        words = {"class": name, "score": f"{score:.3f}"} | ({"track": str(track)} if track >= 0 else {})
        red, green, blue = colours[boxes.label[i]].tolist()
        colour = fox.Color(r=red, g=green, b=blue, a=1.0)
        top = boxes.center[i] + (0, 0, boxes.size[i, 2] / 2 + 0.3)
        yield {
            "id": f"#{track}" if track >= 0 else str(i),
            "metadata": _key_values(words),
            "cubes": [
                fox.CubePrimitive(
                    pose=_pose(boxes.center[i], boxes.yaw[i]),
                    size=_vector(boxes.size[i]),
                    color=fox.Color(r=red, g=green, b=blue, a=OPACITY * score),
                )
            ],
            "texts": [
                fox.TextPrimitive(
                    pose=_pose(top, 0.0),
                    text=f"{name} #{track} {score:.2f}" if track >= 0 else f"{name} {score:.2f}",
                    billboard=True,
                    font_size=12.0,
                    scale_invariant=True,
                    color=colour,
                )
            ],
            "arrows": _arrows(boxes.center[i], boxes.velocity[i], colour),
        }


def _arrows(start: np.ndarray, velocity: np.ndarray, colour: fox.Color) -> list[fox.ArrowPrimitive]:
    """From the object to where it will be after ARROW_S; none if it stands still or its velocity is unknown."""
    speed = float(np.hypot(*velocity))
    if not STANDING_MPS < speed < np.inf:
        return []
    head = min(0.9, 0.4 * speed)
    return [
        fox.ArrowPrimitive(
            pose=_pose(start, np.arctan2(velocity[1], velocity[0])),
            shaft_length=ARROW_S * speed - head,
            shaft_diameter=0.15,
            head_length=head,
            head_diameter=0.45,
            color=colour,
        )
    ]


def _true(boxes: Boxes3D, classes: tuple[str, ...]) -> Iterator[dict]:
    """White edges. A box without a single sensor point is left out: no detector could find it."""
    corners = box_corners(boxes.center, boxes.size, boxes.yaw)
    for i in np.flatnonzero(boxes.measured).tolist():
        edges = fox.LinePrimitive(
            type=fox.LinePrimitiveLineType.LineList,
            pose=_pose(np.zeros(3), 0.0),
            thickness=1.5,
            scale_invariant=True,
            points=[fox.Point3(x=x, y=y, z=z) for x, y, z in corners[i].tolist()],
            indices=_EDGES,
            color=_WHITE,
        )
        yield {"id": str(i), "metadata": _key_values({"class": classes[boxes.label[i]]}), "lines": [edges]}


def _cloud(time: fox.Timestamp, cloud: PointCloud) -> fox.PointCloud:
    names, float32 = cloud.fields, fox.PackedElementFieldNumericType.Float32
    return fox.PointCloud(
        timestamp=time,
        frame_id=EGO,
        pose=_pose(np.zeros(3), 0.0),
        point_stride=4 * len(names),
        fields=[fox.PackedElementField(name=name, offset=4 * i, type=float32) for i, name in enumerate(names)],
        data=cloud.points.astype("<f4", copy=False).tobytes(),
    )


def _calibration(time: fox.Timestamp, name: str, camera: CameraImage) -> fox.CameraCalibration:
    height, width = camera.image.shape[:2]
    return fox.CameraCalibration(
        timestamp=time,
        frame_id=name,
        width=width,
        height=height,
        K=camera.intrinsics.ravel().tolist(),
        R=np.eye(3).ravel().tolist(),
        P=np.pad(camera.intrinsics, ((0, 0), (0, 1))).ravel().tolist(),
    )


def _summary(step: Step, shown: np.ndarray) -> dict[str, int]:
    """Unknown numbers, and those of missing sensors, are left out: zero would be a measurement."""
    frame = step.frame
    tracks = None if step.tracks is None else len(np.unique(step.tracks[step.tracks >= 0]))
    numbers = {
        "frame": step.index,
        "detections": len(step.detections.scores),
        "shown": len(shown),
        "tracks": tracks,
        "ground_truth": None if frame.boxes is None else len(frame.boxes),
        "cameras": None if frame.cameras is None else len(frame.cameras),
        "radar_points": None if frame.radar is None else len(frame.radar.points),
        "lidar_points": None if frame.lidar is None else len(frame.lidar.points),
        "faults": len(step.faults),
    }
    return {name: number for name, number in numbers.items() if number is not None}


def _json_schema(title: str, message: dict) -> dict:
    """Of the fields of the first message, from which a Plot panel takes its suggestions."""
    number = {"type": "number"}
    return {
        "type": "object",
        "title": title,
        "properties": {name: number for name in message},
        "additionalProperties": number,
    }


def _transform(time: fox.Timestamp, parent: str, child: str, parent_SE3_child: SE3) -> fox.FrameTransform:
    w, x, y, z = parent_SE3_child.quaternion.tolist()
    return fox.FrameTransform(
        timestamp=time,
        parent_frame_id=parent,
        child_frame_id=child,
        translation=_vector(parent_SE3_child.translation),
        rotation=fox.Quaternion(x=x, y=y, z=z, w=w),
    )


def _pose(position: np.ndarray, yaw: float) -> fox.Pose:
    orientation = fox.Quaternion(z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))
    return fox.Pose(position=_vector(position), orientation=orientation)


def _vector(values: np.ndarray) -> fox.Vector3:
    x, y, z = values.tolist()
    return fox.Vector3(x=x, y=y, z=z)


def _key_values(words: dict[str, str]) -> list[fox.KeyValuePair]:
    return [fox.KeyValuePair(key=key, value=value) for key, value in words.items()]


def _time(timestamp_ns: int) -> fox.Timestamp:
    return fox.Timestamp(timestamp_ns // 10**9, timestamp_ns % 10**9)
