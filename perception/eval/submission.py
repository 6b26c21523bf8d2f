"""Writes detections as a nuScenes submission, the file format of the official detection benchmark.

Format (https://www.nuscenes.org/object-detection): one list of boxes per sample, in the world frame, with sizes as
(width, length, height) and quaternions as (w, x, y, z).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from perception.eval.metric import MetricBoxes
from perception.files import begin_part, finish_part, writing
from perception.geometry import to_wxyz
from perception.sample import Detections, Frame
from perception.task import NUSCENES, Task

MAX_BOXES = 500  # per sample; the benchmark rejects more
MOVING_MPS = 0.2
_MODALITIES = ("camera", "radar", "lidar")  # the sensors that the format has flags for


@dataclass(frozen=True, eq=False)
class WorldDetections:
    """Detections of one sample in the world frame, highest score first.

    boxes: :class:`MetricBoxes` [N], ``sample`` is 0.  quaternion: [N, 4] (w, x, y, z).
    """

    task: Task
    token: str
    boxes: MetricBoxes
    quaternion: np.ndarray

    def row(self, i: int) -> dict:
        """The fields of box ``i`` that the detection and tracking formats share."""
        return {
            "sample_token": self.token,
            "translation": self.boxes.center[i].tolist(),
            "size": self.boxes.size[i, [1, 0, 2]].tolist(),
            "rotation": self.quaternion[i].tolist(),
            "velocity": self.boxes.velocity[i].tolist(),
        }


def to_world(frame: Frame, detections: Detections, task: Task = NUSCENES) -> WorldDetections:
    """Detections of ``frame`` in the world frame.

    The format cannot express unknown velocities; they are written as zero. An attribute that is unknown, or that the
    class does not allow, is replaced by the usual one of the class at the box's speed.

    Raises:
        TaskError: a label or attribute index that the task does not have.
    """
    task.check(detections.boxes.label, detections.boxes.attribute, f"frame {frame.token}: detections")
    boxes = detections.boxes
    world_SE3_ego, ego_rotation_box = frame.world_SE3_ego, Rotation.from_rotvec(np.outer(boxes.yaw, [0.0, 0.0, 1.0]))
    rotation = Rotation.from_matrix(world_SE3_ego.rotation) * ego_rotation_box
    forward = rotation.apply([1.0, 0.0, 0.0]).reshape(-1, 3)
    ego_velocity = np.pad(np.nan_to_num(boxes.velocity, nan=0.0), ((0, 0), (0, 1)))
    speeds = np.linalg.norm(ego_velocity, axis=1)
    attributes = [
        task.attribute_name(label, attribute, moving=speed > MOVING_MPS)
        for label, attribute, speed in zip(boxes.label, boxes.attribute.tolist(), speeds)
    ]
    world = MetricBoxes(
        sample=np.zeros(len(boxes), np.int64),
        center=world_SE3_ego.transform(boxes.center),
        size=boxes.size,
        yaw=np.arctan2(forward[:, 1], forward[:, 0]),
        velocity=world_SE3_ego.rotate(ego_velocity)[:, :2],
        label=boxes.label,
        attribute=task.attributes_of(attributes),
        score=detections.scores,
    )
    return WorldDetections(task, frame.token, world, to_wxyz(rotation.as_quat().reshape(-1, 4)))


def to_submission(world: WorldDetections) -> list[dict]:
    """The MAX_BOXES best boxes as records of a detection submission."""
    boxes, task = world.boxes, world.task
    return [
        {
            **world.row(i),
            "detection_name": task.classes[boxes.label[i]],
            "detection_score": float(boxes.score[i]),
            "attribute_name": task.attributes[boxes.attribute[i]] if boxes.attribute[i] >= 0 else "",
        }
        for i in range(min(len(boxes), MAX_BOXES))
    ]


class ResultsWriter:
    """Writes a submission sample by sample, so that a long evaluation need not fit in memory.

    A context manager: the file appears under its name when the block succeeds, and is discarded after an error. A path
    that cannot be written raises ResultsError, on entry where that can be known.
    """

    def __init__(self, path: str | Path, sensors: Iterable[str]):
        sensors = tuple(sensors)
        self.path = Path(path)
        self.tokens: list[str] = []  # samples added so far
        self._meta = {f"use_{name}": name in sensors for name in _MODALITIES} | {
            "use_map": False,
            "use_external": False,
        }
        self._separator = ""

    def __enter__(self) -> ResultsWriter:
        with writing(self.path):
            self._partial = begin_part(self.path)
            self._file = self._partial.open("w")
        self._write(f'{{"meta": {json.dumps(self._meta)}, "results": {{')
        return self

    def add(self, token: str, boxes: list[dict]) -> None:
        """Add the boxes of one sample, from :func:`to_submission`. Samples without detections must be added, too."""
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
