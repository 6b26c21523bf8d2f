"""What each sensor shows of each object: tokens for the object decoder, sampled where its box is.

FUTR3D (Chen et al., 2023) and DeepInteraction (Yang et al., 2022) sample alike. Every source has one signature,

    source(encoded, objects, motion)  ->  Tokens

``motion`` [B, 3] is that of the sensor by ``model.registration``: a displaced sensor is read where it shows the object.
Positions are in the axes of the box, so that what lies before and behind it can be told apart at any heading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import torch
from torch import nn

from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.encoder import Encoded
from perception.model.layers import exact_product
from perception.model.objects import Objects, gathered, rotated, sampled

Part = TypeVar("Part")

_NEAR_M = 0.5  # in front of a camera, below which nothing is projected
_CAMERAS = 2  # that see an object, at most; the best are taken
_POINTS = 16  # radar points near an object, at most
_REACH_M = 3.0  # of an object: to points around half its diagonal, to the centres of remembered ones
_REMEMBERED = 4  # objects near another one, at most


@dataclass
class Tokens:
    """T tokens of each object.

    features: [B, Q, T, D].  offset: [B, Q, T, 3] from the centre in the axes of the box, metres.
    valid: bool [B, Q, T]; absent ones are masked out of the attention, never zeros in it.
    velocity: [B, Q, T, 2] radial velocity over ground in the axes of the box, m/s, of a source that measures it.
    """

    features: torch.Tensor
    offset: torch.Tensor
    valid: torch.Tensor
    velocity: torch.Tensor | None = None


def token_source(encoder: nn.Module, grid: BEVGrid, width: int) -> nn.Module | None:
    """The source for what an encoder says it has, see ``model.encoder``; None if that is nothing but its BEV map."""
    views, fine, returns = (getattr(encoder, f, None) for f in ("view_channels", "fine_channels", "return_scale"))
    if views is not None:
        return ViewTokens(views, width)
    if fine is not None:
        return MapTokens(grid, fine, width, fine=True)
    return None if returns is None else PointTokens(returns, width)


class MapTokens(nn.Module):
    """A BEV map at 3 x 3 positions over the box.

    Args:
        channels: of the map.  width: of the tokens.  fine: whether ``encoded.fine`` is read instead of ``encoded.bev``.
    """

    pattern: torch.Tensor

    def __init__(self, grid: BEVGrid, channels: int, width: int, fine: bool):
        super().__init__()
        self.grid, self.fine = grid, fine
        self.embed = nn.Linear(channels, width)
        pattern = torch.tensor([(x, y, 0.0) for x, y in product((-1.0, 0.0, 1.0), repeat=2)])
        self.register_buffer("pattern", pattern, persistent=False)

    def forward(self, encoded: Encoded, objects: Objects, motion: torch.Tensor) -> Tokens:
        features = _present(encoded.fine) if self.fine else encoded.bev
        half = (objects.size / 2).clamp(min=self.grid.cell_size_m / 2)
        offset = self.pattern * half[:, :, None]  # [B, Q, 9, 3]
        at = displaced(objects.center[:, :, None] + objects.to_ego(offset), motion)
        x, y = at[..., 0], at[..., 1]
        column, row = self.grid.to_cells(x, y)
        where = torch.stack([2 * column / self.grid.columns - 1, 2 * row / self.grid.rows - 1], dim=-1)
        return Tokens(self.embed(sampled(features, where)), offset, self.grid.contains(x, y))


class ViewTokens(nn.Module):
    """Image features where centre, face centres and corners of the box project, in the two images that see most of it.

    Args:
        channels: of the feature maps, one a stride.  width: of the tokens.
    """

    pattern: torch.Tensor

    def __init__(self, channels: tuple[int, ...], width: int):
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(c, width) for c in channels)
        sides = [(0.0, 0.0, 0.0)] + [p for p in product((-1.0, 0.0, 1.0), repeat=3) if sum(map(abs, p)) in (1, 3)]
        self.register_buffer("pattern", torch.tensor(sides), persistent=False)  # [15, 3]

    def forward(self, encoded: Encoded, objects: Objects, motion: torch.Tensor) -> Tokens:
        views = _present(encoded.views)
        offset = self.pattern * (objects.size / 2)[:, :, None]  # [B, Q, P, 3]
        at = displaced(objects.center[:, :, None] + objects.to_ego(offset), motion)
        image_T_ego = views.image_T_ego[:, :, None, None]
        pixel = exact_product(image_T_ego[..., :3], at[:, None, ..., None])[..., 0] + image_T_ego[..., 3]
        depth = pixel[..., 2]
        height, width = views.size
        # Pixel centres lie at integers; grid_sample's borders at -1 and 1 are half a pixel outside of the outer ones.
        u, v = (pixel[..., :2] / depth[..., None].clamp(min=_NEAR_M) + 0.5).unbind(dim=-1)
        uv = torch.stack([u * 2 / width - 1, v * 2 / height - 1], dim=-1)
        seen = (depth > _NEAR_M) & (uv.abs() < 1).all(dim=-1) & views.valid[:, :, None, None]  # [B, N, Q, P]
        best = seen.sum(dim=3).transpose(1, 2).topk(min(_CAMERAS, seen.shape[1]), dim=2).indices  # [B, Q, n]
        uv, valid = _of_cameras(uv, best), _of_cameras(seen[..., None], best)[..., 0].flatten(2)
        features = [embed(_read(level, best, uv)) for embed, level in zip(self.embed, views.features, strict=True)]
        count = len(features) * best.shape[2]
        return Tokens(
            torch.stack(features, dim=2).flatten(2, 4),  # [B, Q, levels * n * P, D]
            offset.repeat(1, 1, count, 1),
            valid.repeat(1, 1, len(features)),
        )


def _of_cameras(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[B, N, Q, P, C] and [B, Q, n] -> [B, Q, n, P, C]."""
    values = values.transpose(1, 2)
    index = index[..., None, None].expand(-1, -1, -1, *values.shape[3:])
    return values.gather(2, index)


