"""compare A B: differences that can be counted by hand, what is beyond tolerance, and what is written."""

import base64
import dataclasses
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.cli import run
from perception.errors import PerceptionError
from perception.files import ResultsError
from perception.replay.compare import ClassCounts, CompareError, compare
from perception.replay.compare_tables import table
from perception.replay.matching import match
from perception.replay.matching import shifts as shifts_of
from perception.replay.reference import update_reference
from perception.replay.result import LinesSink, ReplayResultError
from perception.replay.step import Step
from perception.replay.tolerance import ToleranceError, Tolerances
from perception.sample import Boxes3D, Detections, Frame
from perception.task import CLASSES, ObjectClass, Task

ROOT = Path(__file__).parents[1]
CAR, TRUCK, BARRIER, CONE = (CLASSES.index(name) for name in ("car", "truck", "barrier", "traffic_cone"))


def found(*boxes: dict) -> Detections:
    """Each box a dict of what is not usual: x, y, z, size, yaw, velocity, label, attribute, score."""
    usual = {"x": 10.0, "y": 0.0, "z": 0.5, "size": (4.0, 2.0, 1.5), "yaw": 0.0, "velocity": (1.0, 0.0)}
    usual |= {"label": CAR, "attribute": -1, "score": 0.9}
    rows = [usual | box for box in boxes]
    columns = {name: [row[name] for row in rows] for name in ("size", "yaw", "velocity", "label", "attribute")}
    center = np.array([[row["x"], row["y"], row["z"]] for row in rows]).reshape(-1, 3)
    columns["size"], columns["velocity"] = (np.reshape(columns[k], (-1, n)) for k, n in (("size", 3), ("velocity", 2)))
    return Detections.sorted(Boxes3D(center, **columns), np.array([row["score"] for row in rows], float))


NOTHING = found()


def shifts(a: Detections, b: Detections) -> np.ndarray:
    """Of each box of b from the one of a in the same place of the list."""
    return shifts_of(a, b, np.stack([np.arange(len(a))] * 2, axis=1))


def save(folder: Path, *frames, scene="scene", tracks=None, latency_ms=None, summary=None, start=0) -> Path:
    """A result with a frame of Detections every half second."""
    with LinesSink(folder / "result.jsonl") as sink:
        for i, detections in enumerate(frames):
            frame = Frame(f"token-{start + i}", (start + i) * 500_000_000, scene=scene)
            ids = None if tracks is None else np.array(tracks[i])
            sink.add(Step(i, frame, detections, ids, {}, latency_ms[i] if latency_ms else {}))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def compared(tmp_path: Path, a: Detections, b: Detections, **options):
    return compare(save(tmp_path / "a", a), save(tmp_path / "b", b), **options)


def command(*words) -> int:
    return run(["compare", *(str(word) for word in words)])


def indices(matching) -> tuple:
    return tuple(getattr(matching, name).tolist() for name in ("pairs", "changed", "lost", "gained"))


# Pairs of boxes


def test_one_moved_one_lost_one_gained():
    a = found({"x": 10.0}, {"x": 30.0})
    b = found({"x": -20.0}, {"x": 10.5})
    assert indices(match(a, b)) == ([[0, 1]], [], [1], [0])


def test_too_far_away_is_another_box():
    a = found({"x": 10.0})
    assert indices(match(a, found({"x": 12.0}))) == ([[0, 0]], [], [], [])
    assert indices(match(a, found({"x": 12.01}))) == ([], [], [0], [0])
    assert indices(match(a, found({"x": 12.01}), match_distance_m=3.0)) == ([[0, 0]], [], [], [])


def test_another_class_in_the_same_place():
    a, b = found({"label": CAR}), found({"label": TRUCK, "x": 10.5})
    assert indices(match(a, b)) == ([], [[0, 0]], [], [])
    assert indices(match(a, found({"label": TRUCK, "x": 13.0}))) == ([], [], [0], [0])
    # One that has a partner of its own class keeps it.
    assert indices(match(a, found({"label": TRUCK}, {"label": CAR}))) == ([[0, 1]], [], [], [0])


@pytest.mark.parametrize("below, lost", [(0.299, []), (0.15, []), (0.149, [0])])
def test_a_score_that_crosses_the_threshold_is_no_box_gained_or_lost(below, lost):
    a, b = found({"score": 0.301}), found({"score": below})
    assert match(a, b).lost.tolist() == lost and match(b, a).gained.tolist() == lost
    assert len(match(a, b).pairs) == len(match(b, a).pairs) == 1 - len(lost)


