"""A plain network for clouds: a dense raster, six convolution blocks and a CenterPoint head (Yang et al., PIXOR, 2018).

The rasters of LiDAR and radar are stacked; the network needs all its sensors. Nothing of the package's encoders, fusion
and trunk is in it. Head, targets, losses, augmentation and metric are shared.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from perception.batch import Batch, InputSpec, PointBatch, collate
from perception.config import Config
from perception.data.opening import open_source
from perception.data.sources import FrameSource
from perception.device import has_bfloat16
from perception.eval.evaluate import evaluate_subsets
from perception.grid import BEVGrid
from perception.model.head import CenterHead, CenterMaps
from perception.model.layers import ConvBlock
from perception.sample import Detections, Frame
from perception.train.batches import Schedule, TrainingData
from perception.train.losses import CenterLoss
from perception.train.optim import Ema, one_cycle, parameter_groups

SLICES = 8  # of height
CHANNELS = {"lidar": SLICES + 3, "radar": 4}
PER_CELL = 4  # raster cells along a side of a cell of the head's grid: 0.2 m for 0.8 m
_RADAR_SCALE = (20.0, 10.0, 10.0)  # rcs_dbsm, vx, vy


def rasterize(cloud: PointBatch, grid: BEVGrid) -> torch.Tensor:
    """Points -> [B, CHANNELS, rows, columns], of LiDAR or radar by the columns that the points have.

    LiDAR: occupancy of each slice, log(1 + points), greatest height, intensity. Heights are from 0 at ``z_min_m`` to 1
    at ``z_max_m``; intensity is the mean of a cell, 0..1. Radar: log(1 + points) of any height, whose measurement is
    poor, and the means of strength and velocity. Empty cells are 0.
    """
    radar = "rcs_dbsm" in cloud.fields
    x, y, z = cloud.points[:, :3].T
    inside = grid.contains(x, y) & (radar | ((z >= grid.z_min_m) & (z < grid.z_max_m)))
    column, row = grid.cell_index(x[inside], y[inside])
    cells = cloud.batch_size * grid.cells
    cell = cloud.batch_index[inside] * grid.cells + row * grid.columns + column
    channels = (_radar_channels if radar else _lidar_channels)(cloud.points[inside], cell, cells, grid)
    return channels.view(cloud.batch_size, *grid.shape, channels.shape[1]).permute(0, 3, 1, 2)


def _radar_channels(points: torch.Tensor, cell: torch.Tensor, cells: int, grid: BEVGrid) -> torch.Tensor:
    count = torch.bincount(cell, minlength=cells).float()
    total = torch.zeros(cells, 3).index_add(0, cell, points[:, 3:6] / points.new_tensor(_RADAR_SCALE))
    return torch.cat([count.log1p()[:, None], total / count.clamp(min=1)[:, None]], dim=1)


def _lidar_channels(points: torch.Tensor, cell: torch.Tensor, cells: int, grid: BEVGrid) -> torch.Tensor:
    height = (points[:, 2] - grid.z_min_m) / (grid.z_max_m - grid.z_min_m)
    slices = torch.zeros(cells, SLICES)
    slices[cell, (height * SLICES).long().clamp(max=SLICES - 1)] = 1
    count = torch.bincount(cell, minlength=cells).float()
    top = torch.zeros(cells).scatter_reduce(0, cell, height, "amax")
    bright = torch.bincount(cell, points[:, 3] / 255, minlength=cells).float() / count.clamp(min=1)
    return torch.cat([slices, torch.stack([count.log1p(), top, bright], dim=1)], dim=1)


class RasterNet(nn.Module):
    """Batch -> CenterMaps; Frame -> Detections. An ``AnyDetector`` of :mod:`perception.eval.evaluate`."""

    def __init__(self, config: Config, sensors: Sequence[str]):
        super().__init__()
        self.sensors = tuple(sensors)
        self.task, self.grid = config.task, BEVGrid(**vars(config.grid))
        self.fine_grid = self.grid.with_cell_size(self.grid.cell_size_m / PER_CELL)
        channels = sum(CHANNELS[sensor] for sensor in self.sensors)
        self.near = nn.Sequential(ConvBlock(channels, 32, stride=2), ConvBlock(32, 64, stride=2), ConvBlock(64, 64))
        self.wide = nn.Sequential(ConvBlock(64, 128, stride=2), ConvBlock(128, 128), ConvBlock(128, 128))
        self.head = CenterHead(self.grid, self.task, 192, 64)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, batch: Batch) -> CenterMaps:
        rasters = [rasterize(batch.inputs[sensor], self.fine_grid) for sensor in self.sensors]
        near = self.near(torch.cat(rasters, dim=1))
        wide = F.interpolate(self.wide(near), size=near.shape[-2:], mode="nearest")
        return self.head(torch.cat([near, wide], dim=1))

    @torch.inference_mode()
    def detect(self, frame: Frame) -> Detections:
        return self.head.decode(self(collate([frame], InputSpec(self.sensors))))[0]


def measure(
    config: Config,
    sensors: Sequence[str],
    split: str | None,
    part: Sequence[float] | None,
    steps: int | None,
    minutes: float | None,
) -> dict:
    """Train from scratch on ``config.data`` and score on another ``split`` or ``part`` of it, or on the same frames.

    Args:
        sensors: some of lidar, radar.

    Returns:
        What :func:`train` returns, and the scores as :func:`perception.eval.evaluate.evaluate_subsets` gives them.
    """
    config = replace(config, train=replace(config.train, sensor_dropout=0.0))
    data = config.data
    chosen: dict[str, Any] = {"version": data.version, "split": data.split, "scenes": data.scenes or None}
    chosen |= {"part": data.part, "image_size": (8, 8)}  # nobody looks at the images
    frames = open_source(data.root, config, **chosen)
    scored = open_source(data.root, config, **{**chosen, "split": split or data.split, "part": part or data.part})
    torch.manual_seed(config.train.seed)
    net = RasterNet(config, sensors)
    with tqdm(total=steps, desc="train", unit="step") as bar:
        done = train(net, frames, config, steps, minutes, bar)
    return {**done, **evaluate_subsets(net, scored, [net.sensors])}


def train(
    net: RasterNet, frames: FrameSource, config: Config, steps: int | None, minutes: float | None, bar: tqdm
) -> dict[str, Any]:
    """Train until ``steps`` or ``minutes`` are over, one of which is None; leaves the averaged weights in ``net``.

    Returns:
        steps, minutes, and the mean loss of the last 50 steps, None where the time was too short for one.
    """
    data = TrainingData(frames, config, InputSpec(net.sensors))
    schedule = Schedule(len(frames), net.sensors, config.train)
    optimizer = torch.optim.AdamW(parameter_groups(net, config.train))
    ema, loss_of = Ema(net, config.train.ema_decay), CenterLoss("boxes", net.head)
    bfloat16 = config.train.amp and has_bfloat16(torch.device("cpu"))
    losses: list[float] = []
    begin = time.monotonic()
    for step in itertools.count():
        schedule.epoch, place = divmod(step, schedule.steps_per_epoch)
        if place == 0:
            draws = iter(schedule)
        passed = (time.monotonic() - begin) / 60
        progress = passed / minutes if steps is None else step / steps
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * one_cycle(progress)
        batch = data[next(draws)]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            maps = net(batch)
        loss = sum(loss_of(maps, batch).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), config.train.clip_norm)
        optimizer.step()
        ema.update(net, step)
        losses.append(loss.item())
        bar.update()
        bar.set_postfix_str(f"loss {losses[-1]:.2f}")
    net.load_state_dict(ema.state)
    return {"steps": step, "minutes": passed, "loss": statistics.mean(losses[-50:]) if losses else None}
