"""The topics of a rig as subscriptions: serialised messages, read by the decoders that read logs.

Messages come as bytes (``raw=True``): nothing is converted to Python objects and back, and what a message means is
said in one place, ``perception/logs/ros_messages.py``.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception.errors import PerceptionError
from perception.logs.inspect import inspect
from perception.logs.messages import Decode, Image, LogError, Message, Topic
from perception.logs.propose import complete
from perception.logs.propose_ego import is_vehicle_frame
from perception.logs.rig import CameraSource, Rig
from perception.logs.ros_messages import as_static, decoder, is_static

TRANSFORMS = ("/tf", "/tf_static")
_DEPTH = 100  # of topics that are not measurements, as of tf2's listener


def topics_of(rig: Rig, sensors: Collection[str]) -> list[str]:
    """All that the rig names for these sensors, its reference and the vehicle, and the transforms."""
    used = {name: source for name, source in rig.sensors.items() if name in sensors or name == rig.reference}
    calibrations = [source.calibration for source in used.values() if isinstance(source, CameraSource)]
    named = [*(source.topic for source in used.values()), *calibrations, rig.samples]
    return [*filter(None, named), *(rig.ego_pose.topics if rig.ego_pose else ()), *TRANSFORMS]


class Subscriptions:
    """Subscribes to topics as soon as they have a publisher, and hands on what comes.

    A sensor's topic asks for ``reliability``; any other one for what its publishers offer, so that latched
    calibrations and transforms are heard.

    Args:
        node: an rclpy node.  topics: as the rig names them; None: whatever the graph has that can be decoded.
        sensors: those of the topics that are measurements.  depth: how many of their messages may wait.
        take: gets every payload, in the thread of the executor.
        clock: when a message came, in ns.

    Attributes:
        problems: topic -> what is wrong with it, known from the graph and from events.
        damaged: topic -> how many of its messages could not be used.
    """

    def __init__(
        self,
        node: Any,
        topics: Collection[str] | None,
        sensors: Collection[str],
        take: Callable[[Message], None],
        clock: Callable[[], int],
        reliability: str = "best_effort",
        depth: int = 16,
    ):
        self._node, self._topics, self._sensors = node, topics, sensors
        self._take, self._clock, self._reliability, self._depth = take, clock, reliability, depth
        self._open: dict[str, Any] = {}
        self._count = 0
        self.known: dict[str, Topic] = {}
        self.problems: dict[str, str] = {}
        self.damaged: Counter[str] = Counter()

    def connect(self) -> None:
        """Subscribe to those topics that have become known since. To be called every now and then."""
        in_graph = (name for name, _ in self._node.get_topic_names_and_types())
        for topic in in_graph if self._topics is None else self._topics:
            if topic in self._open:
                continue
            publishers = self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topic))
            if not publishers:  # others may listen, but what is offered is not known yet
                if topic not in TRANSFORMS:
                    self.problems[topic] = f"{topic}: no publisher"
                continue
            try:
                self._open[topic] = self._subscription(topic, publishers)
                self.problems.pop(topic, None)
            except PerceptionError as error:
                self.problems[topic] = str(error)
            except Exception as error:  # of rclpy, whose executor would raise it again
                self.problems[topic] = f"{topic}: {type(error).__name__}: {error}"

    def close(self) -> None:
        for subscription in self._open.values():
            self._node.destroy_subscription(subscription)
        self._open.clear()

    def problems_of(self, topics: Collection[str | None]) -> list[str]:
        return [self.problems[topic] for topic in topics if topic in self.problems]

    def _subscription(self, topic: str, publishers: Sequence[Any]) -> Any:
        from rclpy.event_handler import SubscriptionEventCallbacks

        decode, reason = None, ""
        for type_name in sorted({each.topic_type for each in publishers}):
            kind, note, decode = decoder(type_name, None, "ros2msg")
            reason = reason or f"{topic}: a message that can be decoded was expected, found {type_name} {note}".rstrip()
            if decode is not None:
                break
        if decode is None:
            raise PerceptionError(reason)
        self.known[topic] = Topic(topic, type_name, kind)
        return self._node.create_subscription(
            message_class(type_name),
            topic,
            lambda data: self._received(topic, decode, data),
            self._quality(topic, [each.qos_profile for each in publishers]),
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=lambda event: self._mismatched(topic, event)),
        )

    def _quality(self, topic: str, offered: Sequence[Any]) -> Any:
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

        if topic in self._sensors:
            return QoSProfile(depth=self._depth, reliability=ReliabilityPolicy[self._reliability.upper()])
        reliable = all(each.reliability == ReliabilityPolicy.RELIABLE for each in offered)
        latched = all(each.durability == DurabilityPolicy.TRANSIENT_LOCAL for each in offered)
        return QoSProfile(
            depth=_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _mismatched(self, topic: str, event: Any) -> None:
        from rclpy.qos import qos_policy_name_from_kind

        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self.problems[topic] = f"{topic}: a publisher offers another QoS than is asked for: {policy}"
        self._node.get_logger().error(self.problems[topic])

    def _received(self, topic: str, decode: Decode, data: bytes) -> None:
        now_ns = self._clock()
        self.problems.pop(topic, None)
        try:
            for timestamp_ns, payload in decode(data, self._node.get_clock().now().nanoseconds):
                self._count += 1
                payload = as_static(payload) if is_static(topic) else payload
                self._take(Message(topic, timestamp_ns, now_ns, self._count, payload))
        except Exception as error:  # whatever somebody else has sent, the executor would raise it again
            if not self.damaged[topic]:  # the same again would fill a disk
                said = str(error) if isinstance(error, PerceptionError) else f"{type(error).__name__}: {error}"
                self._node.get_logger().error(f"{topic}: {said}")
            self.damaged[topic] += 1


def message_class(type_name: str) -> type:
    """``sensor_msgs/msg/Image`` -> the class.

    Raises:
        PerceptionError: its package is not installed.
    """
    package, _, name = type_name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise PerceptionError(f"{type_name}: the ROS package {package} was expected, found none that has it") from None


class _Heard:
    """What was heard, as a :class:`perception.logs.messages.Reader`."""

    def __init__(self, topics: dict[str, Topic], messages: list[Message]):
        self.path, self.stopped, self.damage = Path("topics"), None, list[str]()
        self.failed: dict[str, str] = {}
        counts = Counter(message.topic for message in messages)
        self.topics = {name: replace(topic, count=counts[name]) for name, topic in topics.items()}
        self._messages = messages

    def messages(self, topics: Collection[str] | None = None, strict: bool = False) -> Iterator[Message]:
        yield from (message for message in self._messages if topics is None or message.topic in topics)

    def close(self) -> None:
        pass


def proposed(node: Any, seconds: float, clock: Callable[[], int]) -> tuple[Rig, list[str]]:
    """A rig by what is heard on all topics for a while, and what it lacks or leaves out. Blocks.

    Args:
        node: one of its own for this, that no executor spins.

    Raises:
        LogError: no sensor that is heard can make frames.
    """
    from rclpy.executors import SingleThreadedExecutor

    messages: list[Message] = []

    def keep(message: Message) -> None:
        """Pixels are not needed, and would be gigabytes."""
        is_raw = isinstance(message.data, Image) and message.data.step > 0
        messages.append(replace(message, data=replace(message.data, data=b"")) if is_raw else message)

    subscriptions = Subscriptions(node, None, (), keep, clock)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    until_ns = clock() + round(1e9 * seconds)
    while clock() < until_ns:
        subscriptions.connect()
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    heard = _Heard(subscriptions.known, messages)
    info = inspect(heard)
    rig = complete(info.rig, heard.topics, info.transforms, info.frame_ids)
    if not rig.sensors or not is_vehicle_frame(rig.ego_frame):
        lacks = "; ".join(info.missing)
        raise LogError(f"parameter rig: a rig file was expected, for what was heard lacks: {lacks}")
    return rig, info.missing


def sensor_topics(rig: Rig, name: str) -> list[str]:
    """Those that a sensor needs."""
    source = rig.sensors[name]
    return [source.topic, *filter(None, [source.calibration if isinstance(source, CameraSource) else None])]
