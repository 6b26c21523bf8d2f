"""Alignment of the sensors' BEV features: one planar motion and one confidence per sensor.

A wrong calibration or a late frame displaces everything that a sensor sees by the same rigid motion. The motion is
estimated as in scan matching, and corrected:

1. For each pair of sensors, the descriptors of one are rotated by a few yaw hypotheses and correlated with those of the
   other; a softmax over all yaws and shifts gives the pair's motion (correlative scan matching, Olson, 2009).
2. Pairs are the edges and sensors the nodes of a pose graph (Lu & Milios, 1997). A small network predicts the weight of
   each edge and the prior of each sensor, which decides which of two disagreeing sensors is corrected; the graph is
   solved in closed form.
3. The features of each sensor are resampled at the displaced position of each cell.

Motions are (yaw, x, y) in radians and metres, and map true positions to positions as the sensor sees them. Angles are
small, so motions are added and subtracted component-wise.

Everything here has a fixed order of tensor operations for each set of sensors, so that it can be exported and never
makes a GPU wait for the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import nn
from torch.nn import functional as F

from perception.grid import BEVGrid
from perception.model.layers import PointwiseConv2d, group_norm
from perception.ops.bilinear import displaced
from perception.ops.convolution import Conv2d
from perception.ops.correlation import correlate

_POOL = 2  # grid cells per descriptor cell, along each axis
_REACH = 5  # search radius of the correlation, in descriptor cells
_YAWS = 9  # yaw hypotheses
_YAW_STEP_RAD = math.radians(1.0)
_ARM_M = 25.0  # lever arm: a yaw error counts as the displacement it causes at this distance
_CONFIDENCE_GAIN = 5.0  # lets a short training learn to drop a sensor
_PRIOR = 2.0  # default log weight of the prior that a sensor is aligned already


@dataclass
class Registered:
    """features: aligned, by sensor name.  motion: [B, S, 3] of each sensor.

    confidence: [B, S] logits.  hypotheses: [H, 3] candidate motions.  pairs: log-probabilities [B, P, H] of the
    hypotheses for each of the P pairs of sensors, in the order of ``itertools.combinations``.
    """

    features: dict[str, torch.Tensor]
    motion: torch.Tensor
    confidence: torch.Tensor
    pairs: torch.Tensor
    hypotheses: torch.Tensor


class Registration(nn.Module):
    """Features of the sensors present and sensor_valid, as in a fusion block -> Registered.

    Args:
        sensors: sensor names.  channels: feature channels.
        prior: by sensor, the initial log weight of the prior that the sensor is aligned already.
        descriptors: descriptor channels.  hidden: width of the small network.
        pooled: compute descriptors from pooled features, in a fourth of the time, instead of pooling what is computed.
    """

    hypotheses: torch.Tensor
    steps: torch.Tensor
    rotations: torch.Tensor
    incidence: torch.Tensor

    def __init__(
        self,
        grid: BEVGrid,
        sensors: Sequence[str],
        channels: int,
        prior: Mapping[str, float] | None = None,
        descriptors: int = 16,
        hidden: int = 32,
        pooled: bool = False,
    ):
        super().__init__()
        self.grid, self.sensors = grid, tuple(sensors)
        self.edges = tuple(combinations(range(len(self.sensors)), 2))
        self.pooled = pooled
        self.describe = nn.ModuleDict(
            {
                name: nn.Sequential(
                    Conv2d(channels, channels, 3, padding=1),
                    group_norm(channels),
                    nn.ReLU(inplace=True) if pooled else nn.Sequential(nn.ReLU(inplace=True), nn.AvgPool2d(_POOL)),
                    PointwiseConv2d(channels, descriptors),
                )
                for name in self.sensors
            }
        )
        self.log_sharpness = nn.Parameter(torch.tensor(4.0))  # inverse temperature of the softmax over a correlation
        self.weigh = nn.Sequential(nn.Linear(8 * len(self.edges) + len(self.sensors), hidden), nn.ReLU())
        # Log weight of each edge, log prior of each sensor, confidence in each sensor.
        self.edge_head = nn.Linear(hidden, len(self.edges) + 2 * len(self.sensors))
        nn.init.zeros_(self.edge_head.weight)
        # Initially pair estimates are taken as they are. Without these priors training takes long to move any sensor.
        priors = [(prior or {}).get(name, _PRIOR) for name in self.sensors]
        bias = [0.0] * len(self.edges) + priors + [0.0] * len(self.sensors)
        self.edge_head.bias.data = torch.tensor(bias)
        step = _POOL * grid.cell_size_m
        yaws = (torch.arange(_YAWS) - _YAWS // 2) * _YAW_STEP_RAD
        shift = (torch.arange(2 * _REACH + 1) - _REACH) * step
        yaw, y, x = torch.meshgrid(yaws, shift, shift, indexing="ij")
        self.register_buffer("hypotheses", torch.stack([yaw, x, y], dim=-1).view(-1, 3), persistent=False)
        self.register_buffer("steps", torch.tensor([_YAW_STEP_RAD, step, step]), persistent=False)
        self.register_buffer("rotations", _rotations(-yaws, grid), persistent=False)
        self.register_buffer("incidence", incidence(self.edges, len(self.sensors)), persistent=False)

    def forward(self, features: Mapping[str, torch.Tensor], sensor_valid: torch.Tensor) -> Registered:
        some = next(iter(features.values()))
        with torch.autocast(some.device.type, enabled=False):
            maps = {name: self._descriptors(name, feature, sensor_valid) for name, feature in features.items()}
            # The last sensor is never the first of a pair, so its rotations are not needed.
            rotated = {name: self._rotated(maps[name]) for name in self.sensors[:-1] if name in maps}
            pairs = self.hypotheses.new_zeros(len(sensor_valid), 0, len(self.hypotheses))
            if self.edges:
                ends = combinations(self.sensors, 2)
                pairs = torch.stack([self._match(rotated.get(a), maps.get(b), sensor_valid) for a, b in ends], dim=1)
            motion, confidence = self._solve(pairs, sensor_valid)
            aligned = dict(features)
            if len(features) > 1:  # one alone is aligned with nothing
                for s, name in enumerate(self.sensors):
                    if name in features:
                        aligned[name] = self._aligned(features[name], motion[:, s])
        return Registered(aligned, motion, confidence, pairs, self.hypotheses)

    def _descriptors(self, name: str, feature: torch.Tensor, sensor_valid: torch.Tensor) -> torch.Tensor:
        """[B, K, h, w] with zero mean and unit energy; zeros where a sample lacks the sensor."""
        feature = feature.float()
        described = self.describe[name](F.avg_pool2d(feature, _POOL) if self.pooled else feature)
        described = described - described.mean(dim=(-2, -1), keepdim=True)
        valid = sensor_valid[:, self.sensors.index(name), None, None, None]
        return F.normalize(described.flatten(1), dim=1).view_as(described) * valid

    def _rotated(self, described: torch.Tensor) -> torch.Tensor:
        """Descriptors [B, K, h, w] rotated back by each yaw, [B, yaws, K, h, w]."""
        channels = described.flatten(0, 1).expand(_YAWS, -1, -1, -1)  # of all samples, which are rotated alike
        rotated = F.grid_sample(channels, self.rotations, align_corners=False)
        return rotated.unflatten(1, described.shape[:2]).transpose(0, 1)

    def _match(self, a: torch.Tensor | None, b: torch.Tensor | None, sensor_valid: torch.Tensor) -> torch.Tensor:
        """Log-probability [B, H] of each motion from a (rotated) to b; uniform if one of them is absent."""
        if a is None or b is None:
            flat = -math.log(len(self.hypotheses))
            return self.hypotheses.new_full((len(sensor_valid), len(self.hypotheses)), flat)
        correlation = correlate(a, b, _REACH).flatten(1)
        return (correlation * self.log_sharpness.exp()).log_softmax(dim=1)

    def _solve(self, pairs: torch.Tensor, sensor_valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Motion [B, S, 3] and confidence [B, S] of each sensor, from log-probabilities [B, P, H]."""
        probability = pairs.exp()
        mean = probability @ self.hypotheses
        spread = (probability @ self.hypotheses.square() - mean.square()).clamp(min=0).sqrt()
        entropy = -(probability * pairs).sum(dim=-1, keepdim=True)
        best = probability.amax(dim=-1, keepdim=True)
        statistics = torch.cat([mean / self.steps, spread / self.steps, entropy, best], dim=-1).flatten(1)
        logits = self.edge_head(self.weigh(torch.cat([statistics, sensor_valid.float()], dim=1)))
        sensors = len(self.sensors)
        weight, prior, confidence = logits.split([len(self.edges), sensors, sensors], dim=1)
        both = sensor_valid.float() @ self.incidence.abs().T == 2  # [B, P]: the sample has both ends of the edge
        motion = solve_graph(self.incidence, mean, weight.clamp(-6, 6).exp() * both, prior.clamp(-6, 6).exp())
        return motion, _CONFIDENCE_GAIN * confidence

    def _aligned(self, feature: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """Features read at the displaced position of each cell; exactly the same features for a motion of zero."""
        columns, rows = (torch.arange(n, device=feature.device) + 0.5 for n in (self.grid.columns, self.grid.rows))
        x, y = self.grid.to_metres(columns[None, :], rows[:, None])
        yaw, forward, left = motion[:, :, None, None].unbind(dim=1)
        right_m = (yaw.cos() - 1) * x - yaw.sin() * y + forward
        down_m = yaw.sin() * x + (yaw.cos() - 1) * y + left
        cell = self.grid.cell_size_m
        return displaced(feature.float(), right_m / cell, down_m / cell).to(feature.dtype)


def _rotations(yaws: torch.Tensor, grid: BEVGrid) -> torch.Tensor:
    """Positions [Y, h, w, 2] of descriptor cells rotated by each yaw about the vehicle, for ``grid_sample``.

    A position p is read at R (p - origin) + origin, where R is the rotation in its anisotropic coordinates.
    """
    height, width = (n // _POOL for n in grid.shape)
    column, row = grid.to_cells(0.0, 0.0)
    origin_x, origin_y = 2 * (column / _POOL) / width - 1, 2 * (row / _POOL) / height - 1
    cos, sin = yaws.cos(), yaws.sin()
    xy, yx = -sin * height / width, sin * width / height
    shift_x = origin_x - cos * origin_x - xy * origin_y
    shift_y = origin_y - yx * origin_x - cos * origin_y
    matrix = torch.stack([cos, xy, shift_x, yx, cos, shift_y], dim=-1).view(-1, 2, 3)
    return F.affine_grid(matrix, [len(yaws), 1, height, width], align_corners=False)


def incidence(edges: Sequence[tuple[int, int]], nodes: int) -> torch.Tensor:
    """[P, S]: -1 at the first sensor of each edge, 1 at its second."""
    matrix = torch.zeros(len(edges), nodes)
    for p, (a, b) in enumerate(edges):
        matrix[p, a], matrix[p, b] = -1.0, 1.0
    return matrix


def solve_graph(
    incidence: torch.Tensor, motions: torch.Tensor, weights: torch.Tensor, priors: torch.Tensor
) -> torch.Tensor:
    """Sensor motions [B, S, 3] from edges [P, S], their motions [B, P, 3] and weights [B, P], and priors [B, S].

    Minimises ``sum_ab w_ab |m_b - m_a - m_ab|^2 + sum_s p_s |m_s|^2``. The normal equations are diagonally dominant, so
    Gauss-Jordan elimination needs no pivots, and as many steps for any input; a library's solver makes a GPU wait.
    """
    weighted = incidence.T * weights[:, None]  # [B, S, P]
    matrix = weighted @ incidence + torch.diag_embed(priors)
    rows = list(torch.cat([matrix, weighted @ motions], dim=-1).unbind(dim=1))  # [B, S + 3] each
    for k in range(len(rows)):
        rows[k] = rows[k] / rows[k][:, k, None]
        rows = [row if i == k else row - row[:, k, None] * rows[k] for i, row in enumerate(rows)]
    return torch.stack(rows, dim=1)[..., len(rows) :]


def registration_loss(registered: Registered, displacement: torch.Tensor, sensor_valid: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the pair motions plus the error of the sensor motions, in metres at a lever arm.

    displacement: [B, S, 3] true motions, NaN where unknown. Unknown motions and single sensors are excluded.
    """
    known = displacement.isfinite().all(dim=-1) & sensor_valid
    truth = displacement.nan_to_num()
    arm = truth.new_tensor([_ARM_M, 1.0, 1.0])
    terms = [
        -(_spread_over(truth[:, b] - truth[:, a], registered.hypotheses) * registered.pairs[:, p]).sum(dim=1)
        * (known[:, a] & known[:, b])
        for p, (a, b) in enumerate(combinations(range(truth.shape[1]), 2))
    ]
    pairs = torch.stack(terms, dim=1) if terms else truth.new_zeros(len(truth), 0)
    paired = known & (sensor_valid.sum(dim=1, keepdim=True) > 1)
    error = (((registered.motion - truth) * arm).square().sum(dim=-1) + 1e-4).sqrt() * paired
    return 0.2 * pairs.sum() / (pairs != 0).sum().clamp(min=1) + error.sum() / paired.sum().clamp(min=1)


def _spread_over(motion: torch.Tensor, hypotheses: torch.Tensor) -> torch.Tensor:
    """A motion [B, 3] as linear interpolation weights [B, H] of the hypotheses, clamped to their range."""
    limit = hypotheses.amax(dim=0)
    step = limit / limit.new_tensor([_YAWS // 2, _REACH, _REACH])
    apart = (motion.clamp(-limit, limit)[:, None] - hypotheses).abs() / step
    return (1 - apart).clamp(min=0).prod(dim=-1)
