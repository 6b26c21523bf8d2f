"""Data sets in other layouts, from files made by hand: where their objects are, and what they are converted to."""

import cv2
import numpy as np
import pytest
from astyx_folder import write_astyx

import perception
from perception.cli import run
from perception.data.kitti import Kitti
from perception.data.layouts import find_layout
from perception.data.nuscenes_files import DataError
from perception.errors import PerceptionError
from perception.geometry import project
from perception.task import CLASSES

# The LiDAR is 1.7 m over the road, the camera 0.3 m ahead of it and 0.1 m below; its image is 6 cm right of camera 0.
ROAD_M, FOCAL, CENTER = -1.7, 50.0, (39.5, 19.5)
TO_CAMERA = "0 -1 0 0 0 0 -1 -0.1 1 0 0 -0.3"
P2 = f"{FOCAL} 0 {CENTER[0]} {-0.06 * FOCAL} 0 {FOCAL} {CENTER[1]} 0 0 0 1 0"
CALIB = f"P0: 1 2 3\nP2: {P2}\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: {TO_CAMERA}\nTr_imu_to_velo: 1\n\n"


def label(name: str, x: float, y: float, yaw: float, size=(4.0, 2.0, 1.5)) -> str:
    """A line on an object at x, y of the LiDAR's axes, on the road."""
    length, width, height = size
    place = f"{-y} {-ROAD_M - 0.1} {x - 0.3}"  # right, down, ahead of the camera
    return f"{name} 0.00 0 -1.5 0 0 9 9 {height} {width} {length} {place} {-yaw - np.pi / 2}"


# Two in the car at 10, 2, one beside it, one that is behind the camera.
LIDAR = np.array([[10, 2, -1, 0.5], [11, 2.5, -0.5, 1.0], [10, -3, -1, 0.2], [-5, 0, 0, 0.1]], "<f4")
LABELS = [label("Car", 10, 2, 0.0), label("DontCare", 5, 0, 0.0), label("Pedestrian", 12, -4, 2.0, (0.6, 0.7, 1.8))]
# One that comes nearer by 3 m/s over ground, of the scan before the last.
RADAR = np.array([[9.0, 2.0, -1.0, 7.0, -13.0, -3.0, -1.0]], "<f4")


def write_kitti(folder, numbers=(0, 1, 7), labels=LABELS, suffix="png"):
    for name in ("image_2", "velodyne", "calib", "label_2"):
        (folder / name).mkdir(parents=True)
    image = cv2.imencode(f".{suffix}", np.full((40, 80, 3), 90, np.uint8))[1].tobytes()
    for number in numbers:
        token = f"{number:06d}"
        (folder / f"image_2/{token}.{suffix}").write_bytes(image)
        (folder / f"velodyne/{token}.bin").write_bytes(LIDAR.tobytes())
        (folder / f"calib/{token}.txt").write_text(CALIB)
        (folder / f"label_2/{token}.txt").write_text("\n".join(labels) + "\n")


@pytest.fixture
def kitti(tmp_path):
    write_kitti(tmp_path / "kitti/training")
    return tmp_path / "kitti"


@pytest.fixture
def delft(tmp_path):
    write_kitti(
        tmp_path / "delft/lidar/training", suffix="jpg", labels=[label("Car", 10, 2, 0.0), label("rider", 4, 0, 0)]
    )
    radar = tmp_path / "delft/radar/training"
    for name in ("velodyne", "calib"):
        (radar / name).mkdir(parents=True)
    for number in (0, 1, 7):
        (radar / f"velodyne/{number:06d}.bin").write_bytes(RADAR.tobytes())
        # Where the LiDAR is, but turned by 90 degrees to the left: its x is the LiDAR's y.
        (radar / f"calib/{number:06d}.txt").write_text(CALIB.replace(TO_CAMERA, "-1 0 0 0 0 0 -1 -0.1 0 -1 0 -0.3"))
    return tmp_path / "delft"


def test_a_frame_of_kitti(kitti):
    layout = find_layout(kitti)
    frames = layout.open(kitti, layout.task)
    assert layout.name == "KITTI" and frames.tokens == ["000000", "000001", "000007"]
    assert frames.height_m == pytest.approx(1.7)
    frame = frames[0]
    boxes = frame.boxes
    assert [CLASSES[label] for label in boxes.label] == ["car", "pedestrian"] and frame.radar is None
    np.testing.assert_allclose(boxes.center, [[10, 2, 0.75], [12, -4, 0.9]], atol=1e-6)
    np.testing.assert_allclose(boxes.size, [[4, 2, 1.5], [0.6, 0.7, 1.8]])
    np.testing.assert_allclose(boxes.yaw, [0.0, 2.0], atol=1e-6)
    assert boxes.num_lidar_points.tolist() == [2, 0] and boxes.num_radar_points.tolist() == [-1, -1]
    assert np.isnan(boxes.velocity).all()
    np.testing.assert_allclose(frame.lidar.points[:, :4], [[10, 2, 0.7, 127.5], [11, 2.5, 1.2, 255], [10, -3, 0.7, 51]])
    camera = frame.cameras["FRONT"]
    np.testing.assert_allclose(camera.ego_SE3_camera.translation, [0.3, -0.06, 1.6], atol=1e-6)
    pixels, depth = project(camera.ego_SE3_camera.inverse().transform(np.array([[10.3, 2, 1.6]])), camera.intrinsics)
    np.testing.assert_allclose(pixels, [[CENTER[0] - FOCAL * 2.06 / 10, CENTER[1]]], atol=1e-5)
    assert depth[0] == pytest.approx(10) and (frame.scene, frame.timestamp_ns) == ("000000", 0)


