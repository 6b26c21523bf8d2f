"""KITTI's 3D detection metric: average precision where a detection has to overlap an object's box by half.

The definition follows Geiger et al., "Are we ready for autonomous driving? The KITTI vision benchmark suite", 2012, and
has the 40 recall levels of Simonelli et al., "Disentangling monocular 3D object detection", 2019, and one overlap for
all classes. From the best detection down, each takes the object of its class and frame that it overlaps most, if by
more than MIN_OVERLAP (3D intersection over union of upright boxes) and if no better detection has it.

Objects that no LiDAR or radar point is on, beyond the range of their class, or that no camera looks at are ignored: who
misses them loses nothing, and whoever finds one gains nothing. Detections of nothing count within that range and view.
KITTI's levels of difficulty, which are those of 2D boxes, and nuScenes' bicycle racks are not part of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perception.data.camera_view import in_view
from perception.sample import Boxes3D, Detections, Frame
from perception.task import Task

MIN_OVERLAP = 0.5
RECALL_LEVELS = 40


@dataclass(frozen=True, eq=False)
class OverlapMatches:
    """What one frame adds to the metric.

    score, label, hit: [N] of the detections that count; hit says whether it found an object.  positives: int64 [K], the
    number of objects to be found, by class.
    """

    score: np.ndarray
    label: np.ndarray
    hit: np.ndarray
    positives: np.ndarray


def overlaps(a: Boxes3D, b: Boxes3D) -> np.ndarray:
    """float64 [A, B]: 3D intersection over union of upright boxes."""
    from perception.eval.overlap_kernel import overlaps_3d  # deferred: triggers compilation

    rows = [np.column_stack([boxes.center, boxes.size, boxes.yaw]) for boxes in (a, b)]
    return overlaps_3d(rows[0], rows[1])


def match_overlaps(frame: Frame, detections: Detections | None, task: Task) -> OverlapMatches:
    """Match the detections in an annotated frame; None for no detections. The frame's cameras say what is in view.

    Raises:
        TaskError: a label or attribute index that the task does not have.
    """
    truth = Boxes3D.empty() if frame.boxes is None else frame.boxes
    task.check(truth.label, truth.attribute, f"frame {frame.token}")
    found = Detections(Boxes3D.empty(), np.zeros(0)) if detections is None else detections
    ignored = ~(truth.measured & _counts(truth, frame, task))
    overlap = overlaps(found.boxes, truth) * (found.boxes.label[:, None] == truth.label)
    match = np.full(len(found), -1)
    for i in np.flatnonzero((overlap > MIN_OVERLAP).any(axis=1)):  # the best score first
        best = int(overlap[i].argmax())
        if overlap[i, best] > MIN_OVERLAP:
            match[i] = best
            overlap[:, best] = 0
    hit = match >= 0
    counts = _counts(found.boxes, frame, task)
    counts[hit] = ~ignored[match[hit]]
    return OverlapMatches(
        score=found.scores[counts],
        label=found.boxes.label[counts],
        hit=hit[counts],
        positives=np.bincount(truth.label[~ignored], minlength=len(task.classes)),
    )


def _counts(boxes: Boxes3D, frame: Frame, task: Task) -> np.ndarray:
    """bool [N]: within the range of their class, and before one of the frame's cameras if it has any."""
    near = np.linalg.norm(boxes.center[:, :2], axis=1) < task.column("range_m")[boxes.label]
    return near & in_view(boxes.center, frame.cameras.values()) if frame.cameras else near


def average_precision_3d(frames: Sequence[OverlapMatches], task: Task) -> dict[str, float | None]:
    """Average precision of every class, None of one without an object to be found."""
    score, label, hit = (np.concatenate([getattr(part, name) for part in frames]) for name in ("score", "label", "hit"))
    positives = np.sum([part.positives for part in frames], axis=0).tolist()
    return {
        name: _average_precision(score[label == k], hit[label == k], positives[k]) if positives[k] else None
        for k, name in enumerate(task.classes)
    }


def _average_precision(score: np.ndarray, hit: np.ndarray, positives: int) -> float:
    """The mean over RECALL_LEVELS of the best precision at that recall or more."""
    order = np.argsort(-score, kind="stable")
    hits, count = np.cumsum(hit[order]), np.arange(1, len(order) + 1)
    last = np.append(np.diff(score[order]) < 0, True)[: len(order)]  # a threshold takes all of the same score
    hits, precision = hits[last], hits[last] / count[last]
    needed = np.arange(1, RECALL_LEVELS + 1) * positives  # at each level, times RECALL_LEVELS
    best = [precision[RECALL_LEVELS * hits >= least].max(initial=0.0) for least in needed]
    return float(np.mean(best))
