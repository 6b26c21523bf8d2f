"""One simulated scene, start to end: draw the world, drive through it, record all sensors, annotate.

Everything here follows from (seed, scene index) and the settings alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path as FilePath

import numpy as np
from scipy.spatial.transform import Rotation

from perception.data.nuscenes_constants import KEYFRAME_HZ, LIDAR_HZ, RADAR_HZ
from perception.data.nuscenes_writer import radar_file
from perception.data.scene_tables import SceneTables
from perception.files import write_file
from perception.geometry import SE3, in_box
from perception.sim.raycast import Stage
from perception.sim.rig import CAMERA_NAMES, LIDAR_NAME, RADAR_NAMES, draw_rig
from perception.sim.road import MAP_MARGIN_M, Layout, Path
from perception.sim.sensors import camera_delay_s, make_camera, make_lidar, make_radar
from perception.sim.street import build_street
from perception.sim.traffic import Actor
from perception.sim.weather import draw_weather
from perception.sim.world import build_town

_START_US = 1_600_000_000_000_000
_SCENE_GAP_US = 1_000_000_000
_SWEEPS_BEFORE = 9  # LiDAR sweeps before the first keyframe, so that its cloud has sweeps too
_ANNOTATION_RANGE_M = 80.0
_JPEG_QUALITY = 90
_SURFACE_SAMPLES = 48  # points on an actor whose visibility is tested


class SceneRun:
    """Simulates scene ``index`` of a :class:`perception.sim.simulate.Settings` into the folder ``root``.

    ``on_keyframe_file`` is called after each file of a keyframe: for every sensor as often as there are keyframes.
    """

    def __init__(self, settings, index: int, root: FilePath, on_keyframe_file: Callable[[], object] = lambda: None):
        self.settings, self.index, self.root = settings, index, root
        self.name = settings.scene_name(index)
        self._on_keyframe_file = on_keyframe_file
        rng = self._rng("world")
        self.weather = draw_weather(settings.weather[index % len(settings.weather)], rng)
        speed = rng.uniform(5.0, 10.5)
        start, end = -75.0, speed * settings.seconds + 80.0
        self.path = Path(rng, start - 90, end + 90)
        build = build_street if settings.world == "street" else build_town
        world = build(self._rng, self.path, Layout.draw(rng, start, end), settings.seconds, speed)
        self.layout, self.terrain, self.traffic, self.scenery = world
        self.actors = self.traffic.actors
        self.stage = Stage(self.scenery.mesh, self.actors, self.terrain)
        self.rig = draw_rig(self._rng("rig"), settings.image_size)
        self.lidar = make_lidar(settings.world, self.rig[LIDAR_NAME], self.weather, self._rng("lasers"))
        self._sway = self._rng("sway").uniform(0, 2 * np.pi, 4)
        self._start_us = _START_US + index * _SCENE_GAP_US
        self.tables = SceneTables(settings.seed, self.name)
        for i in range(settings.keyframes):
            self.tables.add_sample(self._start_us + round(i * 1e6 / KEYFRAME_HZ))
        self._key_stamps = np.array(self.tables.times_us)
        rng = self._rng("surface")
        self._surface = np.stack([_surface_points(actor.shape.mesh, rng) for actor in self.actors])
        # Cloud and radar points of each keyframe, in the world, for the counts of the annotations.
        self._lidar_points: dict[int, np.ndarray] = {}
        self._radar_points: dict[int, list[tuple[float, np.ndarray]]] = {}
        self._visibility: dict[int, np.ndarray] = {}

    def run(self) -> dict[str, list[dict]]:
        """Write every sensor file; return this scene's rows of every table."""
        self._calibrations = {
            sensor.channel: self.tables.add_calibration(sensor.channel, sensor.ego_SE3_sensor, sensor.intrinsics)
            for sensor in self.rig.values()
        }
        self._lidar()
        for channel in RADAR_NAMES:
            self._radar(channel)
        for channel in CAMERA_NAMES:
            self._camera(channel)
        self._annotate()
        roads = "two lanes" if self.layout.lanes == 2 else "one lane"
        description = f"{self.weather.text}, {roads} each way, crossing, work zones (simulated)"
        log = {"vehicle": "sim", "date_captured": "2020-09-13", "location": "simulation"}
        return self.tables.finished(self._map(), description, **log)

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, self.index, *purpose.encode()])

    def _ego(self, time: float) -> SE3:
        """World from ego: on the road, with the slight pitch and roll of a sprung vehicle."""
        x, y, yaw = self.traffic.ego.at(time)
        a, b, c, d = self._sway
        pitch = 0.003 * np.sin(2.1 * time + a) + 0.0015 * np.sin(7.3 * time + b)
        roll = 0.003 * np.sin(1.7 * time + c) + 0.0015 * np.sin(5.9 * time + d) + 0.01 * self.traffic.ego.yaw_rate(time)
        uphill, tilt = self.terrain.pitch_and_roll(x, y, yaw)
        rotation = Rotation.from_euler("ZYX", [yaw, pitch + uphill, roll + tilt]).as_matrix()
        return SE3(rotation, np.array([x, y, self.terrain.height([x, y])]))

    def _motion(self, time: float) -> np.ndarray:
        """[3]: the ego vehicle's world vx, vy in m/s and yaw rate in rad/s."""
        return np.array([*self.traffic.ego.velocity(time), self.traffic.ego.yaw_rate(time)])

    def _passed(self, actor: Actor, time: float) -> float:
        """When the LiDAR's beam passes an actor in the sweep of ``time``: boxes enclose the points, as in nuScenes."""
        x, y, _ = actor.track.at(time)
        place = (self._ego(time) @ self.lidar.sensor.ego_SE3_sensor).inverse().transform(np.array([[x, y, actor.z]]))
        return time - float(self.lidar.delay_s(place)[0])

    def _record(self, channel: str, stamp: int, keyframe: int | None, suffix: str, content: bytes) -> None:
        """Write one sensor file, of a keyframe or a sweep (None)."""
        folder = "sweeps" if keyframe is None else "samples"
        filename = f"{folder}/{channel}/{self.name}__{channel}__{stamp}.{suffix}"
        write_file(self.root / filename, content)
        if keyframe is not None:
            self._on_keyframe_file()
        pose = self._ego((stamp - self._start_us) * 1e-6)
        size = self.settings.image_size[::-1] if channel in CAMERA_NAMES else (0, 0)
        self.tables.add_file(keyframe, channel, self._calibrations[channel], stamp, pose, filename, size)

    def _lidar(self) -> None:
        lidar, rng = self.lidar, self._rng("lidar")
        per_keyframe = round(LIDAR_HZ / KEYFRAME_HZ)
        for i in range(-_SWEEPS_BEFORE, (self.settings.keyframes - 1) * per_keyframe + 1):
            time = i / LIDAR_HZ
            stamp = self._start_us + round(time * 1e6)
            points = lidar.sweep(self.stage.at, self._ego, time, rng)
            keyframe = i // per_keyframe if i >= 0 and i % per_keyframe == 0 else None
            self._record(LIDAR_NAME, stamp, keyframe, "pcd.bin", points.tobytes())
            if keyframe is not None:
                snapshot, pose = self.stage.at(time), self._ego(time)
                self._lidar_points[keyframe] = (pose @ lidar.sensor.ego_SE3_sensor).transform(
                    points[:, :3].astype(float)
                )
                self._visibility[keyframe] = self._visible(snapshot, pose, time)

    def _radar(self, channel: str) -> None:
        scatter = self._rng("scatterers")  # the same places on an object for all radars
        radar = make_radar(self.settings.world, self.rig[channel], self.actors, self.scenery.reflectors, scatter)
        rng = self._rng(channel)
        times = np.arange(
            -0.5 + rng.uniform(0, 1 / RADAR_HZ), (self.settings.keyframes - 0.92) / KEYFRAME_HZ, 1 / RADAR_HZ
        )
        stamps = self._start_us + np.round((times + rng.normal(0, 0.001, len(times))) * 1e6).astype(np.int64)
        nearest = np.argmin(np.abs(stamps[:, None] - self._key_stamps), axis=0)
        keyframe_of = {int(row): keyframe for keyframe, row in enumerate(nearest)}
        for row in range(nearest[-1] + 1):
            stamp = int(stamps[row])
            time = (stamp - self._start_us) * 1e-6
            poses, velocities = self.stage.poses(time)
            ego = self._ego(time)
            clusters = radar.sweep(self.stage.coarse(poses), poses, velocities, ego, self._motion(time), rng)
            keyframe = keyframe_of.get(row)
            self._record(channel, stamp, keyframe, "pcd", radar_file(clusters))
            if keyframe is not None:
                points = np.stack([clusters["x"], clusters["y"], clusters["z"]], 1).astype(float)
                world = (ego @ radar.sensor.ego_SE3_sensor).transform(points)
                self._radar_points.setdefault(keyframe, []).append((time, world))

    def _camera(self, channel: str) -> None:
        import cv2

        rng, sensor, world = self._rng(channel), self.rig[channel], self.settings.world
        camera = make_camera(world, sensor, self.settings.image_size, self.weather, self.scenery.lamps, rng)
        for keyframe, key_stamp in enumerate(self._key_stamps.tolist()):
            delay = camera_delay_s(world, channel) + float(np.clip(rng.normal(0, 0.0005), -0.0015, 0.0015))
            stamp = key_stamp + round(delay * 1e6)
            time = (stamp - self._start_us) * 1e-6
            salt, motion = int(rng.integers(1 << 30)), self._motion(time)
            image, _ = camera.render(self.stage.at(time), self._ego(time), salt, motion)
            _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            self._record(channel, stamp, keyframe, "jpg", jpeg.tobytes())

    def _visible(self, snapshot, ego: SE3, time: float) -> np.ndarray:
        """[A] share of every actor's surface that nothing else hides from a point above the vehicle."""
        eye = ego.transform(np.array([1.0, 0.0, 1.6]))
        poses, _ = self.stage.poses(time)
        z = np.array([actor.z for actor in self.actors]) + poses[:, 3]
        cos, sin = np.cos(poses[:, 2])[:, None], np.sin(poses[:, 2])[:, None]
        x, y = self._surface[..., 0], self._surface[..., 1]
        points = np.stack(
            [cos * x - sin * y + poses[:, :1], sin * x + cos * y + poses[:, 1:2], self._surface[..., 2] + z[:, None]],
            -1,
        )
        _, triangle = snapshot.cast(eye, (points - eye).reshape(-1, 3))
        seen = np.where(triangle >= 0, self.stage.instance[np.maximum(triangle, 0)], -1).reshape(len(self.actors), -1)
        return np.mean(seen == np.arange(len(self.actors))[:, None], axis=1)

    def _annotate(self) -> None:
        for keyframe in range(self.settings.keyframes):
            time = keyframe / KEYFRAME_HZ
            ego_xy = np.array(self.traffic.ego.at(time)[:2])
            for index, actor in enumerate(self.actors):
                seen = self._passed(actor, time)
                x, y, yaw = actor.track.at(seen)
                if np.hypot(x - ego_xy[0], y - ego_xy[1]) > _ANNOTATION_RANGE_M:
                    continue
                length, width, height = actor.shape.size
                center = np.array([x, y, self.terrain.height([x, y]) + actor.z + 0.5 * height])
                radar_count = 0
                for radar_time, points in self._radar_points[keyframe]:
                    rx, ry, radar_yaw = actor.track.at(radar_time)
                    # A radar knows no height: its points count by their place on the ground.
                    radar_count += _count_inside(points, np.array([rx, ry, 0.0]), (length, width, 20.0), radar_yaw)
                visible = np.searchsorted([0.4, 0.6, 0.8], self._visibility[keyframe][index], side="right")
                lidar_count = _count_inside(self._lidar_points[keyframe], center, (length, width, height), yaw)
                self.tables.add_box(
                    keyframe,
                    index,
                    actor.shape.category,
                    SE3.from_yaw(yaw, center),
                    actor.shape.size,
                    (lidar_count, radar_count),
                    actor.attribute(seen) or "",
                    1 + int(visible),
                )

    def _map(self) -> str:
        """The file name of the drivable surface as an image of 0.1 m pixels, north up, as the devkit reads it."""
        import cv2

        width, height = (np.ceil((self.path.extent + MAP_MARGIN_M) / 0.1)).astype(int)
        image = np.zeros((height, width), np.uint8)
        s = np.arange(self.layout.start - 60, self.layout.end + 60, 2.0)
        outline = [self.path.pose(s, np.full(len(s), side * self.layout.kerb))[0] for side in (-1, 1)]
        polygon = np.concatenate([outline[0], outline[1][::-1]])
        pixels = np.round(np.stack([polygon[:, 0], height * 0.1 - polygon[:, 1]], 1) / 0.1).astype(np.int32)
        cv2.fillPoly(image, [pixels], (255,))
        filename = f"maps/{self.tables.token('map')}.png"
        write_file(self.root / filename, cv2.imencode(".png", image)[1].tobytes())
        return filename


def _surface_points(mesh, rng: np.random.Generator) -> np.ndarray:
    """[K, 3] points spread evenly over a mesh."""
    corners = mesh.vertices[mesh.triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    chosen = rng.choice(len(area), _SURFACE_SAMPLES, p=area / area.sum())
    u, v = np.sqrt(rng.random(_SURFACE_SAMPLES)), rng.random(_SURFACE_SAMPLES)
    weights = np.stack([1 - u, u * (1 - v), u * v], 1)
    return np.einsum("kc,kcd->kd", weights, corners[chosen])


def _count_inside(points: np.ndarray, center: np.ndarray, size, yaw: float) -> int:
    return int(in_box(points, center, size, yaw).sum())
