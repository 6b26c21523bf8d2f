"""Recorded clouds as columns: layouts of drivers, odd types, and anything that a file may claim to be a cloud."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.logs.clouds import RADAR, is_in_degrees, lidar_points, radar_records
from perception.logs.messages import Cloud, LogError
from perception.logs.ros_messages import TRACK
from perception.logs.units import point_times_ns, units_of

S = 1_000_000_000
STAMP_NS = 1_700_000_000 * S
STATES = ("invalid_state", "dyn_prop", "ambig_state")


def points_of(cloud):
    return lidar_points(cloud, units_of([(STAMP_NS, cloud)]).intensity_max)


def times_of(cloud):
    return point_times_ns(cloud, STAMP_NS, units_of([(STAMP_NS, cloud)]))


def layout(text, itemsize=None):
    """A dtype from "x:<f4@0 ring:<u2@16": name, type, offset."""
    fields = [part.replace("@", ":").split(":") for part in text.split()]
    names, formats, offsets = zip(*fields)
    sizes = {} if itemsize is None else {"itemsize": itemsize}
    return np.dtype({"names": names, "formats": formats, "offsets": [int(o) for o in offsets], **sizes})


# As their drivers publish them.
VELODYNE = layout("x:<f4@0 y:<f4@4 z:<f4@8 intensity:<f4@12 ring:<u2@16 time:<f4@18", 22)
OUSTER = layout(
    "x:<f4@0 y:<f4@4 z:<f4@8 intensity:<f4@16 t:<u4@20 reflectivity:<u2@24 ring:<u2@26 ambient:<u2@28 range:<u4@32", 48
)
HESAI = layout("x:<f4@0 y:<f4@4 z:<f4@8 intensity:<f4@16 timestamp:<f8@24 ring:<u2@32", 48)
ROBOSENSE = layout("x:<f4@0 y:<f4@4 z:<f4@8 intensity:<f4@12 ring:<u2@16 timestamp:<f8@18", 26)
LIVOX = layout("x:<f4@0 y:<f4@4 z:<f4@8 intensity:<f4@12 tag:u1@16 line:u1@17 timestamp:<f8@18", 26)
AUTOWARE = layout(
    "x:<f4@0 y:<f4@4 z:<f4@8 intensity:u1@12 return_type:u1@13 channel:<u2@14 azimuth:<f4@16 elevation:<f4@20"
    " distance:<f4@24 time_stamp:<u4@28"
)
BIG_ENDIAN = layout("x:>f8@1 y:>f4@9 z:>f4@13 intensity:>u2@17 ring:>i4@19 time:>f4@23", 29)


@pytest.mark.parametrize(
    ("dtype", "ring", "time", "times", "in_ns"),
    [
        (VELODYNE, "ring", "time", [-0.1, -0.05, 0.0], [-100_000_000, -50_000_000, 0]),
        (OUSTER, "ring", "t", [0, 50_000_000, 99_999_999], [0, 50_000_000, 99_999_999]),
        (HESAI, "ring", "timestamp", [1.7e9, 1.7e9 + 0.05, 1.7e9 + 0.1], [0, 50_000_000, 100_000_000]),
        (ROBOSENSE, "ring", "timestamp", [1.7e9 - 0.1, 1.7e9 - 0.05, 1.7e9], [-100_000_000, -50_000_000, 0]),
        (LIVOX, "line", "timestamp", [1.7e18, 1.7e18 + 5e7, 1.7e18 + 1e8], [0, 50_000_000, 100_000_000]),
        (AUTOWARE, "channel", "time_stamp", [0, 1, 100_000_000], [0, 1, 100_000_000]),
        (BIG_ENDIAN, "ring", "time", [0.0, 0.25, 0.5], [0, 250_000_000, 500_000_000]),
    ],
    ids=["velodyne", "ouster", "hesai", "robosense", "livox", "autoware", "big_endian"],
)
def test_layouts_of_drivers(dtype, ring, time, times, in_ns):
    records = np.zeros(3, dtype)
    records["x"], records["y"], records["z"] = [1, 2, 3], [-4, -5, -6], [0.5, 0.25, 0.125]
    records["intensity"], records[ring], records[time] = [0, 51, 255], [0, 17, 127], times
    points = points_of(Cloud("lidar", records))
    assert points.dtype == np.float32 and points.flags.c_contiguous
    assert points[:, :3].tolist() == [[1, -4, 0.5], [2, -5, 0.25], [3, -6, 0.125]]
    assert points[:, 3] == pytest.approx([0, 51, 255])
    assert points[:, 4].tolist() == [0, 17, 127]
    offsets = times_of(Cloud("lidar", records)) - STAMP_NS
    assert np.abs(offsets - in_ns).max() <= 300  # what a double since 1970 resolves


def test_points_are_the_callers_own_and_intensities_have_bounds():
    records = np.zeros(3, VELODYNE)
    records["intensity"] = [-5, 1e9, np.nan]
    points = points_of(Cloud("lidar", records))
    assert points[:2, 3].tolist() == [0, 255] and np.isnan(points[2, 3])
    points[:] = 7
    assert records["x"].tolist() == [0, 0, 0]


def test_nothing_but_positions():
    records = np.ones(2, layout("x:<f4@0 y:<f4@4 z:<f4@8"))
    assert points_of(Cloud("lidar", records)).tolist() == [[1, 1, 1, 0, 0]] * 2
    assert lidar_points(Cloud("lidar", records[:0]), 100.0).shape == (0, 5)


@pytest.mark.parametrize(
    ("dtype", "times", "in_ns"),
    [
        ("<f8", [0.0, 1.7e9, 1.7e9 + 0.1], [0, 0, 100_000_000]),  # no return, so no time
        ("<f8", [np.nan, 1.7e9, 1.7e9 + 0.1], [0, 0, 100_000_000]),
        ("<f4", [np.nan, -0.1, 0.0], [0, -100_000_000, 0]),
        ("<f8", [np.inf, -np.inf, 1.7e18 + 5e7], [0, 0, 50_000_000]),
        ("<f4", [np.nan] * 3, None),
        ("<f8", [1234.0, 1234.05, 1234.1], None),  # seconds since the sensor was switched on
        ("<f8", [1e300, 1.0, 2.0], None),
        ("<u8", [2**64 - 1, 0, 5], None),
        ("<i8", [-(2**63), 2**63 - 1, 0], None),
        ("<u4", [2**32 - 1, *range(0, 100_000_000, 1_000_000)], [0, *range(0, 100_000_000, 1_000_000)]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_time_of_a_point_is_taken_to_be_that_of_the_cloud(dtype, times, in_ns):
    """Such clouds are common: returns that are none, clocks that nobody set. They must not end a replay."""
    records = np.zeros(len(times), [("x", "<f4"), ("timestamp", dtype)])
    records["timestamp"] = times
    found = times_of(Cloud("lidar", records))
    if in_ns is None:  # none of them is a time
        assert found is None
        return
    offsets = found - STAMP_NS
    assert np.abs(offsets - in_ns).max() <= 300


def test_a_time_of_several_numbers_is_none():
    records = np.zeros(3, [("x", "<f4"), ("time", "<f4", (2,))])
    assert times_of(Cloud("lidar", records)) is None


def standing_still():
    raise AssertionError("the radar's speed was not needed")


def test_radar_returns_of_nuscenes_pass_unchanged():
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("dyn_prop", "i1"), ("id", "<i2"), ("rcs", "<f4")]
    fields += [("vx", "<f4"), ("vy", "<f4"), ("vx_comp", "<f4"), ("vy_comp", "<f4"), ("is_quality_valid", "i1")]
    fields += [("ambig_state", "i1"), ("x_rms", "i1"), ("y_rms", "i1"), ("invalid_state", "i1"), ("pdh0", "i1")]
    records = np.zeros(2, fields)
    for i, name in enumerate(records.dtype.names):
        records[name] = [i, i + 1]
    points, has_states = radar_records(Cloud("radar", records), standing_still)
    assert has_states and points.dtype == RADAR
    assert all(np.array_equal(points[name], records[name]) for name in RADAR.names)


@given(st.floats(-3, 3), st.floats(-1, 1), st.floats(1, 100), st.tuples(*[st.floats(-30, 30)] * 3))
def test_what_stands_has_no_speed_over_ground_however_the_radar_moves(azimuth, elevation, distance, velocity):
    direction = np.array([
        np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)
    ])  # fmt: skip
    scan = np.zeros(1, [(n, "<f4") for n in ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")])
    scan[0] = (distance, azimuth, elevation, -direction @ velocity, 9)
    points, has_states = radar_records(Cloud("radar", scan), lambda: np.array(velocity))
    assert not has_states and points["rcs"][0] == 9
    assert np.allclose([points[n][0] for n in "xyz"], distance * direction, atol=1e-4)
    assert np.allclose([points["vx_comp"][0], points["vy_comp"][0]], 0, atol=1e-4)


def test_azimuths_in_degrees_and_elevations_that_are_not_measured():
    names = ("range", "azimuth", "elevation", "doppler_velocity")
    scans = []
    for azimuth, elevation in (
        ([0.5, -0.2], [0.1, np.nan]),
        ([np.degrees(0.5), np.degrees(-0.2)], [np.degrees(0.1), np.nan]),
    ):
        scan = np.zeros(2, [(n, "<f4") for n in names])
        scan["range"], scan["azimuth"], scan["elevation"] = 10, azimuth, elevation
        scans.append(Cloud("radar", scan))
    assert [is_in_degrees(scan) for scan in scans] == [False, True]
    for scan in scans:
        points, _ = radar_records(scan, lambda: np.zeros(3))
        expected = [10 * np.cos(0.1) * np.cos(0.5), 10 * np.cos(0.2)]
        assert points["x"] == pytest.approx(expected, abs=1e-4)
        assert points["z"] == pytest.approx([10 * np.sin(0.1), 0], abs=1e-4)
    assert not is_in_degrees(Cloud("radar", np.zeros(1, [("x", "<f4")])))


def test_a_car_ahead_is_as_fast_as_it_is():
    """The radar drives at 10 m/s and finds a car ahead to draw away at 5 m/s; what is beside keeps the radar's pace."""
    records = np.zeros(2, layout("x:<f4@0 y:<f4@4 z:<f4@8 velocity:<f4@12 rcs:<f4@16"))
    records["x"], records["y"], records["velocity"] = [30, 0], [0, 10], [5, 0]
    points, _ = radar_records(Cloud("radar", records), lambda: np.array([10.0, 0, 0]))
    assert np.allclose(points["vx_comp"], [15, 0]) and np.allclose(points["vy_comp"], 0)