def _read(maps: torch.Tensor, camera: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Maps [B, N, C, h, w] of N cameras, each object's own [B, Q, n] read at uv [B, Q, n, P, 2] -> [B, Q, n, P, C].

    The maps are read as one, below each other with a row of zeros between: zero outside, as of each by itself.
    """
    count, height = maps.shape[1], maps.shape[3] + 1
    tall = nn.functional.pad(maps, (0, 0, 0, 1)).transpose(1, 2).flatten(2, 3)  # [B, C, N * (h + 1), w]
    row = camera[..., None] * height + (uv[..., 1] + 1) / 2 * (height - 1)  # from the upper border
    return sampled(tall, torch.stack([uv[..., 0], row * 2 / (count * height) - 1], dim=-1))


class PointTokens(nn.Module):
    """The points of a sensor with few of them, such as a radar: the nearest ones within reach of the box.

    Args:
        scale: divisor of each column, by its name; x, y and z come first, vy behind vx.  width: of the tokens.
    """

    scale: torch.Tensor

    def __init__(self, scale: Mapping[str, float], width: int):
        super().__init__()
        self.vx = list(scale).index("vx")
        self.register_buffer("scale", torch.tensor(list(scale.values())), persistent=False)
        # Columns, velocity along and across the box, direction of the beam in its axes.
        self.embed = nn.Sequential(nn.Linear(len(scale) + 4, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, encoded: Encoded, objects: Objects, motion: torch.Tensor) -> Tokens:
        points = _present(None if encoded.returns is None else encoded.returns.padded)
        position = restored(points.points[..., :3], motion)
        apart = distances(objects.center, position)
        apart = apart.masked_fill(~points.valid[:, None], torch.inf)  # [B, Q, P]
        near = apart.topk(min(_POINTS, apart.shape[2]), dim=2, largest=False)
        reach = objects.size[..., :2].norm(dim=-1) / 2 + _REACH_M
        at = gathered(position, near.indices)
        offset = objects.to_box(at - objects.center[:, :, None])
        columns = gathered(points.points, near.indices)
        velocity = rotated(columns[..., self.vx : self.vx + 2], -motion[:, 0, None, None])
        velocity = objects.to_box(velocity)
        beam = objects.to_box(nn.functional.normalize(at[..., :2], dim=-1))
        described = torch.cat([columns / self.scale, velocity / 5.0, beam], dim=-1)
        return Tokens(self.embed(described), offset, near.values < reach[..., None], velocity)


class MemoryTokens(nn.Module):
    """Remembered objects near an object.

    Args:
        width: of the objects' features and of the tokens.
    """

    def __init__(self, width: int):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width + 5, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, memory: Objects, elapsed_s: torch.Tensor, objects: Objects) -> Tokens:
        """memory: in the present ego frame.  elapsed_s: [B] since they were seen."""
        apart = distances(objects.center, memory.center)
        near = apart.masked_fill(~memory.valid[:, None], torch.inf).topk(
            min(_REMEMBERED, apart.shape[2]), dim=2, largest=False
        )
        offset = objects.to_box(gathered(memory.center, near.indices) - objects.center[:, :, None])
        velocity = objects.to_box(gathered(memory.velocity, near.indices))
        turn = gathered(memory.yaw, near.indices) - objects.yaw[..., None]
        sense = turn.cos() * gathered(memory.sense_logit, near.indices).clamp(max=4.0) / 4.0
        score = gathered(memory.prior, near.indices)
        elapsed = elapsed_s[:, None, None].expand_as(score)
        described = [gathered(memory.features, near.indices), velocity / 5.0]
        described.append(torch.stack([sense, score, elapsed], dim=-1))
        return Tokens(self.embed(torch.cat(described, dim=-1)), offset, near.values < _REACH_M)


def _present(part: Part | None) -> Part:
    if part is None:
        raise PerceptionError("an encoder: the views, fine map or returns whose widths it states were expected")
    return part


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[B, N, M] on the ground between positions [B, N, 3] and [B, M, 3]; ``cdist`` is no operator of ONNX."""
    dx, dy = a[:, :, None, 0] - b[:, None, :, 0], a[:, :, None, 1] - b[:, None, :, 1]  # a sum over two is slow
    return (dx.square() + dy.square()).sqrt()


def displaced(xyz: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Positions [B, ..., 3] as a sensor with that motion [B, 3] (yaw, x, y) shows them."""
    yaw, shift = (part.reshape(len(xyz), *(1,) * (xyz.dim() - 2), -1) for part in (motion[:, :1], motion[:, 1:]))
    moved = rotated(xyz, yaw[..., 0])
    return torch.cat([moved[..., :2] + shift, moved[..., 2:]], dim=-1)


def restored(xyz: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`displaced`."""
    yaw, shift = (part.reshape(len(xyz), *(1,) * (xyz.dim() - 2), -1) for part in (motion[:, :1], motion[:, 1:]))
    return rotated(torch.cat([xyz[..., :2] - shift, xyz[..., 2:]], dim=-1), -yaw[..., 0])
