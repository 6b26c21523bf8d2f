"""Rendering of one camera image: primary rays, shadow rays, light, lens and sensor."""

from __future__ import annotations

import numpy as np

from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.sim.raycast import Snapshot
from perception.sim.rig import Sensor
from perception.sim.weather import Weather

_SHADOW_STRIDE = 2  # shadows are traced for every second pixel and row
_SHADOW_RANGE_M = 90.0
STANDING = np.zeros(3)  # a vehicle's motion


class Camera:
    """One camera of one scene; ``size`` is (width, height) in pixels."""

    glass = 0.25  # what panes reflect head-on
    margin_px = 2.0  # by which what moves may leave its projected box

    def __init__(
        self, sensor: Sensor, size: tuple[int, int], weather: Weather, lamps: np.ndarray, rng: np.random.Generator
    ):
        if sensor.intrinsics is None:
            raise PerceptionError(f"{sensor.channel}: a camera's intrinsics were expected, found none")
        self.sensor, self.weather, self._intrinsics = sensor, weather, sensor.intrinsics
        self.width, self.height = size
        self._lamps = lamps
        u, v = np.meshgrid(np.arange(self.width), np.arange(self.height))
        pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3).astype(float)
        rays = pixels @ np.linalg.inv(self._intrinsics).T
        self._rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)
        self._drops = self._draw_drops(rng) if weather.name == "rain" else None

    def render(
        self, snapshot: Snapshot, world_SE3_ego: SE3, salt: int, ego_motion: np.ndarray = STANDING
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] RGB, and the actor seen by each pixel int32 [H, W] (-1: none).

        ego_motion [3]: world vx, vy in m/s and yaw rate in rad/s, for cameras that blur.
        """
        world_SE3_camera = world_SE3_ego @ self.sensor.ego_SE3_sensor
        starts, directions = self._world_rays(world_SE3_ego, ego_motion)
        distance, triangle = snapshot.cast(starts, directions, self._may_meet_movers(snapshot, world_SE3_camera))
        linear = self._shade(snapshot, world_SE3_ego, starts, directions, distance, triangle)
        image = self._expose(linear, distance, world_SE3_ego, ego_motion, salt)
        seen = np.where(triangle >= 0, snapshot.stage.instance[np.maximum(triangle, 0)], -1)
        return image, seen.reshape(self.height, self.width)

    def _world_rays(self, world_SE3_ego: SE3, ego_motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Origins [P, 3] and directions [P, 3] of every pixel's ray."""
        world_SE3_camera = world_SE3_ego @ self.sensor.ego_SE3_sensor
        starts = np.tile(world_SE3_camera.translation, (len(self._rays), 1))
        return starts, self._rays @ world_SE3_camera.rotation.T.astype(np.float32)

    def _tint(self, snapshot: Snapshot, starts, directions, distance, triangle) -> np.ndarray:
        """What multiplies the colour of each pixel [P, 3], or nothing [0, 3]."""
        return np.zeros((0, 3), np.float32)

    def _shade(self, snapshot: Snapshot, world_SE3_ego: SE3, starts, directions, distance, triangle) -> np.ndarray:
        """Linear light [H, W, 3] that enters the lens."""
        from perception.sim.shading import shade

        place = (world_SE3_ego @ self.sensor.ego_SE3_sensor).translation
        weather, stage = self.weather, snapshot.stage
        shadow = self._shadow(snapshot, starts, directions, distance, triangle)
        near = (
            self._lamps[np.linalg.norm(self._lamps[:, :2] - place[:2], axis=1) < 70.0]
            if len(self._lamps)
            else np.zeros((0, 3))
        )
        beam = world_SE3_ego.transform(np.array([3.7, 0.0, 0.65]))
        linear = shade(
            distance,
            triangle,
            directions,
            starts,
            stage.color,
            stage.material,
            snapshot.normals,
            shadow,
            _SHADOW_STRIDE,
            self.width,
            np.array(weather.sun),
            np.array(weather.sun_direction),
            np.array(weather.ambient),
            np.array(weather.sky_top),
            np.array(weather.sky_horizon),
            weather.clouds,
            weather.camera_extinction,
            0.5 if weather.name == "rain" else 0.0,
            1.0 if weather.is_night else 0.0,
            near,
            beam,
            world_SE3_ego.rotate(np.array([0.9992, 0.0, -0.04])),
            self.glass,
            self._tint(snapshot, starts, directions, distance, triangle),
        )
        return linear.reshape(self.height, self.width, 3)

    def _expose(self, linear: np.ndarray, distance, world_SE3_ego: SE3, ego_motion, salt: int) -> np.ndarray:
        """Lens and sensor: light [H, W, 3] to an image uint8 [H, W, 3]."""
        from perception.sim.shading import develop

        linear, weather = self._lens(linear), self.weather
        image = develop(linear.reshape(-1, 3), weather.noise, 2.2 if weather.is_night else 1.1, salt)
        return image.reshape(self.height, self.width, 3)

    def _may_meet_movers(self, snapshot: Snapshot, world_SE3_camera: SE3) -> np.ndarray:
        """Indices of the pixels whose rays can meet anything that moves: a mask around projected boxes."""
        mask = np.zeros((self.height, self.width), bool)
        corners = world_SE3_camera.inverse().transform(snapshot.corners)
        (fx, _, cx), (_, fy, cy), _ = self._intrinsics
        for x, y, depth in corners.transpose(0, 2, 1):
            front = depth > 0.05
            if not front.any():
                continue
            u, v = fx * x[front] / depth[front] + cx, fy * y[front] / depth[front] + cy
            margin = self.margin_px
            low, high, top, bottom = u.min() - margin, u.max() + margin, v.min() - margin, v.max() + margin
            if not front.all():
                # What reaches behind the camera leaves the image on the side on which all of it lies.
                top, bottom = 0, self.height
                low, high = low if (x > 0).all() else 0, high if (x < 0).all() else self.width
            rows, columns = np.clip([top, bottom + 1], 0, self.height), np.clip([low, high + 1], 0, self.width)
            mask[int(rows[0]) : int(rows[1]), int(columns[0]) : int(columns[1])] = True
        return np.flatnonzero(mask)

    def _shadow(self, snapshot: Snapshot, starts, directions, distance, triangle) -> np.ndarray:
        """float32 [ceil(H / 2), ceil(W / 2)]: 1 where the sun is hidden. Without sun nothing is traced."""
        pick = np.arange(self.height * self.width).reshape(self.height, self.width)[::_SHADOW_STRIDE, ::_SHADOW_STRIDE]
        shadow = np.zeros(pick.size, np.float32)
        if not any(self.weather.sun):
            return shadow.reshape(pick.shape)
        pick_flat = pick.ravel()
        sun = np.array(self.weather.sun_direction)
        normal = snapshot.normals[np.maximum(triangle[pick_flat], 0)]
        normal = np.where(np.sum(normal * directions[pick_flat], axis=1, keepdims=True) > 0, -normal, normal)
        traced = np.flatnonzero(
            (triangle[pick_flat] >= 0) & (distance[pick_flat] < _SHADOW_RANGE_M) & (normal @ sun > 0)
        )
        chosen = pick_flat[traced]
        points = starts[chosen] + directions[chosen] * distance[chosen, None] + 0.01 * normal[traced]
        shadow[traced] = snapshot.occluded(points, sun, 120.0)
        return shadow.reshape(pick.shape)

    def _lens(self, linear: np.ndarray) -> np.ndarray:
        """Point spread, glow around lights at night, drops on the glass in rain."""
        import cv2

        if self.weather.is_night:
            small = cv2.resize(np.maximum(linear - 0.8, 0.0), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
            glow = cv2.GaussianBlur(small, (0, 0), max(self.width / 400, 0.5))
            linear = linear + 0.6 * cv2.resize(glow, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        linear = cv2.GaussianBlur(linear, (3, 3), 0.5)
        if self._drops is not None:
            blurred = cv2.GaussianBlur(linear, (0, 0), max(self.width / 130, 1.0))
            linear = linear + self._drops * (blurred * 1.05 - linear)
        return linear

    def _draw_drops(self, rng: np.random.Generator) -> np.ndarray:
        """Mask float32 [H, W, 1] of the drops on this camera's glass."""
        import cv2

        mask = np.zeros((self.height, self.width), np.float32)
        for _ in range(rng.integers(8, 22)):
            center = (int(rng.integers(self.width)), int(rng.integers(self.height)))
            cv2.circle(mask, center, max(int(rng.uniform(0.006, 0.02) * self.width), 1), (1.0,), -1)
        return cv2.GaussianBlur(mask, (0, 0), max(self.width / 300, 0.5))[..., None]