def test_tracks_say_their_speed_over_ground():
    tracks = np.zeros(1, TRACK)
    tracks["x"], tracks["vx_comp"], tracks["vy_comp"] = 5, 3, -2
    points, has_states = radar_records(Cloud("radar", tracks), standing_still)
    assert (points["x"][0], points["vx_comp"][0], points["vy_comp"][0], has_states) == (5, 3, -2, False)


@pytest.mark.parametrize("abeam", [0, -12], ids=["along the line of sight", "in full"])
@pytest.mark.parametrize("names", [("vx", "vy"), ("VX", "VY")])
def test_velocities_without_compensation_are_relative(names, abeam):
    """A wall ahead of a radar that drives at 12 m/s comes at it; one abeam passes by, which few radars measure."""
    records = np.zeros(2, [(name, "<f4") for name in ("x", "y", "z", *names)])
    records["x"], records["y"], records[names[0]] = [30, 0], [0, 10], [-12, abeam]
    points, _ = radar_records(Cloud("radar", records), lambda: np.array([12.0, 0, 0]))
    assert np.allclose(points["vx_comp"], 0) and np.allclose(points["vy_comp"], 0)


def test_a_return_where_the_radar_is_has_no_direction():
    records = np.zeros(1, [(n, "<f4") for n in ("x", "y", "z", "doppler")])
    records["doppler"] = 5
    points, _ = radar_records(Cloud("radar", records), lambda: np.array([10.0, 0, 0]))
    assert (points["vx_comp"][0], points["vy_comp"][0]) == (0, 0)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("x y", "a field z was expected, found x y"),
        ("range elevation doppler", "a field x was expected, found range elevation doppler"),
        ("x y z rcs", "a field of a radar's speed was expected, such as doppler_velocity, found x y z rcs"),
        ("x y z vx", "a field of a radar's speed"),
    ],
)
def test_a_radar_without_what_is_needed(names, text):
    with pytest.raises(LogError, match=text):
        radar_records(Cloud("radar", np.zeros(1, [(n, "<f4") for n in names.split()])), standing_still)


