"""Messages to frames: what stands in the world is at one place for all sensors, and odd logs end in one clear line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.errors import PerceptionError
from perception.geometry import pose_matrix
from perception.logs.assemble import Assembler, sweep_span_s
from perception.logs.measurements import Assembly
from perception.logs.messages import Calibration, Cloud, Image, LogError, Message, Sample, Transform
from perception.logs.rig import CameraSource, CloudSource, Rig
from perception.logs.transforms import inverse

S = 1_000_000_000
NEAR = Assembly(min_distance_m=0.0)
FRONT, TOP, RADAR = (CloudSource(cloud=f"/{name}") for name in ("front", "top", "radar"))
RIG = Rig(
    reference="TOP",
    cameras={"CAM": CameraSource(image="/cam/image_rect", calibration="/cam/info")},
    lidars={"FRONT": FRONT, "TOP": TOP},
    radars={"RADAR": RADAR},
)
SPEED, TURN = 10.0, 0.4  # m/s, rad/s
MOUNTS = {
    "top": (1.0, 0.2, 2.0, 0.1),
    "front": (3.0, 0.0, 1.0, -0.2),
    "radar": (3.5, 1.0, 0.5, 0.7),
    "cam": (2, 0, 1, 0),
}


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    return np.array([x, y, z, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])


def on_circle(seconds):
    """The vehicle's pose on a circle, as a calculator has it."""
    angle = TURN * seconds
    return pose(SPEED / TURN * np.sin(angle), SPEED / TURN * (1 - np.cos(angle)), 0, angle)


def map_T(frame, seconds):
    return pose_matrix(on_circle(seconds)) @ pose_matrix(pose(*MOUNTS[frame]))


class Drive:
    """A list of messages that counts itself."""

    def __init__(self, poses=(), mounts=MOUNTS, at=on_circle):
        self.messages = []
        for frame in mounts:
            self.add("/tf_static", 0, Transform("base_link", frame, pose(*MOUNTS[frame]), static=True))
        for seconds in poses:
            self.add("/tf", seconds, Transform("map", "base_link", at(seconds)))

    def add(self, topic, seconds, data):
        time_ns = round(seconds * S)
        self.messages.append(Message(topic, time_ns, time_ns, len(self.messages), data))
        return self

    def sees(self, topic, frame, seconds, targets, **fields):
        """A cloud of points in the map, from where the sensor is at that time; ``times`` of each, if any."""
        times = fields.get("times", [0.0] * len(targets))
        dtype = [(name, "<f4") for name in ("x", "y", "z", "intensity", *fields.get("names", ()))]
        dtype += [("time", "<f4")] * ("times" in fields)
        records = np.zeros(len(targets), dtype)
        for i, (target, late) in enumerate(zip(targets, times)):
            seen = inverse(map_T(frame, seconds + late)) @ [*target, 1.0]
            records["x"][i], records["y"][i], records["z"][i] = seen[:3]
            if "times" in fields:
                records["time"][i] = late
            if "doppler" in fields.get("names", ()):
                step = 1e-4  # how the distance changes
                ranges = [
                    np.linalg.norm((inverse(map_T(frame, seconds + d)) @ [*target, 1.0])[:3]) for d in (-step, step)
                ]
                records["doppler"][i] = (ranges[1] - ranges[0]) / (2 * step)
        return self.add(topic, seconds, Cloud(frame, records))

    def frames(self, rig=RIG, assembly=NEAR, in_order=True):
        assembler = Assembler(rig, assembly, "drive", "test.mcap")
        messages = sorted(self.messages, key=lambda m: m.timestamp_ns) if in_order else self.messages
        static = [m for m in messages if m.topic == "/tf_static"]
        others = [m for m in messages if m.topic != "/tf_static"]
        found = [frame for m in static + others for frame in assembler.push(m)]
        return found + list(assembler.finish()), assembler.counts


