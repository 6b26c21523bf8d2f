"""The detection metric beside the devkit's, on made-up boxes: on arrays, and from the submission file."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import compare
from perception.errors import PerceptionError
from perception.eval.metric import MetricBoxes, Metrics, Racks, counted, score
from perception.eval.official import metrics as official_metrics
from perception.eval.submission_reader import read_submission
from perception.task import ATTRIBUTES, CLASSES

TRUE_BOXES = 34  # a sample, and the share of each class, as in nuScenes
SHARES = (0.426, 0.076, 0.014, 0.021, 0.013, 0.191, 0.011, 0.01, 0.085, 0.153)


def make_boxes(samples: int, boxes: int, seed: int = 0) -> tuple[MetricBoxes, MetricBoxes]:
    """Ground truth, and predictions of which a part lies near to it; vehicles stand at the origin, no racks."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> MetricBoxes:
        n = samples * count
        return MetricBoxes(
            sample=np.repeat(np.arange(samples), count),
            center=rng.uniform(-50, 50, (n, 3)) * [1, 1, 0.02],
            size=rng.uniform(0.5, 5.0, (n, 3)),
            yaw=rng.uniform(-np.pi, np.pi, n),
            velocity=rng.normal(0, 3, (n, 2)),
            label=rng.choice(len(CLASSES), n, p=SHARES),
            attribute=rng.integers(0, len(ATTRIBUTES), n),
            score=rng.beta(2, 4, n),
        )

    truth, predictions = draw(TRUE_BOXES), draw(boxes)
    near = min(boxes, TRUE_BOXES)
    first = np.arange(samples)[:, None]
    own, other = (first * boxes + np.arange(near)).ravel(), (first * TRUE_BOXES + np.arange(near)).ravel()
    predictions.center[own] = truth.center[other] + rng.normal(0, 1, (len(own), 3))
    predictions.label[own] = truth.label[other]
    predictions.score[own] = rng.beta(4, 2, len(own))  # better than what is nothing
    return truth, predictions


def no_racks(samples: int) -> tuple[np.ndarray, Racks]:
    return np.zeros((samples, 3)), Racks(
        np.zeros(samples + 1, int), np.zeros((0, 3)), np.zeros((0, 3)), np.ones((0, 4))
    )


def metric_arrays(samples: int = 300, boxes: int = 500, repeats: int = 1) -> list[dict]:
    """Filtering by range and scoring, of boxes that are in memory.

    val_ms: ours on as many samples as the validation split has, 6,019.
    """
    truth, predictions = make_boxes(samples, boxes)

    def devkit() -> float:
        loaded = [_eval_boxes(each, samples) for each in (truth, predictions)]
        start = time.perf_counter()
        official = official_metrics(*(_in_range(each) for each in loaded))
        taken = time.perf_counter() - start
        _require_same(_ours(truth, predictions, samples), official)
        return taken

    _ours(truth, predictions, samples)  # loads what was compiled
    rows = compare("metric_arrays", lambda: _ours(truth, predictions, samples), {"devkit": devkit}, repeats, 0)
    full = make_boxes(6019, boxes)
    start = time.perf_counter()
    _ours(*full, 6019)
    return [row | {"val_ms": 1000 * (time.perf_counter() - start)} for row in rows]


def metric_json(samples: int = 300, boxes: int = 500, repeats: int = 1) -> list[dict]:
    """From a submission file to the metrics."""
    from nuscenes.eval.common.loaders import load_prediction_of_sample_tokens
    from nuscenes.eval.detection.data_classes import DetectionBox

    truth, predictions = make_boxes(samples, boxes)
    tokens = [str(i) for i in range(samples)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        results = {token: _records(predictions, i, boxes, token) for i, token in enumerate(tokens)}
        path.write_text(json.dumps({"meta": {"use_lidar": True}, "results": results}))
        true_boxes = _in_range(_eval_boxes(truth, samples))

        def devkit() -> Metrics:
            loaded, _ = load_prediction_of_sample_tokens(str(path), 500, DetectionBox, tokens)
            for box in loaded.all:
                box.ego_translation = box.translation
            return official_metrics(true_boxes, _in_range(loaded))

        def ours() -> Metrics:
            return _ours(truth, read_submission(path, tokens), samples)

        _require_same(ours(), devkit())
        return compare("metric_json", ours, {"devkit": devkit}, repeats, 0)


def _ours(truth: MetricBoxes, predictions: MetricBoxes, samples: int) -> Metrics:
    where = no_racks(samples)
    return score(truth[counted(truth, *where)], predictions[counted(predictions, *where)])


def _require_same(ours: Metrics, official: Metrics) -> None:
    for a, b in ((ours.ap, official.ap), (ours.errors, official.errors)):
        if not np.allclose(a, b, rtol=0, atol=1e-9, equal_nan=True):
            raise PerceptionError(f"metric: values equal to 1e-9 were expected, found {np.nanmax(np.abs(a - b))} apart")


def _records(boxes: MetricBoxes, sample: int, count: int, token: str) -> list[dict]:
    return [
        {
            "sample_token": token,
            "translation": boxes.center[i].tolist(),
            "size": boxes.size[i, [1, 0, 2]].tolist(),
            "rotation": [float(np.cos(boxes.yaw[i] / 2)), 0.0, 0.0, float(np.sin(boxes.yaw[i] / 2))],
            "velocity": boxes.velocity[i].tolist(),
            "detection_name": CLASSES[boxes.label[i]],
            "detection_score": float(boxes.score[i]),
            "attribute_name": ATTRIBUTES[boxes.attribute[i]],
        }
        for i in range(sample * count, (sample + 1) * count)
    ]


def _eval_boxes(boxes: MetricBoxes, samples: int):
    """As the devkit holds them, once loaded."""
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    count, loaded = len(boxes) // samples, EvalBoxes()
    for sample in range(samples):
        records = _records(boxes, sample, count, str(sample))
        loaded.add_boxes(str(sample), [DetectionBox(ego_translation=r["translation"], **r) for r in records])
    return loaded


def _in_range(loaded):
    """The devkit's filter by distance, which is all of its filters that these boxes need."""
    from nuscenes.eval.common.data_classes import EvalBoxes

    from perception.eval.official import settings

    limits, kept = settings().class_range, EvalBoxes()
    for token in loaded.sample_tokens:
        kept.add_boxes(token, [box for box in loaded[token] if box.ego_dist < limits[box.detection_name]])
    return kept
