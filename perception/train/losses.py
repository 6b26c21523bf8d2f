"""The training loss: losses of the heads, depth cross-entropy, objects in images and registration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from perception.batch import Batch, ImageBatch
from perception.config import TrainConfig
from perception.errors import PerceptionError
from perception.model.detector import Detector, Prediction
from perception.model.head import BOX_CHANNELS, CenterHead, CenterMaps
from perception.model.registration import registration_loss
from perception.train.depth_loss import DepthLoss, agree
from perception.train.image_loss import image_heat_target
from perception.train.object_losses import ObjectLoss
from perception.train.targets import CenterEncoder

_BOX_WEIGHTS = {"offset": 1.0, "z": 0.5, "log_size": 1.0, "heading": 0.5, "axis": 1.0, "velocity": 2.0}
_BOX_WEIGHT, _ATTRIBUTE_WEIGHT = 0.5, 0.2


class DetectionLoss(nn.Module):
    """``loss(prediction, batch)`` -> {"total", "heat", "box", "attribute", "depth", "image", "registration"}, scalars.

    Beside them are those of the object decoder (``train.object_losses``), if there is one. A head with a method
    ``losses(output, batch)`` adds its terms as ``<head>/<name>``; those of CenterHead are here.

    targets: what makes the targets of a head from boxes, by its name; loader workers can do so (``TrainingData``).
    """

    def __init__(self, detector: Detector, config: TrainConfig):
        super().__init__()
        self.heads = {name: _losses_of(name, head) for name, head in detector.heads.items()}
        self.targets = {name: loss.encode for name, loss in self.heads.items() if isinstance(loss, CenterLoss)}
        self.depth = DepthLoss(detector.encoders, detector.inputs.depth_from)
        self.objects = None if detector.decoder is None else ObjectLoss(detector.grid)
        self.depth_weight, self.registration_weight = config.depth_weight, config.registration_weight
        self.image_weight = config.image_weight

    def forward(self, prediction: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
        terms: dict[str, torch.Tensor] = {}
        for head, loss in self.heads.items():
            found = loss(prediction.outputs[head], batch)
            terms |= {name if head == "boxes" else f"{head}/{name}": value for name, value in found.items()}
        if self.objects is not None:
            terms |= self.objects(prediction.refined, batch)
        if (depth := self.depth(prediction.depth, batch)) is not None:
            terms["depth"] = self.depth_weight * depth
        for sensor, logits in prediction.image_heat.items():
            terms["image"] = terms.get("image", 0) + self._image(sensor, logits, batch)
        if prediction.registered is not None and batch.displacement is not None:
            terms["registration"] = self.registration_weight * registration_loss(
                prediction.registered, batch.displacement, batch.sensor_valid
            )
        first, *others = terms.values()
        terms["total"] = sum(others, start=first)
        return terms

    def _image(self, sensor: str, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        images = batch.inputs[sensor]
        if not isinstance(images, ImageBatch) or batch.boxes is None:
            raise PerceptionError(f"objects in images of {sensor}: images and annotated frames were expected")
        target = image_heat_target(batch.boxes, images, *logits.shape[2:])
        used = images.valid & agree(batch, sensor).to(images.valid.device)[:, None]
        heat = focal_loss(logits[used].float(), target[used])
        return self.image_weight * heat / (target[used] == 1).sum().clamp(min=1)


def _losses_of(name: str, head: nn.Module) -> Callable[[Any, Batch], dict[str, torch.Tensor]]:
    losses: Any = getattr(head, "losses", None)
    if losses is not None:
        return losses
    if isinstance(head, CenterHead):
        return CenterLoss(name, head)
    raise PerceptionError(f"heads.{name}: a method losses(output, batch) was expected to train it, found none")


class CenterLoss:
    """``loss(maps, batch)`` -> {"heat", "box", "attribute"} of a CenterHead; the batch may have its targets."""

    def __init__(self, name: str, head: CenterHead):
        self.name, self.encode = name, CenterEncoder.of(head)
        self.box_weight = torch.tensor(
            [_BOX_WEIGHTS[name] for name, width in BOX_CHANNELS.items() for _ in range(width)]
        )

    def __call__(self, maps: CenterMaps, batch: Batch) -> dict[str, torch.Tensor]:
        if batch.boxes is None:
            raise PerceptionError(
                f"training wants annotated frames; at least one of {', '.join(batch.tokens)} has no boxes"
            )
        device, groups = maps.heat_logits.device, len(self.encode.groups)
        samples, _, *cells = maps.heat_logits.shape
        target = batch.targets.get(self.name) or self.encode(batch.boxes).to(device)

        where = torch.unravel_index(target.cell, (samples, groups, *cells))

        def at_cells(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(1, (groups, values.shape[1] // groups)).permute(0, 1, 3, 4, 2)[where]

        positives = max(len(target.cell), 1)
        known = target.box.isfinite()
        error = (at_cells(maps.box) - target.box.nan_to_num()).abs() * known * self.box_weight.to(device)
        cross_entropy = -(target.attribute * at_cells(maps.attribute_logits).log_softmax(dim=1)).sum()
        return {
            "heat": focal_loss(maps.heat_logits, target.heat) / (target.heat == 1).sum().clamp(min=1),
            "box": _BOX_WEIGHT * error.sum() / positives,
            "attribute": _ATTRIBUTE_WEIGHT * cross_entropy / positives,
        }


def focal_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Penalty-reduced focal loss, summed (CornerNet, Law & Deng, 2018): alpha 2, beta 4."""
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    p = log_p.exp()
    positive = target == 1
    loss = torch.where(positive, -log_p * (1 - p) ** 2, -log_not_p * p**2 * (1 - target) ** 4)
    return loss.sum()
