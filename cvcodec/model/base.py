"""The surface that every model shows: moments, encode, decode, the posterior; what it takes, and what it refuses.

Between the tensors that people hand over and the frames (T, B, H, W, C) that convolutions work on there are two views,
`pixel_frames` and `latent_frames`, and the way back, `from_frames`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cvcodec.model.config import ModelConfig


class VideoAutoencoder(nn.Module, ABC):
    """A model between pixels (B, 3, T, H, W) float in [-1, 1] and a latent (B, C, t, h, w) float.

    T = 4k+1 gives t = k+1 (2D families: t = T). H and W are multiples of `config.spatial_factor`.
    The encoder lives under `self.encoder`, the decoder under `self.decoder` (the state dict's first name part),
    so that the latent-space id and the decoder hash can tell them apart.

    What loading a weights file adds; a model that was only built has none of it:
    """

    name: str | None = None
    """The registered name, or the file's."""
    latent_space_id: str | None = None
    """16 hex digits: encoder and normalisation. Latents of another id are not for this model's decoder."""
    decoder_hash: str | None = None
    """16 hex digits: two models of one latent-space id and decoder hash give the same pixels."""
    statistics: Any = None
    """Per-channel mean, deviation and unit step of the latents (quantization.LatentStatistics)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def moments(self, pixels: Tensor) -> Tensor:
        """Mean and unclamped log-variance, (B, 2C, t, h, w). ValueError on a shape the model cannot take."""

    def encode(self, pixels: Tensor) -> Posterior:
        """The posterior over latents, without windows or tiles. ValueError for what cannot be meant as pixels."""
        check_pixels(pixels)
        return Posterior.from_moments(self.moments(pixels))

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, 3, T, H, W), unclamped, without windows or tiles."""


LOGVAR_RANGE = (-30.0, 20.0)  # clamp of the log-variance, official and diffusers alike (spec 1.6)


@dataclass(frozen=True)
class Posterior:
    """The diagonal Gaussian that an encoder gives (spec 1.6): q(latent | pixels).

    `mean` and `logvar` are both (B, C, t, h, w) float; `logvar` is clamped to [-30, 20].

    Both are of the base layer, whatever else the model has.
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> Posterior:
        """`moments`: (B, 2C, t, h, w): mean and unclamped log-variance."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    @property
    def std(self) -> Tensor:
        """Standard deviation, (B, C, t, h, w)."""
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The mean: what the codec stores."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, (B, C, t, h, w)."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats, summed over C, t, h, w: (B,)."""
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


RGB = 3
"""How many channels pixels have."""

_PIXEL_LIMIT = 8.0
"""Noise and ringing lead out of [-1, 1], but never so far; pictures in 0 to 255 do, unless they are black."""


def check_pixels(pixels: object, *, ranks: tuple[int, ...] = (5,)) -> None:
    """ValueError, one sentence, for what cannot be meant as pixels: another type, shape or range."""
    axes = " or ".join({4: "(B, 3, H, W)", 5: "(B, 3, T, H, W)"}[rank] for rank in ranks)
    form = f"wanted a float tensor {axes} in [-1, 1]: 8-bit values are pixels.float() / 127.5 - 1"
    tensor = _checked(pixels, "pixels are", RGB, ranks, form)
    if not (tensor.is_meta or torch.compiler.is_compiling()):  # nobody could look at the values
        reach = float(tensor.detach().abs().amax())
        if reach > _PIXEL_LIMIT:
            raise ValueError(f"pixels reach {reach:g}; {form}")


def check_latent(latent: object, channels: int, *, ranks: tuple[int, ...] = (5,)) -> None:
    """ValueError, one sentence, for what cannot be meant as latents of so many channels: another type or shape."""
    axes = " or ".join({4: f"(B, {channels}, h, w)", 5: f"(B, {channels}, t, h, w)"}[rank] for rank in ranks)
    _checked(latent, "latents are", channels, ranks, f"wanted a float tensor {axes}")


def _checked(value: object, what: str, channels: int, ranks: tuple[int, ...], form: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{what} {type(value).__module__}.{type(value).__qualname__}; {form}")
    if value.ndim not in ranks or value.shape[1] != channels or not value.numel():
        raise ValueError(f"{what} {tuple(value.shape)}; {form}")
    if not value.is_floating_point():
        raise ValueError(f"{what} {value.dtype}; {form}")
    return value


def pixel_frames(pixels: Tensor, *, smallest: int) -> Tensor:
    """(B, 3, T, H, W) -> frames (T, B, H, W, 3). ValueError unless B, T >= 1 and H, W >= `smallest`."""
    if pixels.ndim != 5 or pixels.shape[1] != 3 or min(pixels.shape) < 1 or min(pixels.shape[3:]) < smallest:
        raise ValueError(f"want pixels (B, 3, T, H, W) with sides of at least {smallest}: {tuple(pixels.shape) = }")
    return pixels.permute(2, 0, 3, 4, 1).contiguous()


def latent_frames(latent: Tensor, channels: int) -> Tensor:
    """(B, C, t, h, w) -> frames (t, B, h, w, C). ValueError unless C is `channels` and nothing is empty."""
    check_latent(latent, channels)
    return latent.permute(2, 0, 3, 4, 1).contiguous()


def from_frames(frames: Tensor) -> Tensor:
    """Frames (T, B, H, W, C) -> (B, C, T, H, W), contiguous."""
    return frames.permute(1, 4, 0, 2, 3).contiguous()
