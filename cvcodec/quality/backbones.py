"""The feature extractors under LPIPS: layer lists and where features are tapped.

Owns: AlexNet, VGG16 and SqueezeNet 1.1 up to the last tapped layer with torchvision's layer numbering, so that its
published files load by name, and the shift-tolerant AlexNet and VGG16 of ST-LPIPS (Ghildyal and Liu, ECCV 2022,
section 4: stride 1 where there was stride 2 or more, a reflection-padded blur before each subsampling).
Does not know: files, linear weights, distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """Facts about one feature extractor that need no weights."""

    channels: tuple[int, ...]
    """Channels of each tapped feature map, finest first."""
    taps: tuple[int, ...]
    """Index of the layer (always a ReLU or a Fire module) after which each map is read."""
    minimum_side: int
    """Smallest height and width in pixels for which every layer has an output."""


STANDARD = {
    "alex": Architecture((64, 192, 384, 256, 256), (1, 4, 7, 9, 11), 31),
    "vgg": Architecture((64, 128, 256, 512, 512), (3, 8, 15, 22, 29), 16),
    "squeeze": Architecture((64, 128, 256, 384, 384, 512, 512), (1, 4, 7, 9, 10, 11, 12), 17),
}
"""Zhang et al., CVPR 2018: the maps that LPIPS reads, by torchvision's layer numbers."""

SHIFT_TOLERANT = {
    "alex": Architecture((64, 192, 384, 256, 256), (2, 6, 10, 12, 14), 21),
    "vgg": Architecture((64, 128, 256, 512, 512), (3, 9, 17, 25, 33), 18),
}
"""Ghildyal and Liu, ECCV 2022. A blur counts as a layer, hence other numbers."""

BLUR_TAPS = (1.0, 2.0, 1.0)
BLUR_PADDING = 2  # reflected on all four sides: one more than "same", which ST-LPIPS found more shift-tolerant


class BlurPool(nn.Module):
    """Binomial 3x3 blur with stride 2 after reflecting two rows and columns on each side.

    (N, C, H, W) float -> (N, C, (H + 1) // 2 + 1, (W + 1) // 2 + 1); H and W at least 3.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor(BLUR_TAPS)
        kernel = torch.outer(taps, taps) / taps.sum().square()
        self.register_buffer("filt", kernel.expand(channels, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (BLUR_PADDING,) * 4, mode="reflect")
        return F.conv2d(padded, self.filt, stride=2, groups=self.filt.shape[0])


class Fire(nn.Module):
    """SqueezeNet's module: 1x1 squeeze, then 1x1 and 3x3 expansions side by side, a ReLU after each."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], dim=1)


class Backbone(nn.Module):
    """Layers in sequence; returns the tapped maps. State dict keys are `features.<layer>.<...>` as in torchvision."""

    def __init__(self, layers: list[nn.Module], architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.features = nn.Sequential(*layers[: architecture.taps[-1] + 1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) float, normalised for the network -> one (N, C_i, H_i, W_i) per tap, finest first."""
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.architecture.taps:
                maps.append(x)
        return maps


def build_standard(net: str) -> Backbone:
    """`alex`, `vgg` or `squeeze` with torch's random initialisation; weights are loaded by the caller."""
    layers = {"alex": _alexnet, "vgg": _vgg16, "squeeze": _squeezenet}[net]()
    return Backbone(layers, STANDARD[net])


def build_shift_tolerant(net: str) -> Backbone:
    """`alex` or `vgg` in the shift-tolerant form, with torch's random initialisation."""
    layers = {"alex": _alexnet_shift_tolerant, "vgg": _vgg16_shift_tolerant}[net]()
    return Backbone(layers, SHIFT_TOLERANT[net])


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def _alexnet_tail() -> list[nn.Module]:
    """The three last convolutions, the same in both forms."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), _relu()]
    return layers


def _alexnet() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        _relu(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        _relu(),
        nn.MaxPool2d(3, stride=2),
        *_alexnet_tail(),
    ]


def _alexnet_shift_tolerant() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 64, 11, stride=1, padding=2),
        BlurPool(64),
        _relu(),
        nn.MaxPool2d(3, stride=1),
        BlurPool(64),
        nn.Conv2d(64, 192, 5, padding=2),
        _relu(),
        nn.MaxPool2d(3, stride=1),
        BlurPool(192),
        *_alexnet_tail(),
    ]


def _vgg16_layers(shift_tolerant: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    fan_in = 3
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if stage:
            layers += [nn.MaxPool2d(2, stride=1), BlurPool(fan_in)] if shift_tolerant else [nn.MaxPool2d(2, stride=2)]
        for _ in range(depth):
            layers += [nn.Conv2d(fan_in, width, 3, padding=1), _relu()]
            fan_in = width
    return layers


def _vgg16() -> list[nn.Module]:
    return _vgg16_layers(shift_tolerant=False)


def _vgg16_shift_tolerant() -> list[nn.Module]:
    return _vgg16_layers(shift_tolerant=True)


def _squeezenet() -> list[nn.Module]:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    return [
        nn.Conv2d(3, 64, 3, stride=2),
        _relu(),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    ]
