"""Sensor-fusion perception: camera, radar and LiDAR in, 3D boxes in the ego frame out."""

from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.sample import ATTRIBUTES, CLASSES, SENSORS, Boxes3D, Detections, Frame

__version__ = "0.2.0.dev0"
__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "SE3",
    "SENSORS",
    "Boxes3D",
    "Detections",
    "Frame",
    "NuScenes",
    "PerceptionError",
    "load",
]


def __getattr__(name):
    """The loader and the model are imported when first used, which keeps ``import perception`` cheap."""
    if name == "NuScenes":
        from perception.data.nuscenes import NuScenes

        return NuScenes
    if name == "load":
        from perception.model.detector import load

        return load
    raise AttributeError(f"module 'perception' has no attribute '{name}'")
