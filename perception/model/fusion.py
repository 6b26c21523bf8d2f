"""Fusion of the BEV features of whichever sensors are present.

Three blocks with one signature, ``forward(features, sensor_valid) -> Fused``:

* :class:`AttentionFusion`: sensors are brought into line with each other (``model.registration``), then every cell asks
  those present, in a window around itself, what they see there;
* :class:`AverageFusion`: a learned softmax weight per sensor and channel (the channel-normalised weights of UniBEV);
* :class:`ConcatFusion`: concatenate and convolve, absent sensors as zeros; what everybody ships, the baseline.

``features`` is a list in the order of SENSORS with None where no sample of the batch has the sensor; ``sensor_valid``
[B, 3] says it per sample. In attention and average an absent sensor is masked out of the softmax, never filled in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from perception.config import FusionConfig
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, PointwiseConv2d, group_norm
from perception.model.registration import Registered, Registration
from perception.ops.window_attention import window_attention
from perception.sample import SENSORS


@dataclass
class Fused:
    """features: [B, C, rows, columns].  registered: how sensors were brought into line, None where they were not."""

    features: torch.Tensor
    registered: Registered | None = None


class AverageFusion(nn.Module):
    """Softmax over the present sensors of one learned weight per sensor and channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(len(SENSORS), channels))

    def forward(self, features: list[torch.Tensor | None], sensor_valid: torch.Tensor) -> Fused:
        return Fused(self.average(features, sensor_valid, torch.zeros_like(sensor_valid, dtype=torch.float32)))

    def average(self, features, sensor_valid: torch.Tensor, trust: torch.Tensor) -> torch.Tensor:
        """trust [B, 3] is added to the logits of every channel."""
        present = [index for index, feature in enumerate(features) if feature is not None]
        logits = self.weight[present] + trust[:, present, None]  # [B, S, C]
        weight = logits.masked_fill(~sensor_valid[:, present, None], -torch.inf).softmax(dim=1)
        return sum(features[index] * weight[:, s, :, None, None] for s, index in enumerate(present))


class ConcatFusion(nn.Module):
    """Concatenation and a convolution; absent sensors are zeros, because concatenation has no other way."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.mix = nn.Sequential(ConvBlock(len(SENSORS) * channels, channels), ConvBlock(channels, channels))

    def forward(self, features: list[torch.Tensor | None], sensor_valid: torch.Tensor) -> Fused:
        some = next(feature for feature in features if feature is not None)
        filled = [
            torch.zeros_like(some) if feature is None else feature * sensor_valid[:, index, None, None, None]
            for index, feature in enumerate(features)
        ]
        return Fused(self.mix(torch.cat(filled, dim=1)))


class AttentionFusion(nn.Module):
    """Cross-attention from each BEV cell to the tokens of the present sensors in the window around it.

    The query comes from the weighted average of the present sensors, which is also the residual path: with attention
    switched off the block is :class:`AverageFusion`. A learned bias per head, sensor and relative position lets a head
    look a cell aside, which is what tolerates sensors that are misaligned by a cell; by more they are moved first, by
    ``registration``, whose trust in each sensor counts in the softmax as well. Cost is linear in the number of cells.
    """

    def __init__(self, channels: int, heads: int, neighbourhood: int, registration: Registration | None):
        super().__init__()
        if neighbourhood % 2 == 0 or neighbourhood < 1:
            raise PerceptionError(f"fusion.neighbourhood: an odd number of cells was expected, found {neighbourhood}")
        if channels % heads:
            raise PerceptionError(f"fusion.channels ({channels}) must be a multiple of fusion.heads ({heads})")
        self.registration = registration
        self.residual = AverageFusion(channels)
        self.sensor = nn.Parameter(torch.zeros(len(SENSORS), channels))
        # Tokens know by how much their sensor was off: aligned, a late LiDAR still shows moving things where they were.
        self.displaced = nn.Linear(3, channels, bias=False)
        self.query_norm, self.token_norm = group_norm(channels), group_norm(channels)
        self.query = PointwiseConv2d(channels, channels)
        self.key_value = PointwiseConv2d(channels, 2 * channels)
        self.output = PointwiseConv2d(channels, channels)
        self.feed_forward = nn.Sequential(
            group_norm(channels),
            PointwiseConv2d(channels, 2 * channels),
            nn.ReLU(inplace=True),
            PointwiseConv2d(2 * channels, channels),
        )
        # The block starts as its residual path, the average.
        for zero in (*self.output.parameters(), *self.feed_forward[-1].parameters(), *self.displaced.parameters()):
            nn.init.zeros_(zero)
        self.bias = nn.Parameter(torch.zeros(heads, len(SENSORS), neighbourhood**2))

    def forward(self, features: list[torch.Tensor | None], sensor_valid: torch.Tensor) -> Fused:
        registered, trust = None, torch.zeros_like(sensor_valid, dtype=torch.float32)
        kind = self.sensor.expand(len(sensor_valid), -1, -1)  # [B, 3, C], what distinguishes a sensor's tokens
        if self.registration is not None:
            registered = self.registration(features, sensor_valid)
            features, trust = registered.features, registered.trust
            kind = kind + self.displaced(registered.motion * registered.motion.new_tensor([5.0, 0.2, 0.2]))
        residual = self.residual.average(features, sensor_valid, trust)
        present = [index for index, feature in enumerate(features) if feature is not None]
        key_value = [self.key_value(self.token_norm(features[i]) + kind[:, i, :, None, None]) for i in present]
        query, bias = self.query(self.query_norm(residual)), self._bias(present, sensor_valid, trust)
        fused = residual + self.output(window_attention(query, key_value, bias))
        return Fused(fused + self.feed_forward(fused), registered)

    def _bias(self, present, sensor_valid, trust):
        """[B, heads, S, n, n]: position bias and trust of tokens in the window, -inf where a sample has no sensor."""
        side = math.isqrt(self.bias.shape[-1])
        bias = self.bias[:, present].unflatten(2, (side, side)) + trust[:, None, present, None, None]
        return bias.masked_fill(~sensor_valid[:, None, present, None, None], -torch.inf)


def build_fusion(config: FusionConfig, grid: BEVGrid) -> nn.Module:
    if config.kind == "attention":
        registration = Registration(grid, config.channels) if config.registration else None
        return AttentionFusion(config.channels, config.heads, config.neighbourhood, registration)
    return AverageFusion(config.channels) if config.kind == "average" else ConcatFusion(config.channels)
