"""What radar shows of annotated objects, in any nuScenes folder: the measure of how useful a simulated radar is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.data.nuscenes import NuScenes
from perception.errors import PerceptionError
from perception.geometry import in_box
from perception.task import CLASSES

_RANGE_M, _MARGIN_M = 50.0, 0.5


def _evidence(root: str | Path, frames: float, filtered: bool) -> dict[str, np.ndarray]:
    """By class [N, 2]: clusters inside each box, and their mean bearing offset in degrees, NaN without any."""
    dataset = NuScenes(root, part=(0.0, frames), sensors=("radar",), radar_sweeps=1, radar_filter=filtered)
    found: dict[str, list] = {name: [] for name in CLASSES}
    for index in range(len(dataset)):
        frame = dataset[index]
        if frame is None or frame.boxes is None or frame.radar is None:
            raise PerceptionError(f"{root}: boxes and radar were expected in every frame, found frame {index} without")
        boxes, points = frame.boxes, frame.radar.points[:, :3].astype(float)
        points[:, 2] = 0.0  # a radar knows no height
        for center, size, yaw, label in zip(boxes.center, boxes.size, boxes.yaw, boxes.label, strict=True):
            if np.hypot(*center[:2]) > _RANGE_M:
                continue
            grown = np.array([*size[:2] + 2 * _MARGIN_M, 1.0])
            inside = points[in_box(points, np.array([*center[:2], 0.0]), grown, yaw)]
            offset = np.angle((inside[:, 0] + 1j * inside[:, 1]) * np.conj(center[0] + 1j * center[1]), deg=True)
            found[CLASSES[label]].append([len(inside), np.abs(offset).mean() if len(inside) else np.nan])
    return {name: np.array(rows).reshape(-1, 2) for name, rows in found.items()}


def radar_evidence(root: str | Path, frames: float = 1.0) -> str:
    """A Markdown table by class of the boxes within 50 m.

    The share with a cluster of the keyframe inside the box grown by 0.5 m, and the clusters per box, before and after
    the devkit's default filter; how far the bearing of those that pass is from that of the box's centre.

    Args:
        root: nuScenes folder; keyframes are enough.
        frames: only this first share of each scene.

    Raises:
        PerceptionError: a folder that cannot be read, or has frames without radar or boxes.
    """
    before, after = (_evidence(root, frames, filtered) for filtered in (False, True))
    rows = [
        "| class | boxes | any cluster | passing cluster | clusters, passing | bearing offset, degrees |",
        "|---|---|---|---|---|---|",
    ]
    for name in CLASSES:
        raw, kept = before[name], after[name]
        if len(raw):
            shares = " | ".join(f"{100 * np.mean(counts[:, 0] > 0):.0f} %" for counts in (raw, kept))
            offset = kept[kept[:, 0] > 0, 1]
            angle = f"{offset.mean():.1f}" if len(offset) else "–"
            rows.append(
                f"| {name} | {len(raw)} | {shares} | {raw[:, 0].mean():.2f}, {kept[:, 0].mean():.2f} | {angle} |"
            )
    return "\n".join(rows)
