"""The same stages of our detector, for what ``tools/original_outputs.py`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from perception.batch import PointBatch
from perception.config import Config
from perception.model.build import build
from perception.model.detector import Detector
from perception.model.import_weights import converted, imported_config
from perception.sample import Detections, LidarCloud

SOURCE = {"mmdet3d": "mmdet3d-centerpoint-pillar", "openpcdet": "openpcdet-centerpoint-pillar"}
# Names of the originals' labels.
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip
_IN_PLACE = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]  # the ego frame is that of the LiDAR


def config_of(original: str, reach_m: float) -> Config:
    """For a region of ``reach_m`` each way, in the LiDAR frame."""
    config = imported_config(SOURCE[original])
    grid = replace(config.grid, x_min_m=-reach_m, x_max_m=reach_m, y_min_m=-reach_m, y_max_m=reach_m)
    section = replace(config.encoders["lidar"], ego_SE3_lidar=_IN_PLACE)
    return replace(config, grid=grid, encoders={"lidar": section})


def detector_of(original: str, reach_m: float, state: Mapping[str, torch.Tensor]) -> Detector:
    detector = build(config_of(original, reach_m))
    detector.load_state_dict(converted(state, SOURCE[original], detector, "seeded weights"))
    return detector.eval()


@torch.inference_mode()
def outputs(detector: Detector, points: np.ndarray) -> tuple[dict[str, np.ndarray], Detections]:
    """What every stage makes of a cloud, under the names that it has in the originals."""
    cloud = torch.from_numpy(points)
    batch = PointBatch(cloud, torch.zeros(len(cloud), dtype=torch.int64), 1, LidarCloud.fields)
    canvas = detector.encoders["lidar"](batch).bev
    made = {"pillars": canvas}
    hooks = [
        stage.register_forward_hook(lambda *call, name=f"stage {i}": made.update({name: call[-1]}))
        for i, stage in enumerate(detector.trunk.stages)
    ]
    made["pyramid"] = detector.trunk(canvas)
    for hook in hooks:
        hook.remove()
    maps = detector.heads["boxes"](made["pyramid"])
    made |= {f"group {g}": own for g, own in enumerate(maps)}
    (detections,) = detector.heads["boxes"].decode(maps)
    return {name: value.numpy() for name, value in made.items()}, detections
