"""From the candidates of an imported CenterPoint to detections, in numpy alone: exported models do so, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from perception.geometry import SE3
from perception.model.selection import require_finite, suppress
from perception.sample import Boxes3D, Detections
from perception.task import Task

_MOST_OF_A_GROUP = 83  # boxes, behind the suppression
_FARTHEST_M = (61.2, 61.2, 10.0)  # centres beyond, seen from the LiDAR, are left out


@dataclass(frozen=True)
class BoxRules:
    """Which candidates become boxes, as the original has it.

    groups: names of classes that suppress each other.
    ego_SE3_lidar: pose [7] of the frame of the candidates, see :attr:`perception.geometry.SE3.pose`.
    max_overlap: intersection over union, in bird's-eye view, up to which two boxes of a group are two; None: they are
        two if their centres are further apart than the classes' ``suppression_radius_m``.
    score_threshold: exclusive.  max_detections: of a sample.
    """

    groups: tuple[tuple[str, ...], ...]
    ego_SE3_lidar: tuple[float, ...]
    max_overlap: float | None
    score_threshold: float
    max_detections: int


def detections_of_candidates(candidates: dict[str, np.ndarray], task: Task, rules: BoxRules) -> Detections:
    """Detections of one sample in the ego frame, highest score first.

    Args:
        candidates: in the LiDAR frame and any order: "center" [N, 3], "log_size" [N, 3] of length, width and height in
            metres, "direction" [N, 2], of any length, as (sin, cos) of yaw, "velocity" [N, 2], "score" [N], and int64
            "label" [N].

    Raises:
        PerceptionError: a candidate that is not finite.
    """
    numbers = [value.reshape(len(value), -1) for value in candidates.values()]
    require_finite("boxes", np.isfinite(np.concatenate(numbers, axis=1)))
    inside = (np.abs(candidates["center"]) <= _FARTHEST_M).all(axis=1)
    keep = np.flatnonzero(inside & (candidates["score"] > rules.score_threshold))
    keep = keep[np.argsort(-candidates["score"][keep], kind="stable")]
    found = {name: value[keep] for name, value in candidates.items()}
    found |= {name: value.astype(np.float64) for name, value in found.items() if name != "label"}
    sin, cos = found["direction"].T
    size = np.exp(found["log_size"].clip(-4, 4))
    boxes = Boxes3D(found["center"], size, np.arctan2(sin, cos), found["velocity"], found["label"])
    kept = _kept(boxes, task, rules)[: rules.max_detections]
    return Detections(_moved(boxes[kept], SE3.from_pose(rules.ego_SE3_lidar)), found["score"][kept])


def _kept(boxes: Boxes3D, task: Task, rules: BoxRules) -> np.ndarray:
    """Indices, ascending, of the boxes that no better one of their group suppresses."""
    kept = []
    for names in rules.groups:
        members = [task.classes.index(name) for name in names]
        own = np.flatnonzero(np.isin(boxes.label, members))
        if rules.max_overlap is None:
            alike = replace(boxes[own], label=np.full(len(own), members[0]))  # whatever their class
            kept.append(own[suppress(alike, task.column("suppression_radius_m"))[:_MOST_OF_A_GROUP]])
        else:
            kept.append(own[suppress_overlapping(boxes[own], rules.max_overlap)[:_MOST_OF_A_GROUP]])
    return np.sort(np.concatenate(kept))


def suppress_overlapping(boxes: Boxes3D, max_overlap: float) -> np.ndarray:
    """Indices kept, in order, if each kept box suppresses later ones that overlap it by more, in bird's-eye view."""
    center, size = boxes.center[:, :2], boxes.size[:, :2]
    reach = 0.5 * np.hypot(*size.T)
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        later = np.arange(i + 1, len(boxes))
        near = np.hypot(*(center[later] - center[i]).T) < reach[later] + reach[i]
        for j in later[near & alive[later]]:
            apart = center[j] - center[i]  # cv2 has float32: the smaller the numbers, the better
            common = _intersection(size[i], boxes.yaw[i], apart, size[j], boxes.yaw[j])
            alive[j] = common <= max_overlap * (size[i].prod() + size[j].prod() - common)
    return alive.nonzero()[0]


def _intersection(size: np.ndarray, yaw: float, apart: np.ndarray, other: np.ndarray, other_yaw: float) -> float:
    """Area that a rectangle at the origin and another one at ``apart`` have in common, in square metres."""
    first = (0.0, 0.0), tuple(size.tolist()), float(np.degrees(yaw))
    second = tuple(apart.tolist()), tuple(other.tolist()), float(np.degrees(other_yaw))
    _, corners = cv2.rotatedRectangleIntersection(first, second)
    return 0.0 if corners is None else cv2.contourArea(cv2.convexHull(corners))


def _moved(boxes: Boxes3D, ego_SE3_lidar: SE3) -> Boxes3D:
    """The boxes in the ego frame; they stand upright in either one."""

    def turned(xy: Sequence[np.ndarray]) -> np.ndarray:
        return ego_SE3_lidar.rotate(np.stack([*xy, np.zeros(len(boxes))], axis=1))[:, :2]

    forward = turned([np.cos(boxes.yaw), np.sin(boxes.yaw)])
    center, velocity = ego_SE3_lidar.transform(boxes.center), turned(list(boxes.velocity.T))
    return Boxes3D(center, boxes.size, np.arctan2(forward[:, 1], forward[:, 0]), velocity, boxes.label)
