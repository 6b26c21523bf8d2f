"""Which benchmarks there are, what each needs, and the file that their rows are gathered in."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import loading, logs, metric, model, replay, shards, sparse_conv, tables, voxelize
from perception.config import load_config
from perception.data.opening import open_source
from perception.device import keep_memory
from perception.errors import PerceptionError
from perception.eval.evaluate import evaluate
from perception.files import write_json
from perception.model.checkpoint import load

_FULL_SIZE, _LSS_SIZED = "configs/nuscenes.yaml", "configs/lss_sized.yaml"
ACCURACY = ("mAP", "NDS", "mATE", "mAOE", "mAVE")


@dataclass(frozen=True)
class Needs:
    """What is not part of this package; None where it is not at hand.

    checkpoint: of configs/sim.yaml.  scene: a nuScenes scene with six cameras, five radars and a LiDAR.
    drives: simulated ones, for accuracy.  tables: where the large tables are made.  peers_python, lss: see ``model``.
    """

    checkpoint: str
    scene: Path | None
    drives: Path | None
    tables: Path | None
    peers_python: Path | None
    lss: Path | None

    def require(self, name: str):
        value = getattr(self, name)
        if value is None:
            raise PerceptionError(f"benchmark: --{name.replace('_', '-')} was expected, found none")
        return value


def _loading(needs: Needs) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        root = loading.fill_sweeps(Path(needs.require("scene")), Path(folder) / "scene")
        parts = (loading.lidar_sweeps, loading.radar_sweeps, loading.images, loading.sample)
        return [row for part in parts for row in part(root)]


def _frames(needs: Needs) -> list[dict]:
    others = (str(needs.require("peers_python")), str(needs.require("lss")))
    return model.frames(load(needs.checkpoint), load_config(_LSS_SIZED), *others)


def _logs(needs: Needs) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        return logs.mcap_reading(replay.converted(Path(needs.require("scene")), Path(folder))["MCAP"])


def _gpu(_: Needs) -> list[dict]:
    full = load_config(_FULL_SIZE)
    return voxelize.gpu_voxelize() + model.pooling("cuda") + model.gpu_frame(full)


BENCHMARKS: dict[str, Callable[[Needs], list[dict]]] = {
    "tables": lambda needs: tables.tables_open(tables.make_tables(needs.require("tables"))),
    "loading": _loading,
    "metric": lambda _: metric.metric_arrays() + metric.metric_json(),
    "voxelize": lambda needs: voxelize.pillars(needs.peers_python) + voxelize.voxels(needs.peers_python),
    "sparse_conv": lambda needs: sparse_conv.submanifold(needs.peers_python),
    "pool": lambda _: model.pooling(),
    "fusion": lambda _: model.fusion_scaling(),
    "frames": _frames,
    "logs": _logs,
    "gpu": _gpu,
}  # each gives rows as ``timing.row`` makes them


def stages(needs: Needs) -> list[dict]:
    detector = load(needs.checkpoint)
    return model.stages(detector, model.make_frame(detector.inputs.covering, 107_000, 2_000))


def accuracy(needs: Needs) -> list[dict]:
    """The metric of the checkpoint with images decoded whole, and at the size wanted."""
    detector, rows = load(needs.checkpoint), []
    for how, size in (("whole", None), ("at the size wanted", detector.inputs.covering)):
        dataset = open_source(needs.require("drives"), detector.config, image_size=size)
        metrics = evaluate(detector, dataset)
        rows.append({"images": how, **{key: metrics[key] for key in ACCURACY}})
    return rows


EXTRAS: dict[str, Callable[[Needs], list[dict]]] = {
    "model": stages,
    "sweep": lambda needs: voxelize.sweep(needs.peers_python),
    "accuracy": accuracy,
    "shards": lambda needs: shards.reading(needs.require("drives"), load(needs.checkpoint)),
    "shards_lidar": lambda needs: shards.differences(needs.require("drives"), load(needs.checkpoint)),
    "replay": lambda needs: replay.replay_checks(needs.require("scene"), needs.checkpoint),
    "mangled": lambda _: replay.damaged_logs(10_000),
    "hour": lambda needs: replay.hour_long(needs.require("scene"), needs.checkpoint, ("camera", "radar", "lidar")),
}  # each has columns of its own, and a file of its own


# In these peers run as their users run them. In the others what is compared is arithmetic, and both sides run with the
# memory settings of our tools, which the process has from then on.
_PEERS_OWN_MEMORY = ("tables", "loading", "metric", "voxelize", "sparse_conv", "logs")


def extra_path(path: Path, name: str) -> Path:
    return path.with_suffix(f".{name}.json")


def run(names: list[str], needs: Needs, path: Path) -> list[dict]:
    """Run benchmarks one after the other; rows are kept as soon as there are any.

    Returns the rows of this run; in the file a row replaces that of the same name and peer.
    """
    done = []
    for name in sorted(names, key=[*BENCHMARKS, *EXTRAS].index):
        if name not in _PEERS_OWN_MEMORY:
            keep_memory()
        if name in EXTRAS:
            rows = EXTRAS[name](needs)
            write_json(extra_path(path, name), rows)
        else:
            rows = BENCHMARKS[name](needs)
            kept = {(row["name"], row["peer"]): row for row in [*read_rows(path), *rows]}
            write_json(path, list(kept.values()))
        done += rows
    return done


def read_rows(path: Path) -> list[dict]:
    """Those of a file; none where there is no file.

    Raises:
        PerceptionError: it holds something else.
    """
    try:
        rows = json.loads(path.read_text()) if path.exists() else []
        if not all(isinstance(row, dict) for row in rows):
            raise TypeError("not a list of objects")
        return rows
    except (OSError, ValueError, TypeError) as error:
        raise PerceptionError(f"{path}: rows of benchmarks were expected: {error}") from None
