"""What a training run writes down and when it saves, what may change before it is resumed, and where it runs."""

import json
import logging
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_train import INPUTS, SENSORS, Frames, NanLoss, StubLoss, StubModel, lines, make_config, trainer
from torch import distributed

from perception.batch import InputSpec
from perception.config import load_config
from perception.data.nuscenes import NuScenes
from perception.errors import PerceptionError
from perception.model.score_calibration import ScoreCalibration
from perception.processes import any_process, of_first_process, process_group, stop_signals
from perception.sample import Boxes3D
from perception.task import NUSCENES
from perception.train.checkpoint import read_checkpoint, write_checkpoint
from perception.train.initialise import TrainingError, initialise
from perception.train.journal import Journal, Step, Window
from perception.train.labels import LabelError
from perception.train.optim import one_cycle
from perception.train.run import pretrain, train
from perception.train.same_run import _differences
from perception.train.trainer import Trainer

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
    assert [line["step"] for line in steps] == [1, 20, 40]
    del steps[0]  # the first step's
    assert [line["total"] for line in steps] == pytest.approx([10.5, 30.5])
    assert [line["depth"] for line in steps] == pytest.approx([11, 31])
    assert [line["learning_rate"] for line in steps] == pytest.approx([0.5 * one_cycle(n / 44) for n in (20, 40)])
    assert all(line["samples_per_s"] > 0 and line["gradient_norm"] == 0 for line in steps)
    assert 0 < steps[0]["elapsed_s"] < steps[1]["elapsed_s"]
    epochs = [line for line in lines(tmp_path) if line["kind"] == "epoch"]
    assert [line["total"] for line in epochs] == pytest.approx([11.5, 33.5])
    assert 0 < epochs[0]["elapsed_s"] < epochs[1]["elapsed_s"]
    assert [(line["epoch"], line["step"], line["broken_steps"]) for line in epochs] == [(1, 22, 0), (2, 44, 0)]


def test_training_starts_from_one_checkpoint_over_the_other(tmp_path, monkeypatch):
    """Both runs, with labels and without."""
    named = []
    monkeypatch.setattr("perception.train.run.initialise", lambda model, checkpoint: named.append(checkpoint))
    monkeypatch.setattr("perception.train.run.Trainer", lambda *parts: trainer(tmp_path / str(len(named))))
    config = load_config("sim", ["encoders.camera=null", "train.init=[all, lidar]"])
    assert train(config, tmp_path / "train", device="cpu", source=Frames(9))
    assert pretrain(config, tmp_path / "pretrain", device="cpu", source=Frames(9))
    assert named == ["all", "lidar", "all", "lidar"]


