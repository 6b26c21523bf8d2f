"""Image backbones: shapes, weights of a folder, and gradient checkpointing, which changes nothing but memory."""

import pytest
import torch

from perception.errors import PerceptionError
from perception.model.backbones import BACKBONES, EfficientNetLite0, ResNet50, SwinT
from perception.model.camera import ImageEncoder
from perception.model.layers import recomputed


@pytest.mark.parametrize("backbone", [ResNet50, SwinT])
def test_backbones_of_transformers(backbone, tmp_path):
    """Their maps and the number of their weights, as published; and the same maps from a folder of weights."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = backbone("none").eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    features = net(images)
    assert [tuple(f.shape[1:]) for f in features] == [
        (width, 8 >> level, 12 >> level) for level, width in enumerate(net.out_channels)
    ]
    count = sum(p.numel() for p in net.parameters())
    assert count == pytest.approx({ResNet50: 23.5e6, SwinT: 27.5e6}[backbone], rel=0.01)
    net.net.save_pretrained(tmp_path)
    for ours, again in zip(features, backbone(str(tmp_path)).eval()(images), strict=True):
        torch.testing.assert_close(again, ours)
    with pytest.raises(PerceptionError, match=rf"'{tmp_path}/nowhere' is no folder with {net.title} weights"):
        backbone(f"{tmp_path}/nowhere")


def test_every_backbone_says_what_is_recomputed():
    assert len(EfficientNetLite0("none").blocks) == 11
    pytest.importorskip("transformers")
    assert {name: len(BACKBONES[name]("none").blocks) for name in ("resnet50", "swin_t")} == {
        "resnet50": 3 + 4 + 6 + 3, "swin_t": 2 + 2 + 6 + 2
    }  # fmt: skip


def kept_bytes(encoder: ImageEncoder, images: torch.Tensor) -> tuple[int, list[torch.Tensor]]:
    """What a training step keeps for the backward pass, and its gradients."""
    storages: dict[int, int] = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    encoder.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out, _ = encoder(images)
        kept = sum(storages.values())
    out.square().sum().backward()
    return kept, [parameter.grad.clone() for parameter in encoder.parameters()]


def test_checkpointing_keeps_less_and_changes_no_gradient():
    encoders = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoders.append(
            ImageEncoder(EfficientNetLite0("none"), 8, pretrained=True, checkpointing=checkpointing).train()
        )
    plain, saving = encoders
    assert plain.state_dict().keys() == saving.state_dict().keys()
    images = torch.rand(1, 3, 64, 96) * 255
    (much, wanted), (little, found) = (kept_bytes(encoder, images) for encoder in encoders)
    assert little < much / 2
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        torch.testing.assert_close(saving.eval()(images), plain.eval()(images))


def test_nothing_is_recomputed_outside_of_training():
    layer, calls = torch.nn.Linear(2, 2), []
    plain = layer.forward
    layer.forward = lambda x: calls.append(1) or plain(x)
    recomputed(layer)
    for training, count in ((True, 2), (False, 1)):
        calls.clear()
        layer.train(training)(torch.ones(1, 2)).sum().backward()
        assert len(calls) == count
