"""Loading fast changes nothing: fused passes over points, reduced JPEGs and cropped scaling against the plain way."""

import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nuscenes_world import RADAR_DTYPE, World, pcd_bytes, radar_points

import perception
from benchmarks import loading
from perception.batch import Batch, InputSpec, collate
from perception.config import AugmentConfig
from perception.data.cloud_kernels import lidar_to_ego, radar_to_ego
from perception.errors import PerceptionError
from perception.geometry import SE3, project
from perception.sample import CameraImage, Frame, LidarCloud, fit_image, fitted, scaled_below
from perception.sim import simulate
from perception.train.augment import ImageTransform
from perception.train.batches import training_image_size

fast = settings(max_examples=60, deadline=None)
POSE = SE3.from_quaternion([0.5, -0.1, 0.7, 0.5], [3.0, -2.0, 1.5])
EVERY_RING = (True, np.zeros(0, bool))
NUMBERS = st.floats(-100, 100, width=32) | st.sampled_from(
    [0.5, -0.5, 1.0, np.nan, np.inf, -np.inf, 3e38, 1e30, 2e6, 1500.0]
)


def plain_lidar(points, age_s, min_distance_m, rings=None):
    """What the fused pass does, a step at a time: the points that are kept, how many are not finite or out of range."""
    if rings is not None:
        points = points[np.isin(points[:, 4], rings)]
    points = points[~(np.abs(points[:, :2]) < min_distance_m).all(axis=1)].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        xyz = POSE.transform(points[:, :3])
        out = np.column_stack([xyz, points[:, 3], np.full(len(points), age_s)]).astype(np.float32)
    finite, possible = np.isfinite(out).all(axis=1), (np.abs(out) <= 1e6).all(axis=1)
    return out[possible], (~finite).sum(), (finite & ~possible).sum()


@fast
@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from([0, 1, 2, 31, -1, 0.5])), max_size=40),
    min_distance_m=st.sampled_from([0.0, 1.0, 50.0]),
    rings=st.none() | st.lists(st.integers(-2, 40), max_size=4),
)
def test_a_fused_lidar_pass_is_the_steps_one_by_one(rows, min_distance_m, rings):
    points = np.array(rows, np.float32).reshape(-1, 5)
    expected, *dropped = plain_lidar(points, 0.25, min_distance_m, rings)
    kept_rings = EVERY_RING if rings is None else (False, np.isin(np.arange(1 + max(rings, default=0)), rings))
    assert lidar_to_ego(points, POSE.matrix, 0.25, min_distance_m, *kept_rings) == (len(expected), *dropped)
    np.testing.assert_allclose(points[: len(expected)], expected, rtol=1e-6, atol=1e-5)


RADAR_USED = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
STATES = {"invalid_state": (0, 1, 4), "dyn_prop": (-1, 0, 3, 6, 7), "ambig_state": (3, 3, 1)}
AS_DOUBLES = np.dtype([(name, "<f8" if name in RADAR_USED else "<i4") for name in RADAR_DTYPE.names])


@settings(fast, max_examples=30)
@given(
    rows=st.lists(st.tuples(*[NUMBERS] * 6, *map(st.sampled_from, STATES.values())), max_size=20),
    filtered=st.booleans(),
    dtype=st.sampled_from([RADAR_DTYPE, AS_DOUBLES]),
)
def test_a_fused_radar_pass_is_the_steps_one_by_one(rows, filtered, dtype):
    records = np.zeros(len(rows), dtype)
    for name, values in zip((*RADAR_USED, *STATES), zip(*rows)):
        records[name] = values
    out = np.full((len(rows) + 1, 7), -7, np.float32)
    kept, *dropped = radar_to_ego(records, POSE.matrix, 0.25, 1.0, filtered, out)

    if filtered:
        valid, moving = records["invalid_state"] == 0, (records["dyn_prop"] >= 0) & (records["dyn_prop"] <= 6)
        records = records[valid & moving & (records["ambig_state"] == 3)]
    x, y, z, rcs, vx, vy = (records[name].astype(np.float64) for name in RADAR_USED)
    far = (np.abs(x) >= 1) | (np.abs(y) >= 1) | np.isnan(x) | np.isnan(y)
    with np.errstate(over="ignore", invalid="ignore"):
        velocity = np.stack([vx, vy], 1) @ POSE.rotation[:2, :2].T
        xyz = POSE.transform(np.stack([x, y, z], 1))
        expected = np.column_stack([xyz, rcs, velocity, np.full(len(x), 0.25)])[far].astype(np.float32)
    finite = np.isfinite(expected).all(axis=1)
    possible = (np.abs(expected) <= [1e6, 1e6, 1e6, 1e3, 1e3, 1e3, 1e4]).all(axis=1)
    assert [kept, *dropped] == [possible.sum(), (~finite).sum(), (finite & ~possible).sum()]
    np.testing.assert_allclose(out[:kept], expected[possible], rtol=1e-5, atol=1e-5)
    assert (out[-1] == -7).all()


