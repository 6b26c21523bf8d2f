"""The official metric: metrics one can derive by hand on a small drive, and parity with the plain devkit."""

import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="the official metric needs the nuscenes extra")
from nuscenes import NuScenes as Devkit
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval

import perception.sim
from perception.config import load_config
from perception.data.nuscenes import NuScenes
from perception.errors import PerceptionError
from perception.eval.evaluate import (
    EvaluationError,
    evaluate,
    evaluate_subsets,
    score_file,
    table,
)
from perception.geometry import SE3, wrap_angle
from perception.model.build import build
from perception.model.detector import Detector
from perception.sample import Boxes3D, Detections, Frame, RadarCloud, SampleError, sensor_set, sensor_sets
from perception.task import ATTRIBUTES, CLASSES, NUSCENES

CATEGORIES = {
    "vehicle.car": "vehicle.moving",
    "human.pedestrian.adult": "pedestrian.standing",
    "vehicle.truck": "vehicle.moving",
    "vehicle.bus.rigid": "vehicle.stopped",
    "vehicle.trailer": "vehicle.parked",
    "vehicle.construction": "vehicle.parked",
    "vehicle.motorcycle": "cycle.with_rider",
    "vehicle.bicycle": "cycle.without_rider",
    "movable_object.barrier": None,
    "movable_object.trafficcone": None,
    "static_object.bicycle_rack": None,
}
SENSORS = ("camera", "radar", "lidar")
WORLD_SE3_EGO = SE3.from_yaw(0.5, (600.0, 1600.0, 0.0))
SIZE = (4.0, 2.0, 1.5)  # length, width, height


@dataclasses.dataclass
class Thing:
    """One annotated object, which keeps its velocity (ego axes) from sample to sample."""

    category: str
    x: float
    y: float
    velocity: tuple[float, float] = (0.0, 0.0)
    lidar_points: int = 5
    radar_points: int = 0


# Two cars, a pedestrian, a barrier and a cone that count; the other four do not, each for its own reason.
DRIVE = (
    Thing("vehicle.car", 10.0, 0.0, velocity=(2.0, 1.0)),
    Thing("vehicle.car", 25.0, 5.0, lidar_points=0, radar_points=1),
    Thing("human.pedestrian.adult", 5.0, 10.0),
    Thing("movable_object.barrier", -10.0, 10.0),
    Thing("movable_object.trafficcone", -10.0, -10.0),
    Thing("vehicle.car", 20.0, -20.0, lidar_points=0),
    Thing("vehicle.car", 51.0, 0.0),
    Thing("static_object.bicycle_rack", 0.0, -20.0),
    Thing("vehicle.bicycle", 0.5, -20.0),
)


