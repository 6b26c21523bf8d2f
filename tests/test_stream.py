"""The live stream: what it gives whatever comes, in whatever order, or does not come; and that it is the replay's."""

import copy
import hashlib
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_drive import save_tiny_detector, write_logs

import perception
import perception.stream as stream_module
from perception.geometry import SE3
from perception.logs.arrays import ArrayError, calibration_of, image_of, lidar_of, radar_of
from perception.logs.beginning import Lasting
from perception.logs.default_rig import rig_of
from perception.logs.frames import LogFrames
from perception.logs.inbox import Inbox
from perception.logs.log import open_log
from perception.logs.measurements import Assembly
from perception.logs.messages import Calibration, Cloud, Image, Message, Transform
from perception.logs.presence import Presence
from perception.logs.rig import CameraSource, Rig
from perception.logs.units import point_times_ns, units_of
from perception.plain_yaml import ConfigError
from perception.replay.job import Job, run_job
from perception.replay.perceiver import Perceiver
from perception.replay.pipeline import canonical_bytes
from perception.seeding import keyed_rng
from perception.stream import Stream, StreamError
from perception.warmup import made_up_frames

vehicle = pytest.importorskip("soaking.vehicle", reason="tools are no part of the package")
from soaking.runs import death  # noqa: E402
from soaking.vehicle import FRAME_NS, SENSORS, START_NS, Clock, Stub, describe, drive, fed, rig, without  # noqa: E402

MS = 1_000_000
WAIT_S = 10.0  # of a test for another thread, which takes no time unless something is wrong


def opened(clock, detector=None, **options) -> Stream:
    stream = Stream(detector or Stub(), rig(), clock=clock, **{"every_frame": True, **options})
    describe(stream)
    return stream


def driven(events, **options):
    """All results of a drive, and the stream."""
    clock = Clock()
    stream = opened(clock, **options)
    return [*fed(stream, clock, events), *stream.finish()], stream


