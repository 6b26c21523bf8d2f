"""Score a submission (a results.json of any detector) with the nuScenes detection metric.

    perception score out/results.json --root data/nuscenes --version v1.0-trainval --split val
    perception score out/*/tracks.json --tracks --root data/drives/1000

Together the files must contain exactly the selected samples. Tracks are scored on the samples in the files, by the
devkit, which takes minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.cli.options import add_selection_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, nargs="+", help="submission files; for a fleet, one per log")
    add_selection_options(parser)
    parser.add_argument(
        "--tracks", action="store_true", help="score tracking submissions with the nuScenes tracking metric"
    )
    parser.add_argument(
        "--config", help="file or shipped name of the config that defines the task; default: the nuScenes classes"
    )
    parser.add_argument("--json", type=Path, help="file for the metrics")


def run(args: argparse.Namespace) -> None:
    from perception.config import load_config
    from perception.data.nuscenes import NuScenes
    from perception.eval.evaluate import breakdown_table, score_file, table
    from perception.eval.official_tracking import score_tracks
    from perception.eval.submission_reader import joined
    from perception.files import check_writable, write_json
    from perception.task import NUSCENES

    if args.json is not None:
        check_writable(args.json)
    task = NUSCENES if args.config is None else load_config(args.config).task
    dataset = NuScenes(args.root, args.version, split=args.split, scenes=args.scenes, task=task)
    with joined(args.results, len(dataset)) as results:
        metrics = score_tracks(dataset, results) if args.tracks else score_file(results, dataset)
    if args.tracks:
        print("\n".join(f"{name:<8} {value}" for name, value in metrics.items() if name != "classes"))
    else:
        report = {"subsets": {args.results[0].stem: metrics}, "frames": len(dataset), "skipped": 0, "frames_with": {}}
        print(table(report), breakdown_table(report), sep="\n\n")
    if args.json is not None:
        write_json(args.json, metrics)
