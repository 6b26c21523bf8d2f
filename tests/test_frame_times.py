"""When frames are: at the reference's measurements and, while it is silent, when it would have measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import every

from perception.logs.assemble import Assembler
from perception.logs.measurements import Assembly
from perception.logs.messages import Cloud, Message, Sample, Transform
from perception.logs.rig import CloudSource, Rig

S = 1_000_000_000
HERE = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
RIG = Rig(
    world_frame=None,
    reference="TOP",
    lidars={"TOP": CloudSource(cloud="/top", ego_SE3_sensor=HERE)},
    radars={"RADAR": CloudSource(cloud="/radar", ego_SE3_sensor=HERE)},
)
NOTHING = "frames left out: no camera or radar or lidar delivered"
LIDAR = Cloud("", np.full(1, 9, [(name, "<f4") for name in "xyz"]))
RADAR = Cloud("", np.full(1, 9, [(name, "<f4") for name in ("x", "y", "z", "vx_comp", "vy_comp")]))
TENTHS = [i / 10 for i in range(31)]


def times_of(top=(), radar=(), rig=RIG, more=(), **options):
    """[(seconds, whether the LiDAR is there, whether the radar is)], counts."""
    messages = [
        (round(t * S), topic, data) for topic, data, ts in (("/top", LIDAR, top), ("/radar", RADAR, radar)) for t in ts
    ]
    messages = sorted([*messages, *((round(t * S), topic, data) for t, topic, data in more)], key=lambda m: m[:2])
    assembler = Assembler(rig, Assembly(**options))
    frames = [f for i, (t, topic, data) in enumerate(messages) for f in assembler.push(Message(topic, t, t, i, data))]
    frames += assembler.finish()
    assert [f.timestamp_ns for f in frames] == sorted({f.timestamp_ns for f in frames}) and all(
        f.sensors for f in frames
    )
    assert len({f.token for f in frames}) == len(frames)
    return [(f.timestamp_ns / S, f.lidar is not None, f.radar is not None) for f in frames], dict(assembler.counts)


def shifted(times, by=0.03):
    return [t + by for t in times]


def test_without_faults_frames_are_at_the_reference():
    found, counts = times_of(TENTHS, shifted(TENTHS))
    assert found == [(t, True, True) for t in TENTHS] and counts == {}


def test_a_reference_that_dies_is_left_out_and_frames_go_on_at_its_rate():
    found, counts = times_of(TENTHS[:11], shifted(TENTHS))
    assert found == [(t, t <= 1.1, True) for t in TENTHS]  # a measurement may be 0.1 s old
    assert counts == {"frames without TOP": 19}


def test_one_that_returns_makes_the_frames_again():
    kept = [t for t in TENTHS if not 0.95 < t < 2.05]
    found, counts = times_of(kept, shifted(TENTHS))
    assert found == [(t, t < 1.05 or t > 2.05, True) for t in TENTHS] and counts == {"frames without TOP": 10}


def test_its_rate_is_the_usual_one():
    """20 Hz, with jitter of 2 ms, and a pair of measurements that are lost."""
    stamps = [0.05 * i + 0.002 * (-1) ** i for i in range(21) if i not in (7, 8)]
    found, _ = times_of(stamps, every(0.03, 2))
    ticks = [t for t, *_ in found if t > 1.01]
    assert np.diff([stamps[-1], *ticks]) == pytest.approx(0.05, abs=0.005) and ticks[-1] > 1.9


@pytest.mark.parametrize(("rate_hz", "expected"), [(None, TENTHS), (5.0, TENTHS[::2])])
def test_one_that_never_delivers_leaves_the_rate_to_the_option_or_10_hz(rate_hz, expected):
    found, counts = times_of(radar=every(0.01, 3), rate_hz=rate_hz)
    assert found == [(pytest.approx(t), False, True) for t in expected]
    assert counts == {"frames without TOP": len(expected)}


def test_one_that_starts_late_is_not_waited_for():
    found, counts = times_of(TENTHS[20:], TENTHS)
    assert found == [(t, t >= 2.0, True) for t in TENTHS] and counts == {"frames without TOP": 20}


def test_the_option_limits_the_rate_of_ticks_as_well():
    found, _ = times_of(TENTHS[:11], shifted(TENTHS), rate_hz=5.0)
    assert [t for t, *_ in found] == TENTHS[::2]


@pytest.mark.parametrize(
    "stamps",
    [
        [t for t in TENTHS if t not in (0.7, 1.5, 1.6)],
        [t + 0.02 * (-1) ** round(10 * t) for t in TENTHS],
        [*every(0.033, 1.5), *shifted(every(0.066, 1.4), 1.55)],
        [t + d for t in every(0.1, 3) for d in (0, 0.01)],
        [0.0, *TENTHS[5:]],
        every(0.5, 3),
        TENTHS[:27],
    ],
    ids=["losses", "jitter", "slower at night", "pairs", "slow start", "2 Hz", "ends before others"],
)
def test_an_irregular_reference_is_not_silent(stamps):
    found, counts = times_of(stamps, every(0.01, 3))
    assert [t for t, *_ in found] == [pytest.approx(t) for t in stamps] and counts == {}


def test_a_slow_reference_that_dies():
    found, counts = times_of(every(0.5, 1.5), TENTHS)
    assert found == [(t, t <= 1.5, True) for t in every(0.5, 3)] and counts == {"frames without TOP": 3}


def test_a_gap_of_the_only_sensor_is_counted():
    kept = [t for t in TENTHS if not 0.95 < t < 2.05]
    rig = Rig(**(vars(RIG) | {"radars": {}}))
    found, counts = times_of(kept, rig=rig)
    assert found == [(t, True, False) for t in kept] and counts == {NOTHING: 11}


def test_a_gap_of_the_only_sensor_that_is_asked_for_is_counted():
    kept = [t for t in TENTHS if not 0.95 < t < 2.05]
    found, counts = times_of(TENTHS, kept, sensors=("radar",))
    # 0.1 s after its last measurement that is used again.
    assert found == [(t, False, True) for t in TENTHS if not 1.05 < t < 2.05]
    assert counts == {"frames left out: no radar delivered": 10}


def test_a_pause_of_an_hour_and_one_of_a_century_cost_nothing():
    for pause_s in (3600, 3.2e9):
        stamps = [*TENTHS, *shifted(TENTHS, 3.0 + pause_s)]
        found, counts = times_of(stamps, stamps)
        assert len(found) == 62 and counts == {NOTHING: 10 * pause_s - 1}


def test_poses_alone_make_no_frames():
    poses = [(t, "/tf", Transform("map", "base_link", np.array([t, 0, 0, 1, 0, 0, 0]))) for t in every(0.05, 60)]
    found, counts = times_of(TENTHS, TENTHS, more=poses)
    assert len(found) == 31 and counts == {}
    found, counts = times_of(more=poses)
    assert found == [] and counts == {}


def test_marks_make_frames_and_nothing_else():
    rig = Rig(**(vars(RIG) | {"samples": "/sample"}))
    found, _ = times_of(TENTHS[:5], TENTHS, rig, [(t, "/sample", Sample(str(t))) for t in (0.2, 2.5)])
    assert found == [(0.2, True, True), (2.5, False, True)]


def test_only_the_part_that_is_asked_for():
    assembler = Assembler(RIG, Assembly(), is_wanted=lambda time_ns: time_ns >= 1.45 * S)
    messages = [Message("/radar", round(t * S), 0, i, RADAR) for i, t in enumerate(TENTHS)]
    frames = [f for message in messages for f in assembler.push(message)] + list(assembler.finish())
    assert [f.timestamp_ns / S for f in frames] == TENTHS[15:] and dict(assembler.counts) == {"frames without TOP": 16}


@given(st.sets(st.sampled_from(TENTHS)), st.sets(st.sampled_from(TENTHS)))
def test_whoever_delivers_when_each_measurement_is_seen(top, radar):
    """Times increase and no frame is empty, which is checked above; and none is without anything new."""
    found, _ = times_of(top, radar)
    for i, t in enumerate(found):
        since = found[i - 1][0] + 0.04 if i else -1
        assert any(since < measured <= t[0] + 0.06 for measured in top | radar)
    missed = [t for t in top if t not in [time for time, *_ in found]]
    assert not missed
