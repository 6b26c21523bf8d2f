"""Set an imported model beside its published code, stage by stage and box by box, on the same weights and points.

    python tools/compare_original.py points data/drives --out out/points.npy
    python tools/compare_original.py compare mmdet3d out/original

points: a frame of a dataset, in the frame of its LiDAR, for tools/original_outputs.py --points. compare: what that
wrote. Errors are relative to the largest value of a stage; times are medians on this machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.cli.options import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    points = commands.add_parser("points")
    points.add_argument("root", help="folder in the nuScenes layout")
    points.add_argument("--frame", type=int, default=0)
    points.add_argument("--out", type=Path, required=True)
    compare = commands.add_parser("compare")
    compare.add_argument("original", choices=("mmdet3d", "openpcdet"))
    compare.add_argument("folder", type=Path, help="that tools/original_outputs.py wrote")
    compare.add_argument("--turns", type=int, default=3, help="over the points, to time them; default: 3; 0: no times")
    args = parser.parse_args()

    from originals.comparing import compared, points_of

    if args.command == "points":
        points_of(args.root, args.frame, args.out)
    else:
        print(compared(args.original, args.folder, args.turns))


if __name__ == "__main__":
    run_main(main)
