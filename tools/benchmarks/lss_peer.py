"""Lift-Splat-Shoot as it was published, timed in a process of its own: one frame of six cameras.

    git clone https://github.com/nv-tlabs/lift-splat-shoot
    <python with torch and efficientnet_pytorch> perception/benchmark/lss_peer.py lift-splat-shoot <threads>

For every line on stdin the seconds of one forward pass are printed. What its modules import beside the network, and
torchvision, of which only the blocks of ResNet-18 are used, is replaced: no speed depends on it.
"""

import sys
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Of ResNet-18 (He et al., 2016), as torchvision has it."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
        self.downsample, self.relu = shortcut if stride > 1 else nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


def resnet18(**_):
    layers = [nn.Sequential(BasicBlock(a, b, s), BasicBlock(b, b, 1)) for a, b, s in LAYERS]
    return SimpleNamespace(bn1=nn.BatchNorm2d(64), relu=nn.ReLU(inplace=True), **dict(zip(NAMES, layers)))


LAYERS, NAMES = ((64, 64, 1), (64, 128, 2), (128, 256, 2)), ("layer1", "layer2", "layer3")
REPLACED = (
    "torchvision torchvision.models torchvision.models.resnet src.explore src.train src.data pyquaternion PIL tqdm "
)
REPLACED += "nuscenes nuscenes.nuscenes nuscenes.utils nuscenes.utils.data_classes nuscenes.utils.geometry_utils "
REPLACED += "nuscenes.map_expansion nuscenes.map_expansion.map_api matplotlib matplotlib.pyplot"


def main(repository: str, threads: int) -> None:
    from efficientnet_pytorch import EfficientNet

    for name in REPLACED.split():
        sys.modules[name] = MagicMock()
    sys.modules["torchvision.models.resnet"].resnet18 = resnet18
    EfficientNet.from_pretrained = EfficientNet.from_name  # weights do not change the speed
    sys.path.insert(0, repository)
    from src.models import compile_model

    grid = {"xbound": [-50.0, 50.0, 0.5], "ybound": [-50.0, 50.0, 0.5], "zbound": [-10.0, 10.0, 20.0]}
    model = compile_model(grid | {"dbound": [4.0, 45.0, 1.0]}, {"final_dim": (128, 352)}, outC=1).eval()
    torch.set_num_threads(threads)
    forward = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    yaw = torch.arange(6) * torch.pi / 3
    turn = torch.zeros(6, 3, 3)
    turn[:, 0, 0], turn[:, 0, 1] = yaw.cos(), -yaw.sin()
    turn[:, 1, 0], turn[:, 1, 1], turn[:, 2, 2] = yaw.sin(), yaw.cos(), 1
    intrinsics = torch.tensor([[278.0, 0, 176], [0, 278, 64], [0, 0, 1]])
    same, nothing = torch.eye(3).expand(1, 6, 3, 3), torch.zeros(1, 6, 3)
    images, height = torch.rand(1, 6, 3, 128, 352), torch.tensor([0.0, 0, 1.5]).expand(1, 6, 3)
    inputs = (images, (turn @ forward)[None], height, intrinsics.expand(1, 6, 3, 3), same, nothing)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.inference_mode():
            model(*inputs)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