def test_means_are_over_the_batches_that_have_a_loss(monkeypatch):
    window = Window()
    assert window.pop() == {}
    now = iter((10.0, 14.0, 20.0))
    monkeypatch.setattr("perception.train.journal.time.monotonic", lambda: next(now))
    window = Window()
    window.add(Step({"a": 1.0, "b": 5.0}, 3, 0.5))
    window.add(Step({"a": 2.0}, 5, 0.5))
    assert window.pop() == {"a": 1.5, "b": 5.0, "samples_per_s": 2.0, "data_share": 0.25}
    assert window.sums == window.counts == {} and window.samples == 0


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its config lacks keys that are new since, and there was one batch a step for each process."""
    run = trainer(tmp_path, Frames(4), make_config(epochs=1, batch_size=1))
    run.run()
    tensors, state = read_checkpoint(run.checkpoint)
    new = [("train", "batches_per_step"), ("train", "balanced"), ("augment", "paste"), ("data", "objects")]
    for section, key in new:
        del state["config"][section][key]
    del state["config"]["validation"], state["validator"]
    write_checkpoint(run.checkpoint, tensors, state)
    changed = make_config(epochs=2, batch_size=1)
    changed.train.balanced = True
    with pytest.raises(TrainingError, match=r"another config: train\.balanced \(False, now True\); to train"):
        trainer(tmp_path, Frames(4), changed).resume()
    run = trainer(tmp_path, Frames(4), make_config(epochs=2, batch_size=1))
    run.resume()
    assert run.step == 4 and run.run() and run.total_steps == 8


def test_a_step_of_several_processes_is_one():
    """One process had no camera in its batch, hence no loss of depth."""
    parts = [Step({"a": 1.0, "depth": 3.0}, 2, 0.5, 7), Step({"a": 2.0}, 1, 0.1, 4)]
    assert Step.joined(parts) == Step({"a": 1.5, "depth": 3.0}, 3, 0.3, 11)
    assert Step.joined(parts[:1]) == parts[0] and Step.joined([Step({}, 0), Step({}, 2)]) == Step({}, 2)


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


@pytest.mark.parametrize(("minutes", "steps"), [(0.0, [1, 2, 3, 4]), (60.0, [4])])
def test_a_run_is_saved_every_few_minutes_and_at_the_end_of_an_epoch(tmp_path, minutes, steps):
    run, saved = trainer(tmp_path, Frames(4), make_config(epochs=1, batch_size=1, checkpoint_minutes=minutes)), []
    save = run.save
    run.save = lambda: (saved.append(run.step), save())
    assert run.run() and saved == steps


def test_a_run_killed_around_any_save_ends_in_the_same_log(tmp_path):
    """What the folder is before and after each save is what a kill would leave there."""
    config = make_config(epochs=2, batch_size=2, checkpoint_minutes=0.0)
    left, times = [], ("elapsed_s", "samples_per_s", "data_share", "memory_mb")
    run = trainer(tmp_path / "run", Frames(4), config)
    save = run.save

    def leave():
        left.append(shutil.copytree(run.out, tmp_path / f"left-{len(left)}"))

    run.save = lambda: (leave(), save(), leave())

    def rows(folder):
        return [{key: value for key, value in line.items() if key not in times} for line in lines(folder)]

    assert run.run() and len(left) == 8
    assert [(line["kind"], line["step"]) for line in rows(run.out)] == [("steps", 1), ("epoch", 2), ("epoch", 4)]
    for folder in left:
        resumed = trainer(folder, Frames(4), config)
        resumed.resume()
        assert resumed.run() and rows(folder) == rows(run.out)


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


@pytest.mark.parametrize("state", ["[" * 100_000, "{", ""])
def test_a_state_that_is_no_json_is_one_clear_line(tmp_path, state):
    save_file({"model/x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors", metadata={"state": state})
    with pytest.raises(PerceptionError, match=r"checkpoint\.safetensors: a training checkpoint was expected: \w+"):
        read_checkpoint(tmp_path / "checkpoint.safetensors")


def test_a_line_of_the_log_that_is_no_json_is_behind_every_checkpoint(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "steps", "step": 20}\n' + "[" * 100_000 + "\n")
    Journal(tmp_path, 40, rank=0).close()
    assert [line["step"] for line in lines(tmp_path)] == [20]


def test_where_data_lies_and_how_it_is_read_may_change(tmp_path):
    trainer(tmp_path).run()
    config = make_config(checkpoint_minutes=1.0)
    config.data = replace(config.data, root="elsewhere", workers=1)
    run = trainer(tmp_path, config=config)
    run.resume()
    assert run.step == 8 and run.elapsed_s > 0
    config.data.lidar_sweeps, config.train.seed = 3, 5
    changed = r"another config: data\.lidar_sweeps \(10, now 3\), train\.seed \(0, now 5\); "
    with pytest.raises(TrainingError, match=changed + f".*train.init={re.escape(str(tmp_path))}"):
        run.resume()


def test_a_run_on_other_frames_is_not_resumed(tmp_path):
    trainer(tmp_path).run()
    with pytest.raises(TrainingError, match="a run of 8 steps was expected, found 10: the number of frames"):
        trainer(tmp_path, Frames(11)).resume()


def test_a_finished_run_goes_on_for_more_epochs(tmp_path):
    """Of 4 steps each; the learning rate is that of 12 steps from then on."""
    trainer(tmp_path, config=make_config(epochs=2)).run()
    run = trainer(tmp_path, config=make_config(epochs=3))
    run.resume()
    assert (run.step, run.total_steps) == (8, 12)
    assert run.learning_rate == pytest.approx(1e-3 * one_cycle(8 / 12))
    assert run.run() and run.step == 12
    assert [line["epoch"] for line in lines(tmp_path) if line["kind"] == "epoch"] == [1, 2, 3]
    with pytest.raises(TrainingError, match=r"train\.epochs of at least 3, which are done, was expected, found 2"):
        trainer(tmp_path, config=make_config(epochs=2)).resume()


def test_a_run_that_is_not_there_is_not_resumed(tmp_path, stubbed):
    with pytest.raises(TrainingError, match="nowhere: a training run to resume was expected, found no such folder"):
        train(make_config(), tmp_path / "nowhere", resume=True, device="cpu", source=Frames(4), build=build_stub)
    assert not (tmp_path / "nowhere").exists()


class Elsewhere(Frames):
    """Frames whose boxes are all outside the grid, or that have none."""

    def __init__(self, count, empty=False):
        super().__init__(count)
        self.empty = empty

    def __getitem__(self, index):
        frame = super().__getitem__(index)
        boxes = Boxes3D.empty() if self.empty else replace(frame.boxes, center=frame.boxes.center + [500, 0, 0])
        return replace(frame, boxes=boxes)


@pytest.mark.parametrize("empty", [False, True])
def test_an_epoch_without_a_box_to_learn_from_ends_the_run(tmp_path, empty):
    class NoLoss(StubLoss):
        def forward(self, prediction, batch):
            return {"total": prediction.square().mean()}

    with pytest.raises(LabelError, match="epoch 1: boxes to learn from were expected, found none that is in the grid"):
        trainer(tmp_path, Elsewhere(4, empty), loss=NoLoss()).run()


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
    with pytest.raises(PerceptionError, match="one of cuda:0 to cuda:1 was expected"), process_group("cuda:2"):
        pass


def test_alone_a_process_goes_by_its_own_flags():
    assert any_process([True, False], CPU) == [True, False]


def test_signals_are_handled_as_before_when_a_run_has_ended():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals() as received:
        assert received == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):  # a second one does not wait for the end of a step
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("device", "backend", "place"), [("cuda", "nccl", "cuda:1"), ("cpu", "gloo", "cpu")])
def test_a_process_of_a_group_has_a_device_of_its_own(monkeypatch, device, backend, place):
    """Under torchrun, which sets RANK and LOCAL_RANK; the group ends with the run, however that ends."""
    calls = []
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(distributed, "init_process_group", calls.append)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: calls.append("end"))
    with pytest.raises(ZeroDivisionError), process_group(device) as own:
        assert own == torch.device(place)
        assert calls == ([place, backend] if device == "cuda" else [backend])
        calls.clear()
        _ = 1 / 0
    assert calls == ["end"]


@pytest.mark.parametrize("found", [None, ("tensors", "state"), PerceptionError("damaged")])
def test_all_processes_have_what_the_first_one_finds(monkeypatch, found):
    sent = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)

    def call():
        if isinstance(found, PerceptionError):
            raise found
        return found

    def answer_of(rank, call):
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)
        try:
            return of_first_process(call, CPU)
        except PerceptionError as error:
            return error

    monkeypatch.setattr(distributed, "broadcast_object_list", lambda values, src, device: sent.extend(values))
    assert answer_of(0, call) == found and sent == [found]
    receive = lambda values, src, device: values.__setitem__(slice(None), sent)  # noqa: E731
    monkeypatch.setattr(distributed, "broadcast_object_list", receive)
    assert answer_of(1, lambda: pytest.fail("of the first process")) == found


def test_processes_with_other_frames_do_not_train(tmp_path, monkeypatch):
    monkeypatch.setattr("perception.train.trainer.of_all_processes", lambda steps: [steps, 10])
    with pytest.raises(TrainingError, match=r"same frames were expected in every process, found those of \[8, 10\] st"):
        trainer(tmp_path).run()


def test_a_lack_of_memory_is_one_line(tmp_path, stubbed, monkeypatch):
    def fail(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory:\n you tried to allocate 9 bytes")

    monkeypatch.setattr("perception.train.trainer.Trainer.run", fail)
    with pytest.raises(
        TrainingError, match=r"^out of memory: .*can't allocate memory: you .*; larger cells .*batch_size"
    ):
        train(make_config(), tmp_path, device="cpu", source=Frames(9), build=build_stub)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path, capfd):
    journal = Journal(tmp_path, 0, rank=0)
    journal.path.unlink()
    journal.path.mkdir()
    with pytest.raises(PerceptionError, match=r"log\.jsonl: cannot be written: Is a directory"):
        journal.write("epoch", 1, {"total": 1.0})
    journal.close()


def test_a_flag_of_any_process_is_one_of_all(monkeypatch):
    def all_reduce(tensor, operation):
        assert operation == distributed.ReduceOp.MAX and tensor.dtype == torch.int32  # not every backend takes bool
        tensor.copy_(torch.maximum(tensor, torch.tensor([0, 1, 0], dtype=tensor.dtype)))

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    assert any_process([True, False, False], CPU) == [True, True, False]


class Watched(StubModel):
    """Notes in which precision it is called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch):
        self.seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return super().forward(batch).float()


