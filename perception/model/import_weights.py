"""Published checkpoints of CenterPoint on pillars as checkpoints of this package.

A layer of ours is a convolution with a bias; one of the originals is followed by batch normalisation, which is folded
into it: the same function, in fewer operations. Every tensor of the original is accounted for, or nothing is imported.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from perception import __version__
from perception.commit import write_files
from perception.config import Config, DataConfig, GridConfig, HeadConfig, ImportedConfig
from perception.errors import PerceptionError
from perception.files import open_regular
from perception.model.build import build
from perception.model.detector import Detector
from perception.task import Task

LICENCE = (
    "The code of mmdetection3d and OpenPCDet is Apache-2.0. Weights trained on nuScenes are for non-commercial use "
    "(CC BY-NC-SA 4.0, nuScenes Terms of Use)."
)
# Classes that share a branch, and the square of the radius in which they suppress each other, as published (metres).
_GROUPS = (
    (("car",), 4.0),
    (("truck", "construction_vehicle"), 12.0),
    (("bus", "trailer"), 10.0),
    (("barrier",), 1.0),
    (("motorcycle", "bicycle"), 0.85),
    (("pedestrian", "traffic_cone"), 0.175),
)
_BLOCKS = (3, 5, 5)  # convolutions of a stage behind its first
_NORM = ("weight", "bias", "running_mean", "running_var")


class WeightsError(PerceptionError):
    """A file that is no checkpoint of the model that it was said to be."""


@dataclass(frozen=True)
class _Layer:
    """ours, theirs, norm: names of a layer of ours, of the same one of the original and of the normalisation behind it.

    epsilon: of the normalisation.  biased: whether the original has a bias, too.
    kind: "transposed" for a transposed convolution of both, "as convolution" for one that is a convolution of ours,
        "cos first" for a layer whose two outputs are (cos, sin).
    """

    ours: str
    theirs: str
    norm: str | None = None
    epsilon: float = 1e-5
    biased: bool = False
    kind: str = ""

    def shapes(self, ours: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Those of the original's tensors, by name, if the weight of ours has this shape."""
        out = ours[1] if self.kind == "transposed" else ours[0]
        found = {f"{self.theirs}.weight": tuple(ours)}
        if self.kind == "as convolution":
            found[f"{self.theirs}.weight"] = (ours[1], ours[0], *ours[2:])
        if self.biased:
            found[f"{self.theirs}.bias"] = (out,)
        if self.norm is not None:
            found |= {f"{self.norm}.{name}": (out,) for name in _NORM} | {f"{self.norm}.num_batches_tracked": ()}
        return found

    def converted(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weight and bias of ours."""
        weight = state[f"{self.theirs}.weight"].double()
        if self.kind == "as convolution":
            weight = weight.transpose(0, 1)
        axis = 1 if self.kind == "transposed" else 0
        bias = state[f"{self.theirs}.bias"].double() if self.biased else weight.new_zeros(weight.shape[axis])
        if self.norm is not None:
            gain, shift, mean, variance = (state[f"{self.norm}.{name}"].double() for name in _NORM)
            scale = gain / (variance + self.epsilon).sqrt()
            sides = [1] * weight.dim()
            sides[axis] = -1
            weight, bias = weight * scale.view(sides), (bias - mean) * scale + shift
        if self.kind == "cos first":
            weight, bias = weight.flip(0), bias.flip(0)
        return {f"{self.ours}.weight": weight.float().contiguous(), f"{self.ours}.bias": bias.float().contiguous()}


@dataclass(frozen=True)
class _Source:
    """section, grid: of the config.  key: under which its files have the weights.  unused: tensors that no layer has.

    names: of pillars, stages, pyramid, shared convolution and branches.  parts: of a branch, in the order of ours.
    point_layers: that points go through.  first: index of a stage's first convolution.
    kinds_up, direction: of the pyramid's layers and of the one for yaw, see :class:`_Layer`.
    convolution, norm: names in a layer of the head.  biased: whether such a convolution has a bias, too.
    """

    section: ImportedConfig
    grid: GridConfig
    key: str
    unused: tuple[str, ...]
    names: tuple[str, str, str, str, str]
    parts: tuple[str, ...]
    point_layers: int
    first: int
    kinds_up: tuple[str, str, str]
    direction: str
    convolution: str
    norm: str
    biased: bool


SOURCES = {
    "mmdet3d-centerpoint-pillar": _Source(
        section=ImportedConfig(source="mmdet3d"),
        grid=GridConfig(),
        key="state_dict",
        unused=(),
        names=(
            "pts_voxel_encoder.pfn_layers", "pts_backbone.blocks", "pts_neck.deblocks", "pts_bbox_head.shared_conv",
            "pts_bbox_head.task_heads",
        ),
        parts=("reg", "height", "dim", "rot", "vel", "heatmap"),
        point_layers=1, first=0, kinds_up=("", "", "transposed"), direction="",
        convolution="conv", norm="bn", biased=False,
    ),
    "openpcdet-centerpoint-pillar": _Source(
        section=ImportedConfig(source="openpcdet", max_overlap=0.2),
        grid=GridConfig(z_min_m=-1001.0, z_max_m=999.0),  # it cuts nothing off in height; pillars are centred at -1 m
        key="model_state",
        unused=("global_step",),
        names=(
            "vfe.pfn_layers", "backbone_2d.blocks", "backbone_2d.deblocks", "dense_head.shared_conv",
            "dense_head.heads_list",
        ),
        parts=("center", "center_z", "dim", "rot", "vel", "hm"),
        point_layers=2, first=1, kinds_up=("", "as convolution", "transposed"), direction="cos first",
        convolution="0", norm="1", biased=True,
    ),
}  # fmt: skip


def _layers(source: _Source) -> Iterator[_Layer]:
    points, stages, pyramid, shared, branches = source.names
    for i in range(source.point_layers):
        theirs = f"{points}.{i}"
        yield _Layer(f"encoders.lidar.layers.{i}", f"{theirs}.linear", f"{theirs}.norm", 1e-3)
    for s, (count, kind) in enumerate(zip(_BLOCKS, source.kinds_up)):
        for i in range(count + 1):
            at = source.first + 3 * i  # of a convolution; normalisation and ReLU follow
            yield _Layer(f"trunk.stages.{s}.{i}.0", f"{stages}.{s}.{at}", f"{stages}.{s}.{at + 1}", 1e-3)
        yield _Layer(f"trunk.up.{s}", f"{pyramid}.{s}.0", f"{pyramid}.{s}.1", 1e-3, kind=kind)

    def in_head(ours: str, theirs: str) -> _Layer:
        names = f"{theirs}.{source.convolution}", f"{theirs}.{source.norm}"
        return _Layer(f"heads.boxes.{ours}.0", *names, biased=source.biased)

    yield in_head("shared", shared)
    for g in range(len(_GROUPS)):
        for p, part in enumerate(source.parts):
            ours, theirs = f"groups.{g}.{p}", f"{branches}.{g}.{part}"
            yield in_head(f"{ours}.0", f"{theirs}.0")
            kind = source.direction if part == "rot" else ""
            yield _Layer(f"heads.boxes.{ours}.1", f"{theirs}.1", biased=True, kind=kind)


def import_weights(path: Path, source: str, folder: Path) -> dict[str, Any]:
    """Write the checkpoint of a published file to a folder, ``manifest.json`` included; returns that manifest.

    Args:
        path: as it was downloaded; only tensors in it are read (``torch.load(weights_only=True)``).
        source: a key of SOURCES.

    Raises:
        WeightsError: not such a file; tensors that are missing, unknown or of another shape, by name.
        ResultsError: the folder cannot be written.
    """
    data = _read(path)
    detector = build(imported_config(source))
    detector.load_state_dict(converted(_state(data, source, path), source, detector, path))
    manifest = {
        "imported_from": source,
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": LICENCE,
        "package": __version__,
        "torch": torch.__version__,
    }
    write_files(folder, detector.files() | {"manifest.json": (json.dumps(manifest, indent=1) + "\n").encode()})
    return manifest


def imported_config(source: str) -> Config:
    """That of a published model: ten sweeps, six groups of classes and what suppresses what."""
    if source not in SOURCES:
        raise WeightsError(f"weights of {', '.join(SOURCES)} were expected, found {source!r:.80}")
    radius_m = {name: square**0.5 for names, square in _GROUPS for name in names}
    objects = [replace(facts, suppression_radius_m=radius_m[facts.name]) for facts in Task().objects]
    return Config(
        task=Task(objects),
        grid=replace(SOURCES[source].grid),
        encoders={"lidar": replace(SOURCES[source].section)},
        head=HeadConfig(max_detections=500, score_threshold=0.1, groups=[list(names) for names, _ in _GROUPS]),
        data=DataConfig(root="data/nuscenes", lidar_sweeps=10),
    )


def published_shapes(source: str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a published file, by name."""
    return _expected(SOURCES[source], build(imported_config(source)))


def converted(
    state: Mapping[str, torch.Tensor], source: str, detector: Detector, where: str | Path
) -> dict[str, torch.Tensor]:
    """The state dict of ``detector``, of that of the original.

    Raises:
        WeightsError: tensors that are missing, unknown, of another shape or not finite; the message begins with where.
    """
    expected = _expected(SOURCES[source], detector)
    problems = {
        "missing": [name for name in expected if name not in state],
        "unknown": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {list(state[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in state and tuple(state[name].shape) != shape
        ],
        "not finite": [name for name in expected if name in state and not state[name].isfinite().all()],
    }
    found = [f"{what}: {_listed(names)}" for what, names in problems.items() if names]
    made: dict[str, torch.Tensor] = {}
    if not found:
        parts = {layer.theirs: layer.converted(state) for layer in _layers(SOURCES[source])}
        made = {name: value for part in parts.values() for name, value in part.items()}
        broken = [name for name, part in parts.items() if not all(value.isfinite().all() for value in part.values())]
        found = [f"not finite with their normalisation: {_listed(broken)}"] if broken else []  # a negative variance
    if found:
        raise WeightsError(f"{where}: the {len(expected)} tensors of {source} were expected, found {'; '.join(found)}")
    return made


def _expected(source: _Source, detector: Detector) -> dict[str, tuple[int, ...]]:
    own = detector.state_dict()
    found: dict[str, tuple[int, ...]] = {name: (1,) for name in source.unused}
    for layer in _layers(source):
        found |= layer.shapes(own[f"{layer.ours}.weight"].shape)
    return found


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.readall()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None


def _state(data: bytes, source: str, path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, without a common base
        named = re.search(r"GLOBAL (\S+)", str(error))
        found = f"a pickle with {named[1]}" if named else " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: a file of torch with tensors alone was expected, found {found}") from None
    key = SOURCES[source].key
    state = loaded.get(key) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        keys = _listed([str(name) for name in loaded], 5) if isinstance(loaded, dict) else type(loaded).__name__
        raise WeightsError(f"{path}: tensors under '{key}' were expected, as {source} has them, found {keys}")
    return state
