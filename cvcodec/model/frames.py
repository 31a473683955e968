"""Between the tensors that people hand over and the frames (T, B, H, W, C) that the convolutions work on.

Owns: the two views and what their shapes must be. Does not know: layers, models.
"""

from __future__ import annotations

from torch import Tensor

RGB = 3
"""Channels of pixels."""


def pixel_frames(pixels: Tensor, *, smallest: int) -> Tensor:
    """(B, 3, T, H, W) -> frames (T, B, H, W, 3). ValueError unless B, T >= 1 and H, W >= `smallest`."""
    if pixels.ndim != 5 or pixels.shape[1] != 3 or min(pixels.shape) < 1 or min(pixels.shape[3:]) < smallest:
        raise ValueError(f"want pixels (B, 3, T, H, W) with sides of at least {smallest}: {tuple(pixels.shape) = }")
    return pixels.permute(2, 0, 3, 4, 1).contiguous()


def latent_frames(latent: Tensor, channels: int) -> Tensor:
    """(B, C, t, h, w) -> frames (t, B, h, w, C). ValueError unless C is `channels` and nothing is empty."""
    if latent.ndim != 5 or latent.shape[1] != channels or min(latent.shape) < 1:
        raise ValueError(f"want a latent (B, {channels}, t, h, w): {tuple(latent.shape) = }")
    return latent.permute(2, 0, 3, 4, 1).contiguous()


def from_frames(frames: Tensor) -> Tensor:
    """Frames (T, B, H, W, C) -> (B, C, T, H, W), contiguous."""
    return frames.permute(1, 4, 0, 2, 3).contiguous()
