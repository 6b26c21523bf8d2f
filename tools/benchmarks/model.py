"""The detector and its parts beside what people use today, and a profile of its stages against the machine's limits.

Speed does not depend on weights: where no checkpoint is named they are random.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import compare, timed
from perception.batch import Batch
from perception.config import CameraConfig, Config, FusionConfig
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model.build import build
from perception.model.detector import Detector, Prediction
from perception.model.fusion import build_fusion
from perception.ops.bev_pool import bev_pool, pool_index
from perception.sample import CameraImage, Frame, LidarCloud, RadarCloud

_SENSORS = ("camera", "radar", "lidar")
CAMERA_AXES = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # of a camera that looks ahead, in the ego frame


def make_frame(image_size: tuple[int, int], lidar_points: int, radar_points: int, seed: int = 0) -> Frame:
    """Six cameras all round, a cloud whose density falls with the distance, and radar points; all noise."""
    rng = np.random.default_rng(seed)
    height, width = image_size
    intrinsics = [[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]]
    cameras = {}
    for i in range(6):
        pose = SE3.from_yaw(i * np.pi / 3, (0.0, 0.0, 1.5)) @ SE3(CAMERA_AXES, np.zeros(3))
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        cameras[f"CAM_{i}"] = CameraImage(image, np.array(intrinsics), pose, 0)

    def cloud(points: int, columns: int) -> np.ndarray:
        radius, angle = 50 * rng.random(points) ** 2 + 1, rng.random(points) * 2 * np.pi
        xyz = [radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-2, 2, points)]
        return np.column_stack([*xyz, rng.random((points, columns - 3))]).astype(np.float32)

    lidar, radar = LidarCloud(cloud(lidar_points, 5)), RadarCloud(cloud(radar_points, 7))
    return Frame("benchmark", 0, cameras=cameras, lidar=lidar, radar=radar)


def pooling(device: str = "cpu", repeats: int = 5) -> list[dict]:
    """At BEVFusion's size: 118 depth bins, 32 x 88 features of six cameras, 80 channels, 360 x 360 cells."""
    bins, pixels, channels, cells = 118, 6 * 32 * 88, 80, 360 * 360
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(pixels, channels, generator=generator).to(device)
    depth = torch.rand(pixels, bins, generator=generator).softmax(dim=1).to(device)
    # Along a ray cells are neighbours, and a fifth of the points lie outside.
    start = torch.randint(-cells // 5, cells, (pixels, 1), generator=generator)
    cell = (start + torch.arange(bins) * 3).clamp(-1, cells - 1).flatten().to(device)
    index = pool_index(cell, bins, cells)
    inside = cell >= 0

    def cumsum_trick():  # Lift-Splat-Shoot: sort by cell, sum everything, subtract at the borders
        x = (features[:, None] * depth[..., None]).flatten(0, 1)[inside]
        ranks, order = cell[inside].sort()
        x = x[order].cumsum(0)
        last = torch.ones(len(x), dtype=torch.bool, device=device)
        last[:-1] = ranks[1:] != ranks[:-1]
        x = x[last]
        out = torch.zeros(cells, channels, device=device)
        out[ranks[last]] = torch.cat([x[:1], x[1:] - x[:-1]])
        return out

    def index_add():
        x = (features[:, None] * depth[..., None]).flatten(0, 1)
        return torch.zeros(cells, channels, device=device).index_add_(0, cell[inside], x[inside])

    def ours():
        return bev_pool(features, depth, index)

    difference = (ours() - index_add()).abs().max().item()
    if difference > 1e-3:
        raise PerceptionError(f"bev_pool: the sums of index_add were expected, found some {difference} off")
    name = "bev_pool" if device == "cpu" else "gpu_bev_pool"
    peers = {"Lift-Splat-Shoot's cumsum trick": cumsum_trick, "index_add": index_add}
    return compare(name, _synchronised(ours, device), {k: _synchronised(p, device) for k, p in peers.items()}, repeats)


def fusion_scaling(repeats: int = 3, sides: Sequence[int] = (90, 180, 360)) -> list[dict]:
    """The fusion block over grids of so many cells a side beside attention to all of 4,224 image tokens.

    growth: of our time, from the grid before.
    """
    rows, config, sensors = [], FusionConfig(), tuple(Config().encoders)
    tokens = torch.randn(1, config.heads, 4224, config.channels // config.heads)
    for side in sides:
        grid = BEVGrid(-54, 54, -54, 54, -5, 3, 108 / side)
        block = build_fusion(config, grid, sensors, {}).eval()
        features = {name: torch.randn(1, config.channels, side, side) for name in sensors}
        features = {name: x.contiguous(memory_format=torch.channels_last) for name, x in features.items()}
        valid = torch.ones(1, len(sensors), dtype=torch.bool)
        query = features[sensors[0]].flatten(2).view(1, config.heads, -1, side * side).transpose(2, 3).contiguous()

        def full(query=query):
            return F.scaled_dot_product_attention(query, tokens, tokens)

        def ours(block=block, features=features, valid=valid):
            with torch.inference_mode():
                return block(features, valid).features

        found = compare(f"fusion_{side}", ours, {"attention to 4,224 image tokens": full}, repeats)[0]
        growth = found["ours_ms"] / rows[-1]["ours_ms"] if rows else None
        rows.append(found | {"growth": growth})
    return rows


def frames(sim: Detector, lss_sized: Config, peers_python: str, lss: str, repeats: int = 5) -> list[dict]:
    """A frame of three sensors, from arrays to boxes, beside Lift-Splat-Shoot with cameras only.

    sim: a detector of configs/sim.yaml, on two threads.  lss_sized: of 6 x 128 x 352 images and 200 x 200 cells.
    peers_python, lss: an interpreter with torch and efficientnet_pytorch, and a clone of the published code.
    """
    rows = []
    for name, detector, threads in (("frame_small", sim, 2), ("frame_lss", build(lss_sized).eval(), 1)):
        torch.set_num_threads(threads)
        frame = make_frame(detector.inputs.covering, 107_000, 2_000)
        with Peer([peers_python, str(Path(__file__).with_name("lss_peer.py")), lss, str(threads)]) as peer:
            title = f"Lift-Splat-Shoot, cameras only, {threads} thread{'s' * (threads > 1)}"
            found = compare(name, lambda d=detector, f=frame: d.detect(f), {title: peer}, repeats)
        rows += [row | {"threads": threads} for row in found]
    torch.set_num_threads(1)
    return rows


class Peer:
    """A candidate in another process that prints its seconds for each line it reads."""

    def __init__(self, command: list[str]):
        self.command = command

    def __enter__(self) -> Peer:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise PerceptionError(f"{' '.join(self.command)}: 'ready' was expected of this peer, it ended")
        return self

    def __call__(self) -> float:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()


def stages(detector: Detector, frame: Frame, repeats: int = 9) -> list[dict]:
    """A row a stage: parameters, GFLOP, MB that must move (weights, inputs and outputs), ms, share of the roofline.

    The roofline (Williams et al., 2009) is the larger of the time for the arithmetic at the speed of a large matrix
    product and that for the bytes at the speed of a large copy, both measured here.
    """
    flops_per_s, bytes_per_s = _limits()
    with torch.inference_mode():
        batch = detector.prepare([frame])
        camera, radar, lidar, head = *(detector.encoders[name] for name in _SENSORS), detector.heads["boxes"]
        cameras, returns, cloud = (batch.inputs[name] for name in _SENSORS)
        images = cameras.images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        seen = camera.image(images)[0].unflatten(0, cameras.images.shape[:2])
        pose = (cameras.intrinsics, cameras.ego_SE3_camera, cameras.valid)
        encoded = detector.encode(batch)
        features = {name: value.bev for name, value in encoded.items()}
        fused = detector.fusion(features, batch.sensor_valid).features
        trunk = detector.trunk(fused)
        prediction = detector.predict(encoded, batch.sensor_valid)
        maps, every = prediction.outputs["boxes"], [*features.values(), fused]
        parts: list[tuple[str, nn.Module | None, Callable, list]] = [
            ("prepare", None, lambda: detector.prepare([frame]), [cameras.images]),
            ("camera", camera.image, lambda: camera.image(images), [images, seen]),
            ("view transform", camera.view_transform, lambda: camera.view_transform(seen, *pose), [seen, fused]),
            ("radar", radar, lambda: radar(returns), [returns.points, features["radar"]]),
            ("lidar", lidar, lambda: lidar(cloud), [cloud.points, features["lidar"]]),
            ("fusion", detector.fusion, lambda: detector.fusion(features, batch.sensor_valid), every),
            ("trunk", detector.trunk, lambda: detector.trunk(fused), [fused, trunk]),
            ("head", head, lambda: head(trunk), [trunk, maps.heat_logits, maps.box]),
            ("decoder", detector.decoder, lambda: _objects(detector, prediction, trunk, encoded, batch), every),
            ("decode", None, lambda: detector.decode(prediction), [maps.heat_logits]),
            ("all", detector, lambda: detector.detect(frame), [images, cloud.points]),
        ]
        rows = []
        seconds = [[timed(call) for _, _, call, _ in parts] for _ in range(repeats + 1)][1:]
        for i, (name, module, call, tensors) in enumerate(parts):
            weights = sum(p.numel() for p in module.parameters()) if module is not None else 0
            with FlopCounterMode(display=False) as counter:
                call()
            flops = counter.get_total_flops()
            moved = 4 * weights + sum(t.numel() * t.element_size() for t in tensors)
            taken = float(np.median([s[i] for s in seconds]))
            floor = max(flops / flops_per_s, moved / bytes_per_s)
            cost = {"parameters": weights, "gflop": flops / 1e9, "mb": moved / 1e6, "ms": 1000 * taken}
            rows.append({"stage": name, **cost, "roofline": floor / taken})
    return rows


def _objects(detector: Detector, prediction: Prediction, trunk: torch.Tensor, encoded: dict, batch: Batch) -> None:
    if detector.decoder is not None:
        motion = None if prediction.registered is None else prediction.registered.motion
        detector.decoder(prediction.outputs["boxes"], trunk, encoded, batch.sensor_valid, motion, None)


def _limits(size: int = 2048) -> tuple[float, float]:
    """FLOP/s of a large matrix product and byte/s, read and written, of a large copy, on the threads that are set."""
    a, b = torch.randn(size, size), torch.randn(32_000_000)
    product = min(timed(lambda: a @ a) for _ in range(5))
    copy = min(timed(lambda: b.clone()) for _ in range(5))
    return 2 * size**3 / product, 2 * 4 * b.numel() / copy


def gpu_frame(config: Config, repeats: int = 50) -> list[dict]:
    """The full-size model from arrays to boxes on a GPU, copies, voxelization and decoding counted; float32, bfloat16.

    Raises:
        PerceptionError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise PerceptionError("gpu_frame: a CUDA device was expected, found none")
    untrained = {
        name: replace(section, weights="none") if isinstance(section, CameraConfig) else section
        for name, section in config.encoders.items()
    }
    detector = build(replace(config, encoders=untrained)).cuda().eval()
    frame = make_frame(detector.inputs.covering, 300_000, 2_000)

    def half():
        with torch.autocast("cuda", torch.bfloat16):
            return detector.detect(frame)

    rows = compare("gpu_frame", half, {"float32": lambda: detector.detect(frame)}, repeats, warm_ups=5)
    return [row | {"device": torch.cuda.get_device_name()} for row in rows]


def _synchronised(call: Callable, device: str) -> Callable:
    """On a GPU, the seconds until its work is done."""
    if device == "cpu":
        return call

    def waited() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return waited
