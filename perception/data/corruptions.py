"""Corruptions of sensor data, as functions from Frame to Frame: the benchmark applies them, training draws from them.

None of them tells the detector: a corrupted frame claims what a healthy one claims (``only`` and
``without_cameras`` are the exceptions: announced absence). Randomness comes from the generator that is passed in.

Definitions of the published benchmark are those of MultiCorrupt (Beemelmanns et al., 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from perception.geometry import SE3
from perception.sample import CameraImage, Frame, LidarCloud, RadarCloud

# Where a nuScenes vehicle carries its LiDAR: x right, y forward, z up. Frames hold clouds in the ego frame only.
EGO_SE3_LIDAR = SE3.from_yaw(-np.pi / 2, [0.94, 0.0, 1.84])
_RADAR_SPAN_MPS = 2 * 17.0  # width of the interval of speeds a radar can tell apart; beyond, they fold back
_LIDAR_TOP_DEG, _RING_DEG = 10.67, 1.333  # of the 32 rings


def with_images(frame: Frame, change, names: Collection[str] | None = None) -> Frame:
    """``change(image) -> image`` applied to the cameras in ``names``; to all where it is None."""
    cameras = {
        name: replace(camera, image=change(camera.image)) if names is None or name in names else camera
        for name, camera in (frame.cameras or {}).items()
    }
    return replace(frame, cameras=cameras)


def black_cameras(frame: Frame, names: Collection[str] | None = None) -> Frame:
    return with_images(frame, np.zeros_like, names)


def without_cameras(frame: Frame, names: Collection[str]) -> Frame:
    return replace(frame, cameras={name: c for name, c in (frame.cameras or {}).items() if name not in names})


def stale_cameras(frame: Frame, previous: Frame, names: Collection[str]) -> Frame:
    """The images of ``previous`` under today's time stamps and poses."""
    old = previous.cameras or {}
    cameras = {
        name: replace(camera, image=old[name].image) if name in names and name in old else camera
        for name, camera in (frame.cameras or {}).items()
    }
    return replace(frame, cameras=cameras)


def stale_lidar(frame: Frame, previous: Frame) -> Frame:
    return frame if previous.lidar is None or frame.lidar is None else replace(frame, lidar=previous.lidar)


def stale_radar(frame: Frame, previous: Frame) -> Frame:
    return frame if previous.radar is None or frame.radar is None else replace(frame, radar=previous.radar)


def rotate_cameras(
    frame: Frame, sigma_deg: float, sigma_m: float, rng: np.random.Generator, names: Collection[str] | None = None
) -> Frame:
    """Wrong extrinsics: each camera is rotated about and moved along each of its axes by a normal deviate."""

    def rotated(camera: CameraImage) -> CameraImage:
        error = Rotation.from_rotvec(np.deg2rad(rng.normal(0, sigma_deg, 3))).as_matrix()
        return replace(camera, ego_SE3_camera=camera.ego_SE3_camera @ SE3(error, rng.normal(0, sigma_m, 3)))

    cameras = {
        name: rotated(camera) if names is None or name in names else camera
        for name, camera in (frame.cameras or {}).items()
    }
    return replace(frame, cameras=cameras)


def with_lidar(frame: Frame, change) -> Frame:
    """``change(points) -> points`` applied to the LiDAR cloud where there is one."""
    return frame if frame.lidar is None else replace(frame, lidar=LidarCloud(change(frame.lidar.points)))


def with_radar(frame: Frame, change) -> Frame:
    """``change(points) -> points`` applied to the radar cloud where there is one."""
    return frame if frame.radar is None else replace(frame, radar=RadarCloud(change(frame.radar.points)))


def lidar_error(angles_deg: np.ndarray, shift_m: np.ndarray) -> SE3:
    """A LiDAR rotated by x, then y, then z angles, then shifted, in its own frame; as a motion in the ego frame."""
    # MultiCorrupt multiplies the transposed elementary rotations as Rx Ry Rz.
    x, y, z = (Rotation.from_euler(axis, -angle, degrees=True).as_matrix() for axis, angle in zip("xyz", angles_deg))
    return EGO_SE3_LIDAR @ SE3(x @ y @ z, shift_m) @ EGO_SE3_LIDAR.inverse()


def move_lidar(frame: Frame, error: SE3) -> Frame:
    def moved(points):
        return np.column_stack([error.transform(points[:, :3]), points[:, 3:]]).astype(np.float32)

    return with_lidar(frame, moved)


def thinned(points: np.ndarray, keep: float, rng: np.random.Generator) -> np.ndarray:
    """A share ``keep`` of the points, in their order."""
    return points[np.sort(rng.permutation(len(points))[: round(keep * len(points))])]


