"""Reads a nuScenes submission, a ``results.json`` of the official benchmarks, into arrays.

Format: https://www.nuscenes.org/object-detection. The file is decoded sample by sample into typed records, which checks
every field and keeps only the raw bytes and the arrays of a large file in memory. Its size is bounded by what the
samples can need.
"""

from __future__ import annotations

import re
import stat
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

_BYTES_A_BOX, _BYTES_BESIDE = 2048, 1 << 24  # a box takes 350 bytes, indented 700; what else is in the file
_MOST_SAMPLES = 1 << 20  # of a file of whatever samples
_MOST = np.array(
    [1e9] * 3 + [1e4] * 3 + [1e3] * 4 + [1e4] * 2 + [np.inf]
)  # of translation, size, rotation, velocity, score
# JSON has neither NaN nor infinity, which Python's json and hence the devkit write; they are read as these numbers.
_NAN, _INFINITY = float(np.nextafter(-np.finfo(float).max, 0)), float(np.finfo(float).max)
_WORDS = {b"NaN": repr(_NAN).encode(), b"Infinity": repr(_INFINITY).encode()}


class _Box(msgspec.Struct, gc=False):
    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    detection_name: str
    detection_score: float
    attribute_name: str


class _Track(msgspec.Struct, gc=False):
    sample_token: str
    translation: tuple[float, float, float]
    size: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float]
    tracking_id: str
    tracking_name: str
    tracking_score: float


class _Submission(msgspec.Struct):
    meta: msgspec.Raw
    results: dict[str, msgspec.Raw]


@contextmanager
def joined(paths: Sequence[Path], samples: int) -> Iterator[Path]:
    """Yield one file with the samples of several submissions, such as those of a fleet; a single file as it is.

    Args:
        samples: how many there can be, which bounds the size of a file.

    Raises:
        DataError: a file cannot be read or is not a submission, or a sample occurs in two files.
    """
    if len(paths) == 1:
        yield paths[0]
        return
    meta: Any = {}
    results: dict[str, msgspec.Raw] = {}
    for path in paths:
        part, _ = _decoded(path, samples)
        for token in results.keys() & part.results.keys():
            raise DataError(f"{path}: sample {token} was expected in one submission, found it in two")
        meta, results = part.meta, results | part.results
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.json"
        data = msgspec.json.encode({"meta": meta, "results": results})
        path.write_bytes(data.replace(_WORDS[b"NaN"], b"NaN").replace(_WORDS[b"Infinity"], b"Infinity"))
        yield path


def read_submission(path: str | Path, tokens: Sequence[str], task: Task = NUSCENES) -> MetricBoxes:
    """The boxes of a submission, in file order; ``sample`` is the index of the token in ``tokens``.

    Raises:
        DataError: the file cannot be read, is not a valid submission, has more than MAX_BOXES boxes in a sample, or
            does not contain exactly the samples of ``tokens``.
    """
    path = Path(path)
    place = {token: i for i, token in enumerate(tokens)}
    submission, rows = _decoded(path, len(tokens))
    _check_samples(path, submission.results.keys(), place.keys())
    return MetricBoxes.joined(list(_parts(path, submission, rows, place, task).values()))


def read_samples(path: str | Path, task: Task = NUSCENES) -> dict[str, MetricBoxes]:
    """Token -> boxes, of whichever samples a submission has; ``sample`` counts them.

    Raises:
        DataError: as of :func:`read_submission`, the samples apart.
    """
    path = Path(path)
    submission, rows = _decoded(path, _MOST_SAMPLES)
    return _parts(path, submission, rows, {token: i for i, token in enumerate(submission.results)}, task)


def _parts(
    path: Path, submission: _Submission, rows: int, place: Mapping[str, int], task: Task
) -> dict[str, MetricBoxes]:
    parts = {
        token: _columns(path, _records(path, token, raw, _Box), token, place[token], task)
        for token, raw in submission.results.items()
    }
    if rows > sum(map(len, parts.values())):  # JSON keeps the last of duplicate keys
        raise DataError(f"{path}: each sample once was expected, found one twice")
    return parts


