"""The command line ``perception``: one module per command, imported only when the command is run."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from perception import __version__
from perception.cli.options import add_verbosity_options, run_main, set_verbosity
from perception.signals import held

COMMANDS = {
    "train": "train a detector from a config",
    "pretrain": "pretrain the encoders of a config on frames without boxes",
    "objects": "cut the objects out of annotated drives, for training to paste",
    "shard": "write the frames of drives in a few large files, for training at scale",
    "runs": "compare training runs: configs, curves and scores",
    "import-weights": "turn published weights of other projects into a checkpoint",
    "push": "upload a checkpoint to a Hugging Face hub",
    "export": "export a detector to ONNX, torch.export or AOTInductor, and compare it with the detector",
    "evaluate": "score a detector with the nuScenes metric, for one set of sensors or all",
    "replay": "run a detector over logged drives: detections, tracks, video, Rerun and Foxglove files",
    "info": "show what a log contains, diagnose it, and write a rig file for it",
    "convert": "convert a log to MCAP or to a ROS 2 bag, and logs or data sets to the nuScenes layout",
    "ros2": "run a detector as a ROS 2 lifecycle node",
    "compare": "compare two replays of the same drive, box by box",
    "simulate": "write simulated drives in the nuScenes layout",
    "score": "score a submission file of any detector",
    "calibrate": "calibrate a detector's scores, or report calibration errors and class confusion",
    "demo": "simulate a short drive, run the detector, score it and make a video",
}
_OF_REPLAY = ("info", "convert", "compare")  # "perception replay info" is "perception info"


def main(command: str | None = None) -> None:
    """Run the command line in ``sys.argv`` and exit; ``command`` is prepended if given."""
    run_main(lambda: run([*([command] if command else []), *sys.argv[1:]]))


def run(arguments: Sequence[str]) -> int | None:
    """Run a command line (without the program name); returns the exit code, None for 0.

    Raises:
        PerceptionError: bad input.
        SystemExit: after ``--help``, ``--version`` or invalid arguments.
    """
    outer = _parser().parse_args(arguments)
    name, rest = outer.command, outer.arguments
    if name == "replay" and rest and rest[0] in _OF_REPLAY:
        name, *rest = rest
    module = importlib.import_module(f"perception.cli.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"perception {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    add_verbosity_options(parser)
    with held():  # argparse would end with an exception of its own
        args = parser.parse_intermixed_args(rest)
    args.progress = set_verbosity(args.verbosity or outer.verbosity)
    return module.run(args)


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<14} {what}" for name, what in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="perception",
        description="Multi-sensor 3D detection: camera, radar and LiDAR in, 3D boxes out.",
        epilog="\n".join(["commands:", *lines, "", "perception COMMAND --help shows the options of a command."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    parser.add_argument("--version", action="version", version=f"perception {__version__}")
    add_verbosity_options(parser)
    return parser