def test_what_is_no_box_on_either_side_does_not_count():
    assert indices(match(found({"score": 0.29}), found({"score": 0.28}))) == ([], [], [], [])
    assert indices(match(found({"score": 0.29}), NOTHING)) == ([], [], [], [])


def test_a_weak_box_nearer_by_does_not_take_the_partner_of_a_box():
    a = found({"x": 10.0})
    b = found({"x": 10.5}, {"x": 10.1, "score": 0.2})
    assert indices(match(a, b)) == ([[0, 0]], [], [], [])
    # And a weak partner is kept though a box, which has one too, is within reach.
    a, b = found({"x": 11.5}, {"x": 10.0, "score": 0.31}), found({"x": 11.5}, {"x": 10.0, "score": 0.29})
    assert indices(match(a, b)) == ([[0, 0], [1, 1]], [], [], [])


def test_all_boxes_together_move_the_least():
    """The first of A is nearest to the only one that the second can have."""
    a, b = found({"x": 10.0}, {"x": 11.0}), found({"x": 10.4}, {"x": 8.5})
    assert sorted(match(a, b).pairs.tolist()) == [[0, 1], [1, 0]]


def test_how_far_a_pair_is_apart():
    a = found({"yaw": np.pi - 0.1, "velocity": (3.0, 4.0)})
    b = found({"x": 13.0, "y": 4.0, "yaw": -np.pi + 0.1, "size": (4.0, 2.5, 1.4), "velocity": (0.0, 0.0), "score": 0.5})
    assert np.allclose(shifts(a, b), [[5.0, 0.5, np.rad2deg(0.2), 5.0, -0.4]])


def test_headings_that_mean_nothing():
    """From behind a barrier looks the same; a cone has no heading."""
    ahead, behind = (found(*({"label": label, "yaw": yaw} for label in (CAR, BARRIER, CONE))) for yaw in (0.0, np.pi))
    assert np.allclose(shifts(ahead, behind)[:, 2], [180, 0, np.nan], equal_nan=True)


def test_unknown_velocities():
    unknown, known = found({"velocity": (np.nan, np.nan)}), found({"velocity": (3.0, 4.0)})
    assert shifts(unknown, known)[0, 3] == shifts(known, unknown)[0, 3] == 5.0
    assert np.isnan(shifts(unknown, unknown)[0, 3])


# Results


def test_a_result_is_counted_by_class(tmp_path):
    a = found({"x": 0.0}, {"x": 10.0}, {"x": 20.0}, {"x": 30.0, "score": 0.31}, {"x": 40.0, "label": TRUCK})
    b = found({"x": 0.5}, {"x": 10.0, "label": TRUCK}, {"x": 30.0, "score": 0.29}, {"x": -20.0}, {"x": -30.0})
    result = compared(tmp_path, a, b)
    assert result.classes == {
        "car": ClassCounts(a=4, b=3, gained=2, lost=1, faded=1, changed_from=1),
        "truck": ClassCounts(a=1, b=1, lost=1, changed_to=1),
    }
    assert result.total == ClassCounts(a=5, b=4, gained=2, lost=2, faded=1, changed_from=1, changed_to=1)
    assert result.class_changes == {("car", "truck"): 1}
    assert result.shifts["center_m"] == (2, 0.25, 0.25, pytest.approx(0.45), 0.5)
    assert result.shifts["score"].max == pytest.approx(0.02) and result.as_dict()["score_drift"] == pytest.approx(-0.01)
    (frame,) = result.worst()
    assert (frame.token, frame.a, frame.b, frame.gained, frame.lost, frame.changed) == ("token-0", 5, 4, 2, 2, 1)
    assert {line.split()[0] for line in result.exceeded} == {
        "count_share", "lost_share", "gained_share", "changed_share", "center_p90_m",
    }  # fmt: skip
    assert result.metrics["lost_share"] == 0.4 and result.metrics["gained_share"] == 0.5


def test_a_class_that_is_rare_is_not_hidden_by_one_that_is_not(tmp_path):
    cars = [{"x": 5.0 * i} for i in range(2000)]
    trucks = [{"x": 5.0 * i, "y": 50.0, "label": TRUCK} for i in range(20)]
    result = compared(tmp_path, found(*cars, *trucks), found(*cars))
    assert [line.split()[0] for line in result.exceeded] == ["class_lost_share"]
    assert result.metrics["class_lost_share"] == 1.0 and result.metrics["lost_share"] < 0.01


