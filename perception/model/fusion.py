"""Fusion of the BEV features of whichever sensors are present.

Three blocks share one signature, ``forward(features, sensor_valid) -> Fused``, as do custom blocks:

* :class:`AttentionFusion`: sensors are aligned with each other (``model.registration``), then every cell attends to
  the sensors present, in a window around itself;
* :class:`AverageFusion`: a learned softmax weight per sensor and channel (the channel-normalised weights of UniBEV);
* :class:`ConcatFusion`: concatenation and convolutions, with zeros for absent sensors; the common baseline.

``features`` maps sensor names to [B, C, rows, columns], for sensors that at least one sample of the batch has;
``sensor_valid`` [B, S] marks the sensors of each sample, in the order of the names given to the block. Attention and
average fusion mask absent sensors out of the softmax instead of filling them in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from perception.config import FusionConfig
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, PointwiseConv2d, group_norm
from perception.model.registration import Registered, Registration
from perception.ops.window_attention import window_attention


@dataclass
class Fused:
    """features: [B, C, rows, columns].  registered: how the sensors were aligned, None without registration."""

    features: torch.Tensor
    registered: Registered | None = None


class AverageFusion(nn.Module):
    """Weighted average with one learned weight per sensor and channel; softmax over the sensors present."""

    def __init__(self, sensors: Sequence[str], channels: int):
        super().__init__()
        self.sensors = tuple(sensors)
        self.weight = nn.Parameter(torch.zeros(len(self.sensors), channels))

    def forward(self, features: Mapping[str, torch.Tensor], sensor_valid: torch.Tensor) -> Fused:
        return Fused(self.average(features, sensor_valid, torch.zeros_like(sensor_valid, dtype=torch.float32)))

    def average(
        self, features: Mapping[str, torch.Tensor], sensor_valid: torch.Tensor, confidence: torch.Tensor
    ) -> torch.Tensor:
        """confidence [B, S] is added to the logits of every channel."""
        present = [s for s, name in enumerate(self.sensors) if name in features]
        logits = self.weight + confidence[..., None]  # [B, S, C]
        logits = _picked(logits.masked_fill(~sensor_valid[..., None], -torch.inf), present, dim=1)
        weight = logits.softmax(dim=1)
        weighted = [features[self.sensors[s]] * weight[:, i, :, None, None] for i, s in enumerate(present)]
        return sum(weighted[1:], start=weighted[0])


class ConcatFusion(nn.Module):
    """Concatenation and two convolutions; absent sensors are zeros, since concatenation needs a fixed width."""

    def __init__(self, sensors: Sequence[str], channels: int):
        super().__init__()
        self.sensors = tuple(sensors)
        self.mix = nn.Sequential(ConvBlock(len(self.sensors) * channels, channels), ConvBlock(channels, channels))

    def forward(self, features: Mapping[str, torch.Tensor], sensor_valid: torch.Tensor) -> Fused:
        zeros = torch.zeros_like(next(iter(features.values())))
        filled = [
            features[name] * sensor_valid[:, s, None, None, None] if name in features else zeros
            for s, name in enumerate(self.sensors)
        ]
        return Fused(self.mix(torch.cat(filled, dim=1)))


class AttentionFusion(nn.Module):
    """Cross-attention from each BEV cell to the tokens of the sensors present, in a window around the cell.

    The query is computed from the weighted average of the sensors present, which is also the residual path: without
    attention the block reduces to :class:`AverageFusion`. A learned bias per head, sensor and relative position lets
    heads attend to neighbouring cells and so tolerate misalignments of about one cell. Larger ones are corrected first
    by ``registration``, whose confidence in each sensor is added to the logits. Cost is linear in the number of cells.
    """

    displaced_scale: torch.Tensor

    def __init__(
        self,
        sensors: Sequence[str],
        channels: int,
        heads: int,
        neighbourhood: int,
        registration: Registration | None,
        width: int | None = None,
    ):
        """width: channels of queries, keys and values, a multiple of heads; None for as many as the features have."""
        super().__init__()
        self.sensors = tuple(sensors)
        name, width = ("channels", channels) if width is None else ("width", width)
        if neighbourhood % 2 == 0 or neighbourhood < 1:
            raise PerceptionError(f"fusion.neighbourhood: an odd number of cells was expected, found {neighbourhood}")
        if width % heads:
            raise PerceptionError(f"fusion.{name} ({width}) must be a multiple of fusion.heads ({heads})")
        self.registration = registration
        self.residual = AverageFusion(self.sensors, channels)
        self.sensor = nn.Parameter(torch.zeros(len(self.sensors), channels))
        # Tokens encode their sensor's correction: even when aligned, a late LiDAR shows moving objects where they were.
        self.displaced = nn.Linear(3, channels, bias=False)
        self.register_buffer("displaced_scale", torch.tensor([5.0, 0.2, 0.2]), persistent=False)
        self.query_norm, self.token_norm = group_norm(channels), group_norm(channels)
        self.query = PointwiseConv2d(channels, width)
        self.key_value = PointwiseConv2d(channels, 2 * width)
        self.output = PointwiseConv2d(width, channels)
        self.feed_forward = nn.Sequential(
            group_norm(channels),
            PointwiseConv2d(channels, 2 * channels),
            nn.ReLU(inplace=True),
            PointwiseConv2d(2 * channels, channels),
        )
        # At initialisation the block equals its residual path, the average.
        for zero in (*self.output.parameters(), *self.feed_forward[-1].parameters(), *self.displaced.parameters()):
            nn.init.zeros_(zero)
        self.bias = nn.Parameter(torch.zeros(heads, len(self.sensors), neighbourhood**2))

    def forward(self, features: Mapping[str, torch.Tensor], sensor_valid: torch.Tensor) -> Fused:
        registered, confidence = None, torch.zeros_like(sensor_valid, dtype=torch.float32)
        kind = self.sensor.expand(len(sensor_valid), -1, -1)  # [B, S, C] sensor embedding
        if self.registration is not None:
            registered = self.registration(features, sensor_valid)
            features, confidence = registered.features, registered.confidence
            kind = kind + self.displaced(registered.motion * self.displaced_scale)
        residual = self.residual.average(features, sensor_valid, confidence)
        present = [s for s, name in enumerate(self.sensors) if name in features]
        tokens = [self.token_norm(features[self.sensors[s]]) + kind[:, s, :, None, None] for s in present]
        key_value = [self.key_value(token) for token in tokens]
        query, bias = self.query(self.query_norm(residual)), self._bias(present, sensor_valid, confidence)
        fused = residual + self.output(window_attention(query, key_value, bias))
        return Fused(fused + self.feed_forward(fused), registered)

    def _bias(self, present: list[int], sensor_valid: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
        """[B, heads, S, n, n]: position bias plus sensor confidence in the window, -inf for absent sensors."""
        side = math.isqrt(self.bias.shape[-1])
        bias = self.bias.unflatten(2, (side, side)) + confidence[:, None, :, None, None]
        return _picked(bias.masked_fill(~sensor_valid[:, None, :, None, None], -torch.inf), present, dim=2)


def _picked(x: torch.Tensor, sensors: list[int], dim: int) -> torch.Tensor:
    """``x`` at these sensors along one axis; a list as an index would make a GPU wait for the CPU."""
    return torch.stack([x.select(dim, s) for s in sensors], dim)


def build_fusion(config: FusionConfig, grid: BEVGrid, sensors: Sequence[str], prior: Mapping[str, float]) -> nn.Module:
    """Build the fusion block that a config describes.

    Args:
        prior: see :class:`perception.model.registration.Registration`.
    """
    if config.kind == "attention":
        registration = None
        if config.registration:
            registration = Registration(grid, sensors, config.channels, prior, pooled=config.pooled_descriptors)
        return AttentionFusion(
            sensors, config.channels, config.heads, config.neighbourhood, registration, width=config.width
        )
    if config.kind == "average":
        return AverageFusion(sensors, config.channels)
    return ConcatFusion(sensors, config.channels)
