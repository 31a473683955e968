"""Pictures in space: padding to what a model takes, cropping back, and tiles, for any callable.

Owns: how sides grow to multiples of the spatial factor, where tiles lie, their cross-fade weights, and the accumulation
into one output.

Padding repeats the edge, so that any size reaches the model uncut, on every dtype (uint8 frames included), which
torch's own replicate padding does not.

Tiles have equal size, no larger than their number demands, and are spread evenly from the top left to the bottom right.
Of each tile, `context` latents at every inner edge are discarded; where the rest of two neighbours overlaps, `blend`
latents in the middle are cross-faded. So with context at least the receptive field, the result equals the untiled one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cvcodec.windows.specs import Tile

ClipFunction = Callable[[Tensor], Tensor]


def padded_size(size: int, factor: int = 8) -> int:
    """`size` rounded up to a multiple of `factor`."""
    if size < 1 or factor < 1:
        raise ValueError(f"size and factor must be at least 1: {size = }, {factor = }")
    return -(-size // factor) * factor


def pad_space(pixels: Tensor, factor: int = 8) -> Tensor:
    """(B, C, T, H, W) with its last row and column repeated at the bottom and right up to multiples of `factor`."""
    check_clip(pixels)
    height, width = pixels.shape[3:]
    tall = repeat_last(pixels, dim=3, missing=padded_size(height, factor) - height)
    return repeat_last(tall, dim=4, missing=padded_size(width, factor) - width)


def crop_space(pixels: Tensor, height: int, width: int) -> Tensor:
    """The top-left `height` x `width` of (B, C, T, H, W), a view: undoes `pad_space`."""
    check_clip(pixels)
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


def check_clip(pixels: Tensor) -> None:
    """ValueError unless `pixels` is a clip."""
    if pixels.ndim != 5 or 0 in pixels.shape[2:]:
        raise ValueError(f"a clip (B, C, T, H, W) with at least one frame and pixel wanted, got {tuple(pixels.shape)}")


@dataclass(frozen=True)
class Part:
    """One tile along one axis, in latents: computed over [start, stop), used over [first, last), ramps at its ends."""

    start: int
    stop: int
    first: int
    last: int
    ramp_in: int
    """Latents at `first` over which this part fades in; 0 at the edge of the picture."""
    ramp_out: int
    """Latents before `last` over which this part fades out; 0 at the edge of the picture."""


def layout(length: int, tile: Tile | None) -> list[Part]:
    """The parts along an axis of `length` latents. A tile as long as the axis, or None, gives one part."""
    if length < 1:
        raise ValueError(f"at least 1 latent wanted along an axis, got {length}")
    if tile is None or length <= tile.size:
        return [Part(0, length, 0, length, 0, 0)]
    steps = -(-(length - tile.size) // tile.stride)
    tile = _just_enough(length, steps + 1, tile)
    spare = length - tile.size
    starts = [spare * index // steps for index in range(steps + 1)]
    fades = [0]  # where each part begins to fade in: centred in what it shares with its predecessor, context left out
    for before, after in itertools.pairwise(starts):
        shared = before + tile.size - after - 2 * tile.context
        fades.append(after + tile.context + (shared - tile.blend) // 2)
    ends = [fade + tile.blend for fade in fades[1:]] + [length]
    return [
        Part(
            start=start,
            stop=start + tile.size,
            first=first,
            last=last,
            ramp_in=tile.blend if index else 0,
            ramp_out=tile.blend if index < steps else 0,
        )
        for index, (start, first, last) in enumerate(zip(starts, fades, ends, strict=True))
    ]


def _just_enough(length: int, count: int, tile: Tile) -> Tile:
    """`tile`, made as small as `count` tiles over `length` latents allow: nothing is computed for nothing."""
    shared = 2 * tile.context + tile.blend
    size = -(-(length + (count - 1) * shared) // count)
    return dataclasses.replace(tile, size=max(tile.smallest, min(tile.size, size)))


def fade_in(length: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of the newcomer in a cross-fade of `length` samples, strictly between 0 and 1: (i+1) / (length+1)."""
    return torch.arange(1, length + 1, device=device, dtype=dtype) / (length + 1)


