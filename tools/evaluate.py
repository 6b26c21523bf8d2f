"""Score a checkpoint with the nuScenes detection metric, for one set of sensors or for all seven.

    python tools/evaluate.py --checkpoint sim --root data/sim --all-subsets --json out/sim.json

The resolved config of the checkpoint is saved beside the figures, as out/sim.config.yaml."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

import perception
from perception.cli.options import add_device_option, names, run_main
from perception.device import checked_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, or the name of a shipped checkpoint")
    parser.add_argument("--root", required=True, help="folder in the nuScenes layout")
    parser.add_argument("--version", help="such as v1.0-mini; may be left out where the root holds one")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", help="such as mini_val")
    which.add_argument("--scenes", type=names, help="such as scene-0103,scene-0916")
    parser.add_argument("--part", type=float, nargs=2, default=(0.0, 1.0), metavar=("FROM", "TO"), help="of each scene")
    sensors = parser.add_mutually_exclusive_group()
    sensors.add_argument(
        "--sensors", type=names, default=("camera", "radar", "lidar"), help="some of camera,radar,lidar"
    )
    sensors.add_argument("--all-subsets", action="store_true", help="each of the seven sets of sensors")
    parser.add_argument("--json", required=True, type=Path, help="where the figures go")
    parser.add_argument("--results", type=Path, help="folder that keeps the submissions")
    parser.add_argument("--official", action="store_true", help="let nuscenes-devkit compute the figures")
    parser.add_argument("--skip-damaged", action="store_true", help="leave out and count frames that cannot be read")
    add_device_option(parser)
    args = parser.parse_args()

    from perception.config import save_config  # imports that take seconds: after --help
    from perception.data.nuscenes import open_source
    from perception.eval.evaluate import ALL_SUBSETS, breakdown_table, evaluate_subsets, table
    from perception.files import check_writable, write_json
    from perception.model.detector import weights_sha256

    check_writable(args.json)
    check_writable(args.json.with_suffix(".config.yaml"))
    detector = perception.load(args.checkpoint, device=checked_device(args.device))
    policy, size = "skip" if args.skip_damaged else "raise", detector.inputs.covering
    chosen = {"split": args.split, "scenes": args.scenes, "on_error": policy, "part": args.part, "image_size": size}
    dataset = open_source(args.root, detector.config, args.version, **chosen)
    report = {"checkpoint": args.checkpoint, "weights_sha256": weights_sha256(args.checkpoint)}
    report |= {"version": dataset.version, "scenes": list(dataset.scenes)}
    subsets = ALL_SUBSETS if args.all_subsets else [args.sensors]
    report |= evaluate_subsets(detector, dataset, subsets, args.results, args.official)
    print(table(report), breakdown_table(report), sep="\n\n")
    write_json(args.json, report)
    save_config(detector.config, args.json.with_suffix(".config.yaml"))


if __name__ == "__main__":
    run_main(main)
