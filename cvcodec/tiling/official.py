"""The windows and tiles of the official CV-VAE inference, reproduced (spec section 3).

Owns: the official chunks in time, whole-clip and streaming forms of both directions.
Does not know: how tiles are laid out and blended (`official_grid`), models beyond three attributes, devices, files.

In time: chunks of `chunk_frames` new frames behind one shared frame, whose latent (encoding) or frame (decoding) is
discarded in every chunk but the first; no blending. In space: tiles whose overlap is blended sequentially, each tile
first with the already blended tile above, then with the already blended tile at its left; on encoding, the moments
are blended, log-variance unclamped. GroupNorm spans a chunk, so no other windows give the same latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from cvcodec.tiling.official_grid import OfficialConfig, OfficialGrid, OfficialRunner
from cvcodec.tiling.sequence import TIME, FrameSource, LatentSource, Sequence
from cvcodec.tiling.space import ClipFunction
from cvcodec.tiling.timeline import frame_count, frames_of_latents
from cvcodec.tiling.windows import ReadLatents, check_latent_range


class OfficialModel(Protocol):
    """What `encode_official` and `decode_official` need of a model."""

    @property
    def config(self) -> OfficialConfig: ...
    def moments(self, pixels: Tensor, /) -> Tensor: ...
    def decode(self, latent: Tensor, /) -> Tensor: ...


@torch.no_grad()
def encode_official(model: OfficialModel, pixels: Tensor) -> Tensor:
    """The moments that the official code computes for a clip, with the chunks and tiles that `model.config` names.

    pixels: (B, 3, T, H, W) float in [-1, 1], any T, H, W (spec 1.5: a tail of fewer than 4 frames adds no latent;
    `cvvae` floors odd sizes, `cvvae-sd3` rounds them up). Returns mean and unclamped log-variance, (B, 2C,
    floor((T-1)/4)+1, h, w).
    Runs without autograd. ValueError on another shape or on tiles that do not fit the latent grid.
    """
    _check_clip(pixels, "pixels (B, 3, T, H, W)")
    grid = OfficialGrid.from_config(model.config)
    return torch.cat(list(encode_official_stream(model.moments, [pixels], grid, pad=False)), dim=TIME)


@torch.no_grad()
def decode_official(model: OfficialModel, latent: Tensor) -> Tensor:
    """The pixels that the official code decodes, with the chunks and tiles that `model.config` names.

    latent: (B, C, t, h, w) float. Returns (B, 3, 4·(t-1)+1, 8h, 8w), unclamped. Runs without autograd. ValueError as in
    `encode_official`.
    """
    _check_clip(latent, "a latent (B, C, t, h, w)")
    grid = OfficialGrid.from_config(model.config)

    def read(start: int, stop: int) -> Tensor:
        return latent[:, :, start:stop]

    return torch.cat(list(decode_official_stream(model.decode, read, grid=grid, total=latent.shape[TIME])), dim=TIME)


def encode_official_stream(
    encode: ClipFunction,
    frames: Iterable[Tensor],
    grid: OfficialGrid | OfficialRunner,
    *,
    pad: bool = True,
    start: int = 0,
) -> Iterator[Tensor]:
    """Official moments of a video of any length, chunk by chunk: 5 latents, then 4 at a time (less in the last chunk).

    encode: clip (B, 3, T, H, W) -> moments (B, 2C, floor((T-1)/4)+1, h, w).
    frames: as in `encode_stream`. With `pad`, they are padded to f·k+1 frames and to multiples of 8, so that nothing
        is lost; without, tails and odd sizes go to the model as they are, as the official code does.
    start: the first latent of a chunk: chunks before it are left out, and `frames` begin at frame
        `official_first_frame(start, grid)`.
    Yields what `encode_official` gives for the whole (padded) video, piece by piece. One chunk is alive at a time (the
    whole video when `grid.chunk_frames` is None). Runs without autograd.
    """
    runner = grid if isinstance(grid, OfficialRunner) else OfficialRunner(grid)
    source = FrameSource(frames, runner.grid.spatial_factor if pad else 1)
    first = official_first_frame(start, runner.grid)
    sequence = Sequence(source, start=first, pad_factor=runner.grid.temporal_factor if pad else 1)
    return _encode_chunks(encode, sequence, runner, _chunk_of(start, runner.grid))


def official_first_frame(start: int, grid: OfficialGrid) -> int:
    """The first frame that `encode_official_stream` reads to give the chunk of latent `start` and those behind it."""
    return _chunk_of(start, grid) * (grid.chunk_frames or 0)


def decode_official_stream(
    decode: ClipFunction,
    read_latents: ReadLatents,
    latent_range: tuple[int, int | None] = (0, None),
    *,
    grid: OfficialGrid | OfficialRunner,
    total: int | None = None,
) -> Iterator[Tensor]:
    """Official pixels of latents [start, stop) of a video, chunk by chunk; arguments as in `decode_stream`.

    decode: latent (B, C, n, h, w) -> pixels (B, 3, 4·(n-1)+1, 8h, 8w).
    Each chunk needs the last latent of the one before it: `official_latents_to_read` says what is read. Yields the
    frames that the latents of each chunk, as far as they are in the range, stand for: 17, then 16 at a time.
    """
    runner = grid if isinstance(grid, OfficialRunner) else OfficialRunner(grid)
    check_latent_range(*latent_range, total)
    start, stop = latent_range
    first = _chunk_of(start, runner.grid)
    sequence = Sequence(LatentSource(read_latents, total), start=first * (runner.grid.chunk_latents or 0))
    return _decode_chunks(decode, sequence, runner, first, start, total if stop is None else stop)


def official_latents_to_read(latent_range: tuple[int, int], grid: OfficialGrid, total: int) -> tuple[int, int]:
    """The latents [a, b) that `decode_official_stream` reads to decode `latent_range`."""
    start, stop = latent_range
    check_latent_range(start, stop, total)
    if start == stop:
        return start, start
    if grid.chunk_latents is None:
        return 0, total
    first, last = _chunk_of(start, grid), _chunk_of(stop - 1, grid)
    return first * grid.chunk_latents, min(total, (last + 1) * grid.chunk_latents + 1)


def official_chunk(index: int, grid: OfficialGrid, total: int) -> tuple[int, int]:
    """The latents [start, stop) that chunk `index` of a video of `total` latents adds: [0, 5), [5, 9), [9, 13) ..."""
    if grid.chunk_latents is None:
        return (0, total) if index == 0 else (total, total)
    start = index * grid.chunk_latents + 1 if index else 0
    return min(start, total), min((index + 1) * grid.chunk_latents + 1, total)


def _chunk_of(latent: int, grid: OfficialGrid) -> int:
    """The chunk that adds latent `latent`."""
    return max(0, latent - 1) // grid.chunk_latents if grid.chunk_latents else 0


def _encode_chunks(encode: ClipFunction, sequence: Sequence, runner: OfficialRunner, index: int) -> Iterator[Tensor]:
    step, factor = runner.grid.chunk_frames, runner.grid.temporal_factor
    while True:
        first = index * step if step else 0
        stop = sequence.fill(None if step is None else first + step + 1)
        new = (stop - first - 1) // factor + (index == 0)
        if stop <= first or new < 1:  # the end, or a tail too short to add a latent
            return
        clip = sequence.take(first, stop)
        with torch.no_grad():
            result = runner.moments(encode, clip)
        del clip
        _check_time(result, (stop - first - 1) // factor + 1)
        sequence.drop_before(stop - 1)
        yield result[:, :, 1:] if index else result
        del result
        if step is None:
            return
        index += 1


def _decode_chunks(
    decode: ClipFunction, sequence: Sequence, runner: OfficialRunner, index: int, start: int, stop: int | None
) -> Iterator[Tensor]:
    step, factor = runner.grid.chunk_latents, runner.grid.temporal_factor
    while True:
        first = index * step if step else 0
        added = first + 1 if index else 0
        if stop is not None and added >= stop:
            return
        end = sequence.fill(None if step is None else first + step + 1)
        if end <= added:
            return
        latent = sequence.take(first, end)
        with torch.no_grad():
            result = runner.pixels(decode, latent)
        _check_time(result, frame_count(end - first, factor))
        sequence.drop_before(end - 1)
        last = end if stop is None else min(stop, end)
        frame, frame_end = frames_of_latents(max(start, added), last, factor)
        yield result[:, :, frame - factor * first : frame_end - factor * first]
        del result
        if step is None:
            return
        index += 1


def _check_time(result: Tensor, wanted: int) -> None:
    if result.ndim != 5 or result.shape[TIME] != wanted:
        raise ValueError(f"the model returned {tuple(result.shape)} for a chunk; {wanted} wanted along the time axis")


def _check_clip(tensor: Tensor, wanted: str) -> None:
    if tensor.ndim != 5 or 0 in tensor.shape:
        raise ValueError(f"{wanted} wanted, got shape {tuple(tensor.shape)}")