def every(step, start, end):
    return [round(start + i * step, 6) for i in range(round((end - start) / step) + 1)]


POSES = every(0.01, 0.0, 2.0)
POSTS = [(30.0, 4.0, 1.0), (10.0, 25.0, 3.0), (-15.0, 8.0, 0.0)]


def only(**sensors):
    """A rig of lidars, and the reference the first of them, if not said otherwise."""
    return Rig(**({"reference": "TOP", "lidars": {"TOP": TOP}} | sensors))


def test_two_lidars_and_a_radar_on_a_turning_vehicle_agree_on_where_things_are():
    """Posts stand in the map. Each sensor sees them at its own times; sweeps reach back 0.2 s."""
    drive = Drive(POSES)
    for t in every(0.05, 0.1, 1.9):
        drive.sees("/top", "top", t, POSTS).sees("/front", "front", t + 0.013, POSTS)
        drive.sees("/radar", "radar", t - 0.02, POSTS, names=("doppler",))
    found, _ = drive.frames(assembly=Assembly(min_distance_m=0.0, lidar_span_s=0.2, radar_span_s=0.11))
    assert len(found) == 37
    for frame in found[5:-2]:
        expected = np.array([(inverse(frame.world_SE3_ego.matrix) @ [*post, 1.0])[:3] for post in POSTS])
        assert frame.lidar.points.shape == (2 * 5 * 3, 5) and frame.radar.points.shape == (3 * 3, 7)
        assert np.abs(frame.lidar.points[:, :3].reshape(10, 3, 3) - expected).max() < 1e-3
        assert np.abs(frame.radar.points[:, :3].reshape(3, 3, 3) - expected).max() < 1e-3
        assert np.abs(frame.radar.points[:, 4:6]).max() < 0.05  # m/s: they stand; seen from the car they do 10
        front, top = frame.lidar.points[:15, 4], frame.lidar.points[15:, 4]
        assert front[::3] == pytest.approx(np.arange(5) * 0.05 - 0.013, abs=1e-6)  # ages
        assert top[::3] == pytest.approx(np.arange(5) * 0.05, abs=1e-6)


@pytest.mark.parametrize("stamp", ["start", "middle", "end"])
def test_a_sweep_is_undone_wherever_in_it_its_stamp_is(stamp):
    first = {"start": 0.0, "middle": -0.05, "end": -0.1}[stamp]
    times = np.linspace(first, first + 0.1, 50)
    targets = [(40 * np.cos(a), 40 * np.sin(a), 1.0) for a in np.linspace(0, 6, 50)]
    (frame,), _ = Drive(POSES).sees("/top", "top", 1.0, targets, times=times).frames(only())
    expected = [(inverse(frame.world_SE3_ego.matrix) @ [*target, 1.0])[:3] for target in targets]
    assert np.abs(frame.lidar.points[:, :3] - expected).max() < 0.02  # the end of a sweep may have no pose yet
    without, _ = Drive(POSES).sees("/top", "top", 1.0, targets, times=times).frames(only(world_frame=None))
    assert np.abs(without[0].lidar.points[:, :3] - expected).max() > 0.5  # so much it was


def test_times_of_a_clock_of_its_own_are_not_believed():
    """Seconds since the sensor was switched on, not since 1970: the cloud is taken to be of its stamp's moment."""
    records = np.zeros(2, [(n, "<f4") for n in "xyz"] + [("timestamp", "<f8")])
    records["x"], records["timestamp"] = 20, [1234.0, 1234.1]
    (frame,), counts = Drive(POSES).add("/top", 1.0, Cloud("top", records)).frames(only())
    expected = pose_matrix(pose(*MOUNTS["top"])) @ [20, 0, 0, 1]
    assert np.allclose(frame.lidar.points[:, :3], expected[:3], atol=1e-5)
    assert [line.split(" is ")[1] for line in counts] == ["by another clock than the stamps"]


