"""What a full-size model costs without a machine that could run it: counted on tensors without data.

Counted are the network's layers, without voxelization, the pooling of the view transform and the decoding of boxes.
GFLOP are those of products and convolutions; kernels of our own, in the fusion, are not counted. The
roofline (Williams et al., 2009) takes every operation alone, as eager PyTorch runs it, and is a lower bound of that; a
compiler that fuses operations moves less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from perception.batch import PaddedPoints
from perception.config import CameraConfig, Config
from perception.model.build import build
from perception.model.detector import Detector
from perception.model.encoder import Encoded, Views
from perception.model.head import BOX_WIDTH, CenterMaps
from perception.model.lidar import LidarEncoder
from perception.model.proposals import boxes_at, find_peaks
from perception.model.radar import RadarEncoder
from perception.text import markdown

CAMERAS, POINTS, RETURNS = 6, 270_000, 2_000  # of a nuScenes frame with ten LiDAR sweeps and six of each radar
# H200 SXM, data sheet: dense bfloat16, memory bandwidth.
FLOPS_PER_S, BYTES_PER_S, BYTES_A_VALUE = 989e12, 4.8e12, 2
BYTES_A_WEIGHT = 4 * 5  # in training: itself, its gradient, the two moments of AdamW, its average
PUBLISHED = (  # model, GFLOP, milliseconds, mAP and NDS on nuScenes val; of their papers and repositories
    ("BEVFusion, Swin-T, 0.075 m voxels (Liu et al., 2023)", "506", "119 on an RTX 3090", "68.5", "71.4"),
    ("CMT, VoVNet at 640 × 1600, 0.075 m voxels (Yan et al., 2023)", "-", "-", "70.3", "72.9"),
    ("CMT, ResNet-50 at 256 × 704, 0.2 m pillars", "-", "-", "53.8", "58.5"),
)


class Roofline(TorchDispatchMode):
    """Counts floating-point operations, and the seconds that each operation takes at the least."""

    def __init__(self):
        super().__init__()
        self.flops, self.seconds = 0, 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view:
            count = flop_registry.get(func.overloadpacket)
            flops = 0 if count is None else count(*args, **kwargs, out_val=out)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            moved = BYTES_A_VALUE * sum(tensor.numel() for tensor in tensors)
            self.flops += flops
            self.seconds += max(flops / FLOPS_PER_S, moved / BYTES_PER_S)
        return out


def sizes(config: Config) -> list[dict]:
    """A row a stage and one of all: parameters; GFLOP and ms of a frame; MB that a training step keeps of a frame.

    ms: the roofline of an H200 in bfloat16.  MB: in float32, for the backward pass, without weights.
    """
    sections = {
        name: replace(section, weights="none") if isinstance(section, CameraConfig) else section
        for name, section in config.encoders.items()
    }
    detector = build(replace(config, encoders=sections))
    for part in (detector.encoders, detector.trunk, detector.heads):
        part.to("meta")
    rows = [_row(detector, name, parts, call) for name, parts, call in _stages(detector)]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "stage"}
    return [*rows, {"stage": "all", **total}]


def training_step(config: Config, rows: list[dict], checkpointed: list[dict]) -> list[dict]:
    """A step of ``train.batch_size`` frames on one GPU in bfloat16: without and with gradient checkpointing.

    rows, checkpointed: :func:`sizes` of the config without and with it.  gb: weights with all that belongs to them, and
    what is kept for the backward pass; without workspaces and fragmentation.  ms: by roofline, the backward pass twice
    the forward one; the frames before, of clips, are seen without a backward pass.
    """
    frames, images = config.train.batch_size, sum(row["ms"] for row in rows if row["stage"].endswith(": images"))
    weights = BYTES_A_WEIGHT * rows[-1]["parameters"]
    seen = (config.train.clip + 2) * rows[-1]["ms"]
    return [
        {
            "frames": frames,
            "checkpointing": again,
            "gb": (weights + frames * kept[-1]["kept_mb"] * 1e6 * BYTES_A_VALUE / 4) / 1e9,
            "ms": frames * (seen + again * images),
        }
        for again, kept in ((False, rows), (True, checkpointed))
    ]


def _stages(detector: Detector) -> list[tuple[str, list[nn.Module], Callable]]:
    """Name, modules, and a call of all of their layers."""
    stages: list[tuple[str, list[nn.Module], Callable]] = []
    rows, columns = detector.grid.shape
    channels = detector.config.fusion.channels
    features = {}
    for name, encoder in detector.encoders.items():
        section = detector.config.encoders[name]
        features[name] = torch.rand(1, channels, rows, columns)  # the fusion has steps that want data
        if isinstance(section, CameraConfig):
            stages += _camera_stages(name, encoder, section)
        elif isinstance(encoder, LidarEncoder | RadarEncoder):
            stages.append((name, [encoder], lambda encoder=encoder: _of_points(encoder)))
    valid = torch.ones(1, len(features), dtype=torch.bool)
    fused = torch.empty(1, channels, rows, columns, device="meta")
    heads = list(detector.heads.values())
    stages.append(("fusion", [detector.fusion], lambda: detector.fusion(features, valid)))
    stages.append(("trunk", [detector.trunk], lambda: detector.trunk(fused)))
    narrow = torch.empty(1, detector.config.head.trunk_channels[0], rows, columns, device="meta")
    stages.append(("head", heads, lambda: [head(narrow) for head in heads]))
    if detector.decoder is not None:
        inputs = _of_decoder(detector)
        stages.append(("decoder", [detector.decoder], lambda: detector.decoder(*inputs)))
    return stages


def _of_decoder(detector: Detector) -> tuple:
    """Random numbers as its inputs: which cells and points objects look at is data."""
    decoder, grid, task = detector.decoder, detector.grid, detector.task
    maps = CenterMaps(*(torch.rand(1, n, *grid.shape) for n in (len(task.classes), BOX_WIDTH, len(task.attributes))))
    features = torch.rand(1, detector.config.head.trunk_channels[0], *grid.shape)
    bev, pose = torch.empty(1), torch.eye(4).expand(1, CAMERAS, 4, 4)
    encoded = {}
    for name, encoder in detector.encoders.items():
        section = detector.config.encoders[name]
        if isinstance(section, CameraConfig):
            height, width = section.image_size
            strides = [encoder.image.stride * 2**level for level in range(len(encoder.view_channels))]
            levels = zip(encoder.view_channels, strides, strict=True)
            seen = tuple(torch.rand(1, CAMERAS, c, height // stride, width // stride) for c, stride in levels)
            valid = torch.ones(1, CAMERAS, dtype=torch.bool)
            encoded[name] = Encoded(bev, views=Views(seen, pose[..., :3, :3], pose, (height, width), valid))
        elif isinstance(encoder, RadarEncoder):
            points = torch.rand(1, RETURNS, len(encoder.return_scale))
            encoded[name] = Encoded(bev, returns=PaddedPoints(points, torch.ones(1, RETURNS, dtype=torch.bool)))
        elif isinstance(encoder, LidarEncoder):
            encoded[name] = Encoded(bev, fine=torch.rand(1, encoder.fine_channels, *(2 * n for n in grid.shape)))
    known = None
    if decoder.memory:
        peaks = find_peaks(maps, grid, decoder.memory)
        known = boxes_at(maps, grid, peaks, torch.rand(1, decoder.memory, detector.config.decoder.width)), torch.ones(1)
    return maps, features, encoded, torch.ones(1, len(detector.sensors), dtype=torch.bool), None, known


def _camera_stages(name: str, camera, section: CameraConfig) -> list[tuple[str, list[nn.Module], Callable]]:
    height, width = section.image_size
    images = torch.empty(CAMERAS, 3, height, width, device="meta")
    stride, view = camera.image.stride, camera.view_transform
    seen = torch.empty(CAMERAS, section.channels, height // stride, width // stride, device="meta")
    calibration = torch.empty(CAMERAS, 8, device="meta")
    pooled = torch.empty(1, section.channels, *view.grid.shape, device="meta")

    def lift():
        view.depth(seen, calibration).softmax(dim=1)
        view.context(seen)
        view.refine(pooled)
        if camera.training and camera.objects is not None:
            camera.objects(seen)

    return [
        (f"{name}: images", [camera.image], lambda: camera.image(images)),
        (f"{name}: view transform", [view], lift),
    ]


def _of_points(encoder: LidarEncoder | RadarEncoder) -> None:
    pillars = encoder.pillars
    count = POINTS if isinstance(encoder, LidarEncoder) else RETURNS
    described = pillars.point(torch.empty(count, len(pillars.scale) + 6, device="meta"))
    bev = encoder.backbone(torch.empty(1, described.shape[1], *pillars.grid.shape, device="meta"))
    if isinstance(encoder, LidarEncoder):
        encoder.pyramid(bev)


def _row(detector: Detector, name: str, modules: list[nn.Module], call: Callable) -> dict:
    detector.eval()
    with torch.no_grad(), Roofline() as counted:
        call()
    detector.train()
    return {
        "stage": name,
        "parameters": sum(parameter.numel() for module in modules for parameter in module.parameters()),
        "gflop": counted.flops / 1e9,
        "kept_mb": _kept_bytes(detector, call) / 1e6,
        "ms": 1000 * counted.seconds,
    }


def _kept_bytes(detector: Detector, call: Callable) -> int:
    """Of the storages that autograd keeps and that are no weights; one is counted once."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    weights = {tensor.untyped_storage()._cdata for tensor in detector.state_dict().values()}
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)


