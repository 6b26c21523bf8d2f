"""The depth of images, learned from the points of another sensor, as in BEVDepth (Li et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from perception.batch import Batch, ImageBatch, PointBatch
from perception.errors import PerceptionError

_MAX_AGE_S = 0.06  # older sweeps show moving objects at past positions


class DepthLoss:
    """``loss(depth, batch)``: the cross-entropy over depth bins, a mean over feature cells, summed over sensors.

    None if no sensor has a teacher.

    Args:
        encoders: by sensor; those with depth have a ``depth_range_m``.
        depth_from: sensor -> the sensor whose points supervise its depth.
    """

    def __init__(self, encoders: Mapping[str, nn.Module] | nn.ModuleDict, depth_from: Mapping[str, str]):
        by_name: dict[str, Any] = dict(encoders.items())
        self.depth_from = dict(depth_from)
        for name in depth_from:
            if not hasattr(by_name[name], "depth_range_m"):
                raise PerceptionError(f"encoders.{name}: depth_range_m was expected beside depth_from, found none")
        self.range_m: dict[str, tuple[float, float]] = {name: by_name[name].depth_range_m for name in depth_from}

    def __call__(self, depth: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor | None:
        """depth: logits [B, N, D, h, w] by sensor."""
        terms = [
            self._of_sensor(sensor, self.depth_from[sensor], logits, batch)
            for sensor, logits in depth.items()
            if self.depth_from.get(sensor) in batch.inputs
        ]
        return torch.stack(terms).sum() if terms else None

    def _of_sensor(self, sensor: str, source: str, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        images, cloud = batch.inputs[sensor], batch.inputs[source]
        if not isinstance(images, ImageBatch) or not isinstance(cloud, PointBatch):
            raise PerceptionError(f"depth of {sensor} from {source}: images and points were expected")
        _, _, count, height, width = logits.shape
        bins = depth_target(images, cloud, count, height, width, *self.range_m[sensor])
        bins[~agree(batch, sensor, source)] = -1
        seen = (bins >= 0).sum().clamp(min=1)
        return (
            F.cross_entropy(logits.flatten(0, 1).float(), bins.flatten(0, 1), ignore_index=-1, reduction="sum") / seen
        )


def agree(batch: Batch, *sensors: str) -> torch.Tensor:
    """bool [B]: whether these sensors are not displaced, so that one can supervise the other, or boxes can."""
    if batch.displacement is None:
        return torch.ones(len(batch), dtype=torch.bool)
    axes = [s for s, name in enumerate(batch.sensors) if name in sensors]
    return (batch.displacement[:, axes].abs() < 1e-6).flatten(1).all(dim=1)


@torch.no_grad()
def depth_target(
    images: ImageBatch, cloud: PointBatch, bins: int, height: int, width: int, depth_min_m: float, depth_max_m: float
) -> torch.Tensor:
    """Depth bin of the nearest recent point in each feature cell: int64 [B, N, height, width], -1 for none."""
    age_s = cloud.points[:, cloud.fields.index("age_s")] if "age_s" in cloud.fields else cloud.points.new_zeros(1)
    recent = age_s < _MAX_AGE_S
    b, n = images.intrinsics.shape[:2]
    stride = images.images.shape[-1] / width
    target = torch.full((b * n * height * width,), bins, dtype=torch.int64, device=images.intrinsics.device)
    camera_SE3_ego = torch.linalg.inv(images.ego_SE3_camera.float())
    for sample in range(b):
        points = cloud.points[(cloud.batch_index == sample) & recent]
        xyz = torch.einsum("nij,pj->npi", camera_SE3_ego[sample, :, :3, :3], points[:, :3])
        xyz = xyz + camera_SE3_ego[sample, :, None, :3, 3]
        pixels = torch.einsum("nij,npj->npi", images.intrinsics[sample].float(), xyz)
        depth = xyz[..., 2]
        # Pixel centres lie at integers, so the first feature cell spans -0.5 to stride - 0.5.
        u = ((pixels[..., 0] / depth.clamp(min=0.1) + 0.5) / stride).floor().long()
        v = ((pixels[..., 1] / depth.clamp(min=0.1) + 0.5) / stride).floor().long()
        ok = (depth >= depth_min_m) & (depth < depth_max_m) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        ok &= images.valid[sample, :, None]
        camera = torch.arange(n, device=depth.device)[:, None].expand_as(u)
        cell = (((sample * n + camera) * height + v) * width + u)[ok]
        index = ((depth[ok] - depth_min_m) / (depth_max_m - depth_min_m) * bins).long().clamp(max=bins - 1)
        target.scatter_reduce_(0, cell, index, "amin")
    return target.masked_fill(target == bins, -1).view(b, n, height, width)
