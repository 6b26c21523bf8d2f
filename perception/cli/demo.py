"""Simulate a short drive, score the detector with every set of sensors, and render a video with all sensors.

Writes to --out: the outputs of a replay (docs/replay.md), scores.json and, in the nuScenes layout, drive-8s/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perception
from perception.cli.options import add_device_option

SEED = 2000  # the shipped detector was trained on seeds below 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="output folder")
    parser.add_argument("--checkpoint", default="sim", help="folder, shipped name, or hf://owner/name[@revision]")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the drive")
    parser.add_argument("--overwrite", action="store_true", help="simulate the drive again")
    add_device_option(parser)


def run(args: argparse.Namespace) -> None:
    from perception.data.opening import open_source
    from perception.device import checked_device
    from perception.eval.evaluate import evaluate_subsets, table
    from perception.files import check_writable, write_json
    from perception.replay.latency import table as latency_table
    from perception.replay.pipeline import about_detector, replay
    from perception.sim import simulate

    check_writable(args.out / "scores.json")
    detector = perception.load(args.checkpoint, device=checked_device(args.device))
    folder = args.out / f"drive-{args.seconds:g}s"

    print(f"1/3 A drive of {args.seconds:g} s is simulated (kept from an earlier run if there is one)", flush=True)
    options = {"world": "street", "weather": ("day",), "progress": args.progress}
    simulate(folder, 1, args.seconds, SEED, overwrite=args.overwrite, **options)
    drive = open_source(folder, detector.config)

    print("2/3 Each set of sensors is scored with the nuScenes metric", flush=True)
    about = about_detector(detector, args.checkpoint)
    scores = evaluate_subsets(detector, drive)
    write_json(args.out / "scores.json", about | scores)
    print(table(scores))

    print("3/3 All sensors together are replayed", flush=True)
    summary = replay(detector, drive.frames(), args.out, total=len(drive), about=about, progress=args.progress)
    print(latency_table(summary["latency"]))

    for name in ("results.json", "replay.mp4", "replay.png", "summary.json", "scores.json"):
        print(args.out / name)
