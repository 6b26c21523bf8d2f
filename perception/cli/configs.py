"""Finds the configs shipped with the package by name."""

from __future__ import annotations

from pathlib import Path

import perception
from perception.config import ConfigError

_PACKAGE = Path(perception.__file__).parent


def find_config(name: str) -> Path:
    """The file of a config, given a path or a shipped name: ``sim``, ``sim.yaml`` or ``configs/sim.yaml``.

    Raises:
        ConfigError: no such config; the message lists the shipped names.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {path.stem: path for path in sorted(_folder().glob("*.yaml"))}
    try:
        return shipped[name.removeprefix("configs/").removesuffix(".yaml")]
    except KeyError:
        message = f"config '{name}': a YAML file, or a shipped name ({', '.join(shipped)}), was expected"
        raise ConfigError(message) from None


def _folder() -> Path:
    """The config folder: inside the package in a wheel, next to it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"
