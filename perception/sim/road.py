"""The road a drive follows: a winding centre line, its cross-section, and where things are allowed to stand.

World frame: x and y in metres on a flat map, z up, the carriageway at z = 0. Traffic keeps to the right. A place on the
road is (s, offset): metres along the centre line and metres to its left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDEWALK_HEIGHT_M = 0.15
MAP_MARGIN_M = 150.0  # between the map image's border and the centre line


class Path:
    """A curve without loops: its heading swings about a mean like a sine."""

    def __init__(self, rng: np.random.Generator, start: float, end: float):
        self._s = np.arange(start - 1.0, end + 2.0, 1.0)
        amplitude, wavelength = rng.uniform(0.25, 0.6), rng.uniform(170.0, 280.0)
        heading = rng.uniform(-np.pi, np.pi) + amplitude * np.sin(2 * np.pi * (self._s / wavelength + rng.random()))
        self._heading = heading
        middle = 0.5 * (heading[1:] + heading[:-1])
        steps = np.stack([np.cos(middle), np.sin(middle)], 1)
        self._xy = np.concatenate([[[0.0, 0.0]], np.cumsum(steps, axis=0)])
        self._xy += MAP_MARGIN_M - self._xy.min(axis=0)

    def pose(self, s, offset=0.0) -> tuple[np.ndarray, np.ndarray]:
        """World xy [..., 2] and heading [...] at arc length ``s`` and ``offset`` metres to the left."""
        s = np.asarray(s, float)
        heading = np.interp(s, self._s, self._heading)
        xy = np.stack([np.interp(s, self._s, self._xy[:, 0]), np.interp(s, self._s, self._xy[:, 1])], -1)
        normal = np.stack([-np.sin(heading), np.cos(heading)], -1)
        return xy + np.asarray(offset)[..., None] * normal, heading

    @property
    def span(self) -> tuple[float, float]:
        """First and last arc length, metres; beyond them :meth:`pose` stays where the curve ends."""
        return float(self._s[0]), float(self._s[-1])

    @property
    def extent(self) -> np.ndarray:
        """[2] largest x and y of the centre line, metres; the smallest are ``MAP_MARGIN_M``."""
        return self._xy.max(axis=0)


@dataclass(frozen=True)
class Layout:
    """Cross-section and plan of one scene, metres. Offsets are from the centre line; both sides are alike.

    Args:
        lanes: lanes per direction.
        lane_width, bike_width, parking_width, sidewalk_width: widths.
        start, end: arc lengths between which the world is furnished.
        cross_s: arc length of the crossing road.
        cross_angle: its heading relative to the main road, radians.
        zones: work zones as (s start, s end, side), side +1 left and -1 right.
        lots: open yards beside the road, likewise.
        cross_room: how much farther than its lanes the crossing road reaches along the main one.
    """

    lanes: int
    lane_width: float
    bike_width: float
    parking_width: float
    sidewalk_width: float
    start: float
    end: float
    cross_s: float
    cross_angle: float
    zones: list[tuple[float, float, int]]
    lots: list[tuple[float, float, int]]
    cross_room: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, start: float, end: float) -> Layout:
        """A random plan: a work zone about every 42 m and a yard about every 60 m, on changing sides."""
        zones, lots = [], []
        s, side = start + rng.uniform(5, 25), int(rng.choice([-1, 1]))
        while s < end - 30:
            length = rng.uniform(15, 22)
            zones.append((s, s + length, side))
            s += length + rng.uniform(14, 32)
            side = -side if rng.random() < 0.7 else side
        s, side = start + rng.uniform(0, 20), int(rng.choice([-1, 1]))
        while s < end - 30:
            length = rng.uniform(24, 34)
            lots.append((s, s + length, side))
            s += length + rng.uniform(15, 40)
            side = -side if rng.random() < 0.6 else side
        middle = rng.uniform(0.4, 0.75) * (end - start) + start
        return cls(
            lanes=int(rng.choice([1, 2], p=[0.35, 0.65])),
            lane_width=rng.uniform(3.3, 3.7),
            bike_width=rng.uniform(1.5, 1.9),
            parking_width=rng.uniform(2.6, 3.0),
            sidewalk_width=rng.uniform(3.0, 4.5),
            start=start,
            end=end,
            cross_s=middle,
            cross_angle=0.5 * np.pi + rng.uniform(-0.2, 0.2),
            zones=zones,
            lots=lots,
        )

    @property
    def lane_edge(self) -> float:
        return self.lanes * self.lane_width

    @property
    def parking_edge(self) -> float:
        return self.lane_edge + self.bike_width

    @property
    def kerb(self) -> float:
        return self.parking_edge + self.parking_width

    @property
    def house_line(self) -> float:
        return self.kerb + self.sidewalk_width

    @property
    def cross_half_width(self) -> float:
        return self.lane_width + 0.6

    def near_crossing(self, s: float, margin: float = 0.0) -> bool:
        """Whether the place is taken by the crossing road."""
        return abs(s - self.cross_s) < self.cross_half_width + self.cross_room + 4.0 + margin

    def within(self, places: list[tuple[float, float, int]], s: float, side: int, margin: float = 0.0) -> bool:
        """Whether (s, side) lies in one of the zones or lots, widened by ``margin`` metres."""
        return any(which == side and low - margin < s < high + margin for low, high, which in places)
