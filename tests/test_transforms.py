"""Trees of transforms: against scipy on random chains, and in the odd orders in which logs say where frames are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from perception.geometry import pose_matrix
from perception.logs.messages import LogError, Transform
from perception.logs.transforms import HOLD_NS, Refused, Transforms, inverse

S = 1_000_000_000


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return np.array([x, y, z, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])


def known(*edges, static=False):
    transforms = Transforms()
    for parent, child, seconds, at in edges:
        transforms.add(round(seconds * S), Transform(parent, child, at, static))
    return transforms


def random_pose(rng):
    quaternion = rng.normal(size=4)
    return np.concatenate([rng.uniform(-1e3, 1e3, 3), quaternion / np.linalg.norm(quaternion)])


def oracle(times_ns, poses, time_ns):
    """[4, 4] from scipy, at a time between the first and the last."""
    seconds = np.array(times_ns) / S
    out = np.eye(4)
    out[:3, :3] = Slerp(seconds, Rotation.from_quat([p[[4, 5, 6, 3]] for p in poses]))(time_ns / S).as_matrix()
    out[:3, 3] = [np.interp(time_ns / S, seconds, [p[i] for p in poses]) for i in range(3)]
    return out


@given(st.integers(0, 2**32 - 1), st.permutations(range(12)), st.floats(0, 1))
def test_a_chain_of_moving_frames_is_scipys_whatever_the_order_of_arrival(seed, order, share):
    rng = np.random.default_rng(seed)
    times = {f: np.sort(rng.choice(10 * S, 4, replace=False)) for f in ("odom", "base", "lidar")}
    parents = {"odom": "map", "base": "odom", "lidar": "base"}
    poses = {f: [random_pose(rng) for _ in range(4)] for f in times}
    every = [(f, i) for f in times for i in range(4)]
    transforms = Transforms()
    for frame, i in (every[k] for k in order):
        transforms.add(int(times[frame][i]), Transform(parents[frame], frame, poses[frame][i]))
    first, last = max(t[0] for t in times.values()), min(t[-1] for t in times.values())
    assert transforms.measured("map", "lidar") == (first, last)
    if first >= last:
        return
    time_ns = int(first + share * (last - first))
    map_T_base = oracle(times["odom"], poses["odom"], time_ns) @ oracle(times["base"], poses["base"], time_ns)
    map_T_lidar = map_T_base @ oracle(times["lidar"], poses["lidar"], time_ns)
    assert np.allclose(transforms.lookup("map", "lidar", time_ns), map_T_lidar, atol=1e-6)
    assert np.allclose(transforms.lookup("lidar", "map", time_ns), np.linalg.inv(map_T_lidar), atol=1e-6)


def test_the_short_way_round_is_taken_when_a_quaternion_changes_its_sign():
    after = -pose(yaw=0.2)
    middle = known(("map", "car", 0, pose()), ("map", "car", 1, after)).lookup("map", "car", S // 2)
    assert np.allclose(middle, pose_matrix(pose(yaw=0.1)), atol=1e-12)


def test_between_equal_poses_it_is_the_same_to_the_last_bit():
    """Where a vehicle stops, no frame may depend on which poses happened to be recorded."""
    at = pose(1 / 3, 1e4 / 7, 0.1, 0.3)
    transforms = known(
        ("map", "car", 0, pose()), ("map", "car", 1, at), ("map", "car", 3, at), ("map", "car", 4, pose())
    )
    assert np.array_equal(transforms.lookup("map", "car", 2 * S + 1), pose_matrix(at))


def test_sensors_of_one_vehicle_need_no_pose_of_it():
    transforms = known(("base", "lidar", 0, pose(1)), ("base", "camera", 0, pose(0, 2)), static=True)
    transforms.add(0, Transform("map", "base", pose()))
    transforms.add(S, Transform("map", "base", pose(9)))
    assert np.allclose(transforms.lookup("camera", "lidar", 77 * S)[:3, 3], [1, -2, 0])  # long after the last pose
    assert transforms.lookup("map", "lidar", 77 * S) is None
    assert transforms.measured("camera", "lidar") == (-np.inf, np.inf)
    assert np.array_equal(transforms.lookup("base", "base", 0), np.eye(4))
    assert np.array_equal(transforms.lookup("nowhere", "nowhere", 0), np.eye(4))


def test_of_static_transforms_the_latest_holds_for_good():
    """A second publisher, or a log joined of two: tf2 has it so too."""
    transforms = known(("base", "lidar", 5, pose(1)), ("base", "lidar", 0, pose(2)), static=True)
    for seconds in (0, 3, 1000):
        assert transforms.lookup("base", "lidar", seconds * S)[0, 3] == 2


def test_what_is_said_to_be_static_but_moves_moves():
    moving = [("map", "base", 0, pose(0)), ("map", "base", 1, pose(1))]
    static = Transform("map", "base", pose(50), static=True)
    before, after = Transforms(), known(*moving)
    before.add(0, static)
    for parent, child, seconds, at in moving:
        before.add(seconds * S, Transform(parent, child, at))
    after.add(0, static)
    for transforms in (before, after):
        assert transforms.lookup("map", "base", S // 2)[0, 3] == 0.5
        assert transforms.measured("map", "base") == (0, S)


def test_what_has_had_one_value_only_is_known_at_all_times():
    transforms = known(*[("base", "lidar", t, pose(1, yaw=0.1)) for t in range(5)])
    assert np.array_equal(transforms.lookup("base", "lidar", 1000 * S), pose_matrix(pose(1, yaw=0.1)))
    transforms.add(5 * S, Transform("base", "lidar", pose(2)))  # it moves after all
    assert transforms.lookup("base", "lidar", 1000 * S) is None


def test_an_origin_that_was_said_once_does_not_end_what_is_known():
    """A localisation publishes map -> odom when it has news only; odometry never rests."""
    transforms = known(("map", "odom", 0, pose(100)), *[("odom", "base", t, pose(t)) for t in range(5)])
    assert transforms.measured("map", "base") == (0, 4 * S)
    transforms.add(6 * S, Transform("map", "odom", pose(101)))  # it moves after all
    assert transforms.lookup("map", "base", 3 * S)[0, 3] == 103.5
    standing = known(("map", "odom", 0, pose()), *[("odom", "base", t, pose()) for t in range(5)])
    assert standing.measured("map", "base") == (0, 0)  # nothing says how long it stood


def test_history_of_what_never_changes_is_not_kept():
    transforms = known(*[("base", "lidar", t, pose(1)) for t in range(1000)])
    assert len(transforms._edges["base", "lidar"].poses) == 2
    assert transforms.measured("base", "lidar") == (0, 999 * S)


def test_forgetting_all_but_the_last_keeps_that():
    transforms = known(*[("map", "car", t, pose(t)) for t in range(5)])
    transforms.forget_before(1000 * S)
    assert transforms.lookup("map", "car", 4 * S + HOLD_NS)[0, 3] == 4
    transforms.forget_before(-1)
    Transforms().forget_before(0)
    assert transforms.measured("map", "car") == (4 * S, 4 * S)


@pytest.mark.parametrize("broken", [
    pose(x=np.nan), pose(x=np.inf), pose(x=1e300), np.array([0, 0, 0, 1e300, 0, 0, 0]),
    np.array([0, 0, 0, 0.5, 0, 0, 0]), np.array([0, 0, 0, np.inf, 0, 0, 0.0]),
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_no_pose(broken):
    transforms = Transforms()
    with pytest.raises(LogError, match="transform map -> car: metres and a unit quaternion were expected, found"):
        transforms.add(0, Transform("map", "car", broken))
    assert transforms.lookup("map", "car", 0) is None  # and nothing of it is kept


def test_two_localisers_do_not_disturb_each_other():
    transforms = known(("map", "odom", 0, pose(100)), ("odom", "base", 0, pose(10)), ("gps", "base", 0, pose(7)))
    assert transforms.lookup("map", "base", 0)[0, 3] == 110
    assert transforms.lookup("gps", "base", 0)[0, 3] == 7
    assert transforms.lookup("map", "gps", 0)[0, 3] == 103
    assert transforms.doubts() == []


def test_the_mount_of_a_frame_that_odometry_locates_is_walked_both_ways():
    transforms = known(("base", "camera", 0, pose(1)), ("base", "lidar", 0, pose(0, 2)), static=True)
    for seconds in (0, 1):  # the camera looks to the left, and moves to the left
        transforms.add(seconds * S, Transform("odom", "camera", pose(1, 10 * seconds, yaw=np.pi / 2)))
    # The vehicle's x axis is the camera's, and the camera is 1 m ahead: at 0.5 s (1, 5) - 1 m along (0, 1) = (1, 4).
    assert np.allclose(transforms.lookup("odom", "base", S // 2)[:3, 3], [1, 4, 0])
    assert np.allclose(transforms.lookup("odom", "lidar", S // 2)[:3, 3], [-1, 4, 0])
    assert transforms.measured("odom", "lidar") == (0, S)


def test_two_ways_are_said_of_frames_that_were_asked_for_only():
    transforms = known(("map", "odom", 0, pose(1)), ("odom", "base", 0, pose(1)), ("map", "base", 0, pose(5)))
    transforms.lookup("map", "odom", 0)
    assert transforms.doubts() == []
    assert transforms.lookup("map", "base", 0)[0, 3] == 5
    (line,) = transforms.doubts()
    assert line.startswith("two ways from base to map: map -> base is taken")


def test_only_so_many_transforms_are_kept(monkeypatch):
    monkeypatch.setattr("perception.logs.transforms._MOST_EDGES", 2)
    transforms = known(("a", "b", 0, pose()), ("b", "c", 0, pose()))
    with pytest.raises(LogError, match="up to 2 transforms between frames were expected, found more"):
        transforms.add(0, Transform("c", "d", pose()))
    transforms.add(1, Transform("b", "c", pose(1)))


def test_of_refused_transforms_the_first_of_each_pair_is_said_and_all_are_counted():
    refused = Refused()
    for child in ("wheel", "wheel", *map(str, range(12))):
        refused.add(Transform("base", child, pose()), LogError(f"base -> {child}: none"))
    first, *_, last = refused.lines()
    assert first == "base -> wheel: none; left out: 2"
    assert last == "transforms of 3 more pairs of frames are left out" and len(refused.lines()) == 11
    assert refused.lines([("base", "7")]) == ["base -> 7: none; left out: 1"]


def test_a_slightly_long_quaternion_still_gives_a_rotation():
    rotation = known(("a", "b", 0, pose(yaw=0.5) * [1, 1, 1, 1.005, 1, 1, 1.005])).lookup("a", "b", 0)
    assert np.allclose(rotation[:3, :3] @ rotation[:3, :3].T, np.eye(3), atol=1e-12)


def test_the_inverse_takes_back():
    transform = pose_matrix(random_pose(np.random.default_rng(1)))
    assert np.allclose(inverse(transform) @ transform, np.eye(4), atol=1e-12)
