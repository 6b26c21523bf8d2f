"""Configuration: the dataclasses of ``perception.schema`` have all defaults; a YAML file lists only the differences.

``load_config("configs/sim.yaml", ["train.epochs=3"])`` merges the defaults, the file and the dotted overrides, in this
order. Unknown keys (the message names the closest valid one) and values of the wrong type are errors. Texts stay as
they are written: ``version: 1.10`` is "1.10" (``perception.plain_yaml``).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from perception.files import write_file
from perception.plain_yaml import ConfigError, dump_yaml, literal, parse_yaml, read_yaml, resolved_references
from perception.schema import (
    ENCODERS,
    AugmentConfig,
    CameraConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    FusionConfig,
    GridConfig,
    HeadConfig,
    ImportedConfig,
    LidarConfig,
    RadarConfig,
    TrainConfig,
    ValidationConfig,
    VoxelConfig,
    check_config,
)
from perception.signals import held
from perception.task import TaskError

__all__ = [
    "ENCODERS", "AugmentConfig", "CameraConfig", "Config", "ConfigError", "DataConfig", "DecoderConfig",
    "EncoderConfig", "FusionConfig", "GridConfig", "HeadConfig", "ImportedConfig", "LidarConfig", "RadarConfig",
    "TrainConfig", "ValidationConfig", "VoxelConfig", "check_config", "find_config", "load_config", "load_yaml",
    "ordered", "save_config", "to_yaml",
]  # fmt: skip

Schema = TypeVar("Schema")
Part = TypeVar("Part")
_FIRST = tuple(Config().encoders)
_OPEN = ("augment.paste",)  # whose keys are names of classes


def ordered(by_sensor: Mapping[str, Part]) -> dict[str, Part]:
    """Sorted in the order of every axis of sensors: camera, radar, lidar, then the others by name.

    Checkpoints store weights in this order, so it must not depend on the order of keys in a config.
    """
    names = sorted(by_sensor, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return {name: by_sensor[name] for name in names}


def find_config(name: str | Path) -> Path:
    """The file of a config, given a path or a shipped name: ``sim``, ``sim.yaml`` or ``configs/sim.yaml``.

    Raises:
        ConfigError: no such config; the message lists the shipped names.
    """
    if not isinstance(name, str | os.PathLike):
        raise ConfigError(f"config: a path or a name was expected, found {type(name).__name__}")
    if Path(name).is_file():
        return Path(name)
    package = Path(__file__).parent  # the configs are inside the package in a wheel, next to it in a checkout
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    try:
        return shipped[str(name).removeprefix("configs/").removesuffix(".yaml")]
    except KeyError:
        message = f"config '{name}': a YAML file, or a shipped name ({', '.join(shipped)}), was expected"
        raise ConfigError(message) from None


def load_config(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Defaults, then the YAML file or shipped config (``"sim"``), then ``key.sub=value`` overrides.

    Raises:
        ConfigError: a file that cannot be read, an unknown key (the message names the closest valid one), a value of
            the wrong type, or an invalid value.
    """
    path = None if path is None else find_config(path)
    resolved = load_yaml(Config, path, overrides)
    resolved.encoders = ordered({name: section for name, section in resolved.encoders.items() if section is not None})
    check_config(resolved, str(path) if path is not None else "config")
    return resolved


