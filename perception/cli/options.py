"""What the command-line tools share: options that mean the same everywhere, a log format, errors on one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from perception.device import keep_memory
from perception.errors import PerceptionError


def run_main(main: Callable[[], int | None], keeps_memory: bool = True) -> None:
    """Run ``main`` and exit with what it returns (None is 0).

    A PerceptionError becomes one line ``error: ...`` on stderr and exit code 2, and so does a file that the system
    refuses and nobody spoke about earlier; Ctrl-C one line and 130; a reader that closed the pipe (``tool | head``) a
    silent 1. Anything else is a bug of ours and keeps its traceback.

    Args:
        keeps_memory: see :func:`perception.device.keep_memory`.
    """
    if keeps_memory:
        keep_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        code = main()
        sys.stdout.flush()
    except PerceptionError as error:
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
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; default: auto, a GPU if there is one")
