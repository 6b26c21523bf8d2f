"""The one family of exceptions that bad input raises, and what is said about packages that are not installed."""

from pathlib import Path


class PerceptionError(Exception):
    """Base of every error on bad input: one line that names the file or key, what was expected and what was found."""


def missing_extra(extra: str, message: str) -> str:
    """``message`` and the command that installs an extra: into a checkout as well as beside an installed wheel."""
    checkout = (Path(__file__).parents[1] / "pyproject.toml").is_file()
    command = "pip install " + (f'-e ".[{extra}]"' if checkout else f'"perception-bev[{extra}]"')
    if extra == "nuscenes":
        command += " && pip install --no-deps nuscenes-devkit"  # whose dependencies contradict ours
    return f"{message}: {command}"
