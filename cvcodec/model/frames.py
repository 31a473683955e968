"""Between the tensors that people hand over and the frames (T, B, H, W, C) that the convolutions work on.

Owns: the two views and what their shapes, types and ranges must be.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
