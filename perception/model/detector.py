"""The detector: one encoder per sensor, fusion, trunk and heads. The README has a diagram of ``forward``."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from scipy.special import expit, logit
from torch import nn

from perception.batch import Batch, collate
from perception.commit import current, read_file, write_files
from perception.config import (
    CameraConfig,
    Config,
    EncoderConfig,
    LidarConfig,
    RadarConfig,
    VoxelConfig,
    check_config,
    load_config,
    ordered,
    to_yaml,
)
from perception.device import is_out_of_memory
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.health import without_dead
from perception.model.backbones import BACKBONES
from perception.model.camera import CameraEncoder, ImageEncoder
from perception.model.decoder import ObjectDecoder, Refined
from perception.model.encoder import Encoded, input_spec
from perception.model.fusion import build_fusion
from perception.model.head import CenterHead, Trunk
from perception.model.layers import heat_head
from perception.model.lidar import LidarEncoder
from perception.model.memory import Memory
from perception.model.objects import Objects
from perception.model.radar import RadarEncoder
from perception.model.registration import Registered
from perception.model.score_calibration import ScoreCalibration
from perception.model.tokens import MapTokens, token_source
from perception.model.upgrade import upgraded
from perception.model.view_transform import LiftSplat
from perception.model.voxel_encoder import VoxelEncoder
from perception.sample import Detections, Frame

log = logging.getLogger(__name__)

_SHIPPED = Path(__file__).parent.parent / "checkpoints"
_NO_MEMORY = object()  # where detect is not to remember
_LIDAR_PRIOR = -4.0  # low: when LiDAR disagrees with another sensor, LiDAR is moved; its sharp maps reveal the error


@dataclass
class Prediction:
    """Outputs of the heads, and intermediate results for training and inspection.

    outputs: by head name, such as the CenterMaps of "boxes".
    depth: depth logits [B, N, D, h, w] by sensor, for encoders that predict depth.
    image_heat: logits [B, N, K, h, w] by sensor, in training, for encoders that find objects in images.
    registered: how the sensors were aligned, see :class:`perception.model.fusion.Fused`.
    calibration: [B, 2] slope and offset of the score logits, for the set of sensors of each sample.
    refined: the objects after each layer of the decoder; none without one.
    """

    outputs: dict[str, Any]
    depth: dict[str, torch.Tensor]
    registered: Registered | None
    calibration: torch.Tensor
    image_heat: dict[str, torch.Tensor] = field(default_factory=dict)
    refined: list[Refined] = field(default_factory=list)


class Detector(nn.Module):
    """Batch -> Prediction; or, with :meth:`detect`, Frame -> Detections.

    Args:
        encoders: by sensor name, see ``model.encoder``. The keys define the sensors and their order on every axis S.
        fusion: see ``model.fusion``.  trunk: fused features -> features of the same cells for the heads.
        heads: by name, see ``model.head``; the head named "boxes" produces the detections.
        decoder: refines the boxes of that head, a CenterHead, object by object; None to take them as they are.
    """

    def __init__(
        self,
        config: Config,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        trunk: nn.Module,
        heads: Mapping[str, nn.Module],
        decoder: ObjectDecoder | None = None,
    ):
        super().__init__()
        self.config, self.task, self.grid = config, config.task, BEVGrid(**vars(config.grid))
        self.sensors = tuple(encoders)
        self.inputs = input_spec(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.fusion, self.trunk = fusion, trunk
        self.heads = nn.ModuleDict(heads)
        self.decoder = decoder
        self.calibration = ScoreCalibration(self.sensors)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs do not know it

    @property
    def remembers(self) -> bool:
        """Whether what earlier frames saw can be of use."""
        return self.decoder is not None and self.decoder.memory > 0

    def forward(self, batch: Batch, memory: Memory | None = None) -> Prediction:
        """memory: of the frames before these; in training they come with the batch."""
        if self.remembers and batch.previous is not None:
            with torch.no_grad():
                memory = self.remember(self(batch.previous), batch.previous)
        return self.predict(self.encode(batch), batch.sensor_valid, self._recalled(memory, batch))

    def remember(self, prediction: Prediction, batch: Batch) -> Memory | None:
        """What the next frames may want of these; None if the detector does not remember."""
        if self.decoder is None or not self.remembers:
            return None
        return Memory.of(prediction.refined[-1].objects, batch, self.decoder.memory)

    def _recalled(self, memory: Memory | None, batch: Batch) -> tuple[Objects, torch.Tensor] | None:
        return None if memory is None or batch.moment is None else memory.at(batch.moment)

    def encode(self, batch: Batch) -> dict[str, Encoded]:
        """Encoded features by sensor; sensors that no sample has, or whose encoder returns None, are omitted."""
        present = batch.sensor_valid.any(dim=0).tolist()
        encoded = {name: encoder(batch.inputs[name]) for (name, encoder), p in zip(self.encoders.items(), present) if p}
        return {
            name: value if isinstance(value, Encoded) else Encoded(value)
            for name, value in encoded.items()
            if value is not None
        }

    def predict(
        self,
        encoded: Mapping[str, Encoded],
        sensor_valid: torch.Tensor,
        memory: tuple[Objects, torch.Tensor] | None = None,
    ) -> Prediction:
        """Fuse the output of :meth:`encode`, run the heads and refine their objects; memory: see :meth:`Memory.at`.

        Raises:
            PerceptionError: a sample has no sensor with encoded features.
        """
        if not encoded:
            raise PerceptionError(f"at least one of {', '.join(self.sensors)} was expected, found none")
        has_features = torch.tensor([name in encoded for name in self.sensors], device=sensor_valid.device)
        sensor_valid = sensor_valid & has_features
        if not bool(sensor_valid.any(dim=1).all()):
            raise PerceptionError("some sample has no sensor of which an encoder made features")
        registered, outputs, refined = self.understand(encoded, sensor_valid, memory)
        depth = {name: value.depth for name, value in encoded.items() if value.depth is not None}
        heat = {name: value.image_heat for name, value in encoded.items() if value.image_heat is not None}
        return Prediction(outputs, depth, registered, self.calibration(sensor_valid), heat, refined)

    def understand(
        self,
        encoded: Mapping[str, Encoded],
        sensor_valid: torch.Tensor,
        memory: tuple[Objects, torch.Tensor] | None = None,
    ) -> tuple[Registered | None, dict[str, Any], list[Refined]]:
        """:meth:`predict` without its checks, so that it is one graph of tensors (``model.graph``).

        Returns:
            How the sensors were aligned, the output of every head, and the objects after each layer of the decoder.
        """
        fused = self.fusion({name: value.bev for name, value in encoded.items()}, sensor_valid)
        features = self.trunk(fused.features)
        outputs = {name: head(features) for name, head in self.heads.items()}
        refined = []
        if self.decoder is not None:
            motion = None if fused.registered is None else fused.registered.motion
            refined = self.decoder(outputs["boxes"], features, encoded, sensor_valid, motion, memory)
        return fused.registered, outputs, refined

    def _alive(self, frame: Frame) -> Frame:
        return without_dead(frame.only(self.sensors)) if isinstance(frame, Frame) else frame

    def prepare(self, frames: list[Frame]) -> Batch:
        """Frames -> Batch on the detector's device. Dead sensors are kept; :meth:`detect` and HealthMonitor drop them.

        Raises:
            PerceptionError: a frame has none of the detector's sensors.
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
        if self.decoder is None:
            found = head.decode(prediction.outputs["boxes"])
        else:
            found = self.decoder.decode(prediction.refined, head.max_detections, head.score_threshold)
        # Scores are calibrated after boxes are selected, so that the selection does not depend on the calibration.
        return [
            replace(detections, scores=expit(slope * logit(detections.scores) + offset))
            for detections, (slope, offset) in zip(found, prediction.calibration.tolist())
        ]

    @torch.inference_mode()
    def detect_batch(self, frames: list[Frame]) -> list[Detections]:
        """Detections for several frames at once, each in its own ego frame.

        Dead sensors (``perception.health.without_dead``) are treated as absent.

        Raises:
            PerceptionError: not a list of frames, a frame without any of the detector's sensors, or an output that is
                not finite.
        """
        if not isinstance(frames, list | tuple):
            raise PerceptionError(f"detect_batch: a list of frames was expected, found {type(frames).__name__}")
        return self.decode(self(self.prepare([self._alive(frame) for frame in frames])))

    @overload
    def detect(self, frame: Frame) -> Detections: ...

    @overload
    def detect(self, frame: Frame, memory: Memory | None) -> tuple[Detections, Memory | None]: ...

    @torch.inference_mode()
    def detect(self, frame, memory=_NO_MEMORY):
        """Detections for one frame, in its ego frame, highest score first.

        With ``memory``, what the frame before has returned or None for the first one of a drive, returns a tuple of the
        detections and of the memory for the next one. Nothing is kept in the detector.
        """
        if memory is _NO_MEMORY:
            return self.detect_batch([frame])[0]
        batch = self.prepare([self._alive(frame)])
        prediction = self(batch, memory)
        return self.decode(prediction)[0], self.remember(prediction, batch)

    def save(self, folder: str | Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write :meth:`files` to a folder, both or none."""
        write_files(Path(folder), self.files(state))

    def files(self, state: dict[str, torch.Tensor] | None = None) -> dict[str, bytes]:
        """``model.safetensors`` and ``config.yaml``; ``state``, such as EMA weights, replaces the detector's."""
        state = self.state_dict() if state is None else state
        weights = save({name: tensor.contiguous() for name, tensor in state.items()})
        return {"model.safetensors": weights, "config.yaml": to_yaml(self.config).encode()}


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


def find_checkpoint(name: str | Path) -> Path:
    """The folder of a checkpoint, given as a path or as the name of a shipped checkpoint.

    Raises:
        PerceptionError: no such checkpoint; the message lists the shipped names.
    """
    if not isinstance(name, str | os.PathLike):
        raise PerceptionError(f"checkpoint: a path or a name was expected, found {type(name).__name__}")
    for folder in (Path(name), _SHIPPED / name):
        if all(current(folder / name).is_file() for name in ("model.safetensors", "config.yaml")):
            return folder
    shipped = ", ".join(sorted(path.name for path in _SHIPPED.glob("*") if path.is_dir())) or "none"
    raise PerceptionError(
        f"checkpoint '{name}': a folder with model.safetensors and config.yaml, or a shipped name ({shipped}), "
        "was expected"
    )


def is_shipped(folder: Path) -> bool:
    """Whether a folder is that of a shipped checkpoint."""
    return folder.resolve().parent == _SHIPPED.resolve()


def warn_of_simulation(name: str | Path, source: str) -> None:
    """Warn that a shipped checkpoint, trained on simulated drives only, is being run on recorded data."""
    if is_shipped(find_checkpoint(name)):
        log.warning(
            "%s: checkpoint '%s' was trained on simulated drives only; on recorded ones its mAP is about 0.03 "
            "(docs/model-card.md)", source, name,
        )  # fmt: skip


def load(name: str | Path, device: str | torch.device = "cpu", build: Callable[[Config], Detector] = build) -> Detector:
    """Load a trained detector in evaluation mode.

    Args:
        name: a folder written by training, or the name of a shipped checkpoint: ``perception.load("sim")``.
        build: builds the detector from the checkpoint's config; pass your own for a detector with custom parts.

    Raises:
        PerceptionError: no such checkpoint, or weights that do not fit their config.
    """
    folder = find_checkpoint(name)
    config = _saved_config(folder)
    # The checkpoint includes the backbone weights, so pretrained ones are not needed.
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
    try:
        return detector.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch's, for what is no device, or one that is not there
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise PerceptionError(f"device: one of torch's devices was expected, found {device!r}: {reason}") from None


def _saved_config(folder: Path) -> Config:
    path = folder / "config.yaml"
    if not _read(path).strip():
        raise PerceptionError(f"{path}: the config of the weights was expected, found an empty file")
    return load_config(current(path))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint folder, with weight names of older versions mapped to the current ones.

    Raises:
        PerceptionError: the file cannot be read, or has a weight that is not finite.
    """
    path = folder / "model.safetensors"
    try:
        weights = upgraded(load_tensors(_read(path)))
    except SafetensorError as error:
        raise PerceptionError(f"{path}: weights were expected: {' '.join(str(error).split())[:300]}") from None
    for name, values in weights.items():
        broken = int((~values.isfinite()).sum())
        if broken:
            raise PerceptionError(f"{path}: {name}: finite weights were expected, found {broken} NaN or infinite")
    return weights


def weights_sha256(name: str | Path) -> str:
    """Digest of a checkpoint's weights file, stored with results to identify the weights that produced them."""
    return hashlib.sha256(_read(find_checkpoint(name) / "model.safetensors")).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise PerceptionError(f"{path}: cannot be read: {error.strerror}") from None
