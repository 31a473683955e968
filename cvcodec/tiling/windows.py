"""Windows in time, for any callable: a stream of frames to a stream of latents, and back.

Owns: the order of windows, what each computes, discards, cross-fades and yields.
Does not know: models, files, devices, normalisation. Frames may be uint8 and the callable may normalise, move to a
device and back: whatever it returns is what is cross-faded and yielded.

Window n keeps latents [n·kept, (n+1)·kept). It is computed from `context_before` latents earlier, starting at a frame
4k, to `blend + context_after` latents later. Its head is cross-faded with the `blend` latents that its predecessor
computed there; so a chunk is final, and yielded, as soon as its own window has been computed. One clip is alive at a
time, and of the previous one only the overlap.

With context at least the receptive field this equals the whole clip: `context_before` and `context_after` at least the
number of neighbouring latents in front and behind that a kept latent (encoding) or its frames (decoding) depend on. The
latent that a model reads as a single frame, because it stands first in a window, is taken care of here
(`WindowSpec.lead`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cvcodec.tiling.backoff import TileRunner
from cvcodec.tiling.padding import cat_all
from cvcodec.tiling.sequence import TIME, FrameSource, LatentSource, Sequence
from cvcodec.tiling.space import ClipFunction, fade_in, tiled
from cvcodec.tiling.specs import TileSpec, WindowSpec
from cvcodec.tiling.timeline import frames_of_latents, latent_count, latents_of_frames

ReadLatents = Callable[[int, int], Tensor | None]


def encode_stream(
    encode: ClipFunction,
    frames: Iterable[Tensor],
    *,
    window: WindowSpec,
    tile: TileSpec | TileRunner | None = None,
    start: int = 0,
    temporal_factor: int = 4,
    spatial_factor: int = 8,
) -> Iterator[Tensor]:
    """Latents of a video of any length and size, chunk by chunk.

    encode: clip (1, 3, T, H, W), T = f·k+1, H and W multiples of `spatial_factor` -> (1, C, k+1, H/s, W/s).
    frames: an iterable of (1, 3, T_i, H, W) pieces of any length, or single frames (1, 3, H, W) or (3, H, W), read
        lazily; the last frame is repeated up to f·k+1 and the bottom and right edges up to multiples of
        `spatial_factor`.
    tile: None for whole pictures, or a `TileRunner` to halve tiles when memory runs out.
    start: the first latent wanted. `frames` then begin at frame `first_frame_to_read(start, window)`; the latents are
        those that the whole video gives.
    Yields (1, C, n, h, w) for chunk 0, 1, ...: n = `window.kept`, less in the last; nothing when there are no frames.
    Runs without autograd. ValueError on frames of several sizes.
    """
    run = _runner(encode, tile, input_factor=spatial_factor, output_factor=1)
    lead = window.lead(temporal_factor, encoding=True)
    first = first_frame_to_read(start, window, temporal_factor=temporal_factor)
    sequence = Sequence(FrameSource(frames, spatial_factor), start=first, pad_factor=temporal_factor)
    return _windows(run, sequence, window, lead, _Axis(temporal_factor), _Axis(1), start, None)


def first_frame_to_read(start: int, window: WindowSpec, *, temporal_factor: int = 4) -> int:
    """The first frame that `encode_stream` reads to give latents from `start` on."""
    lead = window.lead(temporal_factor, encoding=True)
    return temporal_factor * window.start(window.first_needed(start), lead)


def decode_stream(
    decode: ClipFunction,
    read_latents: ReadLatents,
    latent_range: tuple[int, int | None] = (0, None),
    *,
    window: WindowSpec,
    tile: TileSpec | TileRunner | None = None,
    total: int | None = None,
    temporal_factor: int = 4,
    spatial_factor: int = 8,
) -> Iterator[Tensor]:
    """Pixels of latents [start, stop) of a video, window by window.

    decode: latent (1, C, n, h, w) -> pixels (1, 3, f·(n-1)+1, h·s, w·s).
    read_latents: (t0, t1) -> (1, C, t1-t0, h, w); called with ascending ranges that do not overlap, never outside
        `latents_to_read`. When `total` is None, returning fewer latents than asked for (or None) ends the video.
    latent_range: which latents to decode; None as the end means the last one. Part of a video decodes to exactly what
        the whole decodes to, because the windows are the same.
    total: latents in the video, when known.
    Yields (1, 3, T_i, H, W), uncropped and unclamped, for each window that has a part in the range: the frames that its
    kept latents stand for. Runs without autograd. ValueError on a range outside the video.
    """
    start, stop = latent_range
    check_latent_range(start, stop, total)
    run = _runner(decode, tile, input_factor=1, output_factor=spatial_factor)
    lead = window.lead(temporal_factor, encoding=False)
    sequence = Sequence(LatentSource(read_latents, total), start=window.start(window.first_needed(start), lead))
    stop = total if stop is None else stop
    return _windows(run, sequence, window, lead, _Axis(1), _Axis(temporal_factor), start, stop)


def latents_to_read(
    latent_range: tuple[int, int], window: WindowSpec, total: int, *, temporal_factor: int = 4
) -> tuple[int, int]:
    """The latents [a, b) that `decode_stream` reads to decode `latent_range`: the range with its windows' context."""
    start, stop = latent_range
    check_latent_range(start, stop, total)
    if start == stop:
        return start, start
    first = window.start(window.first_needed(start), window.lead(temporal_factor, encoding=False))
    return first, min(total, window.stop((stop - 1) // window.kept))


def chunks_to_read(frame_range: tuple[int, int], window: WindowSpec, total: int, *, temporal_factor: int = 4) -> range:
    """The chunks (`window.kept` latents each) that decoding frames [t0, t1) of a video of `total` latents touches."""
    latents = latents_of_frames(*frame_range, temporal_factor)
    wanted = (latents[0], min(latents[1], total))
    start, stop = latents_to_read(wanted, window, total, temporal_factor=temporal_factor)
    return range(start // window.kept, -(-stop // window.kept)) if start < stop else range(0)


def trim_frames(pieces: Iterable[Tensor], first: int, start: int, stop: int) -> Iterator[Tensor]:
    """Frames [start, stop) of a stream of pieces (B, 3, T_i, H, W) whose first frame is number `first`.

    What `decode_stream` yields for whole latents becomes what was asked for in frames; also cuts the repeated frames
    at the end of a video. Stops reading as soon as it has everything.
    """
    if stop <= start:
        return
    for piece in pieces:
        last = first + piece.shape[TIME]
        if last > start:
            yield piece[:, :, max(0, start - first) : stop - first]
        if last >= stop:
            return
        first = last


def check_latent_range(start: int, stop: int | None, total: int | None) -> None:
    """ValueError unless 0 <= start <= stop <= total, as far as they are known."""
    end = stop if stop is not None else total
    if start < 0 or (end is not None and end < start) or (end is not None and total is not None and end > total):
        raise ValueError(f"latents [{start}, {stop}) are not a range of a video of {total} latents")


@dataclass(frozen=True)
class _Axis:
    """Positions along one side of a model: in frames (factor f) or in latents (factor 1, where both are the same)."""

    factor: int

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """What a model call over latents [start, stop) covers: its first latent counts as one frame, f·start."""
        return self.factor * start, self.factor * (stop - 1) + 1

    def kept(self, start: int, stop: int) -> tuple[int, int]:
        """What latents [start, stop) stand for inside a video."""
        return frames_of_latents(start, stop, self.factor)


def _runner(
    fn: ClipFunction, tile: TileSpec | TileRunner | None, *, input_factor: int, output_factor: int
) -> ClipFunction:
    def run(clip: Tensor) -> Tensor:
        with torch.no_grad():
            if isinstance(tile, TileRunner):
                return tile(fn, clip, input_factor=input_factor, output_factor=output_factor)
            return tiled(fn, clip, tile, input_factor=input_factor, output_factor=output_factor)

    return run


def _windows(
    run: ClipFunction,
    sequence: Sequence,
    window: WindowSpec,
    lead: int,
    given: _Axis,
    made: _Axis,
    start: int,
    stop: int | None,
) -> Iterator[Tensor]:
    """The one loop behind both directions: reads `sequence` on axis `given`, yields latents [start, stop) on `made`."""
    tail: Tensor | None = None
    index = window.first_needed(start)
    while stop is None or index * window.kept < stop:
        first, keep, keep_end, end = (
            window.start(index, lead),
            index * window.kept,
            (index + 1) * window.kept,
            window.stop(index),
        )
        reached = sequence.fill(given.span(first, end)[1])
        end = min(end, latent_count(reached, given.factor))
        keep_end = min(keep_end, end)
        if end <= keep:
            return
        clip = sequence.take(*given.span(first, end))
        result = run(clip)
        del clip
        origin, made_stop = made.span(first, end)
        if result.ndim != 5 or result.shape[TIME] != made_stop - origin:
            raise ValueError(
                f"the function returned {tuple(result.shape)} for a window of {end - first} latents; "
                f"{made_stop - origin} wanted along the time axis"
            )
        sequence.drop_before(given.span(window.start(index + 1, lead), end)[0])

        chunk_first, chunk_end = made.kept(keep, keep_end)
        chunk = _cross_fade(tail, result[:, :, chunk_first - origin : chunk_end - origin], made.factor * window.blend)
        tail_end = made.kept(keep_end, min(keep_end + window.blend, end))[1]
        tail = result[:, :, chunk_end - origin : tail_end - origin].clone() if tail_end > chunk_end else None
        del result
        wanted_first, wanted_end = made.kept(max(start, keep), keep_end if stop is None else min(stop, keep_end))
        if wanted_first < wanted_end:
            yield chunk[:, :, wanted_first - chunk_first : wanted_end - chunk_first]
        del chunk
        index += 1


def _cross_fade(tail: Tensor | None, chunk: Tensor, length: int) -> Tensor:
    """`chunk`, its head faded in over `length` samples from `tail`: the same samples as the previous window saw them.

    At the end of the video `tail` may be shorter than `length`: its weights are the first of the ramp.
    """
    if tail is None:
        return chunk
    overlap = tail.shape[TIME]
    dtype = torch.promote_types(chunk.dtype, torch.float32)
    weights = fade_in(length, device=chunk.device, dtype=dtype)[:overlap, None, None]
    head = torch.lerp(tail.to(dtype), chunk[:, :, :overlap].to(dtype), weights).to(chunk.dtype)
    return cat_all([head, chunk[:, :, overlap:]], dim=TIME) if overlap < chunk.shape[TIME] else head
