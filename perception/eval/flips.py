"""Flips at test time: a detector sees every frame and its mirror images, and what it finds in them is joined.

The double flip of CenterPoint (Yin et al., 2021). It averages heat maps; here boxes are averaged, as in weighted box
fusion (Solovyev et al., 2021), so that any detector will do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from perception.config import AugmentConfig
from perception.eval.evaluate import AnyDetector
from perception.geometry import SE3, wrap_angle
from perception.sample import Boxes3D, Detections, Frame, PointCloud, SensorData
from perception.task import Task
from perception.train.augment import ImageTransform, WorldTransform, transform_camera, transform_world

# Each is its own inverse.
AS_IT_IS, LEFT_RIGHT = WorldTransform(), WorldTransform(mirror=True)
FRONT_BACK, BOTH = (WorldTransform(mirror, rigid=SE3.from_yaw(np.pi)) for mirror in (True, False))

_REACH = 2.0  # suppression radii: wider than one, since two boxes of one view are never taken for one object


def trained_flips(config: AugmentConfig) -> list[WorldTransform]:
    """The world as it is, and those flips of it that a detector was trained in: others it may not understand."""
    drawn = (LEFT_RIGHT, config.flip), (FRONT_BACK, config.flip_back), (BOTH, config.rotate_deg == 180)
    own = [flip for flip, known in drawn if known]
    return [AS_IT_IS, *(own if len(own) < 2 else (LEFT_RIGHT, FRONT_BACK, BOTH))]  # two make the third


class Flipped:
    """A detector for ``evaluate`` that joins what another one finds in each frame as it is and flipped."""

    def __init__(self, detector: AnyDetector, flips: Sequence[WorldTransform]):
        self.detector, self.flips = detector, flips
        self.task, self.sensors = detector.task, detector.sensors
        self.remembers = getattr(detector, "remembers", False)

    def detect(self, frame: Frame, memory: Sequence[Any] | None = None) -> Any:
        """Detections; of a detector that remembers a tuple of them and of its memories, one for each flip."""
        detector: Any = self.detector
        frames = [flipped(frame, flip) for flip in self.flips]
        if not self.remembers:
            return self._joined([detector.detect(each) for each in frames])
        found, memories = zip(*map(detector.detect, frames, memory or [None] * len(frames)))
        return self._joined(found), memories

    def _joined(self, found: Sequence[Detections]) -> Detections:
        back = [Detections(flip.boxes(each.boxes), each.scores) for flip, each in zip(self.flips, found)]
        return join(back, self.task)


def flipped(frame: Frame, flip: WorldTransform) -> Frame:
    """The frame in the flipped world, seen by its cameras in mirrored images where left and right are exchanged."""
    moved = transform_world(frame, flip)
    data: dict[str, SensorData] = {}
    for sensor, there in moved.data.items():
        if isinstance(there, PointCloud):
            data[sensor] = there
        else:
            image = ImageTransform(mirror=flip.mirror)
            data[sensor] = {
                name: transform_camera(camera, flip, image, camera.image.shape[:2]) for name, camera in there.items()
            }
    return moved.with_data(data)


def join(found: Sequence[Detections], task: Task) -> Detections:
    """The detections of several views of one frame as those of one.

    From the best detection down: with the nearest one of its class in each other view, it is one object, with the mean
    box, weighted by score, and the mean score, 0 of a view without it. Attributes are those of the best.
    """
    boxes = Boxes3D.joined([each.boxes for each in found])
    scores = np.concatenate([each.scores for each in found])
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order], scores[order]
    view = np.repeat(np.arange(len(found)), [len(each) for each in found])[order]
    apart = np.linalg.norm(boxes.center[:, None, :2] - boxes.center[None, :, :2], axis=2)
    reach = _REACH * task.column("suppression_radius_m")[boxes.label]
    close = (apart < reach[:, None]) & (boxes.label[:, None] == boxes.label)
    free, objects, means = np.ones(len(boxes), dtype=bool), [], []
    for best in range(len(boxes)):
        if not free[best]:
            continue
        near = np.flatnonzero(close[best] & free)
        near = near[np.argsort(apart[best, near], kind="stable")]
        _, nearest = np.unique(view[near], return_index=True)  # of each view
        same = near[np.sort(nearest)]
        free[same] = False
        objects.append(_mean(boxes[same], scores[same]))
        means.append(scores[same].sum() / len(found))
    return Detections.sorted(Boxes3D.joined(objects), np.array(means))


def _mean(boxes: Boxes3D, weights: np.ndarray) -> Boxes3D:
    """One box. Its heading is the mean of the axes, in the sense of the first."""
    share = weights / weights.sum() if weights.any() else np.full(len(weights), 1 / len(weights))
    first = boxes[:1]
    turn = wrap_angle(boxes.yaw - first.yaw)
    turn = np.where(np.abs(turn) > np.pi / 2, wrap_angle(turn + np.pi), turn)
    means = {name: share[None] @ getattr(boxes, name) for name in ("center", "size", "velocity")}
    return dataclasses.replace(first, yaw=wrap_angle(first.yaw + share @ turn), **means)
