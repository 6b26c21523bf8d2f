"""Calibrate a checkpoint's scores on one set of drives, and report calibration and class confusion on another.

    perception calibrate --checkpoint runs/sim --fit data/sim-dev
    perception calibrate --checkpoint runs/sim --report data/drives/1000 --json docs/results/classification.json

--fit updates the checkpoint's model.safetensors with a slope and an offset for each set of sensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perception
from perception.cli.options import add_device_option
from perception.errors import PerceptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="folder, or the name of a shipped checkpoint")
    parser.add_argument("--fit", metavar="ROOT", help="annotated drives in the nuScenes layout to calibrate on")
    parser.add_argument("--report", metavar="ROOT", help="annotated drives in the nuScenes layout to report on")
    parser.add_argument("--json", type=Path, help="file for the report")
    add_device_option(parser)


def run(args: argparse.Namespace) -> None:
    if bool(args.report) != bool(args.json) or not (args.fit or args.report):
        raise PerceptionError("--fit ROOT, or --report ROOT with --json FILE, or both were expected")

    from perception.data.nuscenes import open_source
    from perception.device import checked_device
    from perception.eval.calibration import calibrate, classification_report, match_all
    from perception.files import check_writable, write_json
    from perception.model.detector import find_checkpoint, weights_sha256
    from perception.sample import sensor_sets

    if args.json:
        check_writable(args.json)
    detector = perception.load(args.checkpoint, device=checked_device(args.device))
    config, image_size = detector.config, detector.inputs.covering
    if args.fit:
        drives = open_source(args.fit, config, image_size=image_size)
        for name, (slope, offset) in calibrate(detector, drives).items():
            print(f"{name:20} slope {slope:.3f} offset {offset:+.3f}")
        detector.save(find_checkpoint(args.checkpoint))
    if args.report:
        drives = open_source(args.report, config, image_size=image_size)
        matches = match_all(detector, drives, sensor_sets(detector.sensors))
        report = classification_report(matches, detector.task)
        write_json(args.json, {"weights_sha256": weights_sha256(args.checkpoint), "subsets": report})
        for name, metrics in report.items():
            error = "no detection" if metrics["ECE"] is None else f"expected calibration error {metrics['ECE']:.4f}"
            print(f"{name:20} {error}")
