"""On a real scene the loader agrees with nuscenes-devkit, point by point and box by box."""

import os

import numpy as np
import pytest

import perception
from perception import ATTRIBUTES, CLASSES
from perception.geometry import SE3, box_corners, project

pytest.importorskip("nuscenes")
from nuscenes import NuScenes as DevkitNuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud
from nuscenes.utils.geometry_utils import view_points

RADARS = sorted(f"RADAR_{side}" for side in ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT"))
SOME = range(0, 40, 6)  # the devkit takes half a second for the radars of one sample


@pytest.fixture(scope="module")
def filled_scene(real_scene, tmp_path_factory):
    """The real scene with all its LiDAR and radar sweeps.

    They are not on disk, so every sweep is given the contents of some keyframe of its channel: the tables, poses and
    times are real, and no two sweeps of a cloud are alike.
    """
    root = tmp_path_factory.mktemp("nuscenes")
    for folder in ("v1.0-mini", "samples", "maps"):
        (root / folder).symlink_to(real_scene / folder)
    devkit = DevkitNuScenes("v1.0-mini", str(root), verbose=False)
    keyframes = {channel: sorted((real_scene / "samples" / channel).iterdir()) for channel in ("LIDAR_TOP", *RADARS)}
    for i, row in enumerate(devkit.sample_data):
        if row["filename"].startswith("sweeps/") and row["channel"] in keyframes:
            (root / row["filename"]).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(keyframes[row["channel"]][i % 40], root / row["filename"])
    return root


@pytest.fixture(scope="module")
def devkit(filled_scene):
    return DevkitNuScenes("v1.0-mini", str(filled_scene), verbose=False)


@pytest.fixture(scope="module")
def dataset(filled_scene):
    return perception.NuScenes(filled_scene)


@pytest.fixture(scope="module")
def frames(dataset):
    return {i: dataset[i] for i in SOME}


def row_of(devkit, frame, channel):
    return devkit.get("sample_data", devkit.get("sample", frame.token)["data"][channel])


def se3(devkit, table, token):
    row = devkit.get(table, token)
    return SE3.from_quaternion(row["rotation"], row["translation"])


def ego_SE3_lidar(devkit, frame):
    """The devkit gives clouds in the frame of the LiDAR keyframe."""
    return se3(devkit, "calibrated_sensor", row_of(devkit, frame, "LIDAR_TOP")["calibrated_sensor_token"])


def agree(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_samples_and_reference(dataset, devkit):
    assert dataset.tokens == [sample["token"] for sample in sorted(devkit.sample, key=lambda s: s["timestamp"])]
    assert not {channel for channel, _ in dataset.report}


def test_ego_pose_and_time(frames, devkit):
    for frame in frames.values():
        row = row_of(devkit, frame, "LIDAR_TOP")
        agree(frame.world_SE3_ego.matrix, se3(devkit, "ego_pose", row["ego_pose_token"]).matrix)
        assert frame.timestamp_ns == 1000 * row["timestamp"]


def test_lidar_sweeps(frames, devkit):
    for frame in frames.values():
        sample = devkit.get("sample", frame.token)
        cloud, age_s = LidarPointCloud.from_file_multisweep(devkit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=10)
        agree(frame.lidar.points[:, :3], ego_SE3_lidar(devkit, frame).transform(cloud.points[:3].T))
        agree(frame.lidar.points[:, 3], cloud.points[3])
        agree(frame.lidar.points[:, 4], age_s[0])
    assert len(np.unique(frame.lidar.points[:, 4])) == 10


@pytest.mark.parametrize("filtered", [True, False])
def test_radar_sweeps(dataset, filled_scene, devkit, filtered):
    if not filtered:
        dataset = perception.NuScenes(filled_scene, sensors=("radar",), radar_filter=False)
        RadarPointCloud.disable_filters()
    try:
        for i in SOME if filtered else SOME[:2]:
            frame = dataset[i]
            sample, xyz, rcs, age_s = devkit.get("sample", frame.token), [], [], []
            for channel in RADARS:
                cloud, age = RadarPointCloud.from_file_multisweep(devkit, sample, channel, "LIDAR_TOP", nsweeps=6)
                xyz.append(cloud.points[:3].T)
                rcs.append(cloud.points[5])
                age_s.append(age[0])
            agree(frame.radar.points[:, :3], ego_SE3_lidar(devkit, frame).transform(np.concatenate(xyz)))
            agree(frame.radar.points[:, 3], np.concatenate(rcs))
            agree(frame.radar.points[:, 6], np.concatenate(age_s))
    finally:
        RadarPointCloud.default_filters()


def test_radar_velocity_is_rotated_from_the_sensor(real_scene, devkit):
    """The devkit leaves velocities in the sensor's axes: rotate them by hand, from the keyframes."""
    frame = perception.NuScenes(real_scene, sensors=("radar",), radar_sweeps=1)[20]
    expected = []
    for channel in RADARS:
        row = row_of(devkit, frame, channel)
        cloud = RadarPointCloud.from_file(str(real_scene / row["filename"]))
        cloud.remove_close(1.0)
        world_SE3_radar = se3(devkit, "ego_pose", row["ego_pose_token"]) @ se3(
            devkit, "calibrated_sensor", row["calibrated_sensor_token"]
        )
        velocity = np.stack([*cloud.points[8:10], np.zeros(cloud.nbr_points())], axis=1)
        expected.append(frame.world_SE3_ego.inverse().rotate(world_SE3_radar.rotate(velocity)))
    agree(frame.radar.points[:, 4:6], np.concatenate(expected)[:, :2])
    assert np.abs(frame.radar.points[:, 4:6]).max() > 3


def test_boxes(frames, devkit):
    for frame in frames.values():
        sample = devkit.get("sample", frame.token)
        ego_SE3_world = frame.world_SE3_ego.inverse()
        wanted = [devkit.get("sample_annotation", token) for token in sample["anns"]]
        wanted = [row for row in wanted if category_to_detection_name(row["category_name"])]
        boxes = frame.boxes
        assert [CLASSES[i] for i in boxes.label] == [category_to_detection_name(row["category_name"]) for row in wanted]
        agree(boxes.center, ego_SE3_world.transform([row["translation"] for row in wanted]))
        agree(boxes.size, np.array([row["size"] for row in wanted])[:, [1, 0, 2]])
        yaw = [(ego_SE3_world @ SE3.from_quaternion(row["rotation"])).yaw for row in wanted]
        agree(boxes.yaw, yaw)
        agree(boxes.velocity, ego_SE3_world.rotate([devkit.box_velocity(row["token"]) for row in wanted])[:, :2])
        names = [[devkit.get("attribute", t)["name"] for t in row["attribute_tokens"]] for row in wanted]
        assert [[ATTRIBUTES[i]] if i >= 0 else [] for i in boxes.attribute] == names
        assert boxes.visibility.tolist() == [int(row["visibility_token"]) for row in wanted]
        assert boxes.num_lidar_points.tolist() == [row["num_lidar_pts"] for row in wanted]
        assert boxes.num_radar_points.tolist() == [row["num_radar_pts"] for row in wanted]


def test_cameras_and_boxes_in_images(frames, devkit):
    """Every box of every image, as the devkit draws it, within 0.05 pixels.

    Ours are upright in the ego frame and the devkit's in the world, so its corners are carried over from our boxes; the
    centres need no such help.
    """
    for frame in frames.values():
        corners = frame.world_SE3_ego.transform(box_corners(frame.boxes.center, frame.boxes.size, frame.boxes.yaw))
        assert len(frame.cameras) == 6
        for channel, camera in frame.cameras.items():
            row = row_of(devkit, frame, channel)
            path, devkit_boxes, intrinsics = devkit.get_sample_data(row["token"])
            assert path.endswith(row["filename"]) and camera.timestamp_ns == 1000 * row["timestamp"]
            agree(camera.intrinsics, intrinsics)
            world_SE3_camera = se3(devkit, "ego_pose", row["ego_pose_token"]) @ se3(
                devkit, "calibrated_sensor", row["calibrated_sensor_token"]
            )
            agree((frame.world_SE3_ego @ camera.ego_SE3_camera).matrix, world_SE3_camera.matrix)

            theirs = world_SE3_camera.inverse().transform(corners.reshape(-1, 3))
            ours = camera.ego_SE3_camera.inverse().transform(
                box_corners(frame.boxes.center, frame.boxes.size, frame.boxes.yaw).reshape(-1, 3)
            )
            seen = theirs[:, 2] > 0.5
            expected = view_points(theirs[seen].T, intrinsics, normalize=True)[:2].T
            np.testing.assert_allclose(project(ours[seen], camera.intrinsics)[0], expected, rtol=0, atol=0.05)

            centers, _ = project(camera.ego_SE3_camera.inverse().transform(frame.boxes.center), camera.intrinsics)
            for box in devkit_boxes:
                if category_to_detection_name(box.name):
                    expected = view_points(box.center[:, None], intrinsics, normalize=True)[:2, 0]
                    assert np.abs(centers - expected).max(axis=1).min() < 0.05


def test_keyframes_only_download(real_scene, caplog):
    dataset = perception.NuScenes(real_scene, version="v1.0-mini", scenes=["scene-0523"])
    assert len(dataset) == 40 and len(caplog.records) == 1
    assert {what for _, what in dataset.report} == {"sweep file"} and dataset.report["LIDAR_TOP", "sweep file"] == 347
    frame = dataset[5]
    assert frame.sensors == ("camera", "radar", "lidar") and (frame.lidar.points[:, 4] == 0).all()


def test_every_frame_of_the_real_scene(real_scene):
    for frame in perception.NuScenes(real_scene).frames():
        assert len(frame.cameras) == 6 and len(frame.lidar.points) > 10_000 and len(frame.radar.points) > 50
