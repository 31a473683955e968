"""Padding by repetition, so that any size and any frame count reaches the model uncut, and the crops that undo it.

Owns: how a clip grows to f·k+1 frames and to multiples of the spatial factor.
Does not know: models, windows. Works on every dtype (uint8 frames included), which torch's own replicate padding does
not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cvcodec.tiling.timeline import padded_frame_count


def padded_size(size: int, factor: int = 8) -> int:
    """`size` rounded up to a multiple of `factor`."""
    if size < 1 or factor < 1:
        raise ValueError(f"size and factor must be at least 1: {size = }, {factor = }")
    return -(-size // factor) * factor


def pad_time(pixels: Tensor, factor: int = 4) -> Tensor:
    """(B, C, T, H, W) with its last frame repeated until T = f·k+1. The input itself when nothing is missing."""
    _check_clip(pixels)
    return repeat_last(pixels, dim=2, missing=padded_frame_count(pixels.shape[2], factor) - pixels.shape[2])


def pad_space(pixels: Tensor, factor: int = 8) -> Tensor:
    """(B, C, T, H, W) with its last row and column repeated at the bottom and right up to multiples of `factor`."""
    _check_clip(pixels)
    height, width = pixels.shape[3:]
    tall = repeat_last(pixels, dim=3, missing=padded_size(height, factor) - height)
    return repeat_last(tall, dim=4, missing=padded_size(width, factor) - width)


def crop_space(pixels: Tensor, height: int, width: int) -> Tensor:
    """The top-left `height` x `width` of (B, C, T, H, W), a view: undoes `pad_space`."""
    _check_clip(pixels)
    if not (1 <= height <= pixels.shape[3] and 1 <= width <= pixels.shape[4]):
        raise ValueError(f"cannot crop {tuple(pixels.shape[3:])} to {height} x {width}")
    return pixels[..., :height, :width]


def repeat_last(tensor: Tensor, *, dim: int, missing: int) -> Tensor:
    """`tensor` with its last slice along `dim` repeated `missing` more times."""
    if missing == 0:
        return tensor
    last = tensor.narrow(dim, tensor.shape[dim] - 1, 1)
    repeated = last.expand([missing if axis == dim else -1 for axis in range(tensor.ndim)])
    return cat_all([tensor, repeated], dim=dim)


def cat_all(pieces: list[Tensor], *, dim: int) -> Tensor:
    """torch.cat in the memory layout of the first piece, and without the copy when there is one.

    torch.cat would bring clips whose colour is innermost into another layout, at several times the cost, and again when
    the model wants the first one back.
    """
    first = pieces[0]
    if len(pieces) == 1:
        return first
    order = sorted(range(first.ndim), key=first.stride, reverse=True)
    joined = torch.cat([piece.permute(order) for piece in pieces], dim=order.index(dim))
    return joined.permute([order.index(axis) for axis in range(first.ndim)])


def _check_clip(pixels: Tensor) -> None:
    if pixels.ndim != 5 or 0 in pixels.shape[2:]:
        raise ValueError(f"a clip (B, C, T, H, W) with at least one frame and pixel wanted, got {tuple(pixels.shape)}")
