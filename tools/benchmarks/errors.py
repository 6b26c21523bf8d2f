"""Which errors a detector makes, and what each kind costs in mAP; see tools/errors.py.

The cost is that of TIDE (Bolya et al., 2020): detections with one kind mended by the truth are scored again. What
mending would gain is an upper bound, and the gains do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from perception.data.opening import open_source
from perception.errors import PerceptionError
from perception.eval.calibration import confusion
from perception.eval.evaluate import Submission, score_submissions
from perception.model.checkpoint import load
from perception.model.detector import Detector, Prediction
from perception.sample import Boxes3D, Detections, Frame
from perception.text import aligned

_NEAR_M, _FAR_M = 2.0, 4.0  # within which a detection is of an object, and beyond which it is of none
_CONFIDENT = 0.3  # score from which on classes and headings are counted
_COLUMNS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


def right_class(detections: Detections, truth: Boxes3D) -> Detections:
    """Detections near an object have its class; of those of one object the best is left."""
    nearest, distance = nearest_box(detections, truth, same_class=False)
    near = distance < _NEAR_M
    label = detections.boxes.label.copy()
    label[near] = truth.label[nearest[near]]
    hits = np.flatnonzero(near)  # highest score first, as detections are
    kept = ~near
    kept[hits[np.unique(nearest[hits], return_index=True)[1]]] = True
    return Detections(replace(detections.boxes, label=label)[kept], detections.scores[kept])


def right_place(detections: Detections, truth: Boxes3D) -> Detections:
    """Detections near an object of their class have its centre."""
    nearest, distance = nearest_box(detections, truth, same_class=True)
    near = distance < _NEAR_M
    center = detections.boxes.center.copy()
    center[near] = truth.center[nearest[near]]
    return Detections(replace(detections.boxes, center=center), detections.scores)


def right_order(detections: Detections, truth: Boxes3D) -> Detections:
    """Detections near an object of their class come before all others."""
    near = nearest_box(detections, truth, same_class=True)[1] < _NEAR_M
    scores = np.where(near, 0.5 + detections.scores / 2, detections.scores / 10)
    order = np.argsort(-scores, kind="stable")
    return Detections(detections.boxes[order], scores[order])


def no_ghosts(detections: Detections, truth: Boxes3D) -> Detections:
    """Without those that are far from every object."""
    kept = nearest_box(detections, truth, same_class=False)[1] < _FAR_M
    return Detections(detections.boxes[kept], detections.scores[kept])


MENDED: dict[str, Callable[[Detections, Boxes3D], Detections]] = {
    "as found": lambda detections, truth: detections,
    "right class": right_class,
    "right place": right_place,
    "right order": right_order,
    "no ghosts": no_ghosts,
}


def nearest_box(detections: Detections, truth: Boxes3D, same_class: bool) -> tuple[np.ndarray, np.ndarray]:
    """Index of the true box nearest to each detection, and its distance on the ground; infinite if there is none."""
    if not len(truth):
        return np.zeros(len(detections), np.int64), np.full(len(detections), np.inf)
    distance = np.linalg.norm(detections.boxes.center[:, None, :2] - truth.center[None, :, :2], axis=2)
    if same_class:
        distance = np.where(detections.boxes.label[:, None] == truth.label, distance, np.inf)
    return distance.argmin(axis=1), distance.min(axis=1)


def turned_round(detections: Detections, truth: Boxes3D) -> tuple[np.ndarray, np.ndarray]:
    """Classes [M] of detections near an object of theirs, the best one of each, and bool [M]: heading over 90° off."""
    nearest, distance = nearest_box(detections, truth, same_class=True)
    hits = np.flatnonzero(distance < _NEAR_M)
    hits = hits[np.unique(nearest[hits], return_index=True)[1]]
    found, actual = detections.boxes[hits], truth[nearest[hits]]
    return found.label, np.cos(found.yaw - actual.yaw) < 0


def measure(checkpoint: str, root: Path, sensors: Iterable[str] | None = None) -> dict:
    """Of the dense head's boxes and, if there is a decoder, of its objects: by their name,

    metrics; mAP and AP by class with each kind of error MENDED; confused: matrix of counts, true class by class seen,
    the last row for ghosts and the last column for what was missed; turned: share turned round by class, None without
    any, and over all.
    """
    detector = load(checkpoint).eval()
    detector.calibration.by_set = {}  # of the scores of its final boxes
    sensors = tuple(detector.sensors if sensors is None else sensors)
    source = open_source(root, detector.config, image_size=detector.inputs.covering)
    task, found = detector.task, _boxes_of(detector)
    runs = {f"{kind}/{mended}": sensors for kind in found for mended in MENDED}
    pairs: dict[str, list] = {kind: [] for kind in found}
    turns: dict[str, list] = {kind: [] for kind in found}

    @torch.inference_mode()
    def detect(submissions: dict[str, Submission]) -> None:
        for index in tqdm(range(len(source)), desc="score", unit="frame"):
            frame = source[index]
            if not isinstance(frame, Frame) or frame.boxes is None:
                continue
            seen = frame.only(sensors)
            prediction = detector(detector.prepare([seen]))
            for kind, decode in found.items():
                detections, truth = decode(prediction), frame.boxes
                for mended, mend in MENDED.items():
                    submissions[f"{kind}/{mended}"].add(seen, mend(detections, truth))
                confident = detections.scores >= _CONFIDENT
                pairs[kind].append(np.array(confusion(detections, truth, task, _CONFIDENT)))
                turns[kind].append(
                    np.array(turned_round(Detections(detections.boxes[confident], detections.scores[confident]), truth))
                )

    scored = score_submissions(source, task, runs, detect)
    report = {}
    for kind in found:
        confused = np.zeros((len(task.classes) + 1,) * 2, np.int64)
        np.add.at(confused, tuple(np.concatenate(pairs[kind], axis=1)), 1)
        label, turned = np.concatenate(turns[kind], axis=1)
        report[kind] = {
            "metrics": {name: scored[f"{kind}/as found"][name] for name in (*_COLUMNS, "errors")},
            "mended": {m: {"mAP": scored[f"{kind}/{m}"]["mAP"], **scored[f"{kind}/{m}"]["AP"]} for m in MENDED},
            "confused": confused.tolist(),
            "turned": {"all": _share(turned)} | {c: _share(turned[label == k]) for k, c in enumerate(task.classes)},
        }
    return {"sensors": list(sensors), "classes": list(task.classes), "boxes": report}


def _boxes_of(detector: Detector) -> dict[str, Callable[[Prediction], Detections]]:
    head, decoder = detector.heads["boxes"], detector.decoder
    if not hasattr(head, "max_detections"):
        raise PerceptionError("errors: a detector with the package's own head was expected")
    found = {"dense head": lambda prediction: head.decode(prediction.outputs["boxes"])[0]}
    if decoder is not None:
        most, threshold = head.max_detections, head.score_threshold
        found["objects"] = lambda prediction: decoder.decode(prediction.refined, most, threshold)[0]
    return found


def _share(turned: np.ndarray) -> float | None:
    return float(turned.mean()) if len(turned) else None


def table(report: dict) -> str:
    """Metrics, mAP by what is mended, pairs of classes confused most, and shares turned round."""
    classes, text = report["classes"], []
    for kind, found in report["boxes"].items():
        text.append(f"{kind}, {'+'.join(report['sensors'])}")
        text.append(aligned([_COLUMNS, [f"{found['metrics'][c]:.3f}" for c in _COLUMNS]], left=()))
        lines = [["AP", "mean", *(c[:7] for c in classes)]]
        lines += [[m, *(f"{ap[c]:.3f}" for c in ("mAP", *classes))] for m, ap in found["mended"].items()]
        shares = [found["turned"][c] for c in ("all", *classes)]
        lines.append(["turned round", *("-" if share is None else f"{share:.0%}" for share in shares)])
        text.append(aligned(lines))
        confused = np.array(found["confused"])
        known = confused[:-1, :-1]
        both = np.triu(known + known.T, 1)
        most = [(int(both[a, b]), f"{classes[a]} and {classes[b]}") for a, b in zip(*np.nonzero(both))]
        text.append(
            f"of a score from {_CONFIDENT} on: {known.trace()} right, {known.sum() - known.trace()} of another class, "
            f"{confused[:-1, -1].sum()} missed, {confused[-1, :-1].sum()} ghosts; confused most: "
            + ", ".join(f"{pair} {count}" for count, pair in sorted(most, reverse=True)[:6])
        )
    return "\n".join(text)
