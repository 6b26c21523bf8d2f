"""YAML files as plain data: every value is the text that stands there, and nothing in it is code.

YAML 1.1 makes 49 of 0061, 1.1 of 1.10 and true of ``on``. Here a plain scalar is text, except for null, ``~`` and
nothing, which are None; the schema that a file is merged into makes numbers of what it wants as numbers. Configs come
with the weights of others, rigs with their logs: tags construct no objects, and resolvers such as
``${oc.env:HOME}`` are text. A reference to another key of the same file, ``${data.root}``, is replaced by its value.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perception.errors import PerceptionError
from perception.yaml_text import check_yaml

MAX_BYTES = 1 << 20  # of a file


class ConfigError(PerceptionError):
    """An unknown key, or a value of the wrong type or outside its valid range."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Resolves null and merge keys only; refuses duplicate keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        known: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in known:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key}", node.start_mark)
            known.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\.(inf|nan)$", re.IGNORECASE), list("-+."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("<<$"), ["<"])


def read_yaml(path: Path, what: str = "config") -> Any:
    """The values of a file, with references replaced; no keys for an empty one.

    Raises:
        ConfigError: a file that cannot be read, is larger than MAX_BYTES or is not YAML.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
            size = f"found {found.st_size} bytes" if stat.S_ISREG(found.st_mode) else "found none"
            raise ConfigError(f"{path}: a {what}, a file of at most {MAX_BYTES} bytes, was expected, {size}")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the {what}: {error}") from None
    values = parse_yaml(text, str(path))
    return {} if values is None else values


def parse_yaml(text: str, where: str) -> Any:
    """:func:`read_yaml` for the text of a file."""
    try:
        check_yaml(text)
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    return resolved_references(values, where)


def resolved_references(values: Any, where: str) -> Any:
    """The values with every reference replaced by the value of the key that it names."""
    if not isinstance(values, dict | list):
        return values
    try:
        config = OmegaConf.create(_mapped(values, _without_resolvers))
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0][:300]} (key '{error.full_key}')") from None


def literal(values: Any) -> Any:
    """The values such that OmegaConf takes every text for what it is, ``${...}`` included."""
    return _mapped(values, _escaped)


def dump_yaml(values: Any) -> str:
    """The text of a file that :func:`read_yaml` reads ``values`` from; other readers see texts as texts, too."""
    escaped = _mapped(values, reference_escaped)
    return yaml.dump(escaped, Dumper=yaml.SafeDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def reference_escaped(text: str) -> str:
    """How a text is written so that it is read as itself: one that would be a reference is escaped."""
    return text if _without_resolvers(text) != text else _escaped(text)


def _without_resolvers(text: str) -> str:
    """A text of more than references to keys, such as one with a resolver, escaped."""
    return _escaped(text) if "${" in re.sub(r"\$\{[\w.]*\}", "", text) else text


def _escaped(text: str) -> str:
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
