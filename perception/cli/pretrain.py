"""Pretrain the encoders of a config without labels: every sensor learns where LiDAR points are.

    perception pretrain nuscenes data.root=data/own data.version=null data.split=null --out runs/own_pretrained
    perception train nuscenes train.init=runs/own_pretrained

Frames need no boxes; without version and split they are all of the folder. Ctrl-C saves the state; --resume continues.
Several GPUs: torchrun, as for training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.cli.options import add_device_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file, or the name of a shipped one, such as nuscenes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.epochs=3")
    parser.add_argument("--out", type=Path, required=True, help="output folder, for train.init")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    from perception.config import load_config
    from perception.device import checked_device
    from perception.files import check_writable

    config = load_config(args.config, args.overrides)
    check_writable(args.out / "log.jsonl")
    device = checked_device(args.device)

    from perception.train.run import pretrain  # takes seconds; config errors should show at once

    return 0 if pretrain(config, args.out, args.resume, device) else 130
