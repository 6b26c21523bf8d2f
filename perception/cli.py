"""What every command-line tool shares: a log format, and errors that fit on one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from perception.errors import PerceptionError


def run_main(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit with what it returns (None is 0).

    A PerceptionError becomes one line ``error: ...`` on stderr and exit code 2, Ctrl-C one line and 130, a reader that
    closed the pipe (``tool | head``) a silent 1. Anything else is a bug of ours and keeps its traceback.
    """
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
    sys.exit(code)
