"""CenterPoint head (Yin et al., 2021): a heat map per class and, at each cell, the box whose centre lies there.

:func:`encode` turns boxes into the maps the head is trained on and :func:`decode` turns maps into boxes; decoding what
was encoded gives the boxes back, except that of two boxes of one class in one cell only the larger survives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from perception.geometry import wrap_angle
from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, PointwiseConv2d, ResidualBlock
from perception.sample import ATTRIBUTES, CLASSES, Boxes3D, Detections

# Two detections of one class closer than this are one object; about half the width of the class.
SUPPRESSION_RADIUS_M = np.array([1.0, 1.2, 1.2, 1.2, 1.2, 0.3, 0.5, 0.5, 0.25, 0.4])
# The attributes each class may carry.
_ATTRIBUTES_OF_CLASS = tuple(
    [ATTRIBUTES.index(name) for name in ATTRIBUTES if name.startswith(prefix)] if prefix else []
    for prefix in ("vehicle",) * 5 + ("pedestrian",) + ("cycle",) * 2 + (None,) * 2
)
# Front and back of many things look alike. The axis (doubled angle) is the same either way round and hence exact; the
# heading, whose L1 optimum shrinks to nothing where both ends are as likely, only says which end of the axis is ahead.
BOX_CHANNELS = {"offset": 2, "z": 1, "log_size": 3, "heading": 2, "axis": 2, "velocity": 2}
VELOCITY_SCALE_MPS = 5.0  # regressed velocities are divided by this, so that all box channels are of order one


@dataclass
class Maps:
    """Dense output (or target) of the head for one batch.

    heat: [B, 10, rows, columns]; logits from the network, probabilities in a target.
    box: [B, 10, rows, columns] in the order of BOX_CHANNELS: offset of the centre within the cell in cells (x, y),
        height of the centre in metres, log of (l, w, h), (sin, cos) of yaw, (sin, cos) of twice the yaw,
        velocity / VELOCITY_SCALE_MPS.
    attribute: [B, 8, rows, columns] logits; in a target one-hot, all zero where unknown.
    """

    heat: torch.Tensor
    box: torch.Tensor
    attribute: torch.Tensor


class Trunk(nn.Module):
    """A small U-shaped BEV backbone: context from coarser cells, returned at full resolution."""

    def __init__(self, in_channels: int, widths: list[int]):
        super().__init__()
        self.enter = ConvBlock(in_channels, widths[0])
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.down = nn.ModuleList(nn.Sequential(ConvBlock(a, b, stride=2), ResidualBlock(b)) for a, b in pairs)
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


class CenterHead(nn.Module):
    """Fused BEV features [B, C, rows, columns] -> Maps."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.heat = nn.Sequential(ConvBlock(in_channels, channels), PointwiseConv2d(channels, len(CLASSES)))
        box = sum(BOX_CHANNELS.values())
        self.box = nn.Sequential(ConvBlock(in_channels, channels), PointwiseConv2d(channels, box + len(ATTRIBUTES)))
        # Start from "nothing is here" (focal-loss prior, Lin et al., 2017) or the first steps drown in false positives.
        nn.init.constant_(self.heat[-1].bias, -4.6)

    def forward(self, x: torch.Tensor) -> Maps:
        box, attribute = self.box(x).float().split([sum(BOX_CHANNELS.values()), len(ATTRIBUTES)], dim=1)
        return Maps(self.heat(x).float(), box, attribute)


def encode(boxes: list[Boxes3D], grid: BEVGrid, device: torch.device | str = "cpu") -> tuple[Maps, torch.Tensor]:
    """Boxes of each sample -> target Maps, and which cells hold a centre: bool [B, rows, columns].

    Boxes whose centre is outside the grid are left out. Where boxes share a cell the larger one owns its box channels.
    A velocity that is unknown stays NaN.
    """
    shape = (len(boxes), *grid.shape)
    heat = np.zeros((shape[0], len(CLASSES), *shape[1:]), np.float32)
    box = np.zeros((shape[0], sum(BOX_CHANNELS.values()), *shape[1:]), np.float32)
    attribute = np.zeros((shape[0], len(ATTRIBUTES), *shape[1:]), np.float32)
    occupied = np.zeros(shape, bool)
    for b, sample in enumerate(boxes):
        sample = sample[grid.contains(sample.center[:, 0], sample.center[:, 1])]
        sample = sample[np.argsort(sample.size[:, 0] * sample.size[:, 1], kind="stable")]
        x, y = grid.to_cells(sample.center[:, 0], sample.center[:, 1])
        column, row = grid.cell_index(sample.center[:, 0], sample.center[:, 1])
        radii = gaussian_radius(sample.size[:, 0] / grid.cell_size_m, sample.size[:, 1] / grid.cell_size_m)
        for i in range(len(sample)):
            _draw_gaussian(heat[b, sample.label[i]], column[i], row[i], max(1, int(radii[i])))
        values = [
            np.stack([x - column, y - row], 1), sample.center[:, 2:], np.log(sample.size),
            np.stack([np.sin(sample.yaw), np.cos(sample.yaw)], 1),
            np.stack([np.sin(2 * sample.yaw), np.cos(2 * sample.yaw)], 1), sample.velocity / VELOCITY_SCALE_MPS,
        ]  # fmt: skip
        one_hot = np.eye(len(ATTRIBUTES) + 1, dtype=np.float32)[sample.attribute][
            :, :-1
        ]  # -1 is the row that is cut off
        for i, value in enumerate(np.concatenate(values, axis=1)):
            box[b, :, row[i], column[i]], attribute[b, :, row[i], column[i]] = value, one_hot[i]
        occupied[b, row, column] = True
    maps = Maps(*(torch.from_numpy(array).to(device) for array in (heat, box, attribute)))
    return maps, torch.from_numpy(occupied).to(device)


