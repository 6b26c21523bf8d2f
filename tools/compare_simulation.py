"""Compare simulated drives with recorded ones: prints Markdown tables, or renews them in a document."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.report import put_between_markers
from perception.cli.options import run_main
from perception.sim.compare import comparison, heading_shares, track_headings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", required=True, metavar="ROOT", help="nuScenes folder; keyframes are enough")
    parser.add_argument("--sim", required=True, metavar="ROOT", help="folder written by tools/simulate.py")
    parser.add_argument("--into", metavar="FILE", help="put the tables between the markers of this document")
    parser.add_argument("--marker", default="generated", metavar="NAME", help="which markers there; default: generated")
    parser.add_argument(
        "--tracks", nargs="*", default=[], metavar="FILE", help="print headings in files of tracks, too"
    )
    arguments = parser.parse_args()
    for path in arguments.tracks:
        for name, angles in sorted(track_headings(path).items()):
            print(f"{path}: {name}: {len(angles)} along / aslant / across: {heading_shares(angles)}")
    tables = comparison(arguments.real, arguments.sim)
    if arguments.into:
        put_between_markers(Path(arguments.into), tables, arguments.marker)
    else:
        print(tables)


if __name__ == "__main__":
    run_main(main)
