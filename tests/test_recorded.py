"""The benchmark on recordings: its conditions, counts and tables by hand, and both tools on a tiny folder."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from astyx_folder import write_astyx
from frames import changed_parts, make_frame

from benchmarks.conditions import Moment, recorded_conditions
from benchmarks.recorded import boxes_on_nothing
from benchmarks.registration import quantiles
from benchmarks.report import recorded_tables, sections
from benchmarks.robustness import EncodeOnce
from perception.config import load_config
from perception.model.build import build
from perception.sample import Boxes3D, Detections

ROOT = Path(__file__).parents[1]
SENSORS = ("camera", "radar", "lidar")
FULL = make_frame(2)
CONDITIONS = {condition.key: condition for condition in recorded_conditions(SENSORS)}


def boxes(*xy) -> Boxes3D:
    n = len(xy)
    center = np.column_stack([np.array(xy, float).reshape(n, 2), np.zeros(n)])
    return Boxes3D(center, np.ones((n, 3)), np.zeros(n), np.zeros((n, 2)), np.arange(n))


def test_boxes_on_nothing_by_hand():
    truth = boxes((10, 0), (20, 0))
    found = boxes((10, 1.9), (20, 2.1), (48, 0), (51, 0), (30, 0), (30, 0))
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.31, 0.3])
    # The first is near a car, though of another class; the fourth is beyond 50 m, and the last is not above 0.3.
    assert boxes_on_nothing(Detections(found, scores), truth) == 3
    assert boxes_on_nothing(Detections(found, scores), Boxes3D.empty()) == 4
    assert boxes_on_nothing(Detections(Boxes3D.empty(), np.zeros(0)), truth) == 0


def test_conditions_are_those_of_the_sensors_there_are():
    assert set(CONDITIONS) == {
        *("clean", "only:camera", "only:radar", "only:lidar"),
        *("only:camera+radar", "only:camera+lidar", "only:radar+lidar"),
        *("lidar:1deg", "lidar:2deg", "lidar:3deg", "lidar:0.2m", "lidar:0.5m", "lidar:1m", "lidar:2deg+0.5m"),
        *("extrinsic:all_1deg", "extrinsic:all_2deg", "extrinsic:all_5deg"),
        *("silent:camera_black", "silent:radar_empty", "silent:lidar_empty"),
    }
    two = {condition.key for condition in recorded_conditions(("radar", "camera"))}
    assert {key for key in two if key.startswith("only:")} == {"only:radar", "only:camera"}
    assert not any("lidar" in key for key in two)
    assert [condition.key for condition in recorded_conditions(("radar",))] == ["clean"]


@pytest.mark.parametrize(
    ("key", "turn_deg", "shift_m"), [("lidar:3deg", 3, 0), ("lidar:0.2m", 0, 0.2), ("lidar:2deg+0.5m", 2, 0.5)]
)
def test_a_misplaced_lidar_by_hand(key, turn_deg, shift_m):
    """Distances from the vehicle's axis turn and shift; heights, intensities and the other sensors stay."""
    after = CONDITIONS[key].apply(Moment(FULL, None, FULL))
    assert changed_parts(FULL, after) == {"lidar"}
    old, new = FULL.lidar.points.astype(float), after.lidar.points.astype(float)
    np.testing.assert_allclose(new[:, 2:], old[:, 2:], atol=1e-4)
    x, y = (points[:, 0] + 1j * points[:, 1] for points in (old, new))
    turn, shift = np.polyfit(x, y, 1)
    assert abs(np.rad2deg(np.angle(turn))) == pytest.approx(turn_deg, abs=1e-3) and abs(turn) == pytest.approx(1)
    assert abs(shift) == pytest.approx(shift_m, abs=1e-4)
    np.testing.assert_allclose(y, turn * x + shift, atol=1e-4)


def row(condition="clean", sensors="camera+radar+lidar", car=0.5, far=0.5, seed=0, **other) -> dict:
    ap = {"car": car, "bus": 0.0}
    start = {"checkpoint": f"runs/{seed}", "weights_sha256": "0123456789abcdef", "seed": seed, "condition": condition}
    counts = {"frames": 4, "ground_truth": {"car": 7, "bus": 0}, "mAP": car / 2, "mAP_3D": car / 2}
    places = {"0-20 m": {"car": car}, "20-35 m": {"car": far}, "35-50 m": {}}
    return {**start, **counts, "sensors": sensors, "AP": ap, "AP_3D": ap, "AP_at": places, "on_nothing": 1.5, **other}


def test_tables_by_hand():
    """Two seeds; the gain is taken seed by seed."""
    rows = []
    for seed, ap in ((0, 0.5), (1, 0.6)):
        rows += [row(car=ap, seed=seed), row("only:camera+lidar", "camera+lidar", car=0.4, far=0.2, seed=seed)]
        rows += [row("lidar:1m", car=ap - 0.1, seed=seed), row("silent:radar_empty", car=0.3, seed=seed)]
    lines = recorded_tables(rows).splitlines()
    assert "| sensors | cars, AP | cars, AP 3D | mAP | boxes on nothing |" in lines
    clean = "| camera+radar+lidar | 0.550 ± 0.071 | 0.550 ± 0.071 | 0.275 ± 0.035 | 1.500 ± 0.000 |"
    assert clean in lines
    assert "| lidar:1m | 0.450 ± 0.071 | 0.450 ± 0.071 | -10.0 ± 0.0 |" in lines
    silent = "| radar_empty | 0.300 ± 0.000 | 0.300 ± 0.000 | 0.400 ± 0.000 | 0.400 ± 0.000 | -10.0 ± 0.0 |"
    assert silent in lines
    assert "| camera+radar+lidar | 0-20 m | 0.550 ± 0.071 | 0.400 ± 0.000 | +15.0 ± 7.1 |" in lines
    assert "| camera+radar+lidar | 20-35 m | 0.500 ± 0.000 | 0.200 ± 0.000 | +30.0 ± 0.0 |" in lines
    assert "| camera+radar+lidar | 35-50 m | – | – | – |" in lines
    assert lines[-1] == "4 frames, 7 cars; training seeds 0 (`0123456789ab`), 1 (`0123456789ab`)."


