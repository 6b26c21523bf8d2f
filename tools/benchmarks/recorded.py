"""A detector on recorded drives: every set of sensors, sensors that are misplaced or silent, what the radar adds.

A row is {"checkpoint", "weights_sha256", "seed", "condition", "sensors", "frames", "ground_truth", "mAP", "AP",
"mAP_3D", "AP_3D", "AP_at", "on_nothing"}: a checkpoint under a condition of
``benchmarks.conditions.recorded_conditions``. "seed" is that of the training, None of imported weights; AP is
nuScenes', the mean of four distances, AP_3D is KITTI's (``perception.eval.overlap``), both by class; "AP_at" is AP by
distance; "on_nothing" is a mean a frame, see :func:`boxes_on_nothing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.conditions import Moment, recorded_conditions
from benchmarks.robustness import EncodeOnce, chosen_conditions
from perception.data.opening import open_source
from perception.eval.evaluate import Submission, score_submissions
from perception.model.checkpoint import load, weights_sha256
from perception.sample import Boxes3D, Detections, sensor_set

CONFIDENT = 0.3  # score above which a box on nothing counts
_WITHIN_M, _NEAR_M = 50.0, 2.0


def boxes_on_nothing(detections: Detections, truth: Boxes3D) -> int:
    """How many detections above ``CONFIDENT``, within 50 m, are further than 2 m from every annotated box of any class.

    Distances are those of centres over ground. Boxes of classes that the task leaves out are not in ``truth``.
    """
    center = detections.boxes.center[detections.scores > CONFIDENT, :2]
    center = center[np.linalg.norm(center, axis=1) < _WITHIN_M]
    apart = np.linalg.norm(center[:, None] - truth.center[None, :, :2], axis=2)
    return int((apart > _NEAR_M).all(axis=1).sum())


def measure_all(
    checkpoints: Sequence[str], root: str, selection: Mapping[str, Any], patterns: Sequence[str], workers: int
) -> list[dict]:
    """The rows of :func:`measure` of all checkpoints; several workers have one thread each."""
    job = partial(measure, root=root, selection=selection, patterns=patterns)
    if workers == 1:
        return [row for checkpoint in checkpoints for row in job(checkpoint)]
    one_thread: Any = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), **one_thread) as pool:
        return [row for rows in pool.map(job, checkpoints) for row in rows]


def measure(checkpoint: str, root: str, selection: Mapping[str, Any], patterns: Sequence[str]) -> list[dict]:
    """A row for every condition that matches a pattern, in their order.

    Args:
        selection: which frames, as :func:`perception.data.opening.open_source` takes it.
    """
    detector = load(checkpoint)
    sensors, once = detector.sensors, EncodeOnce(detector)
    conditions = chosen_conditions(patterns, recorded_conditions(sensors))
    dataset = open_source(root, detector.config, image_size=detector.inputs.covering, **selection)
    on_nothing: Counter = Counter()

    def detect(made: dict[str, Submission]) -> None:
        for index in tqdm(range(len(dataset)), desc=checkpoint, unit="frame"):
            frame = dataset[index]
            once.forget()
            for condition in conditions if frame is not None and frame.boxes is not None else ():
                seen = condition.apply(Moment(frame, None, frame)).only(sensors)
                detections = once.detect(seen) if seen.sensors else None
                made[condition.key].add(frame, detections)  # whose cameras say what is in view
                if detections is not None:
                    on_nothing[condition.key] += boxes_on_nothing(detections, frame.boxes)

    used = {condition.key: _sensors(condition.key, sensors) for condition in conditions}
    scored = score_submissions(dataset, detector.task, used, detect)
    return [
        {
            "checkpoint": checkpoint,
            "weights_sha256": weights_sha256(checkpoint),
            "seed": None if detector.config.imported else detector.config.train.seed,
            "condition": key,
            "sensors": sensor_set(used[key], sensors),
            **{name: scores[name] for name in ("frames", "ground_truth", "mAP", "AP", "mAP_3D", "AP_3D")},
            "AP_at": scores["breakdown"]["AP"],
            "on_nothing": on_nothing[key] / scores["frames"],
        }
        for key, scores in scored.items()
    ]


def _sensors(key: str, sensors: Sequence[str]) -> Sequence[str]:
    return key.removeprefix("only:").split("+") if key.startswith("only:") else sensors