@pytest.mark.parametrize(("amp", "able"), [(True, True), (True, False), (False, True)])
def test_bfloat16_where_it_is_asked_for_and_the_device_has_it(tmp_path, monkeypatch, amp, able):
    monkeypatch.setattr("perception.train.trainer.has_bfloat16", lambda device: able)
    config, model = make_config(epochs=1, amp=amp), Watched()
    run = Trainer(model, StubLoss(), Frames(4), config, tmp_path, CPU)
    assert run.run() and not run.loader.pin_memory
    assert model.seen == [torch.bfloat16 if amp and able else torch.float32] * 2


@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_share_their_gradients(tmp_path, monkeypatch, processes):
    wrapped = []

    class Wrapper(torch.nn.Module):
        def __init__(self, module, find_unused_parameters):
            super().__init__()
            assert find_unused_parameters
            self.module, self.calls = module, 0
            wrapped.append(self)

        def forward(self, batch):
            self.calls += 1
            return self.module(batch)

    monkeypatch.setattr("perception.train.trainer.DistributedDataParallel", Wrapper)
    run = trainer(tmp_path)
    run.processes = processes
    assert run.run() and run.forward is run.model
    assert [(wrapper.module, wrapper.calls) for wrapper in wrapped] == ([(run.model, 8)] if processes > 1 else [])


