"""Augmentation of a Frame for training; data and calibration are always changed together.

Three independent parts:

- The *world* is mirrored left to right, scaled, rotated about z and shifted: ``p' = scale * R @ M @ p + t`` for every
  point, with ``M = diag(1, -1, 1)`` if mirrored. A camera sees a mirrored world as a mirrored image, so images are
  flipped too, and ``ego_SE3_camera`` stays a proper rotation: ``R @ M @ rotation @ diag(-1, 1, 1)``.
- Each *image* is zoomed, shifted, resized to the network's input size, rotated about its centre and mirrored by itself,
  and its brightness and contrast change (BEVDet, Huang et al. 2021). A rotated image is that of a camera rolled about
  its optical axis. One that is mirrored in a world that is not is that of no camera: its intrinsics have fx < 0.
- Each *cloud* may lose older sweeps, and its intensities change.

After both, each point still projects to the same image content.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from perception.config import AugmentConfig
from perception.geometry import SE3, wrap_angle
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, PointCloud, scaled_below, scaling

# A LiDAR that spins at 20 Hz; radars at 13 Hz, each in its own time.
_LIDAR_SWEEP_S, _SWEEP_S = 0.04, 0.08
MIRROR_CAMERA = np.diag([-1.0, 1.0, 1.0])  # left-right is x in camera axes


@dataclass(frozen=True)
class WorldTransform:
    """``p' = rigid(scale * M @ p)``: mirror y if ``mirror``, scale, then rotate about z and translate."""

    mirror: bool = False
    scale: float = 1.0
    rigid: SE3 = field(default_factory=SE3)

    @property
    def reflection(self) -> np.ndarray:
        return np.diag([1.0, -1.0, 1.0]) if self.mirror else np.eye(3)

    @property
    def linear(self) -> np.ndarray:
        """[3, 3] linear part, which applies to velocities and position differences."""
        return self.scale * self.rigid.rotation @ self.reflection

    def seen_from(self, error: SE3) -> SE3:
        """A displacement of sensor content, true to displaced positions, expressed in the transformed world."""
        old, new = error.rotation, self.rigid.rotation @ self.reflection
        rotation = new @ old @ new.T
        shift = self.linear @ error.translation + self.rigid.translation - rotation @ self.rigid.translation
        return SE3(rotation, shift)

    def camera_pose(self, ego_SE3_camera: SE3) -> SE3:
        """The camera pose from which the transformed world looks unchanged, or mirrored if ``mirror``."""
        camera_reflection = MIRROR_CAMERA if self.mirror else np.eye(3)
        rotation = self.rigid.rotation @ self.reflection @ ego_SE3_camera.rotation @ camera_reflection
        return SE3(rotation, self.linear @ ego_SE3_camera.translation + self.rigid.translation)

    def ego_pose(self, world_SE3_ego: SE3) -> SE3:
        """The ego pose in a world frame that is mirrored and scaled alike.

        Without mirroring or scaling this is ``world_SE3_ego @ rigid.inverse()`` in the unchanged world frame.
        """
        mirrored = self.reflection @ world_SE3_ego.rotation @ self.reflection
        return SE3(mirrored, self.scale * self.reflection @ world_SE3_ego.translation) @ self.rigid.inverse()

    def points(self, points: np.ndarray, velocity: slice | None = None) -> np.ndarray:
        """Transformed copy, of the same dtype, of points [N, C] with x, y, z first and vx, vy at ``velocity``."""
        linear = self.linear.astype(points.dtype)
        out = points.copy()
        out[:, :3] = points[:, :3] @ linear.T + self.rigid.translation.astype(points.dtype)
        if velocity is not None:
            out[:, velocity] = points[:, velocity] @ linear[:2, :2].T
        return out

    def boxes(self, boxes: Boxes3D) -> Boxes3D:
        return dataclasses.replace(
            boxes,
            center=self.points(boxes.center),
            size=boxes.size * self.scale,
            yaw=wrap_angle((-boxes.yaw if self.mirror else boxes.yaw) + self.rigid.yaw),
            velocity=boxes.velocity @ self.linear[:2, :2].T,
        )


