"""The nuScenes detection metric of a detector on whatever frames a dataset holds.

``perception.eval.metric`` does the arithmetic, on arrays, and gives the official figures; with ``official=True`` the
devkit's own code does it, from the submission file (``perception.eval.official``).
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from perception.data.nuscenes_annotations import Annotations
from perception.data.nuscenes_constants import VISIBILITY_LEVEL
from perception.errors import PerceptionError
from perception.eval import official as devkit_metric
from perception.eval.metric import ERRORS, Figures, MetricBoxes, Racks, counted, found, score
from perception.eval.submission import ResultsWriter, to_submission, to_world
from perception.sample import CLASSES, SENSORS, Detections, Frame

ALL_SUBSETS = [subset for n in (3, 2, 1) for subset in combinations(SENSORS, n)]
_SHARED = ("frames", "skipped", "ground_truth")  # figures that all submissions on the same frames have in common
_DISTANCES_M = ((0, 20), (20, 35), (35, 50))


class EvaluationError(PerceptionError):
    """What cannot be scored, such as frames without ground truth."""


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


def evaluate(detector, dataset, sensors: Iterable[str] = SENSORS, official: bool = False) -> dict:
    """The figures of ``detector`` on every frame of ``dataset`` when it sees only ``sensors``.

    Args:
        detector: anything with ``detect(frame) -> Detections``.
        dataset: a :class:`perception.NuScenes`, real or simulated.
        official: have the devkit compute the figures; the breakdown is ours either way.

    Returns:
        mAP, NDS, mATE, mASE, mAOE, mAVE, mAAE as the devkit defines them, over all ten classes; mAP_present, the mean
        AP over the classes that have ground truth; AP of each class; errors of each class, None where the metric has
        none; boxes, how many were submitted; breakdown, see :func:`breakdown`.

    Raises:
        EvaluationError: see the class.
    """
    sensors = tuple(sensors)
    return evaluate_subsets(detector, dataset, [sensors], official=official)["subsets"][subset_name(sensors)]


def evaluate_subsets(
    detector,
    dataset,
    subsets: Sequence[Iterable[str]] = ALL_SUBSETS,
    results: str | Path | None = None,
    official: bool = False,
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

    def detect(submissions: dict[str, Submission]) -> None:
        for index in tqdm(range(len(dataset)), desc="evaluate", unit="frame"):
            frame = dataset[index]
            if frame is None:
                continue
            frames_with.update(frame.sensors)
            for name, sensors in names.items():
                seen = frame.only(sensors)
                # A frame that has none of the sensors is not left out: what it holds was missed.
                submissions[name].add(seen, detector.detect(seen) if seen.sensors else None)

    figures = score_submissions(dataset, names, detect, results, official)
    first = next(iter(figures.values()))
    return {
        "subsets": {name: {k: v for k, v in scores.items() if k not in _SHARED} for name, scores in figures.items()},
        **{key: first[key] for key in ("frames", "skipped")},
        "frames_with": {name: frames_with[name] for name in SENSORS},
        "ground_truth": first["ground_truth"],
    }


class Submission:
    """The detections of one run over a dataset's frames.

    Args:
        place: token -> index of the frame in the dataset.  writer: of the file that keeps it, None to keep none.
    """

    def __init__(self, place: dict[str, int], writer: ResultsWriter | None):
        self.place, self.writer, self.tokens, self._parts = place, writer, [], []

    def add(self, frame: Frame, detections: Detections | None) -> None:
        """None where the detector was not asked, because the frame has nothing that it could see."""
        if self.writer is not None:
            self.writer.add(frame.token, to_submission(frame, detections) if detections is not None else [])
        self.tokens.append(frame.token)
        if detections is not None:
            self._parts.append(to_world(frame, detections, self.place[frame.token])[0])

    @property
    def boxes(self) -> MetricBoxes:
        return MetricBoxes.joined(self._parts)


@dataclass(frozen=True, eq=False)
class Truth:
    """What detections on a dataset are scored against.

    boxes: the annotations that count: in range of their class, hit by a LiDAR or radar point, in no bicycle rack.
    visibility, lidar, radar: int64 [G], level and points of each.  ego_positions: [S, 3].  racks: of bicycles.
    """

    boxes: MetricBoxes
    visibility: np.ndarray
    lidar: np.ndarray
    radar: np.ndarray
    ego_positions: np.ndarray
    racks: Racks

    @classmethod
    def of(cls, dataset) -> Truth:
        """Raises EvaluationError where there is none."""
        where, annotations = Path(dataset.root) / dataset.version, dataset.annotations
        if annotations is None or not len(annotations.label):
            raise EvaluationError(f"{where}: no annotated box in {len(dataset)} frames, nothing to score against")
        for i in np.flatnonzero(np.isnan(dataset.ego_positions).any(axis=1))[:1]:  # range is measured from that pose
            raise EvaluationError(f"{where}: every sample must have a row for LIDAR_TOP, {dataset.tokens[i]} has none")
        racks = Racks(
            annotations.rack_offsets, annotations.rack_center, annotations.rack_size, annotations.rack_rotation
        )
        boxes = _as_boxes(annotations)
        kept = counted(boxes, dataset.ego_positions, racks)
        kept &= annotations.num_lidar_points + annotations.num_radar_points != 0
        columns = (annotations.visibility, annotations.num_lidar_points, annotations.num_radar_points)
        return cls(boxes[kept], *(column[kept] for column in columns), dataset.ego_positions, racks)

    def of_samples(self, samples: np.ndarray) -> Truth:
        """Of some samples only."""
        kept = np.isin(self.boxes.sample, samples)
        columns = (self.visibility[kept], self.lidar[kept], self.radar[kept])
        return Truth(self.boxes[kept], *columns, self.ego_positions, self.racks)


def _as_boxes(annotations: Annotations) -> MetricBoxes:
    return MetricBoxes(
        sample=np.repeat(np.arange(len(annotations.box_offsets) - 1), np.diff(annotations.box_offsets)),
        center=annotations.center,
        size=annotations.size,
        yaw=np.arctan2(annotations.forward[:, 1], annotations.forward[:, 0]),
        velocity=annotations.velocity[:, :2],
        label=annotations.label,
        attribute=annotations.attribute,
        score=np.full(len(annotations.label), -1.0),
    )


def score_submissions(
    dataset,
    names: dict[str, Iterable[str]],
    detect: Callable,
    results: str | Path | None = None,
    official: bool = False,
) -> dict[str, dict]:
    """The figures of several submissions on the same frames, which ``detect`` makes.

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
    truth = Truth.of(dataset)  # before the frames: what is wrong with it shows at once
    devkit = devkit_metric.open_devkit(dataset) if official else None
    place = {token: i for i, token in enumerate(dataset.tokens)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = results or (scratch if official else None)
        with ExitStack() as stack:
            submissions, paths = {}, {}
            for name, sensors in names.items():
                writer = None
                if folder is not None:
                    paths[name] = Path(folder) / f"{name.replace('/', '_')}.json"
                    writer = stack.enter_context(ResultsWriter(paths[name], sensors))
                submissions[name] = Submission(place, writer)
            detect(submissions)
        tokens = next(iter(submissions.values())).tokens
        if not tokens:
            where = Path(dataset.root) / dataset.version
            raise EvaluationError(f"{where}: none of the {len(dataset)} frames could be read")
        truth = truth.of_samples(np.array([place[token] for token in tokens]))
        shared = {
            "frames": len(tokens),
            "skipped": len(dataset) - len(tokens),
            "ground_truth": dict(zip(CLASSES, np.bincount(truth.boxes.label, minlength=len(CLASSES)).tolist())),
        }
        scored, of_devkit = {}, devkit_metric.ground_truth(devkit, tokens) if official else None
        for name, submission in submissions.items():
            figures = devkit_metric.score_file(devkit, of_devkit, paths[name]) if official else None
            scored[name] = score_boxes(truth, submission.boxes, figures) | shared
        return scored


def score_boxes(truth: Truth, boxes: MetricBoxes, figures: Figures | None = None) -> dict:
    """What :func:`evaluate` returns, of submitted boxes; ``figures`` are computed unless given."""
    predictions = boxes[counted(boxes, truth.ego_positions, truth.racks)]
    figures = score(truth.boxes, predictions) if figures is None else figures
    ap = dict(zip(CLASSES, figures.ap.mean(axis=1).tolist()))
    present = [name for label, name in enumerate(CLASSES) if (truth.boxes.label == label).any()]
    return {
        "mAP": figures.mean_ap,
        "NDS": figures.nds,
        **{f"m{name}": value for name, value in zip(ERRORS, figures.mean_errors.tolist())},
        "mAP_present": sum(ap[name] for name in present) / len(present) if present else None,
        "AP": ap,
        "errors": {
            name: {key: _or_none(value) for key, value in zip(ERRORS, row)}
            for name, row in zip(CLASSES, figures.errors.tolist())
        },
        "boxes": len(boxes),
        "breakdown": breakdown(truth, predictions),
    }


def score_file(path: str | Path, dataset) -> dict:
    """What :func:`evaluate` returns, of a submission on disk for exactly the frames of ``dataset``.

    Raises:
        EvaluationError: see the class.
        DataError: the file is no submission, or one of other samples.
    """
    from perception.eval.submission_reader import read_submission

    return score_boxes(Truth.of(dataset), read_submission(path, dataset.tokens))


def breakdown(truth: Truth, predictions: MetricBoxes) -> dict:
    """Where detections are good and where they are not; None where there is no ground truth.

    distance: mAP of the classes present among what is that far from the vehicle, predictions and ground truth
        alike; of a pair on either side of a border both count as wrong.
    visibility, seen_by: the share of ground truth that some prediction matches at 2 m, whatever its score. Nobody can
        say how visible a box is that is not there, so precision has no meaning. seen_by: whose points are on it.
    """
    hit = found(truth.boxes, predictions)
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
    ap = score(own, between(predictions)).ap.mean(axis=1)[np.unique(own.label)]
    return float(ap.mean()) if len(ap) else None


def _share(hit: np.ndarray, mask: np.ndarray) -> float | None:
    return float(hit[mask].mean()) if mask.any() else None


def table(report: dict) -> str:
    """The figures of :func:`evaluate_subsets` for reading: a line a subset."""
    columns = ("mAP", "mAP_present", "NDS", *(f"m{name}" for name in ERRORS))
    width = max(len(name) for name in report["subsets"])
    lines = [" ".join([" " * width, *(f"{column:>11}" for column in columns)])]
    for name, figures in report["subsets"].items():
        lines.append(" ".join([f"{name:<{width}}", *(f"{_or_nan(figures[column]):11.4f}" for column in columns)]))
    sensors = ", ".join(f"{count} with {name}" for name, count in report["frames_with"].items())
    lines.append(f"{report['frames']} frames{f' ({sensors})' * bool(sensors)}, {report['skipped']} skipped")
    return "\n".join(lines)


def breakdown_table(report: dict) -> str:
    """The breakdown of the first set of sensors: mAP by distance, found within 2 m by visibility and by sensor."""
    name, figures = next(iter(report["subsets"].items()))
    titles = {"distance": "mAP at", "visibility": "found of visibility", "seen_by": "found of those seen by"}
    lines = [f"{name}:"]
    for key, title in titles.items():
        parts = [f"{part} {_or_nan(value):.3f}" for part, value in figures["breakdown"][key].items()]
        lines.append(f"  {title:<23} {', '.join(parts)}")
    return "\n".join(lines)


def _or_none(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if math.isnan(value) else float(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
