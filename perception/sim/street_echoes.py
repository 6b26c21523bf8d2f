"""Where a radar's echoes come from in the street: scatterers of objects, of scenery, and mirror images in walls.

A scatterer stays where it is on its object and fades in and out within tenths of a second, so that the clusters of
successive sweeps are as related as recorded ones. Scenery answers where the radar's rays meet it, each piece of the
world with a cross-section of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.sim.mesh import Material
from perception.sim.raycast import Snapshot
from perception.sim.traffic import Actor

OBJECT, SCENERY, GHOST, NOISE = range(4)
# Scatterers all around an object, and mean and spread of their RCS in dBsm. Of cones a radar sees nothing.
_SCATTERERS = {
    "vehicle.car": (6, 3.5, 6.5),
    "vehicle.truck": (9, 6.0, 7.0),
    "vehicle.bus.rigid": (36, 8.0, 7.0),
    "vehicle.trailer": (9, 5.0, 7.5),
    "vehicle.construction": (6, 4.0, 7.5),
    "vehicle.motorcycle": (3, 0.0, 4.0),
    "vehicle.bicycle": (3, -1.5, 4.0),
    "movable_object.trafficcone": (0, 0.0, 0.0),
    "movable_object.barrier": (2, -1.0, 5.0),
}
_PEDESTRIAN = (2, -6.0, 4.0)
_FADE_S, _FADE_DB = 0.4, 5.0
_WHEEL_SHARE = 0.2  # of a vehicle's scatterers: what turns with the wheels, or swings with the legs
LAYERS, STEP_M = 6, 0.4  # surfaces behind one another that rays go through, and what lies between them at least
GAP_LOSS_DB = 2.5  # of leaves, wires and bars, there and back
_WIRE_M = 0.05  # what is narrower hides nothing
_RAYS, _ELEVATION_RAD = 270, np.radians([-0.6, 1.2, 4.0])
_CELL_M = 1.4  # pieces of scenery that a radar tells apart
_SCENERY_DBSM, _SCENERY_SPREAD_DB, _CELL_DB = 2.5, 8.0, 18.0  # at 50 m; what a radar tells apart grows with range
_GROUND_LOSS_DB = 9.0
_MIRROR_LOSS_DB, _MIRROR_RANGE_M = 7.0, 45.0
_FLAT_M, _FLAT_COSINE, _PLANE_M = 4.0, 0.97, 0.2  # a wall: places this close, with such normals, in one plane


@dataclass(frozen=True, eq=False)
class Echoes:
    """points [N, 3] world metres; velocity [N, 2] world m/s; rcs [N] dBsm; kind [N]; error [N]: the bearing error in
    units of its standard deviation, which changes as slowly as the scatterer fades."""

    points: np.ndarray
    velocity: np.ndarray
    rcs: np.ndarray
    kind: np.ndarray
    error: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Echoes:
        return Echoes(*(values[chosen] for values in vars(self).values()))

    @classmethod
    def join(cls, parts: list[Echoes]) -> Echoes:
        return cls(*(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


class Scatterers:
    """What every object of a scene returns to one radar."""

    def __init__(self, actors: list[Actor], rng: np.random.Generator):
        facts = np.array([_SCATTERERS.get(actor.shape.category, _PEDESTRIAN) for actor in actors]).reshape(-1, 3)
        self.owner = np.repeat(np.arange(len(actors)), facts[:, 0].astype(int))
        count, size = len(self.owner), np.array([actor.shape.size for actor in actors]).reshape(-1, 3)
        half, spread = 0.5 * size[self.owner], facts[self.owner, 2]
        self._mean = facts[self.owner, 1] + 0.6 * spread * rng.normal(size=len(actors))[self.owner]
        self._mean += 0.8 * spread * rng.normal(size=count)
        side = rng.random(count) * (half[:, 0] + half[:, 1]) < half[:, 0]  # on a long side, or on the front or rear
        sign, free = np.where(rng.random(count) < 0.5, -1.0, 1.0), rng.uniform(-0.95, 0.95, count)
        inside = 1 - np.minimum(rng.exponential(0.12, count), 0.9)
        self._local = (
            np.stack([np.where(side, free, sign * inside), np.where(side, sign * inside, free)], 1) * half[:, :2]
        )
        self._outward = np.stack([np.where(side, 0.0, sign), np.where(side, sign, 0.0)], 1)
        self._turning = rng.random(count) < _WHEEL_SHARE
        self.fade, self._error = rng.normal(size=count), rng.normal(size=count)
        self._shared_error = rng.normal(size=len(actors))

    def echoes(self, poses: np.ndarray, velocities: np.ndarray, place: np.ndarray, step_s: float, rng) -> Echoes:
        """All of them, ``step_s`` seconds after the last time; poses [A, 4], velocities [A, 2], place [3] of the radar.

        Sides that are turned away are weak: what gets through below the floor.
        """
        keep = np.exp(-step_s / _FADE_S)
        self.fade, self._error, self._shared_error = (
            keep * state + np.sqrt(1 - keep**2) * rng.normal(size=len(state))
            for state in (self.fade, self._error, self._shared_error)
        )
        x, y, yaw, ground = poses[self.owner].T
        cos, sin = np.cos(yaw), np.sin(yaw)
        a, b = self._local.T
        points = np.stack([cos * a - sin * b + x, sin * a + cos * b + y, ground + 0.5], 1)
        toward = place[:2] - points[:, :2]
        toward /= np.maximum(np.hypot(*toward.T), 0.1)[:, None]
        u, v = self._outward.T
        facing = (cos * u - sin * v) * toward[:, 0] + (sin * u + cos * v) * toward[:, 1]
        rcs = self._mean + _FADE_DB * self.fade + np.where(facing > 0, 4.0 * facing, -10.0)
        swing = np.where(self._turning, 1 + 0.5 * rng.normal(size=len(x)), 1.0)
        error = np.sqrt(0.5) * (self._error + self._shared_error[self.owner])
        return Echoes(points, velocities[self.owner] * swing[:, None], rcs, np.full(len(x), OBJECT), error)


@dataclass(frozen=True, eq=False)
class Walls:
    """Places [N, 3] on upright surfaces that a radar sees, and their horizontal normals [N, 2], towards it."""

    places: np.ndarray
    normals: np.ndarray


def surfaces(snapshot: Snapshot, triangle: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of triangles [N] that rays [N, 3] meet: normals [N, 3] towards the viewer, and whether a radar sees through them
    as through leaves, wires and bars, bool [N]. Of what moves it does not, and the normals mean nothing."""
    stage, fixed = snapshot.stage, np.minimum(triangle, len(snapshot.stage.widths) - 1)
    normal = snapshot.normals_of(fixed).astype(float)
    normal *= np.where(np.sum(normal * rays, axis=1) > 0, -1.0, 1.0)[:, None]
    narrow = (stage.widths[fixed] < _WIRE_M) & (normal[:, 2] < 0.7)  # unlike slivers of the ground
    scenery = (fixed == triangle) & (stage.instance[fixed] < 0)
    return normal, scenery & (narrow | (stage.material[fixed] == Material.FOLIAGE))


