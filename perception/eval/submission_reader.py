"""Reads a nuScenes submission, a ``results.json`` of the official detection benchmark, into arrays.

Format: https://www.nuscenes.org/object-detection. The file is decoded sample by sample into typed records, which checks
every field and keeps only the raw bytes and the arrays of a large file in memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception.data.nuscenes_files import DataError, read_bytes
from perception.eval.metric import MetricBoxes
from perception.eval.submission import MAX_BOXES
from perception.task import NUSCENES, Task


class _Box(msgspec.Struct, gc=False):
    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    detection_name: str
    detection_score: float
    attribute_name: str


class _Submission(msgspec.Struct):
    meta: dict
    results: dict[str, msgspec.Raw]


class _LenientSubmission(msgspec.Struct):
    meta: dict
    results: dict[str, list]


@contextmanager
def joined(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield one file with the samples of several submissions, such as those of a fleet; a single file as it is.

    Raises:
        DataError: a file cannot be read or is not a submission, or a sample occurs in two files.
    """
    if len(paths) == 1:
        yield paths[0]
        return
    meta: dict = {}
    results: dict[str, msgspec.Raw] = {}
    for path in paths:
        try:
            part = msgspec.json.decode(read_bytes(path), type=_Submission)
        except msgspec.DecodeError as error:
            raise DataError(f"{path}: a submission, an object with meta and results, was expected: {error}") from None
        for token in results.keys() & part.results.keys():
            raise DataError(f"{path}: sample {token} was expected in one submission, found it in two")
        meta, results = part.meta, results | part.results
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.json"
        path.write_bytes(msgspec.json.encode({"meta": meta, "results": results}))
        yield path


def read_submission(path: str | Path, tokens: Sequence[str], task: Task = NUSCENES) -> MetricBoxes:
    """The boxes of a submission, in file order; ``sample`` is the index of the token in ``tokens``.

    Raises:
        DataError: the file cannot be read, is not a valid submission, has more than MAX_BOXES boxes in a sample, or
            does not contain exactly the samples of ``tokens``.
    """
    path = Path(path)
    data = read_bytes(path)
    place = {token: i for i, token in enumerate(tokens)}
    try:
        results: Mapping[str, Any] = msgspec.json.decode(data, type=_Submission).results
    except msgspec.DecodeError:  # the devkit writes unknown velocities as NaN, which is not valid JSON
        results = _lenient(path, data)
    _check_samples(path, results.keys(), place.keys())
    decode = msgspec.json.Decoder(list[_Box]).decode
    parts = []
    for token, raw in results.items():
        try:
            records = decode(raw) if isinstance(raw, msgspec.Raw) else msgspec.convert(raw, list[_Box])
            parts.append(_columns(records, token, place[token], task))
        except (msgspec.DecodeError, ValueError) as error:
            raise DataError(f"{path}: sample {token}: {error}") from None
    boxes = MetricBoxes.joined(parts)
    if data.count(b'"sample_token"') > len(boxes):  # JSON keeps the last of duplicate keys
        raise DataError(f"{path}: each sample once was expected, found one twice")
    return boxes


def _lenient(path: Path, data: bytes) -> dict[str, list]:
    try:
        return msgspec.convert(json.loads(data), _LenientSubmission).results
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: a submission, with meta and results, was expected: {error}") from None


def _check_samples(path: Path, found, wanted) -> None:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        counts = ", ".join(f"{len(t)} {what} ({t[0]})" for t, what in ((missing, "missing"), (extra, "unknown")) if t)
        raise DataError(f"{path}: results of exactly the {len(wanted)} samples were expected, found {counts}")


def _columns(boxes: list[_Box], token: str, sample: int, task: Task) -> MetricBoxes:
    if len(boxes) > MAX_BOXES:
        raise ValueError(f"at most {MAX_BOXES} boxes were expected, found {len(boxes)}")
    attributes = {"", *task.attributes}
    for box in boxes:
        if box.sample_token != token:
            raise ValueError(f"its own token was expected in each box, found {box.sample_token!r}")
        if box.detection_name not in task.classes or box.attribute_name not in attributes:
            named = f"{box.detection_name!r}, {box.attribute_name!r}"
            raise ValueError(f"a known class and attribute were expected, found {named}")
    numbers = np.array([(*b.translation, *b.size, *b.rotation, *b.velocity, b.detection_score) for b in boxes], float)
    numbers = numbers.reshape(-1, 13)
    known = np.delete(numbers, [10, 11], axis=1)  # a velocity may be unknown
    if not np.isfinite(known).all() or np.isinf(numbers).any() or (numbers[:, 3:6] <= 0).any():
        raise ValueError("finite numbers and positive sizes were expected")
    if not numbers[:, 6:10].any(axis=1).all():
        raise ValueError("a rotation was expected, found a quaternion of zeros")
    label = {name: k for k, name in enumerate(task.classes)}
    w, x, y, z = (numbers[:, 6:10] / np.linalg.norm(numbers[:, 6:10], axis=1, keepdims=True)).T
    return MetricBoxes(
        np.full(len(boxes), sample),
        numbers[:, :3],
        numbers[:, [4, 3, 5]],
        np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z)),
        numbers[:, 10:12],
        np.array([label[box.detection_name] for box in boxes], np.int64),
        task.attributes_of([box.attribute_name for box in boxes]),
        numbers[:, 12],
    )
