"""Score a detector with the nuScenes detection metric, for one set of sensors or for all sets.

mAP_3D is the 3D average precision of KITTI, over the classes with ground truth, as mAP_present is.

    perception evaluate --checkpoint sim --root data/sim --all-subsets --json out/sim.json

The resolved config of the checkpoint is saved next to the metrics, as out/sim.config.yaml. GPUs share the frames:

    torchrun --nproc-per-node=8 -m perception evaluate --checkpoint runs/nuscenes --root data/nuscenes --split val

--root may also name a folder or a URL with shards, as perception shard writes them; bicycle racks are not in them.

Two checkpoints are told apart by --against: differences with intervals of a paired bootstrap. --flips trades time for
accuracy: left and right, front and back are exchanged as in training, and the detections joined.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

import perception
from perception.cli.options import add_device_option, add_selection_options, names
from perception.errors import PerceptionError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="folder, shipped name, or hf://owner/name[@revision]")
    add_selection_options(parser)
    parser.add_argument("--part", type=float, nargs=2, default=(0.0, 1.0), metavar=("FROM", "TO"), help="of each scene")
    sensors = parser.add_mutually_exclusive_group()
    sensors.add_argument("--sensors", type=names, help="such as camera,radar; default: all sensors of the detector")
    sensors.add_argument("--all-subsets", action="store_true", help="every set of the detector's sensors")
    parser.add_argument(
        "--against", metavar="CHECKPOINT", help="a second one: how far it differs, with 95 %% intervals"
    )
    parser.add_argument("--flips", action="store_true", help="join what is found in each frame and its mirror images")
    parser.add_argument("--json", type=Path, help="file for the metrics; the resolved config is saved next to it")
    parser.add_argument("--results", type=Path, help="folder for the submission files")
    parser.add_argument("--official", action="store_true", help="compute the metrics with nuscenes-devkit")
    parser.add_argument("--skip-damaged", action="store_true", help="skip and count frames that cannot be read")
    parser.add_argument("--workers", type=int, default=1, help="processes that read frames ahead; default: 1")
    add_device_option(parser)


def run(args: argparse.Namespace) -> None:
    from perception.files import check_writable
    from perception.processes import process_group

    if args.workers < 0:
        raise PerceptionError(f"--workers: 0 or more was expected, found {args.workers}")
    if args.against is not None and (args.sensors or args.all_subsets or args.results or args.official):
        raise PerceptionError("--against: is for all sensors, without --results and --official")
    if args.json is not None:
        check_writable(args.json)
        check_writable(args.json.with_suffix(".config.yaml"))
    with process_group(args.device) as device:
        _evaluate(args, str(device))


def _compare(args: argparse.Namespace, detector: Any, dataset: Any, device: str) -> None:
    from dataclasses import asdict

    from perception.eval.significance import DRAWS, compare_detectors, table
    from perception.files import write_json

    second = perception.load(args.against, device=device)
    if args.flips:
        detector, second = _flipping(args.checkpoint, detector), _flipping(args.against, second)
    differences, drawn = compare_detectors(detector, second, dataset, workers=args.workers)
    print(table(differences, args.checkpoint, args.against))
    print(f"{drawn}, drawn {DRAWS} times; all sensors")
    if args.json is not None:
        found = {  # JSON has no NaN
            name: {key: None if math.isnan(value) else value for key, value in asdict(difference).items()}
            for name, difference in differences.items()
        }
        write_json(args.json, {"first": args.checkpoint, "second": args.against, "drawn": drawn, "scores": found})


def _flipping(checkpoint: str, detector: Any) -> Any:
    from perception.eval.flips import Flipped, trained_flips

    if detector.config.imported:  # whose flips were those of the LiDAR's frame
        raise PerceptionError(f"--flips: {checkpoint}: a detector trained here was expected, found imported weights")
    flips = trained_flips(detector.config.augment)
    if len(flips) == 1:
        raise PerceptionError(f"--flips: {checkpoint}: a detector trained with augment.flip or flip_back was expected")
    return Flipped(detector, flips)


def _evaluate(args: argparse.Namespace, device: str) -> None:
    from perception.config import Config, save_config
    from perception.data.opening import open_source
    from perception.eval.evaluate import breakdown_table, evaluate_subsets, table
    from perception.files import write_json
    from perception.model.checkpoint import warn_of_simulation, weights_sha256
    from perception.processes import place

    detector = perception.load(args.checkpoint, device=device)
    policy, size = "skip" if args.skip_damaged else "raise", detector.inputs.covering
    chosen = {"split": args.split, "scenes": args.scenes, "on_error": policy, "part": args.part, "image_size": size}
    dataset = open_source(args.root, detector.config, args.version, **chosen)
    first = place()[0] == 0
    if first and not dataset.simulated:
        warn_of_simulation(args.checkpoint, str(args.root))
    absent = [name for name in Config().encoders if name not in detector.sensors]
    if first and args.all_subsets and absent:
        without = " and ".join(absent)
        log.info("%s: has no %s; only sets of %s are scored", args.checkpoint, without, ", ".join(detector.sensors))
    if args.against is not None:
        _compare(args, detector, dataset, device)
        return
    report = {"checkpoint": args.checkpoint, "weights_sha256": weights_sha256(args.checkpoint)}
    report |= {"version": dataset.version, "scenes": list(dataset.scenes)}
    subsets = None if args.all_subsets else [args.sensors or detector.sensors]
    report |= {"flips": args.flips}
    evaluated = _flipping(args.checkpoint, detector) if args.flips else detector
    report |= evaluate_subsets(evaluated, dataset, subsets, args.results, args.official, args.workers)
    if not first:
        return
    print(table(report), breakdown_table(report), sep="\n\n")
    if args.json is not None:
        write_json(args.json, report)
        save_config(detector.config, args.json.with_suffix(".config.yaml"))
