"""The LiDAR yardstick: its raster by hand, and a run of the command on a tiny folder."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from astyx_folder import write_astyx

from benchmarks.raster import CHANNELS, rasterize
from perception.batch import PointBatch
from perception.grid import BEVGrid

ROOT = Path(__file__).parents[1]

GRID = BEVGrid(0.0, 2.0, -1.0, 1.0, z_min_m=-2.0, z_max_m=6.0, cell_size_m=1.0)  # 2 x 2 cells, slices of a metre


def cloud(points: list, samples: list, batch_size: int) -> PointBatch:
    fields = ("x", "y", "z", "intensity", "age_s")
    return PointBatch(torch.tensor(points).reshape(-1, 5), torch.tensor(samples).long(), batch_size, fields)


def test_a_raster_by_hand():
    points = [
        [1.5, -0.5, -2.0, 255.0, 0.0],  # column 1, row 0, the lowest slice
        [1.2, -0.1, 5.9, 51.0, 0.0],  # the same cell, the highest slice
        [1.5, -0.5, 6.0, 255.0, 0.0],  # above the grid
        [0.5, 0.5, 0.5, 0.0, 0.0],  # of the second sample: column 0, row 1, the third slice
    ]
    raster = rasterize(cloud(points, [0, 0, 0, 1], 2), GRID)
    assert raster.shape == (2, CHANNELS, 2, 2)
    expected = [1, 0, 0, 0, 0, 0, 0, 1, math.log(3), 7.9 / 8, 0.6]
    assert raster[0, :, 0, 1].tolist() == pytest.approx(expected, abs=1e-6)
    assert raster[1, :, 1, 0].tolist() == pytest.approx([0, 0, 1, 0, 0, 0, 0, 0, math.log(2), 2.5 / 8, 0], abs=1e-6)
    assert (raster.abs().sum(1) > 0).sum() == 2  # all other cells are empty


def test_no_point_is_an_empty_raster():
    assert not rasterize(cloud([], [], 1), GRID).any()


def test_the_command(tmp_path):
    folder, out = write_astyx(tmp_path / "data"), tmp_path / "scores.json"
    command = [sys.executable, "tools/yardstick.py", "astyx", f"data.root={folder}", "grid.cell_size_m=3.2"]
    command += ["--split", "score", "--steps", "2", "--json", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["steps"] == 2 and report["ground_truth"]["car"] == 2
    assert "car " in done.stdout and "after 2 steps" in done.stdout
    none = subprocess.run([*command, "--steps", "0"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert none.returncode == 2 and none.stderr.startswith("error: budget: more than 0 was expected")
