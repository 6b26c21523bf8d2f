"""Score checkpoints on recorded drives: every set of sensors, sensors misplaced or silent, what radar adds by distance.

    python tools/benchmark_real.py --checkpoint runs/astyx-0 runs/astyx-1 runs/astyx-2 --root data/astyx --split score \
        --json out/astyx.json
    python tools/benchmark_real.py --checkpoint runs/scene --root data/scene-0523 --part 0.5 1 \
        --conditions clean 'only:*' --json out/scene.json

Several checkpoints are one model, trained with several seeds: the tables have means and standard deviations over them.
Conditions: tools/benchmarks/conditions.py; columns: tools/benchmarks/recorded.py.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from perception.cli.options import add_selection_options, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, nargs="+", help="folders, or shipped names")
    add_selection_options(parser)
    parser.add_argument("--part", type=float, nargs=2, default=(0.0, 1.0), metavar=("FROM", "TO"), help="of each scene")
    parser.add_argument(
        "--conditions", nargs="+", default=["*"], metavar="PATTERN", help="such as clean 'only:*' lidar:2deg"
    )
    parser.add_argument("--json", required=True, type=Path, help="file for the rows")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="checkpoints at a time; default: 1")
    args = parser.parse_args()

    from benchmarks.recorded import measure_all
    from benchmarks.report import recorded_tables
    from perception.errors import require
    from perception.files import check_writable, write_json

    require("--workers", args.workers, "1 or more", lambda workers: workers > 0)
    check_writable(args.json)
    selection = {"version": args.version, "split": args.split, "scenes": args.scenes, "part": args.part}
    rows = measure_all(args.checkpoint, args.root, selection, args.conditions, args.workers)
    write_json(args.json, rows)
    print(recorded_tables(rows))


if __name__ == "__main__":
    run_main(main)
