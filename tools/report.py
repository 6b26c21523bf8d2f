"""Renew the tables of a document from files that tools/evaluate.py wrote.

    python tools/report.py docs/results/sim.json docs/results/scene.json --into docs/results.md

The tables of NAME.json go between the lines <!-- NAME --> and <!-- end -->.
"""

import argparse
from pathlib import Path

from perception.cli import run_main
from perception.report import put_between_markers, scores_tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", nargs="+", type=Path, help="files written by tools/evaluate.py --json")
    parser.add_argument("--into", required=True, type=Path, help="the document")
    args = parser.parse_args()
    for path in args.scores:
        put_between_markers(args.into, scores_tables(path), path.stem)


if __name__ == "__main__":
    run_main(main)
