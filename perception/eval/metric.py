"""The nuScenes detection metric on arrays: mean average precision, true-positive errors and NDS.

The definition follows Caesar et al., 2020; class-specific settings are in the Task. With the default task, which has
the settings of the benchmark (detection_cvpr_2019), results agree with the devkit to rounding, including ties in scores
and distances.

A prediction matches the nearest ground truth of its class and sample that no better prediction has matched, if the
centre distance in the ground plane is below a threshold. Average precision is the area under the interpolated precision
curve above 10 % recall and 10 % precision, averaged over the four thresholds; errors are means over the matches within
the match radius of the class (2 m).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from perception.task import NUSCENES, Task

THRESHOLDS_M = (0.5, 1.0, 2.0, 4.0)
MIN_RECALL, MIN_PRECISION = 0.1, 0.1
AP_WEIGHT = 5  # weight of mAP in NDS, relative to each of the five errors
ERRORS = ("ATE", "ASE", "AOE", "AVE", "AAE")  # translation, scale, orientation, velocity, attribute
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class MetricBoxes:
    """Boxes of many samples, in the world frame.

    sample: int64 [N].  center: [N, 3].  size: [N, 3], in any consistent order.  yaw: [N].  velocity: [N, 2], NaN if
    unknown.  label: int64 [N] index into task.classes.  attribute: int64 [N], -1 for none.  score: [N], if predicted.
    """

    sample: np.ndarray
    center: np.ndarray
    size: np.ndarray
    yaw: np.ndarray
    velocity: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    score: np.ndarray

    @classmethod
    def joined(cls, parts: list[MetricBoxes]) -> MetricBoxes:
        """Concatenate; an empty list gives no boxes."""
        shapes = {"center": (0, 3), "size": (0, 3), "velocity": (0, 2)}
        whole = ("sample", "label", "attribute")
        nothing = {f.name: np.zeros(shapes.get(f.name, 0), np.int64 if f.name in whole else float) for f in fields(cls)}
        return cls(**{name: np.concatenate([none, *(vars(p)[name] for p in parts)]) for name, none in nothing.items()})

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, index) -> MetricBoxes:
        return MetricBoxes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Racks:
    """Bicycle racks. offsets: int64 [S + 1]; sample i has the racks offsets[i] to offsets[i + 1].

    center: [R, 3].  size: [R, 3] (l, w, h).  rotation: [R, 4] unit quaternions (w, x, y, z).
    """

    offsets: np.ndarray
    center: np.ndarray
    size: np.ndarray
    rotation: np.ndarray


def counted(boxes: MetricBoxes, ego_positions: np.ndarray, racks: Racks, task: Task = NUSCENES) -> np.ndarray:
    """bool [N]: boxes within the range of their class and, for cycle classes, not inside a bicycle rack.

    ego_positions: [S, 3] world position of the vehicle at each sample.
    """
    away = boxes.center[:, :2] - ego_positions[boxes.sample, :2]
    kept = np.sqrt(np.square(away).sum(axis=1)) < task.column("range_m")[boxes.label]
    in_sample = (np.diff(racks.offsets) > 0)[boxes.sample]
    cycles = np.flatnonzero(kept & task.column("ignored_in_racks")[boxes.label] & in_sample)
    cycles = cycles[np.argsort(boxes.sample[cycles], kind="stable")]
    for own in np.split(cycles, np.flatnonzero(np.diff(boxes.sample[cycles])) + 1):
        if len(own):
            kept[own] = ~_in_racks(boxes.center[own], racks, boxes.sample[own[0]])
    return kept


def _in_racks(points: np.ndarray, racks: Racks, sample: int) -> np.ndarray:
    """bool [P]: whether each point [P, 3] lies in a rack of the sample, border included."""
    own = slice(racks.offsets[sample], racks.offsets[sample + 1])
    w, axis = racks.rotation[own, :1], -racks.rotation[own, 1:]  # inverse rotations
    offset = points[:, None] - racks.center[own]
    rotated = offset + 2 * np.cross(axis, np.cross(axis, offset) + w * offset)
    return (np.abs(rotated) <= racks.size[own] / 2).all(axis=2).any(axis=1)


@dataclass(frozen=True, eq=False)
class Metrics:
    """ap: [K, 4] by class and threshold.  errors: [K, 5] by class in the order of ERRORS, NaN where undefined."""

    ap: np.ndarray
    errors: np.ndarray

    @property
    def mean_ap(self) -> float:
        return float(self.ap.mean(axis=1).mean())

    @property
    def mean_errors(self) -> np.ndarray:
        """[5] means over the classes for which the error is defined; NaN if there are none."""
        known = ~np.isnan(self.errors)
        total = np.where(known, self.errors, 0.0).sum(axis=0)
        return np.divide(total, known.sum(axis=0), out=np.full(len(ERRORS), np.nan), where=known.any(axis=0))

    @property
    def nds(self) -> float:
        """nuScenes detection score, over the errors that are defined for at least one class."""
        errors = self.mean_errors[~np.isnan(self.mean_errors)]
        scores = np.maximum(0.0, 1.0 - errors)
        return float((AP_WEIGHT * self.mean_ap + scores.sum()) / (AP_WEIGHT + len(errors)))


def score(truth: MetricBoxes, predictions: MetricBoxes, task: Task = NUSCENES) -> Metrics:
    """The metrics of predictions against ground truth, both already filtered with :func:`counted`.

    Ties in score are resolved by the order of predictions: the later one ranks first, as in the devkit.
    """
    ap, errors = np.zeros((len(task.classes), len(THRESHOLDS_M))), np.ones((len(task.classes), len(ERRORS)))
    for label, facts in enumerate(task.objects):
        actual, own, matches, near = _match(truth, predictions, label, facts.match_radius_m)
        ap[label] = [_average_precision(match >= 0, len(actual)) for match in matches]
        hit = near >= 0
        singles = _single_errors(facts.heading, truth[actual[near[hit]]], predictions[own[hit]])
        errors[label] = _mean_errors(singles, hit, predictions.score[own], len(actual))
        meaningless = {"AOE": facts.heading == "none", "AVE": not facts.moves, "AAE": not facts.attributes}
        for error in (name for name, holds in meaningless.items() if holds):
            errors[label, ERRORS.index(error)] = np.nan
    return Metrics(ap, errors)


def found(truth: MetricBoxes, predictions: MetricBoxes, task: Task = NUSCENES) -> np.ndarray:
    """bool [G]: which ground truth is matched within the radius of its class by a prediction of any score."""
    hit = np.zeros(len(truth), bool)
    for label, facts in enumerate(task.objects):
        actual, _, _, near = _match(truth, predictions, label, facts.match_radius_m)
        hit[actual[near[near >= 0]]] = True
    return hit


def _match(
    truth: MetricBoxes, predictions: MetricBoxes, label: int, radius_m: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Match one class: ground-truth rows [G], prediction rows [P] (best first), and the matches of the predictions.

    Matches are int64 [thresholds, P] at the thresholds and [P] at the radius: indices into [G], -1 for none.
    """
    from perception.eval.metric_kernel import match_nearest  # deferred: triggers compilation

    actual, own = (np.flatnonzero(boxes.label == label) for boxes in (truth, predictions))
    actual = actual[np.argsort(truth.sample[actual], kind="stable")]
    own = own[np.argsort(predictions.score[own], kind="stable")[::-1]]  # the later of equal scores is first
    samples = 1 + max(truth.sample[actual].max(initial=0), predictions.sample[own].max(initial=0))
    offsets = np.searchsorted(truth.sample[actual], np.arange(samples + 1))
    where = (truth.center[actual, :2], predictions.center[own, :2])
    thresholds = list(dict.fromkeys([*THRESHOLDS_M, radius_m]))
    matches = match_nearest(offsets, *where, predictions.sample[own], np.array(thresholds))
    return actual, own, matches[: len(THRESHOLDS_M)], matches[thresholds.index(radius_m)]


