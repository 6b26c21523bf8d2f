"""CenterPoint head (Yin et al., 2021): a heat map per class and, at each cell, the box whose centre lies there.

:meth:`CenterHead.decode` converts the head's output to boxes. What it is trained on is in ``train.targets``.

A custom head is a module with these methods; the losses and the detector rely on nothing else:

    head(features)         [B, C, rows, columns] -> output of any type
    head.decode(output)    output -> Detections per sample, highest score first; used for the head named "boxes"
    head.losses(output, batch)    output and Batch -> {"name": weighted scalar}; not needed by a CenterHead
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from perception.errors import PerceptionError
from perception.geometry import wrap_angle
from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, PointwiseConv2d, ResidualBlock, heat_head
from perception.model.objects import gathered
from perception.model.selection import best_attribute, require_finite, suppress
from perception.sample import Boxes3D, Detections
from perception.task import Task

# The front and rear of many objects look alike. The axis (doubled angle) is the same for both directions and hence
# accurate; the heading, whose L1 optimum shrinks to zero when both are equally likely, only selects the direction.
BOX_CHANNELS = {"offset": 2, "z": 1, "log_size": 3, "heading": 2, "axis": 2, "velocity": 2}
BOX_WIDTH = sum(BOX_CHANNELS.values())
VELOCITY_SCALE_MPS = 5.0  # regressed velocities are divided by this, so that all box channels are of order one


@dataclass
class CenterMaps:
    """Dense output of the head for one batch; K classes in G groups, A attributes.

    heat_logits: [B, K, rows, columns].
    box: [B, G * 12, rows, columns], 12 for each group in the order of BOX_CHANNELS: offset of the centre within the
        cell in cells (x, y), height of the centre in metres, log of (l, w, h), (sin, cos) of yaw, (sin, cos) of twice
        the yaw, velocity / VELOCITY_SCALE_MPS.
    attribute_logits: [B, G * A, rows, columns].
    group: int64 [K], that of each class; None if there is one.
    """

    heat_logits: torch.Tensor
    box: torch.Tensor
    attribute_logits: torch.Tensor
    group: torch.Tensor | None = None

    def at(self, cell: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Box [B, N, 12] and attribute logits [B, N, A] at flat cells [B, N], as the groups of classes [B, N] say."""
        box, attributes = (gathered(m.flatten(2).transpose(1, 2), cell) for m in (self.box, self.attribute_logits))
        if self.group is None:
            return box, attributes
        group, count = self.group[label][..., None, None], box.shape[-1] // BOX_WIDTH

        def own(values: torch.Tensor) -> torch.Tensor:
            of_groups = values.unflatten(-1, (count, values.shape[-1] // count))
            return of_groups.gather(2, group.expand(-1, -1, 1, of_groups.shape[-1]))[:, :, 0]

        return own(box), own(attributes)


class Trunk(nn.Module):
    """A small U-shaped BEV backbone that adds context from coarser levels and returns full resolution.

    Args:
        widths: channels at each level, finest first.  blocks: residual blocks at each coarser level, one by default.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], blocks: Sequence[int] | None = None):
        super().__init__()
        self.enter = ConvBlock(in_channels, widths[0])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        counts = [1] * len(pairs) if blocks is None else blocks
        self.down = nn.ModuleList(
            nn.Sequential(ConvBlock(a, b, stride=2), *(ResidualBlock(b) for _ in range(count)))
            for (a, b), count in zip(pairs, counts, strict=True)
        )
        self.up = nn.ModuleList(ConvBlock(b, a, kernel=1) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(ConvBlock(a, a) for a, _ in reversed(pairs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(skip + F.interpolate(up(x), size=skip.shape[-2:], mode="nearest"))
        return x


class Branches(nn.ModuleList):
    """Several modules that see the same; their outputs joined along the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


class CenterHead(nn.Module):
    """Fused BEV features [B, C, rows, columns] -> CenterMaps.

    Args:
        max_detections: maximum number of detections per sample.  score_threshold: minimum score, exclusive.
        min_radius: of the Gaussians that its heat map is trained on, in cells.
        groups: names of the classes that share a branch, each of them in one group; by default all share one.
            CenterPoint has six groups for the ten classes of nuScenes (CBGS, Zhu et al., 2019): classes of one size.
    """

    group: torch.Tensor
    channel: torch.Tensor

    def __init__(
        self,
        grid: BEVGrid,
        task: Task,
        in_channels: int,
        channels: int,
        max_detections: int = 300,
        score_threshold: float = 0.02,
        min_radius: int = 1,
        groups: Sequence[Sequence[str]] = (),
    ):
        super().__init__()
        self.grid, self.task = grid, task
        self.max_detections, self.score_threshold, self.min_radius = max_detections, score_threshold, min_radius
        self.members = [[task.classes.index(name) for name in names] for names in groups or [task.classes]]
        order = [label for members in self.members for label in members]  # in which the branches have the classes
        if sorted(order) != list(range(len(task.classes))):
            raise PerceptionError(f"head.groups: each of {', '.join(task.classes)} in one group was expected")
        heats = [heat_head(in_channels, channels, len(members)) for members in self.members]
        width = BOX_WIDTH + len(task.attributes)
        boxes = [
            nn.Sequential(ConvBlock(in_channels, channels), PointwiseConv2d(channels, width)) for _ in self.members
        ]
        self.heat, self.box = (Branches(parts) if len(parts) > 1 else parts[0] for parts in (heats, boxes))
        group = [g for label in range(len(order)) for g, members in enumerate(self.members) if label in members]
        self.register_buffer("group", torch.tensor(group), persistent=False)
        self.register_buffer("channel", torch.tensor(order).argsort(), persistent=False)

    def forward(self, x: torch.Tensor) -> CenterMaps:
        heat, box, count = self.heat(x).float(), self.box(x).float(), len(self.members)
        if count == 1:
            return CenterMaps(heat, *box.split([BOX_WIDTH, len(self.task.attributes)], dim=1))
        box, attribute = box.unflatten(1, (count, -1)).split([BOX_WIDTH, len(self.task.attributes)], dim=2)
        return CenterMaps(heat[:, self.channel], box.flatten(1, 2), attribute.flatten(1, 2), self.group)

    def decode(self, maps: CenterMaps) -> list[Detections]:
        """Detections per sample, highest score first.

        Peaks are local maxima of 3 x 3 cells; within the suppression radius of a class only the best peak is kept.

        Raises:
            PerceptionError: a heat map, or a box at a peak, is not finite.
        """
        require_finite("heat map", maps.heat_logits.isfinite())
        heat = maps.heat_logits.sigmoid()
        peak = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
        best = peak.flatten(1).topk(min(2 * self.max_detections, peak[0].numel()), dim=1)
        label, cell = best.indices // self.grid.cells, best.indices % self.grid.cells
        found = (part.cpu().numpy() for part in (best.values.double(), label, cell, *maps.at(cell, label)))
        detections = []
        for scores, *of_sample in zip(*found, strict=True):
            keep = scores > self.score_threshold
            boxes = self._boxes(*(part[keep] for part in of_sample))
            kept = suppress(boxes, self.task.column("suppression_radius_m"))[: self.max_detections]
            detections.append(Detections(boxes[kept], scores[keep][kept]))
        return detections

    def _boxes(self, label: np.ndarray, cell: np.ndarray, box: np.ndarray, attribute: np.ndarray) -> Boxes3D:
        """Boxes of classes [N] at flat cells [N], from what the maps say there, [N, 12] and [N, A]."""
        box = box.astype(np.float64)
        require_finite("boxes", np.isfinite(np.concatenate([box, attribute], axis=1)))
        parts = np.split(box, np.cumsum(list(BOX_CHANNELS.values()))[:-1], axis=1)
        offset, z, log_size, heading, axis, velocity = parts
        column, row = cell % self.grid.columns, cell // self.grid.columns
        x, y = self.grid.to_metres(column + offset[:, 0], row + offset[:, 1])
        return Boxes3D(
            center=np.stack([x, y, z[:, 0]], axis=1),
            size=np.exp(log_size.clip(-4, 4)),
            yaw=_yaw(heading, axis),
            velocity=velocity * VELOCITY_SCALE_MPS,
            label=label,
            attribute=best_attribute(attribute, label, self.task),
        )


def _yaw(heading: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Yaw along the axis in the direction closer to the heading; both [N, 2] (sin, cos), axis of the doubled angle."""
    yaw = 0.5 * np.arctan2(axis[:, 0], axis[:, 1])
    backwards = heading[:, 0] * np.sin(yaw) + heading[:, 1] * np.cos(yaw) < 0
    return wrap_angle(yaw + np.pi * backwards)