@pytest.mark.parametrize(("unreadable", "broken"), [((), ()), ((3,), ()), ((), (0,)), ((3,), (0,))])
def test_frames_and_steps_that_did_not_count_are_told(tmp_path, caplog, unreadable, broken):
    run = trainer(tmp_path / "deep" / "down", Frames(4, unreadable), make_config(epochs=1), NanLoss(broken))
    with caplog.at_level(logging.WARNING):
        assert run.run()
    told = [f"epoch 1: {len(unreadable)} frames dropped, {len(broken)} steps skipped"]
    assert [r.getMessage() for r in caplog.records] == (told if unreadable or broken else [])


@pytest.fixture
def stubbed(monkeypatch):
    """``train`` with stubs for the loss and for what reads weights and frames; the arguments that those got."""
    called = []
    monkeypatch.setattr("perception.train.run.DetectionLoss", lambda model, config: StubLoss())
    monkeypatch.setattr("perception.train.run.initialise", lambda *given: called.append(given))

    def open_source(*given, **named):
        called.append((given, named))
        return called[0]

    monkeypatch.setattr("perception.train.source.open_source", open_source)
    return called


def build_stub(config) -> StubModel:
    model = StubModel()
    model.config = config
    return model


def test_training_from_frames_of_ones_own(tmp_path, capsys, stubbed, monkeypatch):
    built, reads, config = [], [], make_config(seed=11)
    monkeypatch.setattr(Trainer, "elapsed_s", property(lambda self: 600.0))

    def build(config):
        built.append((torch.initial_seed(), build_stub(config)))
        return built[-1][1]

    assert train(config, str(tmp_path), device="cpu", source=Frames(8), build=build) is True
    said = f"8 of 8 steps in 10.0 minutes; weights, config and log.jsonl are in {tmp_path}\n"
    assert capsys.readouterr().out == said
    assert built[0][0] == 11 and stubbed == []
    with pytest.raises(TrainingError, match="holds a training run; continue it with --resume"):
        train(config, tmp_path, device="cpu", source=Frames(8), build=build)
    frames = Frames(8, on_read=reads.append)
    assert train(config, tmp_path, resume=True, device="cpu", source=frames, build=build) is True
    assert [line["step"] for line in lines(tmp_path)] == [1, 4, 8] and reads == []  # nothing was left to do
    config.train.init = ["weights"]
    assert train(config, tmp_path / "other", device="cpu", source=Frames(8), build=build) is True
    assert stubbed == [(built[-1][1], "weights")]


