"""Imported CenterPoints: beside what their published code computed, and what is refused. Golden outputs are made by

    python tools/original_outputs.py mmdet3d CHECKOUT --out out --golden tests/golden/imported_mmdet3d.json
    python tools/original_outputs.py openpcdet CHECKOUT --out out --golden tests/golden/imported_openpcdet.json

where mmdetection3d and OpenPCDet are installed (docs/weights.md).
"""

import functools
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import perception
from originals.ours import CLASSES, SOURCE, config_of, detector_of, outputs
from originals.seeded import seeded_cloud, seeded_weights
from perception.batch import PointBatch
from perception.cli import run
from perception.cli.evaluate import _flipping
from perception.config import CameraConfig, ConfigError
from perception.errors import PerceptionError
from perception.export.card import Card, ModelError
from perception.export.graphs import exported
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model.build import build
from perception.model.import_weights import SOURCES, WeightsError, import_weights, imported_config, published_shapes
from perception.model.imported_boxes import detections_of_candidates, suppress_overlapping
from perception.model.imported_centerpoint import ImportedPillars, Pillars
from perception.sample import Boxes3D, Frame, LidarCloud, RadarCloud
from perception.task import NUSCENES

ORIGINALS = ("mmdet3d", "openpcdet")
KEY = {"mmdet3d": "state_dict", "openpcdet": "model_state"}
MOUNT = [1.0, 0.5, 1.84, *SE3.from_yaw(-1.5).quaternion.tolist()]


def golden(original: str) -> dict:
    return json.loads((Path(__file__).parent / f"golden/imported_{original}.json").read_text())


@functools.cache
def weights(original: str) -> dict[str, torch.Tensor]:
    shapes = published_shapes(SOURCE[original])
    return {name: torch.from_numpy(value) for name, value in seeded_weights(shapes, 0).items()}


@functools.cache
def detector(original: str):
    return detector_of(original, golden(original)["reach_m"], weights(original))


def checkpoint(path: Path, original: str, state: dict | None = None) -> Path:
    torch.save({"meta": {"epoch": 20}, KEY[original]: weights(original) if state is None else state}, path)
    return path


def test_the_commands_choices_are_the_sources():
    from perception.cli import import_weights as command

    assert set(command.SOURCES) == set(SOURCES) == set(SOURCE.values())


