"""How well a small network tells simulated drives from recorded ones, sensor by sensor.

    python tools/measure_realism.py --real $PERCEPTION_DATA/nuscenes_scene_0523 --sim data/town data/street

An accuracy of 0.5 is chance, of 1 that every patch gives itself away. Keyframes of the recording are enough.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from perception.cli.options import names, run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, metavar="ROOT", help="nuScenes folder")
    parser.add_argument("--sim", required=True, nargs="+", metavar="ROOT", help="folders written by tools/simulate.py")
    parser.add_argument("--sensors", type=names, default=("lidar", "radar", "camera"), help="some of them")
    parser.add_argument("--steps", type=int, default=600, help="of the training of each network; default: 600")
    parser.add_argument("--seeds", type=int, default=3, help="networks for each figure; default: 3")
    parser.add_argument("--json", type=Path, help="where the figures go")
    args = parser.parse_args()

    import perception
    from benchmarks.realism import IMAGE_SIZE, told_apart
    from perception.files import check_writable, write_json

    if args.json is not None:
        check_writable(args.json)
    sources = {root: perception.NuScenes(root, image_size=IMAGE_SIZE, lidar_sweeps=1, radar_sweeps=1)
               for root in (args.real, *args.sim)}  # fmt: skip
    rows = []
    for root in args.sim:
        for sensor in args.sensors:
            for seed in range(args.seeds):
                found = told_apart(sources[args.real], sources[root], sensor, args.steps, seed)
                rows.append({"simulated": Path(root).name, "sensor": sensor, "seed": seed, **found})
                print(f"{Path(root).name:12} {sensor:7} seed {seed}: accuracy {found['accuracy']:.3f}, "
                      f"area under ROC {found['auc']:.3f}", flush=True)  # fmt: skip
    if args.json is not None:
        write_json(args.json, rows)


if __name__ == "__main__":
    run_main(main)