def document(models: dict[str, list[dict]], steps: dict[str, list[dict]]) -> str:
    """The Markdown of docs/performance.md: totals beside what others publish, stages of each model, training steps."""
    head = ("model", "parameters", "GFLOP", "kept in training, MB", "ms", "mAP", "NDS")
    totals = [[f"`{name}`", *_cells(rows[-1]), "-", "-"] for name, rows in models.items()]
    theirs = [[model, "-", gflop, "-", ms, mean_ap, nds] for model, gflop, ms, mean_ap, nds in PUBLISHED]
    lines = markdown(head, totals + theirs)
    for name, rows in models.items():
        stage_rows = [[row["stage"], *_cells(row)] for row in rows[:-1]]
        lines += ["", f"**The stages of `{name}`**", "", *markdown(("stage", *head[1:5]), stage_rows)]
    lines += ["", "**A training step**", ""]
    head = ("model", "frames on a GPU", "checkpointing", "GB", "ms")
    cells = [
        [
            f"`{name}`",
            f"{row['frames']}",
            "yes" if row["checkpointing"] else "no",
            f"{row['gb']:.1f}",
            f"{row['ms']:.0f}",
        ]
        for name, rows in steps.items()
        for row in rows
    ]
    return "\n".join([*lines, *markdown(head, cells)])


def _cells(row: dict) -> list[str]:
    return [
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['gflop']:,.1f}",
        f"{row['kept_mb']:,.0f}",
        f"{row['ms']:.2f}",
    ]
