"""How stable detections are over a drive, without ground truth: compares two models before anything is labelled.

Everything is measured between detections of one track, by a :class:`perception.tracking.Tracker` that is the same for
both models. Stability is not accuracy: what is always wrong in the same way is stable.
"""

from __future__ import annotations

import numpy as np

from perception.sample import Detections, Frame
from perception.task import NUSCENES, Task

SHORT = 3  # detections; a track with fewer is a short one
ENDED_S = 3.0  # a track that is not seen for longer has ended
_SAME_PLACE_M = 1.0
_BINS_PER_MPS, _BINS = 20, 600  # of the histograms of velocity errors, which keep memory bounded; up to 30 m/s

_SEEN = np.dtype(
    [
        ("id", np.int64),
        ("label", np.int64),
        ("time_ns", np.int64),
        ("frame", np.int64),
        ("first_frame", np.int64),
        ("hits", np.int64),
        ("score", np.float64),
        ("position", np.float64, 2),  # world
        ("velocity", np.float64, 2),
        ("direction", np.float64, 2),
        ("size", np.float64, 3),
    ]
)
_SUMS = ("detections", "steps", "frames", "unseen", "tracks", "short", "flips", "jumps", "score", "size")


class Stability:
    """Add the frames of a drive, in order; ask for the summary at any time. Memory does not grow with the drive."""

    def __init__(self, task: Task = NUSCENES):
        self._classes = task.classes
        self._sums = {name: np.zeros(len(self._classes)) for name in _SUMS}
        self._velocity = np.zeros((len(self._classes), _BINS), np.int64)
        self._frames, self._scene, self._time_ns = 0, "", 0
        self._last = np.zeros(0, _SEEN)  # the last detection of each track

    def add(self, frame: Frame, detections: Detections, tracks: np.ndarray) -> None:
        """tracks: int64 [N], the id of each detection, -1 for none; these are left out. A copied frame is, too."""
        fresh = frame.scene != self._scene or frame.timestamp_ns < self._time_ns
        if not fresh and self._frames and frame.timestamp_ns == self._time_ns:
            return
        ended = np.full(len(self._last), fresh) | (frame.timestamp_ns - self._last["time_ns"] > ENDED_S * 1e9)
        self._count_tracks(self._sums, self._last[ended])
        self._last = self._last[~ended]
        now = self._seen(frame, detections, tracks)
        _, before, after = np.intersect1d(self._last["id"], now["id"], assume_unique=True, return_indices=True)
        now["first_frame"][after] = self._last["first_frame"][before]
        now["hits"][after] += self._last["hits"][before]
        self._add("detections", now["label"])
        self._count_steps(self._last[before], now[after])
        unseen, born = np.ones(len(self._last), bool), np.ones(len(now), bool)
        unseen[before], born[after] = False, False
        just_lost = self._last[unseen & (self._last["frame"] == self._frames - 1)]
        self._add("flips", now["label"][born][_replaces(just_lost, now[born])])
        self._last = np.concatenate([self._last[unseen], now])
        self._frames, self._scene, self._time_ns = self._frames + 1, frame.scene, frame.timestamp_ns

    def summary(self) -> dict:
        """The metrics of all classes together and, in ``classes``, of each that was detected.

        detections: that belong to a track.  tracks: that could have been seen in three frames.
        flicker: share of the frames between a track's first and last detection in which it was not detected.
        short: share of the tracks that were detected in fewer than three frames.
        class_flips: share of the detections that start a track where one of another class, not detected any more, was
            expected, within 1 m.
        heading_jumps: share of the steps from one detection of a track to its next that rotate by more than 90 degrees.
        velocity_median_mps, velocity_p90_mps: of the difference between a step's displacement over time and the mean of
            the velocities detected at its ends, in m/s; to 0.05, and 30 for anything above.
        score_change: mean absolute change of the score in a step.
        size_change: mean absolute logarithm of the ratio of length, width and height in a step; 0.01 is one percent.

        None where there is nothing to average.
        """
        sums = {name: values.copy() for name, values in self._sums.items()}
        self._count_tracks(sums, self._last)
        every = np.arange(len(self._classes))
        return {
            "frames": self._frames,
            **_metrics(sums, self._velocity, every),
            "classes": {
                self._classes[label]: _metrics(sums, self._velocity, [label])
                for label in np.flatnonzero(sums["detections"])
            },
        }

    def _seen(self, frame: Frame, detections: Detections, tracks: np.ndarray) -> np.ndarray:
        own = np.flatnonzero(tracks >= 0)
        boxes, rotation = detections.boxes[own], frame.world_SE3_ego.rotation[:2, :2]
        seen = np.zeros(len(own), _SEEN)
        seen["id"], seen["label"], seen["score"], seen["hits"] = tracks[own], boxes.label, detections.scores[own], 1
        seen["time_ns"], seen["frame"], seen["first_frame"] = frame.timestamp_ns, self._frames, self._frames
        seen["position"] = frame.world_SE3_ego.transform(boxes.center)[:, :2]
        seen["velocity"] = boxes.velocity @ rotation.T
        seen["direction"] = np.column_stack([np.cos(boxes.yaw), np.sin(boxes.yaw)]) @ rotation.T
        seen["size"] = boxes.size
        return seen

    def _count_steps(self, before: np.ndarray, after: np.ndarray) -> None:
        label, frames = after["label"], after["frame"] - before["frame"]
        self._add("steps", label)
        self._add("frames", label, frames)
        self._add("unseen", label, frames - 1)
        self._add("jumps", label, (before["direction"] * after["direction"]).sum(axis=1) < 0)
        self._add("score", label, np.abs(after["score"] - before["score"]))
        self._add("size", label, np.abs(np.log(after["size"] / before["size"])).mean(axis=1))
        seconds = (after["time_ns"] - before["time_ns"])[:, None] / 1e9
        moved = (after["position"] - before["position"]) / seconds
        error = np.linalg.norm(moved - (before["velocity"] + after["velocity"]) / 2, axis=1)
        known = np.isfinite(error)
        bins = np.minimum(error[known] * _BINS_PER_MPS, _BINS - 1).astype(np.int64)
        np.add.at(self._velocity, (label[known], bins), 1)

    def _count_tracks(self, sums: dict[str, np.ndarray], tracks: np.ndarray) -> None:
        """Of tracks that ended; one that began just before the end had no time to become longer."""
        tracks = tracks[self._frames - tracks["first_frame"] >= SHORT]
        np.add.at(sums["tracks"], tracks["label"], 1)
        np.add.at(sums["short"], tracks["label"], tracks["hits"] < SHORT)

    def _add(self, name: str, label: np.ndarray, values: np.ndarray | int = 1) -> None:
        np.add.at(self._sums[name], label, values)


