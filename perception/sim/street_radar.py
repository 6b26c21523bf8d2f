"""A radar with the faults of a recorded one: coarse bearing, fading clusters, false velocities, clutter, ghosts.

Continental's ARS 408 as it appears in nuScenes: bearing is exact to half a degree ahead and to several degrees at the
side, range comes in steps, and half of the clusters are flagged as doubtful.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from perception.data.nuscenes_constants import RADAR_HZ
from perception.data.nuscenes_writer import RADAR_FIELDS
from perception.geometry import SE3
from perception.sim.radar import MAX_CLUSTERS
from perception.sim.raycast import Snapshot
from perception.sim.rig import Sensor, velocity_of
from perception.sim.street_echoes import (
    GAP_LOSS_DB,
    LAYERS,
    NOISE,
    OBJECT,
    STEP_M,
    Echoes,
    Scatterers,
    ghosts,
    reflector_echoes,
    scenery_echoes,
    surfaces,
)
from perception.sim.traffic import Actor

_MIN_RCS_DBSM = -5.0
_NO_LOSS_M = 105.0  # up to here 0 dBsm straight ahead are seen more often than not
_LEAK = 0.15  # share of hidden scatterers that still echo, below vehicles and around corners
_NOISE_MEAN = 9.0
_STEP_M, _RANGE_NOISE_M, _SPEED_STEP_MPS = 0.2, 0.15, 0.25
# By kind (object, scenery, ghost, noise): share that is valid, and share whose velocity is unambiguous.
_VALID, _UNAMBIGUOUS = np.array([0.65, 0.57, 0.25, 0.15]), np.array([0.9, 0.87, 0.6, 0.4])
_FALSE_SPEED, _FALSE_SPEED_MPS = np.array([0.01, 0.4]), 7.0  # of the unambiguous and the ambiguous, and its spread
_INVALID, _INVALID_SHARE = [11, 4, 9, 7, 16, 15, 10, 3], [0.27, 0.22, 0.17, 0.15, 0.1, 0.06, 0.02, 0.01]


def bearing_error_rad(angle: np.ndarray) -> np.ndarray:
    """Standard deviation of the bearing at angles [N] in radians off the boresight."""
    return np.radians(0.5 + 3.5 * (angle / np.radians(60)) ** 2)


class StreetRadar:
    """One radar of one scene. ``reflectors`` [N, 4]: scenery, world x, y, z and mean RCS; ``rng`` places scatterers."""

    def __init__(self, sensor: Sensor, actors: list[Actor], reflectors: np.ndarray, rng: np.random.Generator):
        self.sensor, self.reflectors = sensor, reflectors
        self._scatterers = Scatterers(actors, rng)

    def sweep(
        self,
        snapshot: Snapshot,
        poses: np.ndarray,
        velocities: np.ndarray,
        world_SE3_ego: SE3,
        ego_motion: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Clusters, structured array [N] of :data:`RADAR_FIELDS`, in the sensor frame.

        poses [A, 4]: x, y, yaw of the actors, height of the ground; velocities [A, 2] m/s world; ego_motion [3]: world
        vx, vy in m/s and yaw rate in rad/s. Sweeps follow each other at the radar's rate.
        """
        world_SE3_radar = world_SE3_ego @ self.sensor.ego_SE3_sensor
        place, yaw = world_SE3_radar.translation, world_SE3_radar.yaw
        objects = self._scatterers.echoes(poses, velocities, place, 1 / RADAR_HZ, rng)
        scenery, walls = scenery_echoes(snapshot, place, yaw, rng)
        known = Echoes.join([objects, reflector_echoes(self.reflectors, rng)])
        known = _unhidden(snapshot, known[_in_view(known, place, yaw)], place, rng)
        direct = Echoes.join([known, scenery])
        direct = direct[_detected(direct, place, yaw, rng)]
        bright = (direct.kind == OBJECT) & (direct.rcs > 9.0)
        images = ghosts(direct, walls, place, bright)
        echoes = Echoes.join([direct, images[_detected(images, place, yaw, rng)], _noise(place, yaw, rng)])

        offset = echoes.points[:, :2] - place[:2]
        distance, bearing = np.hypot(*offset.T), np.arctan2(offset[:, 1], offset[:, 0])
        own = velocity_of(place, world_SE3_ego, ego_motion)
        relative = np.sum((echoes.velocity - own) * offset, axis=1) / distance
        angle = (bearing - yaw + np.pi) % (2 * np.pi) - np.pi
        return _clusters(echoes, distance, angle, relative, own @ _rotation(yaw), rng)


def _rotation(yaw: float) -> np.ndarray:
    """Row vectors times this are turned by -yaw: from the world into the sensor's axes."""
    return np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])


