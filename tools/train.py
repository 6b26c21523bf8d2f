"""Train a detector: python tools/train.py configs/sim.yaml [train.epochs=3 ...] [--out FOLDER] [--resume].

On several GPUs or machines: torchrun --nproc-per-node=8 tools/train.py configs/sim.yaml.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve the loader's workers

from perception.cli.options import add_device_option, run_main
from perception.config import load_config
from perception.device import checked_device


def main() -> int:
    parser = argparse.ArgumentParser(description="Train a detector. Ctrl-C saves the state, --resume continues.")
    parser.add_argument("config", help="YAML file, such as configs/sim.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.epochs=3")
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/ and the name of the config)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    add_device_option(parser)
    args = parser.parse_intermixed_args()

    config = load_config(args.config, args.overrides)
    out = args.out or Path("runs") / Path(args.config).stem
    from perception.files import check_writable  # takes seconds; a mistyped key should not
    from perception.train.trainer import train

    check_writable(out / "log.jsonl")
    return 0 if train(config, out, args.resume, checked_device(args.device)) else 130


if __name__ == "__main__":
    run_main(main)
