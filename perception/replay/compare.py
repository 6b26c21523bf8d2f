"""Two results of the same drive, frame by frame: which boxes were gained and lost, and how far the others moved.

A is the reference, B the candidate. ``matching.py`` defines what a box is and which box of B is the same as one of A;
``tolerance.py`` how much may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception.errors import PerceptionError
from perception.replay.matching import SHIFTS, match, shifts
from perception.replay.result import Key, Place, ReplayedFrame, ResultFile, read_summary
from perception.replay.tolerance import FEW_BOXES, Tolerances
from perception.task import Task

SCORES = ("mAP", "NDS")


class CompareError(PerceptionError):
    """An invalid threshold or distance, or results of different classes."""


@dataclass(frozen=True)
class FrameDifference:
    """Numbers of boxes of one frame; places: where its lines begin in the two files."""

    key: Key
    token: str
    a: int
    b: int
    gained: int
    lost: int
    changed: int
    places: tuple[Place, Place]

    @property
    def total(self) -> int:
        return self.gained + self.lost + self.changed


@dataclass
class ClassCounts:
    """Boxes of one class: b = a + gained - lost + risen - faded + changed_to - changed_from.

    risen, faded: pairs of which only B, or only A, reaches the threshold.  changed_from, changed_to: see Matching.
    """

    a: int = 0
    b: int = 0
    gained: int = 0
    lost: int = 0
    risen: int = 0
    faded: int = 0
    changed_from: int = 0
    changed_to: int = 0


class Spread(NamedTuple):
    """Statistics of absolute values; None where there are none."""

    count: int  # type: ignore[assignment]  # hides tuple.count
    mean: float | None
    p50: float | None
    p90: float | None
    max: float | None

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        values = np.abs(values[~np.isnan(values)]).astype(np.float64)
        if not len(values):
            return cls(0, None, None, None, None)
        return cls(len(values), *map(float, (values.mean(), *np.quantile(values, (0.5, 0.9)), values.max())))


class Latency(NamedTuple):
    """Milliseconds of a stage, over the frames in both results but the first. ratio: of the medians, B over A."""

    a_p50: float
    a_p90: float
    b_p50: float
    b_p90: float
    ratio: float | None


@dataclass
class Comparison:
    """What :func:`compare` found.

    task: of both results.
    identical: whether the digests of all detections are equal, None where a summary has none.
    frames: in both results, in the order of A.  only_a, only_b: keys of the others.
    classes: by name, those that occur.  class_changes: (class in A, class in B) -> count.
    pairs: float32 [P, 5], SHIFTS of every pair, that of the score signed, B less A.
    scores: mAP and NDS of A and B, where both summaries have them.
    track_switches: how often a track of A continues as another track in B; None unless both have tracks.
    metrics: by the name of the tolerance that limits each, None where unknown.
    exceeded: a line for each of the metrics that is beyond tolerance.
    """

    a: Path
    b: Path
    task: Task
    score_threshold: float
    match_distance_m: float
    summaries: tuple[dict, dict]
    identical: bool | None
    only_a: list[Key]
    only_b: list[Key]
    frames: list[FrameDifference]
    classes: dict[str, ClassCounts]
    class_changes: Counter[tuple[str, str]]
    attribute_changes: int
    pairs: np.ndarray
    shifts: dict[str, Spread]
    latency: dict[str, Latency]
    scores: dict[str, tuple[float, float]]
    track_switches: int | None
    metrics: dict[str, float | None] = field(default_factory=dict)
    exceeded: list[str] = field(default_factory=list)

    @property
    def total(self) -> ClassCounts:
        """Summed over all classes."""
        rows = [asdict(counts) for counts in self.classes.values()]
        return ClassCounts(**{name: sum(row[name] for row in rows) for name in asdict(ClassCounts())})

    def worst(self, count: int = 5) -> list[FrameDifference]:
        """The frames with the most boxes gained, lost and changed, if any; the first of equals."""
        return sorted((frame for frame in self.frames if frame.total), key=lambda frame: -frame.total)[:count]

    def as_dict(self) -> dict:
        """For JSON: everything but the single pairs and the frames that do not differ."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "score_threshold": self.score_threshold,
            "match_distance_m": self.match_distance_m,
            "identical": self.identical,
            "frames": len(self.frames),
            "only_a": [key._asdict() for key in self.only_a],
            "only_b": [key._asdict() for key in self.only_b],
            "boxes": asdict(self.total),
            "classes": {name: asdict(counts) for name, counts in self.classes.items()},
            "class_changes": [{"a": a, "b": b, "count": n} for (a, b), n in sorted(self.class_changes.items())],
            "attribute_changes": self.attribute_changes,
            "shifts": {name: spread._asdict() for name, spread in self.shifts.items()},
            "score_drift": _mean(self.pairs[:, SHIFTS.index("score")]),
            "latency_ms": {name: latency._asdict() for name, latency in self.latency.items()},
            "scores": {name: {"a": a, "b": b} for name, (a, b) in self.scores.items()},
            "track_switches": self.track_switches,
            "differing_frames": [
                {"scene": f.key.scene, "timestamp_ns": f.key.timestamp_ns, "token": f.token}
                | {name: getattr(f, name) for name in ("a", "b", "gained", "lost", "changed")}
                for f in self.frames
                if f.total
            ],
            "metrics": self.metrics,
            "exceeded": self.exceeded,
        }


