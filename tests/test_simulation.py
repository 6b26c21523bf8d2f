import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("open3d", reason="the simulator needs the extra 'sim'")
pytest.importorskip("numba", reason="the simulator needs the extra 'sim'")

from perception.data.nuscenes import NuScenes
from perception.data.scene_tables import TABLES
from perception.errors import PerceptionError
from perception.eval.submission import ResultsWriter, to_submission, to_world
from perception.geometry import SE3, box_corners, project
from perception.lock import InUseError, locked
from perception.sample import Detections
from perception.sim import Settings, SimulationError, simulate
from perception.sim.camera import Camera
from perception.sim.compare import comparison
from perception.sim.mesh import Material, Mesh, box
from perception.sim.radar import Radar
from perception.sim.raycast import Stage
from perception.sim.rig import CAMERA_NAMES, LIDAR_NAME, RADAR_NAMES, draw_rig
from perception.sim.scene import SceneRun
from perception.sim.shapes import BOX_MARGIN_M, Shape, make_shape
from perception.sim.traffic import Actor, Track
from perception.task import CLASSES

SENSORS = ("camera", "radar", "lidar")

TINY = (160, 90)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Path:
    """Two scenes of one second: a day and a foggy one."""
    root = tmp_path_factory.mktemp("drives") / "sim"
    return simulate(root, 2, 1.0, 3, image_size=TINY, weather=("day", "fog"), workers=1)


@pytest.fixture(scope="module")
def devkit(drives):
    nuscenes = pytest.importorskip("nuscenes")
    return nuscenes.NuScenes(version="v1.0-sim", dataroot=str(drives), verbose=False)


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def table(root: Path, name: str) -> list[dict]:
    return json.loads((root / "v1.0-sim" / f"{name}.json").read_text())


