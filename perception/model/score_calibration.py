"""What the scores of a detector are corrected by, for each set of sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from perception.sample import sensor_set

IDENTITY = (1.0, 0.0)


class ScoreCalibration(nn.Module):
    """Slope (inverse temperature) and offset of the logits of scores, by the name of the set of sensors.

    With them a score means the same whatever sensors there are; ``perception.eval.calibration`` fits them. In a state
    dict each set that was fitted has an entry of its own, ``calibration.camera+lidar``; others keep their scores.

    Args:
        sensors: names, in the order of the axis S and of the parts of the name of a set.
    """

    def __init__(self, sensors: Sequence[str]):
        super().__init__()
        self.sensors = tuple(sensors)
        self.by_set: dict[str, tuple[float, float]] = {}

    def forward(self, sensor_valid: torch.Tensor) -> torch.Tensor:
        """bool [B, S] -> [B, 2] slope and offset for the sensors that each sample has."""
        sets = ["+".join(n for n, has in zip(self.sensors, row) if has) for row in sensor_valid.tolist()]
        return torch.tensor([self.by_set.get(name, IDENTITY) for name in sets])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, values in self.by_set.items():
            destination[prefix + name] = torch.tensor(values)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        metadata: dict,
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        self.by_set = {}
        for name, values in own.items():
            if values.shape != (2,) or not set(name.split("+")) <= set(self.sensors):
                errors.append(f"{prefix}{name}: slope and offset of some of {', '.join(self.sensors)} were expected")
            else:
                self.by_set[sensor_set(name.split("+"), self.sensors)] = tuple(values.tolist())
