"""Where each sensor's BEV features lie relative to the others': one planar motion and one trust a sensor.

A wrong calibration or a late frame moves everything that a sensor shows by the same rigid motion. It is found as scan
matchers find it, and corrected:

1. every pair of sensors: descriptors of one are turned by each of a few angles and correlated, by FFT, with those of
   the other; a softmax over all turns and shifts is the pair's motion (correlative scan matching, Olson, 2009);
2. all sensors: the pairs are the edges and the sensors the nodes of a pose graph (Lu & Milios, 1997). A small network
   sets what each edge weighs and how unlikely each sensor is to be off, hence which is blamed when two disagree;
   the graph is solved in closed form;
3. the features of each sensor are read where it shows what is at each cell.

Motions are (yaw, x, y), radians and metres, and map where things are to where a sensor shows them. Angles are small:
motions are added and subtracted component by component.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from scipy.fft import next_fast_len
from torch import nn
from torch.nn import functional as F

from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.layers import PointwiseConv2d, group_norm
from perception.sample import SENSORS

_POOL = 2  # cells per descriptor cell, each way
_REACH = 5  # descriptor cells that a correlation looks in each direction
_TURNS = 9  # angles tried
_TURN_RAD = math.radians(1.0)  # between two of them
_ARM_M = 25.0  # a turn is as bad as the shift it makes at this distance
_TRUST_GAIN = 5.0  # so that a short training can learn to drop a sensor
_PAIRS = tuple(combinations(range(len(SENSORS)), 2))


@dataclass
class Registered:
    """features: brought into line, None where there are none.  motion: [B, 3, 3] of each sensor.

    trust: [B, 3] logits.  pairs: log-probabilities [B, 3, H] of the motion of each pair of sensors, which is one of the
    hypotheses [H, 3].
    """

    features: list[torch.Tensor | None]
    motion: torch.Tensor
    trust: torch.Tensor
    pairs: torch.Tensor
    hypotheses: torch.Tensor


class Registration(nn.Module):
    """Features of the sensors present, and sensor_valid (as of a fusion block) -> Registered.

    Args:
        grid: with the vehicle at its centre, about which it turns maps.
        channels: of the features.  descriptors: channels that are correlated.  hidden: width of the small network.

    Raises:
        PerceptionError: the vehicle is not at the centre of the grid.
    """

    def __init__(self, grid: BEVGrid, channels: int, descriptors: int = 16, hidden: int = 32):
        super().__init__()
        if abs(grid.x_min_m + grid.x_max_m) > 1e-6 or abs(grid.y_min_m + grid.y_max_m) > 1e-6:
            raise PerceptionError(f"fusion.registration: a grid centred on the vehicle was expected, found {grid}")
        self.grid = grid
        # Of the FFT: with zeros around, so that no shift meets what it left behind, and quick to factorise.
        self.size = [next_fast_len(max(n // _POOL + _REACH, 2 * _REACH + 1), real=True) for n in grid.shape]
        self.describe = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1),
                group_norm(channels),
                nn.ReLU(),
                PointwiseConv2d(channels, descriptors),
            )
            for _ in SENSORS
        )
        self.log_sharpness = nn.Parameter(torch.tensor(4.0))  # of the softmax over a correlation
        self.weigh = nn.Sequential(nn.Linear(8 * len(_PAIRS) + len(SENSORS), hidden), nn.ReLU())
        # Logs of the weight of each pair and of the prior of each sensor; trust in each sensor.
        self.verdict = nn.Linear(hidden, len(_PAIRS) + 2 * len(SENSORS))
        nn.init.zeros_(self.verdict.weight)
        # Start from: what a pair says is true, and where LiDAR disagrees with another sensor it is off, not they. Its
        # maps are sharp, so it is seen to be; told nothing, the network takes long to blame any sensor at all.
        blame = {"camera": 2.0, "radar": 2.0, "lidar": -4.0}
        self.verdict.bias.data = torch.tensor([0.0] * len(_PAIRS) + [blame[s] for s in SENSORS] + [0.0] * len(SENSORS))
        step = _POOL * grid.cell_size_m
        turn = (torch.arange(_TURNS) - _TURNS // 2) * _TURN_RAD
        shift = (torch.arange(2 * _REACH + 1) - _REACH) * step
        yaw, y, x = torch.meshgrid(turn, shift, shift, indexing="ij")
        self.register_buffer("turns", turn, persistent=False)
        self.register_buffer("hypotheses", torch.stack([yaw, x, y], dim=-1).view(-1, 3), persistent=False)
        self.register_buffer("steps", torch.tensor([_TURN_RAD, step, step]), persistent=False)

    def forward(self, features: list[torch.Tensor | None], sensor_valid: torch.Tensor) -> Registered:
        some = next(feature for feature in features if feature is not None)
        with torch.autocast(some.device.type, enabled=False):
            maps = [self._descriptors(s, feature, sensor_valid) for s, feature in enumerate(features)]
            turned = [self._spectrum(maps[s], self.turns) for s in range(len(SENSORS) - 1)]  # the last is never first
            still = [self._spectrum(x, None) for x in maps]
            pairs = torch.stack([self._match(turned[a], still[b], sensor_valid) for a, b in _PAIRS], dim=1)
            motion, trust = self._judge(pairs, sensor_valid)
            moved = motion.abs().amax(dim=(0, 2)) > 0
            aligned = [
                self._read(feature, motion[:, s]) if feature is not None and moved[s] else feature
                for s, feature in enumerate(features)
            ]
        return Registered(aligned, motion, trust, pairs, self.hypotheses)

    def _descriptors(self, sensor: int, feature: torch.Tensor | None, sensor_valid) -> torch.Tensor | None:
        """[B, K, h, w] of zero mean and unit energy; zeros where a sample has no such sensor."""
        if feature is None:
            return None
        described = F.avg_pool2d(self.describe[sensor](feature.float()), _POOL)
        described = described - described.mean(dim=(-2, -1), keepdim=True)
        return F.normalize(described.flatten(1), dim=1).view_as(described) * sensor_valid[:, sensor, None, None, None]

    def _spectrum(self, described: torch.Tensor | None, turns: torch.Tensor | None) -> torch.Tensor | None:
        """Of descriptors [B, K, h, w], turned back by each of the angles: [B, turns, K, ...]; one turn for None."""
        if described is None:
            return None
        turned = [described] if turns is None else [_turned(described, -yaw) for yaw in turns]
        return torch.fft.rfft2(torch.stack(turned, dim=1), s=self.size)

    def _match(self, a: torch.Tensor | None, b: torch.Tensor | None, sensor_valid) -> torch.Tensor:
        """Log-probability [B, hypotheses] of every motion from a, turned, to b; flat where one of them is absent."""
        if a is None or b is None:
            flat = -math.log(len(self.hypotheses))
            return self.hypotheses.new_full((len(sensor_valid), len(self.hypotheses)), flat)
        correlation = torch.fft.irfft2((a.conj() * b).sum(dim=2), s=self.size).roll((_REACH, _REACH), dims=(-2, -1))
        correlation = correlation[..., : 2 * _REACH + 1, : 2 * _REACH + 1].flatten(1)
        return (correlation * self.log_sharpness.exp()).log_softmax(dim=1)

    def _judge(self, pairs: torch.Tensor, sensor_valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        probability = pairs.exp()  # [B, P, hypotheses]
        mean = probability @ self.hypotheses
        spread = (probability @ self.hypotheses.square() - mean.square()).clamp(min=0).sqrt()
        entropy = -(probability * pairs).sum(dim=-1, keepdim=True)
        best = probability.amax(dim=-1, keepdim=True)
        statistics = torch.cat([mean / self.steps, spread / self.steps, entropy, best], dim=-1).flatten(1)
        verdict = self.verdict(self.weigh(torch.cat([statistics, sensor_valid.float()], dim=1)))
        weight, prior, trust = verdict.split([len(_PAIRS), len(SENSORS), len(SENSORS)], dim=1)
        both = torch.stack([sensor_valid[:, a] & sensor_valid[:, b] for a, b in _PAIRS], dim=1)
        return solve_graph(mean, weight.clamp(-6, 6).exp() * both, prior.clamp(-6, 6).exp()), _TRUST_GAIN * trust

    def _read(self, feature: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
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


def _turned(x: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """Maps [B, C, h, w] read at positions turned by yaw about the centre; zeros come in from outside."""
    cos, sin, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
    height, width = x.shape[-2:]
    matrix = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero]).view(1, 2, 3)
    where = F.affine_grid(matrix.expand(len(x), -1, -1), list(x.shape), align_corners=False)
    return F.grid_sample(x, where, align_corners=False)


def solve_graph(motions: torch.Tensor, weights: torch.Tensor, priors: torch.Tensor) -> torch.Tensor:
    """Motions [B, S, 3] of the sensors, from those between pairs [B, P, 3] with weights [B, P] and priors [B, S].

    Minimises ``sum_ab w_ab |m_b - m_a - m_ab|^2 + sum_s p_s |m_s|^2``.
    """
    edges = motions.new_zeros(len(_PAIRS), len(SENSORS))
    for i, (a, b) in enumerate(_PAIRS):
        edges[i, a], edges[i, b] = -1.0, 1.0
    matrix = torch.einsum("ps,bp,pt->bst", edges, weights, edges) + torch.diag_embed(priors)
    return torch.linalg.solve(matrix, torch.einsum("ps,bp,bpk->bsk", edges, weights, motions))


def registration_loss(registered: Registered, displacement: torch.Tensor, sensor_valid: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the pairs' motions, and distance in metres, at arm's length, of the sensors' from the truth.

    displacement: [B, 3, 3] true motions, NaN where unknown: those, and sensors without company, are left out.
    """
    known = displacement.isfinite().all(dim=-1) & sensor_valid
    truth = displacement.nan_to_num()
    arm = truth.new_tensor([_ARM_M, 1.0, 1.0])
    terms = []
    for p, (a, b) in enumerate(_PAIRS):
        target = _spread_over(truth[:, b] - truth[:, a], registered.hypotheses)
        terms.append(-(target * registered.pairs[:, p]).sum(dim=1) * (known[:, a] & known[:, b]))
    pairs = torch.stack(terms, dim=1)
    company = known & (sensor_valid.sum(dim=1, keepdim=True) > 1)
    error = (((registered.motion - truth) * arm).square().sum(dim=-1) + 1e-4).sqrt() * company
    return 0.2 * pairs.sum() / (pairs != 0).sum().clamp(min=1) + error.sum() / company.sum().clamp(min=1)


def _spread_over(motion: torch.Tensor, hypotheses: torch.Tensor) -> torch.Tensor:
    """A motion [B, 3] as weights [B, H] of the hypotheses around it; beyond the outermost, of the outermost."""
    limit = hypotheses.amax(dim=0)
    step = limit / limit.new_tensor([_TURNS // 2, _REACH, _REACH])
    apart = (motion.clamp(-limit, limit)[:, None] - hypotheses).abs() / step
    return (1 - apart).clamp(min=0).prod(dim=-1)
