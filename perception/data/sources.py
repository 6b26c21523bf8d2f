"""Where frames come from, for training, evaluation, calibration and replay alike: the protocol of a frame source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from perception.sample import Frame


@runtime_checkable
class FrameSource(Protocol):
    """Frames by index. :class:`perception.NuScenes` is one; docs/own-parts.md shows another in twenty lines.

    tokens: the token of every frame, each a different one, in order.

    ``source[i]`` is the Frame with ``tokens[i]``, or None for one that cannot be read: it is left out and counted.
    ``frame.boxes`` are what it is trained on and scored against, with labels that index the task's classes; None where
    nobody annotated it, in which case the source can be replayed and nothing else.
    """

    tokens: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Frame | None: ...
