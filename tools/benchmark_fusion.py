"""Score a checkpoint under every condition: missing sensors, silent faults, MultiCorrupt, wrong extrinsics, bad radar.

    python tools/benchmark_fusion.py --checkpoint sim --json docs/results.json
    python tools/benchmark_fusion.py --checkpoint sim --seed 7 --conditions clean 'mc:*' --json out/fresh.json

The drives of a seed are simulated once, into --drives. Rows are added to the JSON file; rows of the same run, fusion
block, condition, severity and seeds are replaced. Conditions and columns: tools/benchmarks/conditions.py and
tools/benchmarks/robustness.py.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from perception.cli.options import run_main
from perception.errors import PerceptionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, shipped name, or hf://owner/name[@revision]")
    parser.add_argument("--json", required=True, type=Path, help="file of rows to add to")
    parser.add_argument("--run", choices=("shipped", "ablation"), default="shipped", help="what the rows say they are")
    parser.add_argument("--seed", type=int, metavar="K", help="of the drives; default: the config's")
    parser.add_argument(
        "--conditions", nargs="+", default=["*"], metavar="PATTERN", help="such as clean 'only:*' mc:fog/3"
    )
    parser.add_argument("--config", type=Path, default=Path("configs/benchmark.yaml"), help="which drives")
    parser.add_argument("--drives", type=Path, default=Path("data/drives"), help="folder of simulated drives, by seed")
    parser.add_argument("--no-monitor", action="store_true", help="the detector alone, without perception.health")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; one a core when not given")
    args = parser.parse_args()

    from benchmarks.robustness import benchmark, chosen_conditions, load_drives, merge_rows, read_rows, table
    from perception.files import check_writable
    from perception.sim import simulate

    check_writable(args.json)
    read_rows(args.json)  # what cannot be added to is known before the work
    drives, conditions = load_drives(args.config), chosen_conditions(args.conditions)
    seed = drives.seed if args.seed is None else args.seed
    if seed == drives.calibration_seed:
        raise PerceptionError(f"--seed: {seed} is what checkpoints are calibrated on; any other was expected")
    root = args.drives / str(seed)
    weather = tuple(drives.weather)
    simulate(root, drives.scenes, drives.seconds, seed, weather=weather, progress=True, world=drives.world)
    rows = benchmark(args.checkpoint, root, conditions, args.run, seed, not args.no_monitor, args.workers)
    merge_rows(args.json, rows)
    print(table(rows))


if __name__ == "__main__":
    run_main(main)
