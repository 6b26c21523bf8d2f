"""Frames of a vehicle that moves, where poses end, sensors turn and messages come late or twice; and of any bytes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.logs.assemble import Assembler
from perception.logs.measurements import Assembly
from perception.logs.messages import Cloud, LogError, Message, Sample, Transform
from perception.logs.rig import CloudSource, Rig

S = 1_000_000_000
START_NS = 1_700_000_000 * S
XYZ = [(name, "<f4") for name in ("x", "y", "z")]
TIMED = np.dtype([*XYZ, ("intensity", "<f4"), ("time", "<f4")])
SCAN = np.dtype([(name, "<f4") for name in ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")])
LIDARS, RADARS = {"LIDAR": CloudSource(cloud="/lidar")}, {"RADAR": CloudSource(cloud="/radar")}
RIG = Rig(reference="LIDAR", lidars=LIDARS, radars=RADARS)
MOUNTS = {"lidar": (1.0, 0.0, 2.0, 0.4), "radar": (3.0, -0.5, 0.5, -0.7)}  # x, y, z, yaw in the ego frame
POST = np.array([30.0, 8.0, 1.0])  # stands in the map


def message(topic, seconds, data, sequence=0):
    stamp_ns = START_NS + round(seconds * S)
    return Message(topic, stamp_ns, stamp_ns, sequence, data)


class Vehicle:
    """On a circle of ``speed`` / ``turn`` metres, along map x at time 0."""

    def __init__(self, speed=20.0, turn=0.0):
        self.speed, self.turn = speed, turn

    def pose(self, t):
        """x, y, yaw in the map."""
        angle = self.turn * t
        if not self.turn:
            return self.speed * t, 0.0, 0.0
        radius = self.speed / self.turn
        return radius * math.sin(angle), radius * (1 - math.cos(angle)), angle

    def ego(self, point, t):
        x, y, yaw = self.pose(t)
        return turned(-yaw, np.asarray(point) - (x, y, 0))

    def sensor(self, name, point, t):
        *at, yaw = MOUNTS[name]
        return turned(-yaw, self.ego(point, t) - at)

    def messages(self, first=0.0, last=2.0, step=0.02):
        return [
            *(message("/tf", first, tf("base_link", name, *at, static=True)) for name, at in MOUNTS.items()),
            *(self.tf(t) for t in np.arange(first, last + 1e-9, step)),
        ]

    def tf(self, t):
        x, y, yaw = self.pose(t)
        return message("/tf", t, tf("map", "base_link", x, y, 0, yaw))

    def sweep(self, t, targets=(POST,), topic="/lidar", name="lidar", sequence=0):
        """Everything at one moment."""
        points = np.zeros(len(targets), [*XYZ, ("intensity", "<f4")])
        points["x"], points["y"], points["z"] = np.array([self.sensor(name, p, t) for p in targets]).T
        return message(topic, t, Cloud(name, points), sequence)

    def rolling(self, t, offsets, target=POST):
        """The target again and again while the sensor turns, ``offsets`` seconds after the stamp."""
        points = np.zeros(len(offsets), TIMED)
        points["x"], points["y"], points["z"] = np.array([self.sensor("lidar", target, t + o) for o in offsets]).T
        points["time"] = offsets
        return message("/lidar", t, Cloud("lidar", points))

    def scan(self, t, target=POST, velocity=(0.0, 0.0, 0.0)):
        """What a radar measures of a target that is at ``target`` now and moves; by differences, 0.1 ms apart."""
        x, y, z = at = self.sensor("radar", target, t)
        reach = [np.linalg.norm(self.sensor("radar", target + d * np.array(velocity), t + d)) for d in (-5e-5, 5e-5)]
        distance = np.linalg.norm(at)
        records = np.zeros(1, SCAN)
        records[0] = distance, math.atan2(y, x), math.asin(z / distance), (reach[1] - reach[0]) / 1e-4, 7.0
        return message("/radar", t, Cloud("radar", records))


def turned(yaw, vector):
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ vector


def tf(parent, child, x=0.0, y=0.0, z=0.0, yaw=0.0, static=False):
    return Transform(parent, child, np.array([x, y, z, math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]), static)


def ordered(messages):
    return sorted(messages, key=lambda m: (m.timestamp_ns, m.topic, m.sequence))


def frames(messages, rig=RIG, **assembly):
    """In the order given."""
    assembler = Assembler(rig, Assembly(**{"min_distance_m": 0.0, **assembly}), "drive", "test.mcap")
    found = [frame for m in messages for frame in assembler.push(m)] + list(assembler.finish())
    return found, assembler.counts


def seconds(frame):
    return (frame.timestamp_ns - START_NS) / S


# Points with times of their own


@pytest.mark.parametrize("turn", [0.0, 0.5])
@pytest.mark.parametrize("begin", [-0.1, -0.05, 0.0])  # of a sweep of 0.1 s, before the stamp
@pytest.mark.parametrize("last", [1.06, 2.0])  # of the poses
def test_each_point_is_moved_by_its_own_time(turn, begin, last):
    """Also where the poses end before the sweep does: a live frame waits for 50 ms of them only."""
    vehicle = Vehicle(turn=turn)
    offsets = np.linspace(begin, begin + 0.1, 11)
    (frame,), _ = frames(ordered([*vehicle.messages(last=last), vehicle.rolling(1.0, offsets)]))
    assert np.abs(frame.lidar.points[:, :3] - vehicle.ego(POST, 1.0)).max() < 0.02  # it has moved by 2 m


def test_a_sweep_that_began_before_the_first_pose():
    vehicle = Vehicle()
    sweep = vehicle.rolling(1.01, np.linspace(-0.12, 0, 13))
    (frame,), counts = frames(ordered([*vehicle.messages(first=1.0), sweep]))
    assert np.abs(frame.lidar.points[:, :3] - vehicle.ego(POST, 1.01)).max() < 0.02 and not counts["/lidar"]


def test_points_of_the_vehicle_itself_are_dropped_however_fast_it_is():
    """The bonnet moves with the sensor: moved as if it stood on the road it would be 2 m away, and an obstacle."""
    vehicle = Vehicle()
    sweep = vehicle.rolling(1.0, np.linspace(-0.1, 0, 11))
    sweep.data.records["x"][::2], sweep.data.records["y"][::2] = -0.5, 0.5
    (frame,), _ = frames(ordered([*vehicle.messages(), sweep]), min_distance_m=1.0)
    assert len(frame.lidar.points) == 5
    assert np.abs(frame.lidar.points[:, :3] - vehicle.ego(POST, 1.0)).max() < 0.02


def test_points_without_a_time_and_points_without_a_place():
    vehicle = Vehicle()
    sweep = vehicle.rolling(1.0, np.linspace(-0.1, 0, 11))
    sweep.data.records["time"][-1] = np.nan  # the last one is of the stamp anyway
    sweep.data.records["x"][3] = np.nan
    (frame,), counts = frames(ordered([*vehicle.messages(), sweep]))
    assert len(frame.lidar.points) == 10 and counts["/lidar: points that are not finite"] == 1
    assert np.abs(frame.lidar.points[:, :3] - vehicle.ego(POST, 1.0)).max() < 0.02


# Radars that move


@pytest.mark.parametrize("turn", [0.0, 0.6])
@pytest.mark.parametrize("last", [1.06, 2.0])
def test_a_post_stands_still_for_a_radar_that_drives_and_turns(turn, last):
    vehicle = Vehicle(speed=10.0, turn=turn)
    (frame,), _ = frames(ordered([*vehicle.messages(last=last), vehicle.scan(1.0), vehicle.sweep(1.0)]))
    ((*at, rcs, vx, vy, age_s),) = frame.radar.points.tolist()
    assert at == pytest.approx(vehicle.ego(POST, 1.0), abs=1e-3) and (rcs, age_s) == (7.0, 0.0)
    assert [vx, vy] == pytest.approx([0, 0], abs=0.02)


def test_a_target_that_comes_towards_a_radar_comes_towards_the_vehicle():
    vehicle = Vehicle(speed=0.0)
    target = np.array([33.0, -0.5, 0.5])  # straight ahead of the radar's place
    scan = vehicle.scan(1.0, target, velocity=(-8.0, 0.0, 0.0))
    assert scan.data.records["doppler_velocity"][0] == pytest.approx(-8, abs=1e-3)
    (frame,), _ = frames(ordered([*vehicle.messages(), scan, vehicle.sweep(1.0)]))
    assert frame.radar.points[0, 4:6] == pytest.approx([-8, 0], abs=1e-3)


def test_a_radar_whose_motion_is_not_known_is_left_out():
    vehicle = Vehicle(speed=0.0)
    poses = [m for m in vehicle.messages() if m.data.static] + [vehicle.tf(1.0)]
    (frame,), counts = frames(ordered([*poses, vehicle.scan(1.0), vehicle.sweep(1.0)]))
    assert frame.sensors == ("lidar",) and counts["/radar: measurements without an ego pose"] == 1


# What is put together


def test_several_lidars_are_one_cloud_and_one_that_fails_is_missing_from_it():
    vehicle = Vehicle(turn=0.3)
    lidars = {name: CloudSource(cloud=f"/{name}") for name in ("b", "a")}
    rig = Rig(reference="a", lidars=lidars)
    log = [
        *vehicle.messages(), vehicle.sweep(0.5, topic="/a"), vehicle.sweep(0.47, [POST, 1.1 * POST], "/b", "radar"),
        vehicle.sweep(1.0, topic="/a"),
    ]  # fmt: skip
    (both, one), counts = frames(ordered(log), rig)
    expected = [vehicle.ego(p, 0.5) for p in (POST, POST, 1.1 * POST)]
    assert np.abs(both.lidar.points[:, :3] - expected).max() < 5e-3
    assert both.lidar.points[:, 4] == pytest.approx([0, 0.03, 0.03], abs=1e-6)
    assert len(one.lidar.points) == 1 and counts["frames without b"] == 1


def test_repeated_messages_count_once():
    vehicle = Vehicle()
    log = [*vehicle.messages(), *(vehicle.sweep(t, sequence=i) for t in (0.9, 0.95, 1.0) for i in (1, 2))]
    found, counts = frames(ordered(log), lidar_span_s=0.12)
    assert [len(f.lidar.points) for f in found] == [1, 2, 3]
    assert counts["frames left out: not later than the one before"] == 3


def test_a_message_that_comes_late_takes_its_place():
    vehicle = Vehicle()
    rig = Rig(samples="/sample", lidars=LIDARS)
    log = ordered([*vehicle.messages(), *(vehicle.sweep(t) for t in (0.9, 1.0)), message("/sample", 1.0, Sample("s"))])
    at = next(i for i, m in enumerate(log) if m.timestamp_ns > START_NS + 1.02 * S)
    for late in (0.95, 0.1):  # the second one is too late for anything
        log.insert(at, vehicle.sweep(late))
    (frame,), _ = frames(log, rig, lidar_span_s=0.12)
    assert frame.lidar.points[:, 4] == pytest.approx([0, 0.05, 0.1], abs=1e-6)


@pytest.mark.parametrize("rate_hz", [1.0, 2.0, 3.0, 7.0, 10.0, 19.0, 20.0, 50.0])
def test_there_are_no_more_frames_a_second_than_asked_for(rate_hz):
    vehicle = Vehicle()
    rng = np.random.default_rng(0)
    times = np.arange(0, 10, 0.05) + rng.uniform(-1e-3, 1e-3, 200)  # a LiDAR of 20 Hz
    found, _ = frames(ordered([*vehicle.messages(last=10), *(vehicle.sweep(t) for t in times)]), rate_hz=rate_hz)
    assert len(found) <= 10 * rate_hz + 1
    assert len(found) >= {1.0: 10, 2.0: 20, 3.0: 28, 7.0: 66, 10.0: 100, 19.0: 100, 20.0: 199, 50.0: 200}[rate_hz]


@settings(max_examples=25)
@given(st.permutations(range(8)))
def test_the_order_of_messages_of_one_time_makes_no_difference(order):
    vehicle = Vehicle(turn=0.2)
    rig = Rig(reference="LIDAR", samples="/sample", lidars=LIDARS, radars=RADARS)
    log = ordered([*vehicle.messages(), *(vehicle.sweep(t) for t in (0.9, 0.95))])
    same = [
        vehicle.sweep(1.0), vehicle.scan(1.0), message("/sample", 1.0, Sample("s")), vehicle.tf(1.0),
        vehicle.sweep(1.0, topic="/other"), message("/x", 1.0, Sample("no mark")),
        message("/tf", 1.0, tf("base_link", "elsewhere")), message("/tf", 1.0, tf("lidar", "far", 1.0)),
    ]  # fmt: skip
    at = next(i for i, m in enumerate(log) if m.timestamp_ns > START_NS + S)
    (frame,), _ = frames([*log[:at], *(same[i] for i in order), *log[at:]], rig, lidar_span_s=0.2)
    assert (frame.token, seconds(frame)) == ("s", 1.0) and len(frame.lidar.points) == 3
    (again,), _ = frames(ordered([*log, *same]), rig, lidar_span_s=0.2)
    assert frame.lidar.points.tobytes() == again.lidar.points.tobytes()
    assert frame.radar.points.tobytes() == again.radar.points.tobytes()


# What is damaged or goes on for long


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["/lidar", "/radar"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_cloud_holds_it_is_a_frame_or_an_error_of_this_package(kind, data):
    names = ["x", "y", "z", "intensity", "ring", "time", "vx_comp", "vy_comp", "rcs", "dyn_prop", "invalid_state"]
    names += ["ambig_state", "range", "azimuth", "elevation", "doppler"]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    chosen = list(dict.fromkeys(["x", "y", "z", *chosen])) if data.draw(st.booleans()) else chosen
    types = [data.draw(st.sampled_from(["<f4", ">f8", "i1", "<u2", ">i4", "<u8", "(3,)<f4"])) for _ in chosen]
    dtype = np.dtype(list(zip(chosen, types)), align=data.draw(st.booleans()))
    count = data.draw(st.integers(0, 3))
    raw = data.draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    vehicle = Vehicle()
    log = [*vehicle.messages(0.8, 1.2), vehicle.sweep(1.0) if kind == "/radar" else vehicle.scan(1.0)]
    log.append(message(kind, 1.0, Cloud(kind[1:], np.frombuffer(raw, dtype))))
    try:
        (frame,), _ = frames(ordered(log))
    except LogError as error:
        assert f"test.mcap: {kind} at " in str(error)
    else:
        assert len(frame.sensors) == 2


def test_buffers_do_not_grow_where_there_are_no_frames():
    assembler = Assembler(Rig(samples="/never", lidars=LIDARS), Assembly(lidar_span_s=0.5))
    vehicle = Vehicle()
    for i in range(2000):
        for m in (vehicle.tf(0.05 * i), vehicle.sweep(0.05 * i)):
            assert list(assembler.push(m)) == []
    (lidar,) = assembler._sensors.values()
    assert len(lidar.recent) < 40 and len(assembler._measurements.transforms._edges["map", "base_link"].poses) < 60
