"""CenterPoint of mmdetection3d 1.4, built from its published config."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from originals import stubs

CONFIG = "configs/centerpoint/centerpoint_pillar02_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py"
STATE = "state_dict"  # under which its checkpoints have the weights


def build(repository: Path, reach_m: float):
    """The model, for a region of ``reach_m`` each way."""
    stubs.stub(
        "mmcv.ops", "mmcv._ext", "open3d", "nuscenes", "lyft_dataset_sdk", "trimesh", "plyfile", "skimage", "pandas"
    )
    sys.path.insert(0, str(repository))
    import mmdet3d.models  # noqa: F401  # which registers them
    from mmdet3d.models.data_preprocessors import voxelize
    from mmdet3d.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    voxelize.ext_module.hard_voxelize_forward = stubs.hard_voxelize
    init_default_scope("mmdet3d")
    model = Config.fromfile(str(repository / CONFIG)).model
    region = [-reach_m, -reach_m, -5.0, reach_m, reach_m, 3.0]
    cells = round(2 * reach_m / 0.2)
    model.data_preprocessor.voxel_layer.point_cloud_range = region
    model.pts_voxel_encoder.point_cloud_range = region
    model.pts_middle_encoder.output_shape = (cells, cells)
    model.pts_bbox_head.bbox_coder.pc_range = region[:2]
    model.test_cfg.pts.pc_range = region[:2]
    return MODELS.build(model).eval()


@torch.no_grad()
def outputs(model, points: np.ndarray) -> dict[str, np.ndarray]:
    """What every stage makes of a cloud in the LiDAR frame, and "boxes" [N, 9], "scores", "labels"."""
    from mmdet3d.structures import LiDARInstance3DBoxes

    cloud = torch.from_numpy(points)
    voxels = model.data_preprocessor.voxelize([cloud], [])
    features = model.pts_voxel_encoder(voxels["voxels"], voxels["num_points"], voxels["coors"])
    canvas = model.pts_middle_encoder(features, voxels["coors"], 1)
    stages = model.pts_backbone(canvas)
    fused = model.pts_neck(stages)
    maps = model.pts_bbox_head(fused)
    (found,) = model.pts_bbox_head.predict_by_feat(maps, [{"box_type_3d": LiDARInstance3DBoxes}])
    made = {"pillars": canvas} | {f"stage {i}": stage for i, stage in enumerate(stages)} | {"pyramid": fused[0]}
    names = ("reg", "height", "dim", "rot", "vel", "heatmap")
    made |= {f"group {g}": torch.cat([own[0][name] for name in names], dim=1) for g, own in enumerate(maps)}
    boxes = torch.cat([found.bboxes_3d.gravity_center, found.bboxes_3d.tensor[:, 3:]], dim=1)
    made |= {"boxes": boxes, "scores": found.scores_3d, "labels": found.labels_3d}
    return {name: value.numpy() for name, value in made.items()}
