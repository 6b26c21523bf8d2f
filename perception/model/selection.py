"""From objects to detections, in numpy alone: what the decoder and exported models have in common, without torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from perception.errors import PerceptionError
from perception.geometry import wrap_angle
from perception.grid import BEVGrid
from perception.sample import Boxes3D, Detections
from perception.task import Task


def detections_of(
    objects: dict[str, np.ndarray], task: Task, grid: BEVGrid, most: int, score_threshold: float
) -> Detections:
    """Detections of one sample, highest score first.

    Args:
        objects: float64 "center" [N, 3], "size" [N, 3], "yaw" [N], "velocity" [N, 2], "attribute_logits" [N, A],
            "score" [N], and int64 "label" [N]; highest score first.
        most: number of detections, at most.  score_threshold: exclusive.

    Raises:
        PerceptionError: an object that is not finite.
    """
    center, size, yaw, score = (objects[name] for name in ("center", "size", "yaw", "score"))
    velocity, attributes, label = (objects[name] for name in ("velocity", "attribute_logits", "label"))
    numbers = (center, size, yaw[:, None], velocity, attributes, score[:, None])
    require_finite("objects", np.isfinite(np.concatenate(numbers, axis=1)))
    boxes = Boxes3D(center, size, wrap_angle(yaw), velocity, label, best_attribute(attributes, label, task))
    keep = (score > score_threshold) & grid.contains(center[:, 0], center[:, 1])
    kept = suppress(boxes[keep], task.column("suppression_radius_m"))[:most]
    return Detections(boxes[keep][kept], score[keep][kept])


def require_finite(what: str, finite: Any) -> None:
    """finite: bool array or tensor, of each number that a detector has put out."""
    broken = int((~finite).sum())
    if broken:
        raise PerceptionError(
            f"the detector's {what}: finite numbers were expected, found {broken} of {math.prod(finite.shape)} NaN or "
            "infinite: damaged weights, or input beyond what the network can take"
        )


def best_attribute(logits: np.ndarray, label: np.ndarray, task: Task) -> np.ndarray:
    """The most likely attribute that each class allows, -1 for classes without attributes."""
    best = np.full(len(label), -1)
    for k, facts in enumerate(task.objects):
        rows, allowed = label == k, task.attributes_of(facts.attributes)
        if len(allowed) and rows.any():
            best[rows] = allowed[logits[rows][:, allowed].argmax(axis=1)]
    return best


def suppress(boxes: Boxes3D, radius_m: np.ndarray) -> np.ndarray:
    """Indices kept, in order, if each kept box suppresses later ones of its class within the class radius [K]."""
    dx, dy = (boxes.center[:, None, axis] - boxes.center[None, :, axis] for axis in (0, 1))
    close = dx * dx + dy * dy < np.square(radius_m)[boxes.label][:, None]
    close &= boxes.label[:, None] == boxes.label[None]
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~close[i, i + 1 :]
    return alive.nonzero()[0]