def test_sensors_that_begin_before_the_poses_cost_no_more_than_their_first_measurements():
    """A vehicle that records before it knows where it is, and after; each end of the log must not end the replay."""
    drive = Drive(every(0.01, 0.5, 1.0))
    for t in every(0.05, 0.0, 1.5):
        drive.sees("/top", "top", t, POSTS, times=[-0.1, -0.05, 0.0])
        drive.sees("/radar", "radar", t - 0.03, POSTS, names=("doppler",))
    found, counts = drive.frames(only(radars={"RADAR": RADAR}), Assembly(lidar_span_s=0.5, radar_span_s=0.5))
    assert [f.timestamp_ns / S for f in found] == pytest.approx(every(0.05, 0.5, 1.1))  # a pose holds for 0.1 s
    assert counts["frames left out: no ego pose"] == 31 - 15
    assert counts["frames left out: no measurement that can be used"] == 2  # at 0.4 and 0.45: how it moves is unknown
    assert counts["/top: measurements without an ego pose"]
    sweeps = [len(f.lidar.points) // 3 for f in found]
    assert sweeps[:4] == [3, 4, 5, 6] and sweeps[-1] == 11
    for frame in found:
        ages = [] if frame.radar is None else frame.radar.points[:, 6]
        assert all(0.4 <= frame.timestamp_ns / S - age <= 1.1 + 1e-6 for age in ages)


def test_a_log_with_one_pose_for_a_radar_that_needs_two():
    drive = Drive([1.0]).sees("/radar", "radar", 1.0, POSTS, names=("doppler",))
    rig = Rig(reference="RADAR", radars={"RADAR": RADAR})
    found, counts = drive.frames(rig)
    left_out = "frames left out: no measurement that can be used"
    assert not found and counts == {"/radar: measurements without an ego pose": 1, left_out: 1}
    found, _ = drive.frames(Rig(world_frame=None, reference="RADAR", radars={"RADAR": RADAR}))
    assert len(found[0].radar.points) == 3


def test_what_comes_much_too_late_is_no_frame_and_no_error():
    """Longer ago than anything is kept: the reader passes on what it cannot sort in."""
    drive = Drive(POSES).sees("/top", "top", 1.9, POSTS)
    for t in (0.1, 0.2):
        drive.sees("/top", "top", t, POSTS).sees("/radar", "radar", t, POSTS, names=("vx_comp", "vy_comp"))
    found, counts = drive.frames(in_order=False)
    assert [f.timestamp_ns for f in found] == [round(1.9 * S)] and found[0].radar is None
    assert counts == {
        "/top: measurements that came too late for their frame": 2,
        "/radar: measurements that came too late for their frame": 2,
        "frames without FRONT": 1,
        "frames without CAM": 1,
        "frames without RADAR": 1,
    }


def test_tokens_are_unique_whatever_is_repeated():
    drive = Drive(POSES).sees("/top", "top", 0.5, POSTS).sees("/top", "top", 0.5, POSTS).sees("/top", "top", 0.6, POSTS)
    found, counts = drive.frames()
    assert [f.token for f in found] == ["500000000", "600000000"]
    assert counts["frames left out: not later than the one before"] == 1
    drive.add("/sample", 0.5, Sample("a")).add("/sample", 0.5, Sample("a")).add("/sample", 0.6, Sample("b"))
    found, _ = drive.frames(only(samples="/sample", reference=""))
    assert [f.token for f in found] == ["a", "b"] and len(found[0].lidar.points) == 3  # one sweep, not both


def test_two_duplicate_sweeps_count_once():
    drive = Drive(POSES)
    for t in (0.5, 0.5, 0.55, 0.6):
        drive.sees("/top", "top", t, POSTS)
    found, _ = drive.frames(only(), Assembly(lidar_span_s=0.2))
    assert len(found[0].lidar.points) == 3


@pytest.mark.parametrize("sweeps", [1, 2, 10])
def test_as_many_sweeps_as_the_detector_was_trained_with(sweeps):
    drive = Drive(POSES)
    for t in every(0.05, 0.1, 1.8):
        drive.sees("/top", "top", t + 0.004 * np.sin(77 * t), POSTS[:1])  # no clock is perfect
    found, _ = drive.frames(only(), Assembly(min_distance_m=0.0, lidar_span_s=sweep_span_s(sweeps, 20.0)))
    assert {len(f.lidar.points) for f in found[12:]} == {sweeps}


def test_frames_come_as_soon_as_they_can():
    """A live vehicle waits 0.05 s for late sensors, and for the pose thereafter, never longer than half a second."""
    assembler = Assembler(only(), NEAR)
    made = []

    def push(topic, seconds, data):
        time_ns = round(seconds * S)
        for frame in assembler.push(Message(topic, time_ns, time_ns, 0, data)):
            made.append((seconds, frame.timestamp_ns / S))

    push("/tf_static", 0, Transform("base_link", "top", pose(), static=True))
    push("/tf", 0.0, Transform("map", "base_link", pose()))
    cloud = Cloud("top", np.ones(1, [(n, "<f4") for n in "xyz"]))
    push("/top", 0.02, cloud)
    push("/other", 0.07, cloud)  # not later than the wait
    push("/other", 0.08, cloud)  # but there is no pose yet
    push("/tf", 0.1, Transform("map", "base_link", pose(1)))
    push("/other", 0.1, cloud)
    push("/top", 0.15, cloud)
    push("/other", 0.65, cloud)
    push("/other", 0.66, cloud)  # a pose has not come in half a second: the last one holds
    assert made == [(0.1, 0.02), (0.66, 0.15)]


def test_a_second_parent_of_the_ego_frame_and_a_defective_transform_change_nothing():
    drive = Drive(POSES).sees("/top", "top", 1.0, POSTS)
    (expected,), before = drive.frames()
    drive.add("/tf", 0.5, Transform("elsewhere", "base_link", pose()))
    (found,), counts = drive.add("/tf", 0.5, Transform("map", "base_link", np.full(7, np.nan))).frames()
    assert np.array_equal(found.lidar.points, expected.lidar.points) and counts == before


def test_calibrations_may_come_after_their_image_and_never_is_an_error():
    info = Calibration("cam", 4, 2, np.eye(3), np.zeros(0), "", np.eye(3), np.eye(3, 4))
    image = Image("cam", "mono8", bytes(8), 4, 2, 4)
    drive = Drive(POSES).add("/cam/image_rect", 1.0, image).sees("/top", "top", 1.0, POSTS)
    with pytest.raises(LogError, match="/cam/image_rect at 1000000000 ns: a calibration on /cam/info was expected"):
        drive.frames()
    drive.add("/another/info", 1.0, info)
    with pytest.raises(LogError, match="a calibration on /cam/info"):
        drive.frames()
    found, _ = drive.add("/cam/info", 1.02, info).frames()
    assert list(found[0].cameras) == ["CAM"]
    given = {"CAM": CameraSource(image="/cam/image_rect", intrinsics=[5.0, 6.0, 1.5, 0.5])}
    (frame,), _ = drive.frames(only(cameras=given))
    assert frame.cameras["CAM"].intrinsics.tolist() == [[5, 0, 1.5], [0, 6, 0.5], [0, 0, 1]]


def test_mounts_of_the_rig_go_before_those_of_the_log():
    drive = Drive(POSES).sees("/top", "top", 1.0, [POSTS[0]])
    seen = inverse(map_T("top", 1.0)) @ [*POSTS[0], 1.0]
    for source, mount in (
        (CloudSource(cloud="/top", frame_id="front"), pose(*MOUNTS["front"])),
        (CloudSource(cloud="/top", ego_SE3_sensor=pose(5, 6, 7, 1.0).tolist(), frame_id="nowhere"), pose(5, 6, 7, 1.0)),
    ):
        (frame,), _ = drive.frames(only(lidars={"TOP": source}))
        assert np.allclose(frame.lidar.points[0, :3], (pose_matrix(mount) @ seen)[:3], atol=1e-5)


def test_a_bias_moves_what_the_sensor_sees_and_nothing_else():
    drive = Drive(POSES).sees("/top", "top", 1.0, [POSTS[0]]).sees("/front", "front", 1.0, [POSTS[0]])
    bias = pose_matrix(pose(0, 0.5, 0, 0.1))
    (frame,), _ = drive.frames(assembly=Assembly(min_distance_m=0.0, bias={"/top": bias}))
    (as_it_is,), _ = drive.frames()
    seen = inverse(map_T("top", 1.0)) @ [*POSTS[0], 1.0]
    assert np.array_equal(frame.lidar.points[0], as_it_is.lidar.points[0])
    assert np.allclose(frame.lidar.points[1, :3], (pose_matrix(pose(*MOUNTS["top"])) @ bias @ seen)[:3], atol=1e-5)


def test_only_the_kinds_that_are_asked_for_are_read():
    drive = Drive(POSES, mounts=("radar",))
    drive.sees("/top", "top", 1.0, POSTS).sees("/radar", "radar", 1.0, POSTS, names=("vx_comp", "vy_comp"))
    (frame,), counts = drive.frames(assembly=Assembly(sensors=("radar",)))
    assert frame.sensors == ("radar",) and frame.timestamp_ns == S and not counts  # a LiDAR still says when


def test_the_rate_holds_where_frames_are_a_little_early():
    drive = Drive(POSES)
    for i, t in enumerate(every(0.1, 0.1, 1.9)):
        drive.sees("/top", "top", t + 0.004 * (-1) ** i, POSTS)
    found, _ = drive.frames(only(), Assembly(rate_hz=5.0))
    assert np.diff([f.timestamp_ns for f in found]) == pytest.approx([0.2 * S] * 9, abs=0.01 * S)


def test_numbers_that_are_not_finite_are_dropped_and_counted():
    records = np.ones(4, [(n, "<f4") for n in ("x", "y", "z", "intensity")])
    records["x"][1], records["intensity"][2], records["z"][3] = np.nan, np.nan, np.inf
    records["x"][0] = 9
    (frame,), counts = Drive(POSES).add("/top", 1.0, Cloud("top", records)).frames(only())
    assert len(frame.lidar.points) == 1 and counts["/top: points that are not finite"] == 3


def test_clouds_of_nothing():
    nothing = Cloud("top", np.zeros(0, [(n, "<f4") for n in "xyz"]))
    (frame,), _ = Drive(POSES).add("/top", 1.0, nothing).frames(only())
    assert frame.lidar.points.shape == (0, 5)


@pytest.mark.parametrize("time_ns", [0, 1, (1 << 63) - 1, -5])
def test_times_at_the_ends_of_the_numbers(time_ns):
    records = np.ones(2, [(n, "<f4") for n in "xyz"] + [("time", "<f8")])
    assembler = Assembler(
        only(world_frame=None, lidars={"TOP": CloudSource(cloud="/top", ego_SE3_sensor=[0] * 3 + [1] + [0] * 3)}), NEAR
    )
    list(assembler.push(Message("/top", time_ns, time_ns, 0, Cloud("top", records))))
    try:
        (frame,) = assembler.finish()
    except PerceptionError:
        return
    assert frame.timestamp_ns == time_ns


def test_the_same_messages_give_the_same_bytes():
    def run():
        drive = Drive(POSES)
        for t in every(0.05, 0.1, 1.0):
            drive.sees("/top", "top", t, POSTS, times=[-0.1, -0.05, 0.0])
            drive.sees("/radar", "radar", t, POSTS, names=("doppler",))
        found, _ = drive.frames(assembly=Assembly(lidar_span_s=0.2, radar_span_s=0.2))
        return [
            (f.lidar.points.tobytes(), f.radar and f.radar.points.tobytes(), f.world_SE3_ego.matrix.tobytes())
            for f in found
        ]

    assert run() == run()


INFO = Calibration("cam", 4, 2, np.eye(3), np.zeros(0), "", np.eye(3), np.eye(3, 4))
ANYTHING = [
    *((topic, Cloud(frame, np.ones(2, [(n, "<f4") for n in ("x", "y", "z", "time", "doppler")])))
      for topic, frame in (("/top", "top"), ("/front", "front"), ("/radar", "radar"), ("/other", "top"))),
    ("/top", Cloud("nowhere", np.ones(2, [(n, "<f4") for n in "xyz"]))),
    ("/front", Cloud("front", np.ones(2, [(n, "<f8", (2,)) for n in "xyz"]))),
    ("/cam/image_rect", Image("cam", "mono8", bytes(8), 4, 2, 4)),
    ("/cam/image_rect", Image("cam", "jpeg", b"\xff\xd8")),
    ("/cam/info", INFO), ("/other", INFO), ("/other", Sample("a")), ("/sample", Sample("a")),
    *(("/tf", Transform("map", "base_link", pose(x), static=x > 2)) for x in range(4)),
    ("/tf", Transform("top", "map", pose())), ("/tf", Transform("base_link", "top", np.full(7, np.nan))),
]  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(ANYTHING), st.integers(0, 100)), min_size=20, max_size=60),
    st.booleans(),
    st.booleans(),
)
def test_any_messages_in_any_order_give_frames_of_increasing_times_or_a_log_error(messages, skip_damaged, marks):
    rig = Rig(**(vars(RIG) | {"samples": "/sample" if marks else None}))
    drive = Drive(every(0.1, 0.0, 2.0))
    for (topic, payload), step in messages:
        drive.add(topic, 0.02 * step, payload)
    try:
        found, _ = drive.frames(rig, Assembly(lidar_span_s=0.1, radar_span_s=0.1, skip_damaged=skip_damaged), False)
    except LogError as error:
        assert str(error).startswith("test.mcap: /")
        return
    times = [frame.timestamp_ns for frame in found]
    assert times == sorted(set(times))


