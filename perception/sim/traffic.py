"""Who is on the road and how it moves: the actors of one scene and the ego vehicle.

Vehicles of a lane follow each other by the Intelligent Driver Model (Treiber, Hennecke and Helbing, 2000). All motion
is sampled every 50 ms and interpolated linearly between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from perception.sim.road import SIDEWALK_HEIGHT_M, Layout, Path
from perception.sim.shapes import Shape, make_shape

TIME_STEP_S = 0.05
LEAD_IN_S = 1.0  # motion starts this long before the first keyframe: sweeps before it need poses too
_EGO_LENGTH_M = 4.6


def interpolate(samples: np.ndarray, time: float) -> np.ndarray:
    """Motion sampled every ``TIME_STEP_S`` from ``-LEAD_IN_S`` on, [..., T], at one time: [...]."""
    index = min(max((time + LEAD_IN_S) / TIME_STEP_S, 0.0), samples.shape[-1] - 1)
    low = min(int(index), max(samples.shape[-1] - 2, 0))
    high, weight = min(low + 1, samples.shape[-1] - 1), index - low
    return (1 - weight) * samples[..., low] + weight * samples[..., high]


@dataclass(frozen=True, eq=False)
class Track:
    """Sampled motion. Args: x, y, yaw (continuous, radians): each [T], starting ``LEAD_IN_S`` before time zero."""

    x: np.ndarray
    y: np.ndarray
    yaw: np.ndarray

    @classmethod
    def standing(cls, xy, yaw: float) -> Track:
        return cls(*(np.array([float(value)]) for value in (xy[0], xy[1], yaw)))

    @property
    def moves(self) -> bool:
        return len(self.x) > 1

    def at(self, time: float) -> tuple[float, float, float]:
        """x, y, yaw at ``time`` seconds after the first keyframe."""
        x, y, yaw = interpolate(np.array([self.x, self.y, self.yaw]), time)
        return float(x), float(y), float(yaw)

    def velocity(self, time: float) -> np.ndarray:
        """[2] world m/s, mean over one sampling step around ``time``."""
        before, after = self.at(time - 0.5 * TIME_STEP_S), self.at(time + 0.5 * TIME_STEP_S)
        return (np.array(after[:2]) - before[:2]) / TIME_STEP_S

    def yaw_rate(self, time: float) -> float:
        """rad/s, likewise."""
        return (self.at(time + 0.5 * TIME_STEP_S)[2] - self.at(time - 0.5 * TIME_STEP_S)[2]) / TIME_STEP_S


@dataclass(frozen=True, eq=False)
class Actor:
    """One annotated object: its shape, motion, the height it stands on, and what it does when it stands still."""

    shape: Shape
    track: Track
    z: float = 0.0
    idle: str = ""
    rider: bool | None = None
    stride_hz: float = 0.0

    def attribute(self, time: float) -> str:
        """nuScenes attribute name, "" for classes that have none."""
        moving = bool(np.hypot(*self.track.velocity(time)) > 0.3)
        if self.rider is not None:
            return "cycle.with_rider" if self.rider else "cycle.without_rider"
        if self.shape.category.startswith("human"):
            return "pedestrian.moving" if moving else "pedestrian.standing"
        if self.shape.category.startswith("vehicle"):
            return "vehicle.moving" if moving else self.idle
        return ""


@dataclass(eq=False)
class _Follower:
    """A vehicle in a lane: ``s`` of its centre along the lane's direction, and the actors that ride on it."""

    s: float
    length: float
    desired: float
    parts: list[tuple[Shape, float, bool | None]] = field(default_factory=list)
    speed: float = 0.0