def tracked_samples(path: Path, samples: int) -> list[str]:
    """The tokens of a tracking submission, whose records are checked for fields and types.

    Raises:
        DataError: the file cannot be read, or is not a submission of tracks.
    """
    results = _decoded(path, samples)[0].results
    for token, raw in results.items():
        _records(path, token, raw, _Track)
    return list(results)


def _decoded(path: Path, samples: int) -> tuple[_Submission, int]:
    """A submission, and the number of rows that stand in the file."""
    most = samples * MAX_BOXES * _BYTES_A_BOX + _BYTES_BESIDE
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode) or found.st_size > most:
        size = f"one of {found.st_size}" if stat.S_ISREG(found.st_mode) else "none"
        raise DataError(f"{path}: a file of at most {most} bytes, for {samples} samples, was expected, found {size}")
    data = read_bytes(path)
    try:
        submission = _submission(data)
    except msgspec.DecodeError:
        data = re.sub(rb'(?<![\w"])(NaN|Infinity)(?![\w"])', lambda word: _WORDS[word[1]], data)
        try:
            submission = _submission(data)
        except msgspec.DecodeError as error:
            wanted = "a submission, an object with meta and results, was expected"
            raise DataError(f"{path}: {wanted}: {error}") from None
    rows = (len(re.findall(rb'"sample_token"\s*:', part)) for part in (data, bytes(submission.meta)))
    return submission, next(rows) - next(rows)


def _submission(data: bytes) -> _Submission:
    try:
        submission = msgspec.json.decode(data, type=_Submission)
    except RecursionError:
        raise msgspec.DecodeError("too many levels") from None
    if not bytes(submission.meta).startswith(b"{"):
        raise msgspec.DecodeError("meta is no object")
    return submission


def _records(path: Path, token: str, raw: msgspec.Raw, kind: type) -> list:
    try:
        return msgspec.json.decode(raw, type=list[kind])  # type: ignore[valid-type]  # a type that is an argument
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{path}: sample {token}: {error}") from None


def _check_samples(path: Path, found, wanted) -> None:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        counts = ", ".join(f"{len(t)} {what} ({t[0]})" for t, what in ((missing, "missing"), (extra, "unknown")) if t)
        raise DataError(f"{path}: results of exactly the {len(wanted)} samples were expected, found {counts}")


def _columns(path: Path, boxes: list[_Box], token: str, sample: int, task: Task) -> MetricBoxes:
    def require(holds: bool, expected: str, found: str = "another") -> None:
        if not holds:
            raise DataError(f"{path}: sample {token}: {expected} expected, found {found}")

    require(len(boxes) <= MAX_BOXES, f"at most {MAX_BOXES} boxes were", str(len(boxes)))
    attributes = {"", *task.attributes}
    for box in boxes:
        require(box.sample_token == token, "its own token was", repr(box.sample_token))
        known = box.detection_name in task.classes and box.attribute_name in attributes
        require(known, "a known class and attribute were", f"{box.detection_name!r}, {box.attribute_name!r}")
    numbers = np.array([(*b.translation, *b.size, *b.rotation, *b.velocity, b.detection_score) for b in boxes], float)
    numbers = numbers.reshape(-1, 13)
    numbers[numbers == _NAN], numbers[np.abs(numbers) == _INFINITY] = np.nan, np.inf
    possible = (np.abs(numbers) <= _MOST) & np.isfinite(numbers)
    possible[:, 10:12] |= np.isnan(numbers[:, 10:12])  # a velocity may be unknown
    require(bool(possible.all()), "finite numbers were", str(numbers[~possible].tolist()[:1]))
    require(bool((numbers[:, 3:6] > 0).all()), "positive sizes were", "others")
    lowest = numbers[:, 12].min(initial=0)  # below 0 the metric, and the devkit, take for a recall never reached
    require(lowest >= 0, "a detection_score of 0 or more was", str(lowest))
    norm = np.linalg.norm(numbers[:, 6:10], axis=1, keepdims=True)
    require(bool((norm > 1e-6).all()), "a rotation was", "a quaternion of zeros")
    label = {name: k for k, name in enumerate(task.classes)}
    w, x, y, z = (numbers[:, 6:10] / norm).T
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
