"""LiDAR points in eight bytes instead of twenty: for a detector the same, for a disk less than half.

Coordinates are counted in steps, x and y in 20 bits each, z in 16, beside a whole intensity in 8. Ages are exact:
sweeps lie one after the other, so each age stands once beside the number of its points.

What a detector makes of points jumps where one of them changes its pillar or voxel: points rounded to multiples of half
a millimetre change scores by five hundredths. So none does. A step is half open, and its points come back as its
middle, which is within the same cell if the edges of cells are whole numbers of steps from the ego frame's origin. A
point so near such an edge that float32 arithmetic may put it on either side keeps all its digits; edges are taken for
multiples of 5 mm.

A cloud that the bits do not hold (too wide, too high, intensities that are not whole) is kept as float32.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec
import numpy as np

from perception.sample import LidarCloud

_UPPER_BITS = 4  # of x, and of y, beside 16 lower ones
_ROOM = np.array([1 << 16 + _UPPER_BITS, 1 << 16 + _UPPER_BITS, 1 << 16])  # steps of x, y and z
_EDGE_M, _NEAR_M = 5e-3, 1.6e-5  # the latter: float32 between 128 and 256 m

_FAR = 1 << 53  # steps, which float64 counts one by one

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
_Step = Annotated[int, msgspec.Meta(ge=-_FAR, le=_FAR)]


class PackedFacts(msgspec.Struct):
    """points, ages, exact: how many points, runs of the same age, and points with all their digits.

    step_m: metres, None where all columns are float32.  first: numbers of the steps that x, y, z are counted from.
    """

    points: Count
    ages: Count
    exact: Count = 0
    step_m: Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None = None
    first: tuple[_Step, _Step, _Step] = (0, 0, 0)

    @property
    def layout(self) -> list[tuple[str, int]]:
        """Type and number of the arrays, as they follow each other."""
        n = self.points
        points = [("<f4", 4 * n)] if self.step_m is None else [("<u2", 3 * n), ("u1", n), ("u1", n)]
        return [*points, ("<u4", self.ages), ("<f4", self.ages), ("<u4", self.exact), ("<f4", 3 * self.exact)]


def pack(points: np.ndarray, step_m: float) -> tuple[PackedFacts, bytes]:
    """Points float32 [N, 5], the columns of a LidarCloud, in steps of ``step_m``; 0 keeps them as float32."""
    xyz, intensity, age_s = points[:, :3], points[:, 3], points[:, 4]
    begin = np.flatnonzero(np.diff(age_s, prepend=np.nan) != 0)  # the first differs from NaN, too
    facts = PackedFacts(len(points), len(begin))
    arrays, near = [points[:, :4]], np.zeros(0, np.int64)
    if step_m and len(points):
        steps = np.floor(xyz / np.float64(step_m))
        first = steps.min(axis=0)
        whole = np.clip(intensity, 0, 255).astype(np.uint8)
        if (steps - first < _ROOM).all() and (np.abs(first) <= _FAR).all() and np.array_equal(whole, intensity):
            x, y, z = (steps - first).astype(np.int64).T
            arrays = [np.stack([x, y, z]) & 0xFFFF, x >> 16 | y >> 16 << _UPPER_BITS, whole]
            edges = np.rint(xyz / np.float64(_EDGE_M)) * _EDGE_M
            near = np.flatnonzero((np.abs(xyz - edges) < _NEAR_M).any(axis=1))
            facts.exact, facts.step_m = len(near), step_m
            facts.first = (int(first[0]), int(first[1]), int(first[2]))
    arrays += [np.diff(begin, append=len(points)), age_s[begin], near, xyz[near]]
    return facts, b"".join(array.astype(kind).tobytes() for (kind, _), array in zip(facts.layout, arrays))


def unpack(facts: PackedFacts, data: bytes | memoryview) -> np.ndarray:
    """float32 [N, 5], the columns of a LidarCloud.

    Raises:
        ValueError: bytes of another length, or numbers that contradict each other.
    """
    ends = list(itertools.accumulate(np.dtype(kind).itemsize * number for kind, number in facts.layout))
    if len(data) != ends[-1]:
        raise ValueError(f"{ends[-1]} bytes of LiDAR points were expected, found {len(data)}")
    pieces = zip(facts.layout, [0, *ends], ends)
    arrays = [np.frombuffer(data[begin:end], kind) for (kind, _), begin, end in pieces]
    *columns, counts, age_s, near, exact = arrays
    if counts.sum(dtype=np.int64) != facts.points or (near >= facts.points).any():
        raise ValueError(f"ages and indices of {facts.points} LiDAR points were expected, found others")
    points = np.empty((facts.points, len(LidarCloud.fields)), np.float32)
    points[:, 4] = np.repeat(age_s, counts)
    if facts.step_m is None:
        points[:, :4] = columns[0].reshape(-1, 4)
        return points
    lower, upper, points[:, 3] = columns
    uppers = (upper & (1 << _UPPER_BITS) - 1, upper >> _UPPER_BITS, np.zeros(1, np.uint8))
    for axis, (first, low, high) in enumerate(zip(facts.first, lower.reshape(3, -1), uppers)):
        points[:, axis] = (low + (high.astype(np.int32) << 16) + (first + 0.5)) * facts.step_m
    points[near, :3] = exact.reshape(-1, 3)
    return points
