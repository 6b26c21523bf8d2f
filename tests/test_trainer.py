"""What a training run writes down and when it saves, what may change before it is resumed, and where it runs."""

import json
from dataclasses import replace

import pytest
import torch
from test_train import Frames, NanLoss, StubLoss, lines, make_config, trainer

from perception.errors import PerceptionError
from perception.train.checkpoint import read_checkpoint
from perception.train.journal import Journal, Window
from perception.train.optim import one_cycle
from perception.train.trainer import TrainingError, any_process, process_group, stop_signals

CPU = torch.device("cpu")


class Counted(StubLoss):
    """1, 2, 3, ... in steps 1, 2, 3, ..., whatever the prediction; and a part that only even steps have."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, prediction, batch):
        self.calls += 1
        total = self.calls + 0.0 * super().forward(prediction, batch)["total"]
        return {"total": total} if self.calls % 2 else {"total": total, "depth": torch.tensor(float(self.calls))}


def test_every_twenty_steps_are_a_line(tmp_path):
    """Means over steps 1 to 20 and 21 to 40; the last four steps are in the line of their epoch only."""
    config = make_config(epochs=2, batch_size=1, learning_rate=0.5)
    assert trainer(tmp_path, Frames(22), config, Counted()).run()
    steps = [line for line in lines(tmp_path) if line["kind"] == "steps"]
    assert [line["step"] for line in steps] == [20, 40]
    assert [line["total"] for line in steps] == pytest.approx([10.5, 30.5])
    assert [line["depth"] for line in steps] == pytest.approx([11, 31])
    assert [line["learning_rate"] for line in steps] == pytest.approx([0.5 * one_cycle(n / 44) for n in (20, 40)])
    assert all(line["samples_per_s"] > 0 and line["gradient_norm"] == 0 for line in steps)
    assert 0 < steps[0]["elapsed_s"] < steps[1]["elapsed_s"]
    epochs = [line for line in lines(tmp_path) if line["kind"] == "epoch"]
    assert [line["total"] for line in epochs] == pytest.approx([11.5, 33.5])
    assert [(line["epoch"], line["step"], line["broken_steps"]) for line in epochs] == [(1, 22, 0), (2, 44, 0)]


def test_means_are_over_the_batches_that_have_a_loss(monkeypatch):
    window = Window()
    assert window.pop() == {}
    now = iter((10.0, 14.0, 20.0))
    monkeypatch.setattr("perception.train.journal.time.monotonic", lambda: next(now))
    window = Window()
    window.add({"a": torch.tensor(1.0), "b": torch.tensor(5.0)}, samples=3)
    window.add({"a": torch.tensor(2.0)}, samples=5)
    assert window.pop() == {"a": 1.5, "b": 5.0, "samples_per_s": 2.0}
    assert window.sums == window.counts == {} and window.samples == 0


def test_a_resumed_log_goes_on_behind_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"kind": "steps", "step": step}) + "\n" for step in (20, 40, 60)) + '{"kind"')
    Journal(tmp_path, 40, rank=1).write("steps", 41, {})
    assert len(path.read_text().splitlines()) == 4  # another process writes nothing
    journal = Journal(tmp_path, 40, rank=0)
    journal.write("epoch", 41, {"total": 0.5}, epoch=1)
    journal.close()
    assert [line["step"] for line in lines(tmp_path)] == [20, 40, 41]
    assert lines(tmp_path)[-1] == {"kind": "epoch", "step": 41, "total": 0.5, "epoch": 1}
    Journal(tmp_path, 0, rank=0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize(("minutes", "steps"), [(0.0, [1, 2, 3, 4, 4]), (60.0, [4])])
def test_a_run_is_saved_every_few_minutes_and_at_the_end_of_an_epoch(tmp_path, minutes, steps):
    run, saved = trainer(tmp_path, Frames(4), make_config(epochs=1, batch_size=1, checkpoint_minutes=minutes)), []
    save = run.save
    run.save = lambda: (saved.append(run.step), save())
    assert run.run() and saved == steps


def test_other_processes_save_nothing(tmp_path):
    run = trainer(tmp_path)
    run.rank = 1
    run.save()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_says_where_the_run_is(tmp_path):
    config = make_config(epochs=2)
    assert trainer(tmp_path, config=config).run()
    tensors, state = read_checkpoint(tmp_path / "checkpoint.safetensors")
    assert state["step"] == state["total_steps"] == 8 and state["elapsed_s"] > 0
    assert state["config"]["train"]["epochs"] == 2
    assert set(tensors) == {"model", "ema", "optimizer"}
    assert any(name.endswith("exp_avg") for name in tensors["optimizer"])


def test_where_data_lies_and_how_it_is_read_may_change(tmp_path):
    trainer(tmp_path).run()
    config = make_config(checkpoint_minutes=1.0)
    config.data = replace(config.data, root="elsewhere", workers=1)
    run = trainer(tmp_path, config=config)
    run.resume()
    assert run.step == 8 and run.elapsed_s > 0
    config.data.lidar_sweeps, config.train.seed = 3, 5
    with pytest.raises(
        TrainingError, match=r"another config: data\.lidar_sweeps \(10, now 3\), train\.seed \(0, now 5\)"
    ):
        run.resume()


def test_a_run_on_other_frames_is_not_resumed(tmp_path):
    trainer(tmp_path).run()
    with pytest.raises(TrainingError, match="a run of 8 steps was expected, found 10: the number of frames"):
        trainer(tmp_path, Frames(11)).resume()


def test_weights_of_another_model_are_named(tmp_path):
    trainer(tmp_path).run()
    run = trainer(tmp_path)
    run.model.encoders["radar"] = torch.nn.Linear(3, 3)
    with pytest.raises(TrainingError, match=r"does not fit this version of the model: .*radar"):
        run.resume()


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_less_than_one_is_named(tmp_path, name):
    with pytest.raises(TrainingError, match=rf"train\.{name}: at least 1 was expected, found 0"):
        trainer(tmp_path, config=make_config(**{name: 0}))


def test_broken_steps_are_forgotten_after_a_good_one(tmp_path):
    """Nine in a row, one good one, nine more: no ten in a row."""
    config = make_config(epochs=1, batch_size=1)
    run = trainer(tmp_path, Frames(19), config, NanLoss({*range(9), *range(10, 19)}))
    assert run.run() and lines(tmp_path)[-1]["broken_steps"] == 18
    with pytest.raises(TrainingError, match=r"step 9: .* for 10 steps in a row"):
        trainer(tmp_path, Frames(19), config, NanLoss(range(10))).run()


def test_a_gradient_that_is_not_finite_is_a_broken_step(tmp_path):
    class Steep(StubLoss):
        def forward(self, prediction, batch):
            return {"total": (prediction * 0).sum().sqrt()}  # 0, of infinite slope

    run = trainer(tmp_path, Frames(2), make_config(epochs=1), Steep())
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    assert run.run() and lines(tmp_path)[-1]["broken_steps"] == 1
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())


def test_where_a_run_is_computed(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("auto", "cpu"):
        with process_group(device) as place:
            assert place == CPU
    with pytest.raises(PerceptionError, match="cuda was asked for, but torch finds no GPU"), process_group("cuda"):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, kind in (("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu"), ("cuda:1", "cuda:1")):
        with process_group(device) as place:
            assert place == torch.device(kind)


def test_alone_a_process_goes_by_its_own_flags():
    assert any_process([True, False], CPU) == [True, False]


def test_signals_are_handled_as_before_when_a_run_has_ended():
    import os
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals() as received:
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):  # a second one does not wait for the end of a step
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