@pytest.mark.parametrize("original", ORIGINALS)
def test_every_tensor_of_the_published_model_is_known(original):
    """The list, with shapes, is that of the model which the published code builds of its published config."""
    shapes = published_shapes(SOURCE[original])
    text = "".join(f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
    assert len(shapes) == golden(original)["keys"]
    assert hashlib.sha256(text.encode()).hexdigest() == golden(original)["keys_sha256"]


@pytest.mark.parametrize("original", ORIGINALS)
def test_stages_and_boxes_are_those_of_the_published_code(original):
    expected = golden(original)
    made, detections = outputs(detector(original), seeded_cloud(6000, expected["reach_m"], 0))
    assert list(made) == list(expected["stages"])
    for name, numbers in expected["stages"].items():
        flat = made[name].reshape(-1).astype(np.float64)
        where = np.linspace(0, len(flat) - 1, 16).astype(int)
        found = [flat.mean(), np.sqrt(np.square(flat).mean()), *flat[where]]
        np.testing.assert_allclose(found, numbers, rtol=1e-4, atol=1e-4 * numbers[1], err_msg=name)
    assert len(detections) == expected["count"]
    best, boxes = np.array(expected["boxes"]), detections.boxes[:20]
    assert [detector(original).task.classes[k] for k in boxes.label] == [CLASSES[int(k)] for k in best[:, 0]]
    np.testing.assert_allclose(detections.scores[:20], best[:, 1], rtol=1e-4)
    found = np.column_stack([boxes.center, boxes.size, boxes.yaw, boxes.velocity])
    np.testing.assert_allclose(found, best[:, 2:], rtol=1e-4, atol=1e-3)


def test_points_come_from_the_ego_frame_and_boxes_return_to_it():
    config, cloud = config_of("mmdet3d", 12.8), seeded_cloud(4000, 12.8, 1)
    section = replace(config.encoders["lidar"], ego_SE3_lidar=MOUNT)
    mounted = build(replace(config, encoders={"lidar": section})).eval()
    mounted.load_state_dict(detector("mmdet3d").state_dict())
    ego_SE3_lidar = SE3.from_pose(MOUNT)
    in_ego = np.column_stack([ego_SE3_lidar.transform(cloud[:, :3].astype(np.float64)), cloud[:, 3:]])
    seen = detector("mmdet3d").detect(Frame("a", 0, lidar=LidarCloud(cloud)))
    found = mounted.detect(Frame("a", 0, lidar=LidarCloud(in_ego.astype(np.float32))))
    assert len(found) > 100
    # A point at the edge of a pillar may change sides when it is moved there and back; few do.
    expected = ego_SE3_lidar.transform(seen.boxes.center)
    apart = np.abs(expected[:, None] - found.boxes.center).max(axis=2)
    nearest = apart.argmin(axis=1)
    same = apart.min(axis=1) < 1e-3
    assert same.mean() > 0.95
    boxes, moved = seen.boxes[same], found.boxes[nearest[same]]
    turned = np.exp(1j * (boxes.yaw - 1.5 - moved.yaw))
    np.testing.assert_allclose(turned, 1, atol=1e-3)
    speed = (boxes.velocity @ [1, 1j]) * np.exp(-1.5j)
    np.testing.assert_allclose(moved.velocity @ [1, 1j], speed, atol=1e-3)
    np.testing.assert_allclose(moved.size, boxes.size, rtol=1e-3)


@pytest.mark.parametrize("original", ORIGINALS)
def test_an_imported_file_is_a_checkpoint_like_any_other(tmp_path, original, capsys):
    shuffled = dict(reversed(weights(original).items()))
    path = checkpoint(tmp_path / "published.pth", original, shuffled)
    run(["import-weights", str(path), "--from", SOURCE[original], "--out", str(tmp_path / "out")])
    out = capsys.readouterr().out
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in out and "non-commercial" in out
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["sha256"] == digest and manifest["imported_from"] == SOURCE[original]
    loaded = perception.load(tmp_path / "out")
    assert loaded.sensors == ("lidar",) and not loaded.remembers
    assert loaded.config.data.lidar_sweeps == 10 and loaded.grid.shape == (128, 128)
    expected = detector(original).state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def removed(state):
    del state["pts_bbox_head.task_heads.3.rot.1.bias"]


def added(state):
    state["pts_bbox_head.task_heads.3.iou.1.bias"] = torch.zeros(1)


def reshaped(state):
    state["pts_neck.deblocks.2.0.weight"] = state["pts_neck.deblocks.2.0.weight"].transpose(0, 1)


def negative(state):
    state["pts_backbone.blocks.0.1.running_var"] = torch.full((64,), -1.0)


def broken(state):
    state["pts_backbone.blocks.0.1.running_var"] = torch.full((64,), torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed, "missing: pts_bbox_head.task_heads.3.rot.1.bias$"),
        (added, "unknown: pts_bbox_head.task_heads.3.iou.1.bias$"),
        (reshaped, r"of another shape: pts_neck.deblocks.2.0.weight \[128, 256, 2, 2\] instead of \[256, 128, 2, 2\]$"),
        (broken, "not finite: pts_backbone.blocks.0.1.running_var$"),
        (negative, "not finite with their normalisation: pts_backbone.blocks.0.0$"),
    ],
)
def test_tensors_that_are_not_the_models_are_refused_by_name(tmp_path, change, message):
    state = dict(weights("mmdet3d"))
    change(state)
    path = checkpoint(tmp_path / "changed.pth", "mmdet3d", state)
    with pytest.raises(WeightsError, match=f"^{path}: the {len(weights('mmdet3d'))} tensors of .*{message}"):
        import_weights(path, SOURCE["mmdet3d"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harm",))


def test_files_that_are_no_checkpoints_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {"pickle": {"state_dict": {"a": Harmful()}}, "list": [torch.zeros(1)]}.items():
        torch.save(content, tmp_path / name)
    torch.save({"model": {}, "epoch": 3}, tmp_path / "keys")
    torch.save({"state_dict": {3: torch.zeros(1)}}, tmp_path / "numbered")
    (tmp_path / "text").write_text("weights")
    (tmp_path / "cut").write_bytes((tmp_path / "keys").read_bytes()[:300])
    checkpoint(tmp_path / "other", "openpcdet")
    for name, message in {
        "pickle": "tensors alone was expected, found a pickle with posix.mkdir",
        "list": "tensors under 'state_dict' were expected, .* found list",
        "keys": "tensors under 'state_dict' were expected, .* found model, epoch",
        "numbered": "tensors under 'state_dict' were expected, .* found state_dict",
        "text": "tensors alone was expected",
        "cut": "tensors alone was expected",
        "other": "tensors under 'state_dict' were expected, .* found meta, model_state",
        "none": "cannot be read: No such file",
    }.items():
        with pytest.raises(WeightsError, match=f"^{tmp_path / name}: .*{message}") as refused:
            import_weights(tmp_path / name, SOURCE["mmdet3d"], tmp_path / "out")
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "harm").exists() and not (tmp_path / "out").exists()
    with pytest.raises(WeightsError, match="found 'mmdet3d'"):
        imported_config("mmdet3d")


def pillars_of(most: Pillars, seed: int = 0) -> ImportedPillars:
    torch.manual_seed(seed)
    return ImportedPillars(BEVGrid(-4, 4, -4, 4, -5, 3, 0.2), SE3(), most)


def encoded(pillars: ImportedPillars, points, scattered: bool = False) -> torch.Tensor:
    cloud = torch.as_tensor(points, dtype=torch.float32).reshape(-1, 5)
    batch = PointBatch(cloud, torch.zeros(len(cloud), dtype=torch.int64), 1, LidarCloud.fields)
    with torch.no_grad():
        return pillars._scattered(cloud) if scattered else pillars(batch).bev


def test_a_pillar_by_hand():
    """Two points in the cell of x 0.2 to 0.4, y 0 to 0.2: offsets from their mean, and from the centre at -1 m."""
    pillars = pillars_of(Pillars((1,), 20, 10))
    weight = torch.zeros(1, 11)
    for column, value in {3: 1.0, 5: 10.0, 7: 100.0, 8: 1000.0, 10: 1e4}.items():
        weight[0, column] = value
    pillars.layers[0].load_state_dict({"weight": weight, "bias": torch.tensor([5.0])})
    found = encoded(pillars, [[0.25, 0.1, -1.0, 3, 0], [0.35, 0.1, -0.8, 4, 0]])
    # intensity 4, +0.05 from the mean in x, +0.1 in z, +0.05 from the centre in x, +0.2 in z
    assert found[0, 0, 20, 21] == pytest.approx(4 + 0.5 + 10 + 50 + 2000 + 5, rel=1e-5)
    assert found.count_nonzero() == 1
    low = encoded(pillars, [[0.25, 0.1, -3.0, 0, 0]])
    assert low[0, 0, 20, 21] == 5.0  # an empty slot, of zeros, is more than this point
    full = pillars_of(Pillars((1,), 1, 10))
    full.load_state_dict(pillars.state_dict())
    assert encoded(full, [[0.25, 0.1, -3.0, 0, 0]])[0, 0, 20, 21] == 0.0  # no slot is empty


@pytest.mark.parametrize("most", [Pillars((16,), 3, 200), Pillars((8, 16), None, None)])
def test_what_is_exported_is_what_is_run(most):
    pillars, points = pillars_of(most), seeded_cloud(3000, 4, 2)
    expected = encoded(pillars, points)
    occupied = int((expected[0] != 0).any(dim=0).sum())
    assert occupied <= 200 if most.most_pillars else occupied > 500
    torch.testing.assert_close(encoded(pillars, points, scattered=True), expected, rtol=1e-5, atol=1e-4)


def test_no_points_are_no_pillars():
    for most in (Pillars((16,), 20, 100), Pillars((8, 16), None, None)):
        assert encoded(pillars_of(most), np.zeros((0, 5))).abs().max() == 0


def boxes_at(centers, sizes, yaws) -> Boxes3D:
    n = len(centers)
    center, size = np.column_stack([centers, np.zeros(n)]), np.column_stack([sizes, np.ones(n)])
    return Boxes3D(center, size, np.array(yaws), np.zeros((n, 2)), np.zeros(n))


@pytest.mark.parametrize(
    ("apart", "yaw", "overlap"),
    [
        ([1.0, 0.0], 0.0, 2 / 6),  # squares of 2 m, half on each other
        ([0.0, 0.0], np.pi / 4, np.sqrt(0.5)),  # an octagon
        ([1.0, 1.0], np.pi / 2, 1 / 7),
        ([2.1, 0.0], 0.0, 0.0),
    ],
)
def test_overlap_by_hand(apart, yaw, overlap):
    boxes = boxes_at([[40.0, -30.0], np.add([40.0, -30.0], apart)], [[2, 2], [2, 2]], [0.3, 0.3 + yaw])
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    boxes.center[1, :2] = boxes.center[0, :2] + apart @ turn
    assert suppress_overlapping(boxes, overlap + 1e-3).tolist() == [0, 1]
    if overlap:
        assert suppress_overlapping(boxes, overlap - 1e-3).tolist() == [0]


def test_what_is_suppressed_suppresses_nothing():
    boxes = boxes_at([[0, 0], [1, 0], [2, 0]], [[2, 2]] * 3, [0.0] * 3)
    assert suppress_overlapping(boxes, 0.2).tolist() == [0, 2]


def candidates(rows) -> dict[str, np.ndarray]:
    """Of (class, x, y, score)."""
    names, x, y, score = zip(*rows)
    n = len(rows)
    label = np.array([NUSCENES.classes.index(name) for name in names])
    return {
        "center": np.column_stack([x, y, np.zeros(n)]).astype(np.float32),
        "log_size": np.zeros((n, 3), np.float32),
        "direction": np.tile(np.float32([0, 1]), (n, 1)),
        "velocity": np.zeros((n, 2), np.float32),
        "score": np.array(score, np.float32),
        "label": label,
    }


def decoded(rows, **changes) -> list[tuple[str, float]]:
    boxes = detector("mmdet3d").heads["boxes"]
    found = detections_of_candidates(candidates(rows), boxes.task, replace(boxes.rules, **changes))
    return [(NUSCENES.classes[label], x) for label, x in zip(found.boxes.label, found.boxes.center[:, 0])]


def test_classes_of_a_group_suppress_each_other_within_its_radius():
    rows = [("truck", 0, 0, 0.5), ("construction_vehicle", 3.4, 0, 0.9), ("car", 0, 0, 0.4), ("truck", -0.2, 0, 0.8)]
    # 12 m2 are a radius of 3.46 m: 3.4 m is within, 3.6 m is not, and a car is of another group
    assert decoded(rows) == [("construction_vehicle", pytest.approx(3.4)), ("truck", pytest.approx(-0.2)), ("car", 0)]
    assert decoded(rows[:3]) == [("construction_vehicle", pytest.approx(3.4)), ("car", 0)]
    # Cubes of a metre: at -0.2 m there is an overlap of 0.8 of 1.2, at 3.4 m there is none.
    kept = [("construction_vehicle", pytest.approx(3.4)), ("truck", pytest.approx(-0.2)), ("car", 0)]
    assert decoded(rows, max_overlap=0.2) == kept
    rows[3] = ("construction_vehicle", -0.2, 0, 0.8)
    assert decoded(rows, max_overlap=0.2) == [kept[0], ("construction_vehicle", pytest.approx(-0.2)), ("car", 0)]


def test_candidates_below_the_threshold_or_far_off_are_none():
    assert decoded([("car", 61.1, 0, 0.5), ("car", 61.3, 0, 0.6), ("car", 0, 0, 0.1)]) == [("car", pytest.approx(61.1))]
    crowd = [("pedestrian", x / 2, 0, 0.9 - x / 1000) for x in range(100)]
    assert len(decoded(crowd)) == 83
    assert len(decoded(crowd, max_detections=7)) == 7


def test_numbers_that_are_not_finite_are_said():
    found = candidates([("car", 0, 0, 0.5)])
    found["velocity"][0, 0] = np.nan
    boxes = detector("mmdet3d").heads["boxes"]
    with pytest.raises(PerceptionError, match="the detector's boxes: finite numbers were expected, found 1 of 12 NaN"):
        detections_of_candidates(found, boxes.task, boxes.rules)


def test_without_its_sensor_it_says_so():
    radar = Frame("f", 0, radar=RadarCloud(np.zeros((1, 7), np.float32)))
    with pytest.raises(PerceptionError, match=r"^frame f: at least one of lidar was expected, found none$"):
        detector("mmdet3d").detect(radar)


def test_configs_that_cannot_be_built_are_refused():
    config = config_of("mmdet3d", 12.8)
    lidar = config.encoders["lidar"]
    for changed, message in {
        "camera": (replace(config, encoders={"camera": CameraConfig(), "lidar": lidar}), "lidar alone was expected"),
        "groups": (replace(config, head=replace(config.head, groups=[])), "head.groups, decoder.kind: groups"),
        "odd": (replace(config, grid=replace(config.grid, x_max_m=13.6)), "grid: an even number of cells"),
        "pose": (
            replace(config, encoders={"lidar": replace(lidar, ego_SE3_lidar=[0.0] * 7)}),
            "encoders.lidar.ego_SE3_lidar: a position and a unit quaternion was expected",
        ),
    }.values():
        with pytest.raises((PerceptionError, ConfigError), match=message):
            build(changed)


@pytest.mark.parametrize("groups", [[["car"]], [["car"], []], [["car", "tram"]], [["car", "car"]], []])
def test_a_card_whose_groups_are_not_the_classes_is_refused(groups):
    card = exported(detector("mmdet3d"))[0]
    assert Card.from_json(card.to_json(), "card") == card
    values = json.loads(card.to_json())
    values["rules"]["groups"] = groups
    with pytest.raises(ModelError, match=r"^card: .*every class in one group was expected, found "):
        Card.from_json(json.dumps(values), "card")


def test_it_is_not_flipped(tmp_path):
    detector("mmdet3d").save(tmp_path)
    with pytest.raises(PerceptionError, match=r"^--flips: published: a detector trained here was expected"):
        _flipping("published", perception.load(tmp_path))


@pytest.mark.long
def test_an_exported_model_finds_the_same(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from perception.export import load
    from perception.export.verify import parity
    from perception.export.write import export

    frames = [Frame(str(i), 0, lidar=LidarCloud(seeded_cloud(4000, 12.8, i))) for i in range(2)]
    for original in ORIGINALS:
        export(detector(original), tmp_path / original, "onnx")
        (row,) = parity(detector(original), load(tmp_path / original), frames)
        assert row["detections"] > 500 and row["same"] == row["detections"], row
