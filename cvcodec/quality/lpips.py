"""Learned perceptual distance: standard LPIPS v0.1 and shift-tolerant LPIPS, each under its own name.

Owns: the distance between two pictures given a feature extractor and linear weights (Zhang et al., CVPR 2018,
equation 1), and the choice of what to load.
Does not know: files' whereabouts and checksums (`lpips_weights`), layers (`backbones`).

    name                   backbone                                  linear weights
    lpips-alex-v0.1        torchvision AlexNet, ImageNet             LPIPS v0.1, bundled
    lpips-vgg-v0.1         torchvision VGG16, ImageNet               LPIPS v0.1, bundled
    lpips-squeeze-v0.1     torchvision SqueezeNet 1.1, ImageNet      LPIPS v0.1, bundled
    st-lpips-alex          shift-tolerant AlexNet (Ghildyal and Liu, ECCV 2022), complete in stlpips-pytorch
    st-lpips-vgg           shift-tolerant VGG16, likewise

The two kinds have different scales: a number of one can never be compared with a number of the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cvcodec.errors import CheckpointError, MissingDependencyError
from cvcodec.quality import backbones, lpips_weights

NETS = ("alex", "vgg", "squeeze")
VARIANTS = ("auto", "standard", "shift-tolerant")

INPUT_SHIFT = (-0.030, -0.088, -0.188)
INPUT_SCALE = (0.458, 0.448, 0.450)
"""From [-1, 1] to the normalisation of the ImageNet networks, as LPIPS v0.1 rounds it."""
NORM_EPSILON = 1e-10  # beside the length of a feature vector, as LPIPS v0.1


class Lpips(nn.Module):
    """Perceptual distance of pictures in [-1, 1]; frozen, always in eval mode, differentiable in both arguments."""

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: backbones.Backbone, linear: Sequence[Tensor], name: str) -> None:
        """`linear`: one (C_i,) weight per tapped map. ValueError when the two do not fit together."""
        super().__init__()
        channels = tuple(weight.numel() for weight in linear)
        if channels != backbone.architecture.channels:
            raise ValueError(f"linear weights of {channels} channels do not fit {backbone.architecture.channels = }")
        self.name = name
        self.backbone = backbone
        self.linear = nn.ParameterList(nn.Parameter(weight.detach().clone()) for weight in linear)
        self.register_buffer("shift", torch.tensor(INPUT_SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(INPUT_SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls,
        net: str = "alex",
        variant: str = "auto",
        backbone: str | os.PathLike[str] | None = None,
        download: bool = False,
        *,
        progress: bool = False,
    ) -> Lpips:
        """Weights from the first place that has them; `.name` says which metric it became.

        `standard`: `backbone` (a path to torchvision's file), else the torch hub cache, else with `download` from
        pytorch.org. `shift-tolerant`: `backbone` (a path to an ST-LPIPS file), else the installed stlpips-pytorch.
        `auto`: standard when its backbone is given, cached or may be downloaded, otherwise shift-tolerant.
        ValueError on an unknown net or variant, MissingDependencyError when there are no weights, CheckpointError when
        a file is not the published one.
        """
        if net not in NETS or variant not in VARIANTS:
            raise ValueError(f"unknown LPIPS {net = } or {variant = }; known: {', '.join(NETS)}; {', '.join(VARIANTS)}")
        if variant != "shift-tolerant":
            path = backbone
            if path is None and lpips_weights.cached_backbone(net).is_file():
                path = lpips_weights.cached_backbone(net)
            if path is None and download:
                path = lpips_weights.download_backbone(net, progress=progress)
            if path is not None:
                return cls._standard(net, path)
        if variant != "standard":
            if net not in backbones.SHIFT_TOLERANT:
                if variant == "shift-tolerant":
                    known = ", ".join(backbones.SHIFT_TOLERANT)
                    raise ValueError(f"shift-tolerant LPIPS has no {net = }; known: {known}")
            else:
                path = backbone if backbone is not None else lpips_weights.installed_shift_tolerant(net)
                if path is not None:
                    return cls._shift_tolerant(net, path)
        raise MissingDependencyError(_way_out(net, variant))

    @classmethod
    def _standard(cls, net: str, path: str | os.PathLike[str]) -> Lpips:
        extractor = backbones.build_standard(net)
        _fill(extractor, lpips_weights.read_backbone(path, net), path)
        return cls(extractor, lpips_weights.read_linear(net), f"lpips-{net}-v0.1")

    @classmethod
    def _shift_tolerant(cls, net: str, path: str | os.PathLike[str]) -> Lpips:
        extractor = backbones.build_shift_tolerant(net)
        features, linear = lpips_weights.read_shift_tolerant(path, net)
        _fill(extractor, features, path)
        return cls(extractor, linear, f"st-lpips-{net}")

    @property
    def minimum_side(self) -> int:
        """Smallest height and width in pixels that the network takes."""
        return self.backbone.architecture.minimum_side

    def train(self, mode: bool = True) -> Lpips:
        """Stays in eval mode inside a model that is being trained."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of each pair: two (N, 3, H, W) float in [-1, 1] -> (N,) float32 (float64 for a float64 module).

        Autocast applies to the convolutions; lengths and differences are taken in float32. ValueError on other shapes,
        and on pictures smaller than `minimum_side`: enlarging them would be another metric.
        """
        floats = x.is_floating_point() and y.is_floating_point()
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3 or not floats:
            raise ValueError(
                "two float batches (N, 3, H, W) of one shape wanted, "
                f"got {tuple(x.shape)} {x.dtype} and {tuple(y.shape)} {y.dtype}"
            )
        side = self.minimum_side
        if min(x.shape[-2:]) < side:
            raise ValueError(f"{self.name} needs at least {side}x{side} pixels, got {x.shape[-1]}x{x.shape[-2]}")
        features_x, features_y = self.backbone(self._normalised(x)), self.backbone(self._normalised(y))
        with torch.autocast(x.device.type, enabled=False):
            layers = zip(features_x, features_y, self.linear, strict=True)
            return torch.stack([_distance(*layer) for layer in layers]).sum(dim=0)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return ((pixels.to(_wide(pixels.dtype)) - self.shift) / self.scale).to(self.shift.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _distance(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """One layer's part: two (N, C, H, W), weight (C,) -> (N,), the mean over positions."""
    difference = _unit(a) - _unit(b)
    return (difference.square() * weight.to(difference.dtype).view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))


