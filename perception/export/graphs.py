"""The graphs that a detector is exported as: one an encoder, and one from what they make to objects.

    encoder of images   images, intrinsics, ego_SE3_camera -> context, depth, features.0, features.1
    encoder of points   points -> bev; fine for objects to look at; returns, the points where they are now if moved
    objects             what all of them made, sensor_valid, memory -> the fields of Objects and their scores

An imported CenterPoint has candidates instead of objects (``model.imported_boxes``), of "bev" alone.

Between the first and the last, image features are pooled into cells (``export.pooling``): a sum over an index that
depends on the calibration alone, for which no runtime has an operator that is fast and exact. The encoder of an absent
sensor does not run; its part of the objects' input is zeros, masked. Numbers of cameras and points are free.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from perception.batch import PointBatch
from perception.errors import PerceptionError
from perception.export.card import CLOUDS, CameraCard, Card, MemoryCard, PointsCard
from perception.export.runtime import FEWEST_CAMERAS, FEWEST_POINTS, FEWEST_RETURNS, OBJECTS
from perception.grid import BEVGrid
from perception.model.camera import CameraEncoder
from perception.model.detector import Detector
from perception.model.graph import ObjectGraph
from perception.model.imported_centerpoint import ImportedCenterHead, ImportedPillars
from perception.model.lidar import LidarEncoder
from perception.model.objects import Objects
from perception.model.radar import RadarEncoder
from perception.sample import LidarCloud, RadarCloud

_KIND: dict[type, tuple[str, ...]] = {
    LidarEncoder: LidarCloud.fields,
    ImportedPillars: LidarCloud.fields,
    RadarEncoder: RadarCloud.fields,
}


@dataclass
class Graph:
    """module: takes the tensors of ``inputs``, by name, one after the other, and returns a dict of tensors.

    free: input -> axis -> the dimension that may have any size.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    free: dict[str, dict[int, Any]]


