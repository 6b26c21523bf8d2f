"""Scoring during training: when, what is kept as the best and the last, and that a resumed run knows it."""

import itertools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_train import Frames, StubLoss, StubModel, lines, make_config
from tiny_drive import tiny_world

import perception
from perception.cli import run
from perception.config import ConfigError, load_config
from perception.train.trainer import Trainer

ERRORS = {"mATE": 0.5, "mASE": 0.1, "mAOE": None, "mAVE": 0.2, "mAAE": 0.3}


class Scores(list):
    weights: list


@pytest.fixture
def scored(monkeypatch):
    found = Scores()
    found.weights = []

    def evaluate(detector, frames, workers):
        assert not detector.training and len(frames) == 3 and workers == 0
        found.weights.append({name: value.clone() for name, value in detector.state_dict().items()})
        score = found.pop(0)
        if isinstance(score, BaseException):
            raise score
        return {"mAP": score / 2, "NDS": score, **ERRORS, "AP": {"car": score}}

    monkeypatch.setattr("perception.train.validation.evaluate", evaluate)
    monkeypatch.setattr("perception.train.validation.log_pictures", lambda *_: None)
    return found


def trainer(out, every_epochs=1, **train) -> Trainer:
    config = make_config(**{"epochs": 3, **train})
    config.validation.every_epochs = every_epochs
    return Trainer(StubModel(), StubLoss(), Frames(4), config, out, torch.device("cpu"), Frames(3))


def test_every_epoch_is_a_row_and_the_best_is_kept(tmp_path, scored):
    scored.extend([0.1, 0.3, 0.2])
    model = trainer(tmp_path)
    assert model.run() and model.model.training
    rows = [line for line in lines(tmp_path) if line["kind"] == "validation"]
    assert [(row["epoch"], row["step"], row["NDS"], row["mAP"], row["AP"]["car"]) for row in rows] == [
        (1, 2, 0.1, 0.05, 0.1), (2, 4, 0.3, 0.15, 0.3), (3, 6, 0.2, 0.1, 0.2),
    ]  # fmt: skip
    assert rows[0]["mATE"] == 0.5 and "mAOE" not in rows[0]
    best = load_file(tmp_path / "best/model.safetensors")
    for name, value in scored.weights[1].items():  # of the second scoring, averaged over the steps
        torch.testing.assert_close(best[name], value)
    assert any((scored.weights[2][name] != value).any() for name, value in best.items())


def test_weights_have_a_manifest(tmp_path, scored):
    scored.extend([0.1, 0.3, 0.2])
    trainer(tmp_path, keep_epochs=1).run()
    last, best, kept = (
        json.loads((tmp_path / name / "manifest.json").read_text()) for name in (".", "best", "epoch-3")
    )
    assert last["package"] == perception.__version__ and last["torch"] == torch.__version__
    assert (
        last["data"]["frames"] == 4 and last["data"]["root"] == "data/sim" and len(last["data"]["tokens_sha256"]) == 64
    )
    assert (last["step"], last["total_steps"], last["scores"]["NDS"]) == (6, 6, 0.2)
    assert (best["step"], best["scores"]) == (4, {"epoch": 2, "mAP": 0.15, "NDS": 0.3, "mATE": 0.5, "mASE": 0.1,
                                                 "mAVE": 0.2, "mAAE": 0.3})  # fmt: skip
    assert (kept["step"], kept["scores"]["epoch"]) == (6, 3)


def test_scores_are_taken_every_so_often_and_at_the_end(tmp_path, scored):
    scored.extend([0.1, 0.2, 0.3])
    trainer(tmp_path, every_epochs=2, epochs=5).run()
    rows = [line for line in lines(tmp_path) if line["kind"] == "validation"]
    assert [row["epoch"] for row in rows] == [2, 4, 5]


def test_the_last_epochs_are_kept(tmp_path, scored):
    scored.extend([0.1] * 4)
    trainer(tmp_path, epochs=4, keep_epochs=2).run()
    assert sorted(path.name for path in tmp_path.glob("epoch-*")) == ["epoch-3", "epoch-4"]
    assert (tmp_path / "epoch-3/config.yaml").exists()
    assert (tmp_path / "best/model.safetensors").exists()