def decode(maps: Maps, grid: BEVGrid, max_detections: int, score_threshold: float) -> list[Detections]:
    """Maps with heat as *probabilities* -> Detections per sample, highest score first.

    Peaks are cells that no neighbour exceeds; of peaks of one class within SUPPRESSION_RADIUS_M the best is kept.
    """
    peak = maps.heat * (F.max_pool2d(maps.heat, 3, stride=1, padding=1) == maps.heat)
    scores, index = peak.flatten(1).topk(min(2 * max_detections, peak[0].numel()), dim=1)
    scores, index = scores.double().cpu().numpy(), index.cpu().numpy()
    detections = []
    for b in range(len(scores)):
        keep = scores[b] > score_threshold
        score, flat = scores[b][keep], index[b][keep]
        label, cell = flat // grid.cells, flat % grid.cells
        gather = torch.from_numpy(cell).to(maps.box.device)
        box = maps.box[b].flatten(1)[:, gather].T.double().cpu().numpy()
        attribute = maps.attribute[b].flatten(1)[:, gather].T.cpu().numpy()
        parts = np.split(box, np.cumsum(list(BOX_CHANNELS.values()))[:-1], axis=1)
        offset, z, log_size, heading, axis, velocity = parts
        x, y = grid.to_metres(cell % grid.columns + offset[:, 0], cell // grid.columns + offset[:, 1])
        boxes = Boxes3D(
            center=np.stack([x, y, z[:, 0]], axis=1),
            size=np.exp(log_size.clip(-4, 4)),
            yaw=_yaw(heading, axis),
            velocity=velocity * VELOCITY_SCALE_MPS,
            label=label,
            attribute=_best_attribute(attribute, label),
        )
        kept = _suppress(boxes)[:max_detections]
        detections.append(Detections(boxes[kept], score[kept]))
    return detections


def _yaw(heading: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The direction along the axis that is nearer to the heading; both [N, 2] (sin, cos), axis of twice the yaw."""
    yaw = 0.5 * np.arctan2(axis[:, 0], axis[:, 1])
    backwards = heading[:, 0] * np.sin(yaw) + heading[:, 1] * np.cos(yaw) < 0
    return wrap_angle(yaw + np.pi * backwards)


def gaussian_radius(length: np.ndarray, width: np.ndarray, min_overlap: float = 0.1) -> np.ndarray:
    """How far, in cells, a centre may be off so that boxes still overlap by ``min_overlap`` (Law & Deng, 2018)."""
    total = length + width
    inside = (total - np.sqrt(total**2 - 4 * length * width * (1 - min_overlap) / (1 + min_overlap))) / 2
    both = (2 * total - np.sqrt(4 * total**2 - 16 * (1 - min_overlap) * length * width)) / 8
    root = np.sqrt(4 * min_overlap**2 * total**2 + 16 * min_overlap * (1 - min_overlap) * length * width)
    outside = (root - 2 * min_overlap * total) / (8 * min_overlap)
    return np.minimum(np.minimum(inside, both), outside)


def _draw_gaussian(heat: np.ndarray, column: int, row: int, radius: int) -> None:
    """The maximum of ``heat`` [rows, columns] and a Gaussian that is 1 at the cell, in place."""
    axis = np.arange(-radius, radius + 1)
    sigma = (2 * radius + 1) / 6
    gaussian = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * sigma**2)).astype(np.float32)
    top, left = max(0, row - radius), max(0, column - radius)
    window = heat[top : row + radius + 1, left : column + radius + 1]
    start_row, start_column = top - (row - radius), left - (column - radius)
    part = gaussian[start_row : start_row + window.shape[0], start_column : start_column + window.shape[1]]
    np.maximum(window, part, out=window)


def _best_attribute(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The likeliest of the attributes that the class may carry, -1 for classes without."""
    best = np.full(len(label), -1)
    for index, allowed in enumerate(_ATTRIBUTES_OF_CLASS):
        rows = label == index
        if allowed and rows.any():
            best[rows] = np.array(allowed)[logits[rows][:, allowed].argmax(axis=1)]
    return best


def _suppress(boxes: Boxes3D) -> np.ndarray:
    """Indices kept, in order, when each box drops later ones of its class within the suppression radius."""
    dx, dy = (boxes.center[:, None, axis] - boxes.center[None, :, axis] for axis in (0, 1))
    close = dx * dx + dy * dy < np.square(SUPPRESSION_RADIUS_M)[boxes.label][:, None]
    close &= boxes.label[:, None] == boxes.label[None]
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~close[i, i + 1 :]
    return alive.nonzero()[0]
