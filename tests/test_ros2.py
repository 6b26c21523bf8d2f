"""The ROS 2 node without ROS: messages field by field, parameters, diagnostics, and when it subscribes to what.

``tools/ros2_check.py`` runs the node itself, over loopback, where rclpy is installed.
"""

import argparse
import ast
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from perception.cli import run
from perception.cli.ros2 import run as run_ros2
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.logs.arrays import calibration_of, image_of
from perception.logs.beginning import Lasting
from perception.logs.messages import Message, Transform
from perception.logs.presence import Presence
from perception.logs.rig import CameraSource, CloudSource, PoseSource, Rig
from perception.logs.ros_messages import decoder
from perception.ros2.diagnostics import diagnostic_array, of_node, of_sensor
from perception.ros2.messages import (
    View,
    detected_objects,
    detection_array,
    in_object_axes,
    marker_array,
    tracked_objects,
)
from perception.ros2.node import Perception, SimulatedClock
from perception.ros2.parameters import AUTOWARE_LABELS, Parameters, autoware_labels, parameters_of
from perception.ros2.topics import Subscriptions, sensor_topics, topics_of
from perception.sample import Boxes3D, Detections
from perception.stream import Result
from perception.task import CLASSES, NUSCENES
from perception.tracking import Tracks
from perception.vitals import Health, SensorHealth

definitions = pytest.importorskip("ros2_checking.definitions", reason="tools are no part of the package")
from ros2_types import installed  # noqa: E402

ROOT = Path(__file__).parents[1]
CAR, PEDESTRIAN, CONE, BARRIER = (CLASSES.index(n) for n in ("car", "pedestrian", "traffic_cone", "barrier"))
S = math.sqrt(0.5)


@pytest.fixture
def ros(monkeypatch):
    installed(monkeypatch, definitions.DEFINITIONS)


def boxes(center, size, yaw, velocity, label) -> Boxes3D:
    return Boxes3D(np.array(center), np.array(size), np.array(yaw), np.array(velocity), np.array(label))


def result() -> Result:
    """A car that faces left and drives left at 5 m/s, a cone, and a pedestrian below the threshold; one track."""
    seen = boxes(
        [[10.0, 2, 1], [5, -3, 0.5], [1, 1, 1]], [[4.0, 2, 1.5], [0.4, 0.4, 1], [0.6, 0.5, 1.8]],
        [math.pi / 2, 0, 0], [[0.0, 5], [np.nan, np.nan], [0, 0]], [CAR, CONE, PEDESTRIAN],
    )  # fmt: skip
    tracks = Tracks(
        boxes([[10.0, 2, 1], [8, 0, 1]], [[4.0, 2, 1.5], [2, 0.5, 1]], [math.pi / 2, math.pi],
              [[0.0, 5], [0.1, 0]], [CAR, BARRIER]),
        np.array([0.9, 0.5]), np.array([7, 8]), np.zeros(2),
    )  # fmt: skip
    return Result(
        0, "token", "live", 1_700_000_000_123_456_789, SE3(), Detections(seen, np.array([0.9, 0.5, 0.2])),
        np.array([7, -1, -1]), tracks, {"ROOF": Presence("active")}, 0.1,
    )  # fmt: skip


VIEW = View(NUSCENES, "base_link", autoware_labels("", CLASSES), 0.3)


def numbers(vector) -> tuple[float, ...]:
    return (vector.x, vector.y, vector.z)


def test_detections(ros):
    message = detection_array(result(), VIEW)
    assert (message.header.frame_id, message.header.stamp.sec) == ("base_link", 1_700_000_000)
    assert message.header.stamp.nanosec == 123_456_789
    car, cone = message.detections  # the pedestrian is below the threshold
    assert [each.results[0].hypothesis.class_id for each in (car, cone)] == ["car", "traffic_cone"]
    assert [each.results[0].hypothesis.score for each in (car, cone)] == [0.9, 0.5]
    assert (car.id, cone.id) == ("7", "") and car.header.stamp.nanosec == 123_456_789
    for pose in (car.bbox.center, car.results[0].pose.pose):
        assert numbers(pose.position) == (10, 2, 1)
        assert numbers(pose.orientation) == pytest.approx((0, 0, S)) and pose.orientation.w == pytest.approx(S)
    assert numbers(car.bbox.size) == (4, 2, 1.5)  # x is the length