def test_a_class_that_no_camera_sees_has_a_dash():
    lines = recorded_tables([row(AP_3D={"car": None, "bus": None}, seed=None)]).splitlines()
    assert "| camera+radar+lidar | 0.500 | – | 0.250 | 1.500 |" in lines
    assert lines[-1] == "4 frames, 7 cars; training seeds unknown (`0123456789ab`)."


def test_a_document_has_them_where_the_name_of_the_file_stands(tmp_path):
    path = tmp_path / "astyx.json"
    path.write_text(json.dumps([row()]))
    assert sections(path) == {"astyx": recorded_tables([row()])}
    assert "Misplaced" not in sections(path)["astyx"]  # which was not asked for


def test_how_far_sensors_are_moved_by_hand():
    """Of 0, 1, ... 20 hundredths of (3 m, 4 m) and of a degree, either way; the sensor was absent once."""
    steps = np.arange(21) * np.tile([1, -1], 11)[:21]
    motions = np.column_stack([np.deg2rad(0.01 * steps), 0.03 * steps, 0.04 * steps])
    found = quantiles(np.concatenate([motions, np.full((1, 3), np.nan)]))
    assert found["shift_m"] == pytest.approx({"median": 0.5, "p95": 0.95, "max": 1.0})
    assert found["turn_deg"] == pytest.approx({"median": 0.1, "p95": 0.19, "max": 0.2})
    assert quantiles(np.full((2, 3), np.nan)) == {"shift_m": {}, "turn_deg": {}}


def tool(monkeypatch, name: str, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
    return exit_.value.code or 0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    small = ["grid.cell_size_m=3.2", "encoders.lidar.pillar_size_m=3.2", "fusion.channels=8", "fusion.heads=1"]
    small += ["head.trunk_channels=[8]", "head.channels=8", "encoders.camera.image_size=[32,64]"]
    small += ["encoders.camera.weights=none", "encoders.camera.channels=16", "encoders.camera.depth_bins=8"]
    folder = tmp_path_factory.mktemp("runs") / "astyx"
    build(load_config("astyx", small)).eval().save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_astyx(tmp_path_factory.mktemp("astyx") / "data")


def test_the_tool_on_a_tiny_folder(checkpoint, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "astyx.json"
    arguments = ("--checkpoint", checkpoint, "--root", data, "--split", "score", "--json", out, "--conditions")
    wanted = ("clean", "only:radar+lidar", "silent:*", "lidar:1m")
    found, detect = [], EncodeOnce.detect
    monkeypatch.setattr(EncodeOnce, "detect", lambda once, frame: found.append(detect(once, frame)) or found[-1])
    assert tool(monkeypatch, "benchmark_real", *arguments, *wanted) == 0
    rows = {row["condition"]: row for row in json.loads(out.read_text())}
    assert list(rows) == [
        *("clean", "only:radar+lidar", "lidar:1m"),
        *("silent:camera_black", "silent:radar_empty", "silent:lidar_empty"),
    ]
    assert rows["clean"]["frames"] == 2 and rows["clean"]["ground_truth"]["car"] == 2
    assert rows["only:radar+lidar"]["sensors"] == "radar+lidar" and rows["lidar:1m"]["sensors"] == "camera+radar+lidar"
    clean, without, _, black = (np.concatenate([each.scores for each in found[i::6]]) for i in range(4))
    np.testing.assert_array_equal(black, without)
    assert len(black) and not np.array_equal(clean, without)
    assert recorded_tables(list(rows.values())) in capsys.readouterr().out
    assert tool(monkeypatch, "benchmark_real", *arguments, "lidar:9m") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --conditions: 'lidar:9m' matches none of clean,")


def test_the_registration_on_a_tiny_folder(checkpoint, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "registration.json"
    arguments = ("--checkpoint", checkpoint, "--root", data, "--split", "score", "--json", out)
    assert tool(monkeypatch, "measure_registration", *arguments) == 0
    report = json.loads(out.read_text())
    assert report["frames"] == 2 and list(report["sensors"]) == list(SENSORS)
    assert all(set(found["shift_m"]) == {"median", "p95", "max"} for found in report["sensors"].values())
    assert sections(out)["registration"] in capsys.readouterr().out


def test_the_table_of_the_registration_by_hand(tmp_path):
    sizes = {"median": 0.125, "p95": 0.25, "max": 0.5}
    moved = {"radar": {"shift_m": sizes, "turn_deg": sizes}, "lidar": {"shift_m": {}, "turn_deg": {}}}
    path = tmp_path / "moved.json"
    path.write_text(json.dumps({"weights_sha256": "0123456789abcdef", "frames": 3, "sensors": moved}))
    lines = sections(path)["moved"].splitlines()
    assert lines[0] == "| sensor | median, m | p95, m | max, m | median, ° | p95, ° | max, ° |"
    assert lines[2] == "| radar | 0.125 | 0.250 | 0.500 | 0.125 | 0.250 | 0.500 |"
    assert lines[3:] == ["| lidar | – | – | – | – | – | – |", "", "3 frames; weights `0123456789ab`."]