def test_frames_that_only_one_has(tmp_path):
    a = save(tmp_path / "a", *[found({})] * 3)
    b = save(tmp_path / "b", *[found({})] * 3, start=1)
    result = compare(a, b)
    assert [frame.key.timestamp_ns for frame in result.frames] == [500_000_000, 1_000_000_000]
    assert result.only_a == [("scene", 0, 0)] and result.only_b == [("scene", 1_500_000_000, 0)]
    assert result.exceeded == ["unmatched_frames 2 > 0: frames that only one of the results has"]
    assert "only in A: scene 0" in table(result)
    assert not compare(a, b, Tolerances(unmatched_frames=2)).exceeded


def test_results_of_different_scenes(tmp_path):
    a, b = save(tmp_path / "a", found({})), save(tmp_path / "b", found({}), scene="another", start=7)
    off = Tolerances(**{field.name: None for field in dataclasses.fields(Tolerances)})
    assert compare(a, b, off).exceeded == ["no frame is in both results"]
    empty = save(tmp_path / "empty")
    assert compare(empty, empty).exceeded == ["no frame is in both results"]
    for report in ("r.html", "r.png"):
        assert command(a, b, "--report", tmp_path / report) == 1


def test_a_drive_may_have_another_name_in_another_form(tmp_path):
    a, b = save(tmp_path / "a", found({})), save(tmp_path / "b", found({}), scene="another")
    assert len(compare(a, b).frames) == 1 and not compare(a, b).exceeded


def test_what_ended_early_is_no_reference(tmp_path):
    a, b = save(tmp_path / "a", found({})), save(tmp_path / "b", found({}), summary={"complete": False})
    with pytest.raises(ReplayResultError, match="of an interrupted one"):
        update_reference(b, a)


def test_order_does_not_matter_and_a_loop_is_compared_round_by_round(tmp_path):
    first, second = found({"x": 10.0}), found({"x": 30.0})
    a, b = save(tmp_path / "a", first, second), save(tmp_path / "b", first, second)
    lines = (b / "result.jsonl").read_text().splitlines(keepends=True)
    (b / "result.jsonl").write_text("".join(reversed(lines)))
    assert not compare(a, b).exceeded
    for folder in (a, b):
        (folder / "result.jsonl").write_text("".join(lines + lines[:1]))
    assert len(compare(a, b).frames) == 3 and not compare(a, b).exceeded


def test_frames_without_boxes(tmp_path):
    result = compared(tmp_path, NOTHING, NOTHING)
    assert not result.exceeded and result.classes == {} and result.shifts["yaw_deg"].p90 is None
    assert result.total == ClassCounts()
    json.dumps(result.as_dict(), allow_nan=False)
    gained = compare(tmp_path / "a", save(tmp_path / "c", found({})))
    assert gained.metrics["gained_share"] == 1.0 and gained.total == ClassCounts(b=1, gained=1)


def test_latency_of_the_stages_that_both_have(tmp_path):
    slow = [{"model": ms, "draw": 5.0} for ms in (900.0, 100.0, 300.0)]
    fast = [{"model": ms, "load": 1.0} for ms in (900.0, 50.0, 50.0)]
    a = save(tmp_path / "a", *[NOTHING] * 3, latency_ms=slow)
    b = save(tmp_path / "b", *[NOTHING] * 3, latency_ms=fast)
    result = compare(a, b)  # the first frame, cold, is left out
    assert result.latency == {name: (200.0, pytest.approx(280.0), 50.0, 50.0, 0.25) for name in ("model", "total")}
    assert compare(b, a).exceeded == []
    assert compare(b, a, Tolerances(latency_ratio=3.9)).exceeded[0].startswith("latency_ratio 4 > 3.9")


def test_digests_and_metrics_come_from_the_summaries(tmp_path):
    a = save(tmp_path / "a", found({}), summary={"detections_sha256": "1", "metrics": {"mAP": 0.50, "NDS": 0.6}})
    b = save(tmp_path / "b", found({}), summary={"detections_sha256": "1", "metrics": {"mAP": 0.48, "NDS": 0.7}})
    c = save(tmp_path / "c", found({}), summary={"detections_sha256": "2", "metrics": None})
    result = compare(a, b)
    assert result.identical and result.scores == {"mAP": (0.50, 0.48), "NDS": (0.6, 0.7)}
    assert [line.split()[0] for line in result.exceeded] == ["map_drop"]
    assert compare(a, c).identical is False and compare(a, c).scores == {} and not compare(a, c).exceeded
    assert compare(a, save(tmp_path / "d", found({}))).identical is None


