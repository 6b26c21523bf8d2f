"""The nuScenes detection metric of a detector on the frames of any source.

``perception.eval.metric`` does the arithmetic, on arrays, and gives the official values; with ``official=True`` the
devkit's own code does it, from the submission file (``perception.eval.official``).
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from perception.data.nuscenes import NuScenes
from perception.data.nuscenes_constants import VISIBILITY_LEVEL
from perception.data.sources import FrameSource
from perception.eval import official as devkit_metric
from perception.eval.metric import ERRORS, MetricBoxes, Metrics, counted, found, score
from perception.eval.submission import MAX_BOXES, ResultsWriter, WorldDetections, to_submission, to_world
from perception.eval.truth import Annotated, EvaluationError, Truth
from perception.sample import Detections, Frame, sensor_set, sensor_sets
from perception.task import CLASSES, Task
from perception.text import aligned

_SHARED = ("frames", "skipped", "ground_truth")  # what all submissions on the same frames have in common
_DISTANCES_M = ((0, 20), (20, 35), (35, 50))


class AnyDetector(Protocol):
    """What is evaluated: a :class:`perception.Detector`, or anything else that detects."""

    task: Task
    sensors: tuple[str, ...]

    def detect(self, frame: Frame, /) -> Detections: ...


def evaluate(
    detector: AnyDetector, source: FrameSource, sensors: Iterable[str] | None = None, official: bool = False
) -> dict:
    """The metrics of ``detector`` on every frame of ``source`` when it sees only ``sensors``; None: all of its own.

    Args:
        source: whose frames have boxes, with labels of the detector's task.
        official: have the devkit compute the metrics, of a NuScenes; the breakdown is ours either way.

    Returns:
        mAP, NDS, mATE, mASE, mAOE, mAVE, mAAE as the devkit defines them, over all classes of the task; mAP_present,
        the mean AP over the classes that have ground truth; AP of each class; errors of each class, None where the
        metric has none; boxes, how many were submitted; breakdown, see :func:`breakdown`.

    Raises:
        EvaluationError: see the class.
    """
    subset = tuple(detector.sensors if sensors is None else sensors)
    (metrics,) = evaluate_subsets(detector, source, [subset], official=official)["subsets"].values()
    return metrics


def evaluate_subsets(
    detector: AnyDetector,
    source: FrameSource,
    subsets: Sequence[Iterable[str]] | None = None,
    results: str | Path | None = None,
    official: bool = False,
) -> dict:
    """:func:`evaluate` for several sets of sensors, None: every one there is; each frame is read once.

    Args:
        results: a folder that keeps each subset's submission as ``<subset>.json``; None to keep none.

    Returns:
        subsets: the metrics by the name of the set.  frames: how many were scored.
        skipped: how many could not be read, or have no boxes to be scored against.
        frames_with: how many of the frames had each sensor.  ground_truth: how many boxes of each class count.

    Raises:
        EvaluationError: see the class.
        ResultsError: ``results`` cannot be written.
    """
    subsets = sensor_sets(detector.sensors) if subsets is None else [tuple(subset) for subset in subsets]
    names = {sensor_set(subset, detector.sensors): subset for subset in subsets}
    frames_with: Counter = Counter()

    def detect(submissions: dict[str, Submission]) -> None:
        unannotated = 0
        for index in tqdm(range(len(source)), desc="evaluate", unit="frame"):
            frame = source[index]
            if frame is None:
                continue
            if frame.boxes is None:
                unannotated += 1
                continue
            frames_with.update(frame.sensors)
            for name, sensors in names.items():
                seen = frame.only(sensors)
                # A frame that has none of the sensors is not left out: what it holds was missed.
                submissions[name].add(seen, detector.detect(seen) if seen.sensors else None)
        if unannotated and not next(iter(submissions.values())).frames:
            raise EvaluationError(f"no annotated box in {unannotated} frames, nothing to score against")

    scored = score_submissions(source, detector.task, names, detect, results, official)
    first = next(iter(scored.values()))
    return {
        "subsets": {name: {k: v for k, v in metrics.items() if k not in _SHARED} for name, metrics in scored.items()},
        **{key: first[key] for key in ("frames", "skipped")},
        "frames_with": {name: frames_with[name] for name in detector.sensors},
        "ground_truth": first["ground_truth"],
    }


class Submission:
    """The detections of one run over a source's frames.

    Args:
        place: token -> index of the frame in the source.  writer: of the file that keeps it, None to keep none.

    Attributes:
        frames: what the frames added so far say of ground truth.
    """

    def __init__(self, task: Task, place: dict[str, int], writer: ResultsWriter | None):
        self.task, self.place, self.writer = task, place, writer
        self.frames: list[Annotated] = []
        self._parts: list[MetricBoxes] = []

    def add(self, frame: Frame, detections: Detections | None) -> None:
        """None where the detector was not asked, because the frame has nothing that it could see."""
        self.add_world(frame, None if detections is None else to_world(frame, detections, self.task))

    def add_world(self, frame: Frame, world: WorldDetections | None) -> None:
        """:meth:`add` of detections that are in the world frame already."""
        sample = self.place.get(frame.token, -1)
        if sample < 0:
            raise EvaluationError(f"frame {frame.token}: one of the source's tokens was expected")
        if self.writer is not None:
            self.writer.add(frame.token, [] if world is None else to_submission(world))
        self.frames.append(Annotated(frame.token, sample, frame.world_SE3_ego, frame.boxes))
        if world is not None:
            best = world.boxes[:MAX_BOXES]
            self._parts.append(replace(best, sample=np.full(len(best), sample)))

    @property
    def boxes(self) -> MetricBoxes:
        return MetricBoxes.joined(self._parts)


def score_submissions(
    source: FrameSource,
    task: Task,
    names: Mapping[str, Iterable[str]],
    detect: Callable[[dict[str, Submission]], None],
    results: str | Path | None = None,
    official: bool = False,
) -> dict[str, dict]:
    """The metrics of several submissions on the same frames, which ``detect`` makes.

    Args:
        names: name of each submission -> the sensors it says it used.
        detect: called with name -> :class:`Submission`; adds the same frames to all of them.
        results: a folder that keeps each submission as ``<name>.json``; None to keep none.
        official: as in :func:`evaluate`.

    Returns:
        name -> what :func:`evaluate` returns and, the same for all, frames, skipped and ground_truth.

    Raises:
        EvaluationError: see the class.
        ResultsError: ``results`` cannot be written.
    """
    tables = source if isinstance(source, NuScenes) else None
    if tables is not None and not tables.task.labels_alike(task):
        found_classes = ", ".join(tables.task.classes)
        raise EvaluationError(
            f"frames with the classes {', '.join(task.classes)}, of the same sources and attributes, were expected, "
            f"found {found_classes}"
        )
    if official and (tables is None or task.classes != CLASSES):
        raise EvaluationError("the devkit scores the ten nuScenes classes on a folder in the nuScenes layout only")
    truth = None if tables is None else Truth.of_tables(tables, task)  # before the frames: what is wrong shows at once
    devkit = devkit_metric.open_devkit(tables) if official else None
    place = {token: i for i, token in enumerate(source.tokens)}
    if len(place) != len(source):
        raise EvaluationError(f"a token of its own was expected of each of {len(source)} frames, found {len(place)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = results or (scratch if official else None)
        with ExitStack() as stack:
            submissions, paths = {}, {}
            for name, sensors in names.items():
                writer = None
                if folder is not None:
                    paths[name] = Path(folder) / f"{name.replace('/', '_')}.json"
                    writer = stack.enter_context(ResultsWriter(paths[name], sensors))
                submissions[name] = Submission(task, place, writer)
            detect(submissions)
        frames = next(iter(submissions.values())).frames
        if not frames:
            where = "" if tables is None else f"{Path(tables.root) / tables.version}: "
            raise EvaluationError(f"{where}none of the {len(source)} frames could be read")
        samples = np.array([frame.sample for frame in frames])
        truth = Truth.of_frames(task, frames) if truth is None else truth.of_samples(samples)
        counts = np.bincount(truth.boxes.label, minlength=len(task.classes)).tolist()
        shared = {
            "frames": len(frames),
            "skipped": len(source) - len(frames),
            "ground_truth": dict(zip(task.classes, counts)),
        }
        tokens = [source.tokens[sample] for sample in samples]
        scored, of_devkit = {}, devkit_metric.ground_truth(devkit, tokens) if official else None
        for name, submission in submissions.items():
            metrics = devkit_metric.score_file(devkit, of_devkit, paths[name]) if official else None
            scored[name] = score_boxes(truth, submission.boxes, metrics) | shared
        return scored


def score_boxes(truth: Truth, boxes: MetricBoxes, metrics: Metrics | None = None) -> dict:
    """What :func:`evaluate` returns, of submitted boxes; ``metrics`` are computed unless given."""
    classes = truth.task.classes
    predictions = boxes[counted(boxes, truth.ego_positions, truth.racks, truth.task)]
    metrics = score(truth.boxes, predictions, truth.task) if metrics is None else metrics
    ap = dict(zip(classes, metrics.ap.mean(axis=1).tolist()))
    present = [name for label, name in enumerate(classes) if (truth.boxes.label == label).any()]
    return {
        "mAP": metrics.mean_ap,
        "NDS": metrics.nds,
        **{f"m{name}": _or_none(value) for name, value in zip(ERRORS, metrics.mean_errors.tolist())},
        "mAP_present": sum(ap[name] for name in present) / len(present) if present else None,
        "AP": ap,
        "errors": {
            name: {key: _or_none(value) for key, value in zip(ERRORS, row)}
            for name, row in zip(classes, metrics.errors.tolist())
        },
        "boxes": len(boxes),
        "breakdown": breakdown(truth, predictions),
    }


def score_file(path: str | Path, dataset: NuScenes) -> dict:
    """What :func:`evaluate` returns, of a submission on disk for exactly the frames of ``dataset``.

    Raises:
        EvaluationError: see the class.
        DataError: the file is no submission, or one of other samples.
    """
    from perception.eval.submission_reader import read_submission

    return score_boxes(Truth.of_tables(dataset, dataset.task), read_submission(path, dataset.tokens, dataset.task))


def breakdown(truth: Truth, predictions: MetricBoxes) -> dict:
    """Where detections are good and where they are not; None where there is no ground truth.

    distance: mAP of the classes present among what is that far from the vehicle, predictions and ground truth
        alike; of a pair on either side of a border both count as wrong.
    visibility, seen_by: the share of ground truth that some prediction matches, whatever its score. Nobody can
        say how visible a box is that is not there, so precision has no meaning. seen_by: whose points are on it.
    """
    hit = found(truth.boxes, predictions, truth.task)
    lidar, radar = truth.lidar > 0, truth.radar > 0
    seen_by = {"lidar and radar": lidar & radar, "lidar only": lidar & ~radar, "radar only": radar & ~lidar}
    return {
        "distance": {f"{a}-{b} m": _present_ap(truth, predictions, a, b) for a, b in _DISTANCES_M},
        "visibility": {name: _share(hit, truth.visibility == level) for name, level in VISIBILITY_LEVEL.items()},
        "seen_by": {name: _share(hit, mask) for name, mask in seen_by.items()},
    }


def _present_ap(truth: Truth, predictions: MetricBoxes, near_m: float, far_m: float) -> float | None:
    def between(boxes: MetricBoxes) -> MetricBoxes:
        away = np.linalg.norm(boxes.center[:, :2] - truth.ego_positions[boxes.sample, :2], axis=1)
        return boxes[(away >= near_m) & (away < far_m)]

    own = between(truth.boxes)
    ap = score(own, between(predictions), truth.task).ap.mean(axis=1)[np.unique(own.label)]
    return float(ap.mean()) if len(ap) else None


def _share(hit: np.ndarray, mask: np.ndarray) -> float | None:
    return float(hit[mask].mean()) if mask.any() else None


def table(report: dict) -> str:
    """The metrics of :func:`evaluate_subsets` for reading: a line a subset."""
    columns = ("mAP", "mAP_present", "NDS", *(f"m{name}" for name in ERRORS))
    rows = [(name, *(f"{_or_nan(row[column]):.4f}" for column in columns)) for name, row in report["subsets"].items()]
    sensors = ", ".join(f"{count} with {name}" for name, count in report["frames_with"].items())
    frames = f"{report['frames']} frames{f' ({sensors})' * bool(sensors)}, {report['skipped']} skipped"
    return f"{aligned([('', *columns), *rows])}\n{frames}"


def breakdown_table(report: dict) -> str:
    """The breakdown of the first set of sensors: mAP by distance, found by visibility and by sensor."""
    name, metrics = next(iter(report["subsets"].items()))
    titles = {"distance": "mAP at", "visibility": "found of visibility", "seen_by": "found of those seen by"}
    lines = [f"{name}:"]
    for key, title in titles.items():
        parts = [f"{part} {_or_nan(value):.3f}" for part, value in metrics["breakdown"][key].items()]
        lines.append(f"  {title:<23} {', '.join(parts)}")
    return "\n".join(lines)


def _or_none(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else float(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