def test_detected_objects_of_autoware(ros):
    car, cone = detected_objects(result(), VIEW).objects
    assert [(each.label, each.probability) for each in car.classification] == [(1, 1.0)]
    assert [each.label for each in cone.classification] == [0] and car.existence_probability == 0.9
    assert numbers(car.shape.dimensions) == (4, 2, 1.5) and car.shape.type == 0
    assert car.kinematics.has_twist and not cone.kinematics.has_twist and not car.kinematics.has_twist_covariance
    linear = car.kinematics.twist_with_covariance.twist.linear
    assert numbers(linear) == pytest.approx((5, 0, 0))  # forward, though it drives to the left of the vehicle
    assert numbers(cone.kinematics.twist_with_covariance.twist.linear) == (0, 0, 0)
    assert (car.kinematics.orientation_availability, cone.kinematics.orientation_availability) == (2, 0)


def test_tracked_objects_of_autoware(ros):
    car, barrier = tracked_objects(result(), VIEW).objects
    again, _ = tracked_objects(result(), VIEW).objects
    assert len(car.object_id.uuid) == 16 and bytes(car.object_id.uuid) == bytes(again.object_id.uuid)
    assert bytes(car.object_id.uuid) != bytes(barrier.object_id.uuid)
    other = Result(**{**vars(result()), "scene": "live#1"})  # the clocks were set back: other objects
    assert bytes(tracked_objects(other, VIEW).objects[0].object_id.uuid) != bytes(car.object_id.uuid)
    assert barrier.kinematics.orientation_availability == 1  # front and rear look alike
    assert numbers(barrier.kinematics.twist_with_covariance.twist.linear) == pytest.approx((-0.1, 0, 0))
    assert barrier.kinematics.pose_with_covariance.pose.orientation.z == pytest.approx(1)


def test_markers(ros):
    clear, car, arrow, barrier = marker_array(result(), VIEW).markers
    assert (clear.action, car.action, car.type, arrow.type, barrier.type) == (3, 0, 1, 0, 1)
    assert (car.ns, car.id, arrow.ns, arrow.id, barrier.ns, barrier.id) == ("car", 7, "velocity", 7, "barrier", 8)
    assert numbers(car.scale) == (4, 2, 1.5) and [numbers(p) for p in arrow.points] == [(10, 2, 1), (10, 7, 1)]
    colours = [(each.color.r, each.color.g, each.color.b) for each in (car, arrow, barrier)]
    assert colours[0] == colours[1] == pytest.approx((66 / 255, 190 / 255, 1))
    assert colours[2] == pytest.approx((150 / 255, 170 / 255, 200 / 255))


@pytest.mark.parametrize(
    ("velocity", "yaw", "expected"),
    [
        ((1, 0), 0, (1, 0)),
        ((1, 0), math.pi / 2, (0, -1)),
        ((0, 2), -math.pi / 2, (-2, 0)),
        ((1, 1), math.pi / 4, (2 * S, 0)),
    ],
)
def test_velocity_in_the_axes_of_an_object(velocity, yaw, expected):
    assert in_object_axes(list(velocity), yaw) == pytest.approx(expected)


def test_every_class_has_the_label_that_the_document_says():
    labels = dict(zip(CLASSES, autoware_labels("", CLASSES)))
    names = {number: name for name, number in AUTOWARE_LABELS.items()}
    text = (ROOT / "docs/ros2.md").read_text()
    assert all(f"| {name} | {names[label]} |" in text for name, label in labels.items())
    constants = definitions.DEFINITIONS["autoware_perception_msgs/msg/ObjectClassification"]
    assert all(f"uint8 {name}={number}" in constants for name, number in AUTOWARE_LABELS.items())


