"""The one family of exceptions that bad input raises, and what is said about packages that are not installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


class PerceptionError(Exception):
    """Base of every error on bad input: one line that names the file or key, what was expected and what was found."""


def require(name: str, value: Any, expected: str, holds: Callable[[Any], bool]) -> None:
    """Raise a PerceptionError unless ``holds(value)``; what ``holds`` cannot even look at does not hold."""
    try:
        right = holds(value)
    except (TypeError, ValueError):
        right = False
    if not right:
        raise PerceptionError(f"{name}: {expected} was expected, found {value!r:.80}")


def missing_extra(extra: str, message: str) -> str:
    """``message`` and the command that installs an extra: into a checkout as well as beside an installed wheel."""
    checkout = (Path(__file__).parents[1] / "pyproject.toml").is_file()
    command = "pip install " + (f'-e ".[{extra}]"' if checkout else f'"perception-bev[{extra}]"')
    if extra == "nuscenes":
        command += " && pip install --no-deps nuscenes-devkit"  # whose dependencies contradict ours
    return f"{message}: {command}"
