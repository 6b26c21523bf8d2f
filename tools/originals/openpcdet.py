"""CenterPoint of OpenPCDet 0.6 on dynamic pillars, built from its published config."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import torch

from originals import stubs

CONFIG = "cfgs/nuscenes_models/cbgs_dyn_pp_centerpoint.yaml"
STATE = "model_state"  # under which its checkpoints have the weights
_ABSENT = (
    "spconv", "torch_scatter", "kornia", "skimage", "SharedArray", "torchvision", "cumm", "av2", "pyquaternion",
    "nuscenes", "pcdet.version", "pcdet.datasets.argo2",
)  # fmt: skip


def build(repository: Path, reach_m: float):
    """The model, for a region of ``reach_m`` each way."""
    stubs.stub(*_ABSENT)
    np.__dict__["int"] = int  # of numpy before 1.24
    torch.Tensor.cuda = lambda self, *_, **__: self  # the code knows no other device
    sys.path.insert(0, str(repository))
    os.chdir(repository / "tools")  # from where configs name each other
    import torch_scatter
    from pcdet.config import cfg, cfg_from_yaml_file
    from pcdet.models import build_network
    from pcdet.ops.iou3d_nms import iou3d_nms_utils

    torch_scatter.scatter_mean, torch_scatter.scatter_max = stubs.scatter_mean, stubs.scatter_max
    iou3d_nms_utils.iou3d_nms_cuda.nms_gpu = _nms
    cfg_from_yaml_file(CONFIG, cfg)
    region = np.array([-reach_m, -reach_m, -5.0, reach_m, reach_m, 3.0], np.float32)  # as its data sets have it
    voxel_size = cfg.DATA_CONFIG.DATA_PROCESSOR[-1].VOXEL_SIZE
    dataset = types.SimpleNamespace(
        class_names=cfg.CLASS_NAMES,
        point_feature_encoder=types.SimpleNamespace(num_point_features=5),
        grid_size=np.round((region[3:] - region[:3]) / voxel_size).astype(np.int64),
        point_cloud_range=region,
        voxel_size=voxel_size,
        depth_downsample_factor=None,
    )
    return build_network(cfg.MODEL, len(cfg.CLASS_NAMES), dataset).eval()


def _nms(boxes: torch.Tensor, keep: torch.Tensor, most: float) -> int:
    kept = stubs.suppressed(boxes[:, [0, 1, 3, 4, 6]].numpy(), most)
    keep[: len(kept)] = torch.tensor(kept, dtype=torch.long)
    return len(kept)


@torch.no_grad()
def outputs(model, points: np.ndarray) -> dict[str, np.ndarray]:
    """What every stage makes of a cloud in the LiDAR frame, and "boxes" [N, 9], "scores", "labels"."""
    from pcdet.utils.common_utils import mask_points_by_range

    points = points[mask_points_by_range(points, model.dataset.point_cloud_range)]
    stages: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: stages.append(call[-1])) for block in model.backbone_2d.blocks]
    batch = {"points": torch.from_numpy(np.pad(points, ((0, 0), (1, 0)))), "batch_size": 1}
    for module in model.module_list:
        batch = module(batch)
    for hook in hooks:
        hook.remove()
    (found,) = batch["final_box_dicts"]
    made = {"pillars": batch["spatial_features"]}
    made |= {f"stage {i}": stage for i, stage in enumerate(stages)}
    made |= {"pyramid": batch["spatial_features_2d"]}
    for g, own in enumerate(model.dense_head.forward_ret_dict["pred_dicts"]):
        turned = own["rot"].flip(1)  # (cos, sin) as (sin, cos)
        made[f"group {g}"] = torch.cat(
            [own["center"], own["center_z"], own["dim"], turned, own["vel"], own["hm"]], dim=1
        )
    made |= {"boxes": found["pred_boxes"], "scores": found["pred_scores"], "labels": found["pred_labels"] - 1}
    return {name: value.numpy() for name, value in made.items()}
