"""Five automotive radars: clusters with RCS and Doppler velocity, clutter, ghosts, and the state flags of nuScenes.

A radar measures radial velocity only: the vectors written are that speed along the line of sight, in the sensor frame.
``vx`` and ``vy`` are relative to the moving sensor, ``vx_comp`` and ``vy_comp`` over ground.
"""

from __future__ import annotations

import numpy as np

from perception.data.nuscenes_writer import RADAR_FIELDS
from perception.geometry import SE3
from perception.sim.raycast import Snapshot
from perception.sim.rig import Sensor, velocity_of
from perception.sim.traffic import Actor

MAX_CLUSTERS = 125
_MIN_RCS_DBSM = -5.0
# Mean and spread of the RCS in dBsm of one cluster, and the mean number of clusters of an unobstructed object at 15 m.
_ECHO = {
    "vehicle.car": (8.0, 6.0, 3.0),
    "vehicle.truck": (12.0, 7.0, 4.5),
    "vehicle.bus.rigid": (13.0, 7.0, 10.0),
    "vehicle.trailer": (13.0, 7.0, 5.5),
    "vehicle.construction": (10.0, 7.0, 3.5),
    "vehicle.motorcycle": (2.5, 4.0, 1.4),
    "vehicle.bicycle": (0.0, 3.5, 1.1),
    "movable_object.trafficcone": (-2.5, 2.5, 0.7),
    "movable_object.barrier": (3.0, 5.0, 1.8),
}
_PEDESTRIAN_ECHO = (-1.0, 3.0, 1.6)
_CLUTTER_MEAN = 18.0
_LEAK = 0.2  # share of hidden reflectors that still echo, below vehicles and around corners
_OTHER_VALID_STATES = np.array([4, 8, 9, 10, 11, 12, 15, 16])


class Radar:
    """One radar of one scene. ``reflectors`` [N, 4]: scenery, world x, y, z and mean RCS."""

    def __init__(self, sensor: Sensor, actors: list[Actor], reflectors: np.ndarray):
        self.sensor, self.actors, self.reflectors = sensor, actors, reflectors
        echoes = [_ECHO.get(actor.shape.category, _PEDESTRIAN_ECHO) for actor in actors]
        self._echo = np.array(echoes)
        self._size = np.array([actor.shape.size for actor in actors])

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

        poses [A, 4]: x, y, yaw of the actors and the height of the ground; velocities [A, 2] m/s world; ego_motion [3]:
        world vx, vy in m/s and yaw rate in rad/s.
        """
        world_SE3_radar = world_SE3_ego @ self.sensor.ego_SE3_sensor
        place = world_SE3_radar.translation
        owner, points, rcs = self._object_echoes(poses, place, rng)
        target_velocity = velocities[owner]
        count = len(points)
        scenery = self._scenery_echoes(place, rng)
        points = np.concatenate([points, scenery[:, :3]])
        rcs = np.concatenate([rcs, scenery[:, 3]])
        speed = np.concatenate([target_velocity, np.zeros((len(scenery), 2))])
        is_object = np.arange(len(points)) < count
        yaw = world_SE3_radar.yaw
        keep = _in_view(points[:, :2] - place[:2], yaw) & (rcs >= _MIN_RCS_DBSM)
        points, rcs, speed, is_object = points[keep], rcs[keep], speed[keep], is_object[keep]
        rays = points - place
        reach = np.linalg.norm(rays, axis=1, keepdims=True)
        hidden = snapshot.occluded(np.broadcast_to(place, rays.shape), rays * np.maximum(1 - 1.2 / reach, 0.05), 1.0)
        keep = ~hidden | (rng.random(len(rays)) < _LEAK)
        points, rcs, speed, is_object = points[keep], rcs[keep], speed[keep], is_object[keep]

        sensor_velocity = velocity_of(place, world_SE3_ego, ego_motion)
        offset = points[:, :2] - place[:2]
        distance, bearing = np.hypot(*offset.T), np.arctan2(offset[:, 1], offset[:, 0])
        radial = np.sum(speed * offset, axis=1) / distance + rng.normal(0, 0.06, len(distance))
        distance, bearing, radial, rcs, kind = _add_false_echoes(distance, bearing, radial, rcs, is_object, yaw, rng)
        own = np.cos(bearing) * sensor_velocity[0] + np.sin(bearing) * sensor_velocity[1]
        return _clusters(distance, bearing - yaw, radial, radial - own, rcs, kind, rng)

    def _object_echoes(self, poses, place, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actor [K], world point [K, 3] on a side that faces the radar, RCS [K]."""
        offset = poses[:, :2] - place[:2]
        distance = np.hypot(*offset.T)
        expected = self._echo[:, 2] * np.minimum(15.0 / np.maximum(distance, 8.0), 1.3) ** 0.8
        owner = np.repeat(np.arange(len(poses)), np.where(distance < 110.0, rng.poisson(expected), 0))
        half = 0.5 * self._size[owner]
        yaw = poses[owner, 2]
        cos, sin = np.cos(yaw), np.sin(yaw)
        back = -offset[owner]
        local = np.stack([cos * back[:, 0] + sin * back[:, 1], cos * back[:, 1] - sin * back[:, 0]], 1)
        along_side = rng.random(len(owner)) * (
            half[:, 0] * np.abs(local[:, 1]) + half[:, 1] * np.abs(local[:, 0])
        ) < half[:, 0] * np.abs(local[:, 1])
        free = rng.uniform(-0.92, 0.92, len(owner))
        inside = 1 - np.minimum(rng.exponential(0.12, len(owner)), 0.9)
        x = np.where(along_side, free, np.sign(local[:, 0]) * inside) * half[:, 0]
        y = np.where(along_side, np.sign(local[:, 1]) * inside, free) * half[:, 1]
        points = np.stack(
            [cos * x - sin * y + poses[owner, 0], sin * x + cos * y + poses[owner, 1], poses[owner, 3] + 0.6], 1
        )
        return owner, points, rng.normal(self._echo[owner, 0], self._echo[owner, 1])

    def _scenery_echoes(self, place, rng) -> np.ndarray:
        """[K, 4] the reflectors of the scenery that are detected in this sweep, with their RCS in it."""
        distance = np.hypot(*(self.reflectors[:, :2] - place[:2]).T)
        rcs = self.reflectors[:, 3] + rng.normal(0, 2, len(distance))
        answers = rng.random(len(distance)) < 0.9 / (1 + np.exp((distance - 75 - 2.5 * rcs) / 14))
        return np.column_stack([self.reflectors[:, :3], rcs])[answers]


