"""``python -m perception`` is the command ``perception``, and the scripts in ``tools/`` are its subcommands."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process without a traceback, until ``main`` handles it

from perception.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
