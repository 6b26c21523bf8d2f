"""Where frames were at a time: a tree of transforms, interpolated between the moments at which they were measured.

Between two measurements a frame moves along a line and rotates about a fixed axis (slerp). At a measurement, and
between two equal ones, the pose is exactly the recorded one, so that it does not depend on what else was recorded.
Outside of what was measured a pose holds for ``HOLD_NS`` and is unknown after that; one that has only ever had
a single value, such as the mounting of a sensor, holds for good.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from perception.geometry import pose_matrix, to_wxyz, to_xyzw
from perception.logs.messages import QUATERNION_TOLERANCE, LogError, Transform

HOLD_NS = 100_000_000
_FARTHEST_M = 1e9  # further than any map or planet; keeps products of transforms finite


@dataclass
class _Edge:
    """parent_SE3_child at increasing times; a static one has a single pose, the latest."""

    parent: str
    static: bool
    times_ns: list[int] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    constant: bool = True

    def add(self, time_ns: int, pose: np.ndarray) -> None:
        if self.static:
            self.times_ns, self.poses = [time_ns], [pose]
            return
        at = bisect_right(self.times_ns, time_ns)
        if at and self.times_ns[at - 1] == time_ns:
            return  # of two poses at one time the first one holds
        self.constant = self.constant and (not self.poses or np.array_equal(self.poses[0], pose))
        self.times_ns.insert(at, time_ns)
        self.poses.insert(at, pose)
        if self.constant and len(self.poses) > 2:  # what never changes needs no history
            del self.times_ns[1:-1], self.poses[1:-1]

    def at(self, time_ns: int) -> np.ndarray | None:
        """[7], or None where it is unknown."""
        if self.constant:
            return self.poses[0]
        i = bisect_right(self.times_ns, time_ns)
        before, after = max(i - 1, 0), min(i, len(self.poses) - 1)
        if before == after or self.times_ns[before] == time_ns:
            return self.poses[before] if abs(self.times_ns[before] - time_ns) <= HOLD_NS else None
        if np.array_equal(self.poses[before], self.poses[after]):
            return self.poses[before]
        share = (time_ns - self.times_ns[before]) / (self.times_ns[after] - self.times_ns[before])
        return _between(self.poses[before], self.poses[after], share)

    def forget_before(self, time_ns: int) -> None:
        """Keeps the last pose up to ``time_ns`` and all after it."""
        i = bisect_right(self.times_ns, time_ns) - 1
        if i > 0:
            del self.times_ns[:i], self.poses[:i]


class Transforms:
    """All transforms of a log up to now; old ones can be dropped."""

    def __init__(self):
        self._edges: dict[str, _Edge] = {}  # by child

    def add(self, time_ns: int, transform: Transform) -> None:
        """Raises LogError for a quaternion that is none, or a frame with two parents or that is its own ancestor."""
        pose = np.asarray(transform.pose, dtype=np.float64)
        norm = float(np.linalg.norm(pose[3:]))
        name = f"transform {transform.parent} -> {transform.child}"
        if not (
            np.abs(pose[:3]).max() < _FARTHEST_M and abs(norm - 1) <= QUATERNION_TOLERANCE
        ):  # nor is NaN less than anything
            raise LogError(f"{name}: metres and a unit quaternion were expected, found {pose.tolist()}")
        edge = self._edges.get(transform.child)
        if edge is None and transform.child in (transform.parent, *self._ancestors(transform.parent)):
            raise LogError(f"{name}: a tree was expected, found a circle")
        if edge is not None and edge.parent != transform.parent:
            raise LogError(f"{name}: one parent was expected, found {edge.parent} too")
        if edge is None or edge.static > transform.static:  # it moves, whatever else was said
            edge = self._edges[transform.child] = _Edge(transform.parent, transform.static)
        if edge.static == transform.static:
            edge.add(time_ns, pose)

    def lookup(self, target: str, source: str, time_ns: int) -> np.ndarray | None:
        """target_T_source, float64 [4, 4]: maps points in ``source`` to ``target``. None where it is unknown."""
        up_target, up_source = [target, *self._ancestors(target)], [source, *self._ancestors(source)]
        common = next((frame for frame in up_source if frame in up_target), None)
        if common is None:
            return None
        root_T_source = self._down(up_source[: up_source.index(common)], time_ns)
        root_T_target = self._down(up_target[: up_target.index(common)], time_ns)
        if root_T_source is None or root_T_target is None:
            return None
        return root_T_source if common == target else inverse(root_T_target) @ root_T_source

    def measured(self, target: str, source: str) -> tuple[float, float] | None:
        """From when to when what is between the two frames was measured, in ns; without end where it is static.

        Where something moves, what has had a single value ever, such as an odometry's origin, counts as static too.
        None where they are not connected.
        """
        up_target, up_source = [target, *self._ancestors(target)], [source, *self._ancestors(source)]
        if up_target[-1] != up_source[-1]:
            return None
        between = [self._edges[frame] for frame in set(up_target) ^ set(up_source)]
        dynamic = [edge for edge in between if not edge.static]
        moving = [edge.times_ns for edge in dynamic if not edge.constant] or [edge.times_ns for edge in dynamic]
        since_ns = max((times[0] for times in moving), default=-np.inf)
        return since_ns, min((times[-1] for times in moving), default=np.inf)

    def forget_before(self, time_ns: int) -> None:
        for edge in self._edges.values():
            edge.forget_before(time_ns)

    def _ancestors(self, frame: str) -> list[str]:
        found = []
        while frame in self._edges:
            frame = self._edges[frame].parent
            found.append(frame)
        return found

    def _down(self, chain: list[str], time_ns: int) -> np.ndarray | None:
        """From the last frame's parent to the first frame of a chain that goes up."""
        total = None
        for frame in chain:
            pose = self._edges[frame].at(time_ns)
            if pose is None:
                return None
            total = pose_matrix(pose) if total is None else pose_matrix(pose) @ total
        return np.eye(4) if total is None else total


def inverse(transform: np.ndarray) -> np.ndarray:
    """Inverse of a rigid transform [4, 4]."""
    out = np.eye(4)
    out[:3, :3] = transform[:3, :3].T
    out[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return out


def _between(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
    rotations = Slerp([0.0, 1.0], Rotation.from_quat(to_xyzw(np.stack([before[3:], after[3:]]))))
    return np.concatenate([before[:3] + share * (after[:3] - before[:3]), to_wxyz(rotations(share).as_quat())])