def part_weights(
    part: Part, factor: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Weights of `part` over [first, last) at `factor` samples a latent; all parts of a layout sum to one."""
    weights = torch.ones((part.last - part.first) * factor, device=device, dtype=dtype)
    ramp_in, ramp_out = part.ramp_in * factor, part.ramp_out * factor
    if ramp_in:
        weights[:ramp_in] = fade_in(ramp_in, device=device, dtype=dtype)
    if ramp_out:
        weights[-ramp_out:] = 1.0 - fade_in(ramp_out, device=device, dtype=dtype)
    return weights


def tiled(
    fn: ClipFunction, clip: Tensor, tile: Tile | None, *, input_factor: int = 1, output_factor: int = 1
) -> Tensor:
    """`fn(clip)`, computed tile by tile.

    clip: (B, C, T, H, W), any dtype, H and W multiples of `input_factor`. The factors are samples per latent side: 8
    and 1 to encode, 1 and 8 to decode. Returns (B, C', T', H/input_factor·output_factor, W/…) in the dtype and on the
    device that `fn` returns. One tile and the output are alive at a time. ValueError when `fn` returns another size
    than the factors say.
    """
    if clip.ndim != 5:
        raise ValueError(f"a clip (B, C, T, H, W) wanted, got shape {tuple(clip.shape)}")
    height, width = clip.shape[3:]
    if height % input_factor or width % input_factor:
        raise ValueError(f"{height} x {width} is not a multiple of {input_factor}: pad it first (pad_space)")
    rows = layout(height // input_factor, tile)
    columns = layout(width // input_factor, tile)
    if len(rows) == len(columns) == 1:
        whole = fn(clip)
        _check_size(whole, rows[0], columns[0], output_factor)
        return whole

    output: Tensor | None = None
    for row in rows:
        for column in columns:
            result = fn(_cut(clip, row, column, input_factor).contiguous())
            _check_size(result, row, column, output_factor)
            if output is None:
                size = (height // input_factor * output_factor, width // input_factor * output_factor)
                output = result.new_zeros((*result.shape[:3], *size))
            _accumulate(output, result, row, column, output_factor)
            del result
    assert output is not None
    return output


def _cut(clip: Tensor, row: Part, column: Part, factor: int) -> Tensor:
    return clip[..., row.start * factor : row.stop * factor, column.start * factor : column.stop * factor]


def _accumulate(output: Tensor, result: Tensor, row: Part, column: Part, factor: int) -> None:
    """Adds the weighted, used part of a tile's result to the output, in place."""
    inner = result[
        ...,
        (row.first - row.start) * factor : (row.last - row.start) * factor,
        (column.first - column.start) * factor : (column.last - column.start) * factor,
    ]
    target = output[..., row.first * factor : row.last * factor, column.first * factor : column.last * factor]
    if not any((row.ramp_in, row.ramp_out, column.ramp_in, column.ramp_out)):
        target.copy_(inner)
        return
    dtype = torch.promote_types(result.dtype, torch.float32)
    vertical = part_weights(row, factor, device=result.device, dtype=dtype)
    horizontal = part_weights(column, factor, device=result.device, dtype=dtype)
    target += inner * (vertical[:, None] * horizontal[None, :])


def _check_size(result: Tensor, row: Part, column: Part, factor: int) -> None:
    wanted = ((row.stop - row.start) * factor, (column.stop - column.start) * factor)
    if result.ndim != 5 or tuple(result.shape[3:]) != wanted:
        raise ValueError(
            f"the function returned {tuple(result.shape)} for a tile; (B, C, T, {wanted[0]}, {wanted[1]}) wanted"
        )
