"""The benchmark's book-keeping by hand, and its short cut against the detector itself."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nuscenes_world import World
from test_model import make_frame, small_config

import perception
from benchmarks.conditions import all_conditions
from benchmarks.robustness import (
    Drives,
    EncodeOnce,
    chosen_conditions,
    load_drives,
    mean_resistance,
    merge_rows,
    moments,
    table,
)
from perception.config import ConfigError
from perception.errors import PerceptionError
from perception.model.build import build
from perception.sample import LidarCloud

ROOT = Path(__file__).parents[1]


def keys(*patterns: str) -> list[str]:
    return [condition.key for condition in chosen_conditions(patterns)]


def test_conditions_are_chosen_by_name_key_or_pattern():
    assert keys("clean") == ["clean"]
    assert keys("mc:spatial/3") == ["mc:spatial/3"]
    assert keys("mc:spatial") == ["mc:spatial/1", "mc:spatial/2", "mc:spatial/3"]
    assert keys("mc:*/3", "no_radar:*") == keys("mc:*/3") + keys("no_radar:*") and len(keys("mc:*/3")) == 9
    assert keys("*") == [condition.key for condition in all_conditions()]


def test_conditions_come_in_their_own_order_and_once():
    assert keys("mc:fog", "clean", "mc:*", "clean") == ["clean", *keys("mc:*")]
    assert keys() == []


def test_a_pattern_that_matches_nothing_is_named():
    with pytest.raises(PerceptionError, match=r"'mc:snow' matches none of clean, .*mc:fog") as error:
        chosen_conditions(["clean", "mc:snow"])
    assert str(error.value).count("mc:fog,") == 2  # once itself and once without radar, whatever the severities


def row(condition: str, nds: float, severity=0, **other) -> dict:
    start = {"run": "shipped", "fusion": "attention", "condition": condition, "severity": severity, "seed": 1}
    return {**start, "drives": 1000, "NDS": nds, **other}


def test_merging_replaces_the_same_row_and_keeps_the_others(tmp_path):
    path = tmp_path / "rows.json"
    merge_rows(path, [row("clean", 0.5), row("mc:fog", 0.4, severity=1)])
    merge_rows(path, [row("clean", 0.6)])
    assert json.loads(path.read_text()) == [row("clean", 0.6), row("mc:fog", 0.4, severity=1)]
    for key, value in (("run", "ablation"), ("fusion", "concat"), ("severity", 1), ("seed", 2), ("drives", 2000)):
        merge_rows(path, [row("clean", 0.1, **{key: value})])
    rows = json.loads(path.read_text())
    assert len(rows) == 7 and rows[0] == row("clean", 0.6)


def test_mean_resistance_by_hand():
    rows = [
        *(row("mc:fog", 0.4 - 0.1 * severity, severity) for severity in (3, 1, 2)),
        row("clean", 0.4),
        *(row("mc:dark", 0.4, severity) for severity in (1, 2, 3)),
        row("radar:flipped", 0.0),
    ]
    mean, cells = mean_resistance(rows)
    assert cells == {"mc:fog": pytest.approx([0.75, 0.5, 0.25]), "mc:dark": pytest.approx([1, 1, 1])}
    assert mean == pytest.approx(0.75)


def test_a_table_ends_with_the_mean_resistance_where_it_is_known():
    columns = dict.fromkeys(("mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE"), 0.25)
    rows = [row("clean", 0.4, **columns), row("mc:fog", 0.1, 3, **columns)]
    assert table(rows).splitlines()[-1] == "mRA over 1 corruptions 0.2500, worst cell 0.2500"
    assert table(rows).splitlines()[2].split()[:3] == ["mc:fog/3", "0.2500", "0.1000"]
    assert len(table(rows[:1]).splitlines()) == len(table(rows[1:]).splitlines()) == 2
    nothing = row("clean", 0.0, **columns)
    assert len(table([nothing, rows[1]]).splitlines()) == 3, "no share of an NDS of 0"


def test_the_drives_reported_on_are_not_those_calibrated_on():
    drives = load_drives(ROOT / "configs" / "benchmark.yaml")
    assert isinstance(drives, Drives) and drives.scenes > 0 and drives.weather
    assert drives.seed != drives.calibration_seed


def test_a_mistake_in_the_drives_names_the_key(tmp_path):
    (tmp_path / "drives.yaml").write_text("scenes: 2\nweathers: [fog]\n")
    with pytest.raises(ConfigError, match=r"drives\.yaml: unknown key 'weathers'; .*'weather'"):
        load_drives(tmp_path / "drives.yaml")


def test_moments_know_the_frame_before_within_their_scene(tmp_path):
    world = World()
    world.tables["scene"].append({"token": "b", "name": "b"})
    world.tables["sample"].append({**world.row("sample", "s0"), "token": "s2", "scene_token": "b"})
    world.add("lidar2", "s2", "LIDAR_TOP", 1_000_000, world.files["samples/LIDAR_TOP/lidar0"])
    found = list(moments(perception.NuScenes(world.write(tmp_path))))
    assert [index for index, _ in found] == [0, 1, 2]
    tokens = [(m.frame.token, m.previous and m.previous.token, m.first.token) for _, m in found]
    assert tokens == [("s0", None, "s0"), ("s1", "s0", "s0"), ("s2", None, "s2")]


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build(small_config()).eval()


@pytest.fixture
def encoded(detector, monkeypatch) -> list[str]:
    """Grows by the name of each sensor that is encoded."""
    names = []
    for name in ("camera", "radar", "lidar"):
        part = detector.encoders[name]
        monkeypatch.setattr(part, "forward", lambda *a, f=part.forward, n=name: names.append(n) or f(*a))
    return names


def variants(frame):
    fewer = dataclasses.replace(frame, lidar=LidarCloud(frame.lidar.points[::2]))
    black = {name: dataclasses.replace(c, image=np.zeros_like(c.image)) for name, c in frame.cameras.items()}
    return {
        "itself": frame,
        "other lidar": fewer,
        "no radar": frame.only(["camera", "lidar"]),
        "only radar": frame.only(["radar"]),
        "black cameras": dataclasses.replace(frame, cameras=black),
        "empty lidar": dataclasses.replace(frame, lidar=LidarCloud(np.zeros((0, 5)))),
        "itself again": frame,
    }


def test_encoding_once_detects_the_same(detector):
    once = EncodeOnce(detector)
    for name, frame in variants(make_frame()).items():
        wanted, found = detector.detect(frame), once.detect(frame)
        assert len(wanted.scores) > 0
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(found.boxes.center, wanted.boxes.center, rtol=1e-3, atol=1e-3, err_msg=name)


def test_what_variants_share_is_encoded_once(detector, encoded):
    once = EncodeOnce(detector)
    for frame in variants(make_frame()).values():
        once.detect(frame)
    assert sorted(encoded) == ["camera", "lidar", "lidar", "radar"]  # the LiDAR in two versions


def test_what_is_forgotten_is_encoded_again(detector, encoded):
    once, frame = EncodeOnce(detector), make_frame().only(["radar"])
    once.detect(frame)
    once.forget()
    once.detect(frame)
    assert encoded == ["radar", "radar"]
