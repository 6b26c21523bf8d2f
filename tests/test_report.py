"""Figures into documents."""

import json

import pytest

from benchmarks.report import put_between_markers, sections
from perception.errors import PerceptionError


def scores(**changes):
    names = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    return {**dict.fromkeys(names, 0.5), "AP": {"car": 0.25, "bus": None}, "boxes": 7, **changes}


def row(condition="clean", mAP=0.5, NDS=0.5, severity=0, fusion="attention", run="shipped", seed=0, drives=1):
    errors = {name: 0.5 for name in ("mATE", "mASE", "mAOE", "mAVE", "mAAE")}
    where = {"run": run, "fusion": fusion, "condition": condition, "severity": severity, "seed": seed, "drives": drives}
    return {**where, "mAP": mAP, "NDS": NDS, **errors, "frames": 4, "weights_sha256": "0123456789abcdef"}


def write(tmp_path, rows):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    return path


def test_only_what_is_between_the_markers_changes(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- x -->\nold\n<!-- end -->\nmiddle\n<!-- y -->\nkept\n<!-- end -->\n")
    put_between_markers(document, "new", "x")
    put_between_markers(document, "new", "x")
    want = "before\n<!-- x -->\nnew\n<!-- end -->\nmiddle\n<!-- y -->\nkept\n<!-- end -->\n"
    assert document.read_text() == want


@pytest.mark.parametrize("text", ["", "<!-- x -->", "<!-- end --> <!-- x -->"])
def test_missing_markers_are_an_error_and_change_nothing(tmp_path, text):
    document = tmp_path / "a.md"
    document.write_text(text)
    with pytest.raises(PerceptionError, match=r"a\.md"):
        put_between_markers(document, "new", "x")
    assert document.read_text() == text


def test_tables_by_hand(tmp_path):
    report = {"subsets": {"lidar": scores(mAVE=None)}, "ground_truth": {"car": 3, "bus": 0}, "frames": 2}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**report, "weights_sha256": "0123456789abcdef"}))
    lines = sections(path)["a"].splitlines()
    assert lines[2] == "| lidar | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | – | 0.500 | 7 |"
    assert lines[-4:] == ["| car | 3 | 0.250 |", "| bus | 0 | – |", "", "2 frames; weights `0123456789ab`."]


def test_decoders_are_compared_for_every_set_of_sensors(tmp_path):
    row = dict.fromkeys(("mAP", "NDS", "mATE", "mAOE", "mAVE"), 0.5)
    rows = [{**row, "decoder": "tokens", "seed": seed, "sensors": "lidar", "mAP": 0.25 + 0.5 * seed} for seed in (0, 1)]
    lines = sections(write(tmp_path, rows))["a"].splitlines()
    assert (
        lines[-1]
        == "| lidar | tokens | 0.500 ± 0.354 | 0.500 ± 0.000 | 0.500 ± 0.000 | 0.500 ± 0.000 | 0.500 ± 0.000 |"
    )


@pytest.mark.parametrize("content", ["", "{}", '{"subsets": 3, "ground_truth": {}}', '[{"condition": "clean"}]', "[3]"])
def test_another_file_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(PerceptionError, match=r"a\.json"):
        sections(path)


def test_the_shipped_checkpoint_by_hand(tmp_path):
    """RA is 0.8, 0.6, 0.4 of one corruption and 1 of another; clean is the mean of two sets of drives."""
    cells = [row("mc:fog", NDS=0.4, severity=1), row("mc:fog", NDS=0.3, severity=2), row("mc:fog", NDS=0.2, severity=3)]
    cells += [row("mc:dark", NDS=0.5, severity=s) for s in (1, 2, 3)]
    missing = [row("only:camera+radar", NDS=0.42), row("silent:lidar_empty", NDS=0.4)]
    radar = [row("only:camera+lidar", mAP=0.3), row("radar:ghosts", mAP=0.29, severity=1)]
    rows = [row(), row(drives=2, mAP=0.6), *cells, *missing, *radar]
    text = sections(write(tmp_path, rows))["shipped"]
    assert "| camera+radar+lidar | 0.550 ± 0.071 |" in text  # 0.5 and 0.6
    assert "| fog | 0.800 | 0.600 | 0.400 | 0.600 |" in text
    assert "mRA = 0.800; worst cell 0.400." in text
    assert "| lidar_empty | 0.500 | 0.500 | 0.400 | 0.420 | +2.0 |" in text
    assert "| radar:ghosts/1 | 0.290 | 0.300 | -1.0 |" in text


def test_the_ablation_by_hand(tmp_path):
    """The gain is taken seed by seed: 10 and 20 points; a seed that only one block has is left out of it."""
    ours = [row(run="ablation", mAP=mAP, seed=seed) for seed, mAP in ((0, 0.5), (1, 0.6), (2, 0.1))]
    theirs = [row(run="ablation", fusion="concat", mAP=0.4, seed=seed) for seed in (0, 1)]
    text = sections(write(tmp_path, [*ours, *theirs]))["ablation"]
    assert "| clean | 40.0 ± 26.5 | 40.0 ± 0.0 | +15.0 ± 7.1 |" in text


def test_plots_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.plots import draw_plots

    cells = [row("mc:fog", severity=s) for s in (1, 2, 3)]
    path = write(tmp_path, [row(), *cells, row(run="ablation"), row(run="ablation", fusion="concat")])
    others = [
        tmp_path / "recorded.json",
        tmp_path / "registration.json",
        tmp_path / "scores.json",
        tmp_path / "none.json",
    ]
    others[0].write_text('[{"condition": "clean", "on_nothing": 8.0}]')
    others[1].write_text('{"sensors": {}, "frames": 20}')
    others[2].write_text('{"subsets": {}, "ground_truth": {}}')
    others[3].write_text("[]")
    names = [picture.name for picture in draw_plots([path, *others], tmp_path / "plots")]
    assert names == ["subsets.png", "multicorrupt.png", "ablation.png"]
    assert all((tmp_path / "plots" / name).stat().st_size > 1000 for name in names)
