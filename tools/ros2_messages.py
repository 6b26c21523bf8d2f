"""Build the ROS message packages that have no wheel, from their definitions, into the environment that runs this.

    python3.11 -m venv .venv-ros2 && .venv-ros2/bin/pip install -r docs/examples/ros2/requirements.txt
    .venv-ros2/bin/python tools/ros2_messages.py            # a minute or two; needs cmake and a C++ compiler

For tests without a ROS installation; with one, install the packages of the distribution instead.
"""

from __future__ import annotations

import sys

from perception.cli.options import run_main


def main() -> None:
    from ros2_checking.build import build

    for package in build():
        print(f"{package}: built into {sys.prefix}", flush=True)


if __name__ == "__main__":
    run_main(main)
