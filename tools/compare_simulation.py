"""Compare simulated drives with recorded ones: prints Markdown tables, or renews them in a document."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.report import put_between_markers
from perception.cli.options import run_main
from perception.sim.compare import comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", required=True, metavar="ROOT", help="nuScenes folder; keyframes are enough")
    parser.add_argument("--sim", required=True, metavar="ROOT", help="folder written by tools/simulate.py")
    parser.add_argument("--into", metavar="FILE", help="put the tables between the markers of this document")
    arguments = parser.parse_args()
    tables = comparison(arguments.real, arguments.sim)
    if arguments.into:
        put_between_markers(Path(arguments.into), tables)
    else:
        print(tables)


if __name__ == "__main__":
    run_main(main)
