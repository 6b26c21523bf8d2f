"""What the numbers of clouds mean where messages do not say it: units of times and of intensities."""

from dataclasses import replace

import numpy as np
import pytest
from memory_log import MemoryLog, drive, every, transform

from perception.logs.frames import LogFrames
from perception.logs.log import Log
from perception.logs.measurements import Assembly
from perception.logs.messages import Cloud
from perception.logs.rig import CloudSource, Rig
from perception.logs.units import SWEEPS, FirstSweeps, point_times_ns, units_of

S = 1_000_000_000
START_NS = 1_700_000_123 * S
POINTS = 101
SHARES = np.linspace(0, 1, POINTS)  # of a sweep at which points are measured


def sweeps(times, dtype="<f8", interval_s=0.1, count=SWEEPS, name="t") -> list[tuple[int, Cloud]]:
    """times: of the points of a sweep, from its stamp in seconds and the interval."""
    found = []
    for i in range(count):
        stamp_ns = START_NS + round(i * interval_s * S)
        records = np.zeros(POINTS, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), (name, dtype)])
        records[name] = times(stamp_ns / S, interval_s)
        found.append((stamp_ns, Cloud("lidar", records)))
    return found


def offsets_s(found) -> np.ndarray | None:
    """Of the points of the second sweep."""
    stamp_ns, cloud = found[1]
    times_ns = point_times_ns(cloud, stamp_ns, units_of(found))
    return None if times_ns is None else (times_ns - stamp_ns) / S


# After the stamp, by the numbers that drivers write; and what is said about it.
FORMS = {
    "s": ("<f4", lambda t, T: T * SHARES, None),
    "s, before the stamp": ("<f4", lambda t, T: T * (SHARES - 1), None),
    "ms": ("<f4", lambda t, T: 1e3 * T * SHARES, "in ms from the stamp"),
    "µs": ("<f4", lambda t, T: 1e6 * T * SHARES, "in µs from the stamp"),
    "ns as float": ("<f8", lambda t, T: 1e9 * T * SHARES, "in ns from the stamp"),
    "ns": ("<u4", lambda t, T: 1e9 * T * SHARES, None),
    "µs as integer": ("<u4", lambda t, T: 1e6 * T * SHARES, "in µs from the stamp"),
    "ms as integer": ("<u2", lambda t, T: 1e3 * T * SHARES, "in ms from the stamp"),
    "shares": ("<f4", lambda t, T: SHARES, "in shares of a sweep from the stamp"),
    "s since 1970": ("<f8", lambda t, T: t + T * SHARES, None),
    "ns since 1970": ("<u8", lambda t, T: 1e9 * (t + T * SHARES), None),
    "ns since 1970 as float": ("<f8", lambda t, T: 1e9 * (t + T * SHARES), "in ns since 1970"),
    "µs since 1970": ("<u8", lambda t, T: 1e6 * (t + T * SHARES), "in µs since 1970"),
    "ms since 1970": ("<f8", lambda t, T: 1e3 * (t + T * SHARES), "in ms since 1970"),
    "TAI": ("<f8", lambda t, T: t + 37 + T * SHARES, "since 1970, 37 s ahead of the stamps"),
    "GPS, ns": ("<u8", lambda t, T: 1e9 * (t + 18 + T * SHARES), "since 1970, 18 s ahead of the stamps"),
    "stamps in TAI": ("<f8", lambda t, T: t - 37 + T * SHARES, "since 1970, 37 s behind the stamps"),
    "µs since the hour": ("<u4", lambda t, T: 1e6 * (t % 3600 + T * SHARES), "in µs since the full hour"),
}


