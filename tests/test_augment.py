"""Augmentation: what is seen stays what is there. Most checks compare a projection before with one after."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from perception.config import AugmentConfig
from perception.geometry import SE3, box_corners, project
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, PointCloud, RadarCloud, fit_image
from perception.train.augment import (
    ImageTransform,
    WorldTransform,
    augment,
    change_cloud,
    draw_world,
    transform_camera,
    transform_world,
)

# Camera axes (x right, y down, z forward) of a camera that looks along the ego's x axis.
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
SIZE = (64, 128)
OFF = AugmentConfig(False, 0.0, 0.0, 0.0, 0.0, 0.0)

angles = st.floats(-3.1, 3.1)
worlds = st.builds(
    lambda mirror, scale, yaw, shift: WorldTransform(mirror, scale, SE3.from_yaw(yaw, shift)),
    st.booleans(),
    st.floats(0.8, 1.25),
    angles,
    st.tuples(*[st.floats(-3, 3)] * 3),
)


def make_camera(yaw=0.0, tilt=(0.0, 0.0, 0.0), height=90, width=160, skew=0.0) -> CameraImage:
    rotation = Rotation.from_euler("xyz", tilt).as_matrix() @ SE3.from_yaw(yaw).rotation @ FORWARD
    intrinsics = np.array([[110.0, skew, 77.3], [0, 105, 47.9], [0, 0, 1]])
    return CameraImage(np.zeros((height, width, 3), np.uint8), intrinsics, SE3(rotation, [1.2, 0.3, 1.5]), 5)


def make_frame(n=6, seed=0) -> Frame:
    rng = np.random.default_rng(seed)
    boxes = Boxes3D(
        rng.uniform(-30, 30, (n, 3)),
        rng.uniform(0.5, 8, (n, 3)),
        rng.uniform(-3, 3, n),
        rng.normal(size=(n, 2)),
        rng.integers(0, 10, n),
        num_lidar_points=np.arange(n),
    )
    return Frame(
        token="frame",
        timestamp_ns=5,
        world_SE3_ego=SE3.from_yaw(0.7, [600.0, 1600.0, 0.0]),
        cameras={f"CAM_{i}": make_camera(i * np.pi / 3) for i in range(6)},
        radar=RadarCloud(rng.normal(size=(n, 7)).astype(np.float32)),
        lidar=LidarCloud(rng.normal(size=(n, 5)).astype(np.float32)),
        boxes=boxes,
    )


def changed(frame: Frame, seed: int) -> Frame:
    rng = np.random.default_rng(seed)
    return augment(frame, draw_world(AugmentConfig(), rng), AugmentConfig(), {"camera": SIZE}, rng)


def pixels(camera: CameraImage, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return project(camera.ego_SE3_camera.inverse().transform(points), camera.intrinsics)


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:2, :2].T + affine[:2, 2]


@settings(max_examples=60, deadline=None)
@given(
    world=worlds,
    yaw=angles,
    tilt=st.tuples(*[st.floats(-0.2, 0.2)] * 3),
    image=st.builds(ImageTransform, mirror=st.booleans(), zoom=st.floats(0.5, 1.5), rotation=st.just(0.0) | angles),
    seed=st.integers(0, 99),
)
def test_points_project_to_the_same_image_content(world, yaw, tilt, image, seed):
    rng = np.random.default_rng(seed)
    camera = make_camera(yaw, tilt, skew=0.4)
    image = dataclasses.replace(image, shift=tuple(rng.uniform(-0.3, 0.3, 2)))
    changed = transform_camera(camera, world, image, SIZE)
    _, affine = image.apply(camera.image, SIZE)
    points = camera.ego_SE3_camera.transform(rng.uniform([-20, -5, 0.5], [20, 5, 60], (30, 3)))

    before, depth = pixels(camera, points)
    after, depth_after = pixels(changed, world.points(points))
    np.testing.assert_allclose(after, apply(affine, before), atol=1e-6 * np.abs(after).max())
    np.testing.assert_allclose(depth_after, depth * world.scale)
    assert np.linalg.det(changed.ego_SE3_camera.rotation) == pytest.approx(1)
    assert changed.mirrored == (image.mirror != world.mirror)


def encoded(height: int, width: int) -> CameraImage:
    """A camera whose pixels say where they are: red is the column, green the row, blue marks all of the image."""
    camera = make_camera(height=height, width=width)
    camera.image[..., 0], camera.image[..., 1] = np.arange(width), np.arange(height)[:, None]
    camera.image[..., 2] = 255
    return camera


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("degrees", [0.0, 5.4, -30.0, 115.0])
@pytest.mark.parametrize(("world_mirror", "image_mirror"), [(False, False), (False, True), (True, True), (True, False)])
def test_every_pixel_shows_what_its_ray_met_before(zoom, degrees, world_mirror, image_mirror):
    """What a pixel shows is where, in the image as it was, the point ten metres along its ray was seen."""
    camera = encoded(180, 250)
    world = WorldTransform(world_mirror, 1.05, SE3.from_yaw(0.4, [0.5, -0.3, 0.2]))
    image = ImageTransform(image_mirror, zoom, (0.1, -0.2), rotation=np.deg2rad(degrees))
    changed = transform_camera(camera, world, image, SIZE)
    v, u = np.indices(SIZE).reshape(2, -1)
    rays = np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(changed.intrinsics).T
    points = changed.ego_SE3_camera.transform(10 * rays)
    points = (world.rigid.inverse().transform(points) / world.scale) * [1, -1 if world.mirror else 1, 1]
    before = pixels(camera, points)[0]
    inside = ((before >= 4) & (before <= [245, 175])).all(axis=1)  # where all that is blended is image
    shown = changed.image[v, u].astype(float)[inside]
    assert (shown[:, 2] == 255).all() and inside.sum() > 1500
    error = shown[:, :2] - before[inside]
    np.testing.assert_allclose(error, 0, atol=1.25)  # colours are rounded twice
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=0.15)  # half a pixel of the output is 0.3 to 1


def test_an_image_is_turned_clockwise_and_its_camera_the_other_way():
    """The top of a square image comes to the right; the camera's right, which was the ego's, is up."""
    camera = encoded(64, 64)
    turned = transform_camera(camera, WorldTransform(), ImageTransform(rotation=np.pi / 2), (64, 64))
    np.testing.assert_array_equal(turned.image, np.rot90(camera.image, -1))
    np.testing.assert_allclose(turned.ego_SE3_camera.rotation @ [1, 0, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(turned.intrinsics, [[105, 0, 63 - 47.9], [0, 110, 77.3], [0, 0, 1]], atol=1e-12)


def test_an_image_mirrored_by_itself():
    """The world stays, camera included; left and right change in the image alone, or in the world alone."""
    camera = encoded(90, 160)
    mirrored = transform_camera(camera, WorldTransform(), ImageTransform(mirror=True), (90, 160))
    np.testing.assert_array_equal(mirrored.image, camera.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.ego_SE3_camera.matrix, camera.ego_SE3_camera.matrix)
    np.testing.assert_allclose(mirrored.intrinsics, [[-110, 0, 159 - 77.3], [0, 105, 47.9], [0, 0, 1]])
    world = transform_camera(camera, WorldTransform(mirror=True), ImageTransform(), (90, 160))
    np.testing.assert_array_equal(world.image, camera.image)
    np.testing.assert_allclose(world.intrinsics, [[-110, 0, 77.3], [0, 105, 47.9], [0, 0, 1]])
    twice = transform_camera(mirrored, WorldTransform(), ImageTransform(mirror=True), (90, 160))
    np.testing.assert_array_equal(twice.image, camera.image)
    assert mirrored.mirrored and world.mirrored and not twice.mirrored


def test_images_are_turned_and_mirrored_each_by_itself():
    config = dataclasses.replace(OFF, image_rotate_deg=5.4, image_flip=True)
    frame, rng = make_frame(), np.random.default_rng(0)
    for world in (WorldTransform(), WorldTransform(mirror=True)):
        frames = [augment(frame, world, config, {"camera": SIZE}, rng) for _ in range(40)]
        cameras = [camera for each in frames for camera in each.cameras.values()]
        assert 90 < sum(camera.mirrored for camera in cameras) < 150
        # Upwards in camera axes, (0, -1, 0) of a level camera: the camera is rolled by as much as its image is turned.
        up = np.array([camera.ego_SE3_camera.rotation[2] for camera in cameras])
        degrees = np.rad2deg(np.arctan2(up[:, 0], -up[:, 1]))
        assert (np.histogram(degrees, bins=4, range=(-5.4, 5.4))[0] > 30).all() and np.abs(degrees).max() < 5.4
        np.testing.assert_allclose(up[:, 2], 0, atol=1e-9)
        assert len({round(d, 9) for d in degrees}) == 240


def test_what_is_off_draws_nothing():
    """The generator goes on as it did before there was rotating and mirroring of images."""
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    augment(make_frame(), WorldTransform(), OFF, {"camera": SIZE}, rng)
    other.random(6 * 5)  # zoom, two shifts, brightness and contrast of each camera
    assert rng.random() == other.random()


@settings(max_examples=40, deadline=None)
@given(world=worlds, seed=st.integers(0, 99))
def test_boxes_change_like_the_points_of_their_surface(world, seed):
    boxes = make_frame(seed=seed).boxes
    changed = world.boxes(boxes)
    wanted = world.points(box_corners(boxes.center, boxes.size, boxes.yaw).reshape(-1, 3)).reshape(-1, 8, 3)
    corners = box_corners(changed.center, changed.size, changed.yaw)
    if world.mirror:  # the box's own left and right change places
        corners = corners[:, [1, 0, 3, 2, 5, 4, 7, 6]]
    np.testing.assert_allclose(corners, wanted, atol=1e-9)
    # A second later the centre has moved by the velocity, in either world.
    later = boxes.center + np.pad(boxes.velocity, ((0, 0), (0, 1)))
    np.testing.assert_allclose(changed.velocity, (world.points(later) - changed.center)[:, :2], atol=1e-9)
    np.testing.assert_array_equal(changed.num_lidar_points, boxes.num_lidar_points)


@settings(max_examples=40, deadline=None)
@given(world=worlds)
def test_world_pose_is_that_of_a_mirrored_and_scaled_world(world):
    frame, point = make_frame(), np.array([[10.0, 4.0, 1.0]])
    changed = transform_world(frame, world)
    in_world = frame.world_SE3_ego.transform(point) * [1, -1 if world.mirror else 1, 1] * world.scale
    np.testing.assert_allclose(changed.world_SE3_ego.transform(world.points(point)), in_world, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(world=worlds, turn=st.tuples(*[st.floats(-0.3, 0.3)] * 3), shift=st.tuples(*[st.floats(-5, 5)] * 3))
def test_a_displaced_sensor_is_displaced_alike_in_the_new_world(world, turn, shift):
    error = SE3(Rotation.from_rotvec(turn).as_matrix(), shift)
    true = np.random.default_rng(0).uniform(-40, 40, (9, 3))
    shown = world.points(error.transform(true))
    np.testing.assert_allclose(world.seen_from(error).transform(world.points(true)), shown, atol=1e-9)


def test_a_shift_to_the_left_in_a_mirrored_world_is_one_to_the_right():
    error = SE3.from_yaw(0.2, [1.0, 2.0, 0.0])
    seen = WorldTransform(mirror=True, scale=1.1).seen_from(error)
    assert seen.yaw == pytest.approx(-0.2)
    np.testing.assert_allclose(seen.translation, [1.1, -2.2, 0])
    turned_world = WorldTransform(rigid=SE3.from_yaw(1.0, [7.0, 8.0, 0.0]))
    np.testing.assert_allclose(turned_world.seen_from(SE3()).matrix, np.eye(4), atol=1e-12)


def test_a_mirrored_car_by_hand():
    boxes = Boxes3D([[10.0, 3.0, 1.0]], [[4.0, 2.0, 1.5]], [0.5], [[2.0, 1.0]], [0])
    mirrored = WorldTransform(mirror=True).boxes(boxes)
    np.testing.assert_allclose(mirrored.center, [[10, -3, 1]])
    np.testing.assert_allclose(mirrored.yaw, [-0.5])
    np.testing.assert_allclose(mirrored.velocity, [[2, -1]])
    # A quarter turn to the left at double size takes forward to the left.
    turned = WorldTransform(scale=2.0, rigid=SE3.from_yaw(np.pi / 2, [0, 0, 0.5])).boxes(boxes)
    np.testing.assert_allclose(turned.center, [[-6, 20, 2.5]], atol=1e-12)
    np.testing.assert_allclose(turned.size, [[8, 4, 3]])
    np.testing.assert_allclose(turned.velocity, [[-2, 4]], atol=1e-12)


def test_half_a_turn_by_hand():
    """What was ahead on the left is behind on the right, turned around, in the same place of the same image."""
    points = np.array([[10, 3, 1, 7, 2, 1, 0.1]], np.float32)
    boxes = Boxes3D([[10.0, 3.0, 1.0]], [[4.0, 2.0, 1.5]], [0.5], [[2.0, 1.0]], [0])
    frame = Frame("f", 0, cameras={"CAM": make_camera()}, radar=RadarCloud(points), lidar=LidarCloud(points[:, :5]))
    world = WorldTransform(rigid=SE3.from_yaw(np.pi))
    after = augment(dataclasses.replace(frame, boxes=boxes), world, OFF, {"camera": SIZE}, np.random.default_rng(0))
    np.testing.assert_allclose(after.boxes.center, [[-10, -3, 1]])
    np.testing.assert_allclose(after.boxes.yaw, [0.5 - np.pi])
    np.testing.assert_allclose(after.boxes.velocity, [[-2, -1]])
    np.testing.assert_allclose(after.radar.points, [[-10, -3, 1, 7, -2, -1, 0.1]], atol=1e-5)
    np.testing.assert_allclose(after.lidar.points, [[-10, -3, 1, 7, 2]], atol=1e-5)
    camera = after.cameras["CAM"]
    np.testing.assert_allclose(camera.ego_SE3_camera.rotation @ [0, 0, 1], [-1, 0, 0], atol=1e-12)  # looks back
    np.testing.assert_allclose(camera.ego_SE3_camera.translation, [-1.2, -0.3, 1.5])
    still = fit_image(make_camera(), SIZE)
    np.testing.assert_allclose(pixels(camera, after.boxes.center)[0], pixels(still, boxes.center)[0])


def test_any_angle_is_drawn():
    rng = np.random.default_rng(0)
    config = dataclasses.replace(OFF, rotate_deg=180.0)
    degrees = np.rad2deg([draw_world(config, rng).rigid.yaw for _ in range(400)])
    assert (np.histogram(degrees, bins=8, range=(-180, 180))[0] > 30).all()


def test_front_and_back_are_exchanged_as_often_as_left_and_right():
    """What is ahead and to the left comes to every quarter of the world, as often; headings and velocities with it."""
    rng = np.random.default_rng(0)
    config = dataclasses.replace(OFF, flip=True, flip_back=True)
    boxes = Boxes3D(np.array([[3.0, 1, 0]]), np.ones((1, 3)), np.array([0.3]), np.array([[2.0, 1.0]]), np.zeros(1))
    moved = [draw_world(config, rng).boxes(boxes) for _ in range(400)]
    signs = [tuple(np.sign(each.center[0, :2]).astype(int)) for each in moved]
    assert all(signs.count(quarter) > 70 for quarter in ((1, 1), (1, -1), (-1, 1), (-1, -1)))
    for each, (x, y) in zip(moved, signs):
        np.testing.assert_allclose(each.center[0], [3 * x, y, 0], atol=1e-12)
        np.testing.assert_allclose(each.velocity[0], [2 * x, y], atol=1e-12)
        heading = [np.cos(each.yaw[0]), np.sin(each.yaw[0])]
        np.testing.assert_allclose(heading, [np.cos(0.3) * x, np.sin(0.3) * y], atol=1e-12)


def test_the_principal_point_is_mirrored_about_the_middle_of_the_image():
    camera = make_camera()
    mirrored = transform_camera(camera, WorldTransform(mirror=True), ImageTransform(mirror=True), (90, 160))
    wanted = camera.intrinsics.copy()
    wanted[0, 2] = 159 - wanted[0, 2]
    np.testing.assert_allclose(mirrored.intrinsics, wanted)


def test_radar_velocities_turn_with_the_points_and_the_rest_stays():
    points = np.array([[10, 5, 0.5, 7, 3, 1, 0.1]], np.float32)
    frame = Frame("f", 0, radar=RadarCloud(points), lidar=LidarCloud(points[:, :5]))
    changed = transform_world(frame, WorldTransform(mirror=True, rigid=SE3.from_yaw(np.pi / 2)))
    np.testing.assert_allclose(changed.radar.points, [[5, 10, 0.5, 7, 1, 3, 0.1]], atol=1e-5)
    np.testing.assert_allclose(changed.lidar.points, [[5, 10, 0.5, 7, 3]], atol=1e-5)
    assert changed.radar.points.dtype == changed.lidar.points.dtype == np.float32
    np.testing.assert_array_equal(frame.radar.points, points)


class Radar4D(PointCloud):
    fields = ("x", "y", "z", "vx", "vy", "power")


def test_other_sensors_move_with_the_world_each_to_its_own_size():
    """A quarter turn to the left of the mirrored world takes (x, y) to (y, x), velocities like positions."""
    points = np.array([[10, 5, 0.5, 3, 1, 7]], np.float32)
    camera = make_camera()
    frame = Frame("f", 0, cameras={"CAM": camera}, others={"radar4d": Radar4D(points), "thermal": {"LEFT": camera}})
    world = WorldTransform(mirror=True, rigid=SE3.from_yaw(np.pi / 2))
    moved = augment(frame, world, OFF, {"camera": SIZE, "thermal": (32, 48)}, np.random.default_rng(0))
    assert type(moved.others["radar4d"]) is Radar4D
    np.testing.assert_allclose(moved.others["radar4d"].points, [[5, 10, 0.5, 1, 3, 7]], atol=1e-5)
    left, front = moved.others["thermal"]["LEFT"], moved.cameras["CAM"]
    assert left.image.shape == (32, 48, 3) and front.image.shape == (*SIZE, 3)
    np.testing.assert_array_equal(left.ego_SE3_camera.matrix, front.ego_SE3_camera.matrix)


def test_an_unknown_velocity_stays_unknown():
    boxes = dataclasses.replace(make_frame().boxes, velocity=np.full((6, 2), np.nan))
    assert np.isnan(WorldTransform(True, 1.1, SE3.from_yaw(0.3)).boxes(boxes).velocity).all()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("zoom", [0.85, 1.0, 1.3])
def test_a_bright_dot_is_found_where_its_point_projects(mirror, zoom):
    camera = make_camera(height=180, width=320)
    dot = camera.ego_SE3_camera.transform(np.array([[0.25, 0.3, 1.5]]))
    u, v = pixels(camera, dot)[0][0]
    camera.image[:] = 10
    cv2.circle(camera.image, (round(u * 16), round(v * 16)), 5 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4)

    world = WorldTransform(mirror, 1.05, SE3.from_yaw(0.4, [0.5, -0.3, 0.2]))
    image = ImageTransform(mirror, zoom, shift=(0.05, -0.08))
    changed = transform_camera(camera, world, image, SIZE)
    weight = np.where(changed.image[..., 0] > 60, changed.image[..., 0], 0).astype(float)
    found = np.array([(weight.sum(0) * np.arange(SIZE[1])).sum(), (weight.sum(1) * np.arange(SIZE[0])).sum()])
    np.testing.assert_allclose(found / weight.sum(), pixels(changed, world.points(dot))[0][0], atol=0.1)


def test_nothing_random_is_what_the_detector_does_to_an_image():
    rng = np.random.default_rng(0)
    for height, width in ((90, 160), (100, 130), (30, 200), (1, 900), SIZE):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        camera = dataclasses.replace(make_camera(), image=image)
        frame = Frame("f", 0, cameras={"CAM": camera}, boxes=make_frame().boxes)
        same, fitted = augment(frame, draw_world(OFF, rng), OFF, {"camera": SIZE}, rng), fit_image(camera, SIZE)
        np.testing.assert_array_equal(same.cameras["CAM"].image, fitted.image)
        np.testing.assert_allclose(same.cameras["CAM"].intrinsics, fitted.intrinsics)
        np.testing.assert_allclose(same.boxes.center, frame.boxes.center)


def test_the_same_generator_gives_the_same_bytes():
    frame = make_frame()
    first, second, other = (changed(frame, seed) for seed in (3, 3, 4))
    assert first.lidar.points.tobytes() == second.lidar.points.tobytes() != other.lidar.points.tobytes()
    for name in frame.cameras:
        assert first.cameras[name].image.tobytes() == second.cameras[name].image.tobytes()
        assert first.cameras[name].image.shape == (*SIZE, 3)


def test_frames_with_little_in_them():
    bare = changed(Frame("f", 0), 0)
    assert bare.sensors == () and bare.boxes is None and bare.cameras is None
    empty = Frame(
        "f",
        0,
        radar=RadarCloud(np.zeros((0, 7), np.float32)),
        lidar=LidarCloud(np.zeros((0, 5), np.float32)),
        boxes=Boxes3D.empty(),
    )
    after = changed(empty, 0)
    assert len(after.radar.points) == len(after.lidar.points) == len(after.boxes) == 0
    assert after.sensors == ("radar", "lidar")


def test_colour_changes_as_said_and_what_lies_outside_of_the_image_is_black():
    image = np.full((*SIZE, 3), 100, np.uint8)
    out, _ = ImageTransform(brightness=1.2, contrast=0.5).apply(image, SIZE)
    assert (out == 124).all()  # (100 * 1.2 - 128) * 0.5 + 128
    out, _ = ImageTransform(shift=(0.25, 0.0), brightness=1.2).apply(image, SIZE)
    assert (out[:, :96] == 120).all() and (out[:, 96:] == 0).all()
    out, _ = ImageTransform(shift=(2.0, 0.0)).apply(image, SIZE)
    assert (out == 0).all()


def test_a_cloud_has_its_last_sweep_and_any_number_of_those_before():
    """Ten sweeps of 100 points, 50 ms apart: the newest of them are left, of every number."""
    config = dataclasses.replace(OFF, sweep_dropout=1.0)
    points = np.zeros((1000, 5), np.float32)
    points[:, 4] = np.repeat(np.arange(10) * 0.05, 100)
    left = set()
    for seed in range(60):
        ages = change_cloud(LidarCloud(points), config, np.random.default_rng(seed)).points[:, 4]
        assert len(ages) % 100 == 0 and ages.max() == pytest.approx(0.05 * (len(ages) // 100 - 1))
        left.add(len(ages) // 100)
    assert left == set(range(1, 10))
    assert len(change_cloud(LidarCloud(points[:0]), config, np.random.default_rng(0)).points) == 0
    half = dataclasses.replace(OFF, sweep_dropout=0.5)
    whole = [
        len(change_cloud(LidarCloud(points), half, np.random.default_rng(seed)).points) == 1000 for seed in range(200)
    ]
    assert 0.4 < np.mean(whole) < 0.6


def test_intensities_of_a_cloud_are_scaled_alike():
    points = np.arange(50, dtype=np.float32).reshape(10, 5)
    config = dataclasses.replace(OFF, intensity_scale=0.5)
    factors = []
    for seed in range(50):
        changed = change_cloud(LidarCloud(points), config, np.random.default_rng(seed)).points
        np.testing.assert_array_equal(np.delete(changed, 3, axis=1), np.delete(points, 3, axis=1))
        np.testing.assert_allclose(changed[:, 3] / points[:, 3], changed[0, 3] / points[0, 3], rtol=1e-6)
        factors.append(changed[0, 3] / points[0, 3])
    assert 0.5 <= min(factors) < 0.6 and 1.4 < max(factors) <= 1.5
    assert points[0, 3] == 3  # the frame's own are left as they are
    radar = RadarCloud(np.ones((2, 7), np.float32))
    assert (change_cloud(radar, config, np.random.default_rng(0)).points == 1).all()
