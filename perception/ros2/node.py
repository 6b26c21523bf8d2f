"""The node: a lifecycle around a :class:`perception.Stream`, which does the work.

    configure    parameters, detector, rig; the detector runs once on made-up data
    activate     subscriptions, and the stream's threads
    deactivate   neither; what the stream remembers is forgotten
    cleanup      nothing is left

Messages are taken in the executor's thread and queued; frames are made, seen and published in the stream's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from perception.device import checked_device
from perception.errors import PerceptionError
from perception.logs.beginning import Lasting
from perception.logs.messages import Calibration, Message, is_timeless
from perception.logs.rig import Rig, load_rig
from perception.ros2.diagnostics import Status, diagnostic_array, of_node, of_sensor
from perception.ros2.messages import OUTPUTS, View
from perception.ros2.parameters import LIVE, Parameters, autoware_labels, parameters_of
from perception.ros2.topics import Subscriptions, message_class, proposed, sensor_topics, topics_of
from perception.stream import Result, Stream

log = logging.getLogger(__name__)

NAME = "perception"
_DIAGNOSTICS_S = 1.0
_OUTPUT_DEPTH = 10
_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides.")  # parameters that every node has


class SimulatedClock:
    """The time on /clock in ns, but one that never goes back: where a recording begins again, it goes on."""

    def __init__(self, now_ns: Callable[[], int]):
        self._now_ns, self._lock = now_ns, threading.Lock()
        self._last_ns = self._ahead_ns = 0

    def __call__(self) -> int:
        with self._lock:
            now_ns = self._now_ns()
            self._ahead_ns = max(self._ahead_ns, self._last_ns - now_ns)
            self._last_ns = now_ns + self._ahead_ns
            return self._last_ns


class Perception:
    """What the node does. node: an rclpy node, whose transitions call the methods of the same names.

    Attributes:
        state: of the lifecycle.  problem: why the last transition failed, in one line; "" if it did not.
    """

    def __init__(self, node: Any):
        self._node = node
        self.state, self.problem = "unconfigured", ""
        self._parameters = self._declared()
        self._clock: Callable[[], int] = time.monotonic_ns
        self._rig, self._notes = Rig(), list[str]()
        self._detector: Any = None
        self._labels: tuple[int, ...] = ()
        self._stream: Stream | None = None
        self._subscriptions: Subscriptions | None = None
        self._publishers: dict[str, Any] = {}
        self._unpublished: list[str] = []
        self._mismatches: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._skipped = 0  # messages before the first on /clock
        self._early = Lasting()  # those of them that come once, and wait for it
        self._diagnostics = node.create_publisher(
            message_class("diagnostic_msgs/msg/DiagnosticArray"), "/diagnostics", 10
        )
        self._timer = node.create_timer(_DIAGNOSTICS_S, self.look, clock=_steady())

    def configure(self) -> None:
        try:
            self._configure()
        except BaseException:
            self.cleanup()
            raise

    def _configure(self) -> None:
        import perception

        given = parameters_of({name: self._node.get_parameter(name).value for name in asdict(Parameters())})
        self._parameters = given
        if self._node.get_parameter("use_sim_time").value:
            ros_clock = self._node.get_clock()
            self._clock = SimulatedClock(lambda: ros_clock.now().nanoseconds)
        else:
            self._clock = time.monotonic_ns
        self._detector = perception.load(given.checkpoint, device=checked_device(given.device))
        self._labels = autoware_labels(given.autoware_labels, self._detector.task.classes)
        self._rig, self._notes = (load_rig(given.rig), []) if given.rig else self._proposed(given.propose_s)
        for line in self._notes:
            self._node.get_logger().warning(line)
        self._new_stream().warmup()
        self._advertise()

    def activate(self) -> None:
        given, rig = self._parameters, self._rig
        sensors = [source.topic for source in rig.sensors.values()]
        self._stream = self._new_stream()
        self._stream.__enter__()
        self._subscriptions = Subscriptions(
            self._node,
            topics_of(rig, self._stream.sensors),
            sensors,
            self._take,
            self._clock,
            given.reliability,
            given.queue,
        )
        self._subscriptions.connect()

    def deactivate(self) -> None:
        if self._subscriptions is not None:
            self._subscriptions.close()
        if self._stream is not None:
            self._stream.close()
        self._subscriptions = self._stream = None
        self._early = Lasting()

    def cleanup(self) -> None:
        self.deactivate()
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
        self._detector = None
        self._notes, self._unpublished, self._skipped = [], [], 0
        self._mismatches, self._failures = {}, {}

    def look(self) -> None:
        """Subscribe to what is new, and publish diagnostics."""
        if self._subscriptions is not None:
            self._subscriptions.connect()
        now_ns = self._node.get_clock().now().nanoseconds
        self._diagnostics.publish(diagnostic_array(self._node.get_name(), now_ns, self._statuses()))

    def set_parameters(self, changed: list[Any]) -> Any:
        """The callback for new values of parameters."""
        from rcl_interfaces.msg import SetParametersResult

        values = {each.name: each.value for each in changed if each.name in asdict(Parameters())}
        try:
            given = parameters_of(asdict(self._parameters) | values)
        except PerceptionError as error:
            return SetParametersResult(successful=False, reason=str(error))
        fixed = sorted({each.name for each in changed} & {*asdict(Parameters()), "use_sim_time"} - set(LIVE))
        if fixed and self.state in ("inactive", "active"):
            reason = f"parameter {fixed[0]}: a node that is not configured was expected, found one that is {self.state}"
            return SetParametersResult(successful=False, reason=reason)
        self._parameters = given
        return SetParametersResult(successful=True)

    def _declared(self) -> Parameters:
        from rcl_interfaces.msg import ParameterDescriptor

        defaults = asdict(Parameters())
        overrides = self._node._parameter_overrides  # rclpy says nothing of those that nobody declares
        for name in overrides:
            if name not in defaults and not name.startswith(_OF_ROS):
                parameters_of({name: overrides[name].value})  # says which name is close
        for name, default in defaults.items():
            self._node.declare_parameter(name, default, ParameterDescriptor(dynamic_typing=True))
        return parameters_of({name: self._node.get_parameter(name).value for name in defaults})

    def _proposed(self, seconds: float) -> tuple[Rig, list[str]]:
        import rclpy

        node = rclpy.create_node(  # a name and parameters that were given are those of the other one
            f"{self._node.get_name()}_proposal",
            context=self._node.context,
            use_global_arguments=False,
            start_parameter_services=False,
        )
        try:
            return proposed(node, seconds, time.monotonic_ns)
        finally:
            node.destroy_node()

    def _new_stream(self) -> Stream:
        given = self._parameters
        return Stream(
            self._detector,
            self._rig,
            rate_hz=given.rate_hz or None,
            window_s=given.window_s,
            deadline_s=given.deadline_s,
            queue=given.queue,
            every_frame=given.every_frame,
            stale_s=given.stale_s,
            hang_s=given.hang_s,
            on_result=self._publish,
            clock=self._clock,
        )

    def _advertise(self) -> None:
        """Publishers of the types that are installed."""
        from rclpy.event_handler import PublisherEventCallbacks

        self._unpublished = []
        for topic, (package, name, _) in OUTPUTS.items():
            try:
                found = message_class(f"{package}/msg/{name}")
            except PerceptionError as error:
                self._unpublished.append(f"~/{topic}: {error}")
                self._node.get_logger().warning(f"not published: {self._unpublished[-1]}")
                continue
            events = PublisherEventCallbacks(incompatible_qos=lambda event, topic=topic: self._mismatched(topic, event))
            self._publishers[topic] = self._node.create_lifecycle_publisher(
                found, f"~/{topic}", _OUTPUT_DEPTH, event_callbacks=events
            )

    def _mismatched(self, topic: str, event: Any) -> None:
        from rclpy.qos import qos_policy_name_from_kind

        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._mismatches[topic] = f"~/{topic}: a subscriber asks for another QoS than is offered: {policy}"

    def _take(self, message: Message) -> None:
        """In the executor's thread."""
        if self._stream is None:
            return
        now_ns = message.log_time_ns
        if self._clock is time.monotonic_ns or now_ns:
            early, self._early = self._early.messages, Lasting()
            for each in early:
                stamp_ns = each.timestamp_ns or now_ns  # of a publisher that had no time either
                self._stream.push_message(replace(each, timestamp_ns=stamp_ns, log_time_ns=now_ns))
            self._stream.push_message(message)
        elif isinstance(message.data, Calibration) or is_timeless(message):
            self._early.add(message)  # what is latched comes once
        else:
            self._skipped += 1  # when it came is not known yet

    def _publish(self, result: Result) -> None:
        """In the stream's thread."""
        view = View(self._detector.task, self._rig.ego_frame, self._labels, self._parameters.score_threshold)
        for topic, publisher in self._publishers.items():
            try:
                if publisher.get_subscription_count():
                    publisher.publish(OUTPUTS[topic][2](result, view))
            except Exception as error:  # costs that topic, not those after it
                if topic not in self._failures:  # the same again would fill a disk
                    log.exception("~/%s: not published", topic)
                self._failures[topic] = f"~/{topic}: not published: {type(error).__name__}: {error}"

    def _statuses(self) -> list[Status]:
        subscriptions, stream = self._subscriptions, self._stream
        values: dict[str, object] = {f"not published {i}": line for i, line in enumerate(self._unpublished)}
        values |= {f"rig {i}": line for i, line in enumerate(self._notes)}
        values |= {f"failed {topic}": line for topic, line in list(self._failures.items())}
        values |= {f"QoS of {topic}": line for topic, line in self._mismatches.items()}
        if self._skipped:
            values["messages before the first on /clock"] = self._skipped
        if subscriptions is None or stream is None:
            return [of_node(self.state, self.problem, None, values)]
        values |= {f"{topic}: messages that cannot be used": n for topic, n in subscriptions.damaged.items()}
        health = stream.health()
        of_others = set(subscriptions.problems) - {t for n in self._rig.sensors for t in sensor_topics(self._rig, n)}
        values |= {f"topic {topic}": subscriptions.problems[topic] for topic in sorted(of_others)}
        statuses = [of_node(self.state, self.problem, health, values)]
        for name, source in stream.sensors.items():
            problems = subscriptions.problems_of(sensor_topics(self._rig, name))
            statuses.append(of_sensor(name, source, health.sensors[name], problems, self._parameters.stale_s))
        return statuses


