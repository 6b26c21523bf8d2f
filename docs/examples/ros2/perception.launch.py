"""Start the node, and configure and activate it: ros2 launch perception.launch.py params:=perception.yaml"""

import shutil

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument("params", default_value="perception.yaml"),
            DeclareLaunchArgument("use_sim_time", default_value="false"),
            LifecycleNode(
                executable=shutil.which("perception"),  # no package: it is a command that pip has installed
                arguments=["ros2"],
                name="perception",
                namespace="",
                parameters=[
                    LaunchConfiguration("params"),
                    {"use_sim_time": LaunchConfiguration("use_sim_time")},
                ],
                output="screen",
                autostart=True,  # since Jazzy; before that: arguments=["ros2", "--start"]
            ),
        ]
    )
