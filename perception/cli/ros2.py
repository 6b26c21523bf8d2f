"""Run the detector as a ROS 2 lifecycle node: sensor messages in; detections, tracks, markers and diagnostics out.

    perception ros2 --params perception.yaml
    perception ros2 --params perception.yaml --start          # configured and activated at once
    perception ros2 --ros-args -r __node:=front -p use_sim_time:=true

docs/ros2.md has the parameters, the topics and a launch file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.errors import PerceptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, help="a ROS parameter file")
    parser.add_argument("--start", action="store_true", help="configure and activate without being told to")
    parser.add_argument(
        "--ros-args", nargs=argparse.REMAINDER, default=[], help="what follows is for ROS, as launch files have it"
    )


def run(args: argparse.Namespace) -> None:
    try:
        import rclpy
    except ImportError:
        raise PerceptionError("ROS 2 is needed: source its setup.bash, or see docs/ros2.md for wheels") from None
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from perception.ros2.node import open_node

    given = [] if args.params is None else ["--params-file", str(args.params)]
    if args.params is not None and not args.params.is_file():
        raise PerceptionError(f"{args.params}: a ROS parameter file was expected, found none")
    try:
        rclpy.init(args=["--ros-args", *given, *args.ros_args], signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy has no one class for a file or an argument that is none
        if type(error).__module__.startswith(("rclpy", "rpyutils")):
            raise PerceptionError(f"ROS: {str(error).splitlines()[0]}") from None
        raise
    try:
        node, perception = open_node()
        try:
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            if args.start:
                for transition in (node.trigger_configure, node.trigger_activate):
                    transition()
                    if perception.problem:
                        raise PerceptionError(perception.problem)
            while perception.state != "finalized":
                executor.spin_once(timeout_sec=0.2)
            executor.spin_once(timeout_sec=0.2)  # the answer to who asked for it
        finally:
            perception.cleanup()  # a signal may have come: the stream's thread publishes until it ends
    finally:
        rclpy.shutdown()
