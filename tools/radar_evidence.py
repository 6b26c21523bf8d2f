"""What radar shows of annotated objects: prints a Markdown table, by class."""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from perception.cli.options import run_main
from perception.sim.radar_evidence import radar_evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, metavar="ROOT", help="nuScenes folder; keyframes are enough")
    parser.add_argument(
        "--frames", type=float, default=1.0, metavar="SHARE", help="only this first share of each scene"
    )
    arguments = parser.parse_args()
    print(radar_evidence(arguments.root, arguments.frames))


if __name__ == "__main__":
    run_main(main)