def scenery_echoes(snapshot: Snapshot, place: np.ndarray, yaw: float, rng: np.random.Generator) -> tuple[Echoes, Walls]:
    """What rays over the field of view meet that stands still, and what lies behind leaves, wires and bars.

    Nothing else hides these echoes: the rays have passed what is in their way.
    """
    azimuth = yaw + np.radians(68.0) * np.linspace(-1, 1, _RAYS)
    elevation = np.resize(_ELEVATION_RAD, _RAYS)
    cos = np.cos(elevation)
    rays = np.stack([np.cos(azimuth) * cos, np.sin(azimuth) * cos, np.sin(elevation)], 1)
    start, lost = np.tile(place, (_RAYS, 1)), np.zeros(_RAYS)
    points, normals, losses, leaves = [], [], [], []
    for _ in range(LAYERS):
        distance, triangle = snapshot.cast(start, rays)
        hit = (triangle >= 0) & (distance < 250.0)
        triangle, rays, lost = triangle[hit], rays[hit], lost[hit]
        met = start[hit] + rays * distance[hit, None]
        normal, gaps = surfaces(snapshot, triangle, rays)
        facing = -np.sum(normal * rays, axis=1)
        # Objects have scatterers of their own.
        own = (triangle < len(snapshot.stage.widths)) & (snapshot.stage.instance[triangle] < 0)
        points.append(met[own])
        normals.append(normal[own])
        losses.append((lost + np.where(normal[:, 2] > 0.7, _GROUND_LOSS_DB, -5.0 * facing))[own])
        leaves.append(snapshot.stage.material[triangle[own]] == Material.FOLIAGE)
        start, rays, lost = (met + STEP_M * rays)[gaps], rays[gaps], lost[gaps] + GAP_LOSS_DB
    found, normal, lost, leaf = (np.concatenate(parts) for parts in (points, normals, losses, leaves))
    cell = np.floor(found / [_CELL_M, _CELL_M, 4.0]).astype(np.int64)
    _, first = np.unique(cell, axis=0, return_index=True)
    found, cell, lost, normal, leaf = found[first], cell[first], lost[first], normal[first], leaf[first]
    reach = np.maximum(np.hypot(*(found - place)[:, :2].T), 1.0)
    rcs = _SCENERY_DBSM + _SCENERY_SPREAD_DB * _of_cell(cell, 1) - lost + rng.normal(0, 3, len(found))
    rcs += _CELL_DB * np.log10(reach / 50.0)
    echoes = Echoes(found, np.zeros((len(found), 2)), rcs, np.full(len(found), SCENERY), _of_cell(cell, 2))
    upright = (np.abs(normal[:, 2]) < 0.3) & (reach < _MIRROR_RANGE_M) & ~leaf
    across = normal[upright, :2] / np.maximum(np.hypot(*normal[upright, :2].T), 1e-6)[:, None]
    mirrors = _flat(found[upright], across)
    return echoes, Walls(found[upright][mirrors], across[mirrors])


