"""Detections linked into tracks over time: a Kalman filter for each track, one assignment for each class.

    tracker = Tracker()
    for frame in frames:
        ids = tracker.step(frame, detector.detect(frame))   # int64 [N], the track of each detection, -1 for none
        tracks = tracker.tracks(frame)                      # where all tracks are now, the unseen ones included

Online: a step knows the past only. States live in the world frame, so that the vehicle's own motion is no motion of
what it sees. The pieces, and where they come from:

Motion       Constant velocity, disturbed by white acceleration (Bar-Shalom et al., Estimation with Applications to
             Tracking and Navigation, 2001, 6.2.2). Continuous in time: two steps do what one of their length does, so
             that a missing frame or an irregular clock changes nothing. How much a class accelerates and how well it is
             measured is a fact of its class in the task (Chiu et al., Probabilistic 3D Multi-Object Tracking, 2020).
Measurement  Position, and velocity where the detector has one (CenterPoint, Yin et al., 2021). Both axes of the ground
             plane have the same noise, so that one 2 x 2 covariance (position, velocity) serves both.
Association  Within a class, the assignment of least total cost (Hungarian, as AB3DMOT, Weng et al., 2020). The cost of
             a pair is its negative log-likelihood: Mahalanobis distance (Chiu et al.), and the logarithm that keeps a
             track that could be anywhere from winning every detection. Unlike a radius in metres it grows with the
             time that a track was not seen. A pair that is less likely than a miss and a birth is not assigned.
Life         A detection of ``birth_score`` starts a track at once, one of ``min_score`` when the next frame confirms
             it. A track dies when it was not seen for ``max_age_s``.

Height, size and heading are smoothed. A heading that is off by half a turn, a common mistake of detectors, does not
flip the track: which end is the front is decided by a vote of the last few detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from perception.geometry import SE3
from perception.sample import Boxes3D, Detections, Frame
from perception.task import NUSCENES, Task

_GATE = 16.0  # the cost of a miss and a birth: a well-known track misses 0.03 % of its own detections by it
_SMOOTHING_S = 0.3  # time constant of height and heading
_SIZES = 10  # detections over which a size is averaged
_VOTES = 5  # detections that have a say in which end of a box is its front

# What is known about one object. Per axis of the ground plane: variances of position (pp, m^2) and velocity (vv) and
# their covariance (pv). A detection by itself is such a record too, with vv infinite where its velocity is unknown.
_STATE = np.dtype(
    [
        ("id", np.int64),  # -1 until it is confirmed
        ("label", np.int64),
        ("seen_ns", np.int64),
        ("hits", np.int64),
        ("score", np.float64),
        ("position", np.float64, 2),
        ("velocity", np.float64, 2),
        ("pp", np.float64),
        ("pv", np.float64),
        ("vv", np.float64),
        ("z", np.float64),
        ("size", np.float64, 3),
        ("direction", np.float64, 2),  # of the heading
        ("sense", np.float64),  # how surely the heading is not the opposite one: votes weighted by score
    ]
)


class Noise:
    """What the filter expects of each class, [K] each; ``perception.task.ObjectClass`` says what they are."""

    def __init__(self, task: Task):
        self.position_m, self.velocity_mps = task.column("position_sigma_m"), task.column("velocity_sigma_mps")
        self.speed_mps, self.acceleration_density = task.column("prior_speed_mps"), task.column("acceleration_density")


@dataclass(frozen=True, eq=False)
class Tracks:
    """All confirmed tracks at one time, those included that are not seen at the moment.

    boxes: smoothed, in the ego frame.  scores: [N] of the last detection.  ids: int64 [N], rising.
    unseen_s: [N] seconds since the last detection, 0 for those seen in this frame.
    """

    boxes: Boxes3D
    scores: np.ndarray
    ids: np.ndarray
    unseen_s: np.ndarray


class Tracker:
    """See the module docstring. Ids are unique over the life of the tracker, and rise.

    A frame of another scene, or of an earlier time, starts anew. A frame with the time of the last one is taken for
    its copy: it gets the ids and changes nothing.

    Args:
        task: whose classes the detections are of.
        min_score: detections below belong to no track.
        birth_score: a detection from here on starts a track by itself; below, it takes two in a row.
        max_age_s: seconds that a track lives without being seen.
    """

    def __init__(self, task: Task = NUSCENES, min_score: float = 0.1, birth_score: float = 0.3, max_age_s: float = 3.0):
        self.task, self.noise = task, Noise(task)
        self.min_score, self.birth_score, self.max_age_s = min_score, birth_score, max_age_s
        self._states = np.zeros(0, _STATE)
        self._scene, self._time_ns, self._next_id = "", 0, 0

    def step(self, frame: Frame, detections: Detections) -> np.ndarray:
        """int64 [N]: the id of the track that each detection belongs to, -1 for none (or none yet)."""
        self.task.check(detections.boxes.label, detections.boxes.attribute, f"frame {frame.token}: detections")
        ids = np.full(len(detections.scores), -1)
        used = np.flatnonzero(detections.scores >= self.min_score)
        measured = _measured(frame, detections.boxes[used], detections.scores[used], self.noise)
        if frame.scene != self._scene or frame.timestamp_ns < self._time_ns:
            self._states = self._states[:0]
        states = predict(self._states, (frame.timestamp_ns - self._time_ns) / 1e9, self.noise)
        states = states[frame.timestamp_ns - states["seen_ns"] <= self.max_age_s * 1e9]
        rows, columns = associate(states, measured, self.noise)
        if len(states) and frame.timestamp_ns == self._time_ns:
            ids[used[columns]] = states["id"][rows]
            return ids

        states[rows] = update(states[rows], measured[columns])
        kept = states["id"] >= 0  # what is not confirmed must be seen again at once
        kept[rows] = True
        others = np.setdiff1d(np.arange(len(measured)), columns)
        states = np.concatenate([states, _born(measured[others], self.noise)])
        sure = (states["id"] < 0) & ((states["score"] >= self.birth_score) | (states["hits"] > 1))
        states["id"][sure] = self._next_id + np.arange(sure.sum())
        self._next_id += int(sure.sum())
        ids[used[columns]], ids[used[others]] = states["id"][rows], states["id"][len(kept) :]
        self._states = states[np.pad(kept, (0, len(others)), constant_values=True)]
        self._scene, self._time_ns = frame.scene, frame.timestamp_ns
        return ids

    def tracks(self, frame: Frame) -> Tracks:
        """Where the tracks are at the time of ``frame``: the last one that was stepped, or one soon after it."""
        states = predict(self._states, (frame.timestamp_ns - self._time_ns) / 1e9, self.noise)
        states = states[states["id"] >= 0]
        states = states[np.argsort(states["id"])]
        ego_SE3_world = frame.world_SE3_ego.inverse()
        boxes = Boxes3D(
            center=ego_SE3_world.transform(np.column_stack([states["position"], states["z"]])),
            size=states["size"],
            yaw=_yaw(_rotated(ego_SE3_world, states["direction"])),
            velocity=_rotated(ego_SE3_world, states["velocity"]),
            label=states["label"],
        )
        unseen_s = (frame.timestamp_ns - states["seen_ns"]) / 1e9
        return Tracks(boxes, states["score"].copy(), states["id"].copy(), unseen_s)


def predict(states: np.ndarray, seconds: float, noise: Noise) -> np.ndarray:
    """The states ``seconds`` later, if nothing is seen in between."""
    later, q = states.copy(), noise.acceleration_density[states["label"]]
    later["position"] += seconds * states["velocity"]
    later["pp"] += 2 * seconds * states["pv"] + seconds**2 * states["vv"] + q * seconds**3 / 3
    later["pv"] += seconds * states["vv"] + q * seconds**2 / 2
    later["vv"] += q * seconds
    return later


def update(states: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """What is known after each state [M] was measured [M]: the Kalman update, first by position, then by velocity.

    The two errors of a measurement are independent, so one after the other is exact, and no matrix is inverted.
    """
    updated = states.copy()
    pp, pv, vv = (states[name] for name in ("pp", "pv", "vv"))
    gain_p, gain_v = pp / (pp + measured["pp"]), pv / (pp + measured["pp"])
    _correct(updated, gain_p, gain_v, measured["position"] - updated["position"])
    pp, pv, vv = (1 - gain_p) * pp, (1 - gain_p) * pv, vv - gain_v * pv
    gain_p, gain_v = pv / (vv + measured["vv"]), vv / (vv + measured["vv"])  # zero where no velocity is known
    _correct(updated, gain_p, gain_v, measured["velocity"] - updated["velocity"])
    updated["pp"], updated["pv"], updated["vv"] = pp - gain_p * pv, (1 - gain_v) * pv, (1 - gain_v) * vv
    updated["seen_ns"], updated["score"] = measured["seen_ns"], measured["score"]
    updated["hits"] += 1
    _smooth(updated, measured, (measured["seen_ns"] - states["seen_ns"]) / 1e9)
    return updated


def _correct(states: np.ndarray, gain_p: np.ndarray, gain_v: np.ndarray, innovation: np.ndarray) -> None:
    states["position"] += gain_p[:, None] * innovation
    states["velocity"] += gain_v[:, None] * innovation


def _smooth(states: np.ndarray, measured: np.ndarray, seconds: np.ndarray) -> None:
    """What the Kalman filter leaves out."""
    states["size"] += (measured["size"] - states["size"]) / np.minimum(states["hits"], _SIZES)[:, None]
    share = 1 - np.exp(-seconds / _SMOOTHING_S)
    states["z"] += share * (measured["z"] - states["z"])
    same = np.where((states["direction"] * measured["direction"]).sum(axis=1) < 0, -1.0, 1.0)
    states["direction"] += share[:, None] * (same[:, None] * measured["direction"] - states["direction"])
    states["sense"] += same * measured["score"] - states["sense"] / _VOTES
    flipped = np.where(states["sense"] < 0, -1.0, 1.0)
    states["direction"] *= flipped[:, None]
    states["sense"] *= flipped


def associate(states: np.ndarray, measured: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of states [T] and detections [N] that belong together, as two index arrays of equal length."""
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label in np.intersect1d(states["label"], measured["label"]):
        own, seen = np.flatnonzero(states["label"] == label), np.flatnonzero(measured["label"] == label)
        away = states["position"][own, None] - measured["position"][None, seen]
        variance = states["pp"][own] + noise.position_m[label] ** 2
        spread = 2 * np.log(variance / noise.position_m[label] ** 2)  # against a track whose place is known exactly
        cost = np.minimum(np.square(away).sum(axis=2) / variance[:, None] + spread[:, None], _GATE)
        i, j = linear_sum_assignment(cost)
        close = cost[i, j] < _GATE
        rows.append(own[i[close]])
        columns.append(seen[j[close]])
    return np.concatenate(rows), np.concatenate(columns)


