"""What the detector is trained to minimise: heat map focal loss, box L1, attribute and depth cross-entropy."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from perception.batch import Batch
from perception.config import Config
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.detector import Prediction
from perception.model.head import BOX_CHANNELS, encode
from perception.model.registration import registration_loss
from perception.sample import SENSORS

_BOX_WEIGHTS = {"offset": 1.0, "z": 0.5, "log_size": 1.0, "heading": 0.5, "axis": 1.0, "velocity": 2.0}
_BOX_WEIGHT, _ATTRIBUTE_WEIGHT = 0.5, 0.2
_DEPTH_MAX_AGE_S = 0.06  # older sweeps show moving things where they were


class DetectionLoss(nn.Module):
    """``loss(prediction, batch)`` -> {"total", "heat", "box", "attribute", "depth", "registration"}, scalars."""

    def __init__(self, config: Config):
        super().__init__()
        self.grid = BEVGrid(**vars(config.grid))
        self.camera, self.depth_weight = config.camera, config.train.depth_weight
        self.registration_weight = config.train.registration_weight
        weights = [_BOX_WEIGHTS[name] for name, width in BOX_CHANNELS.items() for _ in range(width)]
        self.register_buffer("box_weight", torch.tensor(weights), persistent=False)

    def forward(self, prediction: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
        if batch.boxes is None:
            raise PerceptionError(
                f"training wants annotated frames; at least one of {', '.join(batch.tokens)} has no boxes"
            )
        maps = prediction.maps
        target, occupied = encode(batch.boxes, self.grid, maps.heat.device)
        positives = occupied.sum().clamp(min=1)
        terms = {"heat": focal_loss(maps.heat, target.heat) / (target.heat == 1).sum().clamp(min=1)}

        cells = occupied.nonzero(as_tuple=True)
        box, box_target = (m.box.permute(0, 2, 3, 1)[cells] for m in (maps, target))
        known = box_target.isfinite()
        error = (box - box_target.nan_to_num()).abs() * known * self.box_weight
        terms["box"] = _BOX_WEIGHT * error.sum() / positives

        attribute, attribute_target = (m.attribute.permute(0, 2, 3, 1)[cells] for m in (maps, target))
        cross_entropy = -(attribute_target * attribute.log_softmax(dim=1)).sum()
        terms["attribute"] = _ATTRIBUTE_WEIGHT * cross_entropy / positives

        if prediction.depth is not None and batch.lidar is not None:
            bins = depth_target(batch, *prediction.depth.shape[2:], self.camera.depth_min_m, self.camera.depth_max_m)
            bins[~_agree(batch)] = -1
            seen = (bins >= 0).sum().clamp(min=1)
            depth = F.cross_entropy(
                prediction.depth.flatten(0, 1).float(), bins.flatten(0, 1), ignore_index=-1, reduction="sum"
            )
            terms["depth"] = self.depth_weight * depth / seen
        if prediction.registered is not None and batch.displacement is not None:
            terms["registration"] = self.registration_weight * registration_loss(
                prediction.registered, batch.displacement, batch.sensor_valid
            )
        terms["total"] = sum(terms.values())
        return terms


def _agree(batch: Batch) -> torch.Tensor:
    """bool [B]: images and LiDAR are where they say they are, so that one may teach the other depth."""
    if batch.displacement is None:
        return torch.ones(len(batch), dtype=torch.bool)
    sensors = [SENSORS.index("camera"), SENSORS.index("lidar")]
    return (batch.displacement[:, sensors].abs() < 1e-6).flatten(1).all(dim=1)


def focal_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Penalty-reduced focal loss, summed (CornerNet, Law & Deng, 2018): alpha 2, beta 4."""
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = log_p.exp()
    positive = target == 1
    loss = torch.where(positive, -log_p * (1 - p) ** 2, -log_not_p * p**2 * (1 - target) ** 4)
    return loss.sum()


@torch.no_grad()
def depth_target(
    batch: Batch, bins: int, height: int, width: int, depth_min_m: float, depth_max_m: float
) -> torch.Tensor:
    """Depth bin of the nearest LiDAR point per feature cell: int64 [B, N, height, width], -1 where there is none."""
    b, n = batch.intrinsics.shape[:2]
    stride = batch.images.shape[-1] / width
    target = torch.full((b * n * height * width,), bins, dtype=torch.int64, device=batch.intrinsics.device)
    camera_SE3_ego = torch.linalg.inv(batch.ego_SE3_camera.float())
    for sample in range(b):
        points = batch.lidar.points[(batch.lidar.batch_index == sample) & (batch.lidar.points[:, 4] < _DEPTH_MAX_AGE_S)]
        xyz = torch.einsum("nij,pj->npi", camera_SE3_ego[sample, :, :3, :3], points[:, :3])
        xyz = xyz + camera_SE3_ego[sample, :, None, :3, 3]
        pixels = torch.einsum("nij,npj->npi", batch.intrinsics[sample].float(), xyz)
        depth = xyz[..., 2]
        # A pixel centre lies at an integer, so the first feature cell spans pixels -0.5 to stride - 0.5.
        u = ((pixels[..., 0] / depth.clamp(min=0.1) + 0.5) / stride).floor().long()
        v = ((pixels[..., 1] / depth.clamp(min=0.1) + 0.5) / stride).floor().long()
        ok = (depth >= depth_min_m) & (depth < depth_max_m) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        ok &= batch.camera_valid[sample, :, None]
        camera = torch.arange(n, device=depth.device)[:, None].expand_as(u)
        cell = (((sample * n + camera) * height + v) * width + u)[ok]
        index = ((depth[ok] - depth_min_m) / (depth_max_m - depth_min_m) * bins).long().clamp(max=bins - 1)
        target.scatter_reduce_(0, cell, index, "amin")
    return target.masked_fill(target == bins, -1).view(b, n, height, width)