def test_sweeps_of_any_length_follow_each_other(tmp_path):
    """They share one array, from which dropped points are closed up."""
    world, random = World(), np.random.default_rng(0)
    for name, count in (("samples/LIDAR_TOP/lidar0", 50), ("sweeps/LIDAR_TOP/sweep", 200)):
        points = np.c_[random.uniform(-3, 3, (count, 4)), random.integers(0, 32, count)]
        world.files[name] = points.astype("<f4").tobytes()
    for name, count in (("samples/RADAR_FRONT/radar0", 3), ("sweeps/RADAR_FRONT/rsweep", 40)):
        world.files[name] = pcd_bytes(radar_points(*random.uniform(-3, 3, (count, 6))))
    root = world.write(tmp_path)
    both, last = perception.NuScenes(root)[0], perception.NuScenes(root, lidar_sweeps=1, radar_sweeps=1)[0]
    for name, counts in (("lidar", (50, 200)), ("radar", (3, 40))):
        points, keyframe = getattr(both, name).points, getattr(last, name).points
        assert 0 < len(keyframe) <= counts[0] < len(points) < sum(counts)
        np.testing.assert_array_equal(points[: len(keyframe)], keyframe)
        assert np.unique(points[len(keyframe) :, -1]) == np.float32(0.05)
        np.testing.assert_allclose(points[len(keyframe) :, 1].mean(), 0, atol=1.5)


FIRST_USE = """
import sys, numpy as np
from perception.data.cloud_kernels import lidar_to_ego
points = np.ones((4, 5), np.float32)
assert lidar_to_ego(points, np.eye(4), 0.0, 0.5, True, np.zeros(0, bool)) == (4, 0, 0)
print(sum(lidar_to_ego.stats.cache_hits.values()))
"""


def test_processes_may_compile_at_the_same_time_and_later_ones_need_not(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def start():
        root = Path(__file__).parents[1]
        return subprocess.Popen([sys.executable, "-c", FIRST_USE], cwd=root, env=environment, stdout=subprocess.PIPE)

    together = [process.communicate()[0] for process in [start() for _ in range(3)]]
    assert all(output.strip().isdigit() for output in together)
    assert start().communicate()[0].strip() == b"1"


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(height * width).normal(size=(height, width, 3))
    return np.clip(128 + 300 * cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)


def camera_of(image: np.ndarray) -> CameraImage:
    height, width = image.shape[:2]
    return CameraImage(image, np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]), POSE, 0)


@fast
@given(
    height=st.integers(2, 120),
    width=st.integers(2, 60),
    scaled=st.tuples(st.integers(1, 90), st.integers(1, 200)),
    share=st.floats(0, 1.2),
)
def test_rows_that_are_cut_off_need_not_be_scaled(height, width, scaled, share):
    image, top = picture(height, width), int(share * scaled[1])
    coarse = 2 * scaled[0] < width or 2 * scaled[1] < height
    whole = cv2.resize(image, scaled, interpolation=cv2.INTER_AREA if coarse else cv2.INTER_LINEAR)[top:]
    below = scaled_below(image, scaled, top)
    assert below.shape == whole.shape
    assert np.abs(below.astype(int) - whole).max(initial=0) <= 1


