"""Annotated data sets in other layouts than nuScenes', recognised by their folders, with nuScenes' classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perception.data.astyx import Astyx, is_astyx
from perception.data.kitti import Kitti, is_kitti, is_view_of_delft
from perception.errors import PerceptionError
from perception.task import NUSCENES, Task


@dataclass(frozen=True)
class Layout:
    """sources: class of nuScenes -> the data set's classes."""

    name: str
    recognises: Callable[[Path], bool]
    sources: Mapping[str, Sequence[str]]
    open: Callable[[Path, Task], Astyx | Kitti]

    @property
    def task(self) -> Task:
        objects = [replace(facts, sources=list(self.sources.get(facts.name, []))) for facts in NUSCENES.objects]
        return Task(objects, NUSCENES.attributes)


LAYOUTS = (
    Layout(
        "Astyx HiRes2019",
        is_astyx,
        {
            "car": ["Car"], "truck": ["Truck"], "bus": ["Bus"], "trailer": ["Trailer", "Towed Object"],
            "pedestrian": ["Person"], "bicycle": ["Cyclist"], "motorcycle": ["Motorcyclist"],
        },
        lambda root, task: Astyx(root, task=task),
    ),
    Layout(
        "View-of-Delft",
        is_view_of_delft,
        {
            "car": ["Car"], "truck": ["truck"], "pedestrian": ["Pedestrian"], "bicycle": ["Cyclist", "bicycle"],
            "motorcycle": ["moped_scooter", "motor"],
        },
        Kitti,
    ),
    Layout(
        "KITTI",
        is_kitti,
        {
            "car": ["Car", "Van"], "truck": ["Truck"], "pedestrian": ["Pedestrian", "Person_sitting"],
            "bicycle": ["Cyclist"],
        },
        Kitti,
    ),
)  # fmt: skip


def find_layout(root: Path) -> Layout:
    """Raises PerceptionError where the folder is in none of the layouts."""
    for layout in LAYOUTS:
        if layout.recognises(root):
            return layout
    names = ", ".join(layout.name for layout in LAYOUTS)
    raise PerceptionError(f"{root}: a data set in the layout of {names} was expected, found none")


def splits_of(frames: Astyx | Kitti) -> dict[str, list[str]]:
    """The data set's own splits, of the frames that are there."""
    return frames.splits if isinstance(frames, Astyx) else {}