def test_images_are_not_kept_for_as_long_as_sweeps():
    """A raw one has millions of bytes."""
    assembler = Assembler(RIG, Assembly(lidar_span_s=5.0))
    image, cloud = Image("cam", "mono8", bytes(8), 4, 2, 4), Cloud("top", np.ones(1, [(n, "<f4") for n in "xyz"]))
    for i in range(1000):
        time_ns = 20_000_000 * i
        list(assembler.push(Message("/cam/image_rect", time_ns, time_ns, 0, image)))
        list(assembler.push(Message("/front", time_ns, time_ns, 0, cloud)))
    kept = {sensor.name: len(sensor.recent) for sensor in assembler._sensors.values()}
    assert kept["CAM"] < 40 and 250 < kept["FRONT"] < 300


def test_nothing_is_kept_of_a_long_log_without_frames():
    """Its sample marks never come."""
    assembler = Assembler(only(samples="/sample"), NEAR)
    cloud = Cloud("top", np.ones(1, [(n, "<f4") for n in "xyz"]))
    for i in range(5000):
        time_ns = 20_000_000 * i
        list(assembler.push(Message("/tf", time_ns, time_ns, 0, Transform("map", "base_link", pose(i)))))
        list(assembler.push(Message("/top", time_ns, time_ns, 0, cloud)))
    (sensor,) = assembler._sensors.values()
    assert len(sensor.recent) < 100 and len(assembler._measurements.transforms._edges["map", "base_link"].poses) < 100
