"""From encoded features to objects as one graph of tensors, for ``torch.export`` and ONNX.

A set of sensors is a mask: what an absent sensor would have shown is any finite numbers. Boxes are what
:meth:`perception.model.decoder.ObjectDecoder.decode` makes of the objects.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from perception.batch import PaddedPoints
from perception.model.detector import Detector
from perception.model.encoder import Encoded, Views
from perception.model.objects import Objects


class ObjectGraph(nn.Module):
    """``graph(encoded, sensor_valid, memory, elapsed_s)`` -> the fields of :class:`Objects`, by name.

    encoded: by sensor the tensors of ``Encoded`` and of what it holds: "bev" or, of a camera, the "pooled" features
        [B, C, rows, columns] of which its view transform makes that; "fine", "features.0" and so on,
        "intrinsics", "ego_SE3_camera", "camera_valid", "points" padded to a fixed number of them, "point_valid".
    memory, elapsed_s: the fields of the objects of :meth:`Memory.at`, by name; empty for a decoder without a memory.
    """

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(
        self,
        encoded: dict[str, dict[str, torch.Tensor]],
        sensor_valid: torch.Tensor,
        memory: dict[str, torch.Tensor],
        elapsed_s: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        seen = {name: self._encoded(name, parts) for name, parts in encoded.items()}
        remembered = (Objects(**memory), elapsed_s) if memory else None
        *_, refined = self.detector.understand(seen, sensor_valid, remembered)
        return dict(vars(refined[-1].objects))

    def _encoded(self, name: str, parts: dict[str, torch.Tensor]) -> Encoded:
        views = returns = None
        if "intrinsics" in parts:
            levels = tuple(value for key, value in parts.items() if key.startswith("features."))
            size = self.detector.inputs.image_size[name]
            pose = parts["intrinsics"], parts["ego_SE3_camera"]
            views = Views(levels, *pose, (size[0], size[1]), parts["camera_valid"])
        if "points" in parts:
            returns = PaddedPoints(parts["points"], parts["point_valid"])
        bev: Any = self.detector.encoders[name]
        bev = bev.view_transform.refine(parts["pooled"]) if "pooled" in parts else parts["bev"]
        return Encoded(bev, fine=parts.get("fine"), views=views, returns=returns)


def graph_inputs(encoded: dict[str, Encoded]) -> dict[str, dict[str, torch.Tensor]]:
    """The first input of an :class:`ObjectGraph`, from what the encoders return."""
    found = {}
    for name, value in encoded.items():
        parts = {"bev": value.bev}
        if value.fine is not None:
            parts["fine"] = value.fine
        if value.views is not None:
            parts |= {f"features.{i}": level for i, level in enumerate(value.views.features)}
            parts |= {"intrinsics": value.views.intrinsics, "ego_SE3_camera": value.views.ego_SE3_camera}
            parts |= {"camera_valid": value.views.valid}
        if value.returns is not None:
            parts |= {"points": value.returns.padded.points, "point_valid": value.returns.padded.valid}
        found[name] = parts
    return found