@dataclass(frozen=True)
class ImageTransform:
    """Changes to one image. The defaults are equivalent to ``sample.fit_image``.

    zoom: relative to the scale at which the image just covers the output.
    shift: (right, down) shift of the crop as a fraction of the output's (width, height); black outside the image.
    rotation: radians, clockwise, about the centre of the output; before it is mirrored.
    """

    mirror: bool = False
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    brightness: float = 1.0
    contrast: float = 1.0
    rotation: float = 0.0

    @property
    def roll(self) -> SE3:
        """The rotation of image and camera axes: both have x to the right and y down."""
        cos, sin = math.cos(self.rotation), math.sin(self.rotation)
        return SE3(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))

    def apply(self, image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The image [*size, 3] and the affine [3, 3] from old to new pixels (u, v, 1)."""
        height, width = image.shape[:2]
        scale = self.zoom * max(size[0] / height, size[1] / width)
        scaled = max(1, round(width * scale)), max(1, round(height * scale))
        left = (scaled[0] - size[1]) // 2 + round(self.shift[0] * size[1])
        top = scaled[1] - size[0] + round(self.shift[1] * size[0])

        turn, centre = self.roll.rotation.copy(), (np.array([size[1], size[0]]) - 1) / 2
        turn[:2, 2] = centre - turn[:2, :2] @ centre
        margin = math.ceil(abs(math.sin(self.rotation)) * max(size) / 2)  # of the crop, which the rotation may reach
        u, v = np.clip([left - margin, top - margin], 0, np.subtract(scaled, 1))
        around = scaled_below(image, scaled, v)[: size[0] + 2 * margin, u : u + size[1] + 2 * margin]
        crop = turn @ scaling(1, 1, left - u, top - v)
        out = cv2.warpAffine(cv2.LUT(around, self._lookup()), crop[:2], (size[1], size[0]))

        affine = turn @ scaling(scaled[0] / width, scaled[1] / height, left, top)
        if self.mirror:
            out = np.ascontiguousarray(out[:, ::-1])
            affine = np.array([[-1, 0, size[1] - 1], [0, 1, 0], [0, 0, 1]]) @ affine
        return out, affine

    def _lookup(self) -> np.ndarray:
        """Lookup table of the 256 grey values: brightness multiplies, contrast stretches about mid-grey."""
        values = (np.arange(256) * self.brightness - 128) * self.contrast + 128
        return np.clip(np.round(values), 0, 255).astype(np.uint8)


def draw_world(config: AugmentConfig, rng: np.random.Generator) -> WorldTransform:
    mirror = config.flip and bool(rng.random() < 0.5)
    yaw = np.deg2rad(rng.uniform(-config.rotate_deg, config.rotate_deg))
    scale = rng.uniform(1 - config.scale, 1 + config.scale)
    shift = rng.uniform(-config.translate_m, config.translate_m, size=3)
    if config.flip_back and rng.random() < 0.5:  # front to back is left to right and half a turn
        mirror, yaw = not mirror, yaw + np.pi
    return WorldTransform(mirror, scale, SE3.from_yaw(yaw, shift))


def augment(
    frame: Frame,
    world: WorldTransform,
    config: AugmentConfig,
    image_size: Mapping[str, tuple[int, int]],
    rng: np.random.Generator,
) -> Frame:
    """``frame`` transformed by ``world``, with randomly changed images of the given sizes.

    image_size: output (height, width) by sensor, for every sensor with images.
    """
    moved = transform_world(frame, world)
    data = dict(moved.data)
    for sensor, cameras in moved.data.items():
        if isinstance(cameras, PointCloud):
            data[sensor] = change_cloud(cameras, config, rng)
            continue
        images: dict[str, CameraImage] = {}
        for name, camera in cameras.items():
            image = ImageTransform(
                mirror=world.mirror != (config.image_flip and bool(rng.random() < 0.5)),
                zoom=rng.uniform(1 - config.image_scale, 1 + config.image_scale),
                shift=tuple(rng.uniform(-config.image_scale / 2, config.image_scale / 2, size=2)),
                brightness=rng.uniform(1 - config.image_color, 1 + config.image_color),
                contrast=rng.uniform(1 - config.image_color, 1 + config.image_color),
                rotation=_image_rotation(config, rng),
            )
            images[name] = transform_camera(camera, world, image, image_size[sensor])
        data[sensor] = images
    return moved.with_data(data)


def change_cloud(cloud: PointCloud, config: AugmentConfig, rng: np.random.Generator) -> PointCloud:
    """The cloud without what is older than a random age, and with all intensities scaled alike.

    Of sweeps that have one time each, the last one always stays. Data sets and vehicles differ in both. Nothing is
    drawn for what is off, so that older trainings stay as they were.
    """
    points, age_s = cloud.points, cloud.column("age_s")
    if config.sweep_dropout and rng.random() < config.sweep_dropout and age_s is not None and len(points):
        age, sweep_s = points[:, age_s], _LIDAR_SWEEP_S if isinstance(cloud, LidarCloud) else _SWEEP_S
        points = points[age <= max(rng.uniform(0, age.max()), age.min() + sweep_s)]
    intensity = cloud.column("intensity")
    if config.intensity_scale and intensity is not None:
        points = points.copy()
        points[:, intensity] *= rng.uniform(1 - config.intensity_scale, 1 + config.intensity_scale)
    return type(cloud)(points)


def _image_rotation(config: AugmentConfig, rng: np.random.Generator) -> float:
    """Radians. Nothing is drawn where images are not rotated, so that older trainings stay as they were."""
    limit = config.image_rotate_deg
    return float(np.deg2rad(rng.uniform(-limit, limit))) if limit else 0.0


def transform_world(frame: Frame, world: WorldTransform) -> Frame:
    """Transform clouds, boxes and ego pose of ``frame``; images are left unchanged."""
    clouds = {
        name: type(data)(world.points(data.points, data.velocity)) if isinstance(data, PointCloud) else data
        for name, data in frame.data.items()
    }
    return dataclasses.replace(
        frame.with_data(clouds),
        world_SE3_ego=world.ego_pose(frame.world_SE3_ego),
        boxes=None if frame.boxes is None else world.boxes(frame.boxes),
    )


def transform_camera(
    camera: CameraImage, world: WorldTransform, image: ImageTransform, size: tuple[int, int]
) -> CameraImage:
    """The camera in the transformed world; ``mirrored`` if only one of world and image is."""
    pixels, affine = image.apply(camera.image, size)
    roll = image.roll.inverse()
    intrinsics = affine @ camera.intrinsics @ roll.rotation @ (MIRROR_CAMERA if world.mirror else np.eye(3))
    pose = world.camera_pose(camera.ego_SE3_camera @ roll)
    mirrored = camera.mirrored ^ world.mirror ^ image.mirror
    return CameraImage(pixels, intrinsics, pose, camera.timestamp_ns, mirrored)
