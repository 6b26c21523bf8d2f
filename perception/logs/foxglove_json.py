"""Foxglove's messages in JSON, as objects with the fields that the protobuf ones have.

https://docs.foxglove.dev/docs/sdk/schemas: bytes are in base64, times are {"sec": ..., "nsec": ...}.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from perception.logs.messages import LogError

_LARGEST_MESSAGE = 1 << 26  # characters
_NAMES = {"seconds": "sec", "nanos": "nsec"}
_DEFAULTS: dict[str, Any] = {"string": "", "bytes": "", "double": 0.0}  # of all others: 0


def parsed(data: bytes | memoryview, schema_name: str, fields: Mapping[str, str]) -> SimpleNamespace:
    """A message, with defaults for what it leaves out.

    Args:
        fields: schema -> "type name; repeated type name", those of each message that are used.

    Raises:
        LogError: no JSON, or a field of another type.
    """
    if len(data) > _LARGEST_MESSAGE:
        raise LogError(f"JSON of up to {_LARGEST_MESSAGE} bytes was expected, found {len(data)}")
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError):
        raise LogError(f"a {schema_name} was expected, found {len(data)} bytes that are no JSON") from None
    return _value(schema_name, value, schema_name, fields)


def _value(kind: str, value: Any, where: str, fields: Mapping[str, str]) -> Any:
    if kind in fields:
        return _message(kind, value, where, fields)
    if kind in ("string", "bytes") and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True) if kind == "bytes" else value
        except ValueError:
            raise LogError(f"{where}: base64 was expected, found other characters") from None
    if kind == "double" and type(value) in (int, float):
        return float(value) if abs(value) < 1 << 63 or value != value else float("inf")
    if kind not in _DEFAULTS and type(value) is int and abs(value) < 1 << 63:
        return value
    raise LogError(f"{where}: a {kind} was expected, found {str(value)[:40]!r}")


def _message(kind: str, value: Any, where: str, fields: Mapping[str, str]) -> SimpleNamespace:
    if not isinstance(value, dict):
        raise LogError(f"{where}: an object was expected, found {str(value)[:40]!r}")
    message = SimpleNamespace()
    for declaration in fields[kind].split("; "):
        *repeated, inner, name = declaration.split()
        found = value.get(_NAMES.get(name, name))
        path = f"{where}.{name}"
        if repeated:
            if not isinstance(found, list | None):
                raise LogError(f"{path}: a list was expected, found {str(found)[:40]!r}")
            field = [_value(inner, each, path, fields) for each in found or ()]
        else:
            field = _value(inner, _default(inner, fields) if found is None else found, path, fields)
        setattr(message, name, field)
    return message


def _default(kind: str, fields: Mapping[str, str]) -> Any:
    return {} if kind in fields else _DEFAULTS.get(kind, 0)
