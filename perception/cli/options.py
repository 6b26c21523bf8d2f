"""What the commands share: options that mean the same everywhere, a log format, errors on one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from perception.device import keep_memory
from perception.errors import PerceptionError

log = logging.getLogger("perception")


def run_main(main: Callable[[], int | None], keeps_memory: bool = True) -> None:
    """Run ``main`` and exit with what it returns (None is 0).

    A PerceptionError becomes one line ``error: ...`` on stderr and exit code 2, and so does a file that the system
    refuses and nobody spoke about earlier; Ctrl-C one line and 130; a reader that closed the pipe (``tool | head``) a
    silent 1. Anything else is a bug of ours and keeps its traceback.

    Args:
        main: imports torch, if at all, when it is called.
        keeps_memory: see :func:`perception.device.keep_memory`.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch: spinning threads stall a busy machine
    if keeps_memory:
        keep_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        code = main()
        sys.stdout.flush()
    except PerceptionError as error:
        log.debug("traceback:", exc_info=True)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit: give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {os.fsdecode(error.filename)}: {error.strerror}", file=sys.stderr)
        code = 2
    sys.exit(code)


def names(text: str) -> list[str]:
    """``type=names`` of an option that takes several: ``camera,radar``."""
    return [name.strip() for name in text.split(",")]


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """``--device``, whose value :func:`perception.device.checked_device` makes sense of."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or a GPU such as cuda:0; default: auto, a GPU if there is one"
    )


def add_verbosity_options(parser: argparse.ArgumentParser) -> None:
    """``-q`` and ``-v``, for :func:`set_verbosity`."""
    group = parser.add_mutually_exclusive_group()
    for flags, level, text in (
        (("-q", "--quiet"), logging.WARNING, "no progress, no notes: results, warnings and errors only"),
        (("-v", "--verbose"), logging.DEBUG, "more notes, and the traceback of an error"),
    ):
        group.add_argument(*flags, dest="verbosity", action="store_const", const=level, help=text)


def set_verbosity(level: int | None) -> bool:
    """Log from this level on, INFO by default; returns whether progress is to be shown."""
    level = level or logging.INFO
    logging.getLogger().setLevel(max(level, logging.INFO))  # other packages have no say in -v
    log.setLevel(level)
    progress = level < logging.WARNING
    if not progress:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported; worker processes inherit it
    return progress


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Which frames of a folder in the nuScenes layout: ``--root``, ``--version``, ``--split`` or ``--scenes``."""
    parser.add_argument("--root", required=True, help="folder in the nuScenes layout")
    parser.add_argument("--version", help="such as v1.0-mini; may be left out where the root holds one")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", help="such as mini_val")
    which.add_argument("--scenes", type=names, help="such as scene-0103,scene-0916")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Which scene of a nuScenes folder, where a log is one."""
    parser.add_argument("--version", help="of a nuScenes folder, such as v1.0-mini; may be left out if it holds one")
    parser.add_argument("--scene", help="of a nuScenes folder; may be left out if it holds one")
