"""Compare training runs: how far they came, their best scores, and what their configs differ in.

perception runs runs/nuscenes runs/nuscenes_no_paste --plot out/runs.png
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="FOLDER", help="output folder of a training, finished or not")
    parser.add_argument("--plot", type=Path, help="picture of the curves: loss, and NDS where it was validated")


def run(args: argparse.Namespace) -> None:
    from perception.files import check_writable
    from perception.train.runs import differences, plot, read_run, table

    if args.plot is not None:
        check_writable(args.plot)
    runs = [read_run(folder) for folder in args.runs]
    print(table(runs))
    if text := differences(runs):
        print(f"\n{text}")
    if args.plot is not None:
        plot(runs, args.plot)
        print(f"\n{args.plot}")
