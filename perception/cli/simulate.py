"""Write simulated drives in the nuScenes layout: six cameras, a LiDAR, five radars, all ten detection classes."""

from __future__ import annotations

import argparse

from perception.cli.options import names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="output folder; the same command resumes")
    parser.add_argument("--scenes", type=int, default=4, metavar="N", help="number of scenes; default: 4")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="length of a scene, with 2 keyframes per s; default: 5"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="same seed, same files; default: 0")
    parser.add_argument(
        "--image-size", type=_image_size, default="800x450", metavar="WxH", help="size of the images; default: 800x450"
    )
    parser.add_argument(
        "--weather",
        type=names,
        default="day,night,rain,fog",
        metavar="LIST",
        help="weather of the scenes, in turn; default: day,night,rain,fog",
    )
    parser.add_argument("--world", default="town", help="town, clean and orderly, or street, cluttered; default: town")
    parser.add_argument("--version", default="v1.0-sim", help="folder of the tables; default: v1.0-sim")
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes; default: one per core")
    parser.add_argument("--overwrite", action="store_true", help="first remove an existing simulation in DIR")


def run(args: argparse.Namespace) -> None:
    from perception.sim import simulate

    simulate(
        args.out,
        args.scenes,
        args.seconds,
        args.seed,
        overwrite=args.overwrite,
        workers=args.workers,
        progress=args.progress,
        image_size=args.image_size,
        weather=tuple(args.weather),
        version=args.version,
        world=args.world,
    )


def _image_size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"WIDTHxHEIGHT expected, as 800x450, found {text!r}")
    return int(width), int(height)