def write_drive(root: Path, things=DRIVE, samples: int = 3, version: str = "v1.0-mini", scene: str = "scene-0103"):
    """A folder in the nuScenes layout: the ego stands, things move, half a second between samples."""
    tables = {name: [] for name in ("instance", "ego_pose", "sample", "sample_data", "sample_annotation")}
    tables["category"] = [{"token": name, "name": name} for name in CATEGORIES]
    tables["attribute"] = [{"token": name, "name": name} for name in ATTRIBUTES]
    tables["visibility"] = [{"token": "4", "level": "v80-100"}]
    tables["sensor"] = [{"token": "lidar", "channel": "LIDAR_TOP", "modality": "lidar"}]
    mount = {"translation": [1.0, 0.0, 1.8], "rotation": [1.0, 0.0, 0.0, 0.0], "camera_intrinsic": []}
    tables["calibrated_sensor"] = [{"token": "lidar", "sensor_token": "lidar", **mount}]
    tables["log"] = [{"token": "log", "location": "here"}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "filename": "maps/map.png"}]
    tables["scene"] = [{"token": "scene", "name": scene, "log_token": "log", "first_sample_token": "sample0"}]
    pose = {"translation": list(WORLD_SE3_EGO.translation), "rotation": list(WORLD_SE3_EGO.quaternion)}
    for s in range(samples):
        token, time_us = f"sample{s}", 1_500_000_000_000_000 + 500_000 * s
        neighbours = {"prev": f"sample{s - 1}" if s else "", "next": f"sample{s + 1}" if s + 1 < samples else ""}
        tables["sample"].append({"token": token, "timestamp": time_us, "scene_token": "scene", **neighbours})
        tables["ego_pose"].append({"token": token, "timestamp": time_us, **pose})
        keys = {"sample_token": token, "ego_pose_token": token, "calibrated_sensor_token": "lidar"}
        file = {"filename": f"samples/LIDAR_TOP/{s}.bin", "fileformat": "bin", "width": 0, "height": 0}
        row = {"token": token, "timestamp": time_us, "is_key_frame": True, "prev": "", "next": "", **keys, **file}
        tables["sample_data"].append(row)
        (root / "samples" / "LIDAR_TOP").mkdir(parents=True, exist_ok=True)
        np.array([20.0, 0.0, 0.0, 10.0, 0.0], np.float32).tofile(root / file["filename"])
    for t, thing in enumerate(things):
        tables["instance"].append({"token": f"thing{t}", "category_token": thing.category})
        attribute = CATEGORIES[thing.category]
        for s in range(samples):
            center = (thing.x + 0.5 * s * thing.velocity[0], thing.y + 0.5 * s * thing.velocity[1], 0.0)
            record = {
                "token": f"thing{t}/{s}",
                "sample_token": f"sample{s}",
                "instance_token": f"thing{t}",
                "attribute_tokens": [attribute] if attribute else [],
                "visibility_token": "4",
                "translation": WORLD_SE3_EGO.transform(center).tolist(),
                "size": [SIZE[1], SIZE[0], SIZE[2]],
                "rotation": WORLD_SE3_EGO.quaternion.tolist(),
                "num_lidar_pts": thing.lidar_points,
                "num_radar_pts": thing.radar_points,
                "prev": f"thing{t}/{s - 1}" if s else "",
                "next": f"thing{t}/{s + 1}" if s + 1 < samples else "",
            }
            tables["sample_annotation"].append(record)
    (root / version).mkdir(parents=True)
    (root / "maps").mkdir()
    (root / "maps" / "map.png").touch()
    for name, records in tables.items():
        (root / version / f"{name}.json").write_text(json.dumps(records))


class Oracle:
    """Finds what some sensor hit, which is all that the metric asks for, changed by ``change(boxes) -> boxes``."""

    sensors = SENSORS

    def __init__(self, change=lambda boxes: boxes, task=NUSCENES):
        self.change, self.task = change, task

    def detect(self, frame: Frame) -> Detections:
        hit = frame.boxes.num_lidar_points + frame.boxes.num_radar_points > 0
        boxes = self.change(frame.boxes[hit])
        return Detections(boxes, np.linspace(0.9, 0.1, len(boxes)))


class FrameList(list):
    """A source that is no folder."""

    @property
    def tokens(self):
        return [frame.token for frame in self]


def changed(**changes):
    """A change of some fields, each a function of the old values."""
    return lambda boxes: dataclasses.replace(boxes, **{k: f(getattr(boxes, k)) for k, f in changes.items()})


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> NuScenes:
    root = tmp_path_factory.mktemp("drive")
    write_drive(root)
    return NuScenes(root)