def _polar(echoes: Echoes, place: np.ndarray, yaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Range [N] in metres and angle [N] in radians off the boresight."""
    offset = echoes.points[:, :2] - place[:2]
    return np.hypot(*offset.T), (np.arctan2(offset[:, 1], offset[:, 0]) - yaw + np.pi) % (2 * np.pi) - np.pi


def _in_view(echoes: Echoes, place: np.ndarray, yaw: float) -> np.ndarray:
    """bool [N]: within the field of view, and not too weak even close by."""
    distance, angle = _polar(echoes, place, yaw)
    return (distance > 0.8) & (distance < 250.0) & (np.abs(angle) < np.radians(70)) & (echoes.rcs >= _MIN_RCS_DBSM)


def _detected(echoes: Echoes, place: np.ndarray, yaw: float, rng) -> np.ndarray:
    """bool [N]: strong enough for its range and for the antenna's gain in its direction."""
    distance, angle = _polar(echoes, place, yaw)
    needed = 28 * np.log10(np.maximum(distance, 1.0) / _NO_LOSS_M) + 13 * (angle / np.radians(45)) ** 2
    return _in_view(echoes, place, yaw) & (echoes.rcs + rng.normal(0, 2, len(distance)) > needed)


def _unhidden(snapshot: Snapshot, echoes: Echoes, place: np.ndarray, rng) -> Echoes:
    """Those that nothing solid hides, or that find a way around it, weakened by the leaves and wires before them."""
    rays = echoes.points - place
    reach = np.linalg.norm(rays, axis=1)
    rays /= reach[:, None]
    end = np.maximum(reach - 1.2, 0.05 * reach)
    rcs, hidden, along, rows = (
        echoes.rcs.copy(),
        np.zeros(len(reach), bool),
        np.zeros(len(reach)),
        np.arange(len(reach)),
    )
    for layer in range(LAYERS):
        distance, triangle = snapshot.cast(place + along[rows, None] * rays[rows], rays[rows])
        along[rows] += distance
        before = along[rows] < end[rows]
        rows, triangle = rows[before], triangle[before]
        _, gaps = surfaces(snapshot, triangle, rays[rows])
        hidden[rows] = ~gaps | (layer == LAYERS - 1)
        rows = rows[gaps]
        rcs[rows] -= GAP_LOSS_DB
        along[rows] += STEP_M
    keep = ~hidden | (rng.random(len(reach)) < _LEAK)
    return replace(echoes, rcs=rcs)[keep]


def _noise(place: np.ndarray, yaw: float, rng) -> Echoes:
    """At least one echo of nothing, anywhere, at any speed: readers do not accept an empty file."""
    count = 1 + rng.poisson(_NOISE_MEAN)
    distance, bearing = 140 * np.sqrt(rng.uniform(0.001, 1, count)), yaw + rng.normal(0, np.radians(28), count)
    line = np.stack([np.cos(bearing), np.sin(bearing)], 1)
    points = np.column_stack([place[:2] + distance[:, None] * line, np.full(count, place[2])])
    speed = np.where(rng.random(count) < 0.3, rng.normal(0, 5, count), 0.0)
    rcs = rng.uniform(_MIN_RCS_DBSM, 6, count)
    return Echoes(points, speed[:, None] * line, rcs, np.full(count, NOISE), rng.normal(size=count))


def _clusters(echoes: Echoes, distance, angle, relative, own: np.ndarray, rng) -> np.ndarray:
    """What the radar writes of echoes at distance, angle and relative radial speed [N]; own [2] m/s: its velocity in
    its own axes. At most :data:`MAX_CLUSTERS`, ordered by range."""
    chosen = rng.permutation(len(distance))[:MAX_CLUSTERS]
    chosen = chosen[np.argsort(distance[chosen], kind="stable")]
    kind, count = echoes.kind[chosen], len(chosen)
    measured = distance[chosen] + rng.normal(0, _RANGE_NOISE_M, count)
    measured = np.maximum(np.round(measured / _STEP_M) * _STEP_M, _STEP_M)
    angle = angle[chosen] + bearing_error_rad(angle[chosen]) * echoes.error[chosen]
    cos, sin = np.cos(angle), np.sin(angle)
    unambiguous = rng.random(count) < _UNAMBIGUOUS[kind]
    folded = rng.random(count) < np.where(unambiguous, *_FALSE_SPEED)
    radial = relative[chosen] + rng.normal(0, 0.08, count) + folded * rng.normal(0, _FALSE_SPEED_MPS, count)
    radial = np.round(radial / _SPEED_STEP_MPS) * _SPEED_STEP_MPS
    over_ground = radial + cos * own[0] + sin * own[1]  # with the bearing that it believes in
    cluster = np.zeros(count, RADAR_FIELDS)
    cluster["x"], cluster["y"], cluster["id"] = measured * cos, measured * sin, np.arange(count)
    cluster["rcs"] = np.round(2 * echoes.rcs[chosen]) / 2
    cluster["vx"], cluster["vy"] = radial * cos, radial * sin
    cluster["vx_comp"], cluster["vy_comp"] = over_ground * cos, over_ground * sin
    standing = rng.choice([1, 3, 4, 7], count, p=[0.6, 0.31, 0.085, 0.005])
    moving = np.where(rng.random(count) < 0.2, 6, np.where(over_ground > 0, 0, 2))
    cluster["dyn_prop"] = np.where(np.abs(over_ground) > 0.8, moving, standing)
    cluster["is_quality_valid"] = 1
    doubt = rng.choice(_INVALID, count, p=_INVALID_SHARE)
    cluster["invalid_state"] = np.where(rng.random(count) < _VALID[kind], 0, doubt)
    cluster["ambig_state"] = np.where(unambiguous, 3, rng.choice([0, 1, 2], count, p=[0.43, 0.44, 0.13]))
    cluster["pdh0"] = rng.choice([1, 3, 6], count, p=[0.58, 0.34, 0.08])
    cluster["x_rms"], cluster["y_rms"] = 19 + rng.integers(0, 3, count), 19 + rng.integers(0, 4, count)
    cluster["vx_rms"], cluster["vy_rms"] = 16 + rng.integers(0, 2, count), 3
    return cluster
