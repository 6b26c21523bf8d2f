"""Shared by all commands: common options, logging, and error handling."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable

from perception.device import is_out_of_memory, keep_memory
from perception.errors import PerceptionError
from perception.signals import exit_code, raise_on_signals

log = logging.getLogger("perception")


def run_main(main: Callable[[], int | None], keeps_memory: bool = True) -> None:
    """Run ``main`` and exit with its return value (None is 0).

    A PerceptionError, and a fault of the machine such as a full disk or a lack of memory, prints one line
    ``error: ...`` to stderr and gives exit code 2; Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 print one line and give
    128 plus the number of the signal; a closed pipe (``tool | head``) silently gives 1. Any other exception is a bug
    and keeps its traceback.

    Args:
        main: must not import torch before it is called.
        keeps_memory: see :func:`perception.device.keep_memory`.
    """
    raise_on_signals()
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
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        code = exit_code(interrupt)
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        line = _of_the_machine(error)
        if line is None:
            raise
        log.debug("traceback:", exc_info=True)
        print(f"error: {line}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _of_the_machine(error: Exception) -> str | None:
    """The line for an error that is none of input or program; None for others."""
    if is_out_of_memory(error):
        return f"out of memory: {' '.join(str(error).split())[:300]}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
    ):
        return str(error.strerror)
    return None


def names(text: str) -> list[str]:
    """Argument type for comma-separated names, such as ``camera,radar``."""
    return [name.strip() for name in text.split(",")]


def add_merge_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--merge``, for several logs that are one drive."""
    parser.add_argument("--merge", action="store_true", help="the logs are recordings of one drive")


def add_transforms_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--exclude-transforms``, as :func:`perception.logs.log.open_log` takes them."""
    parser.add_argument(
        "--exclude-transforms",
        nargs="+",
        default=(),
        type=_transform,
        metavar="PARENT:CHILD",
        help="transforms to ignore, by their two frames, such as gps_map:base_link",
    )


def _transform(text: str) -> tuple[str, str]:
    parent, colon, child = text.partition(":")
    if not (parent and colon and child):
        raise argparse.ArgumentTypeError(f"PARENT:CHILD was expected, found {text!r}")
    return parent.removeprefix("/"), child.removeprefix("/")


def add_device_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--device``, to be validated with :func:`perception.device.checked_device`."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, a GPU such as cuda:0, or auto (default): a GPU if there is one"
    )


def add_verbosity_options(parser: argparse.ArgumentParser) -> None:
    """Add ``-q`` and ``-v``, for :func:`set_verbosity`."""
    group = parser.add_mutually_exclusive_group()
    for flags, level, text in (
        (("-q", "--quiet"), logging.WARNING, "results, warnings and errors only"),
        (("-v", "--verbose"), logging.DEBUG, "more log messages, and tracebacks of errors"),
    ):
        group.add_argument(*flags, dest="verbosity", action="store_const", const=level, help=text)


def set_verbosity(level: int | None) -> bool:
    """Set the log level, INFO by default; returns whether to show progress bars: on a terminal, unless quiet."""
    level = level or logging.INFO
    logging.getLogger().setLevel(max(level, logging.INFO))  # -v applies to this package only
    log.setLevel(level)
    progress = level < logging.WARNING and sys.stderr.isatty()
    if not progress:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported; worker processes inherit it
    return progress


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Add options that select nuScenes-layout frames: ``--root``, ``--version``, ``--split`` or ``--scenes``."""
    parser.add_argument("--root", required=True, help="folder in the nuScenes layout")
    parser.add_argument("--version", help="such as v1.0-mini; optional if the root has only one")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--split", help="such as mini_val")
    which.add_argument("--scenes", type=names, help="such as scene-0103,scene-0916")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add options on how to open one log."""
    parser.add_argument("--version", help="of a nuScenes folder, such as v1.0-mini; optional if it has only one")
    parser.add_argument("--scene", help="of a nuScenes folder; optional if it has only one")
    add_limits_option(parser)


def add_limits_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--limits``, as :func:`perception.logs.log.open_log` takes it."""
    help = "accept logs that ask for N times the memory and work that is allowed by default"
    parser.add_argument("--limits", type=float, default=1.0, metavar="N", help=help)
