"""Results as ROS 2 messages: field by field, without a node.

Poses are in the ego frame at the result's time. Sizes are x = length, y = width, z = height. Quaternions are rotations
about z, (0, 0, sin(yaw / 2), cos(yaw / 2)). Twists of Autoware are over ground, in the axes of the object itself.

    detection_array     vision_msgs/msg/Detection3DArray (https://github.com/ros-perception/vision_msgs)
    detected_objects    autoware_perception_msgs/msg/DetectedObjects (https://github.com/autowarefoundation/autoware_msgs)
    tracked_objects     autoware_perception_msgs/msg/TrackedObjects
    marker_array        visualization_msgs/msg/MarkerArray
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from perception.sample import Boxes3D
from perception.stream import Result
from perception.task import Task

# autoware_perception_msgs/msg/DetectedObjectKinematics, by Task.headings
_ORIENTATIONS = {"none": 0, "axis": 1, "direction": 2}  # UNAVAILABLE, SIGN_UNKNOWN, AVAILABLE
_BOUNDING_BOX = 0  # autoware_perception_msgs/msg/Shape
_ARROW, _CUBE, _ADD, _DELETE_ALL = 0, 1, 0, 3  # visualization_msgs/msg/Marker
_ALPHA = 0.6
_SHAFT_M, _HEAD_M = 0.15, 0.3  # of arrows
_LEAST_SPEED_MPS = 0.5  # of an arrow
_TRACKS = uuid.UUID("5d0c8b0e-3c52-4d6a-9d3c-6a4b1f0a7e11")  # the namespace of their names


@dataclass(frozen=True)
class View:
    """How results are shown. ego_frame: of the rig.  labels: Autoware's, of each class.  score_threshold: of boxes."""

    task: Task
    ego_frame: str
    labels: tuple[int, ...]
    score_threshold: float


@dataclass(frozen=True)
class _Object:
    """One box as numbers of Python, which the setters of messages want."""

    center: list[float]
    size: list[float]
    yaw: float
    velocity: list[float]
    label: int
    score: float
    track: int


def detection_array(result: Result, view: View) -> Any:
    """The detections; ``id`` is that of the track, "" without one, ``class_id`` the name of the class."""
    from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

    message = Detection3DArray(header=header(view.ego_frame, result.timestamp_ns))
    for each in _detected(result, view):
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = view.task.classes[each.label]
        hypothesis.hypothesis.score = each.score
        _place(hypothesis.pose.pose, each)
        detection = Detection3D(header=message.header, results=[hypothesis])
        detection.id = "" if each.track < 0 else str(each.track)
        _place(detection.bbox.center, each)
        _set_xyz(detection.bbox.size, each.size)
        message.detections.append(detection)
    return message


def detected_objects(result: Result, view: View) -> Any:
    """The detections, for Autoware."""
    from autoware_perception_msgs.msg import DetectedObject, DetectedObjects

    message = DetectedObjects(header=header(view.ego_frame, result.timestamp_ns))
    for each in _detected(result, view):
        found = _autoware_object(DetectedObject(), each, view)
        found.kinematics.has_twist = math.isfinite(sum(each.velocity))
        message.objects.append(found)
    return message


def tracked_objects(result: Result, view: View) -> Any:
    """The tracks, those without a detection in this frame included, for Autoware."""
    from autoware_perception_msgs.msg import TrackedObject, TrackedObjects

    message = TrackedObjects(header=header(view.ego_frame, result.timestamp_ns))
    for each in _tracked(result, view):
        found = _autoware_object(TrackedObject(), each, view)
        name = uuid.uuid5(_TRACKS, f"{result.scene}/{each.track}")  # tracks begin anew in another scene
        found.object_id.uuid = np.frombuffer(name.bytes, np.uint8)
        message.objects.append(found)
    return message


