"""Run the ROS 2 node for real, over loopback: a player, the node and a listener, each a process of its own.

    python tools/ros2_check.py --rate 0.5                   # the recorded scene in PERCEPTION_DATA, all of it
    python tools/ros2_check.py --seconds 6 --checkpoint sim --rate 0.05

In an environment as docs/ros2.md describes. Prints the latency from the publication of the last measurement of a frame
to the result in the listener, how detections compare with those of a replay, and what became of lifecycle transitions,
parameters, a dead camera and a QoS that does not match. Exits with 1 if something is not as it must be.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from perception.cli.options import run_main
from perception.errors import PerceptionError


def main() -> int:
    from ros2_checking.run import check, converted

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--log", type=Path, help="a ROS 2 bag or a nuScenes folder; default: the scene in PERCEPTION_DATA"
    )
    parser.add_argument("--checkpoint", help="default: a small network, untrained")
    parser.add_argument("--rate", type=float, default=1.0, help="of playing, while nothing may be lost; default: 1")
    parser.add_argument("--seconds", type=float, default=1e9, help="of the log; default: all")
    args = parser.parse_args()
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 101)  # lest a node of the same name is told what to do
    log = args.log
    if log is None:
        if "PERCEPTION_DATA" not in os.environ:
            raise PerceptionError("--log: a recording was expected, for PERCEPTION_DATA is not set")
        log = Path(os.environ["PERCEPTION_DATA"]) / "nuscenes_scene_0523"
    with tempfile.TemporaryDirectory(prefix="ros2-check-") as folder:
        bag = converted(log, Path(folder))
        problems = check(bag, args.checkpoint, args.rate, args.seconds, Path(folder))
    print(f"{problems} problems")
    return int(problems > 0)


if __name__ == "__main__":
    run_main(main)