def _in_view(offset: np.ndarray, yaw: float) -> np.ndarray:
    """Wide and near, or narrow and far: the two beams of the sensor."""
    distance = np.hypot(*offset.T)
    angle = np.abs((np.arctan2(offset[:, 1], offset[:, 0]) - yaw + np.pi) % (2 * np.pi) - np.pi)
    return (distance > 0.8) & (
        ((angle < np.radians(60)) & (distance < 100)) | ((angle < np.radians(15)) & (distance < 200))
    )


def _add_false_echoes(distance, bearing, radial, rcs, is_object, yaw, rng):
    """Append clutter and ghosts. ``kind`` [N]: 0 object, 1 scenery, 2 clutter, 3 ghost."""
    clutter = 1 + rng.poisson(_CLUTTER_MEAN)  # readers do not accept an empty file
    strong = np.flatnonzero(is_object & (rcs > 3))
    ghost = strong[rng.random(len(strong)) < 0.08]
    kind = np.concatenate([np.where(is_object, 0, 1), np.full(clutter, 2), np.full(len(ghost), 3)])
    distance = np.concatenate(
        [distance, 100 * np.sqrt(rng.uniform(0.002, 1, clutter)), distance[ghost] * rng.uniform(1.4, 2.1, len(ghost))]
    )
    bearing = np.concatenate(
        [bearing, yaw + rng.uniform(-1.05, 1.05, clutter), bearing[ghost] + rng.normal(0, 0.03, len(ghost))]
    )
    radial = np.concatenate([radial, rng.normal(0, 0.15, clutter), radial[ghost] * rng.uniform(0.8, 2.0, len(ghost))])
    rcs = np.concatenate([rcs, rng.uniform(_MIN_RCS_DBSM, 3, clutter), rcs[ghost] - rng.uniform(3, 10, len(ghost))])
    return distance, bearing, radial, np.maximum(rcs, _MIN_RCS_DBSM), kind


def _clusters(distance, angle, over_ground, relative, rcs, kind, rng) -> np.ndarray:
    """Measurement noise, state flags, at most :data:`MAX_CLUSTERS` clusters ordered by range."""
    chosen = rng.permutation(len(distance))[:MAX_CLUSTERS]
    chosen = chosen[np.argsort(distance[chosen], kind="stable")]
    distance, angle, over_ground, relative, rcs, kind = (
        values[chosen] for values in (distance, angle, over_ground, relative, rcs, kind)
    )
    count = len(chosen)
    seen_distance = np.maximum(distance + rng.normal(0, 0.12, count), 0.3)
    seen_angle = angle + rng.normal(0, np.radians(0.5 + 1.2 * np.abs(np.sin(angle))), count)
    cos, sin = np.cos(seen_angle), np.sin(seen_angle)
    cluster = np.zeros(count, RADAR_FIELDS)
    cluster["x"], cluster["y"], cluster["id"] = seen_distance * cos, seen_distance * sin, np.arange(count)
    cluster["rcs"] = np.round(2 * rcs) / 2
    cluster["vx"], cluster["vy"] = relative * cos, relative * sin
    cluster["vx_comp"], cluster["vy_comp"] = over_ground * cos, over_ground * sin
    still = np.where(rng.random(count) < 0.65, 1, 3)
    cluster["dyn_prop"] = np.where(
        over_ground > 0.5, 0, np.where(over_ground < -0.5, 2, np.where(rng.random(count) < 0.03, 7, still))
    )
    cluster["is_quality_valid"] = 1
    valid = rng.random(count) < np.array([0.88, 0.75, 0.5, 0.15])[kind]
    other = rng.choice(_OTHER_VALID_STATES, count)
    other = np.where(kind == 3, 6, np.where((kind == 2) & (rng.random(count) < 0.5), 7, other))
    cluster["invalid_state"] = np.where(valid, 0, other)
    cluster["ambig_state"] = np.where(
        rng.random(count) < np.array([0.97, 0.97, 0.8, 0.6])[kind], 3, rng.integers(0, 3, count)
    )
    cluster["pdh0"] = np.where(
        kind >= 2, rng.choice([1, 3, 6], count, p=[0.2, 0.5, 0.3]), rng.choice([1, 3], count, p=[0.7, 0.3])
    )
    cluster["x_rms"], cluster["y_rms"] = 19 + rng.integers(0, 3, count), 19 + rng.integers(0, 4, count)
    cluster["vx_rms"], cluster["vy_rms"] = 16 + rng.integers(0, 2, count), 3
    return cluster
