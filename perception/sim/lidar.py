"""A spinning 32-beam LiDAR: one instant picture of the world per sweep, with intensity, range noise, dropouts and
weather.

As in the nuScenes recordings every beam of every firing is written; the ones that met nothing are points closer than 1
m to the sensor, which readers remove.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perception.geometry import SE3
from perception.sim.mesh import Material
from perception.sim.raycast import Snapshot
from perception.sim.rig import Sensor
from perception.sim.weather import Weather

RINGS, FIRINGS = 32, 1085
ELEVATION_RAD = np.radians(np.linspace(-30.67, 10.67, RINGS))
RANGE_NOISE_M = 0.018
MAX_RANGE_M = 105.0
# A surface of 10 % reflectivity, met head-on, returns half of the beams from this far.
_HALF_RANGE_M, _HALF_REFLECTIVITY = 88.0, 0.1
# Reflectivity: floor and what the brightness of the paint adds.
_REFLECTIVITY = np.zeros((len(Material), 2))
for _material, _values in {
    Material.MATTE: (0.05, 0.16),
    Material.PAINT: (0.07, 0.2),
    Material.GLASS: (0.02, 0.0),
    Material.RUBBER: (0.02, 0.05),
    Material.ASPHALT: (0.042, 0.06),
    Material.CONCRETE: (0.05, 0.12),
    Material.GRASS: (0.1, 0.1),
    Material.FACADE: (0.06, 0.16),
    Material.FOLIAGE: (0.1, 0.2),
    Material.HEADLIGHT: (0.4, 0.0),
    Material.TAILLIGHT: (0.5, 0.0),
    Material.RETRO: (0.85, 0.0),
    Material.MARKING: (0.2, 0.1),
    Material.LAMP: (0.2, 0.0),
}.items():
    _REFLECTIVITY[_material] = _values

WorldAt = Callable[[float], Snapshot]
EgoAt = Callable[[float], SE3]


class Lidar:
    """The LiDAR of one scene."""

    def __init__(self, sensor: Sensor, weather: Weather):
        self.sensor, self.weather = sensor, weather

    def delay_s(self, points: np.ndarray) -> np.ndarray:
        """[N]: how long before the stamp points [N, 3] are measured: not at all."""
        return np.zeros(len(points))

    def sweep(self, world_at: WorldAt, ego_at: EgoAt, time: float, rng: np.random.Generator) -> np.ndarray:
        """Points float32 [RINGS * FIRINGS, 5] in the sensor frame: x, y, z, intensity 0..255, ring from below.

        ``world_at`` and ``ego_at`` give the world and the vehicle's pose in it, world_SE3_ego, at a time in seconds.
        """
        snapshot, world_SE3_ego = world_at(time), ego_at(time)
        world_SE3_lidar = world_SE3_ego @ self.sensor.ego_SE3_sensor
        azimuth = np.pi - 2 * np.pi * (np.arange(FIRINGS) + rng.random()) / FIRINGS
        cos = np.cos(ELEVATION_RAD)
        rays = np.stack(
            [
                np.cos(azimuth)[:, None] * cos,
                np.sin(azimuth)[:, None] * cos,
                np.broadcast_to(np.sin(ELEVATION_RAD), (FIRINGS, RINGS)),
            ],
            axis=-1,
        ).reshape(-1, 3)
        directions = (rays @ world_SE3_lidar.rotation.T).astype(np.float32)
        distance, triangle = snapshot.cast(world_SE3_lidar.translation, directions)
        reflectivity, strength = self._response(snapshot, directions, distance, triangle)
        uniform = rng.random((3, len(rays)), dtype=np.float32)
        returned = (
            (triangle >= 0)
            & (distance < MAX_RANGE_M)
            & (uniform[0] < strength)
            & (uniform[1] > self.weather.lidar_loss)
        )
        measured = distance + RANGE_NOISE_M * rng.standard_normal(len(rays), dtype=np.float32)
        intensity = 255 * reflectivity * np.exp(0.3 * rng.standard_normal(len(rays), dtype=np.float32))
        if self.weather.lidar_backscatter:
            drop = 1.2 + rng.exponential(2.5, len(rays))
            scattered = (uniform[2] < self.weather.lidar_backscatter) & (drop < distance)
            measured = np.where(scattered, drop, measured)
            intensity = np.where(scattered, 4.0 * uniform[1], intensity)
            returned |= scattered
        measured = np.where(returned, measured, 0.9 * uniform[0])
        intensity = np.where(returned, np.clip(np.round(intensity), 0, 255), 0.0)
        ring = np.tile(np.arange(RINGS), FIRINGS)
        return np.column_stack([rays * measured[:, None], intensity, ring]).astype(np.float32)

    def _response(self, snapshot: Snapshot, directions, distance, triangle) -> tuple[np.ndarray, np.ndarray]:
        """Apparent reflectivity [N] and probability of a return [N]."""
        stage = snapshot.stage
        index = np.maximum(triangle, 0)
        material = stage.material[index]
        brightness = stage.color[index].mean(axis=1)
        base = _REFLECTIVITY[material, 0] + _REFLECTIVITY[material, 1] * brightness
        cosine = np.abs(np.sum(snapshot.normals[index] * directions, axis=1))
        retro = (material == Material.RETRO) | (material == Material.MARKING)
        reflectivity = base * np.where(retro, 1.0, 0.3 + 0.7 * cosine)
        near = np.where(np.isfinite(distance), np.maximum(distance, 1.0), 1e3)
        signal = base * (0.1 + 0.9 * cosine) / near**2 * np.exp(-2 * self.weather.lidar_extinction * near)
        ratio = np.maximum(signal * _HALF_RANGE_M**2 / _HALF_REFLECTIVITY, 1e-6)
        strength = 1 / (1 + ratio**-4)
        return reflectivity, np.where(material == Material.GLASS, 0.35 * strength, strength)