def test_labels_of_other_classes():
    assert autoware_labels(" van=CAR,deer = ANIMAL ", ("van", "deer", "bus")) == (1, 8, 3)
    assert autoware_labels("traffic_cone=HAZARD", CLASSES)[CONE] == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a label for van, such as van=CAR, was expected"),
        ("van=AUTO", "CLASS=LABEL with one of van and one of UNKNOWN, .* was expected, found 'van=AUTO'"),
        ("lorry=TRUCK", "found 'lorry=TRUCK'"),
        ("van", "found 'van'"),
    ],
)
def test_labels_that_make_no_sense(text, message):
    with pytest.raises(PerceptionError, match=f"parameter autoware_labels: .*{message}"):
        autoware_labels(text, ("van",))


def test_parameters():
    assert parameters_of({}) == Parameters()
    found = parameters_of({"score_threshold": 1, "queue": 4, "every_frame": True, "rig": "rig.yaml"})
    assert found == Parameters(score_threshold=1.0, queue=4, every_frame=True, rig="rig.yaml")
    assert isinstance(found.score_threshold, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scorethreshold": 0.5}, "unknown parameter 'scorethreshold'; the closest valid one is 'score_threshold'"),
        ({"queue": 4.0}, "parameter queue: an integer was expected, found 4.0"),
        ({"queue": True}, "parameter queue: an integer was expected, found True"),
        ({"queue": 0}, "parameter queue: 1 or more was expected, found 0"),
        ({"rig": 3}, "parameter rig: a text was expected, found 3"),
        ({"every_frame": 1}, "parameter every_frame: true or false was expected, found 1"),
        ({"hang_s": "long"}, "parameter hang_s: a number was expected, found 'long'"),
        ({"hang_s": math.nan}, "parameter hang_s: a finite number was expected, found nan"),
        ({"window_s": math.inf}, "parameter window_s: a finite number was expected, found inf"),
        ({"score_threshold": 1.5}, "parameter score_threshold: 0 to 1 was expected, found 1.5"),
        ({"reliability": "some"}, "parameter reliability: best_effort or reliable was expected, found 'some'"),
    ],
)
def test_parameters_that_make_no_sense(values, message):
    with pytest.raises(PerceptionError) as error:
        parameters_of(values)
    assert str(error.value) == message


def test_the_document_and_the_example_have_every_parameter():
    text = (ROOT / "docs/ros2.md").read_text()
    example = yaml.safe_load((ROOT / "docs/examples/ros2/perception.yaml").read_text())["perception"]["ros__parameters"]
    assert example == {"use_sim_time": False, **vars(Parameters())}
    for name, default in vars(Parameters()).items():
        shown = str(default).lower() if isinstance(default, bool) else f'"{default}"' if default == "" else default
        assert f"| `{name}` | {shown} |" in text


def rig() -> Rig:
    return Rig(
        world_frame="map", reference="ROOF", samples="/marks", ego_pose=PoseSource(odometry="/odom"),
        cameras={"FRONT": CameraSource(image="/front/image", calibration="/front/info"),
                 "BACK": CameraSource(image="/back/image", intrinsics=[1.0, 1, 1, 1])},
        lidars={"ROOF": CloudSource(cloud="/roof")},
    )  # fmt: skip


def test_topics_of_a_rig():
    expected = ["/front/image", "/back/image", "/roof", "/front/info", "/marks", "/odom", "/tf", "/tf_static"]
    assert topics_of(rig(), ["FRONT", "BACK", "ROOF"]) == expected
    assert topics_of(rig(), ["BACK"]) == ["/back/image", "/roof", *expected[4:]]  # the reference is needed all the same
    assert sensor_topics(rig(), "FRONT") == ["/front/image", "/front/info"]
    assert sensor_topics(rig(), "BACK") == ["/back/image"]


