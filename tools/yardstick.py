"""The yardstick of detection in clouds: a plain raster network, trained by a config from scratch, scored elsewhere.

    python tools/yardstick.py scene_half data.root=ROOT --part 0.5 1 --steps 400 --json out/scene.json
    python tools/yardstick.py astyx data.root=ROOT --split score --minutes 13 --json out/astyx.json
    python tools/yardstick.py astyx data.root=ROOT --sensors lidar,radar --split score --steps 2224

The config says what it is trained on and how: task, grid, data, augment, and train but for its epochs. What our own
detector reaches with the same sensors by the same config and as many steps should be better.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from perception.cli.options import names, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file, or the name of a shipped one, such as astyx")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.seed=1 augment.rotate_deg=180")
    parser.add_argument("--sensors", type=names, default=["lidar"], help="lidar, radar or lidar,radar; default: lidar")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, help="how long to train, in steps of train.batch_size frames")
    budget.add_argument("--minutes", type=float, help="or in minutes")
    scored = parser.add_mutually_exclusive_group()
    scored.add_argument("--split", help="split of data.root to score on; default: the frames trained on")
    scored.add_argument("--part", type=float, nargs=2, metavar=("FROM", "TO"), help="part of each scene to score on")
    parser.add_argument("--json", type=Path, help="where the scores go")
    args = parser.parse_args()

    from benchmarks.raster import CHANNELS, measure
    from perception.config import load_config
    from perception.errors import require
    from perception.files import check_writable, write_json

    require("budget", args.steps or args.minutes, "more than 0", lambda budget: budget > 0)
    require(
        "--sensors",
        args.sensors,
        f"some of {', '.join(CHANNELS)}",
        lambda own: 0 < len(own) == len(set(own) & CHANNELS.keys()),
    )
    if args.json is not None:
        check_writable(args.json)
    config = load_config(args.config, args.overrides)
    report = measure(config, args.sensors, args.split, args.part, args.steps, args.minutes)
    (scores,) = report["subsets"].values()
    for name, ap in scores["AP"].items():
        print(f"{name:22} AP {ap:.4f}, AP_3D {scores['AP_3D'][name] or 0:.4f}")
    print(f"mAP over the classes present {scores['mAP_present'] or 0:.4f}, after {report['steps']} steps")
    if args.json is not None:
        write_json(args.json, {"config": args.config, "overrides": args.overrides, **report})


if __name__ == "__main__":
    run_main(main)
