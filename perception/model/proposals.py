"""Peaks of the dense heat map as objects for the decoder to refine (TransFusion, Bai et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from perception.grid import BEVGrid
from perception.model.head import BOX_CHANNELS, VELOCITY_SCALE_MPS, CenterMaps
from perception.model.objects import LOG_SIZES, Objects, gathered

_HEADING_GAIN = 2.0  # logit of the sense for a heading that is sure of it


@dataclass
class Proposals:
    """cell, label: int64 [B, Q], flat cell of the grid and class of each peak.  valid: bool [B, Q]."""

    cell: torch.Tensor
    label: torch.Tensor
    valid: torch.Tensor


def find_peaks(maps: CenterMaps, grid: BEVGrid, most: int) -> Proposals:
    """The best local maxima of 3 x 3 cells, of all classes."""
    heat = maps.heat_logits
    peaks = heat.masked_fill(heat < F.max_pool2d(heat, 3, stride=1, padding=1), -torch.inf)
    best = peaks.flatten(1).topk(min(most, peaks[0].numel()), dim=1)
    return Proposals(best.indices % grid.cells, best.indices // grid.cells, best.values.isfinite())


def boxes_at(maps: CenterMaps, grid: BEVGrid, found: Proposals, features: torch.Tensor) -> Objects:
    """The dense head's boxes at the peaks.

    Args:
        features: [B, Q, D] of each object.
    """
    heat = gathered(maps.heat_logits.flatten(2).transpose(1, 2), found.cell)
    box, attributes = maps.at(found.cell, found.label)
    offset, z, log_size, heading, axis, velocity = box.split(list(BOX_CHANNELS.values()), dim=-1)
    column, row = found.cell % grid.columns, found.cell // grid.columns
    x, y = grid.to_metres(column + offset[..., 0], row + offset[..., 1])
    yaw = 0.5 * torch.atan2(axis[..., 0], axis[..., 1])
    agreement = heading[..., 0] * yaw.sin() + heading[..., 1] * yaw.cos()
    return Objects(
        center=torch.stack([x, y, z[..., 0]], dim=-1),
        log_size=log_size.clamp(*LOG_SIZES),
        yaw=yaw + torch.pi * (agreement < 0),
        velocity=velocity * VELOCITY_SCALE_MPS,
        sense_logit=_HEADING_GAIN * agreement.abs(),
        label=found.label,
        prior=heat.gather(2, found.label[..., None])[..., 0].sigmoid(),
        class_logits=heat,
        attribute_logits=attributes,
        quality_logit=torch.zeros_like(yaw),
        features=features,
        valid=found.valid,
    )
