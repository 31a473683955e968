"""Stand-ins for models: plain torch convolutions with a finite receptive field, and one as global as GroupNorm; and
plans of a few numbers to run them with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cvcodec.windows.plan import ContextPlan, OfficialPlan
from cvcodec.windows.specs import Tile, Window
from cvcodec.windows.time import FrameSource, Sequence


def context_plan(window: Window, tile: Tile | None = None, factor: int = 4) -> ContextPlan:
    """The same window and tile in both directions."""
    return ContextPlan(factor, 8, window, window, tile, tile)


def encode_stream(
    encode: Callable[[Tensor], Tensor],
    frames: Iterable[Tensor],
    *,
    window: Window,
    tile: Tile | None = None,
    temporal_factor: int = 4,
) -> Iterator[Tensor]:
    return context_plan(window, tile, temporal_factor).encode(encode, frames)


def decode_stream(
    decode: Callable[[Tensor], Tensor],
    read: Callable[[int, int], Tensor | None],
    latents: tuple[int, int | None] = (0, None),
    *,
    window: Window,
    tile: Tile | None = None,
    total: int | None = None,
    temporal_factor: int = 4,
) -> Iterator[Tensor]:
    return context_plan(window, tile, temporal_factor).decode(decode, read, latents, total)


@torch.no_grad()
def encode_official(model: Any, pixels: Tensor) -> Tensor:
    """The moments that the official code computes for a clip of any length and size, which it does not pad."""
    sequence = Sequence(FrameSource(pixels.split(7, 2), 1))
    return torch.cat(list(OfficialPlan.of(model.config).windows(model.moments, sequence, (0, None), encoding=True)), 2)


@torch.no_grad()
def decode_official(model: Any, latent: Tensor) -> Tensor:
    """The pixels that the official code decodes."""
    pieces = OfficialPlan.of(model.config).decode(model.decode, lambda a, b: latent[:, :, a:b], total=latent.shape[2])
    return torch.cat(list(pieces), 2)


class ToyEncoder:
    """(B, 3, T, H, W) to (B, C, (T-1)/4+1, H/8, W/8): sees `reach` latents back, `spread` latents to each side."""

    def __init__(self, *, reach: int = 1, spread: int = 1, channels: int = 2, factor: int = 4, side: int = 8) -> None:
        generator = torch.Generator().manual_seed(reach * 31 + spread)
        self.factor, self.side = factor, side
        self.patch = torch.randn(channels, 3 * factor * side * side, generator=generator) / (factor * side)
        self.kernel = torch.randn(channels, channels, reach + 1, 2 * spread + 1, 2 * spread + 1, generator=generator)
        self.reach, self.spread = reach, spread
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, pixels: Tensor) -> Tensor:
        self.calls.append(tuple(pixels.shape))
        b, c, t, h, w = pixels.shape
        assert ((t - 1) % self.factor, h % self.side, w % self.side) == (0, 0, 0)
        x = torch.cat([pixels[:, :, :1].expand(-1, -1, self.factor - 1, -1, -1), pixels], 2)
        f, s = self.factor, self.side
        x = x.reshape(b, c, x.shape[2] // f, f, h // s, s, w // s, s).permute(0, 1, 3, 5, 7, 2, 4, 6)
        x = torch.einsum("op,bpthw->bothw", self.patch, x.reshape(b, c * f * s * s, *x.shape[5:]))
        x = F.pad(x, (self.spread,) * 4 + (self.reach, 0))
        return F.conv3d(x, self.kernel).tanh()


class ToyDecoder:
    """(B, C, t, h, w) to (B, 3, 4(t-1)+1, 8h, 8w): sees `reach` latents before and behind, `spread` to each side."""

    def __init__(self, *, reach: int = 1, spread: int = 1, channels: int = 2, factor: int = 4, side: int = 8) -> None:
        generator = torch.Generator().manual_seed(reach * 37 + spread)
        self.factor, self.side = factor, side
        size = (2 * reach + 1, 2 * spread + 1, 2 * spread + 1)
        self.kernel = torch.randn(channels, channels, *size, generator=generator)
        self.patch = torch.randn(3 * factor * side * side, channels, generator=generator)
        self.padding = (reach, spread, spread)
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, latent: Tensor) -> Tensor:
        self.calls.append(tuple(latent.shape))
        x = F.conv3d(latent, self.kernel, padding=self.padding).tanh()
        b, _, t, h, w = x.shape
        f, s = self.factor, self.side
        x = torch.einsum("pc,bcthw->bpthw", self.patch, x).reshape(b, 3, f, s, s, t, h, w)
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, 3, t * f, h * s, w * s)
        return x[:, :, f - 1 :]


def random_video(frames: int, height: int = 8, width: int = 8, seed: int = 0) -> Tensor:
    """(1, 3, T, H, W) uniform in [-1, 1]."""
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_latent(latents: int, height: int = 2, width: int = 2, channels: int = 2, seed: int = 0) -> Tensor:
    """(1, C, t, h, w) normal."""
    return torch.randn(1, channels, latents, height, width, generator=torch.Generator().manual_seed(seed))


class OfficialToy:
    """Shaped like the official models: any T and size; like their GroupNorm, every value depends on its whole tile."""

    def __init__(self, family: str = "cvvae", *, tile: int = 72, chunk: int | None = 16) -> None:
        self.config = SimpleNamespace(
            family=family,
            official_chunk_frames=chunk,
            official_tile_pixels=tile,
            official_tile_overlap=0.2222,
            temporal_factor=4,
            spatial_factor=8,
        )
        self.calls: list[tuple[int, ...]] = []

    def moments(self, pixels: Tensor) -> Tensor:
        self.calls.append(tuple(pixels.shape))
        up = self.config.family == "cvvae-sd3"
        pooled = F.avg_pool3d(pixels[:, :, ::4], (1, 8, 8), ceil_mode=up)
        scaled = (pooled - pixels.mean()) / pixels.std().clamp_min(1e-3)
        return torch.cat([scaled[:, :2], 400 * scaled[:, 1:].sin()], 1)

    def decode(self, latent: Tensor) -> Tensor:
        self.calls.append(tuple(latent.shape))
        large = latent.repeat_interleave(8, 3).repeat_interleave(8, 4).repeat_interleave(4, 2)[:, :, 3:]
        ramp = torch.linspace(0, 1, large.shape[4]) * torch.linspace(0, 1, large.shape[2])[:, None, None]
        return large[:, :1].repeat(1, 3, 1, 1, 1) * ramp + latent.mean()
