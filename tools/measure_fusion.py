"""What each fusion block costs at the size of a config: parameters, GFLOP, milliseconds, memory.

python tools/measure_fusion.py --config configs/sim.yaml --json docs/results/cost.json
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from perception.cli.options import run_main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/sim.yaml", help="whose grid and channels")
    parser.add_argument("--json", required=True, type=Path, help="where the rows go")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each block, interleaved")
    args = parser.parse_args()

    from benchmarks.cost import fusion_costs
    from perception.config import load_config
    from perception.files import check_writable, write_json
    from perception.grid import BEVGrid

    check_writable(args.json)
    config = load_config(args.config)
    rows = fusion_costs(config.fusion, BEVGrid(**vars(config.grid)), tuple(config.encoders), args.repeats)
    for row in rows:
        print(f"{row['fusion']:32}" + " ".join(f"{k} {v:,.2f}" for k, v in row.items() if k != "fusion"))
    write_json(args.json, rows)


if __name__ == "__main__":
    run_main(main)
