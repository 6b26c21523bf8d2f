"""The detector: encoders of the sensors present, fusion, heads. ``forward`` is the picture in the README."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from scipy.special import expit, logit
from torch import nn

from perception.batch import Batch, collate
from perception.config import (
    CameraConfig,
    Config,
    EncoderConfig,
    LidarConfig,
    RadarConfig,
    load_config,
    ordered,
    save_config,
)
from perception.errors import PerceptionError
from perception.files import write_file
from perception.grid import BEVGrid
from perception.health import without_dead
from perception.model.camera import BACKBONES, CameraEncoder, ImageEncoder
from perception.model.encoder import Encoded, input_spec
from perception.model.fusion import build_fusion
from perception.model.head import CenterHead, Trunk
from perception.model.lidar import LidarEncoder
from perception.model.radar import RadarEncoder
from perception.model.registration import Registered
from perception.model.score_calibration import ScoreCalibration
from perception.model.upgrade import upgraded
from perception.model.view_transform import LiftSplat
from perception.sample import Detections, Frame

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent.parent / "checkpoints"
_LIDAR_PRIOR = -4.0  # where LiDAR disagrees with another sensor it is moved: its maps are sharp, so that it is seen


@dataclass
class Prediction:
    """What the heads say, and what the parts before them said on the way, for training and for looking at.

    outputs: by name of the head, such as the CenterMaps of "boxes".
    depth: logits [B, N, D, h, w] by sensor, of those whose encoder predicts depth.
    registered: how the sensors were aligned, see :class:`perception.model.fusion.Fused`.
    calibration: [B, 2] slope and offset of the logits of scores, for the sensors that each sample had.
    """

    outputs: dict[str, Any]
    depth: dict[str, torch.Tensor]
    registered: Registered | None
    calibration: torch.Tensor


class Detector(nn.Module):
    """Batch -> Prediction; or, with :meth:`detect`, Frame -> Detections.

    Args:
        encoders: by sensor, see ``model.encoder``. Their keys are the sensors, in the order of every axis S.
        fusion: see ``model.fusion``.  trunk: fused features -> features of the same cells for the heads.
        heads: by name, see ``model.head``; the one called "boxes" detects.
    """

    def __init__(
        self,
        config: Config,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        trunk: nn.Module,
        heads: Mapping[str, nn.Module],
    ):
        super().__init__()
        self.config, self.task, self.grid = config, config.task, BEVGrid(**vars(config.grid))
        self.sensors = tuple(encoders)
        self.inputs = input_spec(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.fusion, self.trunk = fusion, trunk
        self.heads = nn.ModuleDict(heads)
        self.calibration = ScoreCalibration(self.sensors)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs do not know it

    def forward(self, batch: Batch) -> Prediction:
        return self.predict(self.encode(batch), batch.sensor_valid)

    def encode(self, batch: Batch) -> dict[str, Encoded]:
        """By sensor, of those that some sample has and whose encoder has something to say."""
        present = batch.sensor_valid.any(dim=0).tolist()
        encoded = {name: encoder(batch.inputs[name]) for (name, encoder), p in zip(self.encoders.items(), present) if p}
        return {
            name: value if isinstance(value, Encoded) else Encoded(value)
            for name, value in encoded.items()
            if value is not None
        }

    def predict(self, encoded: Mapping[str, Encoded], sensor_valid: torch.Tensor) -> Prediction:
        """From what :meth:`encode` gave to the heads' outputs.

        Raises:
            PerceptionError: no encoder had anything to say.
        """
        if not encoded:
            raise PerceptionError(f"at least one of {', '.join(self.sensors)} was expected, found none")
        has_features = torch.tensor([name in encoded for name in self.sensors], device=sensor_valid.device)
        sensor_valid = sensor_valid & has_features
        if not bool(sensor_valid.any(dim=1).all()):
            raise PerceptionError("some sample has no sensor of which an encoder made features")
        fused = self.fusion({name: value.bev for name, value in encoded.items()}, sensor_valid)
        features = self.trunk(fused.features)
        outputs = {name: head(features) for name, head in self.heads.items()}
        depth = {name: value.depth for name, value in encoded.items() if value.depth is not None}
        return Prediction(outputs, depth, fused.registered, self.calibration(sensor_valid))

    def _alive(self, frame: Frame) -> Frame:
        return without_dead(frame.only(self.sensors)) if isinstance(frame, Frame) else frame

    def prepare(self, frames: list[Frame]) -> Batch:
        """Frames -> Batch on the detector's device. Dead sensors are for :meth:`detect`, or a HealthMonitor, to find.

        Raises:
            PerceptionError: a frame without any sensor, of which nothing can be said.
        """
        for frame in frames:
            if not isinstance(frame, Frame):
                raise PerceptionError(f"detect: a Frame was expected, found {type(frame).__name__}")
            if not set(frame.sensors) & set(self.sensors):
                raise PerceptionError(
                    f"frame {frame.token}: at least one of {', '.join(self.sensors)} was expected, found none"
                )
        return collate(frames, self.inputs).to(next(self.parameters()).device)

    def decode(self, prediction: Prediction) -> list[Detections]:
        head: Any = self.heads["boxes"]
        found = head.decode(prediction.outputs["boxes"])
        # After the boxes are chosen: which ones they are does not depend on the calibration.
        return [
            replace(detections, scores=expit(slope * logit(detections.scores) + offset))
            for detections, (slope, offset) in zip(found, prediction.calibration.tolist())
        ]

    @torch.inference_mode()
    def detect_batch(self, frames: list[Frame]) -> list[Detections]:
        """Detections of several frames at once, in the ego frame of each.

        Sensors that are plainly dead (``perception.health``) count as absent.
        """
        return self.decode(self(self.prepare([self._alive(frame) for frame in frames])))

    def detect(self, frame: Frame) -> Detections:
        """Detections of one frame, in its ego frame, highest score first."""
        return self.detect_batch([frame])[0]

    def save(self, folder: str | Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write ``model.safetensors`` and ``config.yaml``; ``state`` (an average) replaces the detector's weights."""
        folder = Path(folder)
        state = self.state_dict() if state is None else state
        write_file(folder / "model.safetensors", save({name: tensor.contiguous() for name, tensor in state.items()}))
        save_config(self.config, folder / "config.yaml")


