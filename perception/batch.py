"""Frames as the tensors a model sees. Apart from ``sample``, so that frames can be handled without loading torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from perception.sample import SENSORS, Boxes3D, Frame, SampleError, fitted


@dataclass
class PointBatch:
    """The clouds of a batch, concatenated. points: float32 [M, C].  batch_index: int64 [M], the sample of each."""

    points: torch.Tensor
    batch_index: torch.Tensor


@dataclass
class Batch:
    """What a Detector takes.

    images: uint8 [B, N, 3, H, W] RGB, or None.  intrinsics: [B, N, 3, 3].  ego_SE3_camera: [B, N, 4, 4].
    camera_valid: bool [B, N], false for a single missing camera.
    sensor_valid: bool [B, 3] in the order of SENSORS; where it is false the sample's share of that sensor is ignored.
    displacement: float [B, 3, 3], only in training: (yaw, x, y) of the planar motion by which each sensor's content is
        off; radians and metres, NaN where it is off in some other way.
    """

    tokens: list[str]
    sensor_valid: torch.Tensor
    images: torch.Tensor | None = None
    intrinsics: torch.Tensor | None = None
    ego_SE3_camera: torch.Tensor | None = None
    camera_valid: torch.Tensor | None = None
    radar: PointBatch | None = None
    lidar: PointBatch | None = None
    boxes: list[Boxes3D] | None = None
    displacement: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device) -> Batch:
        def move(value):
            if isinstance(value, torch.Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, PointBatch):
                return PointBatch(move(value.points), move(value.batch_index))
            return value

        return Batch(**{f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def pin_memory(self) -> Batch:
        """Called by the DataLoader when it pins: page-locked memory makes the copy to a GPU asynchronous."""

        def pin(value):
            if isinstance(value, torch.Tensor):
                return value.pin_memory()
            return PointBatch(pin(value.points), pin(value.batch_index)) if isinstance(value, PointBatch) else value

        return Batch(**{f.name: pin(getattr(self, f.name)) for f in dataclasses.fields(self)})


def collate(frames: list[Frame], image_size: tuple[int, int]) -> Batch:
    """Stack frames into a Batch; images are fitted to ``image_size`` (height, width).

    Frames may differ in the sensors and in the cameras they have.
    """
    if not frames:
        raise SampleError("collate: at least one frame was expected, found none")
    batch = Batch(
        tokens=[frame.token for frame in frames],
        sensor_valid=torch.tensor([[name in frame.sensors for name in SENSORS] for frame in frames]),
        radar=_collate_points([frame.radar for frame in frames]),
        lidar=_collate_points([frame.lidar for frame in frames]),
        boxes=[frame.boxes for frame in frames] if all(frame.boxes is not None for frame in frames) else None,
    )
    names = sorted({name for frame in frames for name in frame.cameras or {}})
    if names:
        shape = (len(frames), len(names))
        images = np.zeros((*shape, *image_size, 3), dtype=np.uint8)
        intrinsics = np.tile(np.eye(3, dtype=np.float32), (*shape, 1, 1))
        ego_SE3_camera = np.tile(np.eye(4, dtype=np.float32), (*shape, 1, 1))
        valid = np.zeros(shape, dtype=bool)
        for b, frame in enumerate(frames):
            for n, name in enumerate(names):
                if frame.cameras and name in frame.cameras:
                    camera = frame.cameras[name]
                    images[b, n], affine = fitted(camera.image, image_size)
                    intrinsics[b, n] = affine @ camera.intrinsics
                    ego_SE3_camera[b, n], valid[b, n] = camera.ego_SE3_camera.matrix, True
        batch.images = torch.from_numpy(images).permute(0, 1, 4, 2, 3)
        batch.intrinsics, batch.ego_SE3_camera = torch.from_numpy(intrinsics), torch.from_numpy(ego_SE3_camera)
        batch.camera_valid = torch.from_numpy(valid)
    return batch


def _collate_points(clouds: list) -> PointBatch | None:
    if all(cloud is None for cloud in clouds):
        return None
    points = np.concatenate([cloud.points for cloud in clouds if cloud is not None])
    lengths = [0 if cloud is None else len(cloud.points) for cloud in clouds]
    index = np.repeat(np.arange(len(clouds), dtype=np.int64), lengths)
    return PointBatch(torch.from_numpy(points), torch.from_numpy(index))