def test_what_cannot_be_subscribed_to_is_a_problem_of_its_topic():
    graph = {"/roof": [SimpleNamespace(topic_type="std_msgs/msg/String")], "/front": []}  # others listen to /front
    node = SimpleNamespace(
        get_topic_names_and_types=lambda: [(topic, ["any"]) for topic in graph], resolve_topic_name=lambda name: name,
        get_publishers_info_by_topic=lambda name: graph.get(name, []),
    )  # fmt: skip
    found = Subscriptions(node, ["/roof", "/front", "/tf_static"], ["/roof", "/front"], print, lambda: 0)
    found._subscription = lambda topic, found: (_ for _ in ()).throw(PerceptionError(f"{topic}: {found[0].topic_type}"))
    found.connect()
    assert found.problems == {"/roof": "/roof: std_msgs/msg/String", "/front": "/front: no publisher"}
    assert found.problems_of(["/front", None, "/other"]) == ["/front: no publisher"]
    found._subscription = lambda topic, publishers: object()
    found.connect()
    assert list(found.problems) == ["/front"] and list(found._open) == ["/roof"]
    graph["/tf_static"] = graph["/front"] = graph["/roof"]
    found.connect()
    assert not found.problems and list(found._open) == ["/roof", "/front", "/tf_static"]
    heard = Subscriptions(node, None, (), print, lambda: 0)
    heard._subscription = found._subscription
    graph["/front"] = []
    heard.connect()
    assert list(heard._open) == ["/roof", "/tf_static"]


def test_messages_come_as_bytes_and_damage_is_counted():
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    geometry = ("TransformStamped", "Transform", "Vector3", "Quaternion")
    kinds = {name: store.types[f"geometry_msgs/msg/{name}"] for name in geometry}
    top = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](5, 7), "base_link")
    place = kinds["Transform"](kinds["Vector3"](1.0, 2.0, 3.0), kinds["Quaternion"](0.0, 0.0, 0.0, 1.0))
    message = store.types["tf2_msgs/msg/TFMessage"]([kinds["TransformStamped"](top, "roof", place)])
    data = bytes(store.serialize_cdr(message, "tf2_msgs/msg/TFMessage"))
    said: list[str] = []
    clock, logger = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=99)), SimpleNamespace(error=said.append)
    node = SimpleNamespace(get_clock=lambda: clock, get_logger=lambda: logger)
    heard: list = []
    found = Subscriptions(node, [], [], heard.append, lambda: 42)
    decode = decoder("tf2_msgs/msg/TFMessage", None, "ros2msg")[2]
    for topic, sent in (("/tf_static", data), ("/tf", data), ("/tf", data[:20]), ("/tf", b"")):
        found._received(topic, decode, sent)
    assert [(m.topic, m.timestamp_ns, m.log_time_ns, m.data.static) for m in heard] == [
        ("/tf_static", 5_000_000_007, 42, True), ("/tf", 5_000_000_007, 42, False),
    ]  # fmt: skip
    assert heard[0].data.pose.tolist() == [1, 2, 3, 1, 0, 0, 0]
    assert found.damaged == {"/tf": 2} and len(said) == 1 and said[0].startswith("/tf: a tf2_msgs/msg/TFMessage was")
    found._received("/odd", lambda data, now_ns: 1 // 0, data)
    assert found.damaged["/odd"] == 1 and said[1].startswith("/odd: ZeroDivisionError: ")


def sensor_health(state="active") -> SensorHealth:
    return SensorHealth(state, 9.96, 0.123, 12, 3)


def test_diagnostics(ros):
    health = Health("WARN", ("ROOF: stale",), {}, 5, {"p50": 12.34}, {"frames dropped for newer ones": 2})
    statuses = [
        of_node("active", "", health, {"more": 1}),
        of_sensor("ROOF", rig().lidars["ROOF"], sensor_health("stale"), [], 1.0),
        of_sensor("FRONT", rig().cameras["FRONT"], sensor_health("active"), [], 1.0),
        of_sensor("BACK", rig().cameras["BACK"], sensor_health("waiting"), ["/back/image: no publisher"], 1.0),
    ]
    message = diagnostic_array("perception", 1_000_000_001, statuses)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 1)
    found = [(each.name, each.level, each.message) for each in message.status]
    assert found == [
        ("perception: node", b"\1", "ROOF: stale"),
        ("perception: ROOF", b"\1", "stale"),
        ("perception: FRONT", b"\0", "active"),
        ("perception: BACK", b"\2", "waiting; /back/image: no publisher"),
    ]
    values = {pair.key: pair.value for pair in message.status[0].values}
    assert values == {
        "state": "active", "more": "1", "results": "5", "latency p50": "12.3 ms", "frames dropped for newer ones": "2",
    }  # fmt: skip
    assert {pair.key: pair.value for pair in message.status[1].values}["rate"] == "10.0 Hz"


