"""What the drill works on: a small simulated drive, a log of it, and an untrained detector."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = (
    "grid.x_min_m=-12.8", "grid.x_max_m=12.8", "grid.y_min_m=-12.8", "grid.y_max_m=12.8",
    "encoders.camera.image_size=[32,64]", "encoders.camera.weights=none", "encoders.camera.channels=16",
    "encoders.camera.depth_bins=8", "encoders.lidar.point_channels=8", "encoders.radar.point_channels=8",
    "fusion.channels=16", "fusion.heads=2", "head.trunk_channels=[16,16]", "head.channels=16",
)  # fmt: skip


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "perception", *map(str, words)]


class Inputs:
    """Made when they are first needed, in ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def drive(self) -> Path:
        size = ("--seconds", "3", "--image-size", "160x96", "--weather", "day", "--workers", "1")
        self._run("simulate", "--out", self.folder / "drive", "--scenes", "1", *size)
        return self.folder / "drive"

    @cached_property
    def log(self) -> Path:
        self._run("convert", self.drive, "--to", "mcap", "--out", self.folder / "drive.mcap")
        return self.folder / "drive.mcap"

    @cached_property
    def logs(self) -> list[Path]:
        return [Path(shutil.copy(self.log, self.folder / f"{name}.mcap")) for name in ("one", "two", "three")]

    @cached_property
    def detector(self) -> Path:
        from perception.config import load_config
        from perception.model.build import build

        build(load_config(None, TINY)).save(self.folder / "detector")
        return self.folder / "detector"

    def _run(self, *words: object) -> None:
        subprocess.run(command(*words), cwd=ROOT, check=True, capture_output=True)