def _replaces(lost: np.ndarray, born: np.ndarray) -> np.ndarray:
    """bool [B]: a track of another class that has just been lost was expected where this one begins."""
    if not len(lost) or not len(born):
        return np.zeros(len(born), bool)
    seconds = (born["time_ns"][0] - lost["time_ns"])[:, None] / 1e9
    expected = lost["position"] + seconds * np.nan_to_num(lost["velocity"], nan=0.0)
    near = np.linalg.norm(expected[:, None] - born["position"], axis=2) < _SAME_PLACE_M
    return (near & (lost["label"][:, None] != born["label"])).any(axis=0)


def _metrics(sums: dict[str, np.ndarray], velocity: np.ndarray, labels) -> dict[str, float | int | None]:
    total = {name: float(values[labels].sum()) for name, values in sums.items()}

    def share(part: str, of: str) -> float | None:
        return total[part] / total[of] if total[of] else None

    histogram = velocity[labels].sum(axis=0)
    return {
        "detections": int(total["detections"]),
        "tracks": int(total["tracks"]),
        "flicker": share("unseen", "frames"),
        "short": share("short", "tracks"),
        "class_flips": share("flips", "detections"),
        "heading_jumps": share("jumps", "steps"),
        "velocity_median_mps": _quantile(histogram, 0.5),
        "velocity_p90_mps": _quantile(histogram, 0.9),
        "score_change": share("score", "steps"),
        "size_change": share("size", "steps"),
    }


def _quantile(histogram: np.ndarray, share: float) -> float | None:
    """The upper edge of the bin that contains it."""
    count = histogram.sum()
    return (int(np.searchsorted(np.cumsum(histogram), share * count)) + 1) / _BINS_PER_MPS if count else None