def test_a_sensor_that_is_silent_is_not_well_whatever_the_latest_result_had():
    """Where all sensors die there are no more results."""
    status = of_sensor("ROOF", rig().lidars["ROOF"], SensorHealth("active", 10.0, 1.26, 12, 0), [], 1.25)
    assert (status.level, status.message) == ("WARN", "active; nothing for 1.3 s")
    status = of_sensor("ROOF", rig().lidars["ROOF"], SensorHealth("active", 10.0, 1.24, 12, 0), [], 1.25)
    assert (status.level, status.message) == ("OK", "active")


@pytest.mark.parametrize(("problem", "level", "message"), [("", "OK", "inactive"), ("no rig", "ERROR", "no rig")])
def test_a_node_that_is_not_active_says_why(problem, level, message):
    status = of_node("inactive", problem, None, {})
    assert (status.level, status.message) == (level, message)


def test_simulated_time_that_begins_again_goes_on():
    times = iter([0, 100, 110, 50, 60, 200])
    clock = SimulatedClock(lambda: next(times))
    assert [clock() for _ in range(6)] == [0, 100, 110, 110, 120, 260]


def node_of(**attributes) -> Perception:
    """What a node does, without a node."""
    made = Perception.__new__(Perception)
    vars(made).update(attributes)
    return made


def test_what_is_latched_waits_for_simulated_time():
    pushed: list[Message] = []
    stream = SimpleNamespace(push_message=pushed.append)
    node = node_of(_clock=SimulatedClock(lambda: 0), _skipped=0, _early=Lasting(), _stream=stream)
    image = image_of("FRONT", "front", np.zeros((2, 3, 3), np.uint8))
    info = calibration_of("FRONT", "front", np.eye(3), np.zeros(0), None)
    mounts = [Transform("base_link", child, SE3().pose, static=True) for child in ("front", "roof")]
    moving = Transform("map", "base_link", SE3().pose)
    for topic, data in (("/front", image), ("/info", info), *(("/tf_static", m) for m in mounts), ("/tf", moving)):
        node._take(Message(topic, 0, 0, 0, data))
    assert not pushed and node._skipped == 2
    node._take(Message("/front", 70, 90, 0, image))
    node._take(Message("/front", 80, 95, 0, image))
    assert [(m.topic, m.timestamp_ns, m.log_time_ns) for m in pushed] == [
        ("/info", 90, 90), ("/tf_static", 90, 90), ("/tf_static", 90, 90), ("/front", 70, 90), ("/front", 80, 95),
    ]  # fmt: skip
    assert [m.data for m in pushed[1:3]] == mounts


