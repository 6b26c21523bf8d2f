"""The spinning LiDAR as it is recorded: one revolution takes 50 ms, beams have a width, surfaces their ways to answer.

A sweep is cut into sectors, each cast at its own time. The points are written as nuScenes writes them: moved with the
vehicle's own motion to the sweep's stamp, which is the end of the revolution. What stands still is therefore in place;
what moves is where it was when the beam passed. Beams that met nothing are points where the sensor was at their time.
"""

from __future__ import annotations

import numpy as np

from perception.data.nuscenes_constants import LIDAR_HZ
from perception.geometry import SE3
from perception.sim.lidar import ELEVATION_RAD, FIRINGS, MAX_RANGE_M, RANGE_NOISE_M, RINGS, EgoAt, WorldAt
from perception.sim.mesh import Material
from perception.sim.own_vehicle import own_vehicle
from perception.sim.raycast import Caster, Snapshot
from perception.sim.rig import Sensor
from perception.sim.weather import Weather

REVOLUTION_S = 1 / LIDAR_HZ
SECTORS = 8
_BORDERS = np.linspace(0, FIRINGS, SECTORS + 1).astype(int)
_HALF_BEAM_RAD = 0.0014  # the HDL-32E's beam is 2.8 mrad wide
_SUB_RAYS = np.array([-0.75, 0.75]) * _HALF_BEAM_RAD  # azimuths across the beam, where it meets an edge
_EDGE_M = 0.25  # neighbouring beams that differ by more than this meet an edge
_PULSE_M = 1.5  # surfaces closer together than this melt into one echo
# A surface of 10 % reflectivity, met head-on, returns half of the beams from this far.
_HALF_RANGE_M, _HALF_REFLECTIVITY = 88.0, 0.1
_MIRROR = 0.0008  # 1 - cos of the angle within which glossy surfaces reflect the beam back
# Diffuse reflectivity: floor, what the brightness of the surface adds, and the share of a mirror.
_SURFACE = np.zeros((len(Material), 3))
for _material, _values in {
    Material.MATTE: (0.04, 0.2, 0.0),
    Material.PAINT: (0.015, 0.28, 0.3),
    Material.GLASS: (0.0003, 0.0, 0.5),
    Material.RUBBER: (0.02, 0.05, 0.0),
    Material.ASPHALT: (0.1, 0.25, 0.0),
    Material.CONCRETE: (0.1, 0.25, 0.0),
    Material.GRASS: (0.1, 0.25, 0.0),
    Material.FACADE: (0.1, 0.35, 0.0),
    Material.FOLIAGE: (0.09, 0.3, 0.0),
    Material.HEADLIGHT: (0.1, 0.0, 0.3),
    Material.TAILLIGHT: (0.4, 0.0, 0.3),
    Material.RETRO: (0.9, 0.0, 0.0),
    Material.MARKING: (0.3, 0.1, 0.0),
    Material.LAMP: (0.2, 0.0, 0.0),
}.items():
    _SURFACE[_material] = _values
_GRAZING = 0.7  # rough surfaces lose less than Lambert's cosine at grazing angles
_OWN_REFLECTIVITY = 0.012
_WET = np.isin(np.arange(len(Material)), [Material.ASPHALT, Material.CONCRETE, Material.PAINT, Material.MARKING])


