"""Clips <-> patches: a group of frames and a square of pixels become the channels of one position, and back.

Owns: the order of those channels, and copies that keep it: patches of patches, kernels stored in another order.

Weights are stored in the order of torch's pixel-unshuffle: (frame of the group, colour, row, column). In memory,
patches lie in the order (frame, row, column, colour), with channels last: pixels of decoded video have colour
innermost, so that a patch is gathered in runs of several values, and patches of patches in much longer ones.
Transposing pixel by pixel, as pixel-unshuffle does, took most of the encoder's time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cvcodec.model.base import RGB

_CPU_STRIP_VALUES = 1 << 20  # 4 MiB of fp32: stays in the cache, and in the allocator's hands
_GPU_STRIP_VALUES = 1 << 26  # enough to keep a GPU busy


def strips(clip: Tensor, height: int, unit: int, row_pixels: int) -> Iterator[slice]:
    """Rows 0 .. `height`, of `row_pixels` pixels each, in strips of whole `unit`s whose patches take little memory on
    the device of `clip`; one strip for everything where gradients are recorded."""
    most = _CPU_STRIP_VALUES if clip.device.type == "cpu" else _GPU_STRIP_VALUES
    step = height if torch.is_grad_enabled() else unit * max(1, most // (RGB * row_pixels * unit))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def patches_of(pixels: Tensor, group: int, size: int) -> Tensor:
    """(B, 3, T, H, W), T = group * k + 1 -> (B*t, H/size, W/size, group * size * size * 3), contiguous.

    The first frame is repeated to fill its group. Fastest where colour is innermost in memory.
    """
    frames = pixels.permute(0, 2, 3, 4, 1)  # B, T, H, W, RGB
    batch, count, height, width = frames.shape[:4]
    latents = (count - 1) // group + 1
    patches = frames.new_empty(batch, latents, height // size, width // size, group, size, size, RGB)

    def gathered(part: Tensor) -> Tensor:
        cut = part.unflatten(1, (-1, group)).unflatten(3, (-1, size)).unflatten(5, (-1, size))
        ordered: Tensor = cut.permute(0, 1, 3, 5, 2, 4, 6, 7)
        return ordered

    patches[:, :1] = gathered(frames[:, :1].expand(-1, group, -1, -1, -1))
    patches[:, 1:] = gathered(frames[:, 1:])
    flat: Tensor = patches.flatten(0, 1).flatten(3)
    return flat


def pixels_of(patches: Tensor, batch: int, group: int, size: int) -> Tensor:
    """Inverse of `patches_of`: (B*t, h, w, group * size * size * 3) -> (B, 3, T, H, W), colour innermost in memory."""
    cut = patches.unflatten(-1, (group, size, size, RGB)).unflatten(0, (batch, -1))
    frames = cut.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)  # B, t*group, H, W, RGB
    pixels: Tensor = frames[:, group - 1 :].permute(0, 4, 1, 2, 3)
    return pixels


def coarser(patches: Tensor, factor: int) -> Tensor:
    """(N, H, W, C) -> (N, H/factor, W/factor, factor * factor * C), contiguous."""
    cut = patches.unflatten(1, (-1, factor)).unflatten(3, (-1, factor))
    folded: Tensor = cut.transpose(2, 3).flatten(3)
    return folded


def finer(patches: Tensor, factor: int) -> Tensor:
    """Inverse of `coarser`: (N, h, w, factor * factor * C) -> (N, h * factor, w * factor, C), contiguous."""
    cut = patches.unflatten(-1, (factor, factor, -1))
    unfolded: Tensor = cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return unfolded


def reordered(weight: Tensor, *, dim: int, group: int, size: int, inner: int) -> Tensor:
    """A weight whose dimension `dim` counts the channels of `size` x `size` patches in the order of pixel-unshuffle, in
    the order of `patches_of(..., inner)` and then `coarser(..., size // inner)`."""
    outer = size // inner
    cut = weight.unflatten(dim, (group, RGB, outer, inner, outer, inner))
    order = (dim + 2, dim + 4, dim, dim + 3, dim + 5, dim + 1)  # outer row and column, frame, row, column, colour
    rest = range(dim + 6, cut.ndim)
    result: Tensor = cut.permute(*range(dim), *order, *rest).flatten(dim, dim + 5)
    return result