def test_an_output_that_fails_costs_no_other(monkeypatch):
    said: list[str] = []
    made = {"first": lambda result, view: 1 // 0, "second": lambda result, view: "boxes"}
    monkeypatch.setattr("perception.ros2.node.OUTPUTS", {name: ("", "", make) for name, make in made.items()})
    publisher = SimpleNamespace(get_subscription_count=lambda: 1, publish=said.append)
    node = node_of(
        _detector=SimpleNamespace(task=NUSCENES), _rig=rig(), _labels=VIEW.labels, _parameters=Parameters(),
        _publishers=dict.fromkeys(made, publisher), _failures={},
    )  # fmt: skip
    node._publish(result())
    assert said == ["boxes"] and list(node._failures) == ["first"] and "ZeroDivisionError" in node._failures["first"]


@pytest.mark.parametrize(("name", "value"), [("use_sim_time", True), ("queue", 3)])
def test_what_is_fixed_while_the_node_is_configured(monkeypatch, name, value):
    answers = SimpleNamespace(SetParametersResult=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "rcl_interfaces", SimpleNamespace(msg=answers))
    monkeypatch.setitem(sys.modules, "rcl_interfaces.msg", answers)
    changed = [SimpleNamespace(name=name, value=value)]
    answer = node_of(state="inactive", _parameters=Parameters()).set_parameters(changed)
    assert not answer.successful and answer.reason.startswith(f"parameter {name}: a node that is not configured was")
    assert node_of(state="unconfigured", _parameters=Parameters()).set_parameters(changed).successful
    live = [SimpleNamespace(name="score_threshold", value=0.5)]
    assert node_of(state="active", _parameters=Parameters()).set_parameters(live).successful


def test_a_configuration_that_fails_leaves_nothing(monkeypatch):
    node = node_of(
        _subscriptions=None, _stream=None, _publishers={}, _unpublished=["one"], _mismatches={"a": "b"}, _skipped=3
    )

    def failing() -> None:
        node._detector, node._notes = object(), ["a note"]
        raise PerceptionError("no rig")

    monkeypatch.setattr(node, "_configure", failing)
    with pytest.raises(PerceptionError, match="no rig"):
        node.configure()
    assert node._detector is None and (node._notes, node._unpublished, node._mismatches) == ([], [], {})
    assert node._skipped == 0


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is not None, reason="ROS 2 is installed")
def test_the_command_says_what_is_missing():
    with pytest.raises(PerceptionError, match=r"ROS 2 is needed: source its setup\.bash"):
        run(["ros2"])


def test_a_signal_ends_the_stream_before_ros(monkeypatch):
    done: list[str] = []

    class Executor:
        def add_node(self, node) -> None:
            pass

        def spin_once(self, timeout_sec) -> None:
            raise KeyboardInterrupt

    rclpy = SimpleNamespace(init=lambda **options: None, shutdown=lambda: done.append("shutdown"))
    for name, module in {
        "rclpy": rclpy,
        "rclpy.executors": SimpleNamespace(SingleThreadedExecutor=Executor),
        "rclpy.signals": SimpleNamespace(SignalHandlerOptions=SimpleNamespace(NO=0)),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    made = SimpleNamespace(state="active", problem="", cleanup=lambda: done.append("cleanup"))
    monkeypatch.setattr("perception.ros2.node.open_node", lambda: (None, made))
    with pytest.raises(KeyboardInterrupt):
        run_ros2(argparse.Namespace(params=None, start=False, ros_args=[]))
    assert done == ["cleanup", "shutdown"]


def test_the_launch_file_is_python_and_starts_the_command():
    text = (ROOT / "docs/examples/ros2/perception.launch.py").read_text()
    functions = [each.name for each in ast.parse(text).body if isinstance(each, ast.FunctionDef)]
    assert functions == ["generate_launch_description"]
    assert 'arguments=["ros2"]' in text


@pytest.mark.long
def test_the_node_finds_what_a_replay_finds(real_scene):
    if importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed: docs/ros2.md")
    command = [sys.executable, str(ROOT / "tools/ros2_check.py"), "--seconds", "6", "--rate", "0.25"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
