"""Frames collated to model inputs. Separate from ``sample``, so that frames can be handled without loading torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from perception.sample import Boxes3D, CameraImage, Frame, PointCloud, SampleError, SensorData, fitted

if TYPE_CHECKING:
    from typing import Self  # Python 3.11


@dataclass
class Tensors:
    """Moves all tensors in the fields of a dataclass, nested ones included."""

    def to(self, device: str | torch.device) -> Self:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Page-locked memory allows asynchronous copies to a GPU."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        def changed(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return change(value)
            if isinstance(value, Tensors):
                return value._each(change)
            return {key: changed(v) for key, v in value.items()} if isinstance(value, dict) else value

        return type(self)(**{f.name: changed(getattr(self, f.name)) for f in dataclasses.fields(self)})


@dataclass
class PaddedPoints:
    """The clouds of one sensor, padded to the longest.

    points: float32 [B, P, C], P >= 1, zero where there is none.  valid: bool [B, P].
    """

    points: torch.Tensor
    valid: torch.Tensor

    @property
    def padded(self) -> PaddedPoints:
        """Itself, as where a PointBatch is asked for the same."""
        return self


@dataclass
class PointBatch(Tensors):
    """The clouds of one sensor, concatenated.

    points: float32 [M, C] with columns ``fields``.  batch_index: int64 [M], sample of each point, ascending.
    """

    points: torch.Tensor
    batch_index: torch.Tensor
    batch_size: int
    fields: tuple[str, ...]

    @cached_property
    def padded(self) -> PaddedPoints:
        """The same points by sample. Kept, as a GPU is waited for to know the longest cloud."""
        count = torch.bincount(self.batch_index, minlength=self.batch_size)
        slot = torch.arange(len(self.points), device=count.device) - (count.cumsum(0) - count)[self.batch_index]
        most = max(int(count.max()), 1)
        points = self.points.new_zeros(self.batch_size, most, self.points.shape[1])
        points[self.batch_index, slot] = self.points
        return PaddedPoints(points, torch.arange(most, device=count.device) < count[:, None])


@dataclass
class ImageBatch(Tensors):
    """The images of one sensor.

    images: uint8 [B, N, 3, H, W] RGB.  intrinsics: [B, N, 3, 3].  ego_SE3_camera: [B, N, 4, 4].
    valid: bool [B, N], false for a single missing camera.
    """

    images: torch.Tensor
    intrinsics: torch.Tensor
    ego_SE3_camera: torch.Tensor
    valid: torch.Tensor


@dataclass
class Moment(Tensors):
    """When and where the samples were taken.

    scenes: name of the drive, by sample.  timestamp_ns: int64 [B].  world_SE3_ego: float64 [B, 4, 4].
    """

    scenes: list[str]
    timestamp_ns: torch.Tensor
    world_SE3_ego: torch.Tensor


SensorBatch = PointBatch | ImageBatch


@dataclass
class Batch(Tensors):
    """The input of a Detector.

    sensors: names along every axis S.  sensor_valid: bool [B, S]; false where the sensor of a sample is to be ignored.
    inputs: encoder inputs by sensor name, without sensors that no sample has. May include a sensor that only
        supervises depth.
    boxes: per sample; None if any sample is not annotated.
    displacement: float [B, S, 3], only in training: planar motion (yaw, x, y) by which each sensor's content is
        displaced, in radians and metres; NaN if it is corrupted in another way.
    moment: None in a batch that nothing is remembered of.
    previous: only in training, the frames before these, for what a detector remembers of them.
    targets: only in training, what heads are trained on, by their names.
    """

    tokens: list[str]
    sensors: tuple[str, ...]
    sensor_valid: torch.Tensor
    inputs: dict[str, SensorBatch] = field(default_factory=dict)
    boxes: list[Boxes3D] | None = None
    displacement: torch.Tensor | None = None
    moment: Moment | None = None
    previous: Batch | None = None
    targets: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class InputSpec:
    """The inputs that a detector's encoders require.

    sensors: names, in the order of every axis S.
    image_size: sensor -> height and width, for sensors with images.
    depth_from: sensor -> the sensor whose points supervise its depth, which need not be in ``sensors``.
    """

    sensors: tuple[str, ...]
    image_size: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    depth_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def covering(self) -> tuple[int, int] | None:
        """Height and width that decoded images must cover to suit every sensor; None without image sensors."""
        sizes = list(self.image_size.values())
        return (max(height for height, _ in sizes), max(width for _, width in sizes)) if sizes else None


def collate(frames: Sequence[Frame], spec: InputSpec) -> Batch:
    """Collate frames into a Batch; images are fitted to the input size of their encoder.

    Frames may differ in their sensors and cameras. Sensors that are not in ``spec`` are ignored.

    Raises:
        SampleError: no frames, or images where an encoder takes points (or vice versa).
    """
    if not frames:
        raise SampleError("collate: at least one frame was expected, found none")
    data = [frame.data for frame in frames]
    names = dict.fromkeys([*spec.sensors, *spec.depth_from.values()])
    boxes = [frame.boxes for frame in frames if frame.boxes is not None]
    by_sensor = {name: [present.get(name) for present in data] for name in names}
    return Batch(
        tokens=[frame.token for frame in frames],
        sensors=spec.sensors,
        sensor_valid=torch.tensor([[name in present for name in spec.sensors] for present in data]),
        inputs={
            name: _collate(name, parts, spec) for name, parts in by_sensor.items() if any(p is not None for p in parts)
        },
        boxes=boxes if len(boxes) == len(frames) else None,
        moment=Moment(
            [frame.scene for frame in frames],
            torch.tensor([frame.timestamp_ns for frame in frames]),
            torch.from_numpy(np.stack([frame.world_SE3_ego.matrix for frame in frames])),
        ),
    )


def _collate(name: str, parts: list[SensorData | None], spec: InputSpec) -> SensorBatch:
    clouds = [part for part in parts if part is None or isinstance(part, PointCloud)]
    if len(clouds) == len(parts) and name not in spec.image_size:
        return _collate_points(clouds)
    images = [part for part in parts if not isinstance(part, PointCloud)]
    if name not in spec.image_size or len(images) < len(parts):
        wanted, found = ("images", "points") if name in spec.image_size else ("points", "images")
        raise SampleError(f"{name}: {wanted} were expected, as its encoder takes, found {found}")
    return _collate_images(images, spec.image_size[name])


def _collate_points(clouds: list[PointCloud | None]) -> PointBatch:
    points = np.concatenate([cloud.points for cloud in clouds if cloud is not None])
    lengths = [0 if cloud is None else len(cloud.points) for cloud in clouds]
    index = np.repeat(np.arange(len(clouds), dtype=np.int64), lengths)
    fields = next(cloud.fields for cloud in clouds if cloud is not None)
    return PointBatch(torch.from_numpy(points), torch.from_numpy(index), len(clouds), fields)


def _collate_images(parts: list[dict[str, CameraImage] | None], image_size: tuple[int, int]) -> ImageBatch:
    names = sorted({name for cameras in parts for name in cameras or {}})
    shape = (len(parts), len(names))
    images = np.zeros((*shape, *image_size, 3), dtype=np.uint8)
    intrinsics = np.tile(np.eye(3, dtype=np.float32), (*shape, 1, 1))
    ego_SE3_camera = np.tile(np.eye(4, dtype=np.float32), (*shape, 1, 1))
    valid = np.zeros(shape, dtype=bool)
    for b, cameras in enumerate(parts):
        for name, camera in (cameras or {}).items():
            n = names.index(name)
            images[b, n], affine = fitted(camera.image, image_size)
            intrinsics[b, n] = affine @ camera.intrinsics
            ego_SE3_camera[b, n], valid[b, n] = camera.ego_SE3_camera.matrix, True
    return ImageBatch(
        torch.from_numpy(images).permute(0, 1, 4, 2, 3),
        torch.from_numpy(intrinsics),
        torch.from_numpy(ego_SE3_camera),
        torch.from_numpy(valid),
    )
