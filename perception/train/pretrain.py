"""Pretraining without labels: each encoder learns to tell where LiDAR points are from a scene that is masked.

After BEV-MAE (Lin et al., 2024), but for every sensor: the points in most cells are taken away before an encoder sees
them, and from its BEV features one convolution tells for every cell which slices of its height hold LiDAR points, and
how many there are. Cameras see whole images, as what they have to tell is another sensor's anyway; their depth is
learned beside it. Batches of fewer sensors (``train.sensor_dropout``) mask whole sensors. Fusion, head and decoder
are left as they are: an encoder alone has to know what is where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from perception.batch import Batch, InputSpec, PointBatch
from perception.config import AugmentConfig, Config, ValidationConfig
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.detector import Detector
from perception.train.depth_loss import DepthLoss
from perception.train.losses import focal_loss

TEACHER = "lidar"
SLICES = 8  # of the height
MASKED_SHARE = 0.7  # of the cells, as in the paper
_DENSITY_WEIGHT = 0.2


@dataclass
class Guess:
    """occupied: logits [B, SLICES, rows, columns].  density: [B, rows, columns], log(1 + points of a cell)."""

    occupied: torch.Tensor
    density: torch.Tensor


@dataclass
class Guesses:
    """by_sensor: what each encoder says.  depth: depth logits [B, N, D, h, w] by sensor."""

    by_sensor: dict[str, Guess]
    depth: dict[str, torch.Tensor]


class Pretrainer(nn.Module):
    """Batch -> Guesses. Trained in place of the detector, which it saves."""

    def __init__(self, detector: Detector):
        super().__init__()
        if TEACHER not in detector.encoders:
            raise PerceptionError(f"encoders: {TEACHER} was expected, which the others learn from, found none")
        self.detector = detector
        channels = detector.config.fusion.channels
        self.tell = nn.ModuleDict({name: nn.Conv2d(channels, SLICES + 1, 3, padding=1) for name in detector.encoders})
        inputs = detector.inputs
        self.inputs = InputSpec(inputs.sensors, inputs.image_size, dict.fromkeys(inputs.sensors, TEACHER))

    @property
    def encoders(self) -> nn.ModuleDict:
        return self.detector.encoders

    def forward(self, batch: Batch) -> Guesses:
        encoded = self.detector.encode(masked(batch, self.detector.grid) if self.training else batch)
        told = {name: self.tell[name](value.bev).float() for name, value in encoded.items()}
        depth = {name: value.depth for name, value in encoded.items() if value.depth is not None}
        return Guesses({name: Guess(maps[:, :-1], maps[:, -1]) for name, maps in told.items()}, depth)

    def files(self, state: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
        """Those of the detector, for ``train.init``."""
        prefix = "detector."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        return self.detector.files(own)


def masked(batch: Batch, grid: BEVGrid) -> Batch:
    """The batch without the points in ``MASKED_SHARE`` of the cells, drawn for every sensor by itself."""
    inputs = dict(batch.inputs)
    for name in batch.sensors:
        cloud = inputs.get(name)
        if isinstance(cloud, PointBatch):
            hidden = torch.rand(cloud.batch_size * grid.cells, device=cloud.points.device) < MASKED_SHARE
            inside, cell = _cells(cloud, grid)
            keep = ~inside
            keep[inside] = ~hidden[cell]
            inputs[name] = replace(cloud, points=cloud.points[keep], batch_index=cloud.batch_index[keep])
    return replace(batch, inputs=inputs)


class PretrainLoss(nn.Module):
    """``loss(guesses, batch)`` -> {"<sensor>/occupied", "<sensor>/density", "depth", "total"}, scalars."""

    teachers = "LiDAR points"

    def __init__(self, detector: Detector, depth_weight: float):
        super().__init__()
        self.grid, self.depth_weight = detector.grid, depth_weight
        self.depth = DepthLoss(detector.encoders, detector.inputs.depth_from)

    def learned(self, batch: Batch) -> int:
        """The LiDAR points that are learned from."""
        cloud = batch.inputs.get(TEACHER)
        return len(cloud.points) if isinstance(cloud, PointBatch) else 0

    def forward(self, guesses: Guesses, batch: Batch) -> dict[str, torch.Tensor]:
        """Samples teach nothing that have no LiDAR points, and are nothing to a sensor that they do not have."""
        cloud, size = batch.inputs.get(TEACHER), len(batch)
        if not isinstance(cloud, PointBatch):
            cloud = PointBatch(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), size, ("x", "y", "z"))
            cloud = cloud.to(batch.sensor_valid.device)
        slices, density = occupancy(cloud, self.grid)
        taught = torch.bincount(cloud.batch_index, minlength=size) > 0
        terms = {}
        for name, guess in guesses.by_sensor.items():
            rows = taught & batch.sensor_valid[:, batch.sensors.index(name)]
            wanted, there = slices[rows], density[rows] > 0
            terms[f"{name}/occupied"] = focal_loss(guess.occupied[rows], wanted) / wanted.sum().clamp(min=1)
            error = (guess.density[rows] - density[rows]).abs()[there].sum() / there.sum().clamp(min=1)
            terms[f"{name}/density"] = _DENSITY_WEIGHT * error
        if (depth := self.depth(guesses.depth, batch)) is not None:
            terms["depth"] = self.depth_weight * depth
        return {**terms, "total": torch.stack([*terms.values()]).sum()}


@torch.no_grad()
def occupancy(cloud: PointBatch, grid: BEVGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Which slices hold points, 0 or 1, [B, SLICES, rows, columns]; log(1 + points) of cells, [B, rows, columns]."""
    inside, cell = _cells(cloud, grid)
    height = (cloud.points[inside, 2] - grid.z_min_m) / (grid.z_max_m - grid.z_min_m)
    cells = cloud.batch_size * grid.cells
    slices = torch.zeros(cells, SLICES, device=cell.device)
    slices[cell, (height * SLICES).long().clamp(max=SLICES - 1)] = 1
    count = torch.bincount(cell, minlength=cells).float()
    shape = cloud.batch_size, *grid.shape
    return slices.view(*shape, SLICES).permute(0, 3, 1, 2), count.log1p().view(shape)


def _cells(cloud: PointBatch, grid: BEVGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """bool [M], which points are in the grid; flat index of sample and cell of those."""
    x, y, z = cloud.points[:, :3].T
    inside = grid.contains(x, y) & (z >= grid.z_min_m) & (z < grid.z_max_m)
    column, row = grid.cell_index(x[inside], y[inside])
    return inside, cloud.batch_index[inside] * grid.cells + row * grid.columns + column


def pretraining(config: Config) -> Config:
    """The config without what is for boxes: pasted objects, balanced classes, scores, faults and clips."""
    augment: AugmentConfig = replace(config.augment, paste={}, corruption_rate=0.0)
    train = replace(config.train, balanced=False, clip=1, image_weight=0.0, finish_epochs=0)
    return replace(config, augment=augment, train=train, validation=ValidationConfig())