def test_a_perfect_detector(drive):
    report = evaluate_subsets(Oracle(), drive, [["lidar"]])
    metrics = report["subsets"]["lidar"]
    counts = {"car": 6, "pedestrian": 3, "barrier": 3, "traffic_cone": 3}
    assert {name: count for name, count in report["ground_truth"].items() if count} == counts
    assert metrics["AP"] == pytest.approx({name: float(name in counts) for name in CLASSES})
    assert metrics["mAP"] == pytest.approx(0.4) and metrics["mAP_present"] == pytest.approx(1.0)
    known = {*counts, "bicycle"}  # to KITTI racks are nothing special
    assert metrics["AP_3D"] == {name: 1.0 if name in known else None for name in CLASSES} and metrics["mAP_3D"] == 1
    assert metrics["boxes"] == 3 * 7  # the bicycle rack is no class, and one car is hit by nothing
    for errors in (metrics["errors"][name] for name in counts):
        assert all(value is None or value < 1e-6 for value in errors.values())
    # The six classes without ground truth count as missed, in every error that is defined for them.
    assert metrics["mATE"] == pytest.approx(6 / 10) and metrics["mAOE"] == pytest.approx(6 / 9)
    assert metrics["mAVE"] == pytest.approx(6 / 8)
    assert metrics["errors"]["traffic_cone"]["AVE"] is None and metrics["errors"]["barrier"]["AAE"] is None


@pytest.mark.parametrize(
    ("shift", "ap", "ate"), [(0.4, 1.0, 0.4), (0.9, 0.75, 0.9), (1.001, 0.5, 1.001), (2.1, 0.25, 1.0), (4.1, 0.0, 1.0)]
)
def test_shifted_boxes_lose_one_threshold_after_the_other(drive, shift, ap, ate):
    """Thresholds are 0.5, 1, 2 and 4 m; the error is taken at 2 m and is 1 where nothing matches.

    Cars are 2 m wide: shifted by 0.4 m to the side they overlap by 1.6 of 2.4, by 0.9 m by less than half.
    """
    metrics = evaluate(Oracle(changed(center=lambda center: center + [0.0, shift, 0.0])), drive)
    assert metrics["AP"]["car"] == pytest.approx(ap)
    assert metrics["errors"]["car"]["ATE"] == pytest.approx(ate)
    assert metrics["AP_3D"]["car"] == float(shift == 0.4)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"yaw": lambda yaw: wrap_angle(yaw + np.pi)}, "AOE", {"car": np.pi, "pedestrian": np.pi, "barrier": 0.0}),
        ({"yaw": lambda yaw: yaw - np.pi / 6}, "AOE", {"car": np.pi / 6, "barrier": np.pi / 6}),
        ({"velocity": lambda velocity: velocity + [3.0, 4.0]}, "AVE", {"car": 5.0, "pedestrian": 5.0}),
        ({"size": lambda size: size / 2}, "ASE", {"car": 1 - 1 / 8, "traffic_cone": 1 - 1 / 8}),
        ({"attribute": lambda a: np.where(a == 0, 2, a)}, "AAE", {"car": 1.0, "pedestrian": 0.0}),
        # An attribute that is not said is guessed from the speed: right for the moving car, not for the other.
        ({"attribute": lambda a: np.full_like(a, -1)}, "AAE", {"pedestrian": 0.0}),
    ],
)
def test_errors_by_hand(drive, change, error, expected):
    metrics = evaluate(Oracle(changed(**change)), drive)
    assert metrics["AP"]["car"] == pytest.approx(1.0)
    for name, value in expected.items():
        assert metrics["errors"][name][error] == pytest.approx(value, abs=1e-6)


def test_half_of_the_cars(drive):
    """Half of the recall at full precision: 40 of the 90 recall steps above a tenth, and the step between."""
    metrics = evaluate(Oracle(lambda boxes: boxes[boxes.center[:, 0] < 15]), drive)
    assert metrics["AP"]["car"] == pytest.approx(40 / 90, abs=0.01)
    assert metrics["AP"]["pedestrian"] == pytest.approx(1.0)


