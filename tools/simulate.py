"""Write simulated drives in the nuScenes layout: six cameras, a LiDAR, five radars, all ten detection classes."""

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from perception.cli.options import run_main
from perception.sim import simulate


def image_size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"WIDTHxHEIGHT expected, as 800x450, found {text!r}")
    return int(width), int(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; the same command again resumes")
    parser.add_argument("--scenes", type=int, default=4, metavar="N", help="number of scenes")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="length of a scene; 2 keyframes a second"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="same seed, same bytes")
    parser.add_argument(
        "--image-size", type=image_size, default=(800, 450), metavar="WxH", help="pixels of the written images"
    )
    parser.add_argument("--weather", default="day,night,rain,fog", metavar="LIST", help="weathers, taken in turn")
    parser.add_argument("--version", default="v1.0-sim", help="name of the folder with the tables")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; one a core when not given")
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier simulation in DIR first")
    arguments = parser.parse_args()
    simulate(
        arguments.out,
        arguments.scenes,
        arguments.seconds,
        arguments.seed,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
        progress=True,
        image_size=arguments.image_size,
        weather=tuple(arguments.weather.split(",")),
        version=arguments.version,
    )


if __name__ == "__main__":
    run_main(main)