def _measured(frame: Frame, boxes: Boxes3D, scores: np.ndarray, noise: Noise) -> np.ndarray:
    """What each detection says by itself."""
    states = np.zeros(len(boxes), _STATE)
    center = frame.world_SE3_ego.transform(boxes.center)
    known = np.isfinite(boxes.velocity).all(axis=1)
    states["id"], states["label"], states["hits"] = -1, boxes.label, 1
    states["seen_ns"], states["score"] = frame.timestamp_ns, scores
    states["position"], states["z"], states["size"] = center[:, :2], center[:, 2], boxes.size
    states["velocity"] = _rotated(frame.world_SE3_ego, np.where(known[:, None], boxes.velocity, 0.0))
    states["direction"] = _rotated(frame.world_SE3_ego, np.column_stack([np.cos(boxes.yaw), np.sin(boxes.yaw)]))
    states["sense"] = scores
    states["pp"] = noise.position_m[boxes.label] ** 2
    states["vv"] = np.where(known, noise.velocity_mps[boxes.label] ** 2, np.inf)
    return states


def _born(measured: np.ndarray, noise: Noise) -> np.ndarray:
    """Detections as first states. Before it was measured, a velocity was zero give or take the speed of its class."""
    born = measured.copy()
    usual = noise.speed_mps[born["label"]] ** 2
    gain = usual / (usual + measured["vv"])  # zero where no velocity is known
    born["velocity"] *= gain[:, None]
    born["vv"] = (1 - gain) * usual
    return born


def _rotated(a_SE3_b: SE3, vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, 2] in the ground plane of b, in that of a."""
    return a_SE3_b.rotate(np.pad(vectors, ((0, 0), (0, 1))))[:, :2]


def _yaw(direction: np.ndarray) -> np.ndarray:
    return np.arctan2(direction[:, 1], direction[:, 0])