def _unit(features: Tensor) -> Tensor:
    """Feature vectors (N, C, H, W) divided by their length; a zero vector gives zero and no gradient, not NaN."""
    features = features.to(_wide(features.dtype))
    energy = features.square().sum(dim=1, keepdim=True)
    present = energy > 0
    length = torch.where(present, energy, 1.0).sqrt()
    return features * torch.where(present, 1.0 / (length + NORM_EPSILON), 0.0)


def _fill(extractor: backbones.Backbone, state: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Load every weight, strictly."""
    try:
        extractor.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{os.fspath(path)} does not fit its network: {error}") from error


def _way_out(net: str, variant: str) -> str:
    file = lpips_weights.cached_backbone(net)
    standard = f"put torchvision's {file.name} into {file.parent}, give its path as backbone, or allow the download"
    if variant == "standard" or net not in backbones.SHIFT_TOLERANT:
        return f"LPIPS ({net}) has no weights here: {file.name} not found; {standard}"
    if variant == "shift-tolerant":
        return f"no weights for shift-tolerant LPIPS ({net}): stlpips-pytorch not found; pip install cvcodec[lpips]"
    return (
        f"LPIPS ({net}) has no weights here: neither {file.name} nor stlpips-pytorch found; "
        f"pip install cvcodec[lpips] for shift-tolerant LPIPS; for standard LPIPS {standard}"
    )
