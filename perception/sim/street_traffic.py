"""Who is on a street: besides the town's traffic, crossing and turning vehicles, cars parked at every angle, crowds.

No two boxes overlap: candidates are drawn freely, and those that would come too close to the main road's traffic or
to a larger one, at any time of the scene, stay away.
"""

from __future__ import annotations

import numpy as np

from perception.sim.footprints import Occupied
from perception.sim.road import SIDEWALK_HEIGHT_M, Layout, Path
from perception.sim.shapes import Shape, make_shape
from perception.sim.side_road import SIDE_PARKING_M, side_road_edges, with_room
from perception.sim.traffic import Actor, Track, Traffic

_COUPLING_M = 0.5
_TURN_M = 8.0  # before and behind the crossing, where a turn begins and ends
_LATERAL_MPS2 = 2.5  # the acceleration that drivers accept in a turn
_STRAIGHT = ["vehicle.car", "vehicle.truck", "vehicle.bus.rigid", "vehicle.motorcycle"], [0.8, 0.09, 0.03, 0.08]
_TURNING = ["vehicle.car", "vehicle.motorcycle"], [0.9, 0.1]  # long vehicles would need more room


class StreetTraffic(Traffic):
    """All actors of a scene and the ego vehicle's track. ``occupied`` says where they are."""

    work_zone_m = 2.3
    empty_share = 0.4
    side_parking_m = SIDE_PARKING_M

    def __init__(self, rng: np.random.Generator, path: Path, layout: Layout, seconds: float, speed: float):
        super().__init__(rng, path, with_room(path, layout), seconds, speed)
        others = sorted(self._others, key=lambda actor: -actor.shape.size[0] * actor.shape.size[1])
        self.occupied = Occupied(self.ego, seconds)
        self.actors = self.occupied.settle(self.actors) + self.occupied.settle(others)

    def _furnish(self) -> None:
        lanes, self.actors = self.actors, []
        super()._furnish()
        center, heading = self.path.pose(self.layout.cross_s)
        for arm in (1, -1):
            yaw = float(heading) + self.layout.cross_angle + (0.0 if arm > 0 else np.pi)
            out, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
            self._drive_through(center, out, left)
            self._park_along(center, out, left, yaw)
            for _ in range(3):
                self._cross_street(center, out, left, yaw)
            for side in (-1, 1):
                self._crowd(arm, side)
        self.actors, self._others = lanes, self.actors

    def _pose(self, s: np.ndarray, offset) -> tuple[np.ndarray, np.ndarray]:
        """The path's pose, and straight on beyond its ends: nobody stops dead there."""
        xy, heading = self.path.pose(s, offset)
        beyond = (s - np.clip(s, *self.path.span))[..., None]
        return xy + beyond * np.stack([np.cos(heading), np.sin(heading)], -1), heading

    def _along(self, s: np.ndarray, offset, direction: int) -> Track:
        xy, heading = self._pose(s, offset)
        return Track(xy[..., 0], xy[..., 1], heading + (0.0 if direction > 0 else np.pi))

    def _coupling(self, tractor: Shape) -> float:
        return float(tractor.size[0]) + _COUPLING_M

    def _place(self, category: str, xy: np.ndarray, yaw: float, idle: str = "vehicle.parked") -> None:
        self.actors.append(Actor(make_shape(category, self.rng), Track.standing(xy, yaw), idle=idle))

    # --- vehicles on the side road ---

    def _drive_through(self, center, out, left) -> None:
        """Vehicles that come from one arm and go straight on or turn, and vehicles that turn into it."""
        rng, layout = self.rng, self.layout
        lane = 0.5 * layout.lane_width
        onward = 9.0 * float(self.times[-1])  # lines are longer than anybody drives
        far = np.array([[110.0], [-110.0 - onward]])
        for _ in range(3):
            self._follow_line(center + far * out + lane * left, rng.uniform(75, 150), rng.uniform(4, 9), *_STRAIGHT)
        edge, gap = layout.lane_edge + _TURN_M, layout.cross_half_width + _TURN_M
        for _ in range(10):
            direction = int(rng.choice([-1, 1]))
            offset = -direction * (layout.lanes - 0.5) * layout.lane_width
            if rng.random() < 0.5:
                first = center + np.array([[edge + 80.0], [edge]]) * out + lane * left
                last, _ = self._pose(layout.cross_s + direction * np.arange(gap, gap + 80.0 + onward, 0.5), offset)
            else:
                first, _ = self._pose(layout.cross_s - direction * np.linspace(gap + 80.0, gap, 161), offset)
                last = center + np.array([[edge], [edge + 80.0 + onward]]) * out - lane * left
            line = np.concatenate([first, _bend(first, last), last])
            self._follow_line(line, rng.uniform(72, 105), rng.uniform(3, 6.5), *_TURNING)

    def _follow_line(self, line: np.ndarray, start: float, speed: float, kinds: list[str], shares: list[float]) -> None:
        """A vehicle of one of the ``kinds`` that at time 0 has driven ``start`` metres of line [N, 2], at ``speed`` or
        as fast as its sharpest bend allows."""
        category = str(self.rng.choice(kinds, p=shares))
        rider = True if category.endswith("motorcycle") else None
        steps = np.diff(line, axis=0)
        way = np.concatenate([[0.0], np.cumsum(np.hypot(*steps.T))])
        heading, middle = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])), 0.5 * (way[1:] + way[:-1])
        curvature = np.max(np.abs(np.diff(heading)) / np.diff(middle), initial=1e-3)
        at = start + min(speed, float(np.sqrt(_LATERAL_MPS2 / curvature))) * self.times
        yaw = np.interp(at, middle, heading)
        track = Track(np.interp(at, way, line[:, 0]), np.interp(at, way, line[:, 1]), yaw)
        shape = make_shape(category, self.rng, rider=bool(rider))
        self.actors.append(Actor(shape, track, idle="vehicle.stopped", rider=rider))

    def _park_along(self, center, out, left, yaw: float) -> None:
        """Rows on both sides of one arm: parallel to it or at an angle."""
        rng, layout = self.rng, self.layout
        for side in (-1, 1):
            share = rng.uniform(0.05, 0.3)
            for distance in np.arange(layout.house_line + 8.0, 85.0, 6.3).tolist():
                if rng.random() < share:
                    category = "vehicle.car" if rng.random() < 0.9 else "vehicle.truck"
                    lateral = side * (layout.cross_half_width + 0.5 * SIDE_PARKING_M) + rng.normal(0, 0.1)
                    turn = (0.0 if side < 0 else np.pi) + rng.normal(0, 0.04)
                    self._place(category, center + distance * out + lateral * left, yaw + turn)

    # --- vehicles beside the main road ---

    def _parked(self, side: int) -> None:
        """Along the kerb; where the strip is wide, in rows at right angles or slanting."""
        rng, layout = self.rng, self.layout
        if layout.parking_width < 4.5:
            super()._parked(side)
            return
        angle = side * (0.5 * np.pi if rng.random() < 0.5 else rng.uniform(0.75, 1.05))
        middle, pitch = side * (layout.parking_edge + 0.5 * layout.parking_width), 2.05 / np.sin(abs(angle)) + 0.7
        share = rng.uniform(0.3, 0.8)
        for s in np.arange(layout.start - 15, layout.end + 15, pitch).tolist():
            if rng.random() < share and not layout.near_crossing(s, 3.0):
                if not layout.within(layout.zones, s, side, 3.0):
                    self._slot(s, middle, angle)

    def _slot(self, s: float, offset: float, angle: float) -> None:
        """A car in a slot, nose in or out, never quite straight."""
        turn = angle + self.rng.choice([0.0, np.pi]) + self.rng.normal(0, 0.04)
        self._stand("vehicle.car", s, offset + self.rng.normal(0, 0.15), turn, idle="vehicle.parked")

    def _yard(self, low: float, high: float, side: int) -> None:
        """Every other yard is a car park: two rows across the road, slanting or along it."""
        rng, layout = self.rng, self.layout
        if layout.lots.index((low, high, side)) % 2 == 0:
            super()._yard(low, high, side)
            return
        share, kind = rng.uniform(0.2, 0.7), rng.random()
        turn = 0.5 * np.pi if kind < 0.15 else float(rng.choice([-1, 1]) * rng.uniform(0.75, 1.05))
        if kind < 0.3:
            places = np.arange(low + 3.0, high - 2.0, 2.05 / np.sin(abs(turn)) + 0.65).tolist()
            slots = [(s, depth, turn) for depth in (4.0, 15.5) for s in places]
        else:
            columns, rows = np.arange(low + 4, high - 2, 8.5).tolist(), np.arange(3.0, 20.0, 2.7).tolist()
            slots = [(s, depth, 0.0) for s in columns for depth in rows]
        for s, depth, angle in slots:
            if rng.random() < share and not layout.near_crossing(s, 4.0):
                self._slot(s, side * (layout.house_line + depth), angle)

    def _work_zone(self, low: float, high: float, side: int) -> None:
        """As in the town, with a taper of cones before it that leads the traffic past."""
        super()._work_zone(low, high, side)
        rng, layout = self.rng, self.layout
        for i in range(int(rng.integers(3, 7))):
            s, offset = (low - 1.6 * i, 0.3 + 0.35 * i) if side < 0 else (high + 1.6 * i, 0.3 + 0.35 * i)
            if not layout.near_crossing(s, 2.0):
                place = side * (layout.parking_edge + offset) + rng.normal(0, 0.1)
                self._stand("movable_object.trafficcone", s, place, rng.uniform(-3, 3))

    # --- people ---

    def _walkers(self, side: int) -> None:
        """Alone, in pairs and in groups, walking or standing together."""
        rng, layout = self.rng, self.layout
        for s in np.arange(layout.start - 15, layout.end + 15, 27.0).tolist():
            s = s + rng.uniform(-11, 11)
            lateral = side * (layout.kerb + rng.uniform(1.7, layout.sidewalk_width - 0.6))
            size = min(int(rng.geometric(0.45)), 7)
            if rng.random() < 0.3:
                self._circle(s, lateral, size)
                continue
            direction, pace = int(rng.choice([-1, 1])), rng.normal(1.3, 0.22)
            wander = rng.uniform(0.0, 0.5), rng.uniform(10.0, 22.0), rng.uniform(0, 2 * np.pi)
            for i in range(size):
                place = s + direction * 1.15 * (i // 2) + rng.normal(0, 0.15), lateral - side * 0.85 * (i % 2)
                self._stroll(*place, direction, pace, wander)

    def _circle(self, s: float, lateral: float, size: int) -> None:
        """People who stand and talk."""
        if self.layout.near_crossing(s, 1.0):
            return
        radius = 0.25 + 0.16 * size if size > 1 else 0.0
        for angle in (2 * np.pi * np.arange(size) / size + self.rng.uniform(0, 6)).tolist():
            place = s + radius * np.cos(angle), lateral + radius * np.sin(angle)
            facing = angle + np.pi + self.rng.normal(0, 0.3)
            self._stand(_person(self.rng), *place, facing, SIDEWALK_HEIGHT_M)

    def _stroll(self, s: float, lateral: float, direction: int, pace: float, wander: tuple) -> None:
        """One person along the sidewalk, swinging from side to side by ``wander``: metres, wavelength, phase."""
        line = s + direction * pace * self.times
        low, high = side_road_edges(self.path, self.layout, lateral, 1.5)
        if ((line > low) & (line < high)).any():
            return  # it would have to step off the kerb into the side road
        amplitude, wavelength, phase = wander
        xy, _ = self.path.pose(line, lateral + amplitude * np.sin(2 * np.pi * line / wavelength + phase))
        step = np.gradient(xy, axis=0)
        shape = make_shape(_person(self.rng), self.rng)
        track = Track(xy[:, 0], xy[:, 1], np.unwrap(np.arctan2(step[:, 1], step[:, 0])))
        self.actors.append(Actor(shape, track, SIDEWALK_HEIGHT_M, stride_hz=0.62 * pace / shape.size[2] * 1.75))

    def _crowd(self, way: int, side: int) -> None:
        """At some corners, before or behind (``way``) the side road, people wait for the lights or a bus."""
        rng, layout = self.rng, self.layout
        if rng.random() < 0.75:
            return
        for _ in range(int(rng.integers(6, 20))):
            lateral = side * (layout.kerb + rng.uniform(0.6, layout.sidewalk_width - 0.3))
            s = side_road_edges(self.path, layout, lateral, 4.4)[way > 0] + float(
                np.clip(rng.normal(0, 1.6), -3.5, 3.5)
            )
            self._stand(_person(rng), s, lateral, rng.uniform(-np.pi, np.pi), SIDEWALK_HEIGHT_M)


def _person(rng: np.random.Generator) -> str:
    return "human.pedestrian.adult" if rng.random() < 0.88 else "human.pedestrian.child"


def _bend(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """[N, 2] a parabola from the end of the line ``first`` [N, 2] to the begin of ``last`` [N, 2], tangent to both."""
    start, end, along, onward = first[-1], last[0], first[-1] - first[-2], last[1] - last[0]
    reach = np.linalg.solve(np.stack([along, -onward], 1), end - start)
    corner, share = start + reach[0] * along, np.linspace(0, 1, 60)[1:-1, None]
    return (1 - share) ** 2 * start + 2 * share * (1 - share) * corner + share**2 * end