@pytest.mark.slow
def test_same_bytes_with_another_number_of_processes(drives, tmp_path):
    again = simulate(tmp_path / "again", 2, 1.0, 3, image_size=TINY, weather=("day", "fog"), workers=2)
    first, second = content(drives), content(again)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_resumes_and_extends(tmp_path):
    arguments = {"image_size": (64, 36), "weather": ("night",), "workers": 1}
    root = simulate(tmp_path / "sim", 1, 0.5, 1, **arguments)
    before = content(root)
    stamps = {path: path.stat().st_mtime_ns for path in (root / "samples").rglob("*.jpg")}
    assert simulate(root, 1, 0.5, 1, **arguments) == root
    assert content(root) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "a finished scene was simulated again"
    with pytest.raises(SimulationError, match="seed 1 not 2"):
        simulate(root, 1, 0.5, 2, **arguments)
    note = root / ".simulation" / "settings.json"
    note.write_text(json.dumps({k: v for k, v in json.loads(note.read_text()).items() if k != "world"}))
    assert simulate(root, 1, 0.5, 1, **arguments) == root  # made before there were other worlds
    with pytest.raises(SimulationError, match="world town not street"):
        simulate(root, 1, 0.5, 1, world="street", **arguments)
    simulate(root, 1, 0.5, 2, overwrite=True, **arguments)
    assert content(root).keys() != before.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenes": 0}, "scenes"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seed": -1}, "seed"),
        ({"image_size": (8, 8)}, "image size"),
        ({"weather": ("hail",)}, "hail"),
        ({"version": "../elsewhere"}, "version"),
        ({"version": "samples"}, "version"),
        ({"world": "moon"}, "world: town or street expected, found moon"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(SimulationError, match=message):
        Settings(**{"scenes": 1, "seconds": 1.0, **change})


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(SimulationError, match="other files"):
            simulate(tmp_path, 1, 1.0, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        "",
        "{}",
        "[]",
        "7",
        '{"seed": 1}',
        '{"version": 7}',
        '{"version": "../.."}',
        '{"version": "/"}',
        '{"version": "samples"}',
        '{"version": ""}',
    ],
)
def test_a_broken_settings_note_removes_nothing(tmp_path, settings, overwrite):
    root = tmp_path / "inner" / "sim"
    kept = [tmp_path / "precious.txt", root / "samples" / "image.jpg", root / ".simulation" / "settings.json"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(settings)
    with pytest.raises(SimulationError, match=r"settings\.json"):
        simulate(root, 1, 1.0, overwrite=overwrite)
    assert all(path.exists() for path in kept)


def test_overwrite_says_what_it_cannot_remove(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sim" / ".simulation").mkdir(parents=True)
    (tmp_path / "sim" / ".simulation" / "settings.json").write_text('{"version": "v1.0-sim"}')
    (tmp_path / "sim" / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SimulationError, match="symbolic link"):
        simulate(tmp_path / "sim", 1, 1.0, overwrite=True)


@pytest.mark.parametrize("content", ["{", "[]", '{"nonsense": []}', '{"sample": 7}'])
def test_a_broken_note_of_a_scene(drives, tmp_path, content):
    """The scene counts as finished, so that only the final tables read it."""
    shutil.copytree(drives / ".simulation", tmp_path / ".simulation")
    (tmp_path / ".simulation" / "sim-0001.json").write_text(content)
    with pytest.raises(SimulationError, match=r"sim-0001\.json: .* expected"):
        simulate(tmp_path, 2, 1.0, 3, image_size=TINY, weather=("day", "fog"), workers=1)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with locked(tmp_path / "sim"), pytest.raises(InUseError, match=r"sim: another run is writing to it"):
        simulate(tmp_path / "sim", 1, 1.0, 3, image_size=TINY, workers=1)
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c(tmp_path, workers):
    """Ctrl-C reaches every process of a terminal; one line is the answer."""
    command = [sys.executable, "tools/simulate.py", "--out", str(tmp_path / "sim"), "--workers", str(workers)]
    command += ["--scenes", "2", "--seconds", "20", "--image-size", "64x36"]
    run = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={"PYTHONPATH": str(ROOT)},
        # A background job of a script starts with Ctrl-C ignored, and hands that on to its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.bin")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=60)  # ends when the last process that could write there has ended
    finally:
        run.kill()
    assert run.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors


def test_the_progress_bar_counts_files(tmp_path, capsys):
    simulate(tmp_path, 1, 1.0, 3, image_size=TINY, workers=1, progress=True)
    assert f" {2 * 12}/{2 * 12} " in capsys.readouterr().err  # two keyframes of six images, five radars and a LiDAR


def test_progress_ends_at_the_number_of_keyframe_files(tmp_path, capsys):
    arguments = {"image_size": (64, 36), "weather": ("day",), "workers": 1, "progress": True}
    for scenes, total in ((1, 12), (2, 24)):
        simulate(tmp_path / "sim", scenes, 0.5, **arguments)
        assert f"{total}/{total} " in capsys.readouterr().err
        assert len(list((tmp_path / "sim" / "samples").rglob("*.*"))) == total


def test_the_tool_reports_errors_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "tools/simulate.py", "--out", str(tmp_path / "file"), "--scenes", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


def test_all_tables_and_all_ten_classes(drives):
    assert sorted(path.stem for path in (drives / "v1.0-sim").iterdir()) == sorted([*TABLES, "splits"])
    names = {row["token"]: row["name"] for row in table(drives, "category")}
    categories = {row["token"]: names[row["category_token"]] for row in table(drives, "instance")}
    annotations = table(drives, "sample_annotation")
    for sample in table(drives, "sample"):
        seen = {categories[row["instance_token"]] for row in annotations if row["sample_token"] == sample["token"]}
        wanted = (
            "car",
            "truck",
            "bus",
            "trailer",
            "construction",
            "motorcycle",
            "bicycle",
            "pedestrian",
            "cone",
            "barrier",
        )
        assert all(any(part in name for name in seen) for part in wanted), seen
    assert len(names) == 23


def test_the_devkit_reads_and_renders(devkit, drives, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    sample = devkit.sample[0]
    assert set(sample["data"]) == {*CAMERA_NAMES, LIDAR_NAME, *RADAR_NAMES}
    for channel in ("CAM_FRONT", LIDAR_NAME, "RADAR_FRONT"):
        devkit.render_sample_data(sample["data"][channel], out_path=str(tmp_path / "data.png"), verbose=False)
    devkit.render_pointcloud_in_image(sample["token"], dot_size=1, out_path=str(tmp_path / "points.png"), verbose=False)
    assert all((drives / row["filename"]).exists() for row in devkit.sample_data)


def test_the_devkit_scores_perfect_boxes(devkit, drives, tmp_path):
    """Its own evaluation, unchanged, on the split "all": everything that a LiDAR or radar point hit is found."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    frames = NuScenes(drives, split="all")
    assert len(frames) == len(devkit.sample) == 4
    with ResultsWriter(tmp_path / "results.json", SENSORS) as results:
        for frame in (frames[i] for i in range(len(frames))):
            boxes = frame.boxes[frame.boxes.num_lidar_points + frame.boxes.num_radar_points > 0]
            found = Detections(boxes, np.linspace(0.9, 0.1, len(boxes)))
            results.add(frame.token, to_submission(to_world(frame, found)))
    config = config_factory("detection_cvpr_2019")
    scoring = DetectionEval(devkit, config, str(tmp_path / "results.json"), "all", str(tmp_path / "out"), verbose=False)
    metrics, _ = scoring.evaluate()
    present = {box.detection_name for box in scoring.gt_boxes.all}
    assert len(present) >= 8
    assert metrics.mean_dist_aps == pytest.approx({name: float(name in present) for name in CLASSES})
    for name in present:
        # The vehicle's pitch and roll, 0.3 degrees, are what the yaw of a box in its frame cannot say.
        errors = np.array(list(metrics._label_tp_errors[name].values()))
        assert (np.isnan(errors) | (errors < 0.01)).all(), (name, errors)


def test_velocities_are_those_of_the_motion(devkit):
    """From 0 s to 0.5 s an object moves by its velocity times half a second."""
    run = SceneRun(Settings(2, 1.0, 3, TINY, ("day", "fog")), 0, Path("unused"))
    by_token = {run.tables.token("instance", i): actor for i, actor in enumerate(run.actors)}
    checked = 0
    for token in devkit.sample[0]["anns"]:
        row = devkit.get("sample_annotation", token)
        (x0, y0, _), (x1, y1, _) = (by_token[row["instance_token"]].track.at(time) for time in (0.0, 0.5))
        velocity = devkit.box_velocity(token)[:2]
        if row["next"]:
            np.testing.assert_allclose(velocity, [2 * (x1 - x0), 2 * (y1 - y0)], atol=1e-6)
            checked += 1
    assert checked > 10


def test_point_counts_are_those_of_the_devkit(devkit, drives):
    from nuscenes.utils.geometry_utils import points_in_box

    for sample in devkit.sample:
        path, boxes, _ = devkit.get_sample_data(sample["data"][LIDAR_NAME])
        points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3].T.astype(float)
        counts = [int(points_in_box(box, points).sum()) for box in boxes]
        assert counts == [devkit.get("sample_annotation", box.token)["num_lidar_pts"] for box in boxes]
        assert sum(counts) > 300


def test_lidar_files(drives):
    for row in table(drives, "sample_data"):
        if LIDAR_NAME not in row["filename"]:
            continue
        points = np.fromfile(drives / row["filename"], np.float32).reshape(-1, 5)
        assert len(points) == 32 * 1085 and np.isfinite(points).all()
        assert (np.bincount(points[:, 4].astype(int)) == 1085).all()
        assert points[:, 3].min() >= 0 and points[:, 3].max() <= 255
        assert 0.4 < np.mean(np.linalg.norm(points[:, :3], axis=1) > 1) < 0.95


def test_radar_files_pass_the_devkits_filters_mostly(devkit, drives):
    from nuscenes.utils.data_classes import RadarPointCloud

    everything = {"invalid_states": list(range(18)), "dynprop_states": list(range(8)), "ambig_states": list(range(5))}
    kept, written = 0, 0
    for row in devkit.sample_data:
        if row["sensor_modality"] == "radar":
            path = str(drives / row["filename"])
            count = RadarPointCloud.from_file(path, **everything).points.shape[1]
            assert 1 <= count <= 125
            written += count
            kept += RadarPointCloud.from_file(path).points.shape[1]
    assert 0.5 < kept / written < 0.95


def test_sweeps_reach_half_a_second_before_every_keyframe(devkit):
    for sample in devkit.sample:
        row, count = devkit.get("sample_data", sample["data"][LIDAR_NAME]), 1
        while row["prev"] and count < 10:
            previous = devkit.get("sample_data", row["prev"])
            assert row["timestamp"] - previous["timestamp"] == 50_000
            row, count = previous, count + 1
        assert count == 10


# --- one object in an empty world: answers derivable by hand
# -----------------------------------------------------------


def one_actor(category: str, x: float, y: float, velocity: float = 0.0) -> Actor:
    """An object at (x, y) facing +x, moving along +x."""
    track = Track.standing((x, y), 0.0)
    if velocity:
        times = np.arange(60) * 0.05 - 1.0
        track = Track(x + velocity * times, np.full(60, y), np.zeros(60))
    return Actor(make_shape(category, np.random.default_rng(0)), track, idle="vehicle.parked")


def empty_ground() -> Mesh:
    return box([0, 0, -0.1], [400, 400, 0.2], (0.3, 0.3, 0.3), Material.ASPHALT)


@pytest.mark.parametrize(
    ("channel", "target_speed", "yaw_rate"),
    [
        ("RADAR_FRONT", 0.0, 0.0),
        ("RADAR_FRONT", 6.0, 0.0),
        ("RADAR_FRONT_LEFT", 0.0, 0.8),
        ("RADAR_BACK_RIGHT", 6.0, -0.8),
    ],
)
def test_radar_velocity(channel, target_speed, yaw_rate):
    """Driving at 10 m/s and turning, a radar sees a car: less the radar's own speed, the car's along the line is left.

    The radar's own speed is that of the place where it is mounted: turning adds yaw rate times lever arm, 2 m/s.
    """
    sensor = draw_rig(np.random.default_rng(0), TINY)[channel]
    mount, heading = sensor.ego_SE3_sensor.translation, sensor.ego_SE3_sensor.yaw + 0.15
    car = mount[:2] + 20.0 * np.array([np.cos(heading), np.sin(heading)])
    actors = [one_actor("vehicle.car", *car, target_speed)]
    radar, stage = Radar(sensor, actors, np.zeros((0, 4))), Stage(empty_ground(), actors)
    poses, velocities = stage.poses(0.0)
    rng, clusters = np.random.default_rng(1), []
    for _ in range(60):
        found = radar.sweep(stage.coarse(poses), poses, velocities, SE3(), np.array([10.0, 0.0, yaw_rate]), rng)
        place = sensor.ego_SE3_sensor.transform(np.stack([found["x"], found["y"], found["z"]], 1).astype(float))
        clusters.append(found[(np.abs(place[:, :2] - car) < [3.0, 1.5]).all(axis=1)])
    cluster = np.concatenate(clusters)
    assert len(cluster) > 20
    line = np.stack([cluster["x"], cluster["y"]], 1) / np.hypot(cluster["x"], cluster["y"])[:, None]
    relative = np.sum(np.stack([cluster["vx"], cluster["vy"]], 1) * line, axis=1)
    over_ground = np.sum(np.stack([cluster["vx_comp"], cluster["vy_comp"]], 1) * line, axis=1)
    line_in_ego = sensor.ego_SE3_sensor.rotate(np.pad(line.astype(float), ((0, 0), (0, 1))))[:, :2]
    own = line_in_ego @ [10.0 - yaw_rate * mount[1], yaw_rate * mount[0]]
    np.testing.assert_allclose(np.median(over_ground - target_speed * line_in_ego[:, 0]), 0.0, atol=0.15)
    np.testing.assert_allclose(np.median(relative - over_ground + own), 0.0, atol=0.15)


@pytest.mark.parametrize("channel", CAMERA_NAMES)
def test_a_box_encloses_the_pixels_of_its_object(channel):
    """A block 15 m along each camera's axis, moving: its pixels fill its projected box up to the margin."""
    from perception.sim.weather import draw_weather

    size = (320, 180)
    sensor = draw_rig(np.random.default_rng(0), size)[channel]
    axis = sensor.ego_SE3_sensor.rotation[:, 2]
    center = sensor.ego_SE3_sensor.translation + 15.0 * axis / np.hypot(axis[0], axis[1])
    size_m = np.array([4.0, 2.0, 1.6])
    block = box([0, 0, 0.8], size_m, (0.8, 0.1, 0.1), Material.PAINT)
    actor = replace(one_actor("vehicle.car", *center[:2], 4.0), shape=Shape("vehicle.car", block, size_m))
    stage = Stage(empty_ground(), [actor])
    camera = Camera(
        sensor, size, draw_weather("day", np.random.default_rng(0)), np.zeros((0, 3)), np.random.default_rng(0)
    )
    image, seen = camera.render(stage.at(0.0), SE3(), 1)
    assert image.shape == (180, 320, 3) and image.std() > 5
    rows, columns = np.nonzero(seen == 0)
    middle = np.array([[center[0], center[1], 0.5 * actor.shape.size[2]]])
    corners = box_corners(middle, actor.shape.size[None], np.zeros(1))[0]
    pixels, depth = project(sensor.ego_SE3_sensor.inverse().transform(corners), sensor.intrinsics)
    assert (depth > 0).all()
    low, high = np.clip(pixels.min(axis=0), 0, [319, 179]), np.clip(pixels.max(axis=0), 0, [319, 179])
    found = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
    np.testing.assert_allclose(found, np.concatenate([low, high]), atol=1.0)


@pytest.mark.parametrize(
    "category", ["vehicle.car", "vehicle.bus.rigid", "human.pedestrian.adult", "movable_object.barrier"]
)
def test_boxes_are_tight(category):
    """The box is the mesh over all poses, plus the margin: at least one vertex near every face."""
    for seed in range(5):
        shape = make_shape(category, np.random.default_rng(seed))
        poses = np.concatenate([shape.mesh.posed(phase) for phase in np.linspace(0, 2 * np.pi, 33)])
        low, high = poses.min(axis=0), poses.max(axis=0)
        np.testing.assert_allclose(high[:2], 0.5 * shape.size[:2] - BOX_MARGIN_M, atol=0.02)
        np.testing.assert_allclose(low[:2], -0.5 * shape.size[:2] + BOX_MARGIN_M, atol=0.02)
        assert -0.02 <= low[2] < 0.03
        np.testing.assert_allclose(high[2], shape.size[2] - BOX_MARGIN_M, atol=0.02)


def cells(comparison: str, row: str) -> list[str]:
    """The cells of the line of a table that begins with ``row``."""
    return next(
        [cell.strip() for cell in line.split("|")[2:-1]] for line in comparison.splitlines() if f"| {row} |" in line
    )


def edited(drives: Path, root: Path, name: str, change) -> Path:
    """The same drives with one table changed: ``change(row)`` of every row."""
    shutil.copytree(drives / "v1.0-sim", root / "v1.0-sim")
    for folder in ("samples", "sweeps"):
        (root / folder).symlink_to(drives / folder)
    rows = table(root, name)
    for row in rows:
        change(row)
    (root / "v1.0-sim" / f"{name}.json").write_text(json.dumps(rows))
    return root


def boxes_within_50_m(root: Path) -> tuple[int, dict[str, list]]:
    """How many keyframes there are, and by class the devkit's boxes within 50 m of the vehicle in all of them."""
    nuscenes = pytest.importorskip("nuscenes")
    from nuscenes.eval.detection.utils import category_to_detection_name

    version = next(root.glob("*/sample_annotation.json")).parent.name
    devkit, found = (
        nuscenes.NuScenes(version=version, dataroot=str(root), verbose=False),
        {name: [] for name in CLASSES},
    )
    for sample in devkit.sample:
        lidar = devkit.get("sample_data", sample["data"][LIDAR_NAME])
        ego = devkit.get("ego_pose", lidar["ego_pose_token"])["translation"]
        for annotated in devkit.get_boxes(lidar["token"]):
            name = category_to_detection_name(annotated.name)
            if name and np.hypot(*(annotated.center - ego)[:2]) <= 50:
                found[name].append(annotated)
    return len(devkit.sample), found


def test_the_comparison_of_objects(drives, tmp_path):
    """Against itself with all boxes twice as large and every LiDAR count 7."""

    def change(row):
        row.update(size=[2 * size for size in row["size"]], num_lidar_pts=7)

    lines = comparison(drives, edited(drives, tmp_path, "sample_annotation", change))
    frames, boxes = boxes_within_50_m(drives)
    for name in CLASSES:
        count, length, *_, lidar, _ = cells(lines, name)
        mean = np.mean([annotated.wlh[1] for annotated in boxes[name]])
        assert count == " → ".join(2 * [f"{len(boxes[name]) / frames:.1f}"])
        assert length == f"{mean:.2f} → {2 * mean:.2f}"
        assert lidar.endswith(" → 7 / 7 / 7")
    assert cells(lines, "keyframes") == ["4", "4"]
    assert cells(lines, "LiDAR points per sweep as written") == ["34720", "34720"]


def test_the_comparison_with_a_recording(drives, real_scene):
    lines = comparison(real_scene, drives)
    (frames, real), (_, sim) = boxes_within_50_m(real_scene), boxes_within_50_m(drives)
    assert cells(lines, "keyframes") == [str(frames), "4"] == ["40", "4"]
    for name in CLASSES:
        assert cells(lines, name)[0] == f"{len(real[name]) / 40:.1f} → {len(sim[name]) / 4:.1f}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sample_annotation", "{", "JSON"),
        ("category", None, "cannot be read"),
        ("sensor", "{}", r"'\[' was expected"),
        ("sample", '[{"token": "a"}]', "missing scene_token, timestamp"),
        ("instance", "[]", "no table holds"),
    ],
)
def test_the_comparison_names_a_damaged_table(drives, tmp_path, name, content, message):
    root = edited(drives, tmp_path, "log", lambda row: None)
    path = root / "v1.0-sim" / f"{name}.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(PerceptionError, match=message) as caught:
        comparison(drives, root)
    assert "v1.0-sim" in str(caught.value)
