"""The whole path through the command lines: simulate, train, evaluate, replay, on a drive of two seconds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import perception

ROOT = Path(__file__).parent.parent
TINY = (
    "encoders.camera.image_size=[64,128]", "encoders.camera.channels=16", "encoders.camera.depth_bins=12",
    "encoders.camera.weights=none", "grid.cell_size_m=1.6", "encoders.lidar.pillar_size_m=1.6",
    "encoders.lidar.point_channels=8", "encoders.radar.point_channels=8", "fusion.channels=16", "fusion.heads=2",
    "head.trunk_channels=[16,16]", "head.channels=16", "data.lidar_sweeps=2", "data.workers=0", "train.epochs=2",
    "train.batch_size=2", "train.init=null",
)  # fmt: skip


def run(tool: str, *arguments, ok: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drive")
    run(
        "simulate.py",
        "--out",
        out,
        "--scenes",
        1,
        "--seconds",
        2,
        "--seed",
        77,
        "--image-size",
        "160x90",
        "--workers",
        1,
    )
    return out


@pytest.fixture(scope="module")
def checkpoint(drive, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "tiny"
    run("train.py", ROOT / "configs" / "sim.yaml", f"data.root={drive}", *TINY, "--out", out)
    return out


def test_evaluate_scores_every_subset(drive, checkpoint, tmp_path):
    figures = tmp_path / "figures.json"
    run("evaluate.py", "--checkpoint", checkpoint, "--root", drive, "--all-subsets", "--json", figures)
    subsets = json.loads(figures.read_text())["subsets"]
    assert set(subsets) == {
        "camera", "radar", "lidar", "camera+radar", "camera+lidar", "radar+lidar", "camera+radar+lidar",
    }  # fmt: skip
    for scores in subsets.values():
        assert {"mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE", "AP", "boxes"} <= set(scores)
        assert len(scores["AP"]) == 10


def test_replay_twice_gives_the_same_detections(drive, checkpoint, tmp_path):
    summaries = []
    for name in ("first", "second"):
        run("replay.py", drive, "--checkpoint", checkpoint, "--out", tmp_path / name, "--outputs", "none")
        summaries.append(json.loads((tmp_path / name / "summary.json").read_text()))
    assert summaries[0]["detections_sha256"] == summaries[1]["detections_sha256"]
    results = [(tmp_path / name / "results.json").read_bytes() for name in ("first", "second")]
    assert results[0] == results[1]


@pytest.mark.long
def test_the_benchmark_of_fusion_adds_rows_and_reports_them(checkpoint, tmp_path):
    config, rows = tmp_path / "benchmark.yaml", tmp_path / "rows.json"
    config.write_text("scenes: 1\nseconds: 1.0\nweather: [fog]\nseed: 5\n")
    common = ("--checkpoint", checkpoint, "--config", config, "--drives", tmp_path / "drives", "--json", rows)
    done = run(
        "benchmark_fusion.py", *common, "--conditions", "clean", "silent:lidar_empty", "mc:beams/3", "--workers", 1
    )
    assert "mc:beams/3" in done.stdout
    run("benchmark_fusion.py", *common, "--conditions", "clean", "only:camera+radar", "--workers", 2)
    found = {row["condition"]: row for row in json.loads(rows.read_text())}
    assert set(found) == {"clean", "silent:lidar_empty", "mc:beams", "only:camera+radar"}
    figures = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    assert [found["silent:lidar_empty"][f] for f in figures] == [found["only:camera+radar"][f] for f in figures]
    assert found["clean"]["run"] == "shipped" and found["clean"]["seed"] == found["clean"]["drives"] == 5


def test_scores_are_calibrated_and_reported(drive, checkpoint, tmp_path):
    copy, report = tmp_path / "calibrated", tmp_path / "report.json"
    shutil.copytree(checkpoint, copy)
    run("calibrate.py", "--checkpoint", copy, "--fit", drive, "--report", drive, "--json", report)
    assert len(json.loads(report.read_text())["subsets"]) == 7
    by_set = perception.load(copy).calibration.by_set
    assert len(by_set) == 7 and by_set["camera+radar+lidar"] != (1.0, 0.0)
    assert perception.load(checkpoint).calibration.by_set == {}


@pytest.mark.parametrize(
    ("tool", "arguments", "named"),
    [
        ("simulate.py", ["--out", "{tmp}/x", "--scenes", "0"], "scenes"),
        ("train.py", ["{tmp}/missing.yaml"], "missing.yaml"),
        ("train.py", ["{configs}/sim.yaml", "train.epoch=3"], "train.epochs"),
        (
            "train.py",
            ["{configs}/sim.yaml", "data.root={tmp}/nowhere", "encoders.camera.weights=none", "--out", "{tmp}/r"],
            "nowhere",
        ),
        (
            "benchmark_fusion.py",
            ["--checkpoint", "sim", "--conditions", "mc:snow", "--json", "{tmp}/r.json"],
            "mc:snow",
        ),
        ("calibrate.py", ["--checkpoint", "nosuch", "--fit", "{tmp}"], "nosuch"),
        ("evaluate.py", ["--checkpoint", "nosuch", "--root", "{tmp}", "--json", "{tmp}/f.json"], "nosuch"),
        ("replay.py", ["{tmp}/nowhere", "--checkpoint", "nosuch", "--out", "{tmp}/o"], "no"),
    ],
)
def test_bad_input_is_one_clear_line(tool, arguments, named, tmp_path):
    done = run(tool, *(a.format(tmp=tmp_path, configs=ROOT / "configs") for a in arguments), ok=False)
    assert done.returncode == 2
    assert named in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1
