"""Score calibration for each set of sensors, and class confusion.

A detection is correct if a box of its class, not matched by a better detection, is within the match radius of the
class, as for the true-positive errors of the metric. Scores are calibrated by a temperature and an offset (Guo et al.,
2017; Platt, 1999) of the score logits, one pair per set of sensors, so that of detections with score 0.3 three in ten
are correct for any set of sensors. Calibration preserves the order of scores within a set, and hence AP.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from tqdm import tqdm

from perception.data.sources import FrameSource
from perception.eval.truth import EvaluationError
from perception.model.detector import Detector
from perception.sample import Boxes3D, Detections, sensor_set, sensor_sets
from perception.task import Task

BINS = 15

log = logging.getLogger(__name__)


@dataclass
class MatchedDetections:
    """Detections of many frames. score, right, label: [N].  truth, seen_as: [P] entries of a confusion matrix.

    truth is a class index, or the number of classes for background; seen_as a class index, or that number for missed.
    """

    score: np.ndarray
    right: np.ndarray
    label: np.ndarray
    truth: np.ndarray
    seen_as: np.ndarray


def match_all(
    detector: Detector, source: FrameSource, subsets: Sequence[Iterable[str]], confident: float = 0.3
) -> dict[str, MatchedDetections]:
    """Match all detections of all frames, by set of sensors; confusion counts scores of at least ``confident`` only.

    Frames that cannot be read, are not annotated, or lack one of a set's sensors are skipped.

    Raises:
        TaskError: a label or attribute index that the task does not have.
    """
    parts: dict[str, list] = {sensor_set(subset, detector.sensors): [] for subset in subsets}
    for index in tqdm(range(len(source)), desc="match", unit="frame"):
        frame = source[index]
        if frame is None or frame.boxes is None:
            continue
        detector.task.check(frame.boxes.label, frame.boxes.attribute, f"frame {frame.token}")
        truth = _in_range(frame.boxes[frame.boxes.measured], detector.task)
        for name in parts:
            seen = frame.only(name.split("+"))
            if set(seen.sensors) != set(name.split("+")):
                continue
            detections = detector.detect(seen)
            detections = detections[_in_range_mask(detections.boxes, detector.task)]
            pairs = confusion(detections, truth, detector.task, confident)
            parts[name].append((detections, matched(detections, truth, detector.task), *pairs))
    return {name: _joined(part) for name, part in parts.items()}


def matched(detections: Detections, truth: Boxes3D, task: Task) -> np.ndarray:
    """bool [N]: whether each detection, best first, matches a free box of its class within the match radius."""
    right, free = np.zeros(len(detections), bool), np.ones(len(truth), bool)
    radius_m = task.column("match_radius_m")
    for i, label in enumerate(detections.boxes.label):
        same = free & (truth.label == label)
        distance = np.linalg.norm(truth.center[:, :2] - detections.boxes.center[i, :2], axis=1)
        distance = np.where(same, distance, np.inf)
        if len(distance) and distance.min() < radius_m[label]:
            right[i], free[distance.argmin()] = True, False
    return right


def confusion(detections: Detections, truth: Boxes3D, task: Task, confident: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (truth, seen as): detections, best first, match the nearest free box of any class within its radius."""
    nothing, pairs, free = len(task.classes), [], np.ones(len(truth), bool)
    radius_m = task.column("match_radius_m")[truth.label]
    for i in np.flatnonzero(detections.scores >= confident):
        distance = np.linalg.norm(truth.center[:, :2] - detections.boxes.center[i, :2], axis=1)
        distance = np.where(free & (distance < radius_m), distance, np.inf)
        hit = len(distance) > 0 and np.isfinite(distance.min())
        pairs.append((truth.label[distance.argmin()] if hit else nothing, detections.boxes.label[i]))
        if hit:
            free[distance.argmin()] = False
    pairs += [(label, nothing) for label in truth.label[free]]
    true, seen_as = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return true, seen_as