def _follow(lane: list[_Follower], steps: int) -> np.ndarray:
    """Intelligent Driver Model on one lane, leader first: positions [len(lane), steps]."""
    s, v = np.array([car.s for car in lane]), np.array([car.speed for car in lane])
    length, desired = np.array([car.length for car in lane]), np.array([car.desired for car in lane])
    result = np.empty((len(lane), steps))
    for step in range(steps):
        result[:, step] = s
        gap = np.concatenate([[1e3], s[:-1] - s[1:] - 0.5 * (length[:-1] + length[1:])])
        closing = v - np.concatenate([[v[0]], v[:-1]])
        wanted = 2.5 + np.maximum(0.0, 1.3 * v + v * closing / (2 * np.sqrt(1.2 * 2.0)))
        acceleration = np.clip(1.2 * (1 - (v / desired) ** 4 - (wanted / np.maximum(gap, 0.3)) ** 2), -6, 1.5)
        v = np.maximum(v + acceleration * TIME_STEP_S, 0.0)
        s = s + v * TIME_STEP_S
    return result


class Traffic:
    """All actors of a scene and the ego vehicle's track."""

    work_zone_m = 1.75  # between the edge of the parking strip and the middle of a work zone's machine, about
    empty_share = 0.66  # of the places along the kerb
    side_parking_m = 0.0  # strips beside the side road's lanes, which who crosses it must cross, too

    def __init__(self, rng: np.random.Generator, path: Path, layout: Layout, seconds: float, speed: float):
        self.rng, self.path, self.layout = rng, path, layout
        self.steps = int(np.ceil((seconds + LEAD_IN_S + 1.0) / TIME_STEP_S)) + 1
        self.times = np.arange(self.steps) * TIME_STEP_S - LEAD_IN_S
        self.actors: list[Actor] = []
        self.ego = Track.standing((0, 0), 0)
        self._lanes(speed)
        self._furnish()

    def _furnish(self) -> None:
        """Everybody besides the vehicles in the lanes of the main road."""
        for side in (-1, 1):
            self._parked(side)
            self._cyclists(side)
            self._walkers(side)
        for zone in self.layout.zones:
            self._work_zone(*zone)
        for lot in self.layout.lots:
            self._yard(*lot)
        self._crossing()

    def _along(self, s: np.ndarray, offset, direction: int) -> Track:
        xy, heading = self.path.pose(s, offset)
        return Track(xy[..., 0], xy[..., 1], heading + (0.0 if direction > 0 else np.pi))

    def _stand(self, category: str, s: float, offset: float, angle: float = 0.0, z: float = 0.0, **options) -> None:
        """Put a standing actor at (s, offset), at ``angle`` to the heading of the road."""
        rider = options.pop("rider", None)
        shape = make_shape(category, self.rng, rider=bool(rider), walking=False)
        xy, heading = self.path.pose(s, offset)
        self.actors.append(Actor(shape, Track.standing(xy, float(heading) + angle), z, rider=rider, **options))

    def _coupling(self, tractor: Shape) -> float:
        """Metres from the tractor's nose to the trailer's: the trailer rests on the tractor."""
        return 3.4

    def _lane_vehicle(self, category: str) -> _Follower:
        rng = self.rng
        if category == "vehicle.trailer":
            tractor, trailer = make_shape("vehicle.truck", rng, tractor=True), make_shape(category, rng)
            behind = self._coupling(tractor)
            length = behind + trailer.size[0]
            front = 0.5 * length
            parts: list[tuple[Shape, float, bool | None]] = [
                (tractor, front - 0.5 * tractor.size[0], None),
                (trailer, front - behind - 0.5 * trailer.size[0], None),
            ]
            return _Follower(0.0, length, 0.0, parts)
        rider = True if category == "vehicle.motorcycle" else None
        shape = make_shape(category, rng, rider=bool(rider))
        return _Follower(0.0, shape.size[0], 0.0, [(shape, 0.0, rider)])

    def _lanes(self, speed: float) -> None:
        """Fill every lane with vehicles; the ego vehicle is one of the lane right of the centre line."""
        rng, layout = self.rng, self.layout
        deck = (
            ["vehicle.car"] * 8
            + ["vehicle.truck"] * 3
            + ["vehicle.bus.rigid"] * 2
            + ["vehicle.trailer"] * 2
            + ["vehicle.motorcycle"] * 2
        )
        queue: list[str] = []
        for direction in (1, -1):
            for lane in range(layout.lanes):
                offset = -direction * (lane + 0.5) * layout.lane_width
                is_ego = direction == 1 and lane == 0
                pace = speed * rng.uniform(0.85, 1.2) * (0.3 if rng.random() < 0.15 and not is_ego else 1.0)
                ahead: list[_Follower] = []
                low, high = layout.start - 20, layout.end + 20
                s = high - rng.uniform(0, 15)
                ego_index = -1
                while s > low:
                    if is_ego and ego_index < 0 and s < 14.0:
                        vehicle, gap = _Follower(0.0, _EGO_LENGTH_M, 0.0), 0.0
                        ego_index, s = len(ahead), 0.0
                    else:
                        if not queue:
                            queue = list(rng.permutation(deck))
                        vehicle, gap = self._lane_vehicle(queue.pop()), rng.uniform(12, 48)
                        if not (is_ego and ego_index < 0 and s - vehicle.length < 10.0):
                            s -= 0.5 * vehicle.length
                        else:
                            s = min(s, 13.9)
                            continue
                    vehicle.s, vehicle.speed, vehicle.desired = (
                        s,
                        pace * rng.uniform(0.9, 1.0),
                        pace * rng.uniform(0.95, 1.15),
                    )
                    ahead.append(vehicle)
                    s -= 0.5 * vehicle.length + gap + (8.0 if not vehicle.parts else 0.0)
                self._drive(ahead, offset, direction, ego_index)

    def _drive(self, lane: list[_Follower], offset: float, direction: int, ego_index: int) -> None:
        positions = _follow(lane, self.steps)
        sway = 0.15 * np.sin(0.5 * self.times + self.rng.uniform(0, 6, (len(lane), 1)))
        for i, vehicle in enumerate(lane):
            # An oncoming lane is the same lane seen from its far end.
            for shape, ahead, rider in vehicle.parts:
                s = positions[i] + ahead
                s = s if direction > 0 else self.layout.start + self.layout.end - s
                self.actors.append(
                    Actor(shape, self._along(s, offset + sway[i], direction), 0.0, "vehicle.stopped", rider)
                )
            if i == ego_index:
                self.ego = self._along(positions[i], offset + sway[i], direction)

    def _parked(self, side: int) -> None:
        rng, layout = self.rng, self.layout
        offset = side * (layout.parking_edge + 0.5 * layout.parking_width)
        s = layout.start - 15 + rng.uniform(0, 10)
        names = ["vehicle.car", "vehicle.truck", "vehicle.trailer", "vehicle.motorcycle", "vehicle.bus.rigid"]
        while s < layout.end + 15:
            category = names[rng.choice(5, p=[0.64, 0.12, 0.1, 0.09, 0.05])]
            room = {
                "vehicle.trailer": 15.5,
                "vehicle.truck": 10.5,
                "vehicle.bus.rigid": 14.5,
                "vehicle.motorcycle": 3.0,
            }.get(category, 6.4)
            middle = s + 0.5 * room
            s += room
            free = not layout.near_crossing(middle, 0.5 * room + 1) and not layout.within(
                layout.zones, middle, side, 0.5 * room + 1.5
            )
            if not free or rng.random() < self.empty_share:
                continue
            angle = (0.0 if side < 0 else np.pi) + rng.normal(0, 0.03)
            if category == "vehicle.motorcycle":
                self._stand(category, middle, offset, angle + rng.uniform(0.3, 1.4), rider=False)
            else:
                self._stand(category, middle, offset + rng.normal(0, 0.08), angle, idle="vehicle.parked")

    def _cyclists(self, side: int) -> None:
        rng, layout = self.rng, self.layout
        direction, pace = -side, rng.uniform(3.5, 6.0)
        offset = side * (layout.lane_edge + 0.5 * layout.bike_width)
        for s in np.arange(layout.start - 25, layout.end + 25, 68.0) + rng.uniform(0, 15):
            category = "vehicle.bicycle" if rng.random() < 0.75 else "vehicle.motorcycle"
            shape = make_shape(category, rng, rider=True)
            line = s + rng.uniform(-14, 14) + direction * pace * self.times
            wobble = 0.1 * np.sin(1.5 * self.times + rng.uniform(0, 6))
            self.actors.append(Actor(shape, self._along(line, offset + wobble, direction), rider=True))
        for s in np.arange(layout.start, layout.end, 60.0) + rng.uniform(0, 50):
            if not layout.near_crossing(s, 1.0):
                angle = rng.uniform(-0.4, 0.4) + rng.choice([0.0, 1.57])
                self._stand("vehicle.bicycle", s, side * (layout.kerb + 0.95), angle, SIDEWALK_HEIGHT_M, rider=False)

    def _walkers(self, side: int) -> None:
        rng, layout = self.rng, self.layout
        for s in np.arange(layout.start - 15, layout.end + 15, 54.0).tolist():
            s = s + rng.uniform(-12, 12)
            category = "human.pedestrian.adult" if rng.random() < 0.88 else "human.pedestrian.child"
            lateral = side * (layout.kerb + rng.uniform(1.6, layout.sidewalk_width - 0.4))
            if rng.random() < 0.25:
                if not layout.near_crossing(s):
                    self._stand(category, s, lateral, rng.uniform(-np.pi, np.pi), SIDEWALK_HEIGHT_M)
                continue
            self._walk(category, s, lateral, int(rng.choice([-1, 1])), SIDEWALK_HEIGHT_M)

    def _walk(self, category: str, s: float, offset: float, direction: int, z: float) -> None:
        pace = self.rng.normal(1.35, 0.25) * (0.8 if category.endswith("child") else 1.0)
        shape = make_shape(category, self.rng)
        line = s + direction * pace * self.times
        if z and (abs(line - self.layout.cross_s) < self.layout.cross_half_width + 1.5).any():
            return  # it would have to step off the kerb into the side road
        self.actors.append(
            Actor(shape, self._along(line, offset, direction), z, stride_hz=0.62 * pace / shape.size[2] * 1.75)
        )

    def _work_zone(self, low: float, high: float, side: int) -> None:
        """Part of the parking strip fenced off by barriers and cones, with a machine and workers in it."""
        rng, layout = self.rng, self.layout
        if layout.near_crossing(0.5 * (low + high), 0.5 * (high - low) + 1):
            return
        edge, middle = side * (layout.parking_edge + 0.25), side * (layout.parking_edge + self.work_zone_m)
        for s in np.arange(low + 3.2, high - 2.5, rng.uniform(3.2, 4.2)).tolist():
            self._stand("movable_object.barrier", s, edge + rng.normal(0, 0.08), 0.5 * np.pi + rng.normal(0, 0.06))
        for end in (low, high):
            for fraction in np.linspace(0.15, 1.0, rng.integers(1, 3)).tolist():
                inward = 1 if end == low else -1
                s = end + inward * 2.2 * (1 - fraction) + rng.normal(0, 0.1)
                self._stand("movable_object.trafficcone", s, edge + side * fraction * 1.9, rng.uniform(-3, 3))
        angle = (0.0 if side < 0 else np.pi) + rng.choice([0.0, np.pi]) + rng.normal(0, 0.08)
        self._stand("vehicle.construction", 0.5 * (low + high), middle + 0.2 * side, angle, idle="vehicle.parked")
        for s in (low + 2.0, high - 2.0):
            if rng.random() < 0.7:
                self._stand(
                    "human.pedestrian.construction_worker", s, middle + rng.uniform(-0.4, 0.4), rng.uniform(-3, 3)
                )

    def _yard(self, low: float, high: float, side: int) -> None:
        """An open yard: vehicles standing across the road's direction, a row of cones or barriers before them."""
        rng, layout = self.rng, self.layout
        names = ["vehicle.car", "vehicle.truck", "vehicle.trailer", "vehicle.construction", "vehicle.bus.rigid"]
        for s in np.arange(low + 3.0, high - 2.0, 5.2).tolist():
            first = s < low + 4.0  # a trailer in every yard: none of the classes is left to chance
            if (rng.random() < 0.62 and not first) or layout.near_crossing(s, 3.0):
                continue
            category = "vehicle.trailer" if first else names[rng.choice(5, p=[0.45, 0.2, 0.12, 0.13, 0.1])]
            angle = rng.choice([-0.5, 0.5]) * np.pi + rng.normal(0, 0.08)
            self._stand(category, s, side * (layout.house_line + 10 + rng.uniform(0, 3)), angle, idle="vehicle.parked")
        category = ["movable_object.trafficcone", "movable_object.barrier"][int(rng.random() < 0.7)]
        step = 3.4 if category.endswith("barrier") else 2.6
        for s in np.arange(low + 1.0, low + 1.0 + rng.integers(2, 5) * step, step).tolist():
            if not layout.near_crossing(s, 2.0):
                self._stand(category, s, side * (layout.house_line + 0.6), 0.5 * np.pi + rng.normal(0, 0.25))

    def _crossing(self) -> None:
        """Side road: a queue at each stop line, traffic leaving, and people on the zebra crossings."""
        rng, layout = self.rng, self.layout
        center, heading = self.path.pose(layout.cross_s)
        names = ["vehicle.car", "vehicle.truck", "vehicle.bus.rigid", "vehicle.motorcycle"]
        bus_arm = int(rng.choice([-1, 1]))  # a bus heads one of the queues: every scene has one
        for arm in (1, -1):
            yaw = float(heading) + layout.cross_angle + (0.0 if arm > 0 else np.pi)
            out, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
            distance = layout.kerb + 6.5
            for place in range(rng.integers(1, 4)):
                category = (
                    names[2] if (arm, place) == (bus_arm, 0) else names[rng.choice(4, p=[0.62, 0.15, 0.08, 0.15])]
                )
                rider = True if category.endswith("motorcycle") else None
                shape = make_shape(category, rng, rider=bool(rider))
                xy = center + out * (distance + 0.5 * shape.size[0]) + left * 0.5 * layout.lane_width
                self.actors.append(Actor(shape, Track.standing(xy, yaw + np.pi), idle="vehicle.stopped", rider=rider))
                distance += shape.size[0] + rng.uniform(1.5, 3.5)
            line = layout.kerb + 14 + rng.uniform(0, 20) + rng.uniform(5, 8) * self.times
            xy = center + out * line[:, None] - left * 0.5 * layout.lane_width
            shape = make_shape("vehicle.car", rng)
            self.actors.append(
                Actor(shape, Track(xy[:, 0], xy[:, 1], np.full(self.steps, yaw)), idle="vehicle.stopped")
            )
            for _ in range(2):
                self._cross_street(center, out, left, yaw)

    def _cross_street(self, center, out, left, yaw: float) -> None:
        rng, layout = self.rng, self.layout
        shape, pace = make_shape("human.pedestrian.adult", rng), rng.normal(1.3, 0.15)
        half = layout.cross_half_width + self.side_parking_m - 0.4
        duration = self.times[-1] - self.times[0]
        way = int(rng.choice([-1, 1]))
        lateral = (
            np.clip(-half - rng.uniform(0.0, pace * duration) + pace * (self.times + LEAD_IN_S), -half, half) * way
        )
        xy = center + out * (layout.kerb + 2.6 + rng.uniform(-1, 1)) + lateral[:, None] * left
        track = Track(xy[:, 0], xy[:, 1], np.full(self.steps, yaw + way * 0.5 * np.pi))
        self.actors.append(Actor(shape, track, stride_hz=0.62 * pace / shape.size[2] * 1.75))