def open_node(name: str = NAME) -> tuple[Any, Perception]:
    """The lifecycle node, unconfigured, and what it does. rclpy must have been initialised.

    Raises:
        ConfigError: parameters that were given at the start make no sense.
    """
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

    class Node(LifecycleNode):
        def __init__(self) -> None:
            super().__init__(name)
            self.perception = Perception(self)
            self.add_on_set_parameters_callback(self.perception.set_parameters)

        def on_configure(self, state: Any) -> Any:
            return self._changed("inactive", self.perception.configure) or super().on_configure(state)

        def on_activate(self, state: Any) -> Any:
            super().on_activate(state)  # publishers first: the stream begins at once
            return self._changed("active", self.perception.activate) or TransitionCallbackReturn.SUCCESS

        def on_deactivate(self, state: Any) -> Any:
            return self._changed("inactive", self.perception.deactivate) or super().on_deactivate(state)

        def on_cleanup(self, state: Any) -> Any:
            return self._changed("unconfigured", self.perception.cleanup) or TransitionCallbackReturn.SUCCESS

        def on_shutdown(self, state: Any) -> Any:
            return self._changed("finalized", self.perception.cleanup) or TransitionCallbackReturn.SUCCESS

        def on_error(self, state: Any) -> Any:
            problem = self.perception.problem
            self._changed("unconfigured", self.perception.cleanup)
            self.perception.problem = problem
            return TransitionCallbackReturn.SUCCESS

        def _changed(self, state: str, transition: Callable[[], None]) -> Any:
            """None where all went well. rclpy tells nobody what a callback raises."""
            try:
                transition()
            except PerceptionError as error:
                self.perception.problem = " ".join(str(error).split())
                self.get_logger().error(self.perception.problem)
                return TransitionCallbackReturn.FAILURE
            except Exception as error:
                self.perception.problem = f"{type(error).__name__}: {error}"
                log.exception("a transition has failed")
                return TransitionCallbackReturn.ERROR
            self.perception.state, self.perception.problem = state, ""
            return None

    node = Node()
    return node, node.perception


def _steady() -> Any:
    """Diagnostics come also while simulated time stands still."""
    from rclpy.clock import Clock
    from rclpy.clock_type import ClockType

    return Clock(clock_type=ClockType.STEADY_TIME)
