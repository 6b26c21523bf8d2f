"""The detector: encoders of the sensors present, fusion, head. ``forward`` is the picture in the README."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from scipy.special import expit, logit
from torch import nn

from perception.batch import Batch, collate
from perception.config import Config, load_config, save_config
from perception.errors import PerceptionError
from perception.files import write_file
from perception.grid import BEVGrid
from perception.health import without_dead
from perception.model.camera import CameraEncoder, EfficientNetLite0, ResNet50
from perception.model.fusion import build_fusion
from perception.model.head import CenterHead, Maps, Trunk, decode
from perception.model.lidar import LidarEncoder
from perception.model.radar import RadarEncoder
from perception.model.registration import Registered
from perception.model.view_transform import LiftSplat
from perception.sample import SENSORS, Detections, Frame

SHIPPED = Path(__file__).parent.parent / "checkpoints"


@dataclass
class Prediction:
    """What the head says, and what the parts before it said on the way, for training and for looking at.

    depth: logits [B, N, D, h, w] of the view transform, None without cameras.
    registered: how the sensors were brought into line, see :class:`perception.model.fusion.Fused`.
    calibration: [B, 2] slope and offset of the logits of scores, for the sensors that each sample had.
    """

    maps: Maps
    depth: torch.Tensor | None
    registered: Registered | None
    calibration: torch.Tensor


class Detector(nn.Module):
    """Batch -> Prediction; or, with :meth:`detect`, Frame -> Detections."""

    def __init__(
        self,
        config: Config,
        grid: BEVGrid,
        camera: CameraEncoder,
        view_transform: LiftSplat,
        radar: RadarEncoder,
        lidar: LidarEncoder,
        fusion: nn.Module,
        trunk: Trunk,
        head: CenterHead,
    ):
        super().__init__()
        self.config, self.grid = config, grid
        self.camera, self.view_transform, self.radar, self.lidar = camera, view_transform, radar, lidar
        self.fusion, self.trunk, self.head = fusion, trunk, head
        # Slope (inverse temperature) and offset of the logits of scores for each set of sensors, so that a score means
        # the same whatever sensors there are; see ``perception.eval.calibration``.
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]]).repeat(2 ** len(SENSORS), 1))
        self.to(memory_format=torch.channels_last)

    def forward(self, batch: Batch) -> Prediction:
        features, depth = self.encode(batch)
        return self.predict(features, batch.sensor_valid, depth)

    def encode(self, batch: Batch) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
        """BEV features [B, C, rows, columns] of each of SENSORS, None where no sample has it; and depth logits."""
        has_camera, has_radar, has_lidar = batch.sensor_valid.any(dim=0).tolist()
        camera, depth = self._see(batch) if has_camera else (None, None)
        radar = self.radar(batch.radar, len(batch)) if has_radar else None
        lidar = self.lidar(batch.lidar, len(batch)) if has_lidar else None
        return [camera, radar, lidar], depth

    def predict(
        self, features: list[torch.Tensor | None], sensor_valid: torch.Tensor, depth: torch.Tensor | None = None
    ) -> Prediction:
        """From what :meth:`encode` gave to the head's maps."""
        fused = self.fusion(features, sensor_valid)
        maps = self.head(self.trunk(fused.features))
        return Prediction(maps, depth, fused.registered, self.calibration[subset_index(sensor_valid)])

    def _see(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images = batch.images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features = self.camera(images).unflatten(0, batch.images.shape[:2])
        return self.view_transform(features, batch.intrinsics, batch.ego_SE3_camera, batch.camera_valid)

    def prepare(self, frames: list[Frame]) -> Batch:
        """Frames -> Batch on the detector's device, without sensors that are plainly dead (``perception.health``).

        Raises:
            PerceptionError: a frame without any sensor, of which nothing can be said.
        """
        for frame in frames:
            if not frame.sensors:
                raise PerceptionError(
                    f"frame {frame.token}: at least one of {', '.join(SENSORS)} was expected, found none"
                )
        frames = [without_dead(frame) for frame in frames]
        return collate(frames, tuple(self.config.camera.image_size)).to(next(self.parameters()).device)

    def decode(self, prediction: Prediction) -> list[Detections]:
        maps, head = prediction.maps, self.config.head
        maps = Maps(maps.heat.sigmoid(), maps.box, maps.attribute)
        found = decode(maps, self.grid, head.max_detections, head.score_threshold)
        # After the boxes are chosen: which ones they are does not depend on the calibration.
        return [
            replace(detections, scores=expit(slope * logit(detections.scores) + offset))
            for detections, (slope, offset) in zip(found, prediction.calibration.tolist())
        ]

    @torch.inference_mode()
    def detect_batch(self, frames: list[Frame]) -> list[Detections]:
        """Detections of several frames at once, in the ego frame of each."""
        return self.decode(self(self.prepare(frames)))

    def detect(self, frame: Frame) -> Detections:
        """Detections of one frame, in its ego frame, highest score first."""
        return self.detect_batch([frame])[0]

    def save(self, folder: str | Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write ``model.safetensors`` and ``config.yaml``; ``state`` (an average) replaces the detector's weights."""
        folder = Path(folder)
        state = self.state_dict() if state is None else state
        write_file(folder / "model.safetensors", save({name: tensor.contiguous() for name, tensor in state.items()}))
        save_config(self.config, folder / "config.yaml")


def subset_index(sensor_valid: torch.Tensor) -> torch.Tensor:
    """[B, 3] -> [B]: the number whose binary digits are the sensors, the first of SENSORS lowest."""
    return (sensor_valid * 2 ** torch.arange(len(SENSORS), device=sensor_valid.device)).sum(dim=1)


def build(config: Config) -> Detector:
    """The detector a config describes; the only place that reads the model's part of it.

    Raises:
        PerceptionError: values that do not fit together, named by their keys.
    """
    grid = BEVGrid(**vars(config.grid))
    view = config.camera
    channels = config.fusion.channels
    backbone = {"efficientnet_lite0": EfficientNetLite0, "resnet50": ResNet50}[view.backbone](view.weights)
    return Detector(
        config,
        grid,
        CameraEncoder(backbone, view.channels, pretrained=view.weights != "none"),
        LiftSplat(
            grid, view.channels, view.depth_min_m, view.depth_max_m, view.depth_bins, CameraEncoder.stride, channels
        ),
        RadarEncoder(grid, config.radar.point_channels, channels),
        LidarEncoder(grid, config.lidar.pillar_size_m, config.lidar.point_channels, channels),
        build_fusion(config.fusion, grid),
        Trunk(channels, list(config.head.trunk_channels)),
        CenterHead(config.head.trunk_channels[0], config.head.channels),
    )


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


def load(name: str | Path, device: str | torch.device = "cpu") -> Detector:
    """A trained detector, ready to detect.

    Args:
        name: a folder written by training, or the name of a shipped checkpoint: ``perception.load("sim")``.

    Raises:
        PerceptionError: no such checkpoint, or weights that do not fit their config.
    """
    folder = find_checkpoint(name)
    config = load_config(folder / "config.yaml")
    weights, config.camera.weights = config.camera.weights, "none"  # the checkpoint holds the backbone as well
    detector = build(config)
    config.camera.weights = weights
    try:
        detector.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise PerceptionError(
            f"{folder / 'model.safetensors'}: does not fit its config.yaml: {' '.join(str(error).split())[:300]}"
        ) from None
    return detector.to(device).eval()


def weights_sha256(name: str | Path) -> str:
    """Digest of a checkpoint's weights file, by which results say which weights made them."""
    return hashlib.sha256((find_checkpoint(name) / "model.safetensors").read_bytes()).hexdigest()
