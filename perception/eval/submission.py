"""Detections as a nuScenes submission: the file format of the official detection benchmark.

The format is https://www.nuscenes.org/object-detection: boxes in the world frame, sizes as (width, length, height),
quaternions as (w, x, y, z), one list a sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from perception.eval.metric import MetricBoxes
from perception.files import begin_part, finish_part, writing
from perception.geometry import to_wxyz
from perception.sample import ATTRIBUTES, CLASSES, SENSORS, Detections, Frame

MAX_BOXES = 500  # of a sample; the benchmark refuses more
MOVING_MPS = 0.2

_VEHICLE = ("vehicle.moving", "vehicle.parked")
_CYCLE = ("cycle.with_rider", "cycle.without_rider")
# What a class most often does when it moves and when it rests; a class that is not here has no attributes.
_USUAL_ATTRIBUTES = {
    "car": _VEHICLE,
    "truck": _VEHICLE,
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": _VEHICLE,
    "construction_vehicle": _VEHICLE,
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "motorcycle": _CYCLE,
    "bicycle": _CYCLE,
}


def to_world(frame: Frame, detections: Detections, sample: int = 0) -> tuple[MetricBoxes, np.ndarray]:
    """The best MAX_BOXES boxes of one sample, highest score first, and their quaternions [N, 4] (w, x, y, z).

    The format has no word for an unknown velocity: such a box is said to stand still. An attribute that is unknown, or
    that the class cannot have, is replaced by what the class usually does at the box's speed.

    Args:
        sample: what the boxes are said to belong to.
    """
    best = np.argsort(-detections.scores, kind="stable")[:MAX_BOXES]
    boxes = detections.boxes[best]
    world_SE3_ego, ego_rotation_box = frame.world_SE3_ego, Rotation.from_rotvec(np.outer(boxes.yaw, [0.0, 0.0, 1.0]))
    rotation = Rotation.from_matrix(world_SE3_ego.rotation) * ego_rotation_box
    forward = rotation.apply([1.0, 0.0, 0.0]).reshape(-1, 3)
    ego_velocity = np.pad(np.nan_to_num(boxes.velocity, nan=0.0), ((0, 0), (0, 1)))
    speeds = np.linalg.norm(ego_velocity, axis=1)
    attributes = [
        _attribute_name(CLASSES[label], attribute, speed)
        for label, attribute, speed in zip(boxes.label, boxes.attribute.tolist(), speeds)
    ]
    world = MetricBoxes(
        sample=np.full(len(boxes), sample),
        center=world_SE3_ego.transform(boxes.center),
        size=boxes.size,
        yaw=np.arctan2(forward[:, 1], forward[:, 0]),
        velocity=world_SE3_ego.rotate(ego_velocity)[:, :2],
        label=boxes.label,
        attribute=np.array([ATTRIBUTES.index(name) if name else -1 for name in attributes], dtype=np.int64),
        score=detections.scores[best],
    )
    return world, to_wxyz(rotation.as_quat().reshape(-1, 4))


def to_submission(frame: Frame, detections: Detections) -> list[dict]:
    """The boxes that :func:`to_world` gives, in the words of the format."""
    world, quaternions = to_world(frame, detections)
    return [
        {
            "sample_token": frame.token,
            "translation": world.center[i].tolist(),
            "size": world.size[i, [1, 0, 2]].tolist(),
            "rotation": quaternions[i].tolist(),
            "velocity": world.velocity[i].tolist(),
            "detection_name": CLASSES[world.label[i]],
            "detection_score": float(world.score[i]),
            "attribute_name": ATTRIBUTES[world.attribute[i]] if world.attribute[i] >= 0 else "",
        }
        for i in range(len(world))
    ]


def _attribute_name(class_name: str, attribute: int, speed_mps: float) -> str:
    if class_name not in _USUAL_ATTRIBUTES:
        return ""
    moving, resting = _USUAL_ATTRIBUTES[class_name]
    kind = moving.split(".")[0]
    if attribute >= 0 and ATTRIBUTES[attribute].split(".")[0] == kind:
        return ATTRIBUTES[attribute]
    return moving if speed_mps > MOVING_MPS else resting


class ResultsWriter:
    """Writes a submission sample by sample, so that a long evaluation is never held in memory.

    Used as a context manager: the file takes its name when the block ends well, and is not there when it does not.
    What cannot be written is a ResultsError, before anything is added if that can be known.
    """

    def __init__(self, path: str | Path, sensors: Iterable[str]):
        sensors = tuple(sensors)
        self.path = Path(path)
        self.tokens: list[str] = []  # of the samples added so far
        self._meta = {f"use_{name}": name in sensors for name in SENSORS} | {"use_map": False, "use_external": False}
        self._separator = ""

    def __enter__(self) -> ResultsWriter:
        with writing(self.path):
            self._partial = begin_part(self.path)
            self._file = self._partial.open("w")
        self._write(f'{{"meta": {json.dumps(self._meta)}, "results": {{')
        return self

    def add(self, token: str, boxes: list[dict]) -> None:
        """One sample's boxes as :func:`to_submission` makes them. A sample in which nothing was found is added too."""
        self._write(f"{self._separator}\n{json.dumps(token)}: {json.dumps(boxes, allow_nan=False)}")
        self._separator = ","
        self.tokens.append(token)

    def __exit__(self, kind, error, trace) -> None:
        with writing(self.path):
            try:
                if kind is None:
                    self._file.write("\n}}\n")
                self._file.close()
                if kind is None:
                    finish_part(self.path)
            finally:
                self._partial.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        with writing(self.path):
            self._file.write(text)
