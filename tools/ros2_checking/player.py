"""Play a ROS 2 bag: its messages as they are, as bytes, and the time on /clock.

    python -m ros2_checking.player BAG --rate 0.5 --out published.json

``out`` gets [topic, time in the bag, when it was published by the monotonic clock] of every message.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

_CLOCK_S = 0.05
_SETTLE_S = 2.0
_AFTER_S = 2.5  # by the bag's time, in which the last frames are due


def play(
    bag: Path, rate: float, reliability: str, dead: str, dead_after_s: float, seconds: float, wait_s: float
) -> list[list[Any]]:
    import rclpy
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from rosbags.rosbag2 import Reader
    from rosgraph_msgs.msg import Clock

    from perception.logs.ros_messages import is_static
    from perception.logs.ros_types import ros2_name
    from perception.ros2.topics import TRANSFORMS, message_class

    rclpy.init()
    node = rclpy.create_node("player")
    clock = node.create_publisher(Clock, "/clock", 10)
    published: list[list[Any]] = []

    def tell(now_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now_ns, 1_000_000_000)
        clock.publish(message)

    with Reader(bag) as reader:
        publishers = {}
        for connection in reader.connections:
            policy = "reliable" if connection.topic in TRANSFORMS else reliability
            durability = "transient_local" if is_static(connection.topic) else "volatile"
            quality = QoSProfile(
                depth=100,
                reliability=ReliabilityPolicy[policy.upper()],
                durability=DurabilityPolicy[durability.upper()],
            )
            message_type = message_class(ros2_name(connection.msgtype))
            publishers[connection.topic] = node.create_publisher(message_type, connection.topic, quality)
        start_ns, until = reader.start_time, time.monotonic() + wait_s
        while time.monotonic() < until and not all(p.get_subscription_count() for p in publishers.values()):
            tell(start_ns)
            rclpy.spin_once(node, timeout_sec=0.1)
        time.sleep(_SETTLE_S)  # the other side learns of it a little later
        began = time.monotonic()

        def wait_for(time_ns: int) -> None:
            while (left_s := began + 1e-9 * (time_ns - start_ns) / rate - time.monotonic()) > 0:
                time.sleep(min(_CLOCK_S, left_s))
                tell(start_ns + round(1e9 * rate * (time.monotonic() - began)))

        now_ns = start_ns
        for connection, now_ns, data in reader.messages():
            if now_ns - start_ns > 1e9 * seconds:
                break
            wait_for(now_ns)
            if connection.topic == dead and now_ns - start_ns > 1e9 * dead_after_s:
                continue
            publishers[connection.topic].publish(bytes(data))
            published.append([connection.topic, now_ns, time.monotonic_ns()])
        wait_for(now_ns + round(1e9 * _AFTER_S))
    node.destroy_node()
    rclpy.shutdown()
    return published


def main() -> None:
    from perception.files import write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=1.0, help="of the bag's time; default: 1")
    parser.add_argument("--reliability", default="reliable", help="that images and clouds are offered with")
    parser.add_argument("--dead", default="", metavar="TOPIC", help="one that falls silent")
    parser.add_argument("--dead-after", type=float, default=0.0, metavar="S", help="when it does, in the bag's time")
    parser.add_argument("--seconds", type=float, default=1e9, help="of the bag; default: all")
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="for subscriptions, at most; default: 60")
    args = parser.parse_args()
    write_json(
        args.out, play(args.bag, args.rate, args.reliability, args.dead, args.dead_after, args.seconds, args.wait)
    )


if __name__ == "__main__":
    main()