def test_an_interrupted_training_says_how_it_goes_on(tmp_path, capsys, stubbed):
    reads = []

    def interrupt(index):
        reads.append(index)
        if len(reads) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    frames = Frames(8, on_read=interrupt)
    assert train(make_config(), tmp_path, device="cpu", source=frames, build=build_stub) is False
    said = capsys.readouterr().out
    assert 0 < int(said.partition(" of 8 steps in ")[0]) < 8
    assert said.endswith(f"{tmp_path}; interrupted, continue with --resume\n")


def test_only_the_first_process_says_so(tmp_path, capsys, stubbed, monkeypatch):
    class Second(Trainer):
        def __init__(self, *given):
            super().__init__(*given)
            self.rank = 1

    monkeypatch.setattr("perception.train.run.Trainer", Second)
    assert train(make_config(), tmp_path, device="cpu", source=Frames(8), build=build_stub) is True
    assert capsys.readouterr().out == ""


class Annotated(Frames):
    """As a folder has them: a car in the middle of every frame, a meter ahead."""

    root, version, task = Path("data"), "v1", NUSCENES

    @property
    def poses(self):
        return np.tile([100.0, 0, 0, 1, 0, 0, 0], (len(self), 1))

    @property
    def annotations(self):
        count, offsets = np.full(len(self), 5), np.arange(len(self) + 1)
        center = np.tile([101.0, 0, 0], (len(self), 1))
        return SimpleNamespace(
            box_offsets=offsets, center=center, label=0 * count, num_lidar_points=count, num_radar_points=count
        )


@pytest.mark.parametrize("scenes", [[], ["one", "two"]])
def test_training_from_the_frames_that_a_config_names(tmp_path, stubbed, scenes):
    """Images are read as large as the widest zoom wants: 8.8 x 17.6 pixels of 8 x 16."""
    frames, config = Annotated(8), make_config()
    stubbed.append(frames)
    config.data = replace(
        config.data, root="drives", version="v1", split="mini_val", scenes=scenes, part=[0.0, 0.5], on_error="skip"
    )
    assert train(config, tmp_path, device="cpu", build=build_stub) is True
    assert stubbed[1:] == [
        (
            ("drives", config, "v1"),
            {
                "split": "mini_val", "scenes": scenes or None, "part": [0.0, 0.5], "image_size": (9, 18),
                "on_error": "skip",
            },
        )
    ]  # fmt: skip


def test_frames_without_images_have_no_size_and_ones_without_annotations_are_refused(tmp_path, stubbed):
    def build(config):
        model = build_stub(config)
        model.inputs = InputSpec(INPUTS.sensors)
        return model

    class Unannotated(NuScenes):
        root, version, annotations, task = Path("data"), "v1", None, NUSCENES

        def __init__(self):
            pass

    stubbed.append(Unannotated())
    with pytest.raises(LabelError, match="data/v1: annotations were expected to train on, found none"):
        train(make_config(), tmp_path, device="cpu", build=build)
    assert stubbed[1][1]["image_size"] is None


class Bar:
    """In place of tqdm."""

    def __init__(self, **given):
        self.given, self.done, self.said, self.disable = given, 0, [], given["disable"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self):
        self.done += 1

    def set_postfix_str(self, text):
        self.said.append(text)


