"""Calibrate a checkpoint's scores on one set of drives, and report on another how good they and the classes are.

    python tools/calibrate.py --checkpoint runs/sim --fit data/sim-dev
    python tools/calibrate.py --checkpoint runs/sim --report data/drives/1000 --json docs/results/classification.json

--fit changes the checkpoint's model.safetensors: one slope and one offset for each set of sensors.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

import perception
from perception.cli.options import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, or the name of a shipped checkpoint")
    parser.add_argument("--fit", metavar="ROOT", help="annotated drives in the nuScenes layout to calibrate on")
    parser.add_argument("--report", metavar="ROOT", help="annotated drives in the nuScenes layout to report on")
    parser.add_argument("--json", type=Path, help="where the report goes")
    args = parser.parse_args()
    if bool(args.report) != bool(args.json) or not (args.fit or args.report):
        parser.error("--fit ROOT, or --report ROOT with --json FILE, or both were expected")

    from perception.data.nuscenes import open_source
    from perception.eval.calibration import calibrate, classification_report, match_all
    from perception.files import check_writable, write_json
    from perception.model.detector import find_checkpoint, weights_sha256
    from perception.sample import sensor_sets

    if args.json:
        check_writable(args.json)
    detector = perception.load(args.checkpoint)
    image_size = detector.inputs.covering
    if args.fit:
        drives = open_source(args.fit, detector.config, image_size=image_size)
        for name, (slope, offset) in calibrate(detector, drives).items():
            print(f"{name:20} slope {slope:.3f} offset {offset:+.3f}")
        detector.save(find_checkpoint(args.checkpoint))
    if args.report:
        drives = open_source(args.report, detector.config, image_size=image_size)
        report = classification_report(match_all(detector, drives, sensor_sets(detector.sensors)), detector.task)
        write_json(args.json, {"weights_sha256": weights_sha256(args.checkpoint), "subsets": report})
        for name, metrics in report.items():
            error = "no detection" if metrics["ECE"] is None else f"expected calibration error {metrics['ECE']:.4f}"
            print(f"{name:20} {error}")


if __name__ == "__main__":
    run_main(main)
