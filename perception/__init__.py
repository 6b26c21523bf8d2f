"""Sensor-fusion perception: camera, radar and LiDAR in, 3D boxes in the ego frame out.

    detector = perception.load("sim")
    detections = detector.detect(frame)

Subpackages: `perception.model` (the network), `perception.train` (`perception.train.run.train`),
`perception.eval` (`perception.eval.evaluate.evaluate`), `perception.replay` (`perception.replay.pipeline.replay`),
`perception.stream` (`perception.Stream`, the same live),
`perception.data`, `perception.logs`, `perception.sim`, `perception.ops` and `perception.cli`. The types that flow
through all of them are in `perception.sample` and `perception.task`.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # true to type checkers; to import it takes longer than all else here

__version__ = "0.2.0.dev0"

# Public name -> the module it lives in; imported when first used, which keeps ``import perception`` cheap.
_HOMES = {
    "ATTRIBUTES": "task",
    "BEVGrid": "grid",
    "Boxes3D": "sample",
    "CLASSES": "task",
    "CameraImage": "sample",
    "Config": "config",
    "Detections": "sample",
    "Detector": "model.detector",
    "Frame": "sample",
    "FrameSource": "data.sources",
    "HealthMonitor": "health",
    "LidarCloud": "sample",
    "Layout": "viz",
    "NuScenes": "data.nuscenes",
    "ObjectClass": "task",
    "PerceptionError": "errors",
    "PointCloud": "sample",
    "RadarCloud": "sample",
    "SE3": "geometry",
    "Stream": "stream",
    "Task": "task",
    "Tracker": "tracking",
    "build": "model.build",
    "draw_frame": "viz",
    "load": "model.checkpoint",
    "load_config": "config",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:  # what type checkers and editors see
    from perception.config import Config, load_config
    from perception.data.nuscenes import NuScenes
    from perception.data.sources import FrameSource
    from perception.errors import PerceptionError
    from perception.geometry import SE3
    from perception.grid import BEVGrid
    from perception.health import HealthMonitor
    from perception.model.build import build
    from perception.model.checkpoint import load
    from perception.model.detector import Detector
    from perception.sample import Boxes3D, CameraImage, Detections, Frame, LidarCloud, PointCloud, RadarCloud
    from perception.stream import Stream
    from perception.task import ATTRIBUTES, CLASSES, ObjectClass, Task
    from perception.tracking import Tracker
    from perception.viz import Layout, draw_frame


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'perception' has no attribute '{name}'")
    return getattr(import_module(f"perception.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
