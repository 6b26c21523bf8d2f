"""Message packages from definitions, by ROS's own generators, into the environment that runs this."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from perception.errors import PerceptionError
from ros2_checking.definitions import DEFINITIONS

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


def build() -> Iterator[str]:
    """The names of the packages, as each is installed."""
    prefix = Path(sys.prefix)
    if not (prefix / "share/rosidl_default_generators").is_dir():
        raise PerceptionError(f"{prefix}: an environment with docs/examples/ros2/requirements.txt was expected")
    _repair(prefix)
    with tempfile.TemporaryDirectory(prefix="ros2-messages-") as folder:
        for package in sorted({name.partition("/")[0] for name in DEFINITIONS}):
            _build(package, Path(folder) / package, prefix)
            yield package


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
