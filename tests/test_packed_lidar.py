"""LiDAR points in eight bytes: how far they move, what they never do, and what is kept as it is."""

import msgspec
import numpy as np
import pytest

import perception
from perception.data.packed_lidar import PackedFacts, pack, unpack
from perception.sample import CameraImage, Frame, LidarCloud, RadarCloud

STEP_M = 5e-4


def cloud(number=4000, seed=0, reach=(100, 60, 15)) -> np.ndarray:
    """float32 [N, 5]: whole intensities, three sweeps one after the other."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-1, 1, (number, 3)) * reach
    age_s = np.repeat([0.0, 0.05, 0.1], [number - 2 * (number // 3), number // 3, number // 3])
    return np.column_stack([xyz, rng.integers(0, 256, number), age_s]).astype(np.float32)


def restored(points, step_m=STEP_M) -> np.ndarray:
    return unpack(*pack(points, step_m))


def test_points_move_by_half_a_step_at_most_and_nothing_else_changes():
    points = cloud()
    facts, data = pack(points, STEP_M)
    found = unpack(facts, data)
    moved = np.abs(found[:, :3].astype(np.float64) - points[:, :3]).max()
    assert 0.9 * STEP_M / 2 < moved <= STEP_M / 2 + 4e-6  # float32 at 64 m and more
    assert found.dtype == np.float32 and np.array_equal(found[:, 3:], points[:, 3:])
    assert facts.ages == 3 and 0 < facts.exact < 0.03 * len(points)
    assert len(data) == 8 * len(points) + 8 * 3 + 16 * facts.exact


def test_no_point_changes_its_cell():
    """Nor does one within an ulp of an edge, which float32 arithmetic puts on either side; rounding would move it."""
    points = cloud()
    edges = np.float32([-51.2, -0.4, 0.075, 8.0, 40.0])
    points[: len(edges), 0] = np.nextafter(edges, np.float32(-100))
    points[10 : 10 + len(edges), 1] = np.nextafter(edges, np.float32(100))
    points[20 : 20 + len(edges), 0] = edges
    points[30, 0] = 0.39991  # a step is up to 0.4
    found = restored(points)
    for cell_m in (np.float32(0.4), np.float32(0.8), np.float32(0.075)):
        for low in (np.float32(-51.2), np.float32(-54)):
            cells = [np.floor((xyz[:, :2] - low) / cell_m) for xyz in (points, found)]
            assert np.array_equal(*cells)
    rounded = np.rint(points[:, :2] / STEP_M) * STEP_M
    assert (np.floor(rounded / 0.4) != np.floor(points[:, :2] / 0.4)).any()


def test_far_points_keep_all_20_bits():
    points = cloud(5)
    points[:, 0] = [-200, 200, 0, 324.25, -199.9999]  # 524.25 m of 524.288
    assert pack(points, STEP_M)[0].step_m == STEP_M
    np.testing.assert_allclose(restored(points)[:, 0], points[:, 0], atol=STEP_M / 2 + 3e-5)


@pytest.mark.parametrize(("column", "value"), [(0, 525.0), (2, 33.0), (3, 0.5), (3, 256.0), (3, -1.0)])
def test_what_the_bits_do_not_hold_is_kept_as_float32(column, value):
    points = cloud(50, reach=(0, 0, 0))
    points[7, column] = value
    facts, data = pack(points, STEP_M)
    assert facts.step_m is None and len(data) == 16 * 50 + 8 * facts.ages
    assert np.array_equal(unpack(facts, data), points)


def test_steps_that_float64_does_not_count_one_by_one_are_kept_as_float32():
    points = cloud(50, reach=(0, 0, 0))
    points[:, 1] = 1e30
    facts, data = pack(points, STEP_M)
    assert facts.step_m is None and np.array_equal(unpack(facts, data), points)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("step_m", [0, STEP_M])
def test_few_points(number, step_m):
    points = cloud(number)
    np.testing.assert_allclose(restored(points, step_m), points, atol=STEP_M / 2 + 4e-6)


def test_all_digits_where_that_is_asked_for_and_ages_of_every_point():
    points = cloud(60)
    points[:, 3:] = np.random.default_rng(1).uniform(size=(60, 2))
    assert np.array_equal(restored(points, 0), points)
    points[:, 3] = 7
    assert np.array_equal(restored(points)[:, 4], points[:, 4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts, data: (facts, data[:-1]), "bytes of LiDAR points were expected, found"),
        (lambda facts, data: (facts, data + b"x"), "bytes of LiDAR points were expected, found"),
        (lambda facts, data: (facts, data[:80] + b"\xff" * (len(data) - 80)), "ages and indices of 10 LiDAR points"),
        (lambda facts, data: (msgspec.structs.replace(facts, points=2**31), data), "bytes of LiDAR points"),
        (lambda facts, data: (PackedFacts(0, 0, exact=1), bytes(16)), "indices of 0 LiDAR points were expected"),
    ],
)
def test_numbers_that_contradict_each_other(change, message):
    with pytest.raises(ValueError, match=message):
        unpack(*change(*pack(cloud(10), STEP_M)))


def test_an_index_beyond_the_points():
    points = cloud(3, reach=(0, 0, 0))  # on an edge, each
    facts, data = pack(points, STEP_M)
    assert facts.exact == 3
    broken = bytearray(data)
    broken[24 + 8 * facts.ages] = 3
    with pytest.raises(ValueError, match="indices of 3 LiDAR points were expected"):
        unpack(facts, bytes(broken))


def test_facts_are_checked_where_they_are_read():
    far = b'{"points": 1, "ages": 1, "step_m": 1e300}'  # which float32 does not hold
    first = b'{"points": 1, "ages": 1, "step_m": 1, "first": [0, %s, 0]}' % (b"1" * 400)
    for text in (b'{"points": -1, "ages": 0}', b'{"points": 1, "ages": 0, "step_m": 0.0}', far, first):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=PackedFacts)


def test_the_shipped_detector_finds_the_same():
    """To 1e-3 in scores and metres; with points rounded to multiples of the same step it does not."""
    detector = perception.load("sim")
    rng = np.random.default_rng(3)
    points = cloud(30_000, reach=(50, 50, 1))
    points[:3000, :3] = rng.normal([12, 3, 0.8], [1.5, 0.8, 0.4], (3000, 3))  # something that stands there
    intrinsics = np.array([[200.0, 0, 176], [0, 200, 64], [0, 0, 1]])
    camera = CameraImage(np.full((128, 352, 3), 90, np.uint8), intrinsics, perception.SE3(), 0)
    radar = RadarCloud(np.float32([[12, 3, 0.5, 10, 5, 0, 0]]))

    def detect(xyz):
        lidar = LidarCloud(np.column_stack([xyz, points[:, 3:]]))
        return detector.detect(Frame("t", 0, cameras={"CAM_FRONT": camera}, radar=radar, lidar=lidar))

    expected, found = detect(points[:, :3]), detect(restored(points)[:, :3])
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    apart = np.linalg.norm(found.boxes.center[:, None] - expected.boxes.center, axis=2).min(axis=1)
    assert apart[expected.scores > 0.1].max(initial=0) < 1e-3 and (expected.scores > 0.1).any()
    rounded = detect(np.rint(points[:, :3] / STEP_M) * STEP_M)
    assert np.abs(rounded.scores - expected.scores).max() > 1e-3
