"""Where frames come from, for training, evaluation, calibration and replay alike: the protocol of a frame source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from perception.sample import Frame


@runtime_checkable
class FrameSource(Protocol):
    """Frames by index. :class:`perception.NuScenes` is one; docs/own-parts.md shows another in twenty lines.

    Frames of one scene (``Frame.scene``) lie together and in order of time. ``Frame.boxes`` is the ground truth, with
    labels that index the task's classes; None where a frame is not annotated; training and evaluation need it. A source
    that several processes read is pickled into each of them.
    """

    @property
    def tokens(self) -> Sequence[str]:
        """A name for every frame, unique within the source; ``source[i].token`` is ``source.tokens[i]``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Frame | None:
        """The frame, index from 0 to ``len(self) - 1``; None if it is damaged and is to be left out.

        Raises:
            IndexError: no such frame.
            PerceptionError: a damaged frame, in a source that does not leave such frames out.
        """