@pytest.mark.parametrize(
    ("quiet", "rank", "terminal"), [(False, 0, True), (False, 0, False), (True, 0, True), (False, 1, True)]
)
def test_progress_is_shown_by_the_first_process_unless_it_is_to_be_quiet(tmp_path, monkeypatch, quiet, rank, terminal):
    bars = []
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if quiet:
        monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr("perception.train.trainer.tqdm", lambda **given: bars.append(Bar(**given)) or bars[-1])
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    run = trainer(tmp_path, Frames(22), make_config(epochs=2, batch_size=1), Counted())
    run.rank, run.step = rank, 4
    assert run.run() and bars[0].done == 40
    hidden = quiet or rank > 0 or not terminal
    want = {"total": 44, "initial": 4, "unit": "step", "mininterval": 0.5, "disable": hidden}
    assert bars[0].given == want and len(bars) == 1
    assert bars[0].said == ["loss 8.500", "loss 26.500"]  # of calls 1 to 16 and 17 to 36


def test_without_a_terminal_a_line_now_and_then_says_how_it_goes(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("perception.train.trainer.SAY_EVERY_S", 0.0)
    trainer(tmp_path, Frames(22), make_config(epochs=2, batch_size=1), Counted()).run()
    said = [message for message in caplog.messages if "loss" in message]
    assert [message.partition(", gradient")[0] for message in said] == [
        "step 1 of 44, loss 1.000", "step 20 of 44, loss 10.500", "step 40 of 44, loss 30.500",
    ]  # fmt: skip
    numbers = (
        r".*, gradient 0, learning rate 3\.2e-05, \S+ frames/s, \d+ % of the time waiting for data, \S+ GB, 0 min.*"
    )
    assert re.fullmatch(numbers, said[2])


class Seeds(StubModel):
    def __init__(self):
        super().__init__()
        self.seeds = []

    def forward(self, batch):
        self.seeds.append(torch.initial_seed())
        return super().forward(batch)


def test_every_step_has_a_seed_of_its_own(tmp_path):
    """It depends on the seed of the training, the step and the process, and on nothing else."""

    def seeds(name, rank=0, **train):
        run = Trainer(Seeds(), StubLoss(), Frames(8), make_config(**train), tmp_path / name, CPU)
        run.rank = rank
        assert run.run()
        return run.model.seeds

    first = seeds("a")
    assert len(set(first)) == 8 and seeds("b") == first
    assert not set(first) & set(seeds("c", rank=1)) and not set(first) & set(seeds("d", seed=1))


def test_calibration_to_start_from_is_that_of_sensors_that_there_are(tmp_path):
    class Calibrated(StubModel):
        sensors = SENSORS

        def __init__(self):
            super().__init__()
            self.calibration = ScoreCalibration(SENSORS)

    sets = {"camera+radar+lidar": (2.0, 1.0), "lidar": (3.0, 4.0), "lidar+sonar": (5.0, 6.0)}
    weights = {f"calibration.{name}": torch.tensor(values) for name, values in sets.items()}
    save_file(weights | {"norm.weight": torch.full((4,), 7.0)}, tmp_path / "model.safetensors")
    (tmp_path / "config.yaml").touch()
    model = Calibrated()
    initialise(model, str(tmp_path))
    del sets["lidar+sonar"]
    assert model.calibration.by_set == sets and (model.norm.weight == 7).all()


def test_what_differs_between_configs():
    old = {"a": 1, "b": {"c": 2, "same": 0}, "data": {"root": "here", "workers": 1}}
    new = {"b": {"c": 3, "same": 0}, "d": 4, "data": {"root": "there", "workers": 2}}
    assert _differences(old, new) == ["a (1, now None)", "b.c (2, now 3)", "d (None, now 4)"]


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_memory_is_page_locked_for_a_gpu(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)  # there need not be a GPU
    monkeypatch.setattr("perception.train.trainer.has_bfloat16", lambda device: False)
    run = Trainer(StubModel(), StubLoss(), Frames(4), make_config(), tmp_path, torch.device(kind))
    assert run.loader.pin_memory == (kind == "cuda")
