"""The yardstick: its raster by hand, and a run of the command on a tiny folder."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from astyx_folder import write_astyx

from benchmarks.raster import CHANNELS, RasterNet, rasterize, train
from benchmarks.report import sections
from perception.batch import PointBatch
from perception.config import load_config
from perception.data.opening import open_source
from perception.grid import BEVGrid
from perception.sample import LidarCloud, RadarCloud

ROOT = Path(__file__).parents[1]

GRID = BEVGrid(0.0, 2.0, -1.0, 1.0, z_min_m=-2.0, z_max_m=6.0, cell_size_m=1.0)  # 2 x 2 cells, slices of a metre


def cloud(points: list, samples: list, batch_size: int, kind: type = LidarCloud) -> PointBatch:
    fields = kind.fields
    return PointBatch(torch.tensor(points).reshape(-1, len(fields)), torch.tensor(samples).long(), batch_size, fields)


def test_a_raster_by_hand():
    points = [
        [1.5, -0.5, -2.0, 255.0, 0.0],  # column 1, row 0, the lowest slice
        [1.2, -0.1, 5.9, 51.0, 0.0],  # the same cell, the highest slice
        [1.5, -0.5, 6.0, 255.0, 0.0],  # above the grid
        [0.5, 0.5, 0.5, 0.0, 0.0],  # of the second sample: column 0, row 1, the third slice
    ]
    raster = rasterize(cloud(points, [0, 0, 0, 1], 2), GRID)
    assert raster.shape == (2, CHANNELS["lidar"], 2, 2)
    expected = [1, 0, 0, 0, 0, 0, 0, 1, math.log(3), 7.9 / 8, 0.6]
    assert raster[0, :, 0, 1].tolist() == pytest.approx(expected, abs=1e-6)
    assert raster[1, :, 1, 0].tolist() == pytest.approx([0, 0, 1, 0, 0, 0, 0, 0, math.log(2), 2.5 / 8, 0], abs=1e-6)
    assert (raster.abs().sum(1) > 0).sum() == 2  # all other cells are empty


def test_a_raster_of_radar_by_hand():
    points = [
        [1.5, -0.5, 0.0, 10.0, 5.0, 0.0, 0.0],  # column 1, row 0
        [1.2, -0.1, 99.0, 30.0, -1.0, 4.0, 0.1],  # the same cell: a radar's heights are not believed
        [2.5, 0.0, 0.0, 10.0, 5.0, 0.0, 0.0],  # outside
        [0.5, 0.5, 0.5, -20.0, 0.0, -1.0, 0.0],  # of the second sample: column 0, row 1
    ]
    raster = rasterize(cloud(points, [0, 0, 0, 1], 2, RadarCloud), GRID)
    assert raster.shape == (2, CHANNELS["radar"], 2, 2)
    assert raster[0, :, 0, 1].tolist() == pytest.approx([math.log(3), 1.0, 0.2, 0.2])  # 20 dB of 20; 2 and 2 m/s of 10
    assert raster[1, :, 1, 0].tolist() == pytest.approx([math.log(2), -1.0, 0.0, -0.1])
    assert (raster.abs().sum(1) > 0).sum() == 2


@pytest.mark.parametrize("kind", [LidarCloud, RadarCloud])
def test_no_point_is_an_empty_raster(kind):
    assert not rasterize(cloud([], [], 1, kind), GRID).any()


@pytest.mark.parametrize(("steps", "minutes"), [(2, None), (None, 1e-9)])
def test_the_loss_is_that_of_the_steps_alone(tmp_path, steps, minutes):
    said = []
    bar = SimpleNamespace(update=lambda: None, set_postfix_str=lambda text: said.append(float(text.split()[1])))
    config = load_config("astyx", ["grid.cell_size_m=3.2", "train.sensor_dropout=0"])
    frames = open_source(write_astyx(tmp_path / "data"), config, split="train", image_size=(8, 8))
    report = train(RasterNet(config, ["lidar"]), frames, config, steps, minutes, bar)
    assert len(said) == report["steps"] == (steps or 0)
    assert report["loss"] == (pytest.approx(sum(said) / 2, abs=0.01) if steps else None)


@pytest.mark.parametrize("sensors", ["lidar", "lidar,radar"])
def test_the_command(tmp_path, sensors):
    folder, out = write_astyx(tmp_path / "data"), tmp_path / "scores.json"
    command = [sys.executable, "tools/yardstick.py", "astyx", f"data.root={folder}", "grid.cell_size_m=3.2"]
    command += ["--sensors", sensors, "--split", "score", "--steps", "2", "--json", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["steps"] == 2 and report["ground_truth"]["car"] == 2 and len(report["subsets"]) == 1
    assert "car " in done.stdout and "after 2 steps" in done.stdout
    assert sections(out)["scores"].endswith("2 frames; no weights kept.")
    if sensors == "lidar":
        for option, value, line in (
            ("--steps", "0", "budget: more than 0"),
            ("--sensors", "camera", "--sensors: some of"),
        ):
            done = subprocess.run([*command, option, value], cwd=ROOT, env=environment, capture_output=True, text=True)
            assert done.returncode == 2 and done.stderr.startswith(f"error: {line}")