def compare(
    a: str | Path,
    b: str | Path,
    tolerances: Tolerances | None = None,
    *,
    score_threshold: float = 0.3,
    match_distance_m: float = 2.0,
) -> Comparison:
    """Compare the results in folder ``b`` with the reference in folder ``a``.

    Frames of equal scene and time are the same. Memory: 2 kB a frame, 20 bytes a pair.

    Args:
        score_threshold: of what counts as a box.  match_distance_m: the largest distance of a match.

    Raises:
        CompareError: see the class.
        ReplayResultError: a result cannot be read.
    """
    if not 0 < score_threshold <= 1 or not match_distance_m > 0:
        found = f"{score_threshold} and {match_distance_m} m"
        raise CompareError(f"a score threshold in 0..1 and a positive match distance were expected, found {found}")
    files, summaries = (ResultFile(a), ResultFile(b)), (read_summary(a), read_summary(b))
    task, other = files[0].task, files[1].task
    if (task.classes, task.attributes) != (other.classes, other.attributes):
        raise CompareError(f"{b}: the classes and attributes of {a} were expected, found {', '.join(other.classes)}")
    places = _same_scene(files[0].places(), files[1].places())
    accumulator = Accumulator(task, score_threshold, match_distance_m)
    for key, place in places[0].items():
        if key in places[1]:
            both = place, places[1][key]
            accumulator.add(key, both, files[0].read(both[0]), files[1].read(both[1]))
    digests = [summary.get("detections_sha256") for summary in summaries]
    comparison = Comparison(
        a=Path(a),
        b=Path(b),
        task=task,
        score_threshold=score_threshold,
        match_distance_m=match_distance_m,
        summaries=summaries,
        identical=None if None in digests else digests[0] == digests[1],
        only_a=[key for key in places[0] if key not in places[1]],
        only_b=[key for key in places[1] if key not in places[0]],
        scores=dict(_scores(summaries)),
        **accumulator.result(),
    )
    comparison.metrics = metrics(comparison)
    comparison.exceeded = [] if comparison.frames else ["no frame is in both results"]
    comparison.exceeded += (tolerances or Tolerances()).exceeded(comparison.metrics)
    return comparison


def _same_scene(a: dict[Key, Place], b: dict[Key, Place]) -> tuple[dict[Key, Place], dict[Key, Place]]:
    """Two formats of one drive may name the scene differently: where each has a single one, it is the same."""
    scenes = [{key.scene for key in places} for places in (a, b)]
    if all(len(names) == 1 for names in scenes):
        (scene,) = scenes[0]
        b = {key._replace(scene=scene): place for key, place in b.items()}
    return a, b


