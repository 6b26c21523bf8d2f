"""Where frames were at a time: transforms, interpolated between the moments at which they were measured.

Between two measurements a frame moves along a line and rotates about a fixed axis (slerp). At a measurement, and
between two equal ones, the pose is exactly the recorded one, so that it does not depend on what else was recorded.
Outside of what was measured a pose holds for ``HOLD_NS`` and is unknown after that; one that has only ever had
a single value, such as the mounting of a sensor, holds for good.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from perception.geometry import pose_matrix, to_wxyz, to_xyzw
from perception.logs.frame_graph import Edge, FrameGraph
from perception.logs.messages import QUATERNION_TOLERANCE, LogError, Transform

HOLD_NS = 100_000_000
_FARTHEST_M = 1e9  # further than any map or planet; keeps products of transforms finite
_MOST_EDGES = 10_000
_LINES = 10  # on transforms that are left out


@dataclass
class _Edge:
    """parent_SE3_child at increasing times; a static one has a single pose, the latest."""

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


def checked_pose(transform: Transform) -> np.ndarray:
    """[7], as in the transform.

    Raises:
        LogError: numbers that are no pose, or a frame in itself.
    """
    pose = np.asarray(transform.pose, dtype=np.float64)
    name = f"transform {transform.parent} -> {transform.child}"
    far = not np.abs(pose[:3]).max() < _FARTHEST_M  # nor is NaN less than anything
    if far or not abs(math.hypot(*pose[3:]) - 1) <= QUATERNION_TOLERANCE:
        raise LogError(f"{name}: metres and a unit quaternion were expected, found {pose.tolist()}")
    if transform.parent == transform.child:
        raise LogError(f"{name}: two frames were expected, found one")
    return pose


class Transforms:
    """All transforms of a log up to now; old ones can be dropped. See ``frame_graph.py`` for the way between frames."""

    def __init__(self):
        self._edges: dict[Edge, _Edge] = {}
        self._graph = FrameGraph()
        self._asked: dict[tuple[str, str], None] = {}  # target, source

    def add(self, time_ns: int, transform: Transform) -> None:
        """Raises LogError, and stays as it was, for what :func:`checked_pose` refuses, and where there are too many."""
        pose, key = checked_pose(transform), (transform.parent, transform.child)
        edge = self._edges.get(key)
        if edge is None:
            if len(self._edges) >= _MOST_EDGES:
                raise LogError(f"up to {_MOST_EDGES} transforms between frames were expected, found more")
            self._graph.add(key)
        if edge is None or edge.static > transform.static:  # it moves, whatever else was said
            edge = self._edges[key] = _Edge(transform.static)
        if edge.static == transform.static:
            edge.add(time_ns, pose)

    def lookup(self, target: str, source: str, time_ns: int) -> np.ndarray | None:
        """target_T_source, float64 [4, 4]: maps points in ``source`` to ``target``. None where it is unknown."""
        way = self._way(target, source)
        if way is None:
            return None
        total = None
        for is_up, run in groupby(_steps(way, source), key=itemgetter(1)):
            edges = [edge for edge, _ in run]
            moved = self._chain(edges if is_up else edges[::-1], time_ns)
            if moved is None:
                return None
            if is_up:
                total = moved if total is None else moved @ total
            else:
                total = inverse(moved) @ (np.eye(4) if total is None else total)
        return np.eye(4) if total is None else total

    def measured(self, target: str, source: str) -> tuple[float, float] | None:
        """From when to when what is between the two frames was measured, in ns; without end where it is static.

        Where something moves, what has had a single value ever, such as an odometry's origin, counts as static too.
        None where they are not connected.
        """
        way = self._way(target, source)
        if way is None:
            return None
        dynamic = [edge for edge in map(self._edges.__getitem__, way) if not edge.static]
        moving = [edge.times_ns for edge in dynamic if not edge.constant] or [edge.times_ns for edge in dynamic]
        since_ns = max((times[0] for times in moving), default=-np.inf)
        return since_ns, min((times[-1] for times in moving), default=np.inf)

    def doubts(self) -> list[str]:
        """A line for each pair of frames that was asked for and is connected by two ways."""
        lines = (two_ways(self._graph, *pair) for pair in self._asked)
        return [line for line in lines if line]

    def forget_before(self, time_ns: int) -> None:
        for edge in self._edges.values():
            edge.forget_before(time_ns)

    def _way(self, target: str, source: str) -> list[Edge] | None:
        way = self._graph.way(target, source)
        if way is not None:
            self._asked[target, source] = None
        return way

    def _chain(self, edges: list[Edge], time_ns: int) -> np.ndarray | None:
        """From the last edge's parent to the first one's child, of edges that go up."""
        total = None
        for edge in edges:
            pose = self._edges[edge].at(time_ns)
            if pose is None:
                return None
            total = pose_matrix(pose) if total is None else pose_matrix(pose) @ total
        return total


class Refused:
    """Transforms that are left out: of each pair of frames, why the first one was, and how many were."""

    def __init__(self):
        self._reasons: dict[Edge, str] = {}
        self._counts: Counter[Edge] = Counter()

    def add(self, transform: Transform, error: LogError) -> None:
        edge = transform.parent, transform.child
        self._reasons.setdefault(edge, str(error))
        self._counts[edge] += 1

    def lines(self, edges: Collection[Edge] | None = None) -> list[str]:
        """Of these edges or all, a line each; of many, of the first ones."""
        chosen = [edge for edge in self._reasons if edges is None or edge in edges]
        lines = [f"{self._reasons[edge]}; left out: {self._counts[edge]}" for edge in chosen[:_LINES]]
        more = len(chosen) - _LINES
        return [*lines, f"transforms of {more} more pairs of frames are left out"] if more > 0 else lines

    def __iter__(self) -> Iterator[Edge]:
        return iter(self._reasons)


def two_ways(graph: FrameGraph, target: str, source: str) -> str:
    """In one line, which of two ways between frames is taken; "" where there is one."""
    way, other = graph.way(target, source), graph.other_way(target, source)
    if not way or not other:
        return ""
    taken, left = (", ".join(f"{parent} -> {child}" for parent, child in edges) for edges in (way, other))
    return f"two ways from {source} to {target}: {taken} is taken, {left} is not; exclude the transform that is wrong"


def _steps(way: list[Edge], frame: str) -> Iterator[tuple[Edge, bool]]:
    """Each transform of a way from a frame, and whether it is walked upwards, from child to parent."""
    for parent, child in way:
        is_up = child == frame
        frame = parent if is_up else child
        yield (parent, child), is_up


def inverse(transform: np.ndarray) -> np.ndarray:
    """Inverse of a rigid transform [4, 4]."""
    out = np.eye(4)
    out[:3, :3] = transform[:3, :3].T
    out[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return out


def _between(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
    rotations = Slerp([0.0, 1.0], Rotation.from_quat(to_xyzw(np.stack([before[3:], after[3:]]))))
    return np.concatenate([before[:3] + share * (after[:3] - before[:3]), to_wxyz(rotations(share).as_quat())])
