"""Online multi-object tracking of detections: one Kalman filter per track, one assignment per class.

    tracker = Tracker()
    for frame in frames:
        ids = tracker.step(frame, detector.detect(frame))   # int64 [N], track id of each detection, -1 for none
        tracks = tracker.tracks(frame)                      # all current tracks, those without a detection included

States are in the world frame, so that ego motion does not appear as object motion. Components and their sources:

Motion       Constant velocity with white-noise acceleration (Bar-Shalom et al., Estimation with Applications to
             Tracking and Navigation, 2001, 6.2.2). Continuous in time: two steps equal one of their total length, so
             that missing frames and irregular timing have no effect. Acceleration and measurement noise are per class
             and set in the task (Chiu et al., Probabilistic 3D Multi-Object Tracking, 2020).
Measurement  Position, and velocity if the detector provides it (CenterPoint, Yin et al., 2021). Both ground-plane axes
             have the same noise and share one 2 x 2 covariance (position, velocity).
Association  Within a class, the minimum-cost assignment (Hungarian, as in AB3DMOT, Weng et al., 2020). The cost of a
             pair is its negative log-likelihood: Mahalanobis distance (Chiu et al.) plus the log-determinant, which
             keeps uncertain tracks from winning every detection. Unlike a fixed radius, the gate grows with the time
             since the last detection. Pairs less likely than a miss plus a birth are not assigned.
Life cycle   A detection of at least ``birth_score`` starts a track at once; one of at least ``min_score`` needs to be
             confirmed in the next frame. A track ends after ``max_age_s`` without a detection.

Height, size and heading are smoothed. A heading off by 180 degrees, a common detector error, does not flip the track:
the direction is decided by a vote of the last few detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from perception.geometry import SE3
from perception.sample import Boxes3D, Detections, Frame
from perception.task import NUSCENES, Task

_GATE = 16.0  # cost of a miss plus a birth; rejects 0.03 % of the correct detections of a well-observed track
_SMOOTHING_S = 0.3  # time constant of height and heading
_SIZES = 10  # detections over which size is averaged
_VOTES = 5  # time constant, in detections, of the vote on the heading direction

# State of one object. Per ground-plane axis: variance of position (pp, m^2) and velocity (vv), and their covariance
# (pv). A single detection uses the same record, with infinite vv if its velocity is unknown.
_STATE = np.dtype(
    [
        ("id", np.int64),  # -1 until confirmed
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
        ("sense", np.float64),  # score-weighted votes for the heading rather than its opposite
    ]
)


class Noise:
    """Noise parameters of the filter by class, [K] each; see ``perception.task.ObjectClass``."""

    def __init__(self, task: Task):
        self.position_m, self.velocity_mps = task.column("position_sigma_m"), task.column("velocity_sigma_mps")
        self.speed_mps, self.acceleration_density = task.column("prior_speed_mps"), task.column("acceleration_density")


@dataclass(frozen=True, eq=False)
class Tracks:
    """All confirmed tracks at one time, including those without a detection in the current frame.

    boxes: smoothed, in the ego frame.  scores: [N] of the last detection.  ids: int64 [N], ascending.
    unseen_s: [N] seconds since the last detection, 0 for tracks detected in this frame.
    """

    boxes: Boxes3D
    scores: np.ndarray
    ids: np.ndarray
    unseen_s: np.ndarray


class Tracker:
    """See the module docstring. Ids are unique over the lifetime of the tracker, and ascending.

    A frame of another scene, or with an earlier time, discards all tracks. A frame with the time of the last one is
    treated as a copy of it: it gets the ids, but does not change the state.

    Args:
        task: the task of the detections.
        min_score: detections below this score are ignored.
        birth_score: minimum score for one detection to start a track; below it, two consecutive ones are needed.
        max_age_s: seconds after which a track without detections ends.
    """

    def __init__(self, task: Task = NUSCENES, min_score: float = 0.1, birth_score: float = 0.3, max_age_s: float = 3.0):
        self.task, self.noise = task, Noise(task)
        self.min_score, self.birth_score, self.max_age_s = min_score, birth_score, max_age_s
        self._states = np.zeros(0, _STATE)
        self._scene, self._time_ns, self._next_id = "", 0, 0

    def step(self, frame: Frame, detections: Detections) -> np.ndarray:
        """int64 [N]: the track id of each detection, -1 for none (or not yet confirmed)."""
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
        kept = states["id"] >= 0  # unconfirmed tracks must be detected again in the next frame
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
        """Confirmed tracks predicted to the time of ``frame``: the frame of the last step, or a slightly later one."""
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
    """Kalman prediction of the states by ``seconds``."""
    later, q = states.copy(), noise.acceleration_density[states["label"]]
    later["position"] += seconds * states["velocity"]
    later["pp"] += 2 * seconds * states["pv"] + seconds**2 * states["vv"] + q * seconds**3 / 3
    later["pv"] += seconds * states["vv"] + q * seconds**2 / 2
    later["vv"] += q * seconds
    return later


def update(states: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Kalman update of states [M] with measurements [M], first by position, then by velocity.

    The two measurement errors are independent, so sequential updates are exact and avoid matrix inversion.
    """
    updated = states.copy()
    pp, pv, vv = (states[name] for name in ("pp", "pv", "vv"))
    gain_p, gain_v = pp / (pp + measured["pp"]), pv / (pp + measured["pp"])
    _correct(updated, gain_p, gain_v, measured["position"] - updated["position"])
    pp, pv, vv = (1 - gain_p) * pp, (1 - gain_p) * pv, vv - gain_v * pv
    gain_p, gain_v = pv / (vv + measured["vv"]), vv / (vv + measured["vv"])  # zero for unknown velocities
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
    """Smooth what is not in the Kalman state: size, height and heading."""
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
    """Assign detections [N] to states [T]; returns the matched pairs as two index arrays of equal length."""
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label in np.intersect1d(states["label"], measured["label"]):
        own, seen = np.flatnonzero(states["label"] == label), np.flatnonzero(measured["label"] == label)
        away = states["position"][own, None] - measured["position"][None, seen]
        variance = states["pp"][own] + noise.position_m[label] ** 2
        spread = 2 * np.log(variance / noise.position_m[label] ** 2)  # relative to a track with exactly known position
        cost = np.minimum(np.square(away).sum(axis=2) / variance[:, None] + spread[:, None], _GATE)
        i, j = linear_sum_assignment(cost)
        close = cost[i, j] < _GATE
        rows.append(own[i[close]])
        columns.append(seen[j[close]])
    return np.concatenate(rows), np.concatenate(columns)


def _measured(frame: Frame, boxes: Boxes3D, scores: np.ndarray, noise: Noise) -> np.ndarray:
    """Detections as state records, in the world frame."""
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
    """Initial states from detections. The prior of a velocity is zero with the prior speed of the class as sigma."""
    born = measured.copy()
    usual = noise.speed_mps[born["label"]] ** 2
    gain = usual / (usual + measured["vv"])  # zero for unknown velocities
    born["velocity"] *= gain[:, None]
    born["vv"] = (1 - gain) * usual
    return born


def _rotated(a_SE3_b: SE3, vectors: np.ndarray) -> np.ndarray:
    """Ground-plane vectors [N, 2] rotated from frame b to frame a."""
    return a_SE3_b.rotate(np.pad(vectors, ((0, 0), (0, 1))))[:, :2]


def _yaw(direction: np.ndarray) -> np.ndarray:
    return np.arctan2(direction[:, 1], direction[:, 0])
