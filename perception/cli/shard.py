"""Write the frames of drives in shards: a few large files instead of dozens of small ones a frame.

    perception shard data/nuscenes --config nuscenes --out s3://bucket/nuscenes
    perception train nuscenes data.root=s3://bucket/nuscenes

The config says which classes, sweeps and scenes; with data.split=null all scenes are written, and training selects. Run
again after an interruption, the command goes on where it was.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="folder with drives, as data.root names one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.split=null")
    parser.add_argument("--out", required=True, metavar="URL", help="folder, or URL that fsspec can write to")
    parser.add_argument("--config", help="YAML file, or the name of a shipped one, such as nuscenes")
    parser.add_argument("--shard-mb", type=float, default=256.0, help="size of a shard; default: 256")
    parser.add_argument(
        "--lidar-step-mm", type=float, default=0.5, help="that LiDAR points are kept to, 0 for all digits; default: 0.5"
    )


def run(args: argparse.Namespace) -> None:
    from pathlib import Path

    from tqdm import tqdm

    from perception.config import load_config
    from perception.data.opening import open_source, shard_contents
    from perception.data.shard_writer import write_shards
    from perception.data.stores import is_url
    from perception.errors import require

    require("--shard-mb", args.shard_mb, "from 0.01 to 4096", lambda mb: 0.01 <= mb <= 4096)
    require("--lidar-step-mm", args.lidar_step_mm, "from 0 to 100", lambda mm: 0 <= mm <= 100)
    out = args.out if is_url(args.out) else str(Path(args.out).expanduser())
    config = load_config(args.config, [*args.overrides, f"data.root={args.root}"])
    data = config.data
    scenes = list(data.scenes) or None
    chosen = {"split": data.split, "scenes": scenes, "on_error": data.on_error}
    frames = open_source(data.root, config, data.version, part=data.part, **chosen)
    contents = shard_contents(frames, config, 1e-3 * args.lidar_step_mm)
    with tqdm(total=len(frames), desc="shard", unit="frame", disable=not args.progress) as bar:
        index = write_shards(frames, out, contents, int(1e6 * args.shard_mb), bar.update)
    number = sum(len(shard.frames) for shard in index.shards)
    size = sum(shard.size for shard in index.shards)
    print(f"{number} frames in {len(index.shards)} shards, {size / 1e6:.1f} MB, {size / number / 1e6:.3f} MB a frame")
    if number < len(frames):
        print(f"{len(frames) - number} damaged frames left out")
    print(out)
