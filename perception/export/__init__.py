"""Exported models: graphs of standard operators, and a runtime for them that needs no torch.

detector = perception.export.load("out/sim-onnx")
detections = detector.detect(frame)
"""

from __future__ import annotations

from perception.export.runtime import Exported, load

__all__ = ["Exported", "load"]
