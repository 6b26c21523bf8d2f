"""The official nuScenes detection metric, computed by the devkit's own code, on whatever frames a dataset holds.

The devkit scores one of its official splits, whole, or nothing. Only that part, the constructor of ``DetectionEval``,
is replaced here, by the devkit's own loaders applied to the frames at hand: a single scene, a simulated drive or a
folder with unreadable files is scored by the very code that scores a submission, and an official split gets exactly
the official figures (a test compares them).
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from perception.data.nuscenes_results import ResultsWriter, to_submission
from perception.errors import PerceptionError
from perception.sample import CLASSES, SENSORS

ALL_SUBSETS = [subset for n in (3, 2, 1) for subset in combinations(SENSORS, n)]
_SHARED = ("frames", "skipped", "ground_truth")  # figures that all submissions on the same frames have in common
_ERRORS = {"mATE": "trans_err", "mASE": "scale_err", "mAOE": "orient_err", "mAVE": "vel_err", "mAAE": "attr_err"}


class EvaluationError(PerceptionError):
    """What cannot be scored: no ground truth, tables the devkit cannot read, or no devkit."""


def subset_name(sensors: Iterable[str]) -> str:
    """``camera+radar+lidar``: the sensors joined in the order of SENSORS.

    Raises:
        EvaluationError: none, or one that is not a sensor.
    """
    sensors = set(sensors)
    if not sensors or not sensors <= set(SENSORS):
        raise EvaluationError(
            f"sensors: some of {', '.join(SENSORS)} were expected, found '{', '.join(sorted(sensors))}'"
        )
    return "+".join(name for name in SENSORS if name in sensors)


def evaluate(detector, dataset, sensors: Iterable[str] = SENSORS) -> dict:
    """The figures of ``detector`` on every frame of ``dataset`` when it sees only ``sensors``.

    Args:
        detector: anything with ``detect(frame) -> Detections``.
        dataset: a :class:`perception.NuScenes`, real or simulated.

    Returns:
        mAP, NDS, mATE, mASE, mAOE, mAVE, mAAE as the devkit defines them, over all ten classes; mAP_present, the mean
        AP over the classes that have ground truth; AP of each class; errors of each class, None where the metric has
        none; boxes, how many were submitted.

    Raises:
        EvaluationError: see the class.
    """
    sensors = tuple(sensors)
    return evaluate_subsets(detector, dataset, [sensors])["subsets"][subset_name(sensors)]


def evaluate_subsets(
    detector, dataset, subsets: Sequence[Iterable[str]] = ALL_SUBSETS, results: str | Path | None = None
) -> dict:
    """:func:`evaluate` for several sets of sensors; each frame is read once.

    Args:
        results: a folder that keeps each subset's submission as ``<subset>.json``; None to keep none.

    Returns:
        subsets: the figures by subset name.  frames: how many were scored.  skipped: how many could not be read.
        frames_with: how many of the frames had each sensor.  ground_truth: how many boxes of each class count.

    Raises:
        EvaluationError: see the class.
        ResultsError: ``results`` cannot be written.
    """
    names = {subset_name(subset): set(subset) for subset in subsets}
    frames_with: Counter = Counter()

    def detect(writers: dict[str, ResultsWriter]) -> None:
        for index in tqdm(range(len(dataset)), desc="evaluate", unit="frame"):
            frame = dataset[index]
            if frame is None:
                continue
            frames_with.update(frame.sensors)
            for name, sensors in names.items():
                seen = frame.only(sensors)
                # A frame that has none of the sensors is not left out: what it holds was missed.
                writers[name].add(frame.token, to_submission(seen, detector.detect(seen)) if seen.sensors else [])

    figures = score_submissions(dataset, names, detect, results)
    first = next(iter(figures.values()))
    return {
        "subsets": {name: {k: v for k, v in scores.items() if k not in _SHARED} for name, scores in figures.items()},
        **{key: first[key] for key in ("frames", "skipped")},
        "frames_with": {name: frames_with[name] for name in SENSORS},
        "ground_truth": first["ground_truth"],
    }


def score_submissions(
    dataset, names: dict[str, Iterable[str]], detect: Callable, results: str | Path | None = None
) -> dict[str, dict]:
    """The figures of several submissions on the same frames, which ``detect`` writes.

    Args:
        names: name of each submission -> the sensors it says it used.
        detect: called with name -> open ResultsWriter; adds the same frames to all of them.
        results: a folder that keeps each submission as ``<name>.json``; None to keep none.

    Returns:
        name -> what :func:`evaluate` returns and, the same for all, frames, skipped and ground_truth.

    Raises:
        EvaluationError: see the class.
        ResultsError: ``results`` cannot be written.
    """
    devkit = _open_devkit(dataset)
    ground_truth = _ground_truth(devkit, dataset.tokens)  # before the frames: what is wrong with it shows at once
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(results or scratch) / f"{name.replace('/', '_')}.json" for name in names}
        with ExitStack() as stack:
            writers = {n: stack.enter_context(ResultsWriter(paths[n], sensors)) for n, sensors in names.items()}
            detect(writers)
            tokens = next(iter(writers.values())).tokens
        if not tokens:
            raise EvaluationError(f"{devkit.table_root}: none of the {len(dataset)} frames could be read")
        for token in set(dataset.tokens) - set(tokens):
            del ground_truth.boxes[token]
        counts = Counter(box.detection_name for box in ground_truth.all)
        shared = {
            "frames": len(tokens),
            "skipped": len(dataset) - len(tokens),
            "ground_truth": {name: counts[name] for name in CLASSES},
        }
        return {
            name: _score(devkit, ground_truth, path) | shared
            for name, path in tqdm(paths.items(), desc="score", unit="submission")
        }


def table(report: dict) -> str:
    """The figures of :func:`evaluate_subsets` for reading: a line a subset."""
    columns = ("mAP", "mAP_present", "NDS", *_ERRORS)
    width = max(len(name) for name in report["subsets"])
    lines = [" ".join([" " * width, *(f"{column:>11}" for column in columns)])]
    for name, figures in report["subsets"].items():
        lines.append(" ".join([f"{name:<{width}}", *(f"{_or_nan(figures[column]):11.4f}" for column in columns)]))
    sensors = ", ".join(f"{count} with {name}" for name, count in report["frames_with"].items())
    lines.append(f"{report['frames']} frames ({sensors}), {report['skipped']} skipped")
    return "\n".join(lines)


def _open_devkit(dataset):
    """The devkit's view of the dataset's tables."""
    try:
        from nuscenes import NuScenes
    except ImportError:
        raise EvaluationError("the official metric needs the devkit: pip install 'perception[nuscenes]'") from None
    try:
        return NuScenes(version=dataset.version, dataroot=str(dataset.root), verbose=False)
    except (AssertionError, OSError, LookupError, ValueError) as error:  # its ways of saying that the data is not whole
        raise EvaluationError(f"{Path(dataset.root) / dataset.version}: the devkit cannot read it: {error}") from None


def _ground_truth(devkit, tokens: list[str]):
    """The annotations that count: in range of their class, hit by a LiDAR or radar point, in no bicycle rack."""
    from nuscenes.eval.common.loaders import load_gt_of_sample_tokens
    from nuscenes.eval.detection.data_classes import DetectionBox

    boxes = load_gt_of_sample_tokens(devkit, tokens, DetectionBox)
    if not boxes.all:
        raise EvaluationError(
            f"{devkit.table_root}: no annotated box in {len(tokens)} frames, nothing to score against"
        )
    return _filtered(devkit, boxes)


def _filtered(devkit, boxes):
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes

    if not boxes.all:  # of which the devkit's filter cannot tell the type
        return boxes
    try:
        boxes = add_center_dist(devkit, boxes)
    except KeyError as error:  # the devkit measures range from the pose of LIDAR_TOP
        raise EvaluationError(f"{devkit.table_root}: every sample must have a row for {error}, one has none") from None
    return filter_eval_boxes(devkit, boxes, _official().class_range)


def class_ranges() -> dict[str, float]:
    """Metres from the vehicle up to which each class counts."""
    return _official().class_range


def _official():
    """The settings of the benchmark, by which all published figures are made."""
    from nuscenes.eval.common.config import config_factory

    return config_factory("detection_cvpr_2019")


def _score(devkit, ground_truth, path: Path) -> dict:
    """The figures of one submission against filtered ground truth."""
    from nuscenes.eval.common.loaders import load_prediction_of_sample_tokens
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval

    class LoadedEval(DetectionEval):
        """DetectionEval on boxes that are already here; everything but its constructor is inherited."""

        def __init__(self, config, gt_boxes, pred_boxes):
            self.cfg, self.verbose, self.gt_boxes, self.pred_boxes = config, False, gt_boxes, pred_boxes

    config, tokens = _official(), ground_truth.sample_tokens
    predicted, _ = load_prediction_of_sample_tokens(str(path), config.max_boxes_per_sample, DetectionBox, tokens)
    submitted = len(predicted.all)
    metrics, _ = LoadedEval(config, ground_truth, _filtered(devkit, predicted)).evaluate()

    there = {box.detection_name for box in ground_truth.all}
    present = [name for name in CLASSES if name in there]
    ap = {name: float(metrics.mean_dist_aps[name]) for name in CLASSES}
    return {
        "mAP": metrics.mean_ap,
        "NDS": metrics.nd_score,
        **{name: metrics.tp_errors[key] for name, key in _ERRORS.items()},
        "mAP_present": sum(ap[name] for name in present) / len(present) if present else None,
        "AP": ap,
        "errors": {
            name: {m[1:]: _or_none(metrics.get_label_tp(name, key)) for m, key in _ERRORS.items()} for name in CLASSES
        },
        "boxes": submitted,
    }


def _or_none(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else float(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