def times(results) -> list[int]:
    """Milliseconds since the start."""
    return [(r.timestamp_ns - START_NS) // MS for r in results]


def content(results) -> list[tuple]:
    return [
        (canonical_bytes(r.timestamp_ns, r.detections), r.token, r.scene, r.track_ids.tobytes(), r.tracks.ids.tobytes(),
         r.world_SE3_ego.matrix.tobytes(), sorted(r.sensors.items()))
        for r in results
    ]  # fmt: skip


def shifted(events, what, timestamp_ms=0, arrives_ms=0, since=0, until=1 << 62):
    """The events with other stamps of one sensor, and other times of arrival, in its messages of these frames."""
    changed = []
    for event in events:
        frame = (event.timestamp_ns - START_NS + FRAME_NS // 2) // FRAME_NS
        if event.what in what and since <= frame < until:
            stamp_ns, arrives_ns = event.timestamp_ns + timestamp_ms * MS, event.arrives_ns + arrives_ms * MS
            event = event._replace(timestamp_ns=stamp_ns, arrives_ns=arrives_ns)
        changed.append(event)
    return sorted(changed, key=lambda event: event.arrives_ns)


def test_a_sound_drive_is_a_result_at_every_measurement_of_the_reference():
    results, stream = driven(drive(15))
    assert times(results) == [100 * i for i in range(15)] and [r.sequence for r in results] == list(range(15))
    assert {r.scene for r in results} == {"live"} and results[3].token == str(results[3].timestamp_ns)
    assert not any(r.is_degraded for r in results) and stream.health().counts == {}
    ages = {name: p.age_s for name, p in results[5].sensors.items()}
    assert ages == pytest.approx({"FRONT": 0.02, "BACK": 0.01, "ROOF": 0.0, "NOSE": -0.015})
    assert results[10].world_SE3_ego.translation == pytest.approx([10, 0, 0])
    # The frame waits 50 ms for measurements, they 50 ms for those before them, and the clock of the vehicle goes on.
    assert results[12].age_s < 0.2


@pytest.mark.parametrize("dead", [n for k in (1, 2) for n in itertools.combinations(SENSORS, k)], ids="+".join)
@pytest.mark.parametrize("since", [12, 0], ids=["at frame 12", "from boot"])
@pytest.mark.parametrize("rate_hz", [None, 10.0], ids=["reference", "rate"])
def test_a_dead_sensor_is_labelled_in_the_next_frame_and_back_in_the_second(dead, since, rate_hz):
    problems, oldest_s = death(dead, since, rate_hz)
    assert problems == []
    # Without its reference a stream waits for half a second, and in the beginning it does not know the interval.
    assert oldest_s < (0.8 if rate_hz is None and "ROOF" in dead else 0.26)


def test_a_death_that_is_not_labelled_is_found(monkeypatch):
    said = stream_module.with_faults
    active = Presence("active", 0.0)
    monkeypatch.setattr(stream_module, "with_faults", lambda *args: {**said(*args), "FRONT": active})
    problems, _ = death(["FRONT"], 12, None)
    assert len(problems) == 8 and problems[0] == "FRONT is active at 1200000000 ns"


def test_frames_at_a_rate_need_no_reference():
    events = list(without(drive(30), {"ROOF"}, 14, 22))
    results, _ = driven(events, rate_hz=5.0)
    steps = np.diff(times(results))
    assert set(steps) == {200} and len(results) in (14, 15)
    absent = [t for t, r in zip(times(results), results) if r.sensors["ROOF"].state == "stale"]
    assert len(absent) == 4 and min(absent) > 1300 and max(absent) < 2200


def within_the_window(draw, events, window_ms=50):
    """The same events, each later by less than half of the window than it would have come."""
    jitter = draw(st.lists(st.integers(0, window_ms // 2 - 1), min_size=len(events), max_size=len(events)))
    late = [(event.arrives_ns + ms * MS, i, event) for i, (event, ms) in enumerate(zip(events, jitter))]
    return [event._replace(arrives_ns=arrives_ns) for arrives_ns, _, event in sorted(late)]


EVENTS = list(drive(12))
TWICE = [
    *EVENTS,
    *(e._replace(data=e.data + np.uint8(1)) for e in EVENTS if e.what == "FRONT"),
]  # one stamp, two images
USUAL = {}


@given(st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("events", [EVENTS, TWICE], ids=["sound", "two of a stamp"])
def test_the_order_of_arrival_within_the_window_changes_nothing(events, data):
    events = sorted(events, key=lambda event: event.arrives_ns)
    if len(events) not in USUAL:
        USUAL[len(events)] = content(driven(events)[0])
    results, stream = driven(within_the_window(data.draw, events))
    assert content(results) == USUAL[len(events)] and len(results) == 12
    assert not any("too late" in what for what in stream.health().counts)


@given(st.integers(0, 1 << 32))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_comes_results_are_finite_and_their_times_increase(seed):
    check_chaos(Stub(), seed)


def check_chaos(detector, seed, frames=16):
    results, stream = driven(vehicle.faulty(drive(frames, seed), keyed_rng(seed, "faults")), detector=detector)
    assert stream.health().counts.get("frames whose inference failed", 0) == 0
    for _, scene in itertools.groupby(results, key=lambda result: result.scene):
        stamps = [result.timestamp_ns for result in scene]
        assert all(a < b for a, b in zip(stamps, stamps[1:]))
    for result in results:
        boxes = result.detections.boxes
        for array in (boxes.center, boxes.size, boxes.yaw, result.detections.scores, result.tracks.boxes.center):
            assert np.isfinite(array).all()
        assert set(result.sensors) == set(SENSORS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return perception.load(save_tiny_detector(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_a_real_detector_goes_on(tiny, seed):
    check_chaos(tiny, seed, frames=14)


# The table of faults in docs/embedding.md: what comes, what the results have of it, what is counted.


def test_late_by_less_than_the_deadline_is_in_time():
    """The frame waits, since time goes on only as most sensors have it."""
    late = shifted(drive(20), {"NOSE"}, arrives_ms=60)
    results, _ = driven(late)
    assert len(results) == 20 and not any(r.is_degraded for r in results)


def test_late_by_more_is_absent_and_counted():
    results, stream = driven(shifted(drive(20), {"NOSE"}, arrives_ms=700, since=12, until=14))
    assert [t for t, r in zip(times(results), results) if r.is_degraded] == [1200, 1300]
    assert {results[i].sensors["NOSE"].state for i in (12, 13)} == {"stale"}
    assert stream.health().counts["/NOSE: messages that came too late to be sorted in"] == 2


def test_twice_is_once():
    events = list(drive(15))
    twice = sorted([*events, *(e._replace(arrives_ns=e.arrives_ns + MS) for e in events)], key=lambda e: e.arrives_ns)
    results, stream = driven(twice)
    assert content(results) == content(driven(events)[0])
    assert stream.health().sensors["FRONT"].received == 30
    assert stream.health().counts["/FRONT: measurements with the stamp of one before"] == 15


def test_stuck_is_compensated_then_rejected():
    events = list(drive(30))
    (still,) = [e.data for e in events if e.what == "ROOF" and e.timestamp_ns == START_NS + 12 * FRAME_NS]
    stuck = [
        e._replace(data=still) if e.what == "ROOF" and e.timestamp_ns > START_NS + 12 * FRAME_NS else e for e in events
    ]
    results, stream = driven(stuck)
    seen = [(r.sensors["ROOF"].state, r.sensors["ROOF"].reason) for r in results]
    assert seen[:13] == [("active", "")] * 13 and seen[13:18] == [("active", "frozen")] * 5
    assert seen[19:] == [("rejected", "frozen")] * 11  # after 0.6 s
    assert "ROOF: rejected, frozen" in stream.health().reasons


def test_black_and_empty_are_rejected():
    events = [e._replace(data=e.data * 0) if e.what == "FRONT" else e for e in drive(14)]
    events = [e._replace(data=e.data[:0]) if e.what == "NOSE" else e for e in events]
    results, _ = driven(events)
    assert len(results) == 14
    for result in results:
        assert {n: p.reason for n, p in result.sensors.items() if p.state == "rejected"} == {
            "FRONT": "dead",
            "NOSE": "dead",
        }


def test_of_the_future_is_not_fresh():
    near, _ = driven(shifted(drive(20), {"FRONT"}, timestamp_ms=130, since=12, until=13))
    assert near[12].sensors["FRONT"].state == "stale"
    far, stream = driven(shifted(drive(20), {"FRONT"}, timestamp_ms=18000, since=12))
    assert [r.sensors["FRONT"].state for r in far[:12]] == ["active"] * 12
    assert {(r.sensors["FRONT"].state, r.sensors["FRONT"].reason) for r in far[13:-1]} == {
        ("rejected", "its clock is off")
    }
    assert stream.health().counts["/FRONT: messages of a clock that is off"] == 8


def test_an_offset_in_the_rig_corrects_a_clock():
    clock, own = Clock(), rig()
    own.cameras["FRONT"].offset_s = -18.0
    stream = Stream(Stub(), own, clock=clock, every_frame=True)
    describe(stream)
    results = [*fed(stream, clock, shifted(drive(15), {"FRONT"}, timestamp_ms=18000)), *stream.finish()]
    assert content(results) == content(driven(drive(15))[0])


def test_clocks_set_back_begin_another_scene():
    everything = {*SENSORS, "pose"}
    results, stream = driven(shifted(drive(40), everything, timestamp_ms=-5000, since=15))
    scenes = [(scene, len(list(group))) for scene, group in itertools.groupby(r.scene for r in results)]
    assert [scene for scene, _ in scenes] == ["live", "live#1"] and scenes[0][1] == 15 and scenes[1][1] > 20
    assert stream.health().counts["times that clocks were set back"] == 1
    assert not any(r.is_degraded for r in results[-20:])


def test_a_leap_ahead_is_followed():
    everything = {*SENSORS, "pose"}
    results, _ = driven(shifted(drive(40), everything, timestamp_ms=30_000, since=15))
    assert {r.scene for r in results} == {"live"} and times(results)[-1] == 33_900
    assert len([t for t in times(results) if t >= 31_500]) > 20


def test_calibration_after_the_data():
    clock = Clock()
    stream = Stream(Stub(), rig(), clock=clock, every_frame=True)
    for name in ("ROOF", "NOSE", "FRONT", "BACK"):
        stream.push_transform("base_link", name, SE3())
    results = list(fed(stream, clock, drive(15)))
    assert results and {r.sensors["FRONT"].state for r in results} == {"rejected"}
    assert "a calibration on /FRONT/info was expected" in results[0].sensors["FRONT"].reason
    for name in ("FRONT", "BACK"):
        stream.push_calibration(name, np.array([[20.0, 0, 12], [0, 20, 8], [0, 0, 1]]))
    after = list(fed(stream, clock, drive(5, first=15)))
    assert not any(r.is_degraded for r in after[-3:])


def test_a_transform_after_the_data_and_extrinsics_that_change():
    clock = Clock()
    stream = Stream(Stub(), rig(), clock=clock, every_frame=True)
    describe(stream)
    steady, _ = driven(drive(30))
    first = list(fed(stream, clock, drive(20)))
    stream.push_transform("base_link", "ROOF", SE3(translation=np.array([0.0, 0, 2.8])))
    later = list(fed(stream, clock, drive(10, first=20)))
    assert content(first) == content(steady[: len(first)])
    assert content(later)[-1] != content(steady[: len(first) + len(later)])[-1]
    clock = Clock()
    stream = Stream(Stub(), rig(), clock=clock, every_frame=True)
    results = list(fed(stream, clock, drive(14)))
    assert results == []  # of no sensor it is known where it is
    assert stream.health().counts["/ROOF: measurements without a transform from base_link to ROOF"] > 0
    describe(stream)
    assert not any(r.is_degraded for r in list(fed(stream, clock, drive(5, first=14)))[-3:])


def test_without_poses_there_are_no_results_and_it_is_said():
    results, stream = driven(without(drive(30), {"pose"}, 15))
    assert 1400 <= times(results)[-1] <= 1550
    assert stream.health().counts["frames left out: no ego pose"] >= 10
    clock, still = Clock(), rig()
    still.world_frame = None  # the vehicle stands still
    stream = Stream(Stub(), still, clock=clock, every_frame=True)
    describe(stream)
    assert len([*fed(stream, clock, without(drive(15), {"pose"})), *stream.finish()]) == 15


def test_what_a_reader_did_not_foresee_costs_one_message_not_those_behind_it(caplog):
    clock = Clock()
    stream = opened(clock)
    results = list(fed(stream, clock, drive(12)))
    broken = Image("FRONT", "rgb8", None, 24, 16, 72)  # no driver's, and of no type that is promised
    for event in drive(4, first=12):
        clock.now_ns = event.arrives_ns
        if event.what == "FRONT" and event.timestamp_ns < START_NS + 12 * FRAME_NS:
            stream.push_message(Message("/FRONT", event.timestamp_ns, clock.now_ns, 0, broken))
        else:
            vehicle.push(stream, event)
    results += stream.step()  # of all of them at once
    results += stream.finish()
    assert times(results) == [100 * i for i in range(16) if i != 12]
    assert stream.health().counts["messages that failed"] == 1 and len(caplog.records) == 1


@pytest.mark.parametrize(
    "events",
    [
        list(without(drive(300), SENSORS)),  # the vehicle is on, its sensors are not
        [e._replace(timestamp_ns=START_NS) for e in drive(150)],  # no clock goes
        [e._replace(timestamp_ns=START_NS + 12 * FRAME_NS * (e.what == "FRONT")) for e in drive(150)],
    ],
    ids=["poses alone", "stamps stand still", "stamps stand still at two times"],
)
def test_what_waits_for_it_to_be_known_what_time_it_is_is_bounded(events):
    clock = Clock()
    stream = opened(clock)
    assert list(fed(stream, clock, events)) == []
    order = stream._frames._live._order
    waiting = len(order._sorted) + len(order._ahead)
    a_second = 1e9 * len(events) / (events[-1].arrives_ns - events[0].arrives_ns)
    assert waiting <= 2 * 5 * a_second + 6
    assert waiting + sum(stream.health().counts.values()) == len(events)  # each is counted that does not wait
    assert stream.health().level == "STALE"
    later_ns = 60_000 * MS
    for event in drive(30):  # and then it goes on
        clock.now_ns = event.arrives_ns + later_ns
        vehicle.push(stream, event._replace(timestamp_ns=event.timestamp_ns + later_ns))
    assert len(stream.step()) > 10


@pytest.mark.parametrize("kind", [np.uint64, np.int64])
def test_stamps_may_be_numbers_of_numpy(kind):
    """Those without a sign have no differences."""
    results, _ = driven(e._replace(timestamp_ns=kind(e.timestamp_ns)) for e in drive(14))
    assert content(results) == content(driven(drive(14))[0]) and type(results[0].timestamp_ns) is int


def test_damaged_numbers_cost_points_not_the_cloud():
    events = list(drive(14))
    for i, event in enumerate(events):
        if event.what == "ROOF":
            damaged = event.data.copy()
            damaged[:3] = [[np.nan, 0, 0, 1], [np.inf, 0, 0, 1], [1e30, 0, 0, 1]]
            events[i] = event._replace(data=damaged)
    results, stream = driven(events)
    assert len(results) == 14 and not any(r.is_degraded for r in results)
    assert stream.health().counts["/ROOF: points that are not finite"] == 28


def test_the_deadline_does_not_wait_for_another_message():
    clock = Clock()
    stream = opened(clock)
    assert times(fed(stream, clock, drive(20)))[-1] == 1700
    late = []
    for _ in range(300):
        clock.now_ns += MS
        late += stream.step()
    assert times(late) == [1800, 1900] and not any(r.is_degraded for r in late)
    assert [r.age_s for r in late] == pytest.approx([0.25, 0.25], abs=0.002)
    clock.now_ns += 60_000 * MS  # a simulation pauses: nothing is made up, and nothing that comes then is late
    assert stream.step() == []
    later = [e._replace(arrives_ns=e.arrives_ns + 60_000 * MS) for e in drive(10, first=20)]
    assert times([*fed(stream, clock, later), *stream.finish()]) == [2000 + 100 * i for i in range(10)]


# Overload.


def test_of_frames_that_wait_the_newest_is_seen_and_the_others_counted():
    clock = Clock()
    stream = opened(clock, every_frame=False, queue=100)
    list(fed(stream, clock, drive(15)))
    for event in drive(10, first=15):  # while inference takes a second
        clock.now_ns = event.arrives_ns
        vehicle.push(stream, event)
    before = stream.health().counts["frames dropped for newer ones"]
    (result,) = stream.step()
    assert times([result]) == [2200] and stream.health().counts["frames dropped for newer ones"] == before + 9


def test_queues_are_bounded_and_the_newest_stay():
    clock, dropped = Clock(), []
    stream = opened(clock, queue=3, on_drop=lambda topic, stamp: dropped.append((topic, stamp)))
    image = np.full((16, 24, 3), 9, np.uint8)
    for i in range(10):
        stream.push("FRONT", image, START_NS + i)
    assert dropped == [("/FRONT", START_NS + i) for i in range(7)] and len(stream._inbox) == 3 + 6
    front = stream.health().sensors["FRONT"]
    assert (front.received, front.dropped) == (10, 7) and stream.health().counts["messages dropped for newer ones"] == 7
    for i in range(1000):
        stream.push_transform("map", "base_link", SE3(), START_NS + i)
    assert len(stream._inbox) == 3 + 6 + 64 * 3


def test_transforms_of_other_frames_do_not_displace_mounts_and_poses():
    inbox = Inbox(lambda topic: 2)
    for topic, child, static in (("/tf_static", "roof", True), ("/tf", "base_link", False)):
        inbox.put(Message(topic, 1, 1, 0, Transform("map", child, SE3().pose, static)))
    for i in range(9):
        inbox.put(Message("/tf_static", 1, 1, 0, Transform("map", f"mount {i}", SE3().pose, True)))
        inbox.put(Message("/tf", 2 + i, 1, 0, Transform("arm", "hand", SE3().pose)))
    waiting = [post.message for post in inbox.take()]
    assert [m.data.child for m in waiting if m.topic == "/tf_static"] == ["roof", *(f"mount {i}" for i in range(9))]
    assert [(m.data.child, m.timestamp_ns) for m in waiting if m.topic == "/tf"] == [
        ("base_link", 1), ("hand", 9), ("hand", 10),
    ]  # fmt: skip
    assert inbox.dropped == {"/tf": 7} and not inbox and not inbox.take()


def test_what_is_pushed_is_copied():
    events = list(drive(14))
    usual = content(driven(events)[0])
    clock = Clock()
    stream, results = opened(clock), []
    for event in events:
        clock.now_ns = event.arrives_ns
        data = event.data.copy() if isinstance(event.data, np.ndarray) else event.data
        vehicle.push(stream, event._replace(data=data))
        if isinstance(data, np.ndarray):
            data[:] = 7
        results += stream.step()
    assert content([*results, *stream.finish()]) == usual


def test_clouds_that_are_pushed_as_logs_have_them_are_copied_too():
    events, results = list(drive(14)), {}
    for mine in (False, True):
        clock = Clock()
        stream, found = opened(clock), []
        for event in events:
            clock.now_ns = event.arrives_ns
            if event.what == "ROOF":
                cloud = lidar_of("ROOF", "ROOF", event.data)
                stream.push("ROOF", cloud, event.timestamp_ns)
                cloud.records["x"] = 7 if mine else cloud.records["x"]  # a driver's buffer
            elif event.what == "FRONT":
                buffer = bytearray(event.data.tobytes())
                stream.push("FRONT", Image("FRONT", "rgb8", memoryview(buffer), 24, 16, 72), event.timestamp_ns)
                buffer[:] = b"7" * len(buffer) if mine else buffer
            else:
                vehicle.push(stream, event)
            found += stream.step()
        results[mine] = content([*found, *stream.finish()])
    assert results[True] == results[False] and len(results[True]) == 14


def test_the_age_of_a_frame_from_before_clocks_were_set_back():
    clock = Clock()
    stream = opened(clock, queue=100)
    list(fed(stream, clock, drive(15)))
    for event in shifted(drive(30, first=15), {*SENSORS, "pose"}, timestamp_ms=-5000, since=18):
        clock.now_ns = event.arrives_ns  # while inference takes three seconds
        vehicle.push(stream, event)
    results = stream.step()
    assert [scene for scene, _ in itertools.groupby(r.scene for r in results)] == ["live", "live#1"]
    now_ms = (clock.now_ns - START_NS) // MS
    ages_ms = [None if r.scene == "live" else now_ms - t - 5000 for t, r in zip(times(results), results)]
    expected = [ms and pytest.approx(1e-3 * ms, abs=0.1) for ms in ages_ms]
    assert [r.age_s for r in results] == expected


# Health.


def test_sensors_that_the_detector_does_not_take_are_not_waited_for():
    stream = opened(Clock(), assembly=Assembly(sensors=("lidar", "camera")))
    assert list(stream.sensors) == list(stream.health().sensors) == ["FRONT", "BACK", "ROOF"]


def test_levels_of_health():
    clock = Clock()
    stream = opened(clock)
    assert stream.health().level == "STALE" and stream.health().reasons == ("no result yet",)
    list(fed(stream, clock, drive(20)))
    health = stream.health()
    assert health.level == "OK" and health.reasons == () and health.results == 18
    assert health.sensors["FRONT"].rate_hz == pytest.approx(10) and health.sensors["FRONT"].state == "active"
    assert set(health.latency_ms) == {"p50", "p99", "p99.9"}
    list(fed(stream, clock, without(drive(5, first=20), {"NOSE"})))
    assert stream.health().level == "WARN" and stream.health().reasons == ("NOSE: stale",)
    clock.now_ns += 3_000 * MS
    assert stream.health().level == "STALE" and stream.health().sensors["BACK"].age_s > 3


class Failing(Stub):
    fails = True

    def __call__(self, frames):
        if self.fails:
            raise RuntimeError("out of memory")
        return super().__call__(frames)


def test_a_detector_that_fails_is_an_error_until_it_does_not(caplog):
    clock, detector = Clock(), Failing()
    stream = opened(clock, detector)
    assert list(fed(stream, clock, drive(15))) == []
    health = stream.health()
    assert health.level == "ERROR" and "inference failed: RuntimeError: out of memory" in health.reasons
    assert health.counts["frames whose inference failed"] > 10
    assert len(caplog.records) == 1  # the same is not said for every frame
    detector.fails = False
    assert len(list(fed(stream, clock, drive(5, first=15)))) == 5 and stream.health().level != "ERROR"


class Hanging(Stub):
    """Until it is told to go on."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, frames):
        self.begun.set()
        assert self.go_on.wait(WAIT_S)
        return super().__call__(frames)


def test_the_watchdog_reports_inference_that_hangs_and_the_stream_recovers():
    clock, detector, said, errors = Clock(), Hanging(), [], threading.Event()
    ok, arrived = threading.Event(), threading.Event()

    def on_health(health):
        said.append(health)
        (errors if health.level == "ERROR" else ok if health.results else threading.Event()).set()

    with opened(clock, detector, on_health=on_health, on_result=lambda result: arrived.set()) as stream:
        for event in drive(15):
            clock.now_ns = event.arrives_ns
            vehicle.push(stream, event)
        assert detector.begun.wait(WAIT_S)
        clock.now_ns += 800 * MS
        stream.push("FRONT", np.full((16, 24, 3), 9, np.uint8), START_NS)  # does not wait
        assert errors.wait(WAIT_S) and any("inference hangs: for 0.8 s" in r for h in said for r in h.reasons)
        detector.go_on.set()
        assert arrived.wait(WAIT_S) and ok.wait(WAIT_S)


# Threads.


def test_results_by_iterator_poll_and_callback_are_the_same():
    events, usual = list(drive(14)), driven(drive(14))[0]

    def run(**options):
        clock = Clock()
        stream = opened(clock, **options)
        with stream:
            for event in events:
                clock.now_ns = event.arrives_ns
                vehicle.push(stream, event)
            yield stream

    taken, enough = [], threading.Event()

    def take(result):
        taken.append(result)
        if len(taken) == 12:
            enough.set()

    for _ in run(on_result=take, queue=100):
        assert enough.wait(WAIT_S)
    for stream in run(queue=100):
        iterated = list(itertools.islice(stream, 12))
    for stream in run(queue=100):
        polled = []
        while len(polled) < 12:
            result = stream.poll()
            polled += [] if result is None else [result]
            threading.Event().wait(0.001)
        stream.close()
        assert list(stream) == []  # it has ended
    assert content(taken) == content(iterated) == content(polled) == content(usual[:12])


def test_a_callback_that_fails_and_results_that_nobody_takes_are_counted():
    clock, called = Clock(), threading.Event()

    def fail(result):
        if result.sequence == 11:
            called.set()
        raise ValueError("mine")

    with opened(clock, on_result=fail, queue=100) as stream:
        for event in drive(15):
            clock.now_ns = event.arrives_ns
            vehicle.push(stream, event)
        assert called.wait(WAIT_S)
    assert stream.health().counts["results whose callback failed"] >= 12


def test_a_callback_that_fails_does_not_end_a_driver(caplog):
    def fail(topic, timestamp_ns):
        raise ValueError("mine")

    stream = opened(Clock(), queue=1, on_drop=fail)
    for i in range(3):
        stream.push("FRONT", np.full((16, 24, 3), 9, np.uint8), START_NS + i)
    assert stream.health().counts["drops whose callback failed"] == 2 and len(caplog.records) == 1


def test_the_watchdog_survives_its_callback():
    said, twice = [], threading.Event()

    def on_health(health):
        said.append(health.level)
        (twice if len(said) == 2 else threading.Event()).set()
        raise ValueError("mine")

    clock = Clock()
    with opened(clock, on_health=on_health, queue=100) as stream:
        for event in drive(15):
            clock.now_ns = event.arrives_ns
            vehicle.push(stream, event)
        assert twice.wait(WAIT_S)
    assert stream.health().counts["levels whose callback failed"] >= 2


def test_every_frame_is_given_as_soon_as_it_is_seen_and_closing_waits_for_one():
    """While ten wait."""
    clock, first, given = Clock(), threading.Event(), []

    class Counting(Hanging):
        calls = 0

        def __call__(self, frames):
            self.calls += 1
            if self.calls == 1:
                return Stub.__call__(self, frames)
            return super().__call__(frames)

    detector = Counting()

    def take(result):
        given.append(result)
        first.set()

    stream = opened(clock, detector, queue=100, on_result=take)
    for event in drive(15):
        clock.now_ns = event.arrives_ns
        vehicle.push(stream, event)
    with stream:
        assert first.wait(WAIT_S) and detector.begun.wait(WAIT_S)  # the second frame is being seen
        closing = threading.Thread(target=stream.close)
        closing.start()
        assert stream._closed.wait(WAIT_S)
        detector.go_on.set()
        closing.join(WAIT_S)
    assert not closing.is_alive() and detector.calls == 2 and len(given) == 1


def test_many_threads_push_at_once():
    clock = Clock()
    clock.now_ns = START_NS + 10**12
    events = list(drive(14))
    seen = threading.Event()
    with opened(clock, queue=1000, window_s=5.0, deadline_s=1e6, on_result=lambda r: seen.set()) as stream:
        threads = [
            threading.Thread(target=lambda n=n: [vehicle.push(stream, e) for e in events if e.what == n])
            for n in (*SENSORS, "pose")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {name: h.received for name, h in stream.health().sensors.items()} == dict.fromkeys(SENSORS, 14)
    assert stream._threads == []


def test_closing_ends_the_threads_and_the_iterator():
    before = threading.active_count()
    stream = opened(Clock())
    with stream:
        reader = threading.Thread(target=lambda: list(stream))
        reader.start()
    reader.join(WAIT_S)
    assert not reader.is_alive() and threading.active_count() == before
    stream.close()
    with pytest.raises(StreamError, match="/FRONT: a stream that is open was expected, found one that is closed"):
        stream.push("FRONT", np.zeros((4, 4, 3), np.uint8), 1)


# Models.


class Constant(Stub):
    def _seen(self, frame):
        return super()._seen(frame)[:0]


def test_a_model_is_swapped_between_two_frames():
    clock = Clock()
    stream = opened(clock)
    before = list(fed(stream, clock, drive(15)))
    stream.detector = other = Constant()
    after = list(fed(stream, clock, drive(5, first=15)))
    assert {len(r.detections) for r in before} == {1} and {len(r.detections) for r in after} == {0}
    assert stream.detector is other and after[0].sequence == len(before)


def test_a_model_of_other_pictures_is_refused(tiny):
    stream = Stream(tiny, rig())
    with pytest.raises(StreamError, match="a detector of frames as"):
        stream.detector = Stub()
    stream.detector = tiny


def test_warm_up(tiny):
    stream = Stream(tiny, rig())
    assert not stream.ready
    stream.warmup()
    assert stream.ready and stream.health().results == 0
    stream.detector = other = copy.copy(tiny)  # which has not run
    assert not stream.ready
    stream.warmup()
    assert stream.ready and stream.detector is other


def test_a_frame_makes_the_detector_ready(tiny):
    clock = Clock()
    stream = opened(clock, tiny)
    assert len(list(fed(stream, clock, drive(12)))) > 0 and stream.ready


@pytest.mark.parametrize("kinds", [("camera",), ("lidar",), ("radar",), ("camera", "radar", "lidar")], ids="+".join)
def test_frames_that_are_made_up_have_all_sensors_and_two_times(kinds):
    mine = rig()
    mine.cameras["BACK"] = CameraSource(image="b", intrinsics=[20.0, 20, 12, 8], offset_s=3.0)
    first, second = made_up_frames(mine, Assembly(sensors=kinds, rate_hz=0.1))
    assert second.timestamp_ns - first.timestamp_ns == 1_000_000_000
    for frame in (first, second):
        assert set(frame.sensors) == set(kinds) and len(frame.cameras or {}) == 2 * ("camera" in kinds)
    assert mine.world_frame == "map" and mine.cameras["BACK"].offset_s == 3.0  # the rig is left as it is


@pytest.mark.slow
def test_after_the_warm_up_nothing_is_compiled(tmp_path):
    """Kernels of the assembler, in a process that has compiled none."""
    code = """
from numba.core import event
from soaking.vehicle import *
clock, found = Clock(), []
stream = Stream(Stub(), rig(), clock=clock)
describe(stream)
stream.warmup()
class Listener(event.Listener):
    def on_start(self, event):
        found.append(event.data["dispatcher"].py_func.__qualname__)
    def on_end(self, event):
        pass
event.register("numba:compile", Listener())
print(len(list(fed(stream, clock, drive(13)))) > 0, found)
"""
    root = Path(__file__).parents[1]
    paths = os.pathsep.join(str(root / name) for name in ("", "tools"))
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "True []\n", done.stdout + done.stderr


# The same as a replay.


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("logs"))


@pytest.mark.parametrize("form", ["nuscenes", "mcap"])
def test_a_log_pushed_message_by_message_has_the_digest_of_its_replay(logs, tmp_path, form):
    log, checkpoint = logs[form], save_tiny_detector(tmp_path / "tiny")
    summary = run_job(Job(log=str(log), checkpoint=str(checkpoint), out=str(tmp_path / "out"), outputs=()))
    results = streamed(log, perception.load(checkpoint))
    assert digest(results) == summary["detections_sha256"] and len(results) == summary["frames"] == 6


@pytest.mark.slow
def test_a_real_drive_pushed_message_by_message_is_that_of_its_log(real_scene):
    with open_log(real_scene) as log:
        frames = LogFrames(log, rig_of(log, None), Assembly(sensors=("camera", "lidar", "radar"), skip_damaged=True))
        perceiver = Perceiver(Stub())
        expected = [canonical_bytes(f.timestamp_ns, perceiver.step(f).detections) for f in frames]
    found = streamed(real_scene, Stub())
    assert [canonical_bytes(r.timestamp_ns, r.detections) for r in found] == expected and len(found) == 40


def digest(results) -> str:
    sha = hashlib.sha256()
    for result in results:
        sha.update(canonical_bytes(result.timestamp_ns, result.detections))
    return sha.hexdigest()


def streamed(path, detector):
    """What lasts first, as a driver says it at the start; then every message when it was recorded."""
    clock = Clock()
    with open_log(path) as log:
        lasting = Lasting()
        for message in log.messages():
            lasting.add(message)
        stream = Stream(detector, rig_of(log, None), clock=clock, every_frame=True, scene=log.name)
        for message in lasting.messages:
            if isinstance(message.data, Calibration | Transform):
                stream._push_known(message.topic, message.data, None)
        results = []
        for message in log.messages():
            clock.now_ns = max(clock.now_ns, message.log_time_ns)
            stream.push_message(message)
            results += stream.step()
    return [*results, *stream.finish()]


# Mistakes.


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s: s.push("FRNT", np.zeros((4, 4, 3), np.uint8), 1), StreamError,
         "a sensor of the rig was expected, such as FRONT, found 'FRNT'"),
        (lambda s: s.push("FRONT", np.zeros((4, 4), np.uint8), 1), ArrayError,
         r"FRONT: uint8 \[H, W, 3\] was expected, found uint8 \[4, 4\]"),
        (lambda s: s.push("ROOF", np.zeros((4, 6), np.float32), 1), ArrayError,
         r"ROOF: float32 \[N, 3..5\] was expected, found float32 \[4, 6\]"),
        (lambda s: s.push("NOSE", np.zeros((4, 7), np.float32), 1), ArrayError,
         r"NOSE: float32 \[N, 6\] was expected, found float32 \[4, 7\]"),
        (lambda s: s.push("NOSE", [1.0], 1), StreamError,
         "NOSE: an array, an Image or a Cloud was expected, found list"),
        (lambda s: s.push("FRONT", Cloud("", np.zeros(0)), 1), StreamError,
         "/FRONT: an Image was expected, found Cloud"),
        (lambda s: s.push("NOSE", Image("", "png", b""), 1), StreamError, "/NOSE: an? Cloud was expected, found Image"),
        (lambda s: s.push("FRONT", np.zeros((4, 4, 3), np.uint8), 1.5), StreamError,
         "/FRONT: nanoseconds above 0 were expected, found 1.5"),
        (lambda s: s.push_transform("map", "base_link", SE3(), 0), StreamError, "/tf: nanoseconds above 0"),
        (lambda s: s.push_calibration("ROOF", np.eye(3)), StreamError, "ROOF: a camera whose calibration is a topic"),
        (lambda s: s.push_calibration("FRONT", np.eye(2)), ArrayError,
         r"FRONT: finite intrinsics \[3, 3\] were expected"),
        (lambda s: s.push_calibration("FRONT", np.eye(3), [1.0]), ArrayError, "FRONT: 0, 4, 5, 8 finite coefficients"),
    ],
)  # fmt: skip
def test_mistakes_are_said_where_they_are_made(call, error, text):
    with pytest.raises(error, match=text):
        call(opened(Clock()))


def test_options_and_rigs_that_make_no_sense():
    with pytest.raises(StreamError, match=r"deadline_s: 0.1 or more was expected, found 0.01"):
        Stream(Stub(), rig(), deadline_s=0.01)
    with pytest.raises(StreamError, match="queue: 1 or more was expected, found 0"):
        Stream(Stub(), rig(), queue=0)
    with pytest.raises(StreamError, match="rate_hz: more than 0 was expected, found 0"):
        Stream(Stub(), rig(), rate_hz=0)
    with pytest.raises(StreamError, match="hang_s: 0 or more was expected, found nan"):
        Stream(Stub(), rig(), hang_s=float("nan"))
    with pytest.raises(ConfigError, match="reference: the name of a sensor was expected"):
        Stream(Stub(), Rig(reference="", cameras={"FRONT": CameraSource(image="a", calibration="b")}))
    lidar_only = Stub()
    lidar_only.sensors = ("lidar",)
    with pytest.raises(StreamError, match="rig: some of lidar were expected"):
        Stream(lidar_only, Rig(reference="FRONT", cameras={"FRONT": CameraSource(image="a", calibration="b")}))


def test_arrays_are_what_logs_say():
    """By how much a point was measured before the stamp is a time since it, in seconds."""
    points = np.array([[1, 2, 3, 40, 0.09], [4, 5, 6, 70, 0.01]], np.float32)
    cloud = lidar_of("ROOF", "roof", points)
    assert cloud.frame_id == "roof" and cloud.records.dtype.names == ("x", "y", "z", "intensity", "time")
    stamp_ns = START_NS
    units = units_of([(stamp_ns, cloud), (stamp_ns + FRAME_NS, cloud)])
    offsets = point_times_ns(cloud, stamp_ns, units) - stamp_ns
    assert offsets == pytest.approx([-90e6, -10e6], abs=100) and units.notes == ()
    assert points[0, 4] == np.float32(0.09)
    radar = radar_of("NOSE", "nose", np.array([[1, 2, 3, 4, 5, 6]], np.float32))
    assert radar.records[["rcs", "vx_comp", "vy_comp"]].tolist() == [(4, 5, 6)]
    image = image_of("FRONT", "front", np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2])  # a view
    assert (image.width, image.height, image.step) == (2, 2, 6) and image.data[:6] == bytes([0, 1, 2, 6, 7, 8])
    for coefficients, model in ((0, ""), (4, "plumb_bob"), (5, "plumb_bob"), (8, "rational_polynomial")):
        assert calibration_of("FRONT", "", np.eye(3), np.zeros(coefficients), None).model == model