def ahead(points: np.ndarray, half_angle_deg: float, yaw_deg: float = 0.0) -> np.ndarray:
    """The points within ``half_angle_deg`` of the direction ``yaw_deg``, seen from the LiDAR."""
    x, y = points[:, 0] - EGO_SE3_LIDAR.translation[0], points[:, 1] - EGO_SE3_LIDAR.translation[1]
    off = (np.rad2deg(np.arctan2(y, x)) - yaw_deg + 180) % 360 - 180
    return points[np.abs(off) <= half_angle_deg]


def rings(points: np.ndarray) -> np.ndarray:
    """A guess of the ring, counted from above, that measured each point of a level LiDAR."""
    from_lidar: np.ndarray = points[:, :3] - EGO_SE3_LIDAR.translation.astype(np.float32)
    elevation = np.rad2deg(np.arctan2(from_lidar[:, 2], np.hypot(from_lidar[:, 0], from_lidar[:, 1])))
    return np.round((_LIDAR_TOP_DEG - elevation) / _RING_DEG).astype(int)


def ghosts(points: np.ndarray, sigma_m: float, rng: np.random.Generator) -> np.ndarray:
    """Radar points doubled; the second of each pair is displaced by a normal deviate in x and in y."""
    copies = points.copy()
    copies[:, :2] += rng.normal(0, sigma_m, (len(points), 2))
    return np.concatenate([points, copies])


def clutter(points: np.ndarray, factor: float, rng: np.random.Generator, range_m: float = 60.0) -> np.ndarray:
    """``factor`` times as many radar points: the new ones anywhere, with strengths and ages of real ones, slow."""
    count = round((factor - 1) * len(points))
    false = points[rng.integers(len(points), size=count)] if len(points) else points
    false[:, :2] = rng.uniform(-range_m, range_m, (len(false), 2))
    false[:, 4:6] = rng.normal(0, 2.0, (len(false), 2))
    return np.concatenate([points, false])


def folded_velocity(points: np.ndarray, rng: np.random.Generator, share: float = 1.0) -> np.ndarray:
    """Radial speed off by one unambiguous interval, in either direction, for a ``share`` of the points."""
    points = points.copy()
    direction = points[:, :2] / np.maximum(np.linalg.norm(points[:, :2], axis=1, keepdims=True), 1e-3)
    steps = rng.choice([-1.0, 1.0], len(points)) * (rng.random(len(points)) < share)
    points[:, 4:6] += direction * (steps * _RADAR_SPAN_MPS)[:, None]
    return points