def test_a_frame_of_view_of_delft_has_a_radar(delft):
    layout = find_layout(delft)
    frame = layout.open(delft, layout.task)[1]
    assert layout.name == "View-of-Delft" and len(frame.boxes) == 1  # a rider is no class
    assert len(frame.radar.points) == 0  # the radar looks to the left, where the camera does not
    calibration = delft / "radar/training/calib/000001.txt"
    calibration.write_text(CALIB)  # as the LiDAR
    (x, y, z, rcs, vx, vy, age_s) = layout.open(delft, layout.task)[1].radar.points[0]
    direction = np.array([9, 2, -1]) / np.sqrt(86)
    np.testing.assert_allclose([x, y, z, rcs, age_s], [9, 2, 0.7, 7, 0.1], atol=1e-6)
    np.testing.assert_allclose([vx, vy], -3 * direction[:2], atol=1e-6)


@pytest.mark.parametrize("layout", ["kitti", "delft"])
def test_they_become_folders_in_the_nuscenes_layout(request, tmp_path, capsys, layout):
    root, out = request.getfixturevalue(layout), tmp_path / "out"
    assert run(["convert", str(root), "--to", "nuscenes", "--out", str(out)]) is None
    assert "3 frames of" in capsys.readouterr().out
    dataset = perception.NuScenes(out)
    assert dataset.scenes == ["000000", "000001", "000007"]
    np.testing.assert_allclose(dataset[0].boxes.center[0], [10, 2, 0.75], atol=1e-6)
    np.testing.assert_allclose(dataset[0].lidar.points[0, :3], [10, 2, 0.7], atol=1e-5)
    assert set(dataset[0].sensors) >= {"camera", "lidar"}


def test_astyx_becomes_one_with_its_splits(tmp_path):
    root = write_astyx(tmp_path / "astyx")
    run(["convert", str(root), "--to", "nuscenes", "--out", str(tmp_path / "out")])
    dataset = perception.NuScenes(tmp_path / "out", split="score")
    assert dataset.scenes == ["000278", "000378"] and CLASSES[dataset[0].boxes.label[0]] == "car"
    own = find_layout(root)
    want = own.open(root, own.task)[2]
    np.testing.assert_allclose(dataset[0].boxes.center, want.boxes.center, atol=1e-6)
    np.testing.assert_allclose(dataset[0].radar.points[:, :6], want.radar.points[:, :6], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("label_2/000001.txt", "Car 0 0 0", r"label_2/000001\.txt: lines of a class and 14 numbers were expected"),
        ("label_2/000001.txt", "Car " + "x " * 14, r"label_2/000001\.txt: lines of a class"),
        ("label_2/000001.txt", label("Car", 5, 0, 0).replace("4.0", "nan"), r"label_2/000001\.txt: .*not finite"),
        ("label_2/000001.txt", label("Car", 5, 0, 0, (-1.0, 2.0, 1.5)), r"label_2/000001\.txt: .*sizes that are none"),
        ("calib/000001.txt", CALIB.replace(TO_CAMERA, "0 -1 0 0 0 0 -1 nan 1 0 0 0"), r"calib/000001\.txt: P2, R0"),
        ("calib/000001.txt", CALIB.replace(TO_CAMERA, "0 1 0 0 0 0 -1 0 1 0 0 0"), r"calib/000001\.txt: P2, R0"),
        ("calib/000001.txt", "P2: 1 2 3", r"calib/000001\.txt: P2, R0_rect and Tr_velo_to_cam were expected"),
        ("calib/000001.txt", CALIB.replace(f"P2: {P2}", "P2: " + "0 " * 12), r"calib/000001\.txt: P2"),
        ("velodyne/000001.bin", "12345", r"velodyne/000001\.bin: records of 4 float32 were expected, found 5 bytes"),
        ("image_2/000001.png", "no picture", r"image_2/000001\.png: "),
    ],
)
def test_a_damaged_file_is_named_or_left_out(kitti, tmp_path, capsys, name, content, message):
    (kitti / "training" / name).write_text(content)
    arguments = ["convert", str(kitti), "--to", "nuscenes", "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match=message):
        run(arguments)
    run([*arguments, "--skip-damaged"])
    assert "2 frames of KITTI, 1 damaged ones left out" in capsys.readouterr().out


def test_options_of_logs_are_none_of_data_sets(kitti, tmp_path):
    with pytest.raises(PerceptionError, match="--repeat: is for logs"):
        run(["convert", str(kitti), "--to", "nuscenes", "--out", str(tmp_path / "out"), "--repeat", "2"])


def test_folders_in_no_known_layout_are_refused(tmp_path):
    with pytest.raises(PerceptionError, match="a data set in the layout of Astyx HiRes2019, View-of-Delft, KITTI was"):
        run(["convert", str(tmp_path), "--to", "nuscenes", "--out", str(tmp_path / "out")])
    (tmp_path / "training/label_2").mkdir(parents=True)
    with pytest.raises(DataError, match="files of labels were expected, found none"):
        Kitti(tmp_path, find_layout(tmp_path).task)
