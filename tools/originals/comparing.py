"""Tables of ``tools/compare_original.py``."""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from originals.ours import CLASSES, SOURCE, detector_of, outputs
from perception.data.nuscenes import NuScenes
from perception.geometry import SE3
from perception.model.checkpoint import load
from perception.model.import_weights import import_weights, imported_config
from perception.sample import Boxes3D, Frame, LidarCloud
from perception.text import aligned


def points_of(root: str, frame: int, out: Path) -> None:
    """The cloud of a frame, as the imported detectors see it."""
    lidar = NuScenes(root, sensors=("lidar",))[frame].lidar
    mount = SE3.from_pose(imported_config(SOURCE["mmdet3d"]).encoders["lidar"].ego_SE3_lidar)
    xyz = mount.inverse().transform(lidar.points[:, :3].astype(np.float64))
    np.save(out, np.column_stack([xyz, lidar.points[:, 3:]]).astype(np.float32))
    print(f"{out}: {len(xyz)} points, ages up to {lidar.points[:, 4].max():.2f} s")


def compared(original: str, folder: Path, turns: int) -> str:
    """turns: over the points, to time them; 0 for no times."""
    found = dict(np.load(folder / "outputs.npz"))
    points, reach_m = found.pop("points"), float(found.pop("reach_m"))
    state = next(iter(torch.load(folder / "weights.pth", weights_only=True).values()))
    detector = detector_of(original, reach_m, state)
    ours, detections = outputs(detector, points)
    rows = [("stage", "shape", "relative error")]
    rows += [
        (name, str(list(value.shape)), f"{np.abs(value - found[name]).max() / np.abs(found[name]).max():.1e}")
        for name, value in ours.items()
    ]
    worst = _boxes(found, detections.boxes, detections.scores, detector.task.classes)
    parts = [aligned(rows, left=(0, 1)), worst, _end_to_end(original, folder, found, points)]
    if turns:
        parts.append(_cost(detector, points, turns))
    return "\n\n".join(parts)


def _boxes(found: dict[str, np.ndarray], boxes: Boxes3D, scores: np.ndarray, classes: tuple[str, ...]) -> str:
    """Every box of the original, in its LiDAR frame, and the nearest of ours of its class.

    Where nothing was measured many cells have the same score, and which of them come first is left to chance: what is
    not the same box may still have the same score.
    """
    label = np.array([classes.index(CLASSES[k]) for k in found["labels"]])
    theirs, ours = found["boxes"], np.column_stack([boxes.center, boxes.size, boxes.yaw, boxes.velocity])
    apart = np.abs(theirs[:, None, :3] - ours[None, :, :3]).max(axis=2)
    apart = apart + 10 * np.abs(found["scores"][:, None] - scores)
    apart[label[:, None] != boxes.label] = np.inf
    nearest = apart.argmin(axis=1)
    off = np.abs(theirs - ours[nearest])
    off[:, 6] = np.abs((off[:, 6] + np.pi) % (2 * np.pi) - np.pi)
    score = np.abs(found["scores"] - scores[nearest])
    same = (off.max(axis=1) < 1e-3) & (score < 1e-4)
    most = f"{off[same].max(initial=0):.1e} (m, rad, m/s), scores by {score[same].max(initial=0):.1e}"
    text = f"boxes: {len(theirs)} of the original, {len(ours)} of ours, {same.sum()} the same, but for up to {most}"
    if len(theirs) == len(ours):
        in_order = np.abs(np.sort(found["scores"]) - np.sort(scores)).max(initial=0)
        text += f"; all scores, in order, by {in_order:.1e}"
    return text


def _end_to_end(original: str, folder: Path, found: dict[str, np.ndarray], points: np.ndarray) -> str:
    """File to checkpoint to boxes: through perception.load and detect, in the ego frame of a car of nuScenes."""
    if not (folder / "weights.pth").is_file() or found["pillars"].shape[-1] != 512:
        return "end to end: of the published region only (--reach 51.2)"
    import_weights(folder / "weights.pth", SOURCE[original], folder / "imported")
    detector = load(folder / "imported")
    mount = SE3.from_pose(detector.config.encoders["lidar"].ego_SE3_lidar)
    cloud = np.column_stack([mount.transform(points[:, :3].astype(np.float64)), points[:, 3:]]).astype(np.float32)
    detections = detector.detect(Frame("frame", 0, lidar=LidarCloud(cloud)))
    back, boxes = mount.inverse(), detections.boxes
    flat = np.zeros(len(boxes))
    forward = back.rotate(np.column_stack([np.cos(boxes.yaw), np.sin(boxes.yaw), flat]))
    velocity = back.rotate(np.column_stack([boxes.velocity, flat]))[:, :2]
    yaw = np.arctan2(forward[:, 1], forward[:, 0])
    seen = Boxes3D(back.transform(boxes.center), boxes.size, yaw, velocity, boxes.label)
    return "through a checkpoint and the ego frame, " + _boxes(found, seen, detections.scores, detector.task.classes)


@torch.inference_mode()
def _cost(detector, points: np.ndarray, turns: int) -> str:
    """Milliseconds by stage, and the most memory of this process."""
    frame = Frame("frame", 0, lidar=LidarCloud(points))
    head = detector.heads["boxes"]
    steps = {
        "pillars": lambda frame: detector.encoders["lidar"](detector.prepare([frame]).inputs["lidar"]).bev,
        "stages and pyramid": detector.trunk,
        "head": head,
        "boxes": head.decode,
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        value = frame
        for name, step in steps.items():
            start = time.perf_counter()
            value = step(value)
            if turn:
                taken[name].append(1000 * (time.perf_counter() - start))
    rows = [("stage", "ms"), *((name, f"{statistics.median(times):.0f}") for name, times in taken.items())]
    total = sum(statistics.median(times) for times in taken.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    end = f"{total:.0f} ms a frame of {len(points)} points, {torch.get_num_threads()} threads; at most {peak:.0f} MB"
    return f"{aligned(rows, left=(0,))}\n{end}"