@pytest.mark.parametrize("wrong_first", [False, True])
def test_a_wrong_box_costs_only_what_it_outscores(drive, wrong_first):
    """A right and a wrong box for each of six cars: with the wrong ones first, k found is a precision of k / (6 + k).

    Otherwise precision is 1, up to the last step of recall, at which the devkit reads it after all boxes.
    """

    def add_wrong(boxes):
        right = boxes[(boxes.label == 0) & (boxes.center[:, 0] < 50)]
        wrong = dataclasses.replace(right, center=right.center + [0.0, 15.0, 0.0])
        both = [wrong, right] if wrong_first else [right, wrong]
        return Boxes3D(**{k: np.concatenate([vars(boxes)[k] for boxes in both]) for k in vars(right)})

    k, recall = np.arange(7), np.linspace(0.11, 1.0, 90)
    precision = np.interp(recall, k / 6, k / (6 + k)) if wrong_first else np.append(np.ones(89), 0.5)
    expected = (precision - 0.1).clip(0).mean() / 0.9
    assert evaluate(Oracle(add_wrong), drive)["AP"]["car"] == pytest.approx(expected)


def test_an_empty_submission_scores_zero(drive):
    metrics = evaluate(Oracle(lambda boxes: boxes[:0]), drive)
    assert metrics["mAP"] == metrics["NDS"] == metrics["mAP_present"] == 0.0
    assert metrics["mATE"] == 1.0 and metrics["boxes"] == 0


def test_a_class_of_which_there_is_none(drive):
    metrics = evaluate(Oracle(changed(label=lambda label: np.full_like(label, CLASSES.index("bus")))), drive)
    assert metrics["mAP"] == 0.0 and metrics["errors"]["bus"]["ATE"] == 1.0


def test_subsets_see_their_sensors_only(drive, tmp_path):
    """The detector finds all with radar, nothing without; no frame has a camera."""
    seen = []

    class NeedsRadar(Oracle):
        def detect(self, frame):
            seen.append(frame.sensors)
            return super().detect(frame if frame.radar else dataclasses.replace(frame, boxes=Boxes3D.empty()))

    class WithRadar(NuScenes):
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), radar=RadarCloud(np.zeros((0, 7))))

    report = evaluate_subsets(NeedsRadar(), WithRadar(drive.root), results=tmp_path / "results")
    found = {name for name, metrics in report["subsets"].items() if metrics["mAP_present"] > 0.99}
    missed = {name for name, metrics in report["subsets"].items() if metrics["mAP_present"] == 0.0}
    assert found == {"camera+radar+lidar", "camera+radar", "radar+lidar", "radar"}
    assert missed == {"camera+lidar", "camera", "lidar"}
    assert set(seen) == {("radar", "lidar"), ("radar",), ("lidar",)}  # a frame without any of the sensors is not shown
    assert report["frames_with"] == {"camera": 0, "radar": 3, "lidar": 3}
    assert len(list((tmp_path / "results").iterdir())) == 7
    json.dumps(report, allow_nan=False)
    assert table(report).count("\n") == 8 and "3 frames (0 with camera" in table(report)


def test_frames_that_cannot_be_read_are_left_out_and_counted(tmp_path):
    write_drive(tmp_path)
    (tmp_path / "samples" / "LIDAR_TOP" / "1.bin").write_bytes(b"damaged")
    report = evaluate_subsets(Oracle(), NuScenes(tmp_path, on_error="skip"), [["lidar"]])
    assert (report["frames"], report["skipped"], report["ground_truth"]["car"]) == (2, 1, 4)
    assert report["subsets"]["lidar"]["mAP_present"] == pytest.approx(1.0)
    for s in range(3):
        (tmp_path / "samples" / "LIDAR_TOP" / f"{s}.bin").write_bytes(b"damaged")
    with pytest.raises(EvaluationError, match="none of the 3 frames"):
        evaluate(Oracle(), NuScenes(tmp_path, on_error="skip"))