def test_a_pixel_of_a_reduced_image_lies_where_its_camera_says(tmp_path):
    """A white dot in the file, found again in frames that were read at every scale."""
    world, image = World(), np.zeros((256, 512, 3), np.uint8)
    row, column = 100, 333
    image[row - 8 : row + 9, column - 8 : column + 9] = 255
    world.files["samples/CAM_FRONT/camera0.jpg"] = cv2.imencode(".jpg", image)[1].tobytes()
    world.row("sample_data", "camera0").update(height=256, width=512)
    root = world.write(tmp_path)
    whole = perception.NuScenes(root)[0].cameras["CAM_FRONT"]
    ray = np.linalg.inv(whole.intrinsics) @ [column, row, 1.0]
    for divisor in (1, 2, 4, 8):
        image_size = (256 // divisor, 512 // divisor)
        camera = perception.NuScenes(root, image_size=image_size)[0].cameras["CAM_FRONT"]
        assert camera.image.shape == (*image_size, 3)
        weight = np.where(camera.image[..., 0] > 40, camera.image[..., 0], 0).astype(float)
        rows, columns = np.indices(image_size)
        found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        np.testing.assert_allclose(found, project(ray[None], camera.intrinsics)[0][0], atol=0.05)
        np.testing.assert_array_equal(camera.ego_SE3_camera.matrix, whole.ego_SE3_camera.matrix)


@pytest.mark.parametrize("image_size", [(8,), (4, 100), (100, 7), (1, 2, 3)])
def test_image_sizes_that_are_none(tmp_path, image_size):
    with pytest.raises(PerceptionError, match="image_size: height and width of at least 8"):
        perception.NuScenes(World().write(tmp_path), image_size=image_size)


def batch_of(frames: list[Frame], image_size: tuple[int, int]) -> Batch:
    return collate(frames, InputSpec(("camera", "radar", "lidar"), {"camera": image_size}))


def difference(root: Path, image_size: tuple[int, int]) -> float:
    """Mean grey levels by which the images of a detector change because their files are decoded at a reduced size."""
    whole, reduced = perception.NuScenes(root), perception.NuScenes(root, image_size=image_size)
    middle = len(whole) // 2
    batches = [batch_of([dataset[middle]], image_size) for dataset in (whole, reduced)]
    images = [batch.inputs["camera"].images.numpy().astype(int) for batch in batches]
    first = next(iter(whole[middle].cameras))
    assert whole[middle].cameras[first].image.shape[0] >= 2 * reduced[middle].cameras[first].image.shape[0]
    return np.abs(images[0] - images[1]).mean()


@pytest.mark.parametrize("image_size, tolerance", [((256, 704), 1.0), ((128, 352), 2.0)])
def test_real_images_hardly_change(real_scene, image_size, tolerance):
    assert difference(real_scene, image_size) < tolerance  # measured: 0.65 and 1.33


def test_simulated_images_hardly_change(tmp_path):
    simulate(tmp_path, 1, 0.5, seed=3000, workers=1)
    assert difference(tmp_path, (128, 352)) < 1.5  # measured: 0.97


def test_a_batch_holds_fitted_images_side_by_side():
    cameras = {"A": camera_of(picture(90, 160)), "B": camera_of(picture(45, 80)), "C": camera_of(picture(32, 64))}
    batch = batch_of([Frame("f", 0, cameras=cameras), Frame("g", 0)], (32, 64)).inputs["camera"]
    assert batch.images.permute(0, 1, 3, 4, 2).is_contiguous()  # what channels_last layers like
    for n, camera in enumerate(cameras.values()):
        expected = fit_image(camera, (32, 64))
        np.testing.assert_array_equal(batch.images[0, n].permute(1, 2, 0), expected.image)
        np.testing.assert_allclose(batch.intrinsics[0, n], expected.intrinsics, rtol=1e-6)
    assert not batch.images[1].any()


def test_a_batch_shares_no_memory_with_its_frames():
    frame = Frame("f", 0, cameras={"A": camera_of(picture(32, 64))}, lidar=LidarCloud(np.ones((3, 5), np.float32)))
    inputs = batch_of([frame], (32, 64)).inputs
    before = frame.cameras["A"].image.copy()
    inputs["lidar"].points[:], inputs["camera"].images[:] = 0, 0
    assert (frame.lidar.points == 1).all()
    np.testing.assert_array_equal(frame.cameras["A"].image, before)


@fast
@given(
    height=st.integers(30, 200),
    width=st.integers(30, 200),
    sides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    image_scale=st.floats(0, 0.9),
)
def test_training_images_are_large_enough_to_zoom_in(height, width, sides, image_scale):
    image_size = (16 * sides[0], 16 * sides[1])
    cover = training_image_size(image_size, AugmentConfig(image_scale=image_scale))
    kept = fitted(np.zeros((height, width, 3), np.uint8), cover)[0]
    _, affine = ImageTransform(zoom=1 + image_scale).apply(kept, image_size)
    assert max(affine[0, 0], affine[1, 1]) < 1 + 1 / min(image_size)  # up to rounding, never enlarged


def test_every_sweep_of_the_tables_gets_a_file(tmp_path):
    world = World()
    tables = World()
    tables.files = {name: data for name, data in world.files.items() if name.startswith("samples/")}
    out = loading.fill_sweeps(tables.write(tmp_path / "scene"), tmp_path / "filled")
    assert {str(path.relative_to(out)) for path in out.glob("s*/*/*")} == set(world.files)
    assert len(perception.NuScenes(out)[0].lidar.points) == 2


@pytest.mark.parametrize("other", [np.zeros((3, 3)), np.full((4, 3), 2e-5), np.full((4, 3), math.nan)])
def test_a_benchmark_of_different_results_is_refused(other):
    loading._require_same("points", np.zeros((4, 3)), np.full((4, 3), 1e-6))
    with pytest.raises(PerceptionError, match="points"):
        loading._require_same("points", np.zeros((4, 3)), other)
