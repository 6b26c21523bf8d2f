"""Build the ROS message packages that have no wheel, from their definitions, into the environment that runs this.

    python3.11 -m venv .venv-ros2 && .venv-ros2/bin/pip install -r docs/examples/ros2/requirements.txt
    .venv-ros2/bin/python tools/ros2_messages.py            # a minute; needs cmake and a C++ compiler

For tests without a ROS installation; with one, install the packages of the distribution instead. Definitions are those
of ros2/geometry2 (tf2_msgs), ros-perception/radar_msgs, ros-perception/vision_msgs and
autowarefoundation/autoware_msgs, without their comments.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from perception.cli.options import run_main
from perception.errors import PerceptionError
from perception.logs.ros_types import definition

_KINEMATICS = """
    uint8 UNAVAILABLE=0
    uint8 SIGN_UNKNOWN=1
    uint8 AVAILABLE=2
    geometry_msgs/PoseWithCovariance pose_with_covariance"""
DEFINITIONS = {
    **{
        name: definition(name)
        for name in (
            "tf2_msgs/msg/TFMessage",
            "radar_msgs/msg/RadarReturn",
            "radar_msgs/msg/RadarScan",
            "radar_msgs/msg/RadarTrack",
            "radar_msgs/msg/RadarTracks",
        )
    },
    "vision_msgs/msg/ObjectHypothesis": """
    string class_id
    float64 score""",
    "vision_msgs/msg/ObjectHypothesisWithPose": """
    vision_msgs/ObjectHypothesis hypothesis
    geometry_msgs/PoseWithCovariance pose""",
    "vision_msgs/msg/BoundingBox3D": """
    geometry_msgs/Pose center
    geometry_msgs/Vector3 size""",
    "vision_msgs/msg/Detection3D": """
    std_msgs/Header header
    vision_msgs/ObjectHypothesisWithPose[] results
    vision_msgs/BoundingBox3D bbox
    string id""",
    "vision_msgs/msg/Detection3DArray": """
    std_msgs/Header header
    vision_msgs/Detection3D[] detections""",
    "autoware_perception_msgs/msg/ObjectClassification": """
    uint8 UNKNOWN=0
    uint8 CAR=1
    uint8 TRUCK=2
    uint8 BUS=3
    uint8 TRAILER=4
    uint8 MOTORCYCLE=5
    uint8 BICYCLE=6
    uint8 PEDESTRIAN=7
    uint8 ANIMAL=8
    uint8 HAZARD=9
    uint8 OVER_DRIVABLE=10
    uint8 UNDER_DRIVABLE=11
    uint8 label
    float32 probability""",
    "autoware_perception_msgs/msg/Shape": """
    uint8 BOUNDING_BOX=0
    uint8 CYLINDER=1
    uint8 POLYGON=2
    uint8 type
    geometry_msgs/Polygon footprint
    geometry_msgs/Vector3 dimensions""",
    "autoware_perception_msgs/msg/DetectedObjectKinematics": f"""{_KINEMATICS}
    bool has_position_covariance
    uint8 orientation_availability
    geometry_msgs/TwistWithCovariance twist_with_covariance
    bool has_twist
    bool has_twist_covariance""",
    "autoware_perception_msgs/msg/DetectedObject": """
    float32 existence_probability
    autoware_perception_msgs/ObjectClassification[] classification
    autoware_perception_msgs/DetectedObjectKinematics kinematics
    autoware_perception_msgs/Shape shape""",
    "autoware_perception_msgs/msg/DetectedObjects": """
    std_msgs/Header header
    autoware_perception_msgs/DetectedObject[] objects""",
    "autoware_perception_msgs/msg/TrackedObjectKinematics": f"""{_KINEMATICS}
    geometry_msgs/TwistWithCovariance twist_with_covariance
    geometry_msgs/AccelWithCovariance acceleration_with_covariance
    uint8 orientation_availability
    bool is_stationary""",
    "autoware_perception_msgs/msg/TrackedObject": """
    unique_identifier_msgs/UUID object_id
    float32 existence_probability
    autoware_perception_msgs/ObjectClassification[] classification
    autoware_perception_msgs/TrackedObjectKinematics kinematics
    autoware_perception_msgs/Shape shape""",
    "autoware_perception_msgs/msg/TrackedObjects": """
    std_msgs/Header header
    autoware_perception_msgs/TrackedObject[] objects""",
}
_NEEDED = ("std_msgs", "geometry_msgs", "unique_identifier_msgs")
_PACKAGE = """<?xml version="1.0"?>
<package format="3">
  <name>{name}</name><version>0.0.0</version><description>Messages</description>
  <maintainer email="nobody@perception-bev.example">nobody</maintainer><license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
</package>
"""
_CMAKE = """cmake_minimum_required(VERSION 3.20)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
{needed}
rosidl_generate_interfaces(${{PROJECT_NAME}} {files} DEPENDENCIES {names})
ament_package()
"""


def main() -> None:
    prefix = Path(sys.prefix)
    if not (prefix / "share/rosidl_default_generators").is_dir():
        raise PerceptionError(f"{prefix}: an environment with docs/examples/ros2/requirements.txt was expected")
    _repair(prefix)
    with tempfile.TemporaryDirectory(prefix="ros2-messages-") as folder:
        for package in sorted({name.partition("/")[0] for name in DEFINITIONS}):
            _build(package, Path(folder) / package, prefix)
            print(f"{package}: built into {prefix}", flush=True)


def _repair(prefix: Path) -> None:
    """The wheels say where Python's headers and numpy's lay on the machine that built them."""
    import numpy

    here = {"include/python3.11": sysconfig.get_paths()["include"], "numpy/_core/include": numpy.get_include()}
    there = "/opt/python/cp311-cp311/"
    for path in prefix.glob("share/*/cmake/*.cmake"):
        text = fixed = path.read_text()
        fixed = fixed.replace(f"{there}include/python3.11", here["include/python3.11"])
        fixed = fixed.replace(f"{there}lib/python3.11/site-packages/numpy/_core/include", here["numpy/_core/include"])
        if fixed != text:
            path.write_text(fixed)


def _build(package: str, folder: Path, prefix: Path) -> None:
    (folder / "msg").mkdir(parents=True)
    files = []
    for name, text in DEFINITIONS.items():
        if name.startswith(f"{package}/"):
            files.append(f"msg/{name.rpartition('/')[2]}.msg")
            (folder / files[-1]).write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")
    needed = "\n".join(f"find_package({each} REQUIRED)" for each in _NEEDED)
    (folder / "package.xml").write_text(_PACKAGE.format(name=package))
    (folder / "CMakeLists.txt").write_text(
        _CMAKE.format(name=package, needed=needed, files=" ".join(files), names=" ".join(_NEEDED))
    )
    build = folder / "build"
    options = [f"-D{name}={value}" for name, value in {
        "CMAKE_INSTALL_PREFIX": prefix, "CMAKE_PREFIX_PATH": prefix, "Python3_EXECUTABLE": sys.executable,
        "PYTHON_INSTALL_DIR": Path(sysconfig.get_paths()["purelib"]).relative_to(prefix),
    }.items()]  # fmt: skip
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": str(prefix),
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    for command in (["-S", folder, "-B", build, *options], ["--build", build], ["--install", build]):
        done = subprocess.run(["cmake", *map(str, command)], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise PerceptionError(f"{package}: cmake failed: {(done.stderr or done.stdout).strip()[-2000:]}")


if __name__ == "__main__":
    run_main(main)