def test_rigs_without_lidar_top_are_scored(tmp_path):
    """Range is measured from the ego pose at the reference time, of whatever row; the devkit's is of LIDAR_TOP."""
    write_drive(tmp_path)
    table = tmp_path / "v1.0-mini" / "sensor.json"
    table.write_text(table.read_text().replace("LIDAR_TOP", "LIDAR_FRONT"))
    dataset = NuScenes(tmp_path)
    np.testing.assert_array_equal(dataset.ego_positions, [WORLD_SE3_EGO.translation] * 3)
    report = evaluate_subsets(Oracle(), dataset, [["lidar"]])
    assert report["ground_truth"]["car"] == 6  # as with LIDAR_TOP: those at 51 m and without a point do not count
    assert report["subsets"]["lidar"]["mAP_present"] == pytest.approx(1.0)
    with pytest.raises(PerceptionError, match=r"v1\.0-mini: a row for LIDAR_TOP in every sample.*was expected"):
        evaluate(Oracle(), dataset, official=True)


def test_a_sample_without_keyframe_or_any_row(tmp_path):
    """The first has an ego pose, of the sweep; its objects are missed. The second has none, and cannot be read."""
    write_drive(tmp_path)
    path = tmp_path / "v1.0-mini" / "sample_data.json"
    rows = json.loads(path.read_text())
    rows[1]["is_key_frame"] = False
    path.write_text(json.dumps(rows))
    report = evaluate_subsets(Oracle(), NuScenes(tmp_path, on_error="skip"), [["lidar"]])
    assert (report["frames"], report["skipped"], report["ground_truth"]["car"]) == (3, 0, 6)
    assert report["subsets"]["lidar"]["breakdown"]["visibility"]["v80-100"] == pytest.approx(2 / 3)
    path.write_text(json.dumps([rows[0], rows[2]]))
    dataset = NuScenes(tmp_path, on_error="skip")
    report = evaluate_subsets(Oracle(), dataset, [["lidar"]])
    assert (report["frames"], report["skipped"], report["ground_truth"]["car"]) == (2, 1, 4)
    with pytest.raises(EvaluationError, match=r"sample sample1: a row in sample_data.*found none"):
        score_file(tmp_path / "x.json", dataset)


