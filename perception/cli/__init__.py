"""The command ``perception``: one module a command, imported only when that command is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from perception import __version__
from perception.cli.options import add_verbosity_options, run_main, set_verbosity

COMMANDS = {
    "train": "train a detector from a config",
    "evaluate": "score a detector with the nuScenes metric, for one set of sensors or for all",
    "replay": "run a detector over logged drives: detections, tracks, video, Rerun and Foxglove files",
    "info": "what is in a log, what is wrong with it, and a rig file for it",
    "convert": "a log to MCAP or to a ROS 2 bag",
    "compare": "two replays of the same drive, box by box",
    "simulate": "write simulated drives in the nuScenes layout",
    "score": "score a submission file of any detector",
    "calibrate": "calibrate a detector's scores, or report on them and on confused classes",
    "demo": "simulate a short drive, detect, score and film it",
}
_OF_REPLAY = ("info", "convert", "compare")  # "perception replay info" is "perception info"


def main(command: str | None = None) -> None:
    """Run the command line in ``sys.argv`` and exit; ``command`` is the first word where it is not in there."""
    run_main(lambda: run([*([command] if command else []), *sys.argv[1:]]))


def run(arguments: Sequence[str]) -> int | None:
    """Run a command line, without the name of the program; returns the exit code, None for 0.

    Raises:
        PerceptionError: bad input.
        SystemExit: after ``--help``, ``--version`` and arguments that argparse refuses.
    """
    outer = _parser().parse_args(arguments)
    name, rest = outer.command, outer.arguments
    if name == "replay" and rest and rest[0] in _OF_REPLAY:
        name, *rest = rest
    module = importlib.import_module(f"perception.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"perception {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    add_verbosity_options(parser)
    args = parser.parse_intermixed_args(rest)
    args.progress = set_verbosity(args.verbosity or outer.verbosity)
    return module.run(args)


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="perception",
        description="Multi-sensor 3D detection: camera, radar and LiDAR in, 3D boxes out.",
        epilog="\n".join(["commands:", *lines, "", "perception COMMAND --help says more about one of them."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="those of the command")
    parser.add_argument("--version", action="version", version=f"perception {__version__}")
    add_verbosity_options(parser)
    return parser
