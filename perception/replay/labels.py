"""Boxes for the frames of a log, from what a replay left, from a submission, or none: what a data set is made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from perception.eval.metric import MetricBoxes
from perception.eval.submission_reader import read_samples
from perception.replay.result import Key, ReplayResultError, ResultFile, read_summary
from perception.sample import Boxes3D, Detections, Frame
from perception.task import NUSCENES, Task
from perception.tracking import Tracker


class Labels(Protocol):
    """Boxes by frame. task: what their labels mean.  left: the names of the frames that nobody has asked for yet."""

    task: Task

    @property
    def left(self) -> Sequence[str]: ...

    def of(self, frame: Frame) -> tuple[Detections, np.ndarray] | None:
        """Boxes with scores, and int64 [N] of the objects that they are of, -1 for unknown; None for another frame."""


class NoLabels:
    """Every frame is without boxes."""

    task = NUSCENES
    left: Sequence[str] = ()

    def of(self, frame: Frame) -> tuple[Detections, np.ndarray]:
        return Detections(Boxes3D.empty(), np.zeros(0)), np.zeros(0, np.int64)


class ReplayLabels:
    """The detections and tracks in the folder of a replay, whose frames are known by their times.

    Raises:
        ReplayResultError: there are none, or they are not complete or damaged.
    """

    def __init__(self, folder: str | Path):
        self._result = ResultFile(folder)
        if not read_summary(folder).get("complete"):
            raise ReplayResultError(f"{folder}: a replay of the whole log was expected, found one that was interrupted")
        self.task = self._result.task
        self._places = {key: place for key, place in self._result.places().items() if key.repeat == 0}

    @property
    def left(self) -> list[str]:
        return [f"{key.scene} at {key.timestamp_ns} ns" for key in self._places]

    def of(self, frame: Frame) -> tuple[Detections, np.ndarray] | None:
        place = self._places.pop(Key(frame.scene, frame.timestamp_ns, 0), None)
        if place is None:
            return None
        found = self._result.read(place)
        return found.detections, np.full(len(found.detections), -1) if found.tracks is None else found.tracks


class SubmissionLabels:
    """The boxes of a nuScenes submission, whose samples are the tokens of the frames; objects are tracked.

    Raises:
        DataError: the file is no submission.
    """

    task = NUSCENES

    def __init__(self, path: str | Path):
        self._samples, self._tracker = read_samples(path, self.task), Tracker(self.task)

    @property
    def left(self) -> list[str]:
        return list(self._samples)

    def of(self, frame: Frame) -> tuple[Detections, np.ndarray] | None:
        boxes = self._samples.pop(frame.token, None)
        if boxes is None:
            return None
        detections = _in_ego(frame, boxes)
        return detections, self._tracker.step(frame, detections)


def _in_ego(frame: Frame, boxes: MetricBoxes) -> Detections:
    ego_SE3_world = frame.world_SE3_ego.inverse()
    flat = np.zeros(len(boxes))
    forward = ego_SE3_world.rotate(np.column_stack([np.cos(boxes.yaw), np.sin(boxes.yaw), flat]))
    own = Boxes3D(
        center=ego_SE3_world.transform(boxes.center),
        size=boxes.size,
        yaw=np.arctan2(forward[:, 1], forward[:, 0]),
        velocity=ego_SE3_world.rotate(np.column_stack([boxes.velocity, flat]))[:, :2],
        label=boxes.label,
        attribute=boxes.attribute,
    )
    return Detections.sorted(own, boxes.score)
