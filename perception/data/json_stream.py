"""The elements of a JSON list one by one, whatever they are and however large the list is."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

_BLOCK_BYTES = 1 << 18
_SPACE = re.compile(r"[ \t\n\r]*")
_SCAN = json.JSONDecoder().raw_decode


def elements(file: BinaryIO, longest: int, first: bool = True) -> Iterator[Any]:
    """What Python's decoder makes of each element, NaN and Infinity included.

    Args:
        file: where the list's opening bracket is or, unless ``first``, the comma behind an earlier element.
        longest: characters that an element may have; no more than that and a block are in memory.

    Raises:
        ValueError: no list in JSON and UTF-8, or a longer element. The message does not say where.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig" if first else "utf-8")().decode
    text, at, opening, ended = "", 0, "[" if first else ",", False
    while True:
        try:
            start, closed = _next(text, at, opening)
            if closed:
                break
            element, at = _SCAN(text, start)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except ValueError as error:  # which may be for want of the rest
            problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            if ended:
                raise ValueError(problem) from None
            if len(text) - at > longest:
                raise ValueError(f"an element of at most {longest} characters was expected, found {problem}") from None
            block = file.read(_BLOCK_BYTES)
            text, at, ended = text[at:] + decode(block, final=not block), 0, not block
            continue
        yield element
        opening = ","
    rest = text[start:]
    while not rest.strip() and (block := file.read(_BLOCK_BYTES)):
        rest = decode(block)
    if rest.strip():
        raise ValueError("text behind the list")


def _next(text: str, at: int, opening: str) -> tuple[int, bool]:
    """Where the next element begins; or where the list ends, and that it does."""
    at = _skip_space(text, at)
    if opening == "," and text[at : at + 1] == "]":
        return at + 1, True
    if text[at : at + 1] != opening:
        raise ValueError(f"'{opening}' was expected, found '{text[at : at + 1]}'")
    at = _skip_space(text, at + 1)
    return (at + 1, True) if opening == "[" and text[at : at + 1] == "]" else (at, False)


def _skip_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing too
