"""A camera with the faults of a recorded one: exposure, motion blur, rolling shutter, noise, flare, vignetting.

The time of exposure follows from the weather, the gain follows the light: blur and noise grow in the dark. Rows are
read one after the other while the vehicle moves; the middle row is exposed at the image's stamp. Blur is that of the
scene at its middle distance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from perception.geometry import SE3
from perception.sim.camera import Camera
from perception.sim.raycast import Snapshot
from perception.sim.rig import Sensor, velocity_of
from perception.sim.weather import Weather

_READOUT_S = 0.016  # from the first row to the last
_EXPOSURE_S = {"day": 0.0015, "rain": 0.006, "fog": 0.005, "night": 0.014}
_READ_NOISE, _SHOT_NOISE = 0.004, 0.012  # of full scale, at the gain 1
_MAX_GAIN = 3.5
_GREY = 0.2  # linear light to which the exposure brings an image's mean
_SATURATION = 0.72  # of a recording's colours against the simulated ones
_DEFAULT_DEPTH_M = 25.0
_MARGIN = 0.03  # of the width, by which what moves may leave its projected box: rows are read at different times


class StreetCamera(Camera):
    """One camera of one scene, whose glass, colour balance and exposure ``rng`` draws."""

    glass = 0.06

    def __init__(
        self, sensor: Sensor, size: tuple[int, int], weather: Weather, lamps: np.ndarray, rng: np.random.Generator
    ):
        super().__init__(sensor, size, replace(weather, clouds=0.4 * weather.clouds), lamps, rng)
        self.margin_px = _MARGIN * self.width
        self._balance = np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
        self._bias = float(np.exp(rng.normal(0, 0.2)))
        self._vignette = (np.abs(self._rays[:, 2]) ** 1.5).reshape(self.height, self.width, 1)

    def _world_rays(self, world_SE3_ego: SE3, ego_motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each row from where the camera is, and is turned to, when it is read."""
        places, directions = super()._world_rays(world_SE3_ego, ego_motion)
        late = np.repeat((np.arange(self.height) + 0.5) / self.height - 0.5, self.width) * _READOUT_S
        velocity = velocity_of(places[0], world_SE3_ego, ego_motion)
        starts = places + late[:, None] * np.array([*velocity, 0.0])
        turn = ego_motion[2] * late  # small angles
        turned = directions + turn[:, None] * np.stack([-directions[:, 1], directions[:, 0], 0 * turn], 1)
        return starts, turned.astype(np.float32)

    def _tint(self, snapshot: Snapshot, starts, directions, distance, triangle) -> np.ndarray:
        from perception.sim.street_texture import tints

        stage = snapshot.stage
        surfaces = stage.material, snapshot.normals, stage.instance
        return tints(distance, triangle, directions, starts, *surfaces, snapshot.poses, stage.half, stage.heights)

    def _expose(self, linear: np.ndarray, distance, world_SE3_ego: SE3, ego_motion, salt: int) -> np.ndarray:
        import cv2

        shutter = self._motion_blur(distance, world_SE3_ego, ego_motion)
        light = self._flare(self._lens(linear)) * self._vignette
        if shutter is not None:
            light = cv2.filter2D(light, -1, shutter)
        light = np.maximum(light * self._balance, 0.0)
        gain = self._bias * (_GREY / max(float(np.minimum(light, 1.0).mean()), 1e-4)) ** 0.7
        gain = min(gain, _MAX_GAIN)
        rng = np.random.default_rng(salt)
        exposed = light * gain
        noise = np.sqrt((_READ_NOISE * gain) ** 2 + _SHOT_NOISE**2 * gain * exposed)
        exposed = np.maximum(exposed + noise * rng.standard_normal(exposed.shape, dtype=np.float32), 0.0)
        grey = exposed.mean(axis=2, keepdims=True)
        exposed = np.maximum(grey + _SATURATION * (exposed - grey), 0.0)
        value = np.sqrt(exposed * 1.15 / (1 + 0.25 * exposed))
        return np.clip(value * 255.0 + 0.5, 0, 255).astype(np.uint8)

    def _motion_blur(self, distance, world_SE3_ego: SE3, ego_motion: np.ndarray) -> np.ndarray | None:
        """Kernel along the motion, in the image, of a standing point on the optical axis at the middle distance."""
        import cv2

        finite = distance[np.isfinite(distance)]
        depth = float(np.median(finite)) if len(finite) else _DEFAULT_DEPTH_M
        world_SE3_camera = world_SE3_ego @ self.sensor.ego_SE3_sensor
        ray = world_SE3_camera.rotation[:, 2]
        point = world_SE3_camera.translation + depth * ray
        motion = -np.array([*velocity_of(point, world_SE3_ego, ego_motion), 0.0])
        right, down = world_SE3_camera.rotation[:, 0] @ motion, world_SE3_camera.rotation[:, 1] @ motion
        way = _EXPOSURE_S[self.weather.name] * np.diag(self._intrinsics)[:2] * np.array([right, down]) / depth
        length = float(np.hypot(*way))
        if length < 0.7:
            return None
        reach = int(np.ceil(0.5 * length)) + 1
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        ends = [tuple(round(16 * (reach + sign * 0.5 * part)) for part in way) for sign in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], (1.0,), 1, cv2.LINE_8, 4)
        return kernel / kernel.sum()

    def _flare(self, linear: np.ndarray) -> np.ndarray:
        """Streaks and mirrored ghosts of bright lights at night."""
        import cv2

        if not self.weather.is_night:
            return linear
        small = cv2.resize(np.maximum(linear - 0.9, 0.0), None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
        streak = cv2.blur(small, (max(self.width // 40, 3), 1))
        ghost = cv2.GaussianBlur(small[::-1, ::-1], (0, 0), max(self.width / 250, 0.5))
        veil = cv2.GaussianBlur(small, (0, 0), max(self.width / 80, 1.0))
        flare = 0.5 * streak + 0.06 * ghost + 0.5 * veil
        return linear + cv2.resize(flare, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
