"""Cut the annotated objects out of the drives of a config, for training to paste into other frames.

    perception objects nuscenes --out data/nuscenes.objects
    perception train nuscenes data.objects=data/nuscenes.objects 'augment.paste={bus: 4, trailer: 6, bicycle: 6}'

An object is its box, the points of all sensors on it, and its part of every image, at the size that training uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="YAML file, or the name of a shipped one, such as nuscenes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.root=data/own")
    parser.add_argument("--out", type=Path, required=True, help="file of the objects")


def run(args: argparse.Namespace) -> None:
    import numpy as np
    from tqdm import tqdm

    from perception.batch import InputSpec
    from perception.config import load_config
    from perception.files import check_writable, writing
    from perception.train.batches import training_image_size
    from perception.train.cache import reduced
    from perception.train.objects import write_bank
    from perception.train.source import image_sizes, training_frames

    config = load_config(args.config, args.overrides)
    check_writable(args.out)
    frames = training_frames(config, InputSpec((), image_sizes(config)).covering)
    sizes = {name: training_image_size(size, config.augment) for name, size in image_sizes(config).items()}
    read = (frames[index] for index in tqdm(range(len(frames)), unit="frame", disable=not args.progress))
    small = (reduced(frame, sizes) for frame in read if frame is not None)
    with writing(args.out):
        bank = write_bank(args.out, config.task.classes, small)
    counts = np.bincount(bank.boxes.label, minlength=len(bank.classes))
    for name, count in zip(bank.classes, counts.tolist()):
        print(f"{name:24} {count:8}")
    print(f"{args.out}: {len(bank)} objects, {args.out.stat().st_size / 1e6:.1f} MB")