def _flat(places: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """bool [N]: two other places lie near and in the same plane, as on walls and fences, but not on posts."""
    offset = places[None, :, :2] - places[:, None, :2]
    near = np.hypot(offset[..., 0], offset[..., 1]) < _FLAT_M
    plane = np.abs(np.einsum("abc,ac->ab", offset, normals)) < _PLANE_M
    return np.sum(near & plane & (normals @ normals.T > _FLAT_COSINE), axis=1) > 2


def reflector_echoes(reflectors: np.ndarray, rng: np.random.Generator) -> Echoes:
    """Reflectors [N, 4] that the scenery names (poles, signs, kerbs): world x, y, z and mean RCS."""
    places = reflectors[:, :3].reshape(-1, 3)
    cell, count = np.floor(10 * places).astype(np.int64), len(places)
    rcs = reflectors[:, 3] + rng.normal(0, 3, count)
    return Echoes(places, np.zeros((count, 2)), rcs, np.full(count, SCENERY), _of_cell(cell, 2))


def ghosts(echoes: Echoes, walls: Walls, place: np.ndarray, bright: np.ndarray) -> Echoes:
    """Mirror images of the chosen echoes: each in the wall of the shortest detour, behind which it seems to move.

    Args:
        bright: bool [N] of the echoes, those strong enough for a second way.
    """
    echoes = echoes[bright]
    if len(walls.places) == 0 or len(echoes.rcs) == 0:
        return echoes[np.zeros(0, int)]
    offset = echoes.points[:, None, :2] - walls.places[None, :, :2]
    depth = np.einsum("kwc,wc->kw", offset, walls.normals)  # in front of the wall's plane
    way = np.hypot(offset[..., 0], offset[..., 1]) + np.hypot(*(walls.places[:, :2] - place[:2]).T)
    way = np.where(depth > 0.5, way, np.inf)
    chosen = np.argmin(way, axis=1)
    rows = np.flatnonzero(np.isfinite(way[np.arange(len(way)), chosen]))
    normal, depth = walls.normals[chosen[rows]], depth[rows, chosen[rows]]
    image = echoes[rows]
    points = image.points.copy()
    points[:, :2] -= 2 * depth[:, None] * normal
    velocity = image.velocity - 2 * np.sum(image.velocity * normal, axis=1, keepdims=True) * normal
    return Echoes(points, velocity, image.rcs - _MIRROR_LOSS_DB, np.full(len(rows), GHOST), image.error)


def _of_cell(cell: np.ndarray, salt: int) -> np.ndarray:
    """[N] roughly standard normal numbers that belong to places [N, 3] of the world."""
    total = np.zeros(len(cell))
    for draw in range(4):
        mixed = cell.astype(np.uint64) @ np.array([73856093, 19349663, 83492791], np.uint64)
        mixed = (mixed + np.uint64(0x9E3779B97F4A7C15 * (4 * salt + draw + 1) % 2**64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += (mixed >> np.uint64(40)).astype(float) / 2**24 - 0.5
    return total * np.sqrt(3.0)
