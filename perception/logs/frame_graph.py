"""Which frames transforms connect, and by which way.

They need not be a tree: two localisers locate one vehicle, two cameras one tag, a driver repeats what the URDF says.
What counts is the way between two frames that somebody asks for: the shortest that goes up from one and down to the
other, as in tf2, and where there is none, the shortest of any kind. Of equally short ones it is the first by name.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

Edge = tuple[str, str]  # parent, child


class FrameGraph:
    """Frames, and the transforms between them."""

    def __init__(self, edges: Iterable[Edge] = ()):
        self._parents: dict[str, set[str]] = defaultdict(set)
        self._children: dict[str, set[str]] = defaultdict(set)
        self._ways: dict[tuple[str, str], list[Edge]] = {}  # target, source
        for edge in edges:
            self.add(edge)

    def add(self, edge: Edge) -> None:
        parent, child = edge
        self._parents[child].add(parent)
        self._children[parent].add(child)
        self._ways.clear()

    @property
    def names(self) -> list[str]:
        return sorted(self._parents.keys() | self._children.keys())

    def parents(self, frame: str) -> list[str]:
        return sorted(self._parents.get(frame, ()))

    def up(self, frame: str) -> list[str]:
        """The frame, its parents, theirs and so on."""
        return list(self._reached(frame))

    def connected(self, target: str, source: str) -> bool:
        return self.way(target, source) is not None

    def way(self, target: str, source: str) -> list[Edge] | None:
        """The transforms on the way from ``source`` to ``target``, in this order; None where there is no way."""
        way = self._ways.get((target, source))
        if way is None:
            way = self._over_the_top(target, source)
            way = self._reached(source, also_down=True).get(target) if way is None else way
        if way is not None:
            self._ways[target, source] = way
        return way

    def other_way(self, target: str, source: str) -> list[Edge] | None:
        """A second way up and down, if there is one: then it is uncertain where the frames are."""
        others = (self._over_the_top(target, source, without=edge) for edge in self.way(target, source) or ())
        return next((way for way in others if way is not None), None)

    def _over_the_top(self, target: str, source: str, without: Edge | None = None) -> list[Edge] | None:
        from_source, from_target = (self._reached(frame, without=without) for frame in (source, target))
        tops = from_source.keys() & from_target.keys()
        if not tops:
            return None
        top = min(tops, key=lambda frame: (len(from_source[frame]) + len(from_target[frame]), frame))
        return from_source[top] + from_target[top][::-1]

    def _reached(self, start: str, also_down: bool = False, without: Edge | None = None) -> dict[str, list[Edge]]:
        """The frames above one, or all that are connected with it, nearest first, and the shortest way to each."""
        ways: dict[str, list[Edge]] = {start: []}
        waiting = deque([start])
        while waiting:
            frame = waiting.popleft()
            steps = [(parent, (parent, frame)) for parent in self.parents(frame)]
            if also_down:
                steps += [(child, (frame, child)) for child in sorted(self._children.get(frame, ()))]
            for reached, edge in steps:
                if reached not in ways and edge != without:
                    ways[reached] = [*ways[frame], edge]
                    waiting.append(reached)
        return ways