def test_what_is_no_source_frame_or_detection_is_named(drive):
    class Silent(Oracle):
        def detect(self, frame):
            return None

    frames = FrameList(drive.frames())
    for detector, source, message in (
        (Oracle(), None, "a source of frames, with tokens, was expected, found NoneType"),
        (Oracle(), list(frames), "a source of frames, with tokens, was expected, found list"),
        (Silent(), frames, "detect: Detections were expected, found NoneType"),
        (Oracle(), FrameList([*frames[:1], SimpleNamespace(token="x")]), "frame 1: a Frame was expected"),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluate(detector, source)


def test_any_version_and_scene_name_will_do(tmp_path):
    write_drive(tmp_path, version="v1.0-sim", scene="sim-7")
    assert evaluate(Oracle(), NuScenes(tmp_path))["mAP_present"] == pytest.approx(1.0)


def test_a_drive_without_ground_truth_is_named(tmp_path):
    write_drive(tmp_path, things=())
    with pytest.raises(EvaluationError, match=r"v1\.0-mini.*no annotated box in 3 frames"):
        evaluate(Oracle(), NuScenes(tmp_path))


@pytest.mark.parametrize(
    ("thing", "counts"),
    [
        (Thing("vehicle.car", 80.0, 0.0), "0 without a LiDAR or radar point.* 3 beyond the range"),
        (Thing("vehicle.car", 10.0, 0.0, lidar_points=0), "3 without a LiDAR or radar point.* 0 beyond the range"),
    ],
)
def test_nothing_that_counts_is_an_error_with_counts(tmp_path, thing, counts):
    write_drive(tmp_path, things=[thing])
    dataset = NuScenes(tmp_path)
    for source in (dataset, FrameList(list(dataset.frames()))):
        with pytest.raises(EvaluationError, match=f"none of 3 annotated boxes is scored: {counts}"):
            evaluate(Oracle(), source)


def test_frames_without_what_counts_in_a_drive_that_has_some(tmp_path):
    """A car that is within range in the last of three frames only, which cannot be read."""
    write_drive(tmp_path, things=[Thing("vehicle.car", 69.0, 0.0, velocity=(-20.0, 0.0))])
    (tmp_path / "samples" / "LIDAR_TOP" / "2.bin").write_bytes(b"damaged")
    with pytest.raises(EvaluationError, match="none of the annotated boxes is in the 2 frames"):
        evaluate(Oracle(), NuScenes(tmp_path, on_error="skip"))


def test_what_the_devkit_cannot_read_is_one_error(tmp_path):
    write_drive(tmp_path)
    dataset = NuScenes(tmp_path)
    (tmp_path / "maps" / "map.png").unlink()
    with pytest.raises(PerceptionError, match=r"v1\.0-mini: the devkit cannot read it.*map\.png"):
        evaluate(Oracle(), dataset, official=True)
    assert evaluate(Oracle(), dataset)["mAP_present"] == pytest.approx(1.0)  # the map plays no part in the metric


@pytest.mark.parametrize("sensors", [[], ["sonar"], ["camera", "lidr"]])
def test_unknown_sensors_are_refused(drive, sensors):
    with pytest.raises(SampleError, match="camera, radar, lidar were expected"):
        sensor_set(sensors, SENSORS)
    with pytest.raises(SampleError, match="camera, radar, lidar were expected"):
        evaluate(Oracle(), drive, sensors)


def test_names_follow_one_order():
    assert sensor_set(["lidar", "camera"], SENSORS) == "camera+lidar"
    assert sensor_sets(SENSORS)[0] == SENSORS and len(set(sensor_sets(SENSORS))) == 7


class Sloppy:
    """Misses some, invents some, is off in everything; the same on every run."""

    task, sensors = NUSCENES, SENSORS

    def detect(self, frame: Frame) -> Detections:
        rng = np.random.default_rng(frame.timestamp_ns % 2**32)
        boxes = frame.boxes[rng.random(len(frame.boxes)) < 0.8]
        boxes = boxes[np.tile(np.arange(len(boxes)), 2)]  # as many wrong as right, on average
        n = len(boxes)
        moved = dataclasses.replace(
            boxes,
            center=boxes.center + rng.normal(0, 0.8, (n, 3)),
            size=boxes.size * rng.uniform(0.8, 1.2, (n, 3)),
            yaw=boxes.yaw + rng.normal(0, 0.5, n),
            velocity=boxes.velocity + rng.normal(0, 1.0, (n, 2)),
            attribute=np.where(rng.random(n) < 0.5, -1, boxes.attribute),
            label=np.where(rng.random(n) < 0.1, rng.integers(0, 10, n), boxes.label),
        )
        return Detections.sorted(moved, rng.random(n))


def assert_parity(dataset: NuScenes, tmp_path: Path) -> dict:
    """Our metrics are those that anybody would compute with the plain devkit from the same submission."""
    ((name, metrics),) = evaluate_subsets(Sloppy(), dataset, [dataset[0].sensors], tmp_path)["subsets"].items()
    devkit, config = Devkit("v1.0-mini", str(dataset.root), verbose=False), config_factory("detection_cvpr_2019")
    plain = DetectionEval(devkit, config, str(tmp_path / f"{name}.json"), "mini_val", str(tmp_path / "plain"), False)
    official = plain.evaluate()[0].serialize()
    assert (metrics["mAP"], metrics["NDS"]) == pytest.approx((official["mean_ap"], official["nd_score"]), abs=1e-9)
    assert metrics["AP"] == pytest.approx(official["mean_dist_aps"], abs=1e-9)
    errors = {"ATE": "trans_err", "ASE": "scale_err", "AOE": "orient_err", "AVE": "vel_err", "AAE": "attr_err"}
    for ours, theirs in errors.items():
        assert metrics[f"m{ours}"] == pytest.approx(official["tp_errors"][theirs], abs=1e-9)
        for name in CLASSES:
            value = official["label_tp_errors"][name][theirs]
            expected = None if np.isnan(value) else pytest.approx(value, abs=1e-9)
            assert metrics["errors"][name][ours] == expected
    of_devkit = evaluate(Sloppy(), dataset, dataset[0].sensors, official=True)
    assert (of_devkit["mAP"], of_devkit["NDS"]) == (official["mean_ap"], official["nd_score"])
    assert of_devkit["AP"] == official["mean_dist_aps"] and of_devkit["breakdown"] == metrics["breakdown"]
    scored = score_file(tmp_path / f"{sensor_set(dataset[0].sensors, SENSORS)}.json", dataset)
    assert scored["AP"] == pytest.approx(metrics["AP"], abs=1e-12) and scored["NDS"] == pytest.approx(metrics["NDS"])
    return metrics


def test_parity_with_the_devkit_on_a_small_drive(drive, tmp_path):
    assert 0.05 < assert_parity(drive, tmp_path)["mAP"] < 0.4


@pytest.fixture(scope="module")
def recording(real_scene, tmp_path_factory) -> NuScenes:
    """The real scene under the name of one of mini_val, which is a split that the plain devkit scores."""
    root = tmp_path_factory.mktemp("recording")
    for part in ("samples", "maps"):
        (root / part).symlink_to(real_scene / part)
    (root / "v1.0-mini").mkdir()
    for file in (real_scene / "v1.0-mini").iterdir():
        (root / "v1.0-mini" / file.name).write_text(file.read_text().replace("scene-0523", "scene-0103"))
    return NuScenes(root, split="mini_val", sensors=("radar",), radar_sweeps=1)


def test_parity_with_the_devkit_on_a_real_scene(recording, tmp_path):
    assert 0.1 < assert_parity(recording, tmp_path)["mAP"] < 0.9


def test_the_truth_is_perfect_on_a_real_scene(recording):
    report = evaluate_subsets(Oracle(), recording, [["radar"]])
    metrics = report["subsets"]["radar"]
    present = {name for name, count in report["ground_truth"].items() if count}
    assert report["frames"] == 40 and len(present) >= 3
    assert metrics["AP"] == pytest.approx({name: float(name in present) for name in CLASSES})
    for name in present:
        errors = {key: 0.0 if value is None else value for key, value in metrics["errors"][name].items()}
        assert errors["ATE"] < 1e-6 and errors["ASE"] < 1e-6 and errors["AAE"] == 0.0
        assert errors["AVE"] < 0.01 and errors["AOE"] < 0.001  # flat boxes in an ego frame that tilts on the road


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained detector."""
    folder = tmp_path_factory.mktemp("checkpoint")
    build(load_config(overrides=["camera.weights=none", "camera.image_size=[32,64]"])).save(folder)
    return folder


def run_tool(monkeypatch, *arguments, tool="evaluate.py") -> int:
    monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(__file__).parents[1] / "tools" / tool), run_name="__main__")
    return end.value.code


def test_the_tool_writes_metrics_config_and_submissions(drive, checkpoint, tmp_path, monkeypatch, capsys):
    out = ["--json", tmp_path / "out" / "a.json", "--results", tmp_path / "results"]
    assert not run_tool(monkeypatch, "--checkpoint", checkpoint, "--root", drive.root, "--all-subsets", *out)
    report = json.loads((tmp_path / "out" / "a.json").read_text())
    assert list(report["subsets"]) == [sensor_set(subset, SENSORS) for subset in sensor_sets(SENSORS)]
    assert (report["version"], report["scenes"], report["frames"]) == ("v1.0-mini", ["scene-0103"], 3)
    assert len(report["weights_sha256"]) == 64
    assert load_config(tmp_path / "out" / "a.config.yaml").encoders["camera"].image_size == [32, 64]
    assert (tmp_path / "results" / "radar+lidar.json").is_file() and report["flips"] is False
    assert "camera+radar+lidar" in capsys.readouterr().out


def test_the_tool_flips_as_training_did(drive, checkpoint, tmp_path, monkeypatch, capsys):
    seen, detect = [], Detector.detect
    monkeypatch.setattr(Detector, "detect", lambda model, frame: seen.append(frame) or detect(model, frame))
    out = ["--json", tmp_path / "a.json", "--sensors", "lidar", "--flips"]
    assert not run_tool(monkeypatch, "--checkpoint", checkpoint, "--root", drive.root, *out)
    assert json.loads((tmp_path / "a.json").read_text())["flips"] is True
    assert [frame.token for frame in seen[::2]] == [frame.token for frame in seen[1::2]] and len(seen) == 2 * 3
    for frame, mirrored in zip(seen[::2], seen[1::2]):
        np.testing.assert_allclose(mirrored.lidar.points[:, :3], frame.lidar.points[:, :3] * [1, -1, 1])


def test_a_mistake_on_the_command_line_is_one_line(drive, checkpoint, tmp_path, monkeypatch, capsys):
    common = ["--checkpoint", checkpoint, "--root", drive.root, "--json", tmp_path / "a.json"]
    still = perception.load(checkpoint)
    still.config.augment.flip = False
    still.save(tmp_path / "still")
    assert run_tool(monkeypatch, "--checkpoint", tmp_path / "still", "--root", drive.root, "--flips") == 2
    assert f"--flips: {tmp_path / 'still'}: a detector trained with augment.flip" in capsys.readouterr().err
    assert run_tool(monkeypatch, *common, "--sensors", "lidar,sonar") == 2
    assert "found lidar, sonar" in capsys.readouterr().err
    assert run_tool(monkeypatch, *common, "--scenes", "scene-0104") == 2
    assert "scene-0103" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "{tmp}/file/x.json"], "file/x.json: cannot be written"),
        (["--json", "{tmp}/folder"], "folder: cannot be written"),
        (["--json", "."], "cannot be written"),
        (["--json", "{tmp}/x.json", "--results", "{tmp}/file"], "file/camera+radar+lidar.json: cannot be written"),
        (["--json", "{tmp}/x.json", "--device", "gpu"], "--device: auto, cpu or cuda was expected, found 'gpu'"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_any_work(
    drive, checkpoint, tmp_path, monkeypatch, capsys, arguments, message
):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("perception.model.detector.Detector.detect", None)  # to call it would be a TypeError
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert run_tool(monkeypatch, "--checkpoint", checkpoint, "--root", drive.root, *arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_training_into_a_file_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    config = Path(__file__).parents[1] / "configs" / "sim.yaml"
    assert run_tool(monkeypatch, config, "--out", tmp_path / "file", tool="train.py") == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {tmp_path / 'file' / 'log.jsonl'}: cannot be written: Not a directory"
    ]


def test_the_demo(checkpoint, tmp_path, monkeypatch, capsys):
    """Its flow, on a drive of one sample in place of a simulated one."""
    asked = []

    def simulate(out, scenes, seconds, seed, *, overwrite, **options):
        asked.append((out.name, scenes, seconds, overwrite))
        if overwrite:
            shutil.rmtree(out)
        write_drive(out, samples=1)

    monkeypatch.setattr(perception.sim, "simulate", simulate)
    common = ("--out", tmp_path, "--checkpoint", checkpoint, "--seconds", "0.5")
    assert not run_tool(monkeypatch, *common, tool="demo.py")
    assert not run_tool(monkeypatch, *common, "--overwrite", tool="demo.py")
    assert asked == [("drive-0.5s", 1, 0.5, False), ("drive-0.5s", 1, 0.5, True)]
    results = {"results.json", "tracks.json", "result.jsonl", "replay.mp4", "replay.png", "summary.json", "scores.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"drive-0.5s", *results}
    assert len(json.loads((tmp_path / "scores.json").read_text())["subsets"]) == 7
    assert all(str(tmp_path / name) in capsys.readouterr().out for name in ["replay.mp4"])
