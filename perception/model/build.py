"""From a config to a detector: the built-in parts that its sections describe, and those of one's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import nn

from perception.config import (
    CameraConfig,
    Config,
    EncoderConfig,
    LidarConfig,
    RadarConfig,
    VoxelConfig,
    check_config,
    ordered,
)
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.backbones import BACKBONES
from perception.model.camera import CameraEncoder, ImageEncoder
from perception.model.decoder import ObjectDecoder
from perception.model.detector import Detector
from perception.model.fusion import build_fusion
from perception.model.head import CenterHead, Trunk
from perception.model.imported_centerpoint import build_centerpoint
from perception.model.layers import heat_head
from perception.model.lidar import LidarEncoder
from perception.model.radar import RadarEncoder
from perception.model.tokens import MapTokens, token_source
from perception.model.view_transform import LiftSplat
from perception.model.voxel_encoder import VoxelEncoder

_LIDAR_PRIOR = -4.0  # low: when LiDAR disagrees with another sensor, LiDAR is moved; its sharp maps reveal the error


def build(
    config: Config,
    *,
    encoders: Mapping[str, nn.Module] | None = None,
    backbones: Mapping[str, nn.Module] | None = None,
    fusion: nn.Module | None = None,
    trunk: nn.Module | None = None,
    heads: Mapping[str, nn.Module] | None = None,
) -> Detector:
    """Build the detector that a config describes; custom parts replace or extend the built-in ones.

    Args:
        encoders: by sensor name; a sensor that is not in the config is added.
        backbones: image backbones by sensor, see :class:`perception.model.camera.ImageEncoder`.
        fusion, trunk: see :class:`Detector`.
        heads: by name; "boxes" replaces the detection head.

    The detector's config lists the custom parts as ``own_parts``, so that a checkpoint states what loading it requires.

    Raises:
        PerceptionError: inconsistent values, named by their keys; or a config with custom parts that are not given.
    """
    if not isinstance(config, Config):
        raise PerceptionError(f"build: a Config was expected, found {type(config).__name__}")
    encoders, backbones, heads = dict(encoders or {}), dict(backbones or {}), dict(heads or {})
    for name in backbones:
        if name in encoders or not isinstance(config.encoders.get(name), CameraConfig):
            raise PerceptionError(f"backbones.{name}: a sensor of the config with an encoder of images was expected")
    given = [f"encoders.{name}" for name in encoders] + [f"backbones.{name}" for name in backbones]
    given += [name for name, part in (("fusion", fusion), ("trunk", trunk)) if part is not None]
    given += [f"heads.{name}" for name in heads]
    configured = {name: section for name, section in config.encoders.items() if section is not None}
    own = {f"encoders.{name}" for name, section in configured.items() if section.kind == "own"}
    missing = sorted((own | set(config.own_parts)) - set(given))
    if missing:
        raise PerceptionError(
            f"config: {', '.join(missing)} must be given to build, as an argument; where a checkpoint is loaded, by "
            "perception.load(..., build=...)"
        )
    sections = ordered(configured | {name: EncoderConfig() for name in encoders if name not in configured})
    _check_names(sections)
    config = replace(config, encoders={**sections}, own_parts=sorted(given))
    check_config(config)
    if config.imported:
        return build_centerpoint(config)
    grid, channels = BEVGrid(**vars(config.grid)), config.fusion.channels
    built = {
        name: encoders[name] if name in encoders else _encoder(name, section, config, grid, backbones.get(name))
        for name, section in sections.items()
    }
    prior = {name: _LIDAR_PRIOR for name, section in sections.items() if isinstance(section, LidarConfig | VoxelConfig)}
    head = config.head
    fusion = build_fusion(config.fusion, grid, tuple(built), prior) if fusion is None else fusion
    trunk = Trunk(channels, list(head.trunk_channels)) if trunk is None else trunk
    if "boxes" not in heads:
        boxes = CenterHead(
            grid,
            config.task,
            head.trunk_channels[0],
            head.channels,
            head.max_detections,
            head.score_threshold,
            head.min_radius,
            head.groups,
        )
        heads = {"boxes": boxes, **heads}
    return Detector(config, built, fusion, trunk, heads, _decoder(config, grid, built, heads["boxes"]))


def _decoder(config: Config, grid: BEVGrid, encoders: Mapping[str, nn.Module], head: nn.Module) -> ObjectDecoder | None:
    section = config.decoder
    if section.kind == "none":
        return None
    if not isinstance(head, CenterHead):
        raise PerceptionError(f"decoder.kind: none was expected with a head of one's own, found {section.kind}")
    channels = config.head.trunk_channels[0]
    sources = {name: token_source(e, grid, section.width) for name, e in encoders.items() if section.sensor_tokens}
    return ObjectDecoder(
        grid,
        config.task,
        tuple(encoders),
        channels,
        section.width,
        section.heads,
        section.layers,
        section.queries,
        MapTokens(grid, channels, section.width, fine=False),
        {name: source for name, source in sources.items() if source is not None},
        memory=section.memory,
        attends=section.kind == "attention",
    )


def _check_names(sensors: Collection[str]) -> None:
    """Sensor names become part of weight names, and are joined by "+" to name sets of sensors."""
    if not sensors:
        raise PerceptionError("encoders: at least one sensor was expected, found none")
    for name in sensors:
        if not re.fullmatch(r"[A-Za-z]\w*", name) or hasattr(nn.ModuleDict, name):
            raise PerceptionError(f"encoders: '{name}': a name of letters, digits and _ was expected")


def _encoder(name: str, section: EncoderConfig, config: Config, grid: BEVGrid, backbone: nn.Module | None) -> nn.Module:
    channels, train = config.fusion.channels, config.train
    if isinstance(section, CameraConfig):
        pretrained = section.weights != "none"
        backbone = BACKBONES[section.backbone](section.weights) if backbone is None else backbone
        image = ImageEncoder(backbone, section.channels, pretrained, train.checkpointing)
        depths = (section.depth_min_m, section.depth_max_m, section.depth_bins)
        calibrated = section.depth_network == "calibrated"
        view_transform = LiftSplat(grid, section.channels, *depths, ImageEncoder.stride, channels, calibrated)
        heat = heat_head(section.channels, section.channels, len(config.task.classes)) if train.image_weight else None
        height, width = section.image_size
        return CameraEncoder(image, view_transform, (height, width), section.depth_from, heat)
    if isinstance(section, LidarConfig):
        return LidarEncoder(
            grid, section.pillar_size_m, section.point_channels, channels, section.blocks, section.fine_blocks
        )
    if isinstance(section, VoxelConfig):
        voxel_m = section.voxel_size_m, section.voxel_height_m
        return VoxelEncoder(grid, *voxel_m, section.widths, section.blocks, channels)
    if isinstance(section, RadarConfig):
        return RadarEncoder(grid, section.point_channels, channels, section.moved, section.direction)
    raise PerceptionError(f"encoders.{name}: kind {section.kind}: nothing can be built of it")