def fit(score: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """(slope, offset) that minimise the cross-entropy of ``expit(slope * logit(score) + offset)``."""
    x, y = logit(score.clip(1e-6, 1 - 1e-6)), right.astype(np.float64)

    def loss(parameters):
        z = np.exp(parameters[0]) * x + parameters[1]
        gradient = expit(z) - y
        value = (np.logaddexp(0, z) - y * z).mean()
        return value, np.array([(gradient * x).mean() * np.exp(parameters[0]), gradient.mean()])

    best = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-3, 3), (-10, 10)])
    return float(np.exp(best.x[0])), float(best.x[1])


def calibrate(detector: Detector, source: FrameSource) -> dict[str, tuple[float, float]]:
    """Fit the detector's score calibration in place; returns slope and offset by set of sensors.

    Sets without detections, such as those of sensors that the source does not have, stay as they are.

    Raises:
        EvaluationError: there are no detections at all, or no annotated boxes.
    """
    before = detector.calibration.by_set
    detector.calibration.by_set = {}
    try:
        matches = match_all(detector, source, sensor_sets(detector.sensors))
    finally:
        detector.calibration.by_set = before
    fitted = {name: fit(m.score, m.right) for name, m in matches.items() if len(m.score)}
    boxes = max(int((m.truth < len(detector.task.classes)).sum()) for m in matches.values())
    if not fitted or not boxes:
        raise EvaluationError(
            f"detections and annotated boxes to calibrate on were expected in {len(source)} frames, "
            f"found detections of {len(fitted)} sets of sensors, {boxes} boxes"
        )
    others = [name for name in matches if name not in fitted]
    if others:
        log.warning("left as they are, without a detection: %s", ", ".join(others))
    detector.calibration.by_set = {**before, **fitted}
    return fitted


def expected_error(score: np.ndarray, right: np.ndarray) -> float | None:
    """Expected calibration error: |precision - mean score| in uniform score bins, weighted by count; None if empty."""
    if not len(score):
        return None
    bins = np.minimum((score * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, right.astype(float) - score, BINS)
    return float(np.abs(gap).sum() / len(score))


def reliability(score: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean score, precision, count) of every non-empty score bin."""
    bins = np.minimum((score * BINS).astype(int), BINS - 1)
    return [
        (float(score[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    ]


def classification_report(matches: dict[str, MatchedDetections], task: Task) -> dict:
    """JSON-serialisable calibration errors, reliability curves and confusion matrix of each set of sensors."""
    report = {}
    for name, m in matches.items():
        matrix = np.zeros((len(task.classes) + 1,) * 2, np.int64)
        np.add.at(matrix, (m.truth, m.seen_as), 1)
        report[name] = {
            "ECE": expected_error(m.score, m.right),
            "ECE_by_class": {
                c: expected_error(m.score[m.label == k], m.right[m.label == k]) for k, c in enumerate(task.classes)
            },
            "reliability": reliability(m.score, m.right),
            "confusion": matrix.tolist(),
        }
    return report


def _in_range_mask(boxes: Boxes3D, task: Task) -> np.ndarray:
    return np.linalg.norm(boxes.center[:, :2], axis=1) < task.column("range_m")[boxes.label]


def _in_range(boxes: Boxes3D, task: Task) -> Boxes3D:
    return boxes[_in_range_mask(boxes, task)]


def _joined(parts: list) -> MatchedDetections:
    if not parts:
        nothing = np.zeros(0, np.int64)
        return MatchedDetections(np.zeros(0), np.zeros(0, bool), nothing, nothing, nothing)
    detections, right, truth, seen_as = zip(*parts)
    return MatchedDetections(
        np.concatenate([d.scores for d in detections]),
        np.concatenate(right),
        np.concatenate([d.boxes.label for d in detections]),
        np.concatenate(truth),
        np.concatenate(seen_as),
    )
