"""Renew the tables and plots of a document from what the other tools wrote.

    python tools/report.py docs/results.json docs/results/*.json --into docs/results.md --plots docs/images

A file's tables go between the lines <!-- NAME --> and <!-- end --> of the document, where NAME is the file's; those of
tools/benchmark_fusion.py's rows go to <!-- shipped --> and <!-- ablation -->.
"""

import argparse
from pathlib import Path

from benchmarks.report import put_between_markers, sections
from perception.cli.options import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSON files written by other tools")
    parser.add_argument("--into", required=True, type=Path, help="the document")
    parser.add_argument("--plots", type=Path, help="folder of the plots")
    args = parser.parse_args()
    for path in args.files:
        for name, text in sections(path).items():
            put_between_markers(args.into, text, name)
    if args.plots:
        from benchmarks.plots import draw_plots

        for path in draw_plots(args.files, args.plots):
            print(path)


if __name__ == "__main__":
    run_main(main)