def build(
    config: Config,
    *,
    encoders: Mapping[str, nn.Module] | None = None,
    backbones: Mapping[str, nn.Module] | None = None,
    fusion: nn.Module | None = None,
    trunk: nn.Module | None = None,
    heads: Mapping[str, nn.Module] | None = None,
) -> Detector:
    """The detector that a config describes; parts of one's own replace what would be built, or add to it.

    Args:
        encoders: by sensor; one of a sensor that the config does not have adds it.
        backbones: image backbones by sensor, see :class:`perception.model.camera.ImageEncoder`.
        fusion, trunk: see :class:`Detector`.
        heads: by name; "boxes" replaces the one that detects.

    The config of the detector names these parts as ``own_parts``, so that a checkpoint says what it needs to be loaded.

    Raises:
        PerceptionError: values that do not fit together, named by their keys; or a config with own parts that are not
            given.
    """
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
    grid, channels = BEVGrid(**vars(config.grid)), config.fusion.channels
    built = {
        name: encoders[name] if name in encoders else _encoder(name, section, grid, channels, backbones.get(name))
        for name, section in sections.items()
    }
    prior = {name: _LIDAR_PRIOR for name, section in sections.items() if isinstance(section, LidarConfig)}
    head = config.head
    fusion = build_fusion(config.fusion, grid, tuple(built), prior) if fusion is None else fusion
    trunk = Trunk(channels, list(head.trunk_channels)) if trunk is None else trunk
    if "boxes" not in heads:
        boxes = CenterHead(
            grid, config.task, head.trunk_channels[0], head.channels, head.max_detections, head.score_threshold
        )
        heads = {"boxes": boxes, **heads}
    return Detector(config, built, fusion, trunk, heads)


