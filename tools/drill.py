"""Kill, interrupt and starve training, saving, indexing, replays, batches and evaluations, at random moments.

    python tools/drill.py                              # 30 moments each
    python tools/drill.py --times 3 --subjects train   # a part of it

Prints a table, and exits with 1 if anything was lost, damaged, left running or not resumable.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from perception.cli.options import names, run_main


def main() -> int:
    from drills.faults import FAULTS
    from drills.inputs import Inputs
    from drills.run import Row, drill
    from drills.subjects import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30, help="moments for each subject and fault; default: 30")
    parser.add_argument("--subjects", type=names, default=tuple(SUBJECTS), help=f"some of {', '.join(SUBJECTS)}")
    parser.add_argument("--faults", type=names, default=tuple(FAULTS), help=f"some of {', '.join(FAULTS)}")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    args = parser.parse_args()
    bad = 0
    print(Row.HEADER)
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        for row in drill(Inputs(Path(folder)), args.subjects, args.faults, args.times, args.seed):
            print(row, flush=True)
            bad += bool(row.problems)
    return int(bad > 0)


if __name__ == "__main__":
    run_main(main)
