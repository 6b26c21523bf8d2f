"""Train a detector. Ctrl-C saves the state; --resume continues, also a finished run with more train.epochs.

SIGTERM, SIGHUP and SIGUSR1 do as Ctrl-C does. The exit code is 130 when the state has been saved.

    perception train sim_single
    perception train my/config.yaml train.epochs=3 --out runs/short

On several GPUs or machines: torchrun --nproc-per-node=8 -m perception train nuscenes
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.cli.options import add_device_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file, or the name of a shipped one, such as sim")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.epochs=3")
    parser.add_argument("--out", type=Path, help="output folder; default: runs/NAME, NAME being that of the config")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    from perception.config import find_config, load_config
    from perception.device import checked_device
    from perception.files import check_writable

    config = load_config(args.config, args.overrides)
    out = args.out or Path("runs") / find_config(args.config).stem
    check_writable(out / "log.jsonl")
    device = checked_device(args.device)

    from perception.train.run import train  # takes seconds; config errors should show at once

    return 0 if train(config, out, args.resume, device) else 130
