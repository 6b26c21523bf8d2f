"""Runs side by side: their tables, worked out by hand from logs of a few lines."""

import json

import pytest

from perception.cli import run
from perception.errors import PerceptionError
from perception.train.runs import differences, read_run, table


def write(folder, rows, config="train: {epochs: 3, seed: 1}\nhead: {groups: []}\n", end=""):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return folder


@pytest.fixture
def folders(tmp_path):
    first = [
        {"kind": "steps", "step": 1, "total": 9.0, "elapsed_s": 5.0},
        {"kind": "epoch", "step": 10, "total": 4.5, "samples_per_s": 2.04, "data_share": 0.126, "elapsed_s": 5400.0},
        {"kind": "validation", "step": 10, "epoch": 1, "mAP": 0.25, "NDS": 0.5, "mATE": 0.5},
        {"kind": "validation", "step": 20, "epoch": 2, "mAP": 0.3, "NDS": 0.4},
    ]
    second = [{"kind": "steps", "step": 7, "total": 3.0, "elapsed_s": 36.0}]
    other = "train: {epochs: 3, seed: 2}\nhead: {groups: []}\nnew: {key: word}\n"
    return write(tmp_path / "a", first), write(tmp_path / "b", second, other, end='{"kind": "st')


def test_a_line_for_each_run(folders, tmp_path):
    lines = [line.replace(str(tmp_path), "") for line in table([read_run(f) for f in folders]).splitlines()]
    assert lines[1].split() == [
        "/a", "1/3", "20", "1.50", "2.0", "13", "%", "4.500", "1", "0.2500", "0.5000", "0.5000", "-", "-", "-", "-",
    ]  # fmt: skip
    assert lines[2].split() == ["/b", "0/3", "7", "0.01", *["-"] * 11]


def test_what_configs_differ_in(folders):
    rows = [line.split() for line in differences([read_run(folder) for folder in folders]).splitlines()[1:]]
    assert rows == [["train.seed", "1", "2"], ["new.key", "-", "word"]]
    assert differences([read_run(folders[0])] * 2) == ""


def test_the_command(folders, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run(["runs", *map(str, folders), "--plot", str(tmp_path / "deep/runs.png")])
    out = capsys.readouterr().out
    assert "train.seed" in out and f"{tmp_path}/deep/runs.png" in out
    assert (tmp_path / "deep/runs.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_no_kind(folders, tmp_path):
    with pytest.raises(PerceptionError, match=r"a file \.png, \.pdf or \.svg was expected"):
        run(["runs", *map(str, folders), "--plot", str(tmp_path / "runs.xyz")])


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(PerceptionError, match=r"a run, with config\.yaml and log\.jsonl, was expected"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("[")
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(PerceptionError, match=r"config\.yaml"):
        read_run(tmp_path)
