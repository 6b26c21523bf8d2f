"""Where each sensor's BEV features lie relative to the others': one planar motion and one confidence per sensor.

A wrong calibration or a late frame moves everything that a sensor shows by the same rigid motion. It is found as in
scan matching, and corrected:

1. every pair of sensors: descriptors of one are rotated by each of a few yaw hypotheses and correlated, by FFT, with
   those of the other; a softmax over all yaws and shifts is the pair's motion (correlative scan matching, Olson, 2009);
2. all sensors: the pairs are the edges and the sensors the nodes of a pose graph (Lu & Milios, 1997). A small network
   sets the weight of each edge and the prior of each sensor, hence which of two that disagree is corrected; the graph
   is solved in closed form;
3. the features of each sensor are sampled where it shows what is at each cell.

Motions are (yaw, x, y), radians and metres, and map where things are to where a sensor shows them. Angles are small:
motions are added and subtracted component by component.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from scipy.fft import next_fast_len
from torch import nn
from torch.nn import functional as F

from perception.grid import BEVGrid
from perception.model.layers import PointwiseConv2d, group_norm

_POOL = 2  # cells per descriptor cell, each way
_REACH = 5  # descriptor cells that a correlation looks in each direction
_YAWS = 9  # yaw hypotheses
_YAW_STEP_RAD = math.radians(1.0)
_ARM_M = 25.0  # lever arm: a yaw error counts as the shift it makes at this distance
_CONFIDENCE_GAIN = 5.0  # so that a short training can learn to drop a sensor
_PRIOR = 2.0  # log of the weight with which a sensor is taken to be where it says, unless told otherwise


@dataclass
class Registered:
    """features: aligned, by sensor name.  motion: [B, S, 3] of each sensor.

    confidence: [B, S] logits.  pairs: log-probabilities [B, P, H] of the motion of each of the P pairs of sensors,
    in the order of ``itertools.combinations``, which is one of the hypotheses [H, 3].
    """

    features: dict[str, torch.Tensor]
    motion: torch.Tensor
    confidence: torch.Tensor
    pairs: torch.Tensor
    hypotheses: torch.Tensor


class Registration(nn.Module):
    """Features of the sensors present, and sensor_valid (as of a fusion block) -> Registered.

    Args:
        sensors: names.  channels: of the features.
        prior: log of the weight with which a sensor is taken to be where it says at the start of training.
        descriptors: channels that are correlated.  hidden: width of the small network.
    """

    yaws: torch.Tensor
    hypotheses: torch.Tensor
    steps: torch.Tensor

    def __init__(
        self,
        grid: BEVGrid,
        sensors: Sequence[str],
        channels: int,
        prior: Mapping[str, float] | None = None,
        descriptors: int = 16,
        hidden: int = 32,
    ):
        super().__init__()
        self.grid, self.sensors = grid, tuple(sensors)
        self.edges = tuple(combinations(range(len(self.sensors)), 2))
        # Of the FFT: with zeros around, so that no shift meets what it left behind, and quick to factorise.
        self.size = [next_fast_len(max(n // _POOL + _REACH, 2 * _REACH + 1), real=True) for n in grid.shape]
        self.describe = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(channels, channels, 3, padding=1),
                    group_norm(channels),
                    nn.ReLU(),
                    PointwiseConv2d(channels, descriptors),
                )
                for name in self.sensors
            }
        )
        self.log_sharpness = nn.Parameter(torch.tensor(4.0))  # of the softmax over a correlation
        self.weigh = nn.Sequential(nn.Linear(8 * len(self.edges) + len(self.sensors), hidden), nn.ReLU())
        # Logs of the weight of each edge and of the prior of each sensor; confidence in each sensor.
        self.edge_head = nn.Linear(hidden, len(self.edges) + 2 * len(self.sensors))
        nn.init.zeros_(self.edge_head.weight)
        # The start: what a pair says is true. Without any prior the network takes long to move any sensor at all.
        priors = [(prior or {}).get(name, _PRIOR) for name in self.sensors]
        bias = [0.0] * len(self.edges) + priors + [0.0] * len(self.sensors)
        self.edge_head.bias.data = torch.tensor(bias)
        step = _POOL * grid.cell_size_m
        yaws = (torch.arange(_YAWS) - _YAWS // 2) * _YAW_STEP_RAD
        shift = (torch.arange(2 * _REACH + 1) - _REACH) * step
        yaw, y, x = torch.meshgrid(yaws, shift, shift, indexing="ij")
        self.register_buffer("yaws", yaws, persistent=False)
        self.register_buffer("hypotheses", torch.stack([yaw, x, y], dim=-1).view(-1, 3), persistent=False)
        self.register_buffer("steps", torch.tensor([_YAW_STEP_RAD, step, step]), persistent=False)

    def forward(self, features: Mapping[str, torch.Tensor], sensor_valid: torch.Tensor) -> Registered:
        some = next(iter(features.values()))
        with torch.autocast(some.device.type, enabled=False):
            maps = {name: self._descriptors(name, feature, sensor_valid) for name, feature in features.items()}
            # The last sensor is never the first of a pair.
            rotated = {name: self._spectrum(maps[name], self.yaws) for name in self.sensors[:-1] if name in maps}
            still = {name: self._spectrum(x, None) for name, x in maps.items()}
            pairs = self.hypotheses.new_zeros(len(sensor_valid), 0, len(self.hypotheses))
            if self.edges:
                ends = combinations(self.sensors, 2)
                pairs = torch.stack([self._match(rotated.get(a), still.get(b), sensor_valid) for a, b in ends], dim=1)
            motion, confidence = self._solve(pairs, sensor_valid)
            moved = (motion.abs().amax(dim=(0, 2)) > 0).tolist()
            aligned = {
                name: self._sample(features[name], motion[:, s]) if moved[s] else features[name]
                for s, name in enumerate(self.sensors)
                if name in features
            }
        return Registered(aligned, motion, confidence, pairs, self.hypotheses)

    def _descriptors(self, name: str, feature: torch.Tensor, sensor_valid: torch.Tensor) -> torch.Tensor:
        """[B, K, h, w] of zero mean and unit energy; zeros where a sample has no such sensor."""
        described = F.avg_pool2d(self.describe[name](feature.float()), _POOL)
        described = described - described.mean(dim=(-2, -1), keepdim=True)
        valid = sensor_valid[:, self.sensors.index(name), None, None, None]
        return F.normalize(described.flatten(1), dim=1).view_as(described) * valid

    def _spectrum(self, described: torch.Tensor, yaws: torch.Tensor | None) -> torch.Tensor:
        """Of descriptors [B, K, h, w], rotated back by each yaw: [B, yaws, K, ...]; as they are for None."""
        if yaws is None:
            return torch.fft.rfft2(described[:, None], s=self.size)
        rotated = [_rotated(described, -yaw, self._origin(described)) for yaw in yaws]
        return torch.fft.rfft2(torch.stack(rotated, dim=1), s=self.size)

    def _origin(self, described: torch.Tensor) -> tuple[float, float]:
        """The vehicle, about which the world rotates, in maps of descriptors as ``grid_sample`` measures: (x, y)."""
        column, row = self.grid.to_cells(0.0, 0.0)
        height, width = described.shape[-2:]
        return 2 * (column / _POOL) / width - 1, 2 * (row / _POOL) / height - 1

    def _match(self, a: torch.Tensor | None, b: torch.Tensor | None, sensor_valid: torch.Tensor) -> torch.Tensor:
        """Log-probability [B, H] of every motion from a, rotated, to b; uniform where one of them is absent."""
        if a is None or b is None:
            flat = -math.log(len(self.hypotheses))
            return self.hypotheses.new_full((len(sensor_valid), len(self.hypotheses)), flat)
        correlation = torch.fft.irfft2((a.conj() * b).sum(dim=2), s=self.size).roll((_REACH, _REACH), dims=(-2, -1))
        correlation = correlation[..., : 2 * _REACH + 1, : 2 * _REACH + 1].flatten(1)
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
        a, b = (list(ends) for ends in zip(*self.edges)) if self.edges else ([], [])
        weight = weight.clamp(-6, 6).exp() * (sensor_valid[:, a] & sensor_valid[:, b])
        motion = solve_graph(self.edges, mean, weight, prior.clamp(-6, 6).exp())
        return motion, _CONFIDENCE_GAIN * confidence

    def _sample(self, feature: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """Features at where each cell is shown; borders repeat."""
        grid = self.grid
        column, row = (torch.arange(n, device=feature.device) + 0.5 for n in (grid.columns, grid.rows))
        x, y = grid.to_metres(column[None, :], row[:, None])
        cos, sin = motion[:, 0].cos()[:, None, None], motion[:, 0].sin()[:, None, None]
        column, row = grid.to_cells(
            cos * x - sin * y + motion[:, 1, None, None], sin * x + cos * y + motion[:, 2, None, None]
        )
        where = torch.stack([2 * column / grid.columns - 1, 2 * row / grid.rows - 1], dim=-1)
        return F.grid_sample(feature.float(), where, padding_mode="border", align_corners=False).to(feature.dtype)


def _rotated(x: torch.Tensor, yaw: torch.Tensor, origin: tuple[float, float]) -> torch.Tensor:
    """Maps [B, C, h, w] sampled at positions rotated by yaw about ``origin`` (of grid_sample); zeros come from outside.

    With R the rotation in these coordinates, which are not square, a position p is read at R (p - origin) + origin.
    """
    cos, sin = yaw.cos(), yaw.sin()
    height, width = x.shape[-2:]
    xy, yx = -sin * height / width, sin * width / height
    shift_x = origin[0] - cos * origin[0] - xy * origin[1]
    shift_y = origin[1] - yx * origin[0] - cos * origin[1]
    matrix = torch.stack([cos, xy, shift_x, yx, cos, shift_y]).view(1, 2, 3)
    where = F.affine_grid(matrix.expand(len(x), -1, -1), list(x.shape), align_corners=False)
    return F.grid_sample(x, where, align_corners=False)


def solve_graph(
    edges: Sequence[tuple[int, int]], motions: torch.Tensor, weights: torch.Tensor, priors: torch.Tensor
) -> torch.Tensor:
    """Motions [B, S, 3] of the sensors, from those [B, P, 3] along the edges with weights [B, P], and priors [B, S].

    Minimises ``sum_ab w_ab |m_b - m_a - m_ab|^2 + sum_s p_s |m_s|^2``.
    """
    incidence = motions.new_zeros(len(edges), priors.shape[1])
    for i, (a, b) in enumerate(edges):
        incidence[i, a], incidence[i, b] = -1.0, 1.0
    matrix = torch.einsum("ps,bp,pt->bst", incidence, weights, incidence) + torch.diag_embed(priors)
    return torch.linalg.solve(matrix, torch.einsum("ps,bp,bpk->bsk", incidence, weights, motions))


def registration_loss(registered: Registered, displacement: torch.Tensor, sensor_valid: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the pairs' motions, and error in metres, at a lever arm, of the sensors' motions.

    displacement: [B, S, 3] true motions, NaN where unknown: those, and a sensor that is the only one, are left out.
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
    """A motion [B, 3] as weights [B, H] of the hypotheses around it; beyond the outermost, of the outermost."""
    limit = hypotheses.amax(dim=0)
    step = limit / limit.new_tensor([_YAWS // 2, _REACH, _REACH])
    apart = (motion.clamp(-limit, limit)[:, None] - hypotheses).abs() / step
    return (1 - apart).clamp(min=0).prod(dim=-1)