def test_what_a_signal_interrupted_is_scored_when_the_run_goes_on(tmp_path, scored):
    """While the second epoch is scored, and while the third is. The first stays the best."""
    scored.extend([0.3, KeyboardInterrupt()])
    first = trainer(tmp_path)
    assert first.run() is False and first.step == 4
    best = (tmp_path / "best/model.safetensors").read_bytes()
    scored.extend([0.2, KeyboardInterrupt()])
    second = trainer(tmp_path)
    second.resume()
    assert second.validator.best == 0.3 and second.run() is False and second.step == 6
    scored.extend([0.1])
    third = trainer(tmp_path)
    third.resume()
    assert third.run() and (tmp_path / "best/model.safetensors").read_bytes() == best
    rows = [(line["epoch"], line["NDS"]) for line in lines(tmp_path) if line["kind"] == "validation"]
    assert rows == [(1, 0.3), (2, 0.2), (3, 0.1)]
    fourth = trainer(tmp_path)
    fourth.resume()
    assert fourth.run() and not scored  # nothing is left to do


def test_a_run_killed_before_its_scores_were_saved_has_them_once(tmp_path, scored):
    scored.extend([0.3, 0.2, 0.1])
    first, left = trainer(tmp_path / "whole"), []
    save = first.save
    first.save = lambda: (save(), left.append(shutil.copytree(tmp_path / "whole", tmp_path / f"left{len(left)}")))
    first.run()
    assert len(left) == 6  # before and after each scoring
    for number, folder in enumerate(left):
        scored[:] = [0.3, 0.2, 0.1][(number + 1) // 2 :]
        again = trainer(folder)
        again.resume()
        assert again.run() and not scored and again.validator.best == 0.3
        rows = [(line["epoch"], line["NDS"]) for line in lines(folder) if line["kind"] == "validation"]
        assert rows == [(1, 0.3), (2, 0.2), (3, 0.1)]


def test_scoring_takes_none_of_the_time_of_training(tmp_path, scored, monkeypatch):
    """Every look at the clock takes a second; a scoring takes a thousand looks."""
    now = itertools.count()
    monkeypatch.setattr("perception.train.journal.time.monotonic", lambda: float(next(now)))
    run = trainer(tmp_path)
    run.validator.score = lambda *_: [next(now) for _ in range(1000)] == []
    run.validator.scores = {"epoch": 0}
    run.run()
    rates = [line["samples_per_s"] for line in lines(tmp_path) if line["kind"] == "epoch"]
    assert len(rates) == 3 and min(rates) > 4 / 500


def test_what_is_trained_on_is_no_validation():
    for overrides in ([], ["validation.root=data/sim"], ["validation.split=mini_train", "data.split=mini_train"]):
        with pytest.raises(ConfigError, match="something else than what is trained on was expected"):
            load_config(None, ["validation.every_epochs=1", *overrides])
    assert load_config(None, ["validation.every_epochs=1", "validation.part=[0.5, 1]"]).validation.part == [0.5, 1]


def test_the_command_scores_the_drives_that_a_config_names(tmp_path):
    root, other = (tiny_world().write(tmp_path / name) for name in ("drive", "other"))
    overrides = [
        "grid.x_min_m=-12.8", "grid.x_max_m=12.8", "grid.y_min_m=-12.8", "grid.y_max_m=12.8",
        "encoders.camera=null", "encoders.radar=null", "encoders.lidar.point_channels=8", "fusion.channels=16",
        "fusion.heads=2", "head.trunk_channels=[16,16]", "head.channels=16", "head.score_threshold=0.0",
        f"data.root={root}", "data.workers=0", f"validation.root={other}", "validation.every_epochs=1",
        "train.epochs=1", "train.batch_size=2",
    ]  # fmt: skip
    config = tmp_path / "tiny.yaml"
    config.write_text("{}")
    assert run(["train", str(config), *overrides, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    (row,) = [row for row in lines(tmp_path / "run") if row["kind"] == "validation"]
    best = perception.load(tmp_path / "run/best")
    out = tmp_path / "scores.json"
    run(["evaluate", "--checkpoint", str(tmp_path / "run/best"), "--root", str(other), "--json", str(out)])
    assert json.loads(out.read_text())["subsets"]["lidar"]["NDS"] == row["NDS"]
    assert best.sensors == ("lidar",)