def test_a_track_that_goes_on_as_another(tmp_path):
    frames = [found({"x": 10.0}, {"x": 30.0})] * 4
    a = save(tmp_path / "a", *frames, tracks=[(0, 1)] * 4)
    b = save(tmp_path / "b", *frames, tracks=[(7, 8), (7, 8), (9, -1), (9, 8)])
    assert compare(a, b).track_switches == 1 and compare(a, a).track_switches == 0
    assert compare(a, save(tmp_path / "c", *frames)).track_switches is None


BOX = st.fixed_dictionaries({
    "x": st.floats(-60, 60), "y": st.sampled_from([0.0, 0.5, 30.0]), "yaw": st.floats(-4, 4),
    "velocity": st.sampled_from([(0.0, 0.0), (np.nan, np.nan), (3.0, -1.0)]), "label": st.sampled_from([CAR, BARRIER]),
    "score": st.floats(0, 1), "attribute": st.integers(-1, 7),
})  # fmt: skip
FRAME = st.lists(BOX, max_size=8).map(lambda boxes: found(*boxes))


@given(st.lists(FRAME, min_size=1, max_size=3))
def test_nothing_differs_from_itself(tmp_path_factory, frames):
    folder = save(tmp_path_factory.mktemp("result"), *frames)
    result = compare(folder, folder)
    total, boxes = result.total, sum(int((frame.scores >= 0.3).sum()) for frame in frames)
    assert total == ClassCounts(a=boxes, b=boxes) and len(result.pairs) == boxes
    assert result.exceeded == [] and result.worst() == [] and not np.nan_to_num(result.pairs).any()


@given(FRAME, FRAME)
def test_the_counts_add_up(tmp_path_factory, a, b):
    result = compared(tmp_path_factory.mktemp("results"), a, b)
    for counts in [*result.classes.values(), result.total]:
        came = counts.gained + counts.risen + counts.changed_to
        assert counts.b == counts.a + came - counts.lost - counts.faded - counts.changed_from


# Tolerances and the command


def test_tolerances_on_the_command_line():
    limits = Tolerances.parse(["lost_share=0.25", "center_p90_m=none", "latency_ratio=1.5"])
    assert limits == Tolerances(lost_share=0.25, center_p90_m=None, latency_ratio=1.5)
    for wrong, problem in (
        ("lost=1", "unmatched_frames, .* found 'lost=1'"), ("lost_share", "lost_share: a number from 0"),
        ("lost_share=x", "found 'x'"), ("lost_share=-1", "found '-1'"), ("lost_share=nan", "found 'nan'"),
    ):  # fmt: skip
        with pytest.raises(ToleranceError, match=problem):
            Tolerances.parse([wrong])


def test_every_tolerance_limits_a_metric_and_is_documented(tmp_path):
    names = [field.name for field in dataclasses.fields(Tolerances)]
    assert list(compared(tmp_path, NOTHING, NOTHING).metrics) == names
    document = (ROOT / "docs/compare.md").read_text()
    for field in dataclasses.fields(Tolerances):
        default = "none" if field.default is None else f"{field.default:g}"
        assert f"| `{field.name}` | {default} | {field.metadata['meaning']} |" in document


def test_exit_codes(tmp_path, capsys):
    a, b = save(tmp_path / "a", found({}, {"x": 30.0})), save(tmp_path / "b", found({}))
    assert command(a, a) == 0 and "within tolerance" in capsys.readouterr().out
    assert command(a, b) == 1
    out = capsys.readouterr().out
    assert "beyond tolerance:\n" in out and "lost_share 0.5 > 0.02: share of A's boxes that B does not have" in out
    wider = [word for name in ("lost_share", "count_share") for word in ("--tolerance", f"{name}=0.5")]
    assert command(a, b, *wider) == 0
    assert command(a, b, "--score-threshold", "0.95") == 0
    assert command(a, b, "--json", tmp_path / "out/metrics.json") == 1
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written["boxes"]["lost"] == 1 and written["metrics"]["lost_share"] == 0.5 and len(written["exceeded"]) == 2


def test_results_of_other_classes_cannot_be_compared(tmp_path):
    a = save(tmp_path / "a", found({}))
    with LinesSink(tmp_path / "b" / "result.jsonl", Task([ObjectClass("ship"), ObjectClass("buoy")])):
        pass
    with pytest.raises(CompareError, match=r"b: the classes and attributes of .*a were expected, found ship, buoy"):
        compare(a, tmp_path / "b")


