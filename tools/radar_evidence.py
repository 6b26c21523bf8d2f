"""What radar shows of annotated objects: prints a Markdown table, by class.

For boxes within 50 m: the share with a cluster of the keyframe inside the box grown by 0.5 m, before and after the
devkit's default filter, the clusters per box, and how far their bearing is from that of the box's centre.
"""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from perception.cli.options import run_main
from perception.data.nuscenes import NuScenes
from perception.geometry import in_box
from perception.task import CLASSES

_RANGE_M, _MARGIN_M = 50.0, 0.5


def _evidence(root: str, frames: float, filtered: bool) -> dict[str, np.ndarray]:
    """By class [N, 2]: clusters inside each box, and their mean bearing offset in degrees, NaN without any."""
    dataset = NuScenes(root, sensors=("radar",), radar_sweeps=1, radar_filter=filtered)
    found: dict[str, list] = {name: [] for name in CLASSES}
    for index in range(round(frames * len(dataset))):
        frame = dataset[index]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, metavar="ROOT", help="nuScenes folder; keyframes are enough")
    parser.add_argument(
        "--frames", type=float, default=1.0, metavar="SHARE", help="only this first share of the frames"
    )
    arguments = parser.parse_args()
    before, after = (_evidence(arguments.root, arguments.frames, filtered) for filtered in (False, True))
    print("| class | boxes | any cluster | passing cluster | clusters, passing | bearing offset, degrees |")
    print("|---|---|---|---|---|---|")
    for name in CLASSES:
        raw, kept = before[name], after[name]
        if len(raw):
            shares = " | ".join(f"{100 * np.mean(rows[:, 0] > 0):.0f} %" for rows in (raw, kept))
            offset = kept[kept[:, 0] > 0, 1]
            angle = f"{offset.mean():.1f}" if len(offset) else "–"
            print(f"| {name} | {len(raw)} | {shares} | {raw[:, 0].mean():.2f}, {kept[:, 0].mean():.2f} | {angle} |")


if __name__ == "__main__":
    run_main(main)
