"""What goes wrong with sensors: each fault by hand, and that none of them touches the frame it is given."""

import dataclasses

import numpy as np
import pytest
from frames import FRAMES, changed_parts, content, make_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.data import corruptions
from perception.data.corruptions import EGO_SE3_LIDAR, Corrupted, draw_corruptions
from perception.geometry import SE3
from perception.sample import Frame

SENSORS = ("camera", "radar", "lidar")
LIDAR = EGO_SE3_LIDAR.translation


def rng(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


def healthy(frame: Frame) -> Corrupted:
    return Corrupted(frame, {name: SE3() for name in SENSORS})


FULL = FRAMES["full"]
BEFORE = make_frame(0)

# Every function that takes a frame, and every function of a cloud or an image with typical arguments.
OF_A_FRAME = {
    "black_cameras": lambda frame: corruptions.black_cameras(frame),
    "without_cameras": lambda frame: corruptions.without_cameras(frame, ["CAM_FRONT"]),
    "stale_cameras": lambda frame: corruptions.stale_cameras(frame, BEFORE, ["CAM_FRONT_LEFT", "CAM_9"]),
    "stale_lidar": lambda frame: corruptions.stale_lidar(frame, BEFORE),
    "stale_radar": lambda frame: corruptions.stale_radar(frame, BEFORE),
    "rotate_cameras": lambda frame: corruptions.rotate_cameras(frame, 3.0, 0.1, rng()),
    "move_lidar": lambda frame: corruptions.move_lidar(frame, corruptions.lidar_error([1, 2, 3], [1.0, 0, 0])),
}
OF_LIDAR = {
    "thinned": lambda points: corruptions.thinned(points, 0.3, rng()),
    "ahead": lambda points: corruptions.ahead(points, 60.0),
    "shake": lambda points: corruptions.shake(points, 0.1, rng()),
    "fog_lidar": lambda points: corruptions.fog_lidar(points, 0.06, 0.05, rng()),
}
OF_RADAR = {
    "ghosts": lambda points: corruptions.ghosts(points, 2.0, rng()),
    "clutter": lambda points: corruptions.clutter(points, 5.0, rng()),
    "folded_velocity": lambda points: corruptions.folded_velocity(points, rng()),
    "flipped_velocity": corruptions.flipped_velocity,
    "without_sector": lambda points: corruptions.without_sector(points, 0.0, 60.0),
}
OF_AN_IMAGE = {
    "bright": lambda image: corruptions.bright(image, 0.5),
    "dark": lambda image: corruptions.dark(image, 0.4, 120, 0.02, rng()),
    "motion_blur": lambda image: corruptions.motion_blur(image, 20.0, 6.0),
    "fog_image": lambda image: corruptions.fog_image(image, 2.0, 0.001, rng()),
}
EVERY = {
    **OF_A_FRAME,
    **{name: lambda frame, f=f: corruptions.with_lidar(frame, f) for name, f in OF_LIDAR.items()},
    **{name: lambda frame, f=f: corruptions.with_radar(frame, f) for name, f in OF_RADAR.items()},
    **{name: lambda frame, f=f: corruptions.with_images(frame, f) for name, f in OF_AN_IMAGE.items()},
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("name", EVERY)
def test_whatever_the_frame_holds_a_fault_gives_a_frame_and_leaves_its_input_alone(name, kind):
    frame, held = FRAMES[kind], content(FRAMES[kind])
    after = EVERY[name](frame)
    assert content(frame) == held
    assert after.sensors == frame.sensors and after.token == frame.token
    if kind == "full":
        assert changed_parts(frame, after)


def test_a_lidar_shifted_along_its_x_moves_points_to_the_right_of_the_vehicle():
    error = corruptions.lidar_error([0, 0, 0], [2.0, 0.0, 0.0])
    np.testing.assert_allclose(error.transform(np.array([[10.0, 5.0, 1.0]])), [[10, 3, 1]])
    after = corruptions.move_lidar(FULL, error)
    np.testing.assert_allclose(after.lidar.points - FULL.lidar.points, np.tile([0, -2, 0, 0, 0], (40, 1)), atol=1e-5)
    assert changed_parts(FULL, after) == {"lidar"}


def test_a_lidar_turned_about_z_turns_points_clockwise_about_its_own_axis():
    error = corruptions.lidar_error([0, 0, 90], [0.0, 0.0, 0.0])
    points = LIDAR + np.array([[0.0, 0, 0], [0, 0, -1], [10, 0, -1]])
    np.testing.assert_allclose(error.transform(points), LIDAR + [[0, 0, 0], [0, 0, -1], [0, -10, -1]], atol=1e-12)


def test_a_lidar_turned_about_its_x_lifts_or_lowers_what_is_ahead():
    error = corruptions.lidar_error([30, 0, 0], [0.0, 0.0, 0.0])  # its x points to the right
    ahead, right = error.transform(LIDAR + np.array([[10.0, 0, 0], [0, -10, 0]])) - LIDAR
    np.testing.assert_allclose(ahead, [10 * np.cos(np.pi / 6), 0, -5], atol=1e-12)
    np.testing.assert_allclose(right, [0, -10, 0], atol=1e-12)


def test_stale_clouds_are_the_previous_ones_verbatim():
    assert corruptions.stale_lidar(FULL, BEFORE).lidar is BEFORE.lidar
    assert corruptions.stale_radar(FULL, BEFORE).radar is BEFORE.radar
    assert corruptions.stale_lidar(FULL, BEFORE.only(["radar"])) is FULL
    assert corruptions.stale_radar(FULL, BEFORE.only(["lidar"])) is FULL


def test_stale_cameras_show_the_old_image_under_the_new_time_and_pose():
    moved = corruptions.rotate_cameras(FULL, 5.0, 0.1, rng())
    after = corruptions.stale_cameras(moved, BEFORE, ["CAM_FRONT_LEFT"])
    assert changed_parts(moved, after) == {"CAM_FRONT_LEFT"}
    assert after.cameras["CAM_FRONT_LEFT"].image is BEFORE.cameras["CAM_FRONT_LEFT"].image
    assert after.cameras["CAM_FRONT_LEFT"].timestamp_ns == FULL.cameras["CAM_FRONT_LEFT"].timestamp_ns


def test_only_the_named_cameras_are_hit():
    assert changed_parts(FULL, corruptions.black_cameras(FULL, ["CAM_BACK"])) == {"CAM_BACK"}
    assert not corruptions.black_cameras(FULL).cameras["CAM_FRONT"].image.any()
    assert changed_parts(FULL, corruptions.rotate_cameras(FULL, 3.0, 0.0, rng(), ["CAM_FRONT_RIGHT"])) == {
        "CAM_FRONT_RIGHT pose"
    }
    assert list(corruptions.without_cameras(FULL, ["CAM_FRONT", "CAM_BACK"]).cameras) == [
        "CAM_FRONT_LEFT",
        "CAM_FRONT_RIGHT",
    ]
    assert corruptions.without_cameras(FULL, list(FULL.cameras)).cameras is None


def test_turned_cameras_are_off_by_as_much_as_said():
    poses = [
        corruptions.rotate_cameras(FULL, 2.0, 0.3, rng(seed)).cameras["CAM_FRONT_LEFT"].ego_SE3_camera
        for seed in range(400)
    ]
    errors = [FULL.cameras["CAM_FRONT_LEFT"].ego_SE3_camera.inverse() @ pose for pose in poses]
    turns = [[e.rotation[2, 1], e.rotation[0, 2], e.rotation[1, 0]] for e in errors]  # sines of small angles
    np.testing.assert_allclose(np.rad2deg(turns).std(0), [2, 2, 2], rtol=0.15)
    np.testing.assert_allclose(np.std([e.translation for e in errors], axis=0), [0.3] * 3, rtol=0.15)


@pytest.mark.parametrize(("keep", "left"), [(0.0, 0), (0.3, 12), (1.0, 40)])
def test_thinned_keeps_a_share_in_order(keep, left):
    points = np.arange(40.0)[:, None]
    kept = corruptions.thinned(points, keep, rng())[:, 0]
    assert len(kept) == left and (np.diff(kept) > 0).all()


def around(*degrees, center=(0.0, 0.0)) -> np.ndarray:
    angle = np.deg2rad(degrees)
    points = np.zeros((len(degrees), 7), np.float32)
    points[:, 0], points[:, 1], points[:, 3] = center[0] + 9 * np.cos(angle), center[1] + 9 * np.sin(angle), degrees
    return points


def test_a_narrow_view_is_that_of_the_lidar():
    points = around(0, 59, 61, 180, -59, -61, center=LIDAR)
    assert corruptions.ahead(points, 60.0)[:, 3].tolist() == [0, 59, -59]
    assert corruptions.ahead(points, 60.0, 180.0)[:, 3].tolist() == [180]
    assert corruptions.ahead(points, 60.0, 120.0)[:, 3].tolist() == [61, 180]  # across where angles wrap
    behind_the_vehicle = np.float32([[0.5, 0.0, 0, 0, 0]])  # ahead of the ego's origin, behind the LiDAR
    assert len(corruptions.ahead(behind_the_vehicle, 90.0)) == 0


def test_a_dead_radar_leaves_its_sector_empty():
    points = around(0, 29, 31, 180, -29)
    assert corruptions.without_sector(points, 0.0, 30.0)[:, 3].tolist() == [31, 180]
    assert corruptions.without_sector(points, -170.0, 30.0)[:, 3].tolist() == [0, 29, 31, -29]


def test_rings_are_counted_from_above():
    ring = np.arange(32)
    elevation, azimuth = np.deg2rad(10.67 - 1.333 * ring), np.linspace(0, 6, 32)
    ray = np.c_[np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    points = np.float32(LIDAR + 20 * ray)
    assert corruptions.rings(points).tolist() == ring.tolist()


def test_ghosts_double_the_points_and_move_the_copies_sideways_only():
    points = FULL.radar.points
    after = corruptions.ghosts(points, 2.0, rng())
    np.testing.assert_array_equal(after[:40], points)
    np.testing.assert_array_equal(after[40:, 2:], points[:, 2:])
    many = corruptions.ghosts(np.zeros((4000, 7), np.float32), 2.0, rng())[4000:, :2]
    np.testing.assert_allclose(many.std(0), [2, 2], rtol=0.05)


@pytest.mark.parametrize(("factor", "count"), [(1.0, 40), (2.5, 100), (20.0, 800)])
def test_clutter_adds_points_with_strengths_of_real_ones(factor, count):
    points = FULL.radar.points
    after = corruptions.clutter(points, factor, rng(), range_m=60.0)
    assert len(after) == count
    np.testing.assert_array_equal(after[:40], points)
    assert np.isin(after[:, 3], points[:, 3]).all() and np.isin(after[:, 6], points[:, 6]).all()
    assert np.abs(after[40:, :2]).max(initial=0) <= 60


def test_folded_speed_is_off_by_one_interval_along_the_ray():
    points = around(0, 90, -90)
    points[:, 4:6] = 1.0
    off = corruptions.folded_velocity(points, rng())[:, 4:6] - points[:, 4:6]
    np.testing.assert_allclose(np.abs(off), [[34, 0], [0, 34], [0, 34]], atol=1e-4)
    many = np.tile(points[:1], (2000, 1))
    off = corruptions.folded_velocity(many, rng(), share=0.25)[:, 4] - 1
    assert (off != 0).mean() == pytest.approx(0.25, abs=0.04) and (off > 0).sum() == pytest.approx(250, abs=60)


def test_flipped_velocity():
    after = corruptions.flipped_velocity(FULL.radar.points)
    np.testing.assert_array_equal(after * [1, 1, 1, 1, -1, -1, 1], FULL.radar.points)


def test_bright_raises_the_value_and_keeps_the_hue():
    image = np.uint8([[[0, 0, 0], [255, 255, 255], [100, 50, 0], [40, 40, 40]]])
    grey = 51  # a fifth of the range
    assert corruptions.bright(image, 0.2).tolist() == [[[grey] * 3, [255] * 3, [151, 76, 0], [91] * 3]]
    assert corruptions.bright(image, 1.0).tolist() == [[[255] * 3, [255] * 3, [255, 128, 0], [255] * 3]]


def test_dark_is_darker_and_the_same_for_the_same_generator():
    image = FULL.cameras["CAM_FRONT"].image
    first, second, other = (corruptions.dark(image, 0.4, 120, 0.018, rng(seed)) for seed in (1, 1, 2))
    assert first.tobytes() == second.tobytes() != other.tobytes()
    assert first.mean() < 0.5 * image.mean()
    # Without noise: white is scaled, half of the range is a quarter of that.
    clean = corruptions.dark(np.uint8([[[0, 0, 0], [100, 100, 100], [200, 200, 200]]]), 0.4, 1e9, 0.0, rng())
    assert np.abs(clean[0, :, 0] - [0, 25.5, 102.0]).max() < 1


@pytest.mark.parametrize(("angle", "step"), [(0, (0, 1)), (90, (1, 0)), (45, (1, 1)), (-45, (-1, 1))])
def test_a_dot_blurs_into_a_line_of_the_same_light(angle, step):
    image = np.zeros((101, 101, 3), np.float32)
    image[50, 50] = 1.0
    after = corruptions.motion_blur(image, angle, 6.0)[..., 0]
    assert after.sum() == pytest.approx(1, abs=1e-4)
    rows, columns = np.nonzero(after > 1e-5)
    lit = {(row - 50, column - 50) for row, column in zip(rows.tolist(), columns.tolist())}
    assert (0, 0) in lit and len(lit) > 10
    assert lit == {(step[0] * i, step[1] * i) for i in range(len(lit))}  # one-sided, without gaps


def test_shaken_points_move_together_and_a_little_each():
    points = np.zeros((3000, 5), np.float32)
    common = np.array([corruptions.shake(points[:1], 0.1, rng(seed))[0, :3] for seed in range(500)])
    np.testing.assert_allclose(common.std(0), [0.1] * 3, rtol=0.1)
    np.testing.assert_allclose(corruptions.shake(points, 0.1, rng())[:, :3].std(0), [0.015, 0.02, 0.012], rtol=0.1)


def test_fog_hides_what_is_far_in_an_image():
    image = np.full((90, 160, 3), 200, np.uint8)
    after = corruptions.fog_image(image, 2.0, 0.002, rng())
    assert after.shape == image.shape and after.dtype == np.uint8
    assert after.tobytes() == corruptions.fog_image(image, 2.0, 0.002, rng()).tobytes()
    contrast = np.tile(np.uint8([0, 255]), (90, 80))[..., None].repeat(3, 2)
    foggy = corruptions.fog_image(contrast, 2.0, 0.002, rng()).astype(float)
    near, far = (np.abs(np.diff(foggy[rows, :, 0])).mean() for rows in (slice(60, 85), slice(0, 10)))
    assert far < 0.5 * near < 0.5 * 255  # the sky is further off than the road


def test_fog_weakens_every_return_and_answers_for_those_that_are_far():
    distance = np.arange(5.0, 100.0, 5.0)
    points = np.float32([[LIDAR[0] + d, 0, LIDAR[2], 100, 0] for d in distance])
    shown = {}
    for alpha in (0.005, 0.03, 0.06):
        after = corruptions.fog_lidar(points, alpha, 0.05, rng())
        assert len(after) == len(points)
        np.testing.assert_allclose(after[:, 1:3], points[:, 1:3], atol=1e-5)  # along the ray
        assert (after[:, 0] <= points[:, 0]).all() and (after[:, 0] >= LIDAR[0] - 1e-5).all()
        there = after[:, 0] == points[:, 0]
        shown[alpha] = there.sum()
        assert there[: shown[alpha]].all()  # the nearest
        np.testing.assert_array_equal(after[there, 3], np.round(100 * np.exp(-2 * alpha * distance))[there])
    assert shown[0.005] > shown[0.03] > shown[0.06] > 0


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(FRAMES)), st.sampled_from([None, *sorted(FRAMES)]))
def test_drawn_faults_leave_both_frames_alone_and_errors_say_where_things_are_shown(seed, kind, before):
    frame = FRAMES[kind]
    previous = None if before is None else dataclasses.replace(FRAMES[before], world_SE3_ego=BEFORE.world_SE3_ego)
    held = content(frame), previous and content(previous)
    corrupted = draw_corruptions(healthy(frame), lambda: previous, 1.0, rng(seed))
    assert (content(frame), previous and content(previous)) == held
    assert corrupted.frame.sensors == frame.sensors and corrupted.errors.keys() <= set(SENSORS)
    assert np.isfinite([error.matrix for error in corrupted.errors.values()]).all()
    assert_errors_are_true(frame, previous, corrupted)


def assert_errors_are_true(frame: Frame, previous: Frame | None, corrupted: Corrupted):
    for name in ("radar", "lidar"):
        cloud, error = getattr(corrupted.frame, name), corrupted.errors[name]
        if np.allclose(error.matrix, np.eye(4)):
            continue
        if previous is not None and cloud is getattr(previous, name):
            in_world = frame.world_SE3_ego.inverse() @ previous.world_SE3_ego  # where what it shows really is
            true = in_world.transform(cloud.points[:, :3])
        else:
            true = getattr(frame, name).points[:, :3]
        np.testing.assert_allclose(error.transform(true), cloud.points[:, :3], atol=1e-4)


def test_no_faults_are_drawn_at_rate_0():
    for seed in range(50):
        corrupted = draw_corruptions(healthy(FULL), lambda: BEFORE, 0.0, rng(seed))
        assert corrupted.frame is FULL
        assert all(np.array_equal(corrupted.errors[name].matrix, np.eye(4)) for name in SENSORS)


def kinds_of(corrupted: Corrupted) -> set[str]:
    """The kinds of fault that a full frame shows, told from its data alone."""
    frame, kinds = corrupted.frame, set()
    xyz, old = frame.lidar.points[:, :3], FULL.lidar.points[:, :3]
    if frame.lidar is BEFORE.lidar:
        kinds.add("lidar stale")
    elif len(xyz) < len(old):
        kinds.add("lidar fewer points")
    elif not np.array_equal(xyz, old):
        kinds.add("lidar shaken" if np.allclose(corrupted.errors["lidar"].matrix, np.eye(4)) else "lidar moved")
    radar, old = frame.radar.points, FULL.radar.points
    if frame.radar is BEFORE.radar:
        kinds.add("radar stale")
    elif len(radar) < len(old):
        kinds.add("radar fewer points")
    elif len(radar) > len(old):
        kinds.add("radar ghosts" if np.array_equal(radar[40:, 2:], old[:, 2:]) else "radar clutter")
    elif not np.array_equal(radar, old):
        kinds.add("radar flipped" if np.array_equal(radar[:, 4:6], -old[:, 4:6]) else "radar folded")
    if set(frame.cameras) < set(FULL.cameras):
        kinds.add("camera absent")
    for name, camera in frame.cameras.items():
        if camera.image is BEFORE.cameras[name].image:
            kinds.add("camera stale")
        if camera.ego_SE3_camera is not FULL.cameras[name].ego_SE3_camera:
            kinds.add("camera turned")
    return kinds


def test_every_kind_of_fault_is_drawn():
    seen, unknown = set(), set()
    for seed in range(200):
        corrupted = draw_corruptions(healthy(FULL), lambda: BEFORE, 1.0, rng(seed))
        kinds = kinds_of(corrupted)
        seen |= kinds
        unknown |= kinds if "camera" not in corrupted.errors else set()
        assert_errors_are_true(FULL, BEFORE, corrupted)
        assert ("camera" in corrupted.errors) or not {"camera absent"} & kinds
    assert seen == {
        *("lidar stale", "lidar moved", "lidar shaken", "lidar fewer points"),
        *("radar stale", "radar ghosts", "radar clutter", "radar folded", "radar flipped", "radar fewer points"),
        *("camera stale", "camera turned", "camera absent"),
    }
    assert {"camera stale", "camera turned"} <= unknown


def test_faults_are_drawn_as_often_as_said():
    hit = np.zeros(3)
    for seed in range(1000):
        frame = draw_corruptions(healthy(FULL), lambda: BEFORE, 0.3, rng(seed)).frame
        hit += [frame.cameras is not FULL.cameras, frame.radar is not FULL.radar, frame.lidar is not FULL.lidar]
    np.testing.assert_allclose(hit / 1000, [0.3] * 3, atol=0.05)


def test_nothing_is_stale_without_a_frame_before():
    for seed in range(100):
        corrupted = draw_corruptions(healthy(FULL), lambda: None, 1.0, rng(seed))
        assert not {"lidar stale", "radar stale", "camera stale"} & kinds_of(corrupted)


def test_sensors_without_faults_of_their_kind_are_left_alone():
    lidar, radar = FULL.lidar, FULL.radar
    others = dataclasses.replace(FULL.only([]), others={"rear": radar, "roof": lidar, "thermal": dict(FULL.cameras)})
    for seed in range(20):
        corrupted = draw_corruptions(Corrupted(others, {"roof": SE3()}), lambda: BEFORE, 1.0, rng(seed))
        assert corrupted.frame is others and corrupted.errors.keys() == {"roof"}
