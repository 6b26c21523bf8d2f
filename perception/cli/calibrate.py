"""Calibrate a checkpoint's scores on one set of drives, and report calibration and class confusion on another.

    perception calibrate --checkpoint runs/sim --fit data/sim-dev
    perception calibrate --checkpoint sim --fit data/own --out runs/own
    perception calibrate --checkpoint runs/sim --report data/drives/1000 --json docs/results/classification.json

--fit adds a slope and an offset for each set of sensors to the checkpoint's weights, or writes a calibrated copy of it
to --out. A shipped checkpoint is never changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import perception
from perception.cli.options import add_device_option
from perception.errors import PerceptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="folder, shipped name, or hf://owner/name[@revision]")
    parser.add_argument("--fit", metavar="ROOT", help="annotated drives in the nuScenes layout to calibrate on")
    parser.add_argument("--out", type=Path, help="folder for the calibrated checkpoint; default: that of --checkpoint")
    parser.add_argument("--report", metavar="ROOT", help="annotated drives in the nuScenes layout to report on")
    parser.add_argument("--json", type=Path, help="file for the report")
    add_device_option(parser)


def run(args: argparse.Namespace) -> None:
    if bool(args.report) != bool(args.json) or not (args.fit or args.report):
        raise PerceptionError("--fit ROOT, or --report ROOT with --json FILE, or both were expected")
    if args.out and not args.fit:
        raise PerceptionError("--out: is for what --fit makes, which was expected, too")

    from perception.data.opening import open_source
    from perception.device import checked_device
    from perception.eval.calibration import calibrate, classification_report, match_all
    from perception.eval.truth import EvaluationError
    from perception.files import check_writable, write_json
    from perception.model.checkpoint import find_checkpoint, is_shipped, weights_sha256
    from perception.model.hub import is_on_hub
    from perception.sample import sensor_sets

    checkpoint = args.checkpoint
    if args.json:
        check_writable(args.json)
    if args.fit:
        checkpoint = args.out or find_checkpoint(args.checkpoint)
        if not args.out and is_on_hub(args.checkpoint):
            raise PerceptionError(
                f"--out: a folder was expected, for '{args.checkpoint}' stays as it is on this machine"
            )
        if is_shipped(checkpoint):
            raise PerceptionError(
                f"--out: a folder was expected, for the shipped checkpoint '{checkpoint.name}' stays as it is"
            )
        check_writable(checkpoint / "model.safetensors")
    detector = perception.load(args.checkpoint, device=checked_device(args.device))
    config, image_size = detector.config, detector.inputs.covering
    if args.fit:
        drives = open_source(args.fit, config, image_size=image_size)
        for name, (slope, offset) in calibrate(detector, drives).items():
            print(f"{name:20} slope {slope:.3f} offset {offset:+.3f}")
        detector.save(checkpoint)
        print(f"calibrated checkpoint: {checkpoint}")
    if args.report:
        drives = open_source(args.report, config, image_size=image_size)
        matches = match_all(detector, drives, sensor_sets(detector.sensors))
        if not any(len(m.truth) for m in matches.values()):
            raise EvaluationError(
                f"{args.report}: detections or annotated boxes were expected to report on, found none"
            )
        report = classification_report(matches, detector.task)
        write_json(args.json, {"weights_sha256": weights_sha256(checkpoint), "subsets": report})
        for name, metrics in report.items():
            error = "no detection" if metrics["ECE"] is None else f"expected calibration error {metrics['ECE']:.4f}"
            print(f"{name:20} {error}")
