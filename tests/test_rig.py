"""The rig: what a file may say, what a mistake in it is answered with, and what is proposed for a log without one."""

import re
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.config import ConfigError
from perception.logs import rig as rig_module
from perception.logs.messages import Topic
from perception.logs.propose import complete, propose
from perception.logs.rig import CameraSource, CloudSource, Rig, check_rig, load_rig, to_yaml

LIDAR = ("x", "y", "z", "intensity")


def load(tmp_path, text: str) -> Rig:
    file = tmp_path / "rig.yaml"
    file.write_text(text)
    return load_rig(file)


def test_the_example_of_the_documentation_loads(tmp_path):
    example = rig_module.__doc__.split("below:\n\n")[1].split("\n\nWhere the log")[0]
    rig = load(tmp_path, textwrap.dedent(example))
    assert rig == Rig(
        "map",
        "base_link",
        "LIDAR_TOP",
        "/sample",
        {"CAM_FRONT": CameraSource(image="/cam_front/image_rect_compressed", calibration="/cam_front/camera_info")},
        {"LIDAR_TOP": CloudSource(cloud="/lidar_top")},
        {"RADAR_FRONT": CloudSource(cloud="/radar_front")},
    )
    assert rig.cameras["CAM_FRONT"].is_rectified and list(rig.sensors) == ["CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worldframe: map", "unknown key 'worldframe'.*'world_frame'"),
        ("cameras: {A: {imag: /a}}", "unknown key 'cameras.A.imag'.*'image'"),
        ("lidars: {A: {cloud: /a, intensity: 3}}", "unknown key 'lidars.A.intensity'.*'intensity_max'"),
        ("lidars: {A: {cloud: /a, intensity_max: much}}", "'lidars.A.intensity_max'"),
        ("lidars: {A: {intensity_max: 3}}", "missing mandatory value.*'lidars.A.cloud'"),
        ("lidars: {1: {cloud: /a}}", "lidars.1"),
        ("lidars: {A: /a}", "'lidars.A'"),
        ("lidars: [A]", "lidars: sensors by name"),
        ("lidars:", "'lidars'"),
        ("ego_frame:", "'ego_frame'"),
        ("ego_frame: ${nothing}", "'ego_frame'"),
        ("reference: A\nlidars: {A: {cloud: /a, offset_s: .inf}}", "lidars.A.offset_s: seconds that .*found inf"),
        ("reference: A\nlidars: {A: {cloud: /a, offset_s: .nan}}", "lidars.A.offset_s: seconds that .*found nan"),
        ("reference: A\nlidars: {A: {cloud: /a, offset_s: 1.7e18}}", "lidars.A.offset_s: .*found 1.7e.18"),
        ("reference: A\nlidars: {A: {cloud: /a, offset_s: late}}", "'lidars.A.offset_s'"),
        ("- 1", "mapping"),
        ("a: [", "not valid YAML"),
        ("", "a sensor.*found none"),
        ("lidars: {A: {cloud: /a}}", "reference: .*found ''.*'A'"),
        ("reference: LIDR\nlidars: {LIDAR: {cloud: /a}}", "reference: .*found 'LIDR'.*'LIDAR'"),
        ("reference: LIDR\nsamples: /s\nlidars: {LIDAR: {cloud: /a}}", "reference: .*'LIDR'"),
        ("reference: A\nlidars: {A: {cloud: /a}}\nradars: {A: {cloud: /b}}", "radars.A: .*second A"),
        ("reference: A b\nlidars: {A b: {cloud: /a}}", "lidars.A b: a name of letters"),
        ("reference: A\nlidars: {A: {cloud: /a, intensity_max: 0}}", "intensity_max: more than 0.*0"),
        ("reference: A\ncameras: {A: {image: /a}}", "cameras.A: .*neither"),
        ("reference: A\ncameras: {A: {image: /a, calibration: /b, intrinsics: [1, 1, 1, 1]}}", "cameras.A: .*both"),
        ("reference: A\ncameras: {A: {image: /a, intrinsics: [1, 1, 1]}}", "cameras.A.intrinsics: 4 finite"),
        ("reference: A\ncameras: {A: {image: /a, intrinsics: [.nan, 1, 1, 1]}}", "cameras.A.intrinsics: 4 finite"),
        ("reference: A\ncameras: {A: {image: /a, intrinsics: [0, 1, 1, 1]}}", "cameras.A.intrinsics: fx, fy above 0"),
        ("reference: A\nlidars: {A: {cloud: /a, ego_SE3_sensor: [1, 2, 3]}}", "ego_SE3_sensor: 7 finite"),
        ("reference: A\nlidars: {A: {cloud: /a, ego_SE3_sensor: [1, 2, 3, 1, 1, 0, 0]}}", "unit quaternion"),
    ],
)
def test_a_mistake_names_file_and_key_in_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=f"rig.yaml: .*{message}") as error:
        load(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_rig(tmp_path / "nowhere.yaml")


def test_marks_make_a_reference_needless(tmp_path):
    assert load(tmp_path, "samples: /sample\nlidars: {A: {cloud: /a}}").reference == ""


def test_yaml_holds_differences_only():
    rig = Rig(None, reference="LIDAR", lidars={"LIDAR": CloudSource(cloud="/points", intensity_max=1.0)})
    assert to_yaml(rig) == (
        "world_frame: null\nreference: LIDAR\nlidars:\n  LIDAR: {cloud: /points, intensity_max: 1.0}\n"
    )


tricky = st.text(st.sampled_from("a1e3.${}\\/:-+#'\"[]~ ,\n") | st.characters(exclude_categories=["Cs"]), max_size=12)


@given(tricky.filter(lambda text: text != "???"), st.sampled_from([None, True, False]))
def test_yaml_reads_back_as_the_same_rig(tmp_path_factory, text, rectified):
    camera = CameraSource(
        text, [0.0, 1.5, 0, 1, 0, 0, 0], image=text, intrinsics=[1e-7, 4e10, 1, 2], rectified=rectified
    )
    rig = Rig(text, text, "on", None, {"on": camera}, {"null": CloudSource(cloud=f"{text}/")})
    file = tmp_path_factory.mktemp("rig") / "rig.yaml"
    file.write_text(to_yaml(rig))
    assert load_rig(file) == rig


def test_two_sensors_on_one_topic():
    rig = Rig(reference="A", lidars={"A": CloudSource(cloud="/p"), "B": CloudSource(cloud="/p")})
    with pytest.raises(ConfigError, match="A: a topic of its own was expected, found /p of two sensors"):
        check_rig(rig, "rig.yaml")


def proposed(topics, transforms=(), frame_ids=None, fields=None):
    """Topics as name -> kind, or (kind, type, count)."""
    made = {}
    for name, what in topics.items():
        kind, type_, count = what if isinstance(what, tuple) else (what, "T", 10)
        made[name] = Topic(name, type_, kind, count=count)
    return propose(made, transforms, frame_ids or {}, fields or {})


def test_autoware_takes_the_concatenated_cloud_and_numbers_cameras():
    lidar = "/sensing/lidar"
    topics = {
        "/sensing/camera/camera0/image_rect_color/compressed": ("image", "sensor_msgs/msg/CompressedImage", 9),
        "/sensing/camera/camera0/image_raw": ("image", "sensor_msgs/msg/Image", 9),
        "/sensing/camera/camera0/camera_info": "calibration",
        "/sensing/camera/camera1/image_raw": ("image", "sensor_msgs/msg/Image", 9),
        "/sensing/camera/camera1/camera_info": "calibration",
        f"{lidar}/top/pointcloud_raw_ex": "cloud",
        f"{lidar}/left/outlier_filtered/pointcloud": "cloud",
        f"{lidar}/concatenated/pointcloud": "cloud",
        "/sensing/radar/front_center/objects_raw": ("cloud", "radar_msgs/msg/RadarTracks", 9),
        "/sensing/radar/front_center/scan": ("cloud", "radar_msgs/msg/RadarScan", 9),
        "/perception/obstacle_segmentation/pointcloud": "cloud",
        "/map/pointcloud_map": "cloud",
    }
    frames = {name: "base_link" for name in topics}
    rig, lines = proposed(topics, {("map", "base_link")}, frames)
    assert rig.lidars == {"LIDAR_CONCATENATED": CloudSource(cloud=f"{lidar}/concatenated/pointcloud")}
    assert rig.radars == {"RADAR_FRONT_CENTER": CloudSource(cloud="/sensing/radar/front_center/scan")}
    assert {name: (camera.image[-15:], camera.calibration) for name, camera in rig.cameras.items()} == {
        "CAM_0": ("olor/compressed", "/sensing/camera/camera0/camera_info"),
        "CAM_1": ("mera1/image_raw", "/sensing/camera/camera1/camera_info"),
    }
    assert (rig.reference, rig.world_frame, rig.ego_frame) == ("LIDAR_CONCATENATED", "map", "base_link")
    assert any("several sensors, left out: /sensing/lidar/left" in line for line in lines)
    assert any("computed" in line and "/map/pointcloud_map" in line for line in lines)
    assert not any(line.startswith("no ") for line in lines)


@pytest.mark.parametrize(
    ("image", "infos", "frames", "expected"),
    [
        ("/cam/image_raw", ["/cam/camera_info", "/camera_info"], {}, "/cam/camera_info"),
        ("/image_raw", ["/camera_info"], {}, "/camera_info"),
        ("/cam/color/image_raw", ["/cam/color/camera_info", "/cam/depth/camera_info"], {}, "/cam/color/camera_info"),
        ("/rig/left/image_raw", ["/rig/camera_info"], {}, "/rig/camera_info"),
        ("/rig/left/image_raw", ["/rig/camera_info"], {"/rig/left/image_raw": "l", "/rig/camera_info": "r"}, None),
        ("/rig/right/image_raw", ["/rig/left/camera_info"], {}, None),
        ("/front/image_raw", ["/camera_info"], {}, None),
        ("/image/front", ["/camera_info/back", "/camera_info/front"], {}, "/camera_info/front"),
        ("/front/image_raw", ["/x/a", "/x/b"], {"/front/image_raw": "f", "/x/a": "g", "/x/b": "f"}, "/x/b"),
    ],
)  # fmt: skip
def test_an_image_is_paired_with_its_calibration(image, infos, frames, expected):
    rig, lines = proposed({image: "image", **dict.fromkeys(infos, "calibration")}, frame_ids=frames)
    (camera,) = rig.cameras.values()
    assert camera.calibration == expected
    assert any(f"no camera calibration for {image}" in line for line in lines) == (expected is None)


@pytest.mark.parametrize(
    ("topic", "type_", "fields", "kind"),
    [
        ("/points", "PointCloud2", LIDAR, "lidars"),
        ("/ars548/points", "PointCloud2", ("x", "y", "z", "rcs"), "radars"),
        ("/ti/points", "PointCloud2", ("range", "azimuth", "elevation"), "radars"),
        ("/front/scan", "radar_msgs/msg/RadarScan", (), "radars"),
        ("/radar_front", "PointCloud", (), "radars"),
        ("/lidar/points", "PointCloud2", (*LIDAR, "doppler"), "lidars"),
        ("/ouster/points", "PointCloud2", (*LIDAR, "ring", "range"), "lidars"),
        ("/top/points", "PointCloud2", (*LIDAR, "azimuth", "elevation", "distance"), "lidars"),
    ],
)
def test_radars_are_known_by_fields_or_name(topic, type_, fields, kind):
    rig, _ = proposed({topic: ("cloud", type_, 3)}, fields={topic: fields})
    assert [name for name in ("lidars", "radars") if getattr(rig, name)] == [kind]


@pytest.mark.parametrize(
    ("topics", "names"),
    [
        (["/cam_front/image_rect_compressed"], ["CAM_FRONT"]),
        (["/cam0/image_raw", "/cam1/image_raw"], ["CAM_0", "CAM_1"]),
        (["/image_raw"], ["CAM"]),
        (["/front/front_camera/image"], ["CAM_FRONT"]),
        (["/a/camera/image", "/a/cam/image"], ["CAM_A", "CAM_A_2"]),
        (["/équipe"], ["CAM_QUIPE"]),
        (["/"], ["CAM"]),
    ],
)
def test_names_are_readable_and_unique(topics, names):
    assert sorted(proposed(dict.fromkeys(topics, "image"))[0].cameras) == names


@pytest.mark.parametrize(
    ("topics", "reference"),
    [
        ({"/lidar_top": 5, "/lidar_side": 50}, "LIDAR_TOP"),
        ({"/a_points": 5, "/b_points": 50}, "LIDAR_A"),
        ({"/a": 5, "/b": 50}, "LIDAR_B"),
        ({"/b": 50, "/a": 50}, "LIDAR_A"),
    ],
)
def test_the_reference_is_the_lidar_on_top_or_the_busiest(topics, reference):
    topics = {name: ("cloud", "T", count) for name, count in topics.items()}
    if "/a_points" in topics:
        del topics["/b_points"]
    assert proposed(topics)[0].reference == reference


def test_without_lidar_the_reference_is_the_camera_then_the_radar_that_looks_ahead():
    radars = {"/radar_back": "cloud", "/radar_front": "cloud"}
    assert proposed({"/cam_back": "image", "/cam_front": "image", **radars})[0].reference == "CAM_FRONT"
    assert proposed(radars)[0].reference == "RADAR_FRONT"


@pytest.mark.parametrize(
    ("transforms", "ego", "world"),
    [
        ([("map", "odom"), ("odom", "base_link"), ("base_link", "lidar")], "base_link", "map"),
        ([("odom", "base_footprint"), ("base_footprint", "lidar")], "base_footprint", "odom"),
        ([("odom", "base_footprint"), ("base_footprint", "base_link"), ("base_link", "lidar")], "base_link", "odom"),
        ([("base_footprint", "base_link"), ("base_link", "lidar")], "base_link", None),
        ([("site", "vehicle"), ("vehicle", "lidar")], "vehicle", "site"),
        ([("map", "other"), ("base_link", "lidar")], "base_link", None),
        ([("map", "car"), ("car", "mast"), ("mast", "lidar")], "mast", "map"),
        ([("robot/odom", "robot/base_link"), ("robot/base_link", "lidar")], "robot/base_link", "robot/odom"),
        ([("base_link", "arm"), ("odom", "vehicle"), ("vehicle", "lidar")], "vehicle", "odom"),
        ([("a", "b"), ("b", "a")], "lidar", None),
        ([], "lidar", None),
    ],
)
def test_frames_are_known_by_name_then_by_place(transforms, ego, world):
    rig, lines = proposed({"/lidar": "cloud"}, set(transforms), {"/lidar": "lidar"})
    assert (rig.ego_frame, rig.world_frame) == (ego, world)
    assert any("stands still" in line for line in lines) == (world is None)
    assert any("give ego_SE3_sensor if" in line for line in lines) == (ego in ("mast", "lidar"))


def test_the_lowest_frame_above_all_sensors_carries_them():
    transforms = {("map", "car"), ("car", "mast"), ("mast", "lidar"), ("car", "cam")}
    rig, _ = proposed({"/lidar": "cloud", "/cam": "image"}, transforms, {"/lidar": "lidar", "/cam": "cam"})
    assert (rig.ego_frame, rig.world_frame) == ("car", "map")


def test_what_is_missing_is_said_in_a_line_each():
    topics = {"/cam": "image", "/velodyne_points": "cloud", "/other_points": "cloud"}
    rig, lines = proposed(topics, {("base_link", "cam")}, {"/cam": "cam", "/velodyne_points": "velodyne"})
    assert "no camera calibration for /cam: give CAM intrinsics, [fx, fy, cx, cy]" in lines
    assert "no transform from base_link to velodyne: give LIDAR_VELODYNE ego_SE3_sensor" in lines
    assert "no frame in the messages of /other_points: give LIDAR_OTHER a frame_id or ego_SE3_sensor" in lines
    assert rig.world_frame is None and any("stands still" in line for line in lines)


def test_nothing_gives_an_empty_rig_and_one_line():
    rig, lines = proposed({"/packets": None, "/silent": ("cloud", "T", 0)})
    assert not rig.sensors and len(lines) == 1 and lines[0].startswith("no sensor")


names = st.text(max_size=20) | st.lists(st.sampled_from(["cam", "lidar", "image_raw", "map", "x", "points", ""])).map(
    "/".join
)
kinds = st.sampled_from(["image", "cloud", "calibration", "transform", "sample", None])  # fmt: skip


@given(st.dictionaries(names, st.tuples(kinds, names, st.none() | st.integers(0, 9))), st.data())
def test_a_rig_is_proposed_for_anything_in_any_order(topics, data):
    chosen = st.sampled_from(sorted(topics)) if topics else st.just("/")
    transforms = data.draw(st.sets(st.tuples(names, names), max_size=5))
    frame_ids = data.draw(st.dictionaries(chosen, names))
    fields = data.draw(st.dictionaries(chosen, st.just(LIDAR) | st.just(("rcs",))))
    rig, lines = proposed(topics, transforms, frame_ids, fields)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", name) for name in rig.sensors) and len(set(lines)) == len(lines)
    backwards = dict(reversed(topics.items()))
    assert proposed(backwards, sorted(transforms, reverse=True), frame_ids, fields) == (rig, lines)
    if rig.sensors:
        for camera in rig.cameras.values():
            camera.calibration = "/info"
        check_rig(rig, "proposed")


def test_a_proposal_to_replay_with_has_only_sensors_that_lack_nothing():
    topics = {
        name: Topic(name, "type", kind, count=10)
        for name, kind in {"/cam/image_rect": "image", "/lidar_top": "cloud", "/lidar_side": "cloud"}.items()
    }
    frame_ids = {"/cam/image_rect": "cam", "/lidar_top": "top", "/lidar_side": "side"}
    transforms = {("base_link", "side"), ("base_link", "cam"), ("map", "base_link")}
    rig, missing = propose(topics, transforms, frame_ids, {})
    assert rig.reference == "LIDAR_TOP" and len(missing) == 2  # the camera's calibration, where the LiDAR on top is
    whole = complete(rig, topics, transforms, frame_ids)
    assert list(whole.sensors) == ["LIDAR_SIDE"] and whole.reference == "LIDAR_SIDE" and whole.world_frame == "map"


@pytest.mark.parametrize("age_s", [-0.1, 10.0, float("nan")])
def test_the_age_of_measurements_is_a_time(age_s):
    rig = Rig(reference="ROOF", lidars={"ROOF": CloudSource(cloud="/roof", max_age_s=age_s)})
    with pytest.raises(ConfigError, match=rf"rig: lidars.ROOF.max_age_s: 0 to 10 s were expected, found {age_s}"):
        check_rig(rig, "rig")
