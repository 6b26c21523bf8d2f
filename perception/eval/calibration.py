"""What a score is worth: calibration for each set of sensors, and how classes are confused.

A detection is right when a box of its class, not yet taken by a better detection, is within 2 m (the middle one of the
metric's thresholds). Scores are calibrated by temperature and offset (Guo et al., 2017; Platt, 1999) of the heat
logits, one pair for each set of sensors, so that of the detections with score 0.3 three in ten are right whatever
sensors there are. Calibration keeps the order of the scores of a set, hence its AP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit
from tqdm import tqdm

from perception.eval.evaluate import ALL_SUBSETS, subset_name
from perception.eval.metric import CLASS_RANGE_M
from perception.model.detector import Detector, subset_index
from perception.sample import CLASSES, SENSORS, Boxes3D, Detections
from perception.train.batches import without_unseen

MATCH_M = 2.0
BINS = 15


@dataclass
class Judged:
    """Detections of many frames. score, right, label: [N].  truth, seen_as: pairs of a confusion matrix.

    truth is a class, or len(CLASSES) for nothing; seen_as is a class, or len(CLASSES) for missed.
    """

    score: np.ndarray
    right: np.ndarray
    label: np.ndarray
    truth: np.ndarray
    seen_as: np.ndarray


def judge(detector, dataset, subsets: Sequence[Iterable[str]], confident: float = 0.3) -> dict[str, Judged]:
    """Every detection of every frame by subset name; only those scored ``confident`` count in the confusion."""
    parts: dict[str, list] = {subset_name(subset): [] for subset in subsets}
    for index in tqdm(range(len(dataset)), desc="judge", unit="frame"):
        frame = dataset[index]
        truth = _in_range(without_unseen(frame.boxes))
        for name in parts:
            detections = detector.detect(frame.only(name.split("+")))
            near = _in_range_mask(detections.boxes)
            detections = Detections(detections.boxes[near], detections.scores[near])
            parts[name].append((detections, matched(detections, truth), *confusion(detections, truth, confident)))
    return {name: _joined(part) for name, part in parts.items()}


def matched(detections: Detections, truth: Boxes3D) -> np.ndarray:
    """bool [N]: which detections, best first, take a box of their class within MATCH_M."""
    right, free = np.zeros(len(detections.boxes), bool), np.ones(len(truth), bool)
    for i in np.argsort(-detections.scores, kind="stable"):
        same = free & (truth.label == detections.boxes.label[i])
        distance = np.linalg.norm(truth.center[:, :2] - detections.boxes.center[i, :2], axis=1)
        distance = np.where(same, distance, np.inf)
        if len(distance) and distance.min() < MATCH_M:
            right[i], free[distance.argmin()] = True, False
    return right


def confusion(detections: Detections, truth: Boxes3D, confident: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (truth, seen as): detections, best first, take the nearest box within MATCH_M, of whatever class."""
    nothing, pairs, free = len(CLASSES), [], np.ones(len(truth), bool)
    for i in np.argsort(-detections.scores, kind="stable"):
        if detections.scores[i] < confident:
            break
        distance = np.linalg.norm(truth.center[:, :2] - detections.boxes.center[i, :2], axis=1)
        distance = np.where(free, distance, np.inf)
        hit = len(distance) > 0 and distance.min() < MATCH_M
        pairs.append((truth.label[distance.argmin()] if hit else nothing, detections.boxes.label[i]))
        if hit:
            free[distance.argmin()] = False
    pairs += [(label, nothing) for label in truth.label[free]]
    return tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T)


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


def calibrate(detector: Detector, dataset) -> dict[str, tuple[float, float]]:
    """Fit ``detector.calibration`` on a dataset, in place; slope and offset by subset name."""
    detector.calibration.copy_(torch.tensor([1.0, 0.0]).expand_as(detector.calibration))
    fitted = {name: fit(j.score, j.right) for name, j in judge(detector, dataset, ALL_SUBSETS).items()}
    for name, values in fitted.items():
        valid = torch.tensor([[sensor in name.split("+") for sensor in SENSORS]])
        detector.calibration[subset_index(valid)] = torch.tensor(values)
    return fitted


def expected_error(score: np.ndarray, right: np.ndarray) -> float | None:
    """Expected calibration error: |share that is right - mean score| in equally wide bins, weighted by number."""
    if not len(score):
        return None
    bins = np.minimum((score * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, right.astype(float) - score, BINS)
    return float(np.abs(gap).sum() / len(score))


def reliability(score: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """(mean score, share right, number) of every bin that is not empty."""
    bins = np.minimum((score * BINS).astype(int), BINS - 1)
    return [
        (float(score[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    ]


def classification_report(judged: dict[str, Judged]) -> dict:
    """JSON-able: expected calibration errors, reliability curves and the confusion matrix of every set of sensors."""
    report = {}
    for name, j in judged.items():
        matrix = np.zeros((len(CLASSES) + 1,) * 2, np.int64)
        np.add.at(matrix, (j.truth, j.seen_as), 1)
        report[name] = {
            "ECE": expected_error(j.score, j.right),
            "ECE_by_class": {
                c: expected_error(j.score[j.label == i], j.right[j.label == i]) for i, c in enumerate(CLASSES)
            },
            "reliability": reliability(j.score, j.right),
            "confusion": matrix.tolist(),
        }
    return report


def _in_range_mask(boxes: Boxes3D) -> np.ndarray:
    ranges = np.array([CLASS_RANGE_M[name] for name in CLASSES])
    return np.linalg.norm(boxes.center[:, :2], axis=1) < ranges[boxes.label]


def _in_range(boxes: Boxes3D) -> Boxes3D:
    return boxes[_in_range_mask(boxes)]


def _joined(parts: list) -> Judged:
    detections, right, truth, seen_as = zip(*parts)
    return Judged(
        np.concatenate([d.scores for d in detections]),
        np.concatenate(right),
        np.concatenate([d.boxes.label for d in detections]),
        np.concatenate(truth),
        np.concatenate(seen_as),
    )
