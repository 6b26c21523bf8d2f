"""The detector: one encoder per sensor, fusion, trunk and heads. The README has a diagram of ``forward``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import torch
from safetensors.torch import save
from scipy.special import expit, logit
from torch import nn

from perception.batch import Batch, collate
from perception.commit import write_files
from perception.config import Config, to_yaml
from perception.device import has_bfloat16
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.health import without_dead
from perception.model.decoder import ObjectDecoder, Refined
from perception.model.encoder import Encoded, input_spec
from perception.model.memory import Memory
from perception.model.objects import Objects
from perception.model.registration import Registered
from perception.model.score_calibration import ScoreCalibration
from perception.sample import Detections, Frame

_NO_MEMORY = object()  # where detect is not to remember


def inference_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on GPUs that compute in it. On a CPU that does, conversions cost what convolutions gain."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and has_bfloat16(device))


@dataclass
class Prediction:
    """Outputs of the heads, and intermediate results for training and inspection.

    outputs: by head name, such as the CenterMaps of "boxes".
    depth: depth logits [B, N, D, h, w] by sensor, for encoders that predict depth.
    image_heat: logits [B, N, K, h, w] by sensor, in training, for encoders that find objects in images.
    registered: how the sensors were aligned, see :class:`perception.model.fusion.Fused`.
    sensor_valid: bool [B, S], of which sensors there were features.
    refined: the objects after each layer of the decoder; none without one.
    """

    outputs: dict[str, Any]
    depth: dict[str, torch.Tensor]
    registered: Registered | None
    sensor_valid: torch.Tensor
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
            PerceptionError: no sensor with encoded features.
        """
        if not encoded:
            raise PerceptionError(f"at least one of {', '.join(self.sensors)} was expected, found none")
        present = [name in encoded for name in self.sensors]
        sensor_valid = torch.stack([valid & has for valid, has in zip(sensor_valid.unbind(dim=1), present)], dim=1)
        registered, outputs, refined = self.understand(encoded, sensor_valid, memory)
        depth = {name: value.depth for name, value in encoded.items() if value.depth is not None}
        heat = {name: value.image_heat for name, value in encoded.items() if value.image_heat is not None}
        return Prediction(outputs, depth, registered, sensor_valid, heat, refined)

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
        """Detections of each sample, highest score first.

        Raises:
            PerceptionError: a sample of whose sensors no encoder made features, or an output that is not finite.
        """
        if not prediction.sensor_valid.any(dim=1).all():
            raise PerceptionError("some sample has no sensor of which an encoder made features")
        head: Any = self.heads["boxes"]
        if self.decoder is None:
            found = head.decode(prediction.outputs["boxes"])
        else:
            found = self.decoder.decode(prediction.refined, head.max_detections, head.score_threshold)
        # Scores are calibrated after boxes are selected, so that the selection does not depend on the calibration.
        return [
            replace(detections, scores=expit(slope * logit(detections.scores) + offset))
            for detections, (slope, offset) in zip(found, self.calibration(prediction.sensor_valid).tolist())
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
        batch = self.prepare([self._alive(frame) for frame in frames])
        with inference_precision(batch.sensor_valid.device):
            prediction = self(batch)
        return self.decode(prediction)

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
        with inference_precision(batch.sensor_valid.device):
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