class _Images(nn.Module):
    def __init__(self, encoder: CameraEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        images, intrinsics, ego_SE3_camera = values
        levels = tuple(level[None].float() for level in self.encoder.image(images[0]))
        context, depth, _ = self.encoder.view_transform.lift(levels[0], intrinsics, ego_SE3_camera)
        return {"context": context, "depth": depth} | {f"features.{i}": level for i, level in enumerate(levels)}


class _Points(nn.Module):
    def __init__(self, encoder: nn.Module, fields: tuple[str, ...]):
        super().__init__()
        self.encoder, self.fields = encoder, fields

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        (points,) = values
        cloud = PointBatch(points, torch.zeros_like(points[:, 0], dtype=torch.int64), 1, self.fields)
        found = self.encoder(cloud)
        parts = {"bev": found.bev, "fine": found.fine}
        if found.returns is not None and found.returns.points is not points:
            parts["returns"] = found.returns.points
        return {name: part.float() for name, part in parts.items() if part is not None}


class _Objects(nn.Module):
    """ObjectGraph with a flat list of inputs, named ``sensor.part`` and ``memory.field``."""

    def __init__(self, detector: Detector, names: list[str]):
        super().__init__()
        self.understanding, self.names = ObjectGraph(detector), names

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in zip(self.names, values, strict=True):
            group, _, part = name.partition(".")
            parts.setdefault(group, {})[part] = value
        memory, valid = parts.pop("memory", {}), parts.pop("sensor_valid")[""]
        elapsed_s = parts.pop("elapsed_s", {}).get("", valid.new_zeros(1, dtype=torch.float32))
        objects = self.understanding(parts, valid, memory, elapsed_s)
        return objects | {"scores": Objects(**objects).scores}


class _Candidates(nn.Module):
    """What an imported CenterPoint makes of its pillars."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, *values: torch.Tensor) -> dict[str, torch.Tensor]:
        (pillars,) = values
        head: Any = self.detector.heads["boxes"]
        return head.candidates(head(self.detector.trunk(pillars)))


def _sensors(detector: Detector) -> dict[str, CameraCard | PointsCard]:
    """

    Raises:
        PerceptionError: a detector that cannot be exported; the message names the section of its config.
    """
    sensors: dict[str, CameraCard | PointsCard] = {}
    for name, encoder in detector.encoders.items():
        if isinstance(encoder, CameraEncoder):
            lift = encoder.view_transform
            depth = (lift.depth_min_m, lift.depth_max_m, lift.bins)
            sensors[name] = CameraCard((encoder.image_size[0], encoder.image_size[1]), lift.stride, *depth)
        elif type(encoder) in _KIND:
            sensors[name] = PointsCard(_KIND[type(encoder)])
        else:
            raise PerceptionError(
                f"encoders.{name}: an encoder of kind camera, lidar, radar or imported_centerpoint was expected for "
                f"export, found {type(encoder).__name__}"
            )
    return sensors


@torch.no_grad()
def exported(detector: Detector) -> tuple[Card, dict[str, Graph]]:
    """The card of a detector and its graphs by name, the encoders' by that of their sensor.

    Raises:
        PerceptionError: a detector that cannot be exported; the message names the section of its config.
    """
    head: Any = detector.heads["boxes"]
    rules = head.rules if isinstance(head, ImportedCenterHead) else None
    if detector.decoder is None and rules is None:
        raise PerceptionError("decoder.kind: an object decoder was expected of a detector to be exported, found none")
    sensors = _sensors(detector)
    graphs: dict[str, Graph] = {}
    example: dict[str, torch.Tensor] = {}
    free: dict[str, dict[int, Any]] = {}
    for name, sensor in sensors.items():
        encoder = detector.encoders[name]
        if isinstance(sensor, CameraCard):
            graphs[name], seen, free_here = _of_images(encoder, sensor, detector.grid)
        else:
            graphs[name], seen, free_here = _of_points(encoder, sensor)
        example |= {f"{name}.{part}": value for part, value in seen.items()}
        free |= {f"{name}.{part}": axes for part, axes in free_here.items()}
    memory = None
    if detector.decoder is None:
        graphs[OBJECTS] = Graph(_Candidates(detector), example, free)
    else:
        example["sensor_valid"] = torch.ones(1, len(sensors), dtype=torch.bool)
        if detector.remembers:
            memory = MemoryCard(detector.decoder.memory, detector.decoder.embed.out_features)
            empty = memory.empty(detector.task)
            example |= {f"memory.{name}": torch.from_numpy(value) for name, value in empty.items()}
            example["elapsed_s"] = torch.zeros(1)
        graphs[OBJECTS] = Graph(_Objects(detector, list(example)), example, free)
    card = Card(
        detector.task,
        detector.grid,
        sensors,
        {name: _fewest(value, free.get(name, {})) for name, value in example.items()},
        dict(detector.calibration.by_set),
        head.max_detections,
        head.score_threshold,
        memory,
        {name: getattr(detector.config.data, name) for name in CLOUDS},
        hashlib.sha256(detector.files()["model.safetensors"]).hexdigest(),
        rules,
    )
    return card, graphs


_Parts = dict[str, torch.Tensor]
_Free = dict[str, dict[int, Any]]


def _of_images(encoder: Any, sensor: CameraCard, grid: BEVGrid) -> tuple[Graph, _Parts, _Free]:
    """The graph of an encoder, what objects take of it, and the axes of that which are free."""
    cameras = Dim("cameras", min=FEWEST_CAMERAS)
    images = torch.zeros(1, 3, 3, *sensor.image_size, dtype=torch.uint8)
    poses = {"intrinsics": torch.eye(3).repeat(1, 3, 1, 1), "ego_SE3_camera": torch.eye(4).repeat(1, 3, 1, 1)}
    graph = Graph(_Images(encoder), {"images": images} | poses, {})
    graph.free |= {name: {1: cameras} for name in graph.inputs}
    made = graph.module(*graph.inputs.values())
    features = {name: value for name, value in made.items() if name.startswith("features.")}
    by_camera = features | poses | {"camera_valid": torch.ones(1, 3, dtype=torch.bool)}
    pooled = torch.zeros(1, made["context"].shape[1], *grid.shape)
    return graph, {"pooled": pooled} | by_camera, {name: {1: cameras} for name in by_camera}


def _of_points(encoder: Any, sensor: PointsCard) -> tuple[Graph, _Parts, _Free]:
    cloud = torch.rand(50, len(sensor.fields))
    graph = Graph(_Points(encoder, sensor.fields), {"points": cloud}, {"points": {0: Dim("points", min=FEWEST_POINTS)}})
    seen = graph.module(cloud)
    seen.pop("returns", None)
    if getattr(encoder, "return_scale", None) is not None:
        seen |= {"points": cloud[None], "point_valid": torch.ones(1, len(cloud), dtype=torch.bool)}
    returns = Dim("returns", min=FEWEST_RETURNS)
    return graph, seen, {name: {1: returns} for name in ("points", "point_valid") if name in seen}


def _fewest(value: torch.Tensor, free: dict[int, Any]) -> tuple[int, ...]:
    """The shape with as few as there can be along the axes that are free."""
    return tuple(free[axis].min if axis in free else size for axis, size in enumerate(value.shape))
