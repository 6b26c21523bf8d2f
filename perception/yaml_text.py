"""YAML of others, looked over before it is parsed: the parser recurses until the process dies, and copies aliases."""

from __future__ import annotations

import yaml

DEEPEST = 50  # of lists and mappings in each other
MOST_VALUES = 100_000  # scalars, lists and mappings, those of aliases included
LARGEST = 1 << 24  # bytes

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(text: str | bytes) -> None:
    """Check that a text is small and flat, also with its aliases, by which a few lines stand for gigabytes.

    Raises:
        yaml.YAMLError: it is not, or is no YAML.
        UnicodeError: it is no text.
    """
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"at most {LARGEST} bytes were expected, found {len(text)}")
    values = 0
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and how many values came before
    sizes: dict[str, int] = {}  # of what has an anchor
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise yaml.YAMLError(f"the alias '{event.anchor[:40]}' was expected to be complete before it is used")
            values += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            open_nodes.append((event.anchor, values))
            values += 1
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        if len(open_nodes) > DEEPEST or values > MOST_VALUES:
            raise yaml.YAMLError(
                f"at most {MOST_VALUES} values, {DEEPEST} deep, were expected, found more by line"
                f" {event.start_mark.line + 1}"
            )