def marker_array(result: Result, view: View) -> Any:
    """The tracks: cubes in the colours of classes, arrows of one second of motion. What was shown before goes."""
    from geometry_msgs.msg import Point
    from visualization_msgs.msg import Marker, MarkerArray

    top = header(view.ego_frame, result.timestamp_ns)
    message = MarkerArray(markers=[Marker(header=top, action=_DELETE_ALL)])
    for each in _tracked(result, view):
        cube = Marker(header=top, ns=view.task.classes[each.label], id=each.track, type=_CUBE, action=_ADD)
        _place(cube.pose, each)
        _set_xyz(cube.scale, each.size)
        shown = [cube]
        if math.hypot(*each.velocity) >= _LEAST_SPEED_MPS:
            arrow = Marker(header=top, ns="velocity", id=each.track, type=_ARROW, action=_ADD)
            arrow.pose.orientation.w = 1.0
            _set_xyz(arrow.scale, [_SHAFT_M, _HEAD_M, _HEAD_M])
            x, y, z = each.center
            arrow.points = [Point(x=x, y=y, z=z), Point(x=x + each.velocity[0], y=y + each.velocity[1], z=z)]
            shown.append(arrow)
        for marker in shown:
            red, green, blue = (view.task.colors[each.label] / 255).tolist()
            marker.color.r, marker.color.g, marker.color.b, marker.color.a = red, green, blue, _ALPHA
        message.markers += shown
    return message


# Topic below the node's name -> package, type, and what makes it.
OUTPUTS: dict[str, tuple[str, str, Callable[[Result, View], Any]]] = {
    "detections": ("vision_msgs", "Detection3DArray", detection_array),
    "detected_objects": ("autoware_perception_msgs", "DetectedObjects", detected_objects),
    "tracked_objects": ("autoware_perception_msgs", "TrackedObjects", tracked_objects),
    "markers": ("visualization_msgs", "MarkerArray", marker_array),
}


def header(frame_id: str, timestamp_ns: int) -> Any:
    from std_msgs.msg import Header

    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(timestamp_ns, 1_000_000_000)
    return made


def in_object_axes(velocity: list[float], yaw: float) -> tuple[float, float]:
    """(vx, vy) in ego axes as (forward, left) of an object that is turned by yaw."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return cos * velocity[0] + sin * velocity[1], cos * velocity[1] - sin * velocity[0]


def _autoware_object(message: Any, each: _Object, view: View) -> Any:
    """What detected and tracked objects share; as Autoware's own detectors fill it in, the class is certain."""
    from autoware_perception_msgs.msg import ObjectClassification

    message.existence_probability = each.score
    message.classification = [ObjectClassification(label=view.labels[each.label], probability=1.0)]
    message.kinematics.orientation_availability = _ORIENTATIONS[view.task.headings[each.label]]
    _place(message.kinematics.pose_with_covariance.pose, each)
    if math.isfinite(sum(each.velocity)):
        linear = message.kinematics.twist_with_covariance.twist.linear
        linear.x, linear.y = in_object_axes(each.velocity, each.yaw)
    message.shape.type = _BOUNDING_BOX
    _set_xyz(message.shape.dimensions, each.size)
    return message


def _place(pose: Any, each: _Object) -> None:
    _set_xyz(pose.position, each.center)
    pose.orientation.x = pose.orientation.y = 0.0
    pose.orientation.z, pose.orientation.w = math.sin(each.yaw / 2), math.cos(each.yaw / 2)


def _set_xyz(vector: Any, xyz: list[float]) -> None:
    vector.x, vector.y, vector.z = xyz


def _detected(result: Result, view: View) -> Iterator[_Object]:
    return _objects(result.detections.boxes, result.detections.scores, result.track_ids, view)


def _tracked(result: Result, view: View) -> Iterator[_Object]:
    return _objects(result.tracks.boxes, result.tracks.scores, result.tracks.ids, view)


def _objects(boxes: Boxes3D, scores: np.ndarray, tracks: np.ndarray, view: View) -> Iterator[_Object]:
    columns = boxes.center, boxes.size, boxes.yaw, boxes.velocity, boxes.label, scores, tracks
    for values in zip(*(column.tolist() for column in columns)):
        found = _Object(*values)
        if found.score >= view.score_threshold:
            yield found
