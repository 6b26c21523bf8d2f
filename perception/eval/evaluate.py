"""Evaluates a detector on any frame source with the nuScenes detection metric.

``perception.eval.metric`` computes the metric on arrays and reproduces the official values; with ``official=True`` the
devkit computes it from the submission file (``perception.eval.official``).
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from perception.data.loader import Loader, Whole
from perception.data.nuscenes import NuScenes
from perception.data.nuscenes_constants import VISIBILITY_LEVEL
from perception.data.sources import FrameSource
from perception.eval import official as devkit_metric
from perception.eval.metric import ERRORS, MetricBoxes, Metrics, counted, found, score
from perception.eval.overlap import OverlapMatches, average_precision_3d, match_overlaps
from perception.eval.submission import MAX_BOXES, ResultsWriter, WorldDetections, to_submission, to_world
from perception.eval.truth import Annotated, EvaluationError, Truth
from perception.processes import of_all_processes, place
from perception.sample import Detections, Frame, sensor_set, sensor_sets
from perception.signals import Interrupts
from perception.task import CLASSES, Task
from perception.text import aligned

_SHARED = ("frames", "skipped", "ground_truth")  # results that do not depend on the submission
_DISTANCES_M = ((0, 20), (20, 35), (35, 50))


class AnyDetector(Protocol):
    """Anything that can be evaluated, such as a :class:`perception.Detector`."""

    task: Task
    sensors: tuple[str, ...]

    def detect(self, frame: Frame, /) -> Detections: ...


def evaluate(
    detector: AnyDetector,
    source: FrameSource,
    sensors: Iterable[str] | None = None,
    official: bool = False,
    workers: int = 0,
) -> dict:
    """Evaluate ``detector`` on every frame of ``source`` with only ``sensors`` as input; None: all its sensors.

    Args:
        source: annotated frames, with labels of the detector's task.
        official: compute the metrics with the devkit; requires a NuScenes. The breakdown never comes from the devkit.
        workers: number of processes that read frames ahead; 0 reads them in this one. The result is the same.

    Returns:
        mAP, NDS, mATE, mASE, mAOE, mAVE, mAAE as the devkit defines them, over all classes of the task; mAP_present,
        the mean AP over the classes with ground truth; AP by class; errors by class, None where undefined; boxes, the
        number submitted; breakdown, see :func:`breakdown`; AP_3D by class, that of KITTI (``perception.eval.overlap``),
        None without ground truth, and mAP_3D, its mean over the others.

    Raises:
        EvaluationError: see the class.
        LoaderError: a worker failed.
    """
    subset = tuple(detector.sensors if sensors is None else sensors)
    found = evaluate_subsets(detector, source, [subset], official=official, workers=workers)
    (metrics,) = found["subsets"].values()
    return metrics


def evaluate_subsets(
    detector: AnyDetector,
    source: FrameSource,
    subsets: Sequence[Iterable[str]] | None = None,
    results: str | Path | None = None,
    official: bool = False,
    workers: int = 0,
) -> dict:
    """:func:`evaluate` for several sets of sensors; None: all sets. Each frame is read once.

    A detector with a memory sees the frames of a scene one after the other, in the order of the source. Processes of
    torchrun share the frames, and each returns the same metrics as one process alone.

    Args:
        results: folder for the submission of each set, ``<subset>.json``; None to discard them.

    Returns:
        subsets: metrics by name of the set.  frames: number of frames scored.
        skipped: number of frames that are unreadable or not annotated.
        frames_with: number of frames with each sensor.  ground_truth: number of boxes counted per class.

    Raises:
        EvaluationError: see the class.
        LoaderError: a worker failed.
        ResultsError: ``results`` cannot be written.
    """
    subsets = sensor_sets(detector.sensors) if subsets is None else [tuple(subset) for subset in subsets]
    names = {sensor_set(subset, detector.sensors): subset for subset in subsets}
    frames_with: Counter = Counter()

    memories: dict[str, Any] = {}  # of the sets of sensors, each of the frame before

    def detect_next(name: str, frame: Frame) -> Detections:
        if not getattr(detector, "remembers", False):
            return detector.detect(frame)
        remembering: Any = detector
        detections, memories[name] = remembering.detect(frame, memories.get(name))
        return detections

    def detect(submissions: dict[str, Submission]) -> None:
        interrupt: KeyboardInterrupt | None = None
        unannotated = 0
        try:
            unannotated = detect_share(submissions)
        except KeyboardInterrupt as error:  # which the others have to know before they wait for this process
            interrupt = error
        if any(of_all_processes(interrupt is not None)):
            raise interrupt or KeyboardInterrupt
        counts = of_all_processes((unannotated, len(next(iter(submissions.values())).frames)))
        if not sum(annotated for _, annotated in counts) and (unannotated := sum(number for number, _ in counts)):
            raise EvaluationError(f"no annotated box in {unannotated} frames, nothing to score against")

    def detect_share(submissions: dict[str, Submission]) -> int:
        """Returns how many frames are not annotated."""
        unannotated = 0
        share = own_share(source, whole_scenes=getattr(detector, "remembers", False))
        bar = tqdm(share, desc="evaluate", unit="frame", disable=place()[0] > 0 or None)
        with Interrupts() as interrupts, closing(Loader(Whole(source), workers)) as loader:
            frames = loader.items(share, stopped=lambda: interrupts.received)
            for index, frame in zip(interrupts.between(bar), frames):
                if frame is None:
                    continue
                if not isinstance(frame, Frame):
                    raise EvaluationError(f"frame {index}: a Frame was expected, found {type(frame).__name__}")
                if frame.boxes is None:
                    unannotated += 1
                    continue
                frames_with.update(frame.sensors)
                for name, sensors in names.items():
                    seen = frame.only(sensors)
                    # A frame with none of these sensors still counts: all its objects are missed.
                    detections = detect_next(name, seen) if seen.sensors else None
                    if seen.sensors and not isinstance(detections, Detections):
                        raise EvaluationError(f"detect: Detections were expected, found {type(detections).__name__}")
                    submissions[name].add(frame, detections)
        return unannotated

    scored = score_submissions(source, detector.task, names, detect, results, official)
    first = next(iter(scored.values()))
    frames_with = sum(of_all_processes(frames_with), Counter())
    return {
        "subsets": {name: {k: v for k, v in metrics.items() if k not in _SHARED} for name, metrics in scored.items()},
        **{key: first[key] for key in ("frames", "skipped")},
        "frames_with": {name: frames_with[name] for name in detector.sensors},
        "ground_truth": first["ground_truth"],
    }


def own_share(source: FrameSource, whole_scenes: bool) -> range:
    """The frames of this process, in the order of processes those of the source; all of them for the only one.

    whole_scenes: by the tables of a NuScenes; of another source the first process takes all.
    """
    rank, processes = place()
    bounds = np.array([len(source) * number // processes for number in range(processes + 1)])
    if whole_scenes:
        starts = [source.indices(scene).start for scene in source.scenes] if isinstance(source, NuScenes) else [0]
        bounds = np.append(starts, len(source))[np.searchsorted(starts, bounds)]
    return range(*bounds[rank : rank + 2].tolist())


class Submission:
    """The detections of one run over a source's frames.

    Args:
        place: token -> index of the frame in the source.  writer: writes the submission file; None for no file.
        kept: whether the file's rows are kept, for another process to write.

    Attributes:
        frames: annotations of the frames added so far.
        overlaps: of those added with :meth:`add`.
    """

    def __init__(self, task: Task, place: dict[str, int], writer: ResultsWriter | None, kept: bool = False):
        self.task, self.place, self.writer, self.kept = task, place, writer, kept
        self.frames: list[Annotated] = []
        self.overlaps: list[OverlapMatches] = []
        self._parts: list[MetricBoxes] = []
        self._rows: list[tuple[str, list[dict]]] = []

    def add(self, frame: Frame, detections: Detections | None) -> None:
        """Add one frame, with all its cameras; ``detections`` is None if it has none of the sensors to be used."""
        self.add_world(frame, None if detections is None else to_world(frame, detections, self.task))
        self.overlaps.append(match_overlaps(frame, detections, self.task))

    def add_world(self, frame: Frame, world: WorldDetections | None) -> None:
        """:meth:`add` for detections already in the world frame."""
        sample = self.place.get(frame.token, -1)
        if sample < 0:
            raise EvaluationError(f"frame {frame.token}: one of the source's tokens was expected")
        if self.writer is not None or self.kept:
            rows = [] if world is None else to_submission(world)
            if self.writer is not None:
                self.writer.add(frame.token, rows)
            else:
                self._rows.append((frame.token, rows))
        self.frames.append(Annotated(frame.token, sample, frame.world_SE3_ego, frame.boxes))
        if world is not None:
            best = world.boxes[:MAX_BOXES]
            self._parts.append(replace(best, sample=np.full(len(best), sample)))

    def gather(self) -> None:
        """Add what the other processes have, in their order."""
        found = of_all_processes((self.frames, self._parts, self.overlaps, self._rows))
        self.frames = [frame for frames, *_ in found for frame in frames]
        self._parts = [part for _, parts, *_ in found for part in parts]
        self.overlaps = [overlap for *_, overlaps, _ in found for overlap in overlaps]
        if self.writer is not None:
            for *_, rows in found:
                for token, boxes in rows:
                    self.writer.add(token, boxes)

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
    """The metrics of several submissions on the same frames, produced by ``detect``.

    Args:
        names: name of each submission -> the sensors it declares as used.
        detect: called with name -> :class:`Submission`; must add the same frames to all of them.
        results: folder for the submissions, ``<name>.json``; None to discard them.
        official: as in :func:`evaluate`.

    Returns:
        name -> the result of :func:`evaluate`, plus frames, skipped and ground_truth, which are the same for all.

    Raises:
        EvaluationError: see the class.
        ResultsError: ``results`` cannot be written.
    """
    if not isinstance(source, FrameSource):
        raise EvaluationError(f"a source of frames, with tokens, was expected, found {type(source).__name__}")
    tables = source if isinstance(source, NuScenes) else None
    if tables is not None and not tables.task.labels_alike(task):
        found_classes = ", ".join(tables.task.classes)
        raise EvaluationError(
            f"frames with the classes {', '.join(task.classes)}, of the same sources and attributes, were expected, "
            f"found {found_classes}"
        )
    if official and (tables is None or task.classes != CLASSES):
        raise EvaluationError("the devkit scores the ten nuScenes classes on a folder in the nuScenes layout only")
    rank, processes = place()
    if official and processes > 1:
        raise EvaluationError(f"the devkit scores in one process, found {processes}")
    truth = None if tables is None else Truth.of_tables(tables, task)  # before detection, to fail early
    devkit = devkit_metric.open_devkit(tables) if official else None
    places = {token: i for i, token in enumerate(source.tokens)}
    if len(places) != len(source):
        raise EvaluationError(f"a token of its own was expected of each of {len(source)} frames, found {len(places)}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = results or (scratch if official else None)
        with ExitStack() as stack:
            submissions, paths = {}, {}
            for name, sensors in names.items():
                writer = None
                if folder is not None and rank == 0:
                    paths[name] = Path(folder) / f"{name.replace('/', '_')}.json"
                    writer = stack.enter_context(ResultsWriter(paths[name], sensors))
                submissions[name] = Submission(task, places, writer, kept=folder is not None and rank > 0)
            detect(submissions)
            for submission in submissions.values():
                submission.gather()
        frames = next(iter(submissions.values())).frames
        if not frames:
            where = "" if tables is None else f"{Path(tables.root) / tables.version}: "
            raise EvaluationError(f"{where}none of the {len(source)} frames could be read")
        samples = np.array([frame.sample for frame in frames])
        truth = Truth.of_frames(task, frames) if truth is None else truth.of_samples(samples)
        if not len(truth.boxes):
            raise EvaluationError(f"none of the annotated boxes is in the {len(frames)} frames that could be read")
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
            scored[name] = score_boxes(truth, submission.boxes, metrics) | _overlap_scores(submission) | shared
        return scored


def _overlap_scores(submission: Submission) -> dict:
    ap = average_precision_3d(submission.overlaps, submission.task)
    present = [value for value in ap.values() if value is not None]
    return {"mAP_3D": sum(present) / len(present) if present else None, "AP_3D": ap}


def score_boxes(truth: Truth, boxes: MetricBoxes, metrics: Metrics | None = None) -> dict:
    """The result of :func:`evaluate` for submitted boxes; ``metrics`` are computed unless given."""
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
    """The result of :func:`evaluate` for a submission file that covers exactly the frames of ``dataset``.

    Raises:
        EvaluationError: see the class; or a frame without a row in sample_data, hence without an ego pose.
        DataError: the file is not a submission, or covers other samples.
    """
    from perception.eval.submission_reader import read_submission

    for i in np.flatnonzero(np.isnan(dataset.ego_positions).any(axis=1))[:1]:  # range is measured from that pose
        where = f"{Path(dataset.root) / dataset.version}: sample {dataset.tokens[i]}"
        raise EvaluationError(f"{where}: a row in sample_data, hence an ego pose, was expected, found none")
    return score_boxes(Truth.of_tables(dataset, dataset.task), read_submission(path, dataset.tokens, dataset.task))


def breakdown(truth: Truth, predictions: MetricBoxes) -> dict:
    """Performance by distance, visibility and sensor; None where there is no ground truth.

    distance: mAP over the classes present, with predictions and ground truth restricted to that range from the
        vehicle; a pair split by a range boundary counts as a false positive and a miss.
    AP: the same by class present.
    visibility, seen_by: recall, the share of ground truth matched by a prediction of any score. Visibility is not
        defined for false positives, so there is no precision. seen_by: the sensors with points on the object.
    """
    hit = found(truth.boxes, predictions, truth.task)
    lidar, radar = truth.lidar > 0, truth.radar > 0
    seen_by = {"lidar and radar": lidar & radar, "lidar only": lidar & ~radar, "radar only": radar & ~lidar}
    ap = {f"{a}-{b} m": _present_ap(truth, predictions, a, b) for a, b in _DISTANCES_M}
    return {
        "distance": {name: sum(own.values()) / len(own) if own else None for name, own in ap.items()},
        "AP": ap,
        "visibility": {name: _share(hit, truth.visibility == level) for name, level in VISIBILITY_LEVEL.items()},
        "seen_by": {name: _share(hit, mask) for name, mask in seen_by.items()},
    }


def _present_ap(truth: Truth, predictions: MetricBoxes, near_m: float, far_m: float) -> dict[str, float]:
    def between(boxes: MetricBoxes) -> MetricBoxes:
        away = np.linalg.norm(boxes.center[:, :2] - truth.ego_positions[boxes.sample, :2], axis=1)
        return boxes[(away >= near_m) & (away < far_m)]

    own = between(truth.boxes)
    ap = score(own, between(predictions), truth.task).ap.mean(axis=1).tolist()
    return {truth.task.classes[label]: ap[label] for label in np.unique(own.label).tolist()}


def _share(hit: np.ndarray, mask: np.ndarray) -> float | None:
    return float(hit[mask].mean()) if mask.any() else None


def table(report: dict) -> str:
    """The metrics of :func:`evaluate_subsets` as a text table, one line per subset."""
    known = next(iter(report["subsets"].values()))  # what comes of a file alone has no mAP_3D
    wanted = ("mAP", "mAP_present", "mAP_3D", "NDS", *(f"m{name}" for name in ERRORS))
    columns = [name for name in wanted if name in known]
    rows = [(name, *(f"{_or_nan(row[column]):.4f}" for column in columns)) for name, row in report["subsets"].items()]
    sensors = ", ".join(f"{count} with {name}" for name, count in report["frames_with"].items())
    frames = f"{report['frames']} frames{f' ({sensors})' * bool(sensors)}, {report['skipped']} skipped"
    return f"{aligned([('', *columns), *rows])}\n{frames}"


def breakdown_table(report: dict) -> str:
    """The breakdown of the first set of sensors as text: mAP by distance, recall by visibility and by sensor."""
    name, metrics = next(iter(report["subsets"].items()))
    titles = {"distance": "mAP at", "visibility": "found of visibility", "seen_by": "found of those seen by"}
    lines = [f"{name}:"]
    for key, title in titles.items():
        parts = [f"{part} {_or_nan(value):.3f}" for part, value in metrics["breakdown"][key].items()]
        lines.append(f"  {title:<23} {', '.join(parts)}")
    return "\n".join(lines)


def _or_none(value: float) -> float | None:
    """NaN as None, since JSON has no NaN."""
    return None if math.isnan(value) else float(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
