"""Converts weights of version 0.1, which had exactly three sensors, to the current names."""

from __future__ import annotations

from itertools import combinations

import torch

SENSORS = ("camera", "radar", "lidar")
_MOVED = {
    "camera.": "encoders.camera.image.",
    "view_transform.": "encoders.camera.view_transform.",
    "radar.": "encoders.radar.",
    "lidar.": "encoders.lidar.",
    "head.": "heads.boxes.",
    "fusion.registration.verdict.": "fusion.registration.edge_head.",
    **{f"fusion.registration.describe.{i}.": f"fusion.registration.describe.{s}." for i, s in enumerate(SENSORS)},
}


def upgraded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert a state dict of any version to the current names; a current one is returned unchanged."""
    if not any(name.startswith("head.") for name in state):
        return state
    new = {_renamed(name): tensor for name, tensor in state.items()}
    table = new.pop("calibration")  # [8, 2], indexed by a bit mask of the sensors; camera is the lowest bit
    for count in range(1, len(SENSORS) + 1):
        for own in combinations(SENSORS, count):
            new[f"calibration.{'+'.join(own)}"] = table[sum(2 ** SENSORS.index(name) for name in own)]
    return new


def _renamed(name: str) -> str:
    old = next((old for old in _MOVED if name.startswith(old)), "")
    return _MOVED.get(old, "") + name.removeprefix(old)