def _average_precision(matched: np.ndarray, positives: int) -> float:
    if not matched.any():
        return 0.0
    precision = np.interp(_RECALLS, *_curve(matched, positives), right=0)
    above = np.maximum(precision[round(100 * MIN_RECALL) + 1 :] - MIN_PRECISION, 0)
    return float(np.mean(above)) / (1.0 - MIN_PRECISION)


def _curve(matched: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after the best 1, 2, ... predictions."""
    hits = np.cumsum(matched).astype(float)
    return hits / float(positives), hits / np.arange(1, len(hits) + 1)


def _mean_errors(singles: tuple[np.ndarray, ...], hit: np.ndarray, score: np.ndarray, positives: int) -> np.ndarray:
    """[5] ERRORS of a class: running means over the matches, averaged over the recall levels reached above 10 %.

    singles: the errors of each match, [K] each.  hit, score: [P] by prediction, best first.
    """
    if not hit.any():
        return np.ones(len(ERRORS))
    recall, _ = _curve(hit, positives)
    confidence = np.interp(_RECALLS, recall, score, right=0)
    reached = np.flatnonzero(confidence)
    first, last = round(100 * MIN_RECALL) + 1, reached[-1] if len(reached) else 0
    if last < first:
        return np.ones(len(ERRORS))
    values = []
    for error in singles:
        means = np.interp(confidence[::-1], score[hit][::-1], _running_mean(error)[::-1])[::-1]
        values.append(np.mean(means[first : last + 1]))
    return np.array(values)


def _single_errors(heading: str, actual: MetricBoxes, found: MetricBoxes) -> tuple[np.ndarray, ...]:
    """The errors of each match, [K] each in the order of ERRORS. NaN is ignored."""
    distance = np.sqrt(np.square(found.center[:, :2] - actual.center[:, :2]).sum(axis=1))
    volumes = [boxes.size.prod(axis=1) for boxes in (actual, found)]
    overlap = np.minimum(actual.size, found.size).prod(axis=1)
    period = np.pi if heading == "axis" else 2 * np.pi
    rotation = (actual.yaw - found.yaw + period / 2) % period - period / 2
    speed = np.sqrt(np.square(found.velocity - actual.velocity).sum(axis=1))
    wrong = np.where(actual.attribute < 0, np.nan, (actual.attribute != found.attribute).astype(float))
    return distance, 1 - overlap / (sum(volumes) - overlap), np.abs(rotation), speed, wrong


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Running mean that ignores NaN: 0 before the first number, 1 throughout if there is none."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(known)
    return np.divide(np.nancumsum(values), count, out=np.zeros(len(values)), where=count > 0)
