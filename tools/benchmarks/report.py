"""Results into documents: what stands in a document was printed by a command, and can be printed again.

Each function makes the Markdown of one section from what a tool wrote; :func:`put_between_markers` puts it in place.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from perception.errors import PerceptionError
from perception.export.verify import as_markdown
from perception.text import markdown

COLUMNS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
SENSOR_SETS = ("camera+radar+lidar", "camera+radar", "camera+lidar", "radar+lidar", "camera", "radar", "lidar")
BLOCKS = ("attention", "average", "concat")
_SILENT = {  # silent fault -> the same sensor announced missing
    "silent:camera_black": "only:radar+lidar",
    "silent:camera_stuck": "only:radar+lidar",
    "silent:lidar_empty": "only:camera+radar",
    "silent:lidar_stuck": "only:camera+radar",
    "silent:radar_empty": "only:camera+lidar",
    "silent:radar_stuck": "only:camera+lidar",
}


def put_between_markers(path: Path, generated: str, name: str = "generated") -> None:
    """Replace what stands between the lines ``<!-- name -->`` and ``<!-- end -->`` of a document.

    Raises:
        PerceptionError: the document cannot be read, or has no such lines.
    """
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    try:
        text = path.read_text()
    except OSError as error:
        raise PerceptionError(f"{path}: cannot be read: {error.strerror}") from None
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise PerceptionError(f"{path}: the lines {begin} and {end} were expected, found none")
    path.write_text(f"{head}{begin}\n{generated}\n{end}{tail}")


def sections(path: Path) -> dict[str, str]:
    """Marker -> Markdown, of any file that a tool of this package wrote.

    Raises:
        PerceptionError: the file is not such a file.
    """
    try:
        content = json.loads(path.read_text())
        if isinstance(content, list) and content and "on_nothing" in content[0]:
            return {path.stem: recorded_tables(content)}
        if isinstance(content, list) and content and "condition" in content[0]:
            made = {"shipped": _shipped(content), "ablation": _ablation(content)}
            return {name: text for name, text in made.items() if text}
        if isinstance(content, list) and content and "decoder" in content[0]:
            return {path.stem: _decoders(content)}
        if isinstance(content, list):
            return {path.stem: _costs(content)}
        if "parity" in content:
            return {path.stem: as_markdown(content)}
        if "sensors" in content:
            return {path.stem: registration_table(content)}
        if "ground_truth" in content:
            return {path.stem: _scores(content)}
        return {path.stem: _classification(content["subsets"])}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PerceptionError(f"{path}: a file written by a tool of this package was expected: {error!r}") from None


def select(rows: Sequence[dict], **wanted) -> list[dict]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def key_of(row: dict) -> str:
    """``mc:fog/3``: condition and, where there is one, severity."""
    return f"{row['condition']}/{row['severity']}" if row["severity"] else row["condition"]


def mean_resistance(rows: Sequence[dict]) -> tuple[float, dict[str, list[float]]]:
    """mRA of MultiCorrupt, and RA (NDS under the corruption / NDS clean) of each ``mc:`` condition at each severity.

    NaN and nothing where there are no such conditions, or no clean one with an NDS above 0 to compare them with.
    """
    clean = [row["NDS"] for row in rows if row["condition"] == "clean" and row["NDS"] > 0]
    resistance: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row["condition"], row["severity"])):
        if clean and row["condition"].startswith("mc:"):
            resistance.setdefault(row["condition"], []).append(row["NDS"] / clean[0])
    means = [statistics.mean(values) for values in resistance.values()]
    return statistics.mean(means) if means else math.nan, resistance


def condition_of(sensors: str) -> str:
    return "clean" if sensors == SENSOR_SETS[0] else f"only:{sensors}"


def _shipped(rows: Sequence[dict]) -> str:
    rows = select(rows, run="shipped")
    if not rows:
        return ""
    seeds = sorted({row["drives"] for row in rows}, key=lambda seed: -len(select(rows, drives=seed)))
    first = select(rows, drives=seeds[0])
    find = {(row["condition"], row["severity"]): row for row in first}
    listed = ", ".join(map(str, sorted(seeds)))
    where = f"mean ± standard deviation over drives of seeds {listed}" if len(seeds) > 1 else f"drives of seed {listed}"
    parts = [f"**Sensor sets**, {where}:", ""]
    parts += markdown(
        ("sensors", *COLUMNS),
        [
            (name, *(_spread([row[c] for row in select(rows, condition=condition_of(name))]) for c in COLUMNS))
            for name in SENSOR_SETS
            if select(rows, condition=condition_of(name))
        ],
    )
    mean, resistance = mean_resistance(first)
    if resistance:
        parts += ["", f"**MultiCorrupt**, NDS as a share of clean NDS, drives of seed {seeds[0]}:", ""]
        body = [
            (c[3:], *(f"{v:.3f}" for v in values), f"{statistics.mean(values):.3f}") for c, values in resistance.items()
        ]
        parts += markdown(("corruption", "severity 1", "2", "3", "mean"), body)
        parts += ["", f"mRA = {mean:.3f}; worst cell {min(min(values) for values in resistance.values()):.3f}."]
    silent = [(s, a) for s, a in _SILENT.items() if (s, 0) in find and (a, 0) in find]
    if silent:
        parts += ["", "**Silent faults** against the same sensor announced missing:", ""]
        body = []
        for name, announced in silent:
            a, b = find[name, 0], find[announced, 0]
            body.append(
                (
                    name[7:],
                    *(f"{r[c]:.3f}" for c in ("mAP", "NDS") for r in (a, b)),
                    f"{100 * (b['NDS'] - a['NDS']):+.1f}",
                )
            )
        parts += markdown(("fault", "mAP silent", "announced", "NDS silent", "announced", "cost in NDS points"), body)
    pairs = [
        (row, find.get((row["condition"].removeprefix("no_radar:"), row["severity"])))
        for row in first
        if row["condition"].startswith("no_radar:")
    ]
    without = find.get(("only:camera+lidar", 0))
    radar = [(row, without) for row in first if row["condition"].startswith("radar:") and without]
    if pairs or radar:
        parts += ["", "**What the radar is worth**, with and without it under the same condition:", ""]
        both = [(with_radar, no_radar) for no_radar, with_radar in pairs if with_radar] + radar
        both = [(find["clean", 0], without)] * bool(without) + both
        parts += markdown(
            ("condition", "mAP", "without radar", "gain in points", "mAVE", "without radar"),
            [
                (
                    key_of(a),
                    f"{a['mAP']:.3f}",
                    f"{b['mAP']:.3f}",
                    f"{100 * (a['mAP'] - b['mAP']):+.1f}",
                    f"{a['mAVE']:.2f}",
                    f"{b['mAVE']:.2f}",
                )
                for a, b in both
            ],
        )
    parts += ["", f"<details><summary>Every condition, drives of seed {seeds[0]}</summary>", ""]
    parts += markdown(("condition", *COLUMNS), [(key_of(row), *(f"{row[c]:.3f}" for c in COLUMNS)) for row in first])
    parts += ["", "</details>", "", f"{first[0]['frames']} frames a seed; weights `{first[0]['weights_sha256'][:12]}`."]
    return "\n".join(parts)


def _ablation(rows: Sequence[dict]) -> str:
    rows = select(rows, run="ablation")
    blocks = [block for block in BLOCKS if select(rows, fusion=block)]
    if not blocks:
        return ""
    seeds = sorted({row["seed"] for row in rows})
    keys = list(dict.fromkeys((row["condition"], row["severity"]) for row in rows))
    parts = [f"mAP in points, mean ± standard deviation over training seeds {', '.join(map(str, seeds))}:", ""]
    body = [_ablation_row(rows, blocks, [key], f"{key[0]}/{key[1]}" if key[1] else key[0]) for key in keys]
    one_missing = [(f"only:{name}", 0) for name in SENSOR_SETS[1:4]]
    if set(one_missing) <= set(keys):
        body.append(_ablation_row(rows, blocks, one_missing, "**mean, one sensor missing**"))
    subsets = [(f"only:{name}", 0) for name in SENSOR_SETS[1:]]
    if set(subsets) <= set(keys):
        body.append(_ablation_row(rows, blocks, subsets, "**mean, one or two missing**"))
    parts += markdown(("condition", *blocks, "attention − concat"), body)
    return "\n".join(parts)


def _ablation_row(rows, blocks, keys, label: str) -> tuple[str, ...]:
    """The mean of mAP over conditions, for each block over its seeds; the last is of differences seed by seed."""
    by_block = {}
    for block in blocks:
        values = {}
        for seed in sorted({row["seed"] for row in select(rows, fusion=block)}):
            found = [
                r["mAP"] for k in keys for r in select(rows, fusion=block, seed=seed, condition=k[0], severity=k[1])
            ]
            if len(found) == len(keys):
                values[seed] = statistics.mean(found)
        by_block[block] = values
    ours, theirs = by_block.get("attention", {}), by_block.get("concat", {})
    gain = [100 * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs]
    columns = [_spread([100 * value for value in by_block[block].values()], 1) for block in blocks]
    return (label, *columns, _spread(gain, 1, "+") if gain else "–")


def _costs(rows: Sequence[dict]) -> str:
    return "\n".join(
        markdown(
            ("block", "parameters", "GFLOP", "ms", "MB kept for backward"),
            [
                (r["fusion"], f"{r['parameters']:,}", f"{r['gflop']:.2f}", f"{r['ms']:.0f}", f"{r['saved_mb']:.0f}")
                for r in rows
            ],
        )
    )


def registration_table(report: dict) -> str:
    """What tools/measure_registration.py measured: a row per sensor."""
    sizes = [(size, key) for size in ("shift_m", "turn_deg") for key in ("median", "p95", "max")]
    head = ("sensor", *(f"{key}, {'m' if size == 'shift_m' else '°'}" for size, key in sizes))
    body = [
        (name, *(_number(found[size].get(key)) for size, key in sizes)) for name, found in report["sensors"].items()
    ]
    lines = markdown(head, body)
    return "\n".join([*lines, "", f"{report['frames']} frames; weights `{report['weights_sha256'][:12]}`."])


def _classification(subsets: dict) -> str:
    first = next(iter(subsets.values()))
    classes = list(first["ECE_by_class"])
    parts = ["Expected calibration error, 15 bins:", ""]
    parts += markdown(
        ("sensors", "all", *classes),
        [(n, f"{s['ECE']:.3f}", *(_number(s["ECE_by_class"][c]) for c in classes)) for n, s in subsets.items()],
    )
    name = next(iter(subsets))
    parts += ["", f"Confusion with {name}, detections scored 0.3 or more; rows are what is there:", ""]
    matrix = first["confusion"]
    labels = [*classes, "nothing"]
    parts += markdown(
        ("", *classes, "missed"), [(label, *(str(count) for count in row)) for label, row in zip(labels, matrix)]
    )
    return "\n".join(parts)


def _scores(report: dict) -> str:
    """A row per set of sensors, and a row per class."""
    subsets, ground_truth = report["subsets"], report["ground_truth"]
    parts = markdown(
        ("sensors", *COLUMNS, "boxes"),
        [(name, *(_number(s[c]) for c in COLUMNS), str(s["boxes"])) for name, s in subsets.items()],
    )
    parts += ["", *markdown(
        ("AP", "ground truth", *subsets),
        [(c, str(n), *(_number(s["AP"][c]) for s in subsets.values())) for c, n in ground_truth.items()],
    )]  # fmt: skip
    weights = f"weights `{report['weights_sha256'][:12]}`" if "weights_sha256" in report else "no weights kept"
    return "\n".join([*parts, "", f"{report['frames']} frames; {weights}."])


def _decoders(rows: Sequence[dict]) -> str:
    """Variants of the object decoder, for every set of sensors."""
    columns, lines = ("mAP", "NDS", "mATE", "mAOE", "mAVE"), []
    for sensors in dict.fromkeys(row["sensors"] for row in rows):
        for decoder in dict.fromkeys(row["decoder"] for row in rows):
            found = select(rows, sensors=sensors, decoder=decoder)
            lines.append((sensors, decoder, *(_spread([row[c] for row in found]) for c in columns)))
    return "\n".join(markdown(("sensors", "decoder", *columns), lines))


def recorded_tables(rows: Sequence[dict]) -> str:
    """What tools/benchmark_real.py measured, over all seeds; differences are taken seed by seed."""
    by = {name: select(rows, condition=name) for name in dict.fromkeys(row["condition"] for row in rows)}
    objects = rows[0]["ground_truth"]
    shown = [name for name in ("car", "pedestrian") if objects.get(name)] or [max(objects, key=objects.__getitem__)]
    columns = [(f"{name}s", metric, name) for name in shown for metric in ("AP", "AP_3D")]
    head = tuple(f"{plural}, {'AP 3D' if metric == 'AP_3D' else metric}" for plural, metric, _ in columns)

    def scores(own: Sequence[dict]) -> tuple[str, ...]:
        found = ([row[metric][name] for row in own] for _, metric, name in columns)
        return tuple(
            _spread([value for value in values if value is not None]) for values in found
        )  # None: none in view

    def gain(ours: Sequence[dict], theirs: Sequence[dict]) -> str:
        """In points of the first class's AP."""
        other = {row["checkpoint"]: row["AP"][shown[0]] for row in theirs}
        return _spread([100 * (row["AP"][shown[0]] - other[row["checkpoint"]]) for row in ours], 1, "+")

    sets = {own[0]["sensors"]: own for name, own in by.items() if name == "clean" or name.startswith("only:")}
    parts: list[str] = []
    if sets:
        body = [(name, *scores(own), *(_spread([r[c] for r in own]) for c in ("mAP", "on_nothing")))
                for name, own in sets.items()]  # fmt: skip
        parts += ["**Sensor sets**", "", *markdown(("sensors", *head, "mAP", "boxes on nothing"), body)]
    moved = [name for name in by if name.startswith(("lidar:", "extrinsic:"))]
    if moved and "clean" in by:
        body = [(name, *scores(by[name]), gain(by[name], by["clean"])) for name in moved]
        parts += ["", f"**Misplaced sensors**, and {shown[0]} AP in points against none misplaced", ""]
        parts += markdown(("condition", *head, "change"), body)
    silent = []
    for name in (name for name in by if name.startswith("silent:")):
        kept = "+".join(s for s in by[name][0]["sensors"].split("+") if s != name[7:].split("_")[0])
        if kept in sets:
            silent.append((name[7:], *scores(by[name]), *scores(sets[kept]), gain(by[name], sets[kept])))
    if silent:
        parts += ["", f"**Silent sensors** against the same ones announced missing, {shown[0]} AP in points", ""]
        parts += markdown(("fault", *head, *(f"announced: {name}" for name in head), "change"), silent)
    radar = [
        (name, place, *_radar_gain(own, sets[without], place, shown[0]))
        for name, own in sets.items()
        if (without := "+".join(s for s in name.split("+") if s != "radar")) in sets and without != name
        for place in own[0]["AP_at"]
    ]
    if radar:
        parts += ["", f"**What the radar is worth** by distance, {shown[0]} AP", ""]
        parts += markdown(("sensors", "distance", "AP", "without radar", "gain in points"), radar)
    counts = ", ".join(f"{objects[name]} {name}s" for name in shown)
    seeds = ", ".join(
        f"{'unknown' if row['seed'] is None else row['seed']} (`{row['weights_sha256'][:12]}`)"
        for row in next(iter(by.values()))
    )
    return "\n".join([*parts, "", f"{rows[0]['frames']} frames, {counts}; training seeds {seeds}."])


def _radar_gain(ours: Sequence[dict], theirs: Sequence[dict], place: str, name: str) -> tuple[str, str, str]:
    """AP with and without radar, and the difference in points; dashes where there is none of the class."""
    with_radar, without = ([row["AP_at"][place].get(name) for row in rows] for rows in (ours, theirs))
    if None in with_radar:
        return "–", "–", "–"
    gain = [100 * (a - b) for a, b in zip(with_radar, without)]
    return _spread(with_radar), _spread(without), _spread(gain, 1, "+")


def _spread(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    if not values:
        return "–"
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
