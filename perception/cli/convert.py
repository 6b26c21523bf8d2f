"""Convert a log to another format: every message that can be decoded, exactly; what is left out is named.

    perception convert drive.mcap --to ros2 --out drive_bag
    perception convert data/kitti --to nuscenes --out data/kitti-nuscenes

Annotated data sets (Astyx HiRes2019, KITTI, View-of-Delft) become folders in the nuScenes layout; docs/own-data.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from perception.cli.options import add_log_options, add_merge_option
from perception.errors import PerceptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", help="nuScenes folder, .mcap file, ROS bag, data set")
    add_merge_option(parser)
    add_log_options(parser)
    parser.add_argument(
        "--to",
        required=True,
        choices=("mcap", "ros2", "nuscenes"),
        help="MCAP, in the layout of Foxglove's nuScenes converter; a ROS 2 bag; of a data set, nuScenes' layout",
    )
    parser.add_argument("--out", required=True, type=Path, help="the .mcap file, or the folder")
    parser.add_argument("--storage", choices=("sqlite3", "mcap"), default="sqlite3", help="of a bag; default: sqlite3")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="repeat the drive N times")
    parser.add_argument("--skip-damaged", action="store_true", help="skip data that cannot be read")


def run(args: argparse.Namespace) -> None:
    if len(args.logs) > 1 and not args.merge:
        raise PerceptionError(f"one log, or --merge, was expected, found {len(args.logs)}")
    if args.to == "nuscenes":
        return _to_nuscenes(args)
    from tqdm import tqdm

    from perception.logs.convert import convert
    from perception.logs.log import open_log
    from perception.logs.mcap_writer import McapLogWriter
    from perception.logs.rosbag_writer import RosbagWriter

    options = {"version": args.version, "scene": args.scene, "limits": args.limits}
    with open_log(args.logs, strict=not args.skip_damaged, **options) as log:
        writer = McapLogWriter(args.out) if args.to == "mcap" else RosbagWriter(args.out, args.storage)
        total = args.repeat * sum(topic.count or 0 for topic in log.topics.values() if topic.kind)
        with writer, tqdm(desc="convert", unit="msg", total=total or None, disable=not args.progress) as bar:
            counts = convert(log, writer, repeat=args.repeat, progress=bar.update)
    for topic, count in sorted(counts.items()):
        print(f"{count:8d}  {topic}")
    print(args.out)


def _to_nuscenes(args: argparse.Namespace) -> None:
    given = {"--merge": args.merge, "--scene": args.scene, "--repeat": args.repeat != 1}
    for option in (name for name, value in given.items() if value):
        raise PerceptionError(f"{option}: is for logs, not for a data set that becomes nuScenes'")
    from collections import Counter

    from tqdm import tqdm

    from perception.data.layouts import find_layout, splits_of
    from perception.data.nuscenes_files import DataError
    from perception.data.nuscenes_writer import NuScenesWriter
    from perception.task import CLASSES

    layout = find_layout(Path(args.logs[0]).expanduser())
    frames, counts, damaged = layout.open(Path(args.logs[0]), layout.task), Counter[str](), 0
    with NuScenesWriter(args.out, args.version or "v1.0-own", splits=splits_of(frames)) as writer:
        for index in tqdm(range(len(frames)), desc="convert", unit="frame", disable=not args.progress):
            try:
                frame = frames[index]
            except DataError:
                if not args.skip_damaged:
                    raise
                frame = None
            if frame is None or frame.boxes is None:
                damaged += 1
                continue
            writer.add(frame)
            counts.update(CLASSES[label] for label in frame.boxes.label.tolist())
    for name in CLASSES:
        print(f"{counts[name]:8d}  {name}")
    print(f"{args.out}: {len(frames) - damaged} frames of {layout.name}, {damaged} damaged ones left out")
