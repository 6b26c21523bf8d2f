"""CenterPoint on pillars (Yin et al., 2021) as mmdetection3d and OpenPCDet publish it, for imported weights alone.

Pillars as in PointPillars (Lang et al., 2019), stages and pyramid as in SECOND (Yan et al., 2018), a head with a branch
for each of six groups of classes (CBGS, Zhu et al., 2019). All of it sees and says everything in the frame of the LiDAR
that the weights were trained with, LIDAR_TOP of nuScenes: points are moved there from the ego frame, and boxes back.

The batch normalisation of the originals is folded into the weights (``model.import_weights``). The modules are for
inference: there is no loss for this head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from perception.batch import PointBatch
from perception.config import Config, ImportedConfig
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model.detector import Detector
from perception.model.encoder import Encoded
from perception.model.fusion import Fused
from perception.model.head import Branches
from perception.model.imported_boxes import BoxRules, detections_of_candidates
from perception.model.layers import exact_product
from perception.model.objects import gathered
from perception.ops.convolution import Conv2d
from perception.ops.voxelize import Voxels, capped, scatter_to_bev, segment_max, segment_mean, voxelize
from perception.sample import Detections, LidarCloud
from perception.task import Task

STRIDE = 4  # of the head's cells over the pillars
_WIDTHS, _BLOCKS, _UP = (64, 128, 256), (3, 5, 5), 128  # of the stages; further convolutions in each; of the pyramid
_SHARED = 64  # channels in the head
_CANDIDATES = 500  # of a group
# What a branch regresses at a cell, in this order, before its heat map: offset of the centre in cells (x, y), height of
# the centre in metres, log of (l, w, h), (sin, cos) of yaw, velocity in m/s.
BOX_CHANNELS = {"offset": 2, "z": 1, "log_size": 3, "direction": 2, "velocity": 2}
_BOX_WIDTH = sum(BOX_CHANNELS.values())


@dataclass(frozen=True)
class Pillars:
    """What the originals do not have in common. widths: of the layers that points go through.

    most_points, most_pillars: in a pillar and in a sample, those that come first; None: as many as there are.
    """

    widths: tuple[int, ...]
    most_points: int | None
    most_pillars: int | None


PILLARS = {"mmdet3d": Pillars((64,), 20, 40_000), "openpcdet": Pillars((32, 64), None, None)}


class ImportedPillars(nn.Module):
    """Points [M, 5] in the ego frame -> pillars [B, channels, rows, columns] on ``grid``, in the LiDAR frame.

    Every layer but the first sees what a point was and the maximum over its pillar.
    """

    lidar_R_ego: torch.Tensor
    lidar_t_ego: torch.Tensor

    def __init__(self, grid: BEVGrid, ego_SE3_lidar: SE3, pillars: Pillars):
        super().__init__()
        self.grid, self.pillars = grid, pillars
        lidar_SE3_ego = ego_SE3_lidar.inverse()
        self.register_buffer("lidar_R_ego", torch.tensor(lidar_SE3_ego.rotation, dtype=torch.float32), persistent=False)
        self.register_buffer(
            "lidar_t_ego", torch.tensor(lidar_SE3_ego.translation, dtype=torch.float32), persistent=False
        )
        entering = [len(LidarCloud.fields) + 6, *(2 * width for width in pillars.widths[:-1])]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(entering, pillars.widths))

    def forward(self, cloud: PointBatch) -> Encoded:
        if cloud.fields != LidarCloud.fields:
            raise PerceptionError(f"points with {', '.join(LidarCloud.fields)} were expected, found {cloud.fields}")
        with torch.autocast(cloud.points.device.type, enabled=False):
            points = self._in_lidar_frame(cloud.points)
            if torch.compiler.is_exporting():
                return Encoded(self._scattered(points))
            voxels = voxelize(points, cloud.batch_index, self.grid, batch_size=cloud.batch_size)
            if self.pillars.most_points is not None and self.pillars.most_pillars is not None:
                voxels = capped(voxels, self.pillars.most_points, self.pillars.most_pillars)
            return Encoded(scatter_to_bev(self._features(points, voxels), voxels, cloud.batch_size, self.grid))

    def _in_lidar_frame(self, points: torch.Tensor) -> torch.Tensor:
        xyz = exact_product(points[:, None, :3], self.lidar_R_ego.T)[:, 0] + self.lidar_t_ego
        return torch.cat([xyz, points[:, 3:]], dim=1)

    def _features(self, points: torch.Tensor, voxels: Voxels) -> torch.Tensor:
        """[V, channels] of the pillars."""
        points = points.index_select(0, voxels.order)
        mean = segment_mean(points[:, :3].contiguous(), voxels).index_select(0, voxels.voxel)
        row, column = voxels.coordinates()[:, 2:].index_select(0, voxels.voxel).unbind(dim=1)
        features = self._described(points, mean, column, row)
        for layer in self.layers[:-1]:
            features = layer(features).relu()
            features = torch.cat([features, segment_max(features, voxels).index_select(0, voxels.voxel)], dim=1)
        features = segment_max(self.layers[-1](features), voxels).relu()
        return self._with_empty_slots(features, voxels.count[:, None])

    def _described(
        self, points: torch.Tensor, mean: torch.Tensor, column: torch.Tensor, row: torch.Tensor
    ) -> torch.Tensor:
        """[K, 11]: the points, their offsets from the mean of their pillar, and from its centre."""
        grid = self.grid
        x, y = grid.to_metres(column + 0.5, row + 0.5)
        centre = torch.stack([x, y, torch.full_like(x, 0.5 * (grid.z_min_m + grid.z_max_m))], dim=1)
        return torch.cat([points, points[:, :3] - mean, points[:, :3] - centre], dim=1)

    def _with_empty_slots(self, features: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Where pillars have a fixed number of slots, those that are empty are points of zeros to the original."""
        if self.pillars.most_points is None:
            return features
        of_zeros = self.layers[-1].get_parameter("bias").relu()
        return torch.where(count < self.pillars.most_points, features.maximum(of_zeros), features)

    def _scattered(self, points: torch.Tensor) -> torch.Tensor:
        """The same of one sample, for runtimes without our kernels: with scatters that all have and compute exactly.

        Points of no cell, and those beyond the limits, go to a spare cell behind the last, which is dropped.
        """
        grid, pillars = self.grid, self.pillars
        x, y, z = points[:, :3].unbind(dim=1)
        inside = grid.contains(x, y) & (z >= grid.z_min_m) & (z < grid.z_max_m)
        column, row = torch.stack(grid.to_cells(x, y), dim=1).nan_to_num(0.0).unbind(dim=1)
        column, row = column.clamp(0, grid.columns - 1).long(), row.clamp(0, grid.rows - 1).long()
        cell = torch.where(inside, row * grid.columns + column, grid.cells)
        if pillars.most_points is not None and pillars.most_pillars is not None:
            cell = self._first(cell, pillars.most_points, pillars.most_pillars)
        inside = (cell < grid.cells)[:, None]
        weighed = torch.cat([points[:, :3], torch.ones_like(points[:, :1])], dim=1).masked_fill(~inside, 0.0)
        total = points.new_zeros(grid.cells + 1, 4).scatter_add(0, cell[:, None].expand(-1, 4), weighed)
        of_cell = total.index_select(0, cell)
        features = self._described(points, of_cell[:, :3] / of_cell[:, 3:].clamp(min=1), column, row)
        for layer in self.layers[:-1]:
            features = layer(features).relu()
            features = torch.cat([features, self._largest(features, cell).index_select(0, cell)], dim=1)
        features = self._largest(self.layers[-1](features).relu(), cell)
        count = total[:, 3:]
        features = torch.where(count > 0, self._with_empty_slots(features, count), 0.0)
        return features[: grid.cells].view(1, *grid.shape, -1).permute(0, 3, 1, 2)

    def _largest(self, features: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        """[cells + 1, C], of features that are never negative."""
        zeros = features.new_zeros(self.grid.cells + 1, features.shape[1])
        return zeros.scatter_reduce(0, cell[:, None].expand_as(features), features, "amax")

    def _first(self, cell: torch.Tensor, most_points: int, most_pillars: int) -> torch.Tensor:
        """The cells [M] of the points that :func:`capped` keeps; the spare one for the others."""
        spare, points = self.grid.cells, cell.shape[0]  # not len, which is a constant to an exporter
        place = torch.arange(points, device=cell.device)
        by_cell = (cell * points + place).argsort()
        in_order = cell.index_select(0, by_cell)
        count = cell.new_zeros(spare + 1).scatter_add(0, cell, torch.ones_like(cell))
        rank = place - (count.cumsum(0) - count).index_select(0, in_order)  # of each point within its cell
        beginning = torch.full_like(count, points).scatter_reduce(0, cell, place, "amin")[:spare]
        last = beginning.topk(min(most_pillars, spare), largest=False).values[-1]
        kept = (rank < most_points) & (in_order < spare)
        kept = kept & (beginning.index_select(0, in_order.clamp(max=spare - 1)) <= last)
        return torch.full_like(cell, spare).scatter(0, by_cell, torch.where(kept, in_order, spare))


class Alone(nn.Module):
    """The fusion of a detector that has one sensor: its features as they are."""

    def forward(self, features: Mapping[str, torch.Tensor], sensor_valid: torch.Tensor) -> Fused:
        (only,) = features.values()
        return Fused(only)


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(Conv2d(in_channels, out_channels, 3, stride, padding=1), nn.ReLU(inplace=True))


class SecondPyramid(nn.Module):
    """Pillars [B, 64, H, W] -> [B, 384, H / 4, W / 4]: stages at strides 2, 4 and 8, brought to the second's."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(a, b, stride=2), *(_convolution(b, b) for _ in range(count)))
            for a, b, count in zip((_WIDTHS[0], *_WIDTHS), _WIDTHS, _BLOCKS)
        )
        first, second, third = _WIDTHS
        self.up = nn.ModuleList(
            [Conv2d(first, _UP, 2, stride=2), Conv2d(second, _UP, 1), nn.ConvTranspose2d(third, _UP, 2, stride=2)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = []
        for stage, up in zip(self.stages, self.up):
            x = stage(x)
            levels.append(up(x).relu())
        return torch.cat(levels, dim=1)


class ImportedCenterHead(nn.Module):
    """Features [B, 384, rows, columns] -> for each group the maps [B, 10 + K, rows, columns] of its K classes.

    Channels are those of BOX_CHANNELS, then heat logits.

    Args:
        grid: of the cells, in the LiDAR frame.
    """

    def __init__(self, grid: BEVGrid, task: Task, rules: BoxRules):
        super().__init__()
        self.grid, self.task, self.rules = grid, task, rules
        self.max_detections, self.score_threshold = rules.max_detections, rules.score_threshold
        self.members = [[task.classes.index(name) for name in names] for names in rules.groups]
        self.shared = _convolution(_UP * len(_WIDTHS), _SHARED)
        self.groups = nn.ModuleList(
            Branches(
                nn.Sequential(_convolution(_SHARED, _SHARED), Conv2d(_SHARED, width, 3, padding=1))
                for width in (*BOX_CHANNELS.values(), len(members))
            )
            for members in self.members
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.shared(x)
        return [group(x).float() for group in self.groups]

    def candidates(self, maps: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The best of every group, [B, N, ...] in the LiDAR frame, see :func:`detections_of_candidates`."""
        parts = [self._best(own, members) for own, members in zip(maps, self.members)]
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def _best(self, maps: torch.Tensor, members: Sequence[int]) -> dict[str, torch.Tensor]:
        heat = maps[:, _BOX_WIDTH:].sigmoid().flatten(1)
        best = heat.topk(min(_CANDIDATES, heat.shape[1]), dim=1)
        cell = best.indices % self.grid.cells
        values = gathered(maps[:, :_BOX_WIDTH].flatten(2).transpose(1, 2), cell)
        found = dict(zip(BOX_CHANNELS, values.split(list(BOX_CHANNELS.values()), dim=2)))
        offset, z = found.pop("offset"), found.pop("z")
        column, row = cell % self.grid.columns + offset[..., 0], cell // self.grid.columns + offset[..., 1]
        center = torch.stack([*self.grid.to_metres(column, row), z[..., 0]], dim=2)
        label = torch.tensor(members, device=cell.device)[best.indices // self.grid.cells]
        return {"center": center, **found, "score": best.values, "label": label}

    def decode(self, maps: Sequence[torch.Tensor]) -> list[Detections]:
        """Detections per sample, in the ego frame, highest score first.

        Raises:
            PerceptionError: a candidate that is not finite.
        """
        found = {name: value.cpu().numpy() for name, value in self.candidates(maps).items()}
        return [
            detections_of_candidates({name: value[b] for name, value in found.items()}, self.task, self.rules)
            for b in range(len(found["score"]))
        ]


def build_centerpoint(config: Config) -> Detector:
    """The detector of a config whose LiDAR is an ``imported_centerpoint``.

    Raises:
        PerceptionError: values that are not those of the published models, named by their keys.
    """
    section, head = config.encoders.get("lidar"), config.head
    if len(config.encoders) > 1 or config.own_parts or not isinstance(section, ImportedConfig):
        found = ", ".join([*config.encoders, *config.own_parts])
        raise PerceptionError(f"encoders: lidar alone was expected, of kind imported_centerpoint, found {found}")
    if not head.groups or config.decoder.kind != "none":
        found = f"{len(head.groups)} groups, {config.decoder.kind}"
        raise PerceptionError(f"head.groups, decoder.kind: groups of classes and none were expected, found {found}")
    grid, ego_SE3_lidar = BEVGrid(**vars(config.grid)), SE3.from_pose(section.ego_SE3_lidar)
    if grid.rows % 2 or grid.columns % 2:
        raise PerceptionError(f"grid: an even number of cells each way was expected, found {grid.shape}")
    pillars = ImportedPillars(grid.with_cell_size(grid.cell_size_m / STRIDE), ego_SE3_lidar, PILLARS[section.source])
    rules = BoxRules(
        tuple(tuple(names) for names in head.groups),
        tuple(section.ego_SE3_lidar),
        section.max_overlap,
        head.score_threshold,
        head.max_detections,
    )
    boxes = ImportedCenterHead(grid, config.task, rules)
    return Detector(config, {"lidar": pillars}, Alone(), SecondPyramid(), {"boxes": boxes})
