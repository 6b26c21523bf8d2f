"""The errors of a detector: what each kind costs in mAP, which classes are confused, which headings turned round.

    python tools/errors.py --checkpoint sim --root data/drives/1000 --json out/errors.json

A detector with an object decoder is scored twice: the boxes of its dense head, and its objects.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from perception.cli.options import names, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="sim", help="folder, or the shipped one: sim, the default")
    parser.add_argument("--root", type=Path, required=True, help="drives to score on")
    parser.add_argument("--sensors", type=names, help="some of the detector's; default: all")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()

    from benchmarks.errors import measure, table
    from perception.files import check_writable, write_json

    if args.json is not None:
        check_writable(args.json)
    report = measure(args.checkpoint, args.root, args.sensors)
    print(table(report))
    if args.json is not None:
        write_json(args.json, report)


if __name__ == "__main__":
    run_main(main)