def load_yaml(
    schema: type[Schema], path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()
) -> Schema:
    """:func:`load_config` for any dataclass with defaults.

    Raises:
        ConfigError: as in :func:`load_config`, except that values of the right type are not validated.
    """
    with held():  # an exception that a signal raises in OmegaConf becomes one of its own
        config = OmegaConf.structured(schema)
        OmegaConf.set_struct(config, True)
        for key in _OPEN:
            if (section := OmegaConf.select(config, key)) is not None:
                OmegaConf.set_struct(section, False)
        layers = [] if path is None else [(str(path), read_yaml(Path(path)))]
        layers += [(f"override '{override}'", _parsed(override)) for override in overrides]
        for where, values in layers:
            config = _merge(config, values, where)
        try:
            resolved: Any = OmegaConf.to_object(config)
            return resolved
        except TaskError as error:
            raise ConfigError(f"{path or 'config'}: {error}") from None
        except OmegaConfBaseException as error:  # a class of the task without a name
            raise ConfigError(f"{path or 'config'}: {str(error).splitlines()[0]}") from None


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved config with all keys, to document how a result was produced."""
    write_file(Path(path), to_yaml(config).encode())


def to_yaml(config: Config) -> str:
    """The text that :func:`save_config` writes. Default sensors that ``config`` does not have are null."""
    encoders = {**dict.fromkeys(_FIRST), **config.encoders}
    return dump_yaml(asdict(replace(config, encoders=encoders)))


def _parsed(override: str) -> dict:
    """``key.sub=value`` as a file would have it. Lists, mappings and quoted texts are YAML, other values are text."""
    keys, equals, text = (part.strip() for part in override.partition("="))
    where = f"override '{override}'"
    if not equals or not keys:
        raise ConfigError(f"{where}: key=value was expected, such as train.epochs=3")
    value: Any = None if text in ("", "null", "~") else text
    if text.startswith(("[", "{", "'", '"')):
        value = parse_yaml(text, where)
    for key in reversed(keys.split(".")):
        value = {key: value}
    return resolved_references(value, where)


def _merge(config: Any, loaded: Any, where: str) -> Any:
    if not isinstance(loaded, dict):
        raise ConfigError(f"{where}: a mapping of keys was expected")
    if "encoders" in config:
        loaded = _upgraded(loaded)
        _add_encoders(config, loaded, where)
    valid = _keys(OmegaConf.to_container(config))
    for key in _keys(loaded):
        if key not in valid and key.rpartition(".")[0] not in _OPEN:
            closest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where}: unknown key '{key}'; the closest valid key is '{closest}'")
    _replace_open(config, loaded)
    sections: Any = OmegaConf.to_container(config)
    for section, value in loaded.items():
        if isinstance(sections[section], dict) and not isinstance(value, dict):
            raise ConfigError(f"{where}: '{section}' wants keys of its own, found {value}")
    try:
        return OmegaConf.merge(config, literal(loaded))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0][:300]} (key '{error.full_key}')") from None


def _replace_open(config: Any, loaded: dict) -> None:
    """Empty what ``loaded`` gives anew: names that it does not have are not meant any more."""
    for key in _OPEN:
        section, _, name = key.partition(".")
        if isinstance(loaded.get(section), dict) and isinstance(loaded[section].get(name), dict):
            with open_dict(config):
                config[section][name] = {}
            OmegaConf.set_struct(config[section][name], False)


def _add_encoders(config: Any, loaded: Any, where: str) -> None:
    """Add to ``config`` a section of the right kind for each encoder that ``loaded`` adds, or whose kind it changes."""
    encoders = loaded.get("encoders")
    for name, section in encoders.items() if isinstance(encoders, dict) else ():
        present = config.encoders.get(name)
        kind = section.get("kind") if isinstance(section, dict) else None
        kind = kind or (present.kind if present is not None else name if name in ENCODERS else None)
        if kind not in ENCODERS:
            raise ConfigError(
                f"{where}: encoders.{name}: a kind of {', '.join(ENCODERS)} was expected, found {kind or 'none'}"
            )
        if section is not None and (present is None or present.kind != kind):
            with open_dict(config):
                config.encoders[name] = OmegaConf.structured(ENCODERS[kind])


def _upgraded(loaded: dict) -> dict:
    """Convert configs of version 0.1: top-level sections for the three sensors, and old names of a few keys.

    One checkpoint to begin with may be named without the brackets of a list.
    """
    loaded = dict(loaded)
    for name in [name for name in ("camera", "radar", "lidar") if name in loaded]:
        loaded["encoders"] = {**(loaded.get("encoders") or {}), name: loaded.pop(name)}
    augment = loaded.get("augment")
    if isinstance(augment, dict) and "fault_rate" in augment:
        augment["corruption_rate"] = augment.pop("fault_rate")
    train = loaded.get("train")
    if isinstance(train, dict) and isinstance(train.get("freeze"), list):
        names = {"camera": "encoders.camera.image", "view_transform": "encoders.camera.view_transform"}
        names |= {"radar": "encoders.radar", "lidar": "encoders.lidar", "head": "heads.boxes"}
        train["freeze"] = [names.get(name, name) for name in train["freeze"]]
    if isinstance(train, dict) and "init" in train and not isinstance(train["init"], list):  # one, or null
        train["init"] = [] if train["init"] is None else [train["init"]]
    return loaded


def _keys(container: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in container.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
    return keys