def as_doubles(names, number):
    return np.full((2, len(names.split())), number).view([(name, "<f8") for name in names.split()])[:, 0]


@pytest.mark.parametrize("number", [1e300, np.inf, np.nan])
@pytest.mark.filterwarnings("error")
def test_numbers_beyond_all_measure_are_left_for_later_to_be_dropped(number):
    lidar = as_doubles("x y z intensity ring", number)
    assert not np.isfinite(lidar_points(Cloud("lidar", lidar), 1e-3)[:, :3]).any()
    radar = as_doubles("range azimuth elevation doppler rcs", number)
    assert not np.isfinite(radar_records(Cloud("radar", radar), lambda: np.ones(3))[0]["rcs"]).any()
    nuscenes = as_doubles(" ".join(RADAR.names), number)
    assert not np.isfinite(radar_records(Cloud("radar", nuscenes), standing_still)[0]["x"]).any()


NAMES = st.sampled_from(
    "x y z intensity ring time t timestamp range azimuth elevation doppler velocity rcs vx vy vx_comp vy_comp".split()
    + list(STATES)
)
TYPES = st.sampled_from("i1 u1 <i2 >u2 <i4 >u4 <f4 >f4 <f8 >f8 <i8 >u8".split())


@given(
    st.dictionaries(NAMES, st.tuples(TYPES, st.sampled_from([(), (), (), (1,), (3,)])), min_size=1),
    st.integers(0, 4),
    st.binary(min_size=64, max_size=64),
    st.booleans(),
)
@pytest.mark.filterwarnings("error")
def test_any_bytes_of_any_layout_are_a_cloud_or_a_log_error(fields, number, data, whole):
    if whole:
        fields = {name: ("<f4", ()) for name in "xyz"} | fields
    dtype = np.dtype([(name, *kind) for name, kind in fields.items()])
    cloud = Cloud("any", np.frombuffer((data * 16)[: number * dtype.itemsize], dtype)[:number])
    for read, columns in (
        (lambda: points_of(cloud), lambda points: points.shape == (len(cloud.records), 5)),
        (lambda: times_of(cloud), lambda t: t is None or np.abs(t - STAMP_NS).max() <= S),
        (lambda: radar_records(cloud, lambda: np.ones(3))[0], lambda r: r.dtype == RADAR),
    ):
        try:
            found = read()
        except LogError:
            continue
        assert columns(found)