class Accumulator:
    """Sums over the frames compared so far."""

    def __init__(self, task: Task, score_threshold: float, match_distance_m: float):
        self.task, self.score_threshold, self.match_distance_m = task, score_threshold, match_distance_m
        self.frames: list[FrameDifference] = []
        self.counts = {column.name: np.zeros(len(task.classes), np.int64) for column in fields(ClassCounts)}
        self.class_changes: Counter[tuple[str, str]] = Counter()
        self.attribute_changes = 0
        self.pairs = [np.zeros((0, len(SHIFTS)), np.float32)]
        self.latencies: dict[str, list[tuple[float, float]]] = {}
        self.track_switches: int | None = None
        self._matched_track: dict[tuple[str, int], int] = {}

    def add(self, key: Key, places: tuple[Place, Place], a: ReplayedFrame, b: ReplayedFrame) -> None:
        """One frame of both results."""
        found = match(a.detections, b.detections, self.score_threshold, self.match_distance_m)
        self.pairs.append(shifts(a.detections, b.detections, found.pairs, self.task).astype(np.float32))
        i, j = found.pairs.T
        a_boxes, b_boxes = a.detections.boxes, b.detections.boxes
        attributes = np.asarray(a_boxes.attribute)[i], np.asarray(b_boxes.attribute)[j]
        self.attribute_changes += int(np.count_nonzero(attributes[0] != attributes[1]))
        a_label, a_is_box = a_boxes.label, a.detections.scores >= self.score_threshold
        b_label, b_is_box = b_boxes.label, b.detections.scores >= self.score_threshold
        changed = a_label[found.changed[:, 0]], b_label[found.changed[:, 1]]
        labels = {
            "a": a_label[a_is_box],
            "b": b_label[b_is_box],
            "gained": b_label[found.gained],
            "lost": a_label[found.lost],
            "risen": a_label[i[~a_is_box[i]]],
            "faded": a_label[i[~b_is_box[j]]],
            "changed_from": changed[0],
            "changed_to": changed[1],
        }
        for name, found_labels in labels.items():
            self.counts[name] += np.bincount(found_labels, minlength=len(self.task.classes))
        classes = self.task.classes
        self.class_changes.update((classes[i], classes[j]) for i, j in zip(*changed))
        self._add_latency(a, b)
        self._add_tracks(a, b, found.pairs)
        counts = {name: len(labels[name]) for name in ("a", "b", "gained", "lost")}
        self.frames.append(FrameDifference(key, a.token, **counts, changed=len(changed[0]), places=places))

    def _add_latency(self, a: ReplayedFrame, b: ReplayedFrame) -> None:
        """By stage and over all stages in both; the first frame of a run, a cold start, is left out."""
        if not a.index or not b.index:
            return
        shared = [stage for stage in a.latency_ms if stage in b.latency_ms and stage != "total"]
        for stage in shared:
            self.latencies.setdefault(stage, []).append((a.latency_ms[stage], b.latency_ms[stage]))
        if shared:
            total = [float(sum(frame.latency_ms[stage] for stage in shared)) for frame in (a, b)]
            self.latencies.setdefault("total", []).append((total[0], total[1]))

    def _add_tracks(self, a: ReplayedFrame, b: ReplayedFrame, pairs: np.ndarray) -> None:
        if a.tracks is None or b.tracks is None:
            return
        self.track_switches = self.track_switches or 0
        for ours, theirs in zip(a.tracks[pairs[:, 0]].tolist(), b.tracks[pairs[:, 1]].tolist()):
            if ours >= 0 and theirs >= 0:
                self.track_switches += self._matched_track.get((a.scene, ours), theirs) != theirs
                self._matched_track[a.scene, ours] = theirs

    def result(self) -> dict:
        """Fields of Comparison."""
        pairs = np.concatenate(self.pairs)
        rows = (ClassCounts(*row) for row in zip(*(counts.tolist() for counts in self.counts.values())))
        stages = sorted(self.latencies, key=lambda stage: stage == "total")  # which comes last
        return {
            "frames": self.frames,
            "classes": {name: row for name, row in zip(self.task.classes, rows) if row != ClassCounts()},
            "class_changes": self.class_changes,
            "attribute_changes": self.attribute_changes,
            "pairs": pairs,
            "shifts": {name: Spread.of(pairs[:, i]) for i, name in enumerate(SHIFTS)},
            "latency": {stage: _latency(self.latencies[stage]) for stage in stages},
            "track_switches": self.track_switches,
        }


def _latency(ms: list[tuple[float, float]]) -> Latency:
    (a_p50, a_p90), (b_p50, b_p90) = np.quantile(np.array(ms), (0.5, 0.9), axis=0).T.tolist()
    return Latency(a_p50, a_p90, b_p50, b_p90, b_p50 / a_p50 if a_p50 > 0 else None)


def _scores(summaries: tuple[dict, dict]) -> Iterator[tuple[str, tuple[float, float]]]:
    a, b = (summary.get("metrics") or {} for summary in summaries)
    for name in SCORES:
        if a.get(name) is not None and b.get(name) is not None:
            yield name, (a[name], b[name])


def metrics(comparison: Comparison) -> dict[str, float | None]:
    """What the tolerances limit, by their names."""
    total, spread = comparison.total, comparison.shifts
    many_a = [counts for counts in comparison.classes.values() if counts.a >= FEW_BOXES]
    many_b = [counts for counts in comparison.classes.values() if counts.b >= FEW_BOXES]
    drops = {name: a - b for name, (a, b) in comparison.scores.items()}
    every_frame = comparison.latency.get("total")
    return {
        "unmatched_frames": len(comparison.only_a) + len(comparison.only_b),
        "count_share": abs(total.b - total.a) / max(total.a, 1),
        "lost_share": total.lost / max(total.a, 1),
        "gained_share": total.gained / max(total.b, 1),
        "class_lost_share": max((counts.lost / counts.a for counts in many_a), default=None),
        "class_gained_share": max((counts.gained / counts.b for counts in many_b), default=None),
        "changed_share": total.changed_from / max(total.a, 1),
        "center_p90_m": spread["center_m"].p90,
        "size_p90_m": spread["size_m"].p90,
        "yaw_p90_deg": spread["yaw_deg"].p90,
        "velocity_p90_mps": spread["velocity_mps"].p90,
        "score_p90": spread["score"].p90,
        "attribute_share": comparison.attribute_changes / max(len(comparison.pairs), 1),
        "map_drop": drops.get("mAP"),
        "nds_drop": drops.get("NDS"),
        "latency_ratio": every_frame and every_frame.ratio,
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