def test_what_cannot_be_compared(tmp_path):
    a = save(tmp_path / "a", found({}), found({}))
    for threshold in ("0", "1.1", "nan"):
        with pytest.raises(CompareError, match=r"a score threshold in 0..1"):
            command(a, a, "--score-threshold", threshold)
    with pytest.raises(CompareError, match="positive match distance"):
        command(a, a, "--match-distance", "0")
    with pytest.raises(ReplayResultError, match=r"nowhere/result.jsonl: the result of a replay was expected"):
        command(a, tmp_path / "nowhere")
    b = save(tmp_path / "b", found({}), found({}))
    (b / "result.jsonl").write_text((b / "result.jsonl").read_text().replace('"car"', '"tram"'))
    with pytest.raises(ReplayResultError, match=r"b/result.jsonl: line 1: .*'tram'"):
        command(a, b)
    with pytest.raises(PerceptionError, match=r"ends in .html or .png"):
        command(a, a, "--report", tmp_path / "report.pdf")


# Reports


def differing(tmp_path) -> tuple[Path, Path]:
    a = save(tmp_path / "a", *[found({}, {"x": 30.0}, {"x": 20.0, "label": TRUCK})] * 3, scene="<scene> & co")
    b = save(
        tmp_path / "b", *[found({"x": 10.5}, {"x": -20.0}, {"x": 20.0, "label": BARRIER})] * 3, scene="<scene> & co"
    )
    return a, b


def test_the_page_has_the_numbers_and_needs_nothing_else(tmp_path):
    pytest.importorskip("matplotlib")
    a, b = differing(tmp_path)
    assert command(a, b, "--report", tmp_path / "report.html") == 1
    page = (tmp_path / "report.html").read_text()
    assert "Beyond tolerance" in page and "lost_share 0.3333 &gt; 0.02" in page
    assert "<tr><td>car</td><td>6</td><td>6</td><td>3</td><td>3</td>" in page
    assert "<td>truck -&gt; barrier</td><td>3</td>" in page and "<td>center_m</td><td>0.500</td>" in page
    assert "token-0" in page and "<scene>" not in page
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page) and "<script" not in page
    plots = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    drawn = [base64.b64decode(plot).decode() for plot in plots]
    assert len(drawn) == 2 + 3  # timeline, histograms and every frame that differs
    assert "gained" in drawn[0] and "score, B less A" in drawn[1]
    assert "&lt;scene&gt; &amp; co, 1 gained, 1 lost, 1 changed" in drawn[2] and "truck 0.90" in drawn[2]
    command(a, b, "--report", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    command(*differing(tmp_path), "--report", tmp_path / "report.png")
    picture = cv2.imread(str(tmp_path / "report.png"))
    gained, lost = ((picture == np.array(bgr)).all(axis=2).sum() for bgr in ((0x50, 0x98, 0x1A), (0x27, 0x30, 0xD7)))
    assert picture.shape[1] > 1500 and gained > 1000 and lost > 1000


def test_a_report_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    a = save(tmp_path / "a", found({}))
    with pytest.raises(PerceptionError, match=r'pip install -e "\.\[viz\]"'):
        command(a, a, "--report", tmp_path / "report.html")


# References


def test_a_reference_is_replaced_by_what_was_compared(tmp_path, capsys):
    a, b = save(tmp_path / "a", found({})), save(tmp_path / "b", NOTHING, summary={"frames": 1})
    (a / "replay.mp4").write_text("of the old one")
    assert command(a, b, "--update-reference") == 0
    assert "beyond tolerance" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in a.iterdir()} == {
        path.name: path.read_bytes() for path in b.iterdir()
    }
    assert command(a, b) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_reference_that_is_not_there_yet(tmp_path):
    b = save(tmp_path / "b", found({}))
    assert command(tmp_path / "new/reference", b, "--update-reference") == 0
    assert command(tmp_path / "new/reference", b) == 0


def test_a_failure_leaves_the_old_reference(tmp_path, monkeypatch):
    a, b = save(tmp_path / "a", found({})), save(tmp_path / "b", NOTHING)
    before, rename = (a / "result.jsonl").read_bytes(), Path.rename

    def fails(path, target):
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ResultsError, match="cannot be written: No space left"):
        update_reference(b, a)
    assert (a / "result.jsonl").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_what_may_not_become_a_reference(tmp_path):
    a, b = save(tmp_path / "a", found({})), save(tmp_path / "a/b", found({}))
    for new, reference in ((a, a), (a, b), (b, a)):
        with pytest.raises(ReplayResultError, match="a folder apart from"):
            update_reference(new, reference)
    (b / "result.jsonl").rename(b / "result.part.jsonl")
    with pytest.raises(ReplayResultError, match="found that of an interrupted one"):
        update_reference(b, tmp_path / "c")
