"""Matching of the boxes of one frame in two results.

A box is a detection with at least the score threshold. Its match in the other result may have as little as half of
that, so that a score of 0.301 that was 0.299 is a small change of a score and no box gained. Matches have the same
class and are near each other; the assignment leaves as few boxes of a frame unmatched as possible, then has the least
total distance. An unmatched box of A in the same place as an unmatched one of B has changed its class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from perception.geometry import wrap_angle
from perception.sample import Detections
from perception.task import NUSCENES, Task

WEAK = 0.5  # share of the score threshold that a match must have
SHIFTS = ("center_m", "size_m", "yaw_deg", "velocity_mps", "score")


@dataclass(frozen=True, eq=False)
class Matching:
    """Indices into the boxes of A (first column) and B (second).

    pairs: [P, 2], at least one of them a box.  changed: [C, 2], boxes of another class in the same place.
    lost: [L] boxes of A, gained: [G] boxes of B, without a match.
    """

    pairs: np.ndarray
    changed: np.ndarray
    lost: np.ndarray
    gained: np.ndarray


def match(a: Detections, b: Detections, score_threshold: float = 0.3, match_distance_m: float = 2.0) -> Matching:
    """Match the boxes of a frame as the module docstring says; distances are between centres, in the ego frame."""
    is_box = a.scores >= score_threshold, b.scores >= score_threshold
    candidates = a.scores >= WEAK * score_threshold, b.scores >= WEAK * score_threshold
    if _equal(a, b):
        pairs = np.repeat(np.flatnonzero(is_box[0])[:, None], 2, axis=1)
    else:
        rows, columns = map(np.flatnonzero, candidates)
        same_class = a.boxes.label[rows][:, None] == b.boxes.label[columns]
        distance = cdist(a.boxes.center[rows], b.boxes.center[columns])
        weight = is_box[0][rows][:, None].astype(int) + is_box[1][columns]
        at = _assign(np.where(same_class, distance, np.inf), weight, match_distance_m)
        pairs = np.stack([rows[at[:, 0]], columns[at[:, 1]]], axis=1)
    lost = np.setdiff1d(np.flatnonzero(is_box[0]), pairs[:, 0])
    gained = np.setdiff1d(np.flatnonzero(is_box[1]), pairs[:, 1])
    distance = cdist(a.boxes.center[lost], b.boxes.center[gained])
    at = _assign(distance, np.full(distance.shape, 2), match_distance_m)
    changed = np.stack([lost[at[:, 0]], gained[at[:, 1]]], axis=1)
    return Matching(pairs, changed, np.delete(lost, at[:, 0]), np.delete(gained, at[:, 1]))


def _assign(distance: np.ndarray, boxes: np.ndarray, limit_m: float) -> np.ndarray:
    """The pairs [P, 2] of least cost, where an unmatched box costs ``limit_m`` and a pair its distance.

    boxes: [A, B], how many of the two are boxes: 0 to 2. Two that are none, or too far apart, are never a pair.
    """
    cost = np.where((distance <= limit_m) & (boxes > 0), distance - limit_m * boxes, 0.0)
    rows, columns = linear_sum_assignment(cost)
    return np.stack([rows, columns], axis=1)[cost[rows, columns] < 0]


def _equal(a: Detections, b: Detections) -> bool:
    """To the last bit, as nearly all frames are after a refactoring."""
    names = ("center", "size", "yaw", "velocity", "label")
    return np.array_equal(a.scores, b.scores) and all(
        np.array_equal(getattr(a.boxes, name), getattr(b.boxes, name), equal_nan=name == "velocity") for name in names
    )


def shifts(a: Detections, b: Detections, pairs: np.ndarray, task: Task = NUSCENES) -> np.ndarray:
    """How far the second of each of ``pairs`` [P, 2] is from the first, [P, 5] as SHIFTS says; scores signed, b less a.

    size: the largest difference of length, width and height.  yaw: up to 90 degrees for a class whose heading is an
    axis, NaN for one without a heading.  velocity: an unknown one counts as zero, as in a nuScenes submission; NaN
    where both are unknown.
    """
    before, after = a.boxes[pairs[:, 0]], b.boxes[pairs[:, 1]]
    heading = np.array(task.headings)[before.label]
    rotation = np.abs(wrap_angle(after.yaw - before.yaw))
    rotation = np.where(heading == "axis", np.minimum(rotation, np.pi - rotation), rotation)
    rotation[heading == "none"] = np.nan
    known = ~(np.isnan(before.velocity).any(axis=1) & np.isnan(after.velocity).any(axis=1))
    velocity = np.linalg.norm(np.nan_to_num(after.velocity) - np.nan_to_num(before.velocity), axis=1)
    return np.stack(
        [
            np.linalg.norm(after.center - before.center, axis=1),
            np.abs(after.size - before.size).max(axis=1, initial=0.0),
            np.rad2deg(rotation),
            np.where(known, velocity, np.nan),
            b.scores[pairs[:, 1]] - a.scores[pairs[:, 0]],
        ],
        axis=1,
    )