def _check_names(sensors: Collection[str]) -> None:
    """Names of sensors are parts of names of weights, and "+" joins them to names of sets."""
    if not sensors:
        raise PerceptionError("encoders: at least one sensor was expected, found none")
    for name in sensors:
        if not re.fullmatch(r"[A-Za-z]\w*", name) or hasattr(nn.ModuleDict, name):
            raise PerceptionError(f"encoders: '{name}': a name of letters, digits and _ was expected")


def _encoder(name: str, section: EncoderConfig, grid: BEVGrid, channels: int, backbone: nn.Module | None) -> nn.Module:
    if isinstance(section, CameraConfig):
        pretrained = section.weights != "none"
        backbone = BACKBONES[section.backbone](section.weights) if backbone is None else backbone
        image = ImageEncoder(backbone, section.channels, pretrained)
        depths = (section.depth_min_m, section.depth_max_m, section.depth_bins)
        view_transform = LiftSplat(grid, section.channels, *depths, ImageEncoder.stride, channels)
        return CameraEncoder(image, view_transform, (section.image_size[0], section.image_size[1]), section.depth_from)
    if isinstance(section, LidarConfig):
        return LidarEncoder(grid, section.pillar_size_m, section.point_channels, channels)
    if isinstance(section, RadarConfig):
        return RadarEncoder(grid, section.point_channels, channels)
    raise PerceptionError(f"encoders.{name}: kind {section.kind}: nothing can be built of it")


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint, given itself or the name of a shipped one.

    Raises:
        PerceptionError: neither; the message lists the shipped names.
    """
    for folder in (Path(name), SHIPPED / name):
        if (folder / "model.safetensors").is_file() and (folder / "config.yaml").is_file():
            return folder
    shipped = ", ".join(sorted(path.name for path in SHIPPED.glob("*") if path.is_dir())) or "none"
    raise PerceptionError(
        f"checkpoint '{name}': a folder with model.safetensors and config.yaml, or a shipped name ({shipped}), "
        "was expected"
    )


def warn_of_simulation(name: str | Path, source: str) -> None:
    """Say in one line that a shipped checkpoint, which has seen simulated drives only, is given recorded data."""
    if find_checkpoint(name).parent == SHIPPED:
        log.warning(
            "%s: checkpoint '%s' was trained on simulated drives only; on recorded ones its mAP is about 0.03 "
            "(docs/model-card.md)", source, name,
        )  # fmt: skip


def load(name: str | Path, device: str | torch.device = "cpu", build: Callable[[Config], Detector] = build) -> Detector:
    """A trained detector, ready to detect.

    Args:
        name: a folder written by training, or the name of a shipped checkpoint: ``perception.load("sim")``.
        build: makes the detector of the checkpoint's config; one's own where it has own parts.

    Raises:
        PerceptionError: no such checkpoint, or weights that do not fit their config.
    """
    folder = find_checkpoint(name)
    config = load_config(folder / "config.yaml")
    # The checkpoint holds the backbones as well.
    cameras = {n: replace(e, weights="none") for n, e in config.encoders.items() if isinstance(e, CameraConfig)}
    detector = build(replace(config, encoders=config.encoders | cameras))
    if not isinstance(detector, Detector):
        raise PerceptionError(f"build: a Detector was expected, found {type(detector).__name__}")
    detector.config = replace(detector.config, encoders=detector.config.encoders | config.encoders)
    try:
        detector.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise PerceptionError(
            f"{folder / 'model.safetensors'}: does not fit its config.yaml: {' '.join(str(error).split())[:300]}"
        ) from None
    return detector.to(device).eval()


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint's folder, of whatever version, under today's names.

    Raises:
        PerceptionError: it cannot be read.
    """
    try:
        return upgraded(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PerceptionError(f"{folder / 'model.safetensors'}: weights were expected: {reason}") from None


def weights_sha256(name: str | Path) -> str:
    """Digest of a checkpoint's weights file, by which results say which weights made them."""
    return hashlib.sha256((find_checkpoint(name) / "model.safetensors").read_bytes()).hexdigest()