@pytest.mark.parametrize("interval_s", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("form", FORMS)
def test_units_of_times_are_told_by_the_length_of_a_sweep(form, interval_s):
    dtype, times, note = FORMS[form]
    found = sweeps(times, dtype, interval_s)
    expected = interval_s * (SHARES - 1 if "before" in form else SHARES)
    assert offsets_s(found) == pytest.approx(expected, abs=1e-3 if form in ("ms as integer",) else 2e-6)
    notes = units_of(found).notes
    assert notes == () if note is None else (len(notes) == 1 and note in notes[0] and "field t" in notes[0])


@pytest.mark.parametrize("form", [form for form in FORMS if form != "shares"])
def test_a_single_sweep_tells_them_too(form):
    dtype, times, _ = FORMS[form]
    stamp_ns, cloud = sweeps(times, dtype)[0]
    found = point_times_ns(cloud, stamp_ns, units_of([(stamp_ns, cloud)]))
    assert (found.max() - found.min()) / S == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize(
    ("dtype", "times", "reason"),
    [
        ("<f8", lambda t, T: t - START_NS / S + 1234 + T * SHARES, "by another clock"),  # since it was switched on
        ("<u8", lambda t, T: 1e9 * (t - START_NS / S + 1234 + T * SHARES), "by another clock"),
        ("<f8", lambda t, T: t + 86400 + T * SHARES, "by another clock"),
        ("<f4", lambda t, T: np.full(POINTS, t), "by another clock"),  # seconds since 1970 are too coarse in 32 bits
        ("<f8", lambda t, T: 1e12 * SHARES, "in no unit a sweep of 0.1 s"),
        ("<f8", lambda t, T: 1e300 * SHARES, "in no unit a sweep of 0.1 s"),
    ],
)
def test_times_that_cannot_be_brought_to_the_stamp_are_not_used(dtype, times, reason):
    found = sweeps(times, dtype)
    (note,) = units_of(found).notes
    assert offsets_s(found) is None and reason in note and "not used" in note and "field t" in note


def test_shares_of_a_sweep_of_unknown_length_are_not_used():
    (note,) = units_of(sweeps(lambda t, T: SHARES, count=1)).notes
    assert "a sweep of unknown length" in note


def test_a_part_of_a_turn_and_a_log_with_few_of_the_sweeps():
    """A LiDAR that looks ahead is done in a fifth of the time; of ten sweeps, one may be recorded."""
    short = sweeps(lambda t, T: 0.2 * T * SHARES, "<f4")
    assert offsets_s(short).max() == pytest.approx(0.02) and not units_of(short).notes
    rare = sweeps(lambda t, T: 1e8 * SHARES, "<u4", interval_s=1.0)
    assert offsets_s(rare).max() == pytest.approx(0.1) and not units_of(rare).notes


def test_a_point_far_from_its_sweep_is_at_the_stamp():
    """It would stretch the motion that all others are freed of."""

    def times(t, T):
        found = T * SHARES
        found[7] = 0.9
        return found

    expected = np.where(np.arange(POINTS) == 7, 0, 0.1 * SHARES)
    assert offsets_s(sweeps(times)) == pytest.approx(expected, abs=1e-6)


def test_all_points_at_one_time_or_no_points():
    for value in (0.0, 0.05):
        assert np.ptp(offsets_s(sweeps(lambda t, T, value=value: np.full(POINTS, value)))) == 0
    assert units_of([]) == units_of([(0, Cloud("l", np.zeros(0, [("x", "<f4"), ("t", "<f4")])))])


def test_clouds_of_one_topic_may_have_different_fields():
    """As of two publishers."""
    bare = Cloud("lidar", np.zeros(3, [("x", "<f4")]))
    timed = sweeps(lambda t, T: 1e6 * T * SHARES, "<u4")
    for found in ([(START_NS, bare), *timed], [*timed, (START_NS, bare)]):
        units = units_of(found)
        assert units.tick_ns == 1000 and point_times_ns(bare, START_NS, units) is None


def intensities(values, dtype):
    records = np.zeros(len(values), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", dtype)])
    records["intensity"] = values
    return units_of([(START_NS, Cloud("lidar", records))])


@pytest.mark.parametrize(
    ("dtype", "values", "most", "is_usual"),
    [
        ("<f4", [0, 17, 255], 255, True),
        ("<f4", [0, 0.25, 1.0], 1, False),
        ("<f4", [0, 0, 0], 255, True),
        ("<f4", [0, 1, 1], 255, True),  # dark, but whole numbers
        ("<f4", [0, 100, 200, 300, np.nan, np.inf], 255, True),  # a few reflectors
        ("<f4", [0, 1000, 4000], 4095, False),
        ("<f4", [0, 30000, 65535], 65535, False),
        ("<u2", [0, 17, 255], 255, False),
        ("<u2", [0, 17, 4095], 4095, False),
        (">u2", [0, 17, 60000], 65535, True),
        ("<u2", [0, 0, 0], 65535, True),
        ("u1", [0, 1, 2], 255, True),
        ("<u4", [0, 30000, 65535], 65535, False),
    ],
)
def test_the_brightest_intensity(dtype, values, most, is_usual):
    units = intensities(values, dtype)
    assert units.intensity_max == most and bool(units.notes) != is_usual


def test_units_of_a_topic_stay_what_its_first_sweeps_say():
    first, dark = (Cloud("l", np.array([(value,)] * 9, [("intensity", "<u2")])) for value in (60000, 200))
    looked = FirstSweeps()
    for i, cloud in enumerate([first, *[dark] * 9]):
        looked.look("/a", i * S, cloud)
    looked.look("/b", 0, dark)
    assert (looked.units("/a").intensity_max, looked.units("/b").intensity_max) == (65535, 255)
    looked.look("/b", 0, first)
    assert looked.units("/b").intensity_max == 255 and looked.units("/c").intensity_max == 255


RIG = Rig("map", "base_link", "LIDAR", lidars={"LIDAR": CloudSource(cloud="/lidar")})


def frames(form, rig=RIG):
    """Of a LiDAR on a vehicle that drives at 10 m/s, past a wall that stands still."""
    dtype, times, _ = FORMS[form] if isinstance(form, str) else form
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", static=True), [0.0])
    drive(log, "map", "base_link", every(0.1, 2.0))
    for i in range(1, 15):
        t = 0.1 * i
        records = np.zeros(POINTS, [(n, "<f4") for n in ("x", "y", "z", "intensity")] + [("t", dtype)])
        records["x"], records["y"] = 20 - 10 * 0.1 * SHARES, 5  # in the sensor's frame, which comes nearer
        records["t"] = times(1_700_000_000 + t, 0.1)
        log.add("/lidar", Cloud("lidar", records), [t])
    found = LogFrames(Log(log, "drive", None, (), {}, 0.0, None, False), rig, Assembly())
    return [frame.lidar.points for frame in found], found.problems


@pytest.mark.parametrize("form", [form for form in FORMS if "before" not in form and form != "ms as integer"])
def test_clouds_in_frames_are_freed_of_motion_whatever_the_unit(form):
    clouds, problems = frames(form)
    assert len(clouds) >= 12
    for points in clouds:
        assert points[:, 0] == pytest.approx(20, abs=1e-3)
    assert bool(problems) == (FORMS[form][2] is not None)


def test_clouds_with_times_of_another_clock_are_used_as_they_are():
    clouds, problems = frames(("<f8", lambda t, T: t - 1_699_990_000 + T * SHARES, None))
    assert all(points[:, 0] == pytest.approx(20 - SHARES, abs=1e-4) for points in clouds)
    assert any(
        f"times of points that are not used: field t is by another clock than the stamps: {len(clouds)}" in p
        for p in problems
    )


def test_a_rig_that_says_what_is_full_is_believed():
    records = np.zeros(3, [(n, "<f4") for n in ("x", "y", "z", "intensity")])
    records["x"], records["intensity"] = 9, [0.0, 0.25, 0.5]
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", static=True), [0.0])
    log.add("/lidar", Cloud("lidar", records), every(0.1, 0.5))
    for intensity_max, brightest, said in ((None, 127.5, True), (0.5, 255, False)):
        source = replace(RIG.lidars["LIDAR"], intensity_max=intensity_max)
        rig = replace(RIG, world_frame=None, lidars={"LIDAR": source})
        found = LogFrames(Log(log, "drive", None, (), {}, 0.0, None, False), rig, Assembly())
        assert [frame.lidar.points[:, 3].max() for frame in found] == [brightest] * 6
        assert bool(found.problems) == said