class RollingLidar:
    """The LiDAR of one scene. ``rng`` draws how sensitive its 32 lasers are."""

    def __init__(self, sensor: Sensor, weather: Weather, rng: np.random.Generator):
        self.sensor, self.weather = sensor, weather
        self._gain = np.exp(rng.normal(0, 0.4, RINGS))
        mesh = own_vehicle()
        self._own = Caster(mesh.vertices, mesh.triangles)

    def delay_s(self, points: np.ndarray) -> np.ndarray:
        """[N]: how long before the stamp a beam passes points [N, 3] of the sensor frame."""
        turned = (np.pi - np.arctan2(points[:, 1], points[:, 0])) % (2 * np.pi)
        return REVOLUTION_S * (1 - turned / (2 * np.pi))

    def sweep(self, world_at: WorldAt, ego_at: EgoAt, time: float, rng: np.random.Generator) -> np.ndarray:
        """Points float32 [RINGS * FIRINGS, 5] in the sensor frame at ``time``, the end of the revolution.

        x, y, z, intensity 0..255, ring from below. ``world_at`` and ``ego_at`` give the world and the vehicle's
        pose in it, world_SE3_ego, at a time in seconds.
        """
        azimuth = np.pi - 2 * np.pi * (np.arange(FIRINGS) + rng.random()) / FIRINGS
        lidar_SE3_world = (ego_at(time) @ self.sensor.ego_SE3_sensor).inverse()
        points = np.empty((FIRINGS * RINGS, 5))
        for sector, (first, last) in enumerate(zip(_BORDERS[:-1], _BORDERS[1:], strict=True)):
            fired = time - REVOLUTION_S * (1 - (sector + 0.5) / SECTORS)
            world_SE3_lidar = ego_at(fired) @ self.sensor.ego_SE3_sensor
            measured, intensity, rays = self._measure(world_at(fired), world_SE3_lidar, azimuth[first:last], rng)
            placed = points[first * RINGS : last * RINGS]
            placed[:, :3] = (lidar_SE3_world @ world_SE3_lidar).transform(rays * measured[:, None])
            placed[:, 3] = intensity
        points[:, 4] = np.tile(np.arange(RINGS), FIRINGS)
        return points.astype(np.float32)

    def _measure(self, snapshot: Snapshot, world_SE3_lidar: SE3, azimuth: np.ndarray, rng):
        """Range [N] (0: none), intensity [N] and directions [N, 3] in the sensor frame, of one sector's beams."""
        rays = _rays(azimuth[:, None], ELEVATION_RAD)
        distance, reflectivity, signal = self._echo(snapshot, world_SE3_lidar, rays)
        edge = _edges(distance.reshape(-1, RINGS))
        beams = (
            np.repeat(azimuth, RINGS)[edge][:, None] + _SUB_RAYS,
            np.tile(ELEVATION_RAD, len(azimuth))[edge][:, None],
        )
        middle = (part[edge] for part in (distance, reflectivity, signal))
        sides = self._echo(snapshot, world_SE3_lidar, _rays(*beams))
        parts = (np.column_stack([a, b.reshape(-1, len(_SUB_RAYS))]) for a, b in zip(middle, sides, strict=True))
        distance[edge], reflectivity[edge], signal[edge] = _melt(*parts)

        count = len(rays)
        uniform = rng.random((3, count), dtype=np.float32)
        ratio = np.maximum(signal * _HALF_RANGE_M**2 / _HALF_REFLECTIVITY, 1e-6)
        returned = (uniform[0] < 1 / (1 + ratio**-2)) & (uniform[1] > self.weather.lidar_loss)
        returned &= distance < MAX_RANGE_M
        gain = np.tile(self._gain, len(azimuth)) * np.exp(0.25 * rng.standard_normal(count, dtype=np.float32))
        intensity = 255 * reflectivity * gain
        measured = distance + RANGE_NOISE_M * rng.standard_normal(count, dtype=np.float32)
        if self.weather.lidar_backscatter:
            drop = 1.2 + rng.exponential(2.5, count)
            scattered = (uniform[2] < self.weather.lidar_backscatter) & (drop < distance)
            measured, intensity = np.where(scattered, drop, measured), np.where(scattered, 4.0 * uniform[1], intensity)
            returned |= scattered
        own, _ = self._own.cast(_from_origin(rays @ self.sensor.ego_SE3_sensor.rotation.T))
        blocked = np.isfinite(own)
        measured = np.where(blocked, own, np.where(returned, measured, 0.0))
        intensity = np.where(blocked, 255 * _OWN_REFLECTIVITY * gain, np.where(returned, intensity, 0.0))
        return measured, np.clip(np.round(intensity), 0, 255), rays

    def _echo(self, snapshot: Snapshot, world_SE3_lidar: SE3, rays: np.ndarray):
        """Range [N] (inf: none), apparent reflectivity [N] and strength [N] of what thin rays [N, 3] meet."""
        directions = (rays @ world_SE3_lidar.rotation.T).astype(np.float32)
        distance, triangle = snapshot.cast(world_SE3_lidar.translation, directions)
        stage, index = snapshot.stage, np.maximum(triangle, 0)
        material = stage.material[index]
        floor, shade, mirror = _SURFACE[material].T
        cosine = np.abs(np.sum(snapshot.normals_of(index) * directions, axis=1))
        diffuse = (floor + shade * stage.color[index].mean(axis=1)) * np.where(
            material == Material.RETRO, 1.0, cosine**_GRAZING
        )
        if self.weather.name == "rain":  # a film of water turns matt into glossy
            diffuse = np.where(_WET[material], 0.5 * diffuse * cosine, diffuse)
        reflectivity = np.where(triangle >= 0, diffuse + mirror * np.exp((cosine - 1) / _MIRROR), 0.0)
        near = np.maximum(np.where(triangle >= 0, distance, 1e3), 1.0)
        signal = reflectivity / near**2 * np.exp(-2 * self.weather.lidar_extinction * near)
        return distance, _apparent(reflectivity), signal


def _apparent(reflectivity: np.ndarray) -> np.ndarray:
    """What the sensor writes: it corrects for range, and compresses bright surfaces."""
    return reflectivity / (1 + 0.9 * reflectivity)


def _rays(azimuth, elevation) -> np.ndarray:
    """Directions [N, 3] of all pairs of broadcast angles."""
    cos, azimuth = np.cos(elevation), np.asarray(azimuth)
    x, y, z = np.broadcast_arrays(np.cos(azimuth) * cos, np.sin(azimuth) * cos, np.sin(elevation))
    return np.stack([x, y, z], axis=-1).reshape(-1, 3)


def _from_origin(directions: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(directions), directions], axis=1).astype(np.float32)


def _edges(distance: np.ndarray) -> np.ndarray:
    """Indices, into the flattened [F, R], of beams whose neighbour in azimuth measures something else."""
    depth = np.where(np.isfinite(distance), distance, 1e3)
    jump = np.abs(np.diff(depth, axis=0)) > np.maximum(_EDGE_M, 0.02 * depth[1:])
    edge = np.zeros(distance.shape, bool)
    edge[1:] |= jump
    edge[:-1] |= jump
    return np.flatnonzero(edge)


def _melt(distance: np.ndarray, reflectivity: np.ndarray, signal: np.ndarray):
    """One echo [N] of the parts [N, P] of a beam: the strongest, and all that lies within a pulse's length of it."""
    depth = np.where(np.isfinite(distance), distance, 1e3)
    strongest = np.argmax(signal, axis=1)[:, None]
    weight = np.where(np.abs(depth - np.take_along_axis(depth, strongest, 1)) < _PULSE_M, signal, 0.0)
    total = weight.sum(axis=1)
    share = weight / np.maximum(total, 1e-30)[:, None]
    mixed = np.where(total > 0, np.sum(share * depth, axis=1), np.inf)
    return mixed, np.sum(np.where(weight > 0, reflectivity, 0.0), axis=1) / depth.shape[1], total / depth.shape[1]