def flipped_velocity(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[:, 4:6] *= -1
    return points


def without_sector(points: np.ndarray, yaw_deg: float, half_angle_deg: float) -> np.ndarray:
    """Radar points but those in a sector seen from the vehicle, as if the radar that looks there were dead."""
    off = (np.rad2deg(np.arctan2(points[:, 1], points[:, 0])) - yaw_deg + 180) % 360 - 180
    return points[np.abs(off) > half_angle_deg]


def bright(image: np.ndarray, amount: float) -> np.ndarray:
    """HSV value raised by ``amount`` of its range."""
    value = image.max(axis=2, keepdims=True).astype(np.float32)
    raised = np.minimum(value + 255 * amount, 255)
    # Hue and saturation stay when all channels scale alike; black has neither and becomes grey.
    scaled = np.where(value > 0, image * (raised / np.maximum(value, 1)), raised)
    return scaled.round().astype(np.uint8)


def dark(image: np.ndarray, scale: float, photons: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Stretched to full range, gamma 2, scaled down; then shot noise of ``photons`` at white, and Gaussian noise."""
    x = image.astype(np.float32) / 255
    low, high = float(x.min()), float(x.max())
    x = ((x - low) / max(high - low, 1e-6)) ** 2 * scale
    x = np.clip(rng.poisson(x * photons).astype(np.float32) / photons, 0, 1)
    x = x + rng.standard_normal(x.shape, dtype=np.float32) * noise
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def motion_blur(image: np.ndarray, angle_deg: float, sigma_px: float, taps: int = 31) -> np.ndarray:
    """``taps`` pixels along a line at ``angle_deg``, weighted by half a Gaussian; the border repeats itself."""
    kernel = np.zeros((2 * taps - 1, 2 * taps - 1), np.float32)
    for i in range(taps):
        down, right = i * np.sin(np.deg2rad(angle_deg)), i * np.cos(np.deg2rad(angle_deg))
        kernel[taps - 1 - round(down), taps - 1 - round(right)] += np.exp(-(i**2) / (2 * sigma_px**2))
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def shake(points: np.ndarray, sigma_m: float, rng: np.random.Generator) -> np.ndarray:
    """MultiCorrupt's motion blur of a cloud: one common shift, and a fraction of it for each point."""
    points = points.copy()
    jitter = rng.normal(0, np.array([0.15, 0.2, 0.12]) * sigma_m, (len(points), 3)).clip(-3 * sigma_m, 3 * sigma_m)
    points[:, :3] += rng.normal(0, sigma_m, 3) + jitter
    return points


def fog_image(image: np.ndarray, amount: float, beta: float, rng: np.random.Generator) -> np.ndarray:
    """Patches of haze of weight ``amount``, then attenuation ``beta`` that grows away from the road ahead."""
    height, width = image.shape[:2]
    x = image.astype(np.float32) / 255
    brightest = float(x.max())
    haze = (
        _clouds(height, width, rng) * (1 - 0.8 * _clouds(height, width, rng)) * (1 + 0.5 * _clouds(height, width, rng))
    )
    x = np.clip((x + amount * haze[..., None]) * brightest / (brightest + amount), 0, 1)
    rows, columns = np.arange(height)[:, None] * 900 / height, np.arange(width)[None] * 1600 / width
    off = np.hypot(
        np.maximum(0, np.maximum(rows - 0.99 * 900, 0.65 * 900 - rows)),
        np.maximum(0, np.maximum(columns - 0.85 * 1600, 0.1 * 1600 - columns)),
    )
    distance = 2 * off * (1 + rng.random((height, width)) / 4) + np.sqrt(1600)
    left = np.exp(-beta * distance)[..., None].astype(np.float32)
    return (np.clip(x * left + 0.5 * (1 - left), 0, 1) * 255).astype(np.uint8)


def _clouds(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A fractal height map in 0..1: octaves of noise, each finer one weaker by 1.7, as of the diamond-square way."""
    total = np.zeros((height, width), np.float32)
    for octave in range(7):
        noise = rng.random((2**octave + 1, 2**octave + 1), dtype=np.float32)
        larger = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        total += np.asarray(larger, np.float32) / 1.7**octave
    total -= total.min()
    return total / total.max()


def fog_lidar(points: np.ndarray, alpha: float, beta: float, rng: np.random.Generator) -> np.ndarray:
    """Fog of extinction ``alpha`` per metre and backscatter ``beta`` per steradian (Hahner et al., 2021).

    A return weakens by exp(-2 alpha range). Where the fog before it answers more strongly, the point is found in the
    fog instead, at a distance that varies by up to 10 m of the original range, as in MultiCorrupt.
    """
    origin = EGO_SE3_LIDAR.translation.astype(np.float32)
    ray = points[:, :3] - origin
    distance = np.linalg.norm(ray, axis=1)
    where, strength = _fog_echo(alpha)
    cell = np.minimum((distance / _FOG_STEP_M).astype(int), len(where) - 1)
    echo = points[:, 3] * distance**2 * (beta / _FOG_TARGET) * strength[cell]
    out = points.copy()
    out[:, 3] = np.round(points[:, 3] * np.exp(-2 * alpha * distance))
    fog = echo > out[:, 3]
    noise = distance / np.maximum(rng.uniform(distance - 10, distance + 10), 0.1 * distance + 1e-3)
    nearer = (where[cell] * noise / np.maximum(distance, 1e-3)).clip(0, 1)[:, None]
    out[fog, :3] = (origin + ray * nearer)[fog]
    out[fog, 3] = np.minimum(echo, 255)[fog]
    return out


_FOG_STEP_M, _FOG_RANGE_M = 0.1, 200.0
_FOG_TARGET = 1e-6 / np.pi  # differential reflectivity of the hard target
_PULSE_S = 2e-8  # half-power width


@lru_cache(maxsize=8)
def _fog_echo(alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """For targets at 0, 0.1, ... 200 m: where the fog before them answers most and how much, but for beta."""
    t = np.linspace(0, 2 * _PULSE_S, 400)
    r = np.arange(0, _FOG_RANGE_M + _FOG_STEP_M, _FOG_STEP_M)[:, None] - 299792458.0 * t / 2
    overlap = np.clip((r - 0.9) / 0.1, 0, 1)  # of the transmitted beam and the receiver's field of view
    pulse = np.sin(np.pi * t / (2 * _PULSE_S)) ** 2
    response = (pulse * overlap * np.exp(-2 * alpha * r) / np.maximum(r, 0.9) ** 2).sum(axis=1) * (t[1] - t[0])
    best = np.maximum.accumulate(response)
    where = np.maximum.accumulate(np.where(response >= best, np.arange(len(response)), 0)) * _FOG_STEP_M
    return where.astype(np.float32), best.astype(np.float32)


@dataclass(frozen=True)
class Corrupted:
    """A frame with corruption in some sensors, and how each sensor's content is displaced in BEV.

    errors: sensor -> SE3 that maps where things are (ego frame) to where the sensor shows them; a sensor whose
        displacement is not one rigid motion is not in it.
    """

    frame: Frame
    errors: dict[str, SE3]


def draw_corruptions(
    corrupted: Corrupted, previous: Callable[[], Frame | None], rate: float, rng: np.random.Generator
) -> Corrupted:
    """With probability ``rate`` camera, radar and LiDAR each get one corruption of their kind, of random severity.

    previous: gives the keyframe before in the same scene, None where there is none: nothing is stale then. It is asked
        only for what is to be stale, since reading a frame takes as long as training on it.
    """
    for name, draw in (("lidar", _corrupted_lidar), ("radar", _corrupted_radar), ("camera", _corrupted_camera)):
        if name in corrupted.frame.sensors and rng.random() < rate:
            corrupted = draw(corrupted, previous, rng)
    return corrupted


def _keep_rings(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    every = rng.choice([2, 4, 8])
    return points[rings(points) % every == rng.integers(every)]


# (points, rng) -> points, a corruption of random severity that displaces nothing.
_LIDAR_CORRUPTIONS = {
    "thinned": lambda p, rng: thinned(p, rng.uniform(0.05, 0.4), rng),
    "rings": _keep_rings,
    "view": lambda p, rng: ahead(p, rng.uniform(45, 120), rng.choice([0.0, 0.0, 90.0, -90.0, 180.0])),
    "shaken": lambda p, rng: shake(p, rng.uniform(0.03, 0.15), rng),
}
_RADAR_CORRUPTIONS = {
    "dropped": lambda p, rng: thinned(p, rng.uniform(0.05, 0.6), rng),
    "ghosts": lambda p, rng: ghosts(p, rng.uniform(0.5, 5.0), rng),
    "clutter": lambda p, rng: clutter(p, np.exp(rng.uniform(np.log(1.5), np.log(20))), rng),
    "folded": lambda p, rng: folded_velocity(p, rng, rng.uniform(0.2, 1.0)),
    "flipped": lambda p, rng: flipped_velocity(p),
    "sector": lambda p, rng: without_sector(p, rng.uniform(-180, 180), rng.uniform(30, 60)),
}


def _corrupted_lidar(corrupted: Corrupted, previous: Callable[[], Frame | None], rng: np.random.Generator) -> Corrupted:
    kind = rng.choice([*["moved"] * 3, *["stale"] * 3, *_LIDAR_CORRUPTIONS])
    if kind == "moved":
        strength = rng.uniform(0, 3.5)
        angles = rng.choice([-1, 1], 3) * strength * rng.uniform(0.5, 1.0, 3)
        way = rng.uniform(0, 2 * np.pi)
        error = lidar_error(angles, rng.uniform(0, 2.5) * np.array([np.cos(way), np.sin(way), 0.0]))
        return Corrupted(move_lidar(corrupted.frame, error), {**corrupted.errors, "lidar": error})
    if kind == "stale":
        return _stale(corrupted, previous(), "lidar", stale_lidar)
    return replace(corrupted, frame=with_lidar(corrupted.frame, lambda points: _LIDAR_CORRUPTIONS[kind](points, rng)))


def _corrupted_radar(corrupted: Corrupted, previous: Callable[[], Frame | None], rng: np.random.Generator) -> Corrupted:
    kind = rng.choice(["stale", *_RADAR_CORRUPTIONS])
    if kind == "stale":
        return _stale(corrupted, previous(), "radar", stale_radar)
    return replace(corrupted, frame=with_radar(corrupted.frame, lambda points: _RADAR_CORRUPTIONS[kind](points, rng)))


def _corrupted_camera(
    corrupted: Corrupted, previous: Callable[[], Frame | None], rng: np.random.Generator
) -> Corrupted:
    frame, cameras = corrupted.frame, corrupted.frame.cameras or {}
    some = [name for name in cameras if rng.random() < 0.5]
    kind = rng.choice(["stale", "rotated", "absent"])
    if kind == "absent":
        return replace(corrupted, frame=without_cameras(frame, some)) if len(some) < len(cameras) else corrupted
    if kind == "rotated":
        frame = rotate_cameras(frame, rng.uniform(0, 5), rng.uniform(0, 0.2), rng, some)
    elif (before := previous()) is None or before.cameras is None:
        return corrupted
    else:
        frame = stale_cameras(frame, before, some)
    # Each camera is off in its own way: there is no one motion to name.
    return Corrupted(frame, {name: error for name, error in corrupted.errors.items() if name != "camera"})


def _stale(
    corrupted: Corrupted, previous: Frame | None, sensor: str, change: Callable[[Frame, Frame], Frame]
) -> Corrupted:
    if previous is None or sensor not in previous.sensors:
        return corrupted
    error = previous.world_SE3_ego.inverse() @ corrupted.frame.world_SE3_ego
    return Corrupted(change(corrupted.frame, previous), {**corrupted.errors, sensor: error})
