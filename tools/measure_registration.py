"""By how much the registration moves the sensors of a recording that are aligned already: next to nothing, at best.

    python tools/measure_registration.py --checkpoint sim --root data/scene-0523 --part 0 0.5

Prints median, 95th percentile and maximum over the frames, in metres and degrees.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from perception.cli.options import add_selection_options, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, or the shipped one: sim")
    add_selection_options(parser)
    parser.add_argument("--part", type=float, nargs=2, default=(0.0, 1.0), metavar=("FROM", "TO"), help="of each scene")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()

    from benchmarks.registration import measure
    from benchmarks.report import registration_table
    from perception.files import check_writable, write_json

    if args.json is not None:
        check_writable(args.json)
    selection = {"version": args.version, "split": args.split, "scenes": args.scenes, "part": args.part}
    report = measure(args.checkpoint, args.root, selection)
    print(registration_table(report))
    if args.json is not None:
        write_json(args.json, report)


if __name__ == "__main__":
    run_main(main)
