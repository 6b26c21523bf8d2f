"""The invented tables of the benchmark are whole and the same every time."""

import json

import numpy as np
import pytest

import perception
from benchmarks import tables
from perception.data.nuscenes_constants import DETECTION_CLASS

COUNTS = {"SCENES": 2, "SAMPLES": 81, "SENSOR_ROWS": 81 * 76 + 100, "ANNOTATIONS": 40 * 18 + 3, "INSTANCES": 40}


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name, count in COUNTS.items():
        monkeypatch.setattr(tables, name, count)
    return tables.make_tables(tmp_path / "first")


def test_numbers_of_rows_and_no_loose_end(root):
    found = {path.stem: json.loads(path.read_text()) for path in (root / tables.VERSION).iterdir()}
    number = {name: len(rows) for name, rows in found.items()}
    assert number["sample"] == 81 and number["sample_annotation"] == 723 and number["instance"] == 40
    assert number["sample_data"] == number["ego_pose"] == COUNTS["SENSOR_ROWS"]
    assert number["scene"] == 2 and number["calibrated_sensor"] == 24 and number["log"] == 68 and number["map"] == 4
    assert sum(row["is_key_frame"] for row in found["sample_data"]) == 81 * 12
    assert len({row["token"] for rows in found.values() for row in rows if len(row["token"]) == 32}) == (
        sum(number.values()) - number["ego_pose"] - number["visibility"]  # a pose has the token of its sensor row
    )


def test_the_same_bytes_and_only_once(root, tmp_path):
    again = tables.make_tables(tmp_path / "second")
    files = sorted(path.relative_to(root) for path in root.rglob("*.json"))
    assert len(files) == 13 and all((root / name).read_bytes() == (again / name).read_bytes() for name in files)
    times = {name: (root / name).stat().st_mtime_ns for name in files}
    assert tables.make_tables(root) == root and times == {name: (root / name).stat().st_mtime_ns for name in files}


def test_the_devkit_and_we_agree_on_them(root):
    nuscenes = pytest.importorskip("nuscenes")
    devkit, dataset = nuscenes.NuScenes(tables.VERSION, str(root), verbose=False), perception.NuScenes(root)
    assert len(dataset) == 81 and dataset.scenes == ["scene-0001", "scene-0002"]
    assert dataset.report["LIDAR_TOP", "sweep file"] == 9 * 81
    frame, sample = dataset[5], devkit.get("sample", dataset.tokens[5])
    names = {row["token"]: row["category_name"] for row in devkit.sample_annotation}
    boxes = [token for token in sample["anns"] if DETECTION_CLASS.get(names[token])]
    assert len(frame.boxes) == len(boxes) > 0
    velocity = [devkit.box_velocity(token) for token in boxes]
    np.testing.assert_allclose(dataset.annotations.velocity[slice(*dataset.annotations.box_offsets[5:7])], velocity)
