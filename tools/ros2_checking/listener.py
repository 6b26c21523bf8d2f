"""Listen to what the node publishes until standard input ends.

    python -m ros2_checking.listener --out heard.json

``out`` gets of every result its stamp, when it was received by the monotonic clock, and its numbers.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import Any


def stamp_ns(header: Any) -> int:
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def xyz(vector: Any) -> list[float]:
    return [vector.x, vector.y, vector.z]


def box(detection: Any) -> list[Any]:
    """class, score, x, y, z, length, width, height, and z and w of the quaternion."""
    hypothesis, bbox = detection.results[0].hypothesis, detection.bbox
    turned = bbox.center.orientation
    return [hypothesis.class_id, hypothesis.score, *xyz(bbox.center.position), *xyz(bbox.size), turned.z, turned.w]


def main() -> None:
    import rclpy

    from perception.files import write_json
    from perception.ros2.messages import OUTPUTS
    from perception.ros2.topics import message_class

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rclpy.init()
    node = rclpy.create_node("listener")
    results: list[list[Any]] = []
    twists: dict[str, list[list[float]]] = {}
    counts = dict.fromkeys(OUTPUTS, 0)

    def hear(topic: str, message: Any) -> None:
        received_ns = time.monotonic_ns()
        counts[topic] += 1
        if topic == "detections":
            results.append([stamp_ns(message.header), received_ns, [box(each) for each in message.detections]])
        elif topic == "detected_objects":
            twists[str(stamp_ns(message.header))] = [
                xyz(each.kinematics.twist_with_covariance.twist.linear)[:2] for each in message.objects
            ]

    for topic, (package, name, _) in OUTPUTS.items():
        found = message_class(f"{package}/msg/{name}")
        node.create_subscription(found, f"/perception/{topic}", lambda m, topic=topic: hear(topic, m), 100)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.is_set():
        rclpy.spin_once(node, timeout_sec=0.2)
    write_json(args.out, {"results": results, "twists": twists, "counts": counts})
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
