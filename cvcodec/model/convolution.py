"""Convolutions over clips, with the padding rules of the official models (spec 1.1).

Owns: 1x1, 3x3 and 3x3x3 kernels, their parameters (official shapes), padding, stride, upsampling by nearest neighbour,
and which source frames feed each output frame of a temporal kernel.

Clips travel as *frames*: (T, B, H, W, C), contiguous. A range of frames is then one block of memory and a channels-last
batch of images, so that every convolution is a 2D one: a 3x3x3 kernel reads the channels of three neighbouring frames
side by side. Without gradients the work goes through a clip in short runs of frames, so that what is prepared for a run
(normalised, padded, joined) is gone after it. A frame replicated in time is never copied: the taps that see it are
added up instead. A zero frame is never read: its taps are left out. So the borders of a clip cost less than its middle,
and a one-frame clip costs a 2D convolution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvcodec.model import winograd

Prepare = Callable[[Tensor], Tensor]
"""Frames (t, B, h, w, C) -> new frames of that shape: what is computed on the way into a convolution."""

CPU_RUN_ELEMENTS = 1 << 22  # numbers per run of frames, about the last-level cache
GPU_RUN_ELEMENTS = 1 << 28  # enough to keep a GPU busy
WINOGRAD_TILES = 256  # tiles at once, enough for fast matrix products: bands of tall frames, or several small frames
WINOGRAD_MIN_PIXELS = 4096  # below, transforming the kernel costs more than it saves
WINOGRAD_MIN_CHANNELS = 64  # below, transforming the pixels costs more than it saves


class SpacePadding(Enum):
    """How a 3x3 kernel continues a frame beyond its edges."""

    ZERO = "zeros, one on each side"
    REPLICATE = "the edge pixels, one on each side"
    ZERO_END = "zeros, one at the right and one at the bottom"

    def apply(self, frames: Tensor, *, top: int = 1, bottom: int = 1, right: int = 1) -> Tensor:
        """Frames (T, B, H, W, C) with a border of one column on the left and the given numbers elsewhere.

        Beyond one row or column the content is arbitrary. `ZERO_END` has nothing at the top and on the left.
        """
        if self is SpacePadding.ZERO_END:
            return F.pad(frames, (0, 0, 0, right, 0, bottom))
        if self is SpacePadding.ZERO:
            return F.pad(frames, (0, 0, 1, right, top, bottom))
        images = frames.flatten(0, 1).permute(0, 3, 1, 2)
        padded = F.pad(images, (1, right, top, bottom), mode="replicate").permute(0, 2, 3, 1)
        return padded.contiguous().view(*frames.shape[:2], *padded.shape[1:])


# ---------------------------------------------------------------------------------------------------- time

TAPS = 3


class TimePadding(Enum):
    """How a kernel of three frames continues a clip beyond its ends."""

    CAUSAL = "the first frame twice in front, nothing behind"
    REPLICATE = "the first frame once in front, the last once behind"
    ZERO = "one zero frame on each side"

    @property
    def front(self) -> int:
        """Frames added in front of the clip."""
        return 2 if self is TimePadding.CAUSAL else 1


@dataclass(frozen=True)
class Source:
    """One input frame of an output frame: `offset` from (output index x stride), and the kernel taps that see it."""

    offset: int
    taps: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """Output frames [first, first + count) that all have the same sources."""

    first: int
    count: int
    sources: tuple[Source, ...]

    def needs(self, stride: int) -> tuple[int, int]:
        """Half-open range of the input frames that the run reads."""
        last = self.first + self.count - 1
        return self.first * stride + self.sources[0].offset, last * stride + self.sources[-1].offset + 1


ONE_FRAME = (Source(0, (0,)),)


def output_frames(frames: int, stride: int) -> int:
    """Frames that come out: all of them at stride 1, ceil(frames / 2) at stride 2."""
    return (frames - 1) // stride + 1


def sources_of(index: int, frames: int, padding: TimePadding, stride: int) -> tuple[Source, ...]:
    """Sources of output frame `index` of a clip of `frames` frames, oldest first."""
    taps: dict[int, list[int]] = {}
    for tap in range(TAPS):
        frame = index * stride + tap - padding.front
        if padding is TimePadding.ZERO and not 0 <= frame < frames:
            continue
        taps.setdefault(min(max(frame, 0), frames - 1), []).append(tap)
    return tuple(Source(frame - index * stride, tuple(seen)) for frame, seen in sorted(taps.items()))


def runs(frames: int, padding: TimePadding | None, *, stride: int = 1, longest: int) -> Iterator[Run]:
    """All output frames in order, in runs of at most `longest`; `padding` None: a 2D kernel, each frame by itself."""
    total = output_frames(frames, stride)
    first = 0
    while first < total:
        sources = ONE_FRAME if padding is None else sources_of(first, frames, padding, stride)
        end = first + 1
        while (
            end < min(total, first + longest)
            and (ONE_FRAME if padding is None else sources_of(end, frames, padding, stride)) == sources
        ):
            end += 1
        yield Run(first, end - first, sources)
        first = end


# ---------------------------------------------------------------------------------------------------- layers


class PointConv(nn.Module):
    """A convolution of single pixels: 1x1 (`axes` 2) or 1x1x1 (`axes` 3), which differ in the weight's shape only."""

    def __init__(self, inputs: int, outputs: int, *, axes: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *(1,) * axes))
        self.bias = nn.Parameter(torch.empty(outputs))
        _reset(self.weight, self.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return F.linear(frames, self.weight.flatten(1), self.bias)


class FrameConv(nn.Module):
    """A 3x3 (`time` None) or 3x3x3 convolution; `stride` in space, `time_stride` in time."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        time: TimePadding | None,
        space: SpacePadding = SpacePadding.ZERO,
        stride: int = 1,
        time_stride: int = 1,
    ) -> None:
        super().__init__()
        self.time, self.space, self.stride, self.time_stride = time, space, stride, time_stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *(3,) * (2 if time is None else 3)))
        self.bias = nn.Parameter(torch.empty(outputs))
        _reset(self.weight, self.bias)

    def forward(self, frames: Tensor, before: Prepare | None = None) -> Tensor:
        """(T, B, H, W, inputs) -> (T', B, H', W', outputs); `before` is applied to the frames on their way in."""
        if self._winograd_pays(frames):
            return self._winograd(frames, before)
        border = 1 if self.space is SpacePadding.ZERO else 0  # zeros on all sides are free inside a convolution
        kernel_of = _Kernels(self.weight)

        def prepare(piece: Tensor) -> Tensor:
            piece = piece if before is None else before(piece)
            return piece if border else self.space.apply(piece)

        def convolve(inputs: list[Tensor], sources: tuple[Source, ...], _first: bool) -> Tensor:
            return _convolve(inputs, kernel_of(sources), self.bias, stride=self.stride, padding=border)

        count, batch, height, width, _ = frames.shape
        short = 1 if self.space is SpacePadding.ZERO_END else 0  # one row and column less than padding on both sides
        rows, columns = ((side - 1 - short) // self.stride + 1 for side in (height, width))
        clip = _Clip(frames, self.time, self.time_stride, _longest_run(frames, self.weight.shape[0]))
        shape = (output_frames(count, self.time_stride), batch, rows, columns, self.weight.shape[0])
        return clip.through(prepare, convolve, shape)

    def _winograd_pays(self, frames: Tensor) -> bool:
        return (
            frames.device.type == "cpu"
            and frames.dtype == torch.float32
            and self.stride == 1
            and min(self.weight.shape[:2]) >= WINOGRAD_MIN_CHANNELS
            and frames.shape[:4].numel() >= WINOGRAD_MIN_PIXELS
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )

    def _winograd(self, frames: Tensor, before: Prepare | None) -> Tensor:
        count, batch, height, width, _ = frames.shape
        rows, columns = math.ceil(height / winograd.TILE), math.ceil(width / winograd.TILE)
        padded_width = columns * winograd.TILE
        transformed = winograd.transform_kernel(_with_time_axis(self.weight))
        kernel_of = functools.cache(functools.partial(_summed_over_taps, transformed, axis=1))
        out = frames.new_empty(count, batch, rows * winograd.TILE, padded_width, self.weight.shape[0])
        bands = math.ceil(rows / max(1, WINOGRAD_TILES // (batch * columns)))
        edges = [rows * band // bands for band in range(bands + 1)]
        for start, end in zip(edges, edges[1:], strict=False):
            top, bottom = start * winograd.TILE - 1, end * winograd.TILE + 1  # with the rows that the kernel looks at
            window = frames[:, :, max(top, 0) : min(bottom, height)]

            def prepare(piece: Tensor, top: int = top, bottom: int = bottom) -> Tensor:
                piece = piece if before is None else before(piece)
                border = {"top": max(-top, 0), "bottom": max(bottom - height, 0), "right": 1 + padded_width - width}
                return winograd.transform_input(self.space.apply(piece, **border))

            def convolve(inputs: list[Tensor], sources: tuple[Source, ...], _: bool, tall: int = end - start) -> Tensor:
                products = winograd.multiply(inputs, kernel_of(sources))
                return winograd.transform_output(products, self.bias, (len(inputs[0]), batch, tall, columns))

            band = out[:, :, start * winograd.TILE : end * winograd.TILE]
            longest = max(1, WINOGRAD_TILES // (batch * (end - start) * columns))
            _Clip(window, self.time, 1, longest).through(prepare, convolve, band.shape, into=band)
        return out if out.shape[2:4] == frames.shape[2:4] else out[:, :, :height, :width].contiguous()


class UpsampleConv(nn.Module):
    """Nearest-neighbour x2 in space, then a 3x3 or 3x3x3 convolution; `doubles_time`: T frames become 2T-1 (spec 1.4).

    The upsampled frames are never made: each of the four output phases is a 2x2 convolution of the small frames with
    those taps added up that see the same pixel. With `doubles_time` the kernel has two groups of output channels, one
    per sub-frame; output frame 2t + s - 1 is sub-frame s of frame t, and sub-frame 0 of frame 0 is not computed.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        time: TimePadding | None,
        space: SpacePadding = SpacePadding.ZERO,
        doubles_time: bool = False,
    ) -> None:
        super().__init__()
        self.time, self.space, self.outputs, self.subframes = time, space, outputs, 2 if doubles_time else 1
        kernel = (3,) * (2 if time is None else 3)
        self.weight = nn.Parameter(torch.empty(outputs * self.subframes, inputs, *kernel))
        self.bias = nn.Parameter(torch.empty(outputs * self.subframes))
        _reset(self.weight, self.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """(T, B, H, W, inputs) -> (T or 2T-1, B, 2H, 2W, outputs)."""
        count, batch, height, width, _ = frames.shape
        phases = _phase_kernels(self.weight)  # (4, subframes * outputs, inputs, taps, 2, 2)
        every = _Kernels(phases.flatten(0, 1))
        # The first frame's sub-frame 0 is dropped, so its kernels are left out.
        newest = _Kernels(phases[:, -self.outputs :].flatten(0, 1))

        def convolve(inputs: list[Tensor], sources: tuple[Source, ...], first: bool) -> Tensor:
            bias = self.bias[-self.outputs :] if first else self.bias
            kernels = (newest if first else every)(sources)
            corners = _convolve(inputs, kernels, bias.repeat(4), stride=1, padding=0)  # (t, B, H+1, W+1, 4 * channels)
            a, b, c, d = corners.chunk(4, dim=-1)
            upper, lower = (a[:, :, :height, :width], b[:, :, :height, 1:]), (c[:, :, 1:, :width], d[:, :, 1:, 1:])
            pixels = torch.stack((*upper, *lower)).view(2, 2, *upper[0].shape[:4], -1, self.outputs)
            return pixels.permute(2, 6, 3, 4, 0, 5, 1, 7)  # (t, subframes, B, H, 2, W, 2, outputs)

        clip = _Clip(frames, self.time, 1, _longest_run(frames, 4 * self.weight.shape[0]))
        total = self.subframes * count - (self.subframes - 1)
        return clip.through(self.space.apply, convolve, (total, batch, 2 * height, 2 * width, self.outputs))


# ---------------------------------------------------------------------------------------------------- walking a clip

_Convolve = Callable[[list[Tensor], tuple[Source, ...], bool], Tensor]
"""(prepared frames of each source, the sources, whether it is the clip's first frame) -> the elements of the output
frames in order; their axes may be split further."""


class _Clip:
    """Frames on their way through a convolution: prepared once, kept while a later output frame needs them."""

    def __init__(self, frames: Tensor, time: TimePadding | None, stride: int, longest: int) -> None:
        self.frames, self.stride, self.longest = frames, stride, longest
        self.runs = runs(frames.shape[0], time, stride=stride, longest=longest)
        self.blocks: list[tuple[int, Tensor]] = []  # (index of the first frame, prepared frames), oldest first

    def through(
        self, prepare: Prepare, convolve: _Convolve, shape: tuple[int, ...], into: Tensor | None = None
    ) -> Tensor:
        """All output frames, (T', B, H', W', O) = `shape`; written to `into` where given (without gradients only)."""
        pieces: list[Tensor] = []
        done = 0
        for run in self.runs:
            start, end = run.needs(self.stride)
            self.blocks = [(first, block) for first, block in self.blocks if first + len(block) > start]
            ready = self.blocks[-1][0] + len(self.blocks[-1][1]) if self.blocks else start
            if ready < end:
                end = min(max(end, ready + self.longest), len(self.frames))
                self.blocks.append((ready, prepare(self.frames[ready:end])))
            inputs = [self._take(run.first * self.stride + source.offset, run.count) for source in run.sources]
            piece = convolve(inputs, run.sources, run.first == 0)
            count = piece.numel() // math.prod(shape[1:])
            if torch.is_grad_enabled() or (into is None and count == shape[0]):
                pieces.append(piece.reshape(count, *shape[1:]))
            else:
                into = piece.new_empty(shape) if into is None else into
                into[done : done + count].view(piece.shape).copy_(piece)
            done += count
        if into is not None:
            return into
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _take(self, first: int, count: int) -> Tensor:
        """Prepared frames first, first + stride, ... (`count` of them)."""
        last = first + (count - 1) * self.stride
        parts = []
        for start, block in self.blocks:
            if start <= last and start + len(block) > first:
                begin = first + max(0, math.ceil((start - first) / self.stride)) * self.stride
                parts.append(block[begin - start : last - start + 1 : self.stride])
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def spans(frames: Tensor, channels: int, *, runs: int = 1) -> list[slice]:
    """Ranges of frames small enough that `channels` numbers per pixel fit `runs` times the memory of a run."""
    step = runs * _run_length(frames, channels)
    return [slice(first, min(first + step, len(frames))) for first in range(0, len(frames), step)]


def _run_length(frames: Tensor, channels: int) -> int:
    most = CPU_RUN_ELEMENTS if frames.device.type == "cpu" else GPU_RUN_ELEMENTS
    return max(1, most // (frames.shape[1:4].numel() * channels))


def _longest_run(frames: Tensor, outputs: int) -> int:
    """Output frames per run: all of them when gradients need everything anyway."""
    return len(frames) if torch.is_grad_enabled() else _run_length(frames, max(frames.shape[4], outputs))


# ---------------------------------------------------------------------------------------------------- kernels


class _Kernels:
    """2D kernels for the sources of a run, from one weight (O, I, taps, kh, kw) or (O, I, kh, kw)."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = _with_time_axis(weight).permute(0, 3, 4, 2, 1)  # (O, kh, kw, taps, I)
        self.made: dict[tuple[Source, ...], list[Tensor]] = {}

    def __call__(self, sources: tuple[Source, ...]) -> list[Tensor]:
        """One (O, kh, kw, I) for each source; without gradients a single (O, kh, kw, sources * I)."""
        if sources not in self.made:
            kernels = _summed_over_taps(self.weight, sources, axis=3)
            self.made[sources] = kernels if torch.is_grad_enabled() else [torch.cat(kernels, -1)]
        return self.made[sources]


def _summed_over_taps(weight: Tensor, sources: tuple[Source, ...], *, axis: int) -> list[Tensor]:
    """For each source the sum of the taps that see it (always neighbours), without the tap axis."""
    taps = [weight.narrow(axis, source.taps[0], len(source.taps)) for source in sources]
    return [part.sum(axis) if part.shape[axis] > 1 else part.squeeze(axis) for part in taps]


def _convolve(inputs: list[Tensor], kernels: list[Tensor], bias: Tensor, *, stride: int, padding: int) -> Tensor:
    """Sum over the sources of a 2D convolution of (t, B, H, W, I) with (O, kh, kw, I) -> (t, B, H', W', O).

    Without gradients it is one convolution of the sources' channels side by side, which also rounds only once. With
    them it is a sum: a convolution keeps its input for the backward pass, and joining would keep every frame thrice.
    """
    if len(inputs) > len(kernels):
        inputs = [torch.cat(inputs, -1)]
    total: Tensor | None = None
    for frames, kernel in zip(inputs, kernels, strict=True):
        images = frames.flatten(0, 1).permute(0, 3, 1, 2)
        weight = kernel.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        out = conv2d(images, weight, bias if total is None else None, stride=stride, padding=padding)
        total = out if total is None else total + out
    assert total is not None
    total = total.permute(0, 2, 3, 1).contiguous()
    return total.view(*inputs[0].shape[:2], *total.shape[1:])


def conv2d(images: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int) -> Tensor:
    """`F.conv2d`; with a stride never to one column, which oneDNN leaves unwritten in bf16 where the CPU has AMX."""
    columns = (images.shape[3] + 2 * padding - weight.shape[3]) // stride + 1
    if stride == 1 or columns > 1:
        return F.conv2d(images, weight, bias, stride=stride, padding=padding)
    # Zeros beyond the zeros of the padding: the first column sees none of them, the second is dropped.
    wider = F.conv2d(F.pad(images, (0, stride)), weight, bias, stride=stride, padding=padding)
    return wider[..., :1].contiguous(memory_format=torch.channels_last)


def _phase_kernels(weight: Tensor) -> Tensor:
    """2x2 kernels of the output phases: (O, I, [taps,] 3, 3) -> (4, O, I, taps, 2, 2), phase = 2 * row + column."""
    # (phase, small pixel, tap): the upsampled pixels around an even one, 2i-1, 2i, 2i+1, are small pixels i-1, i, i;
    # those around an odd one, 2i, 2i+1, 2i+2, show i, i, i+1.
    even, odd = ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    fold = torch.tensor((even, odd), dtype=weight.dtype, device=weight.device)
    weight = _with_time_axis(weight)
    both = torch.einsum("apk,bql->abpqkl", fold, fold).reshape(16, 9)
    folded = both @ weight.permute(3, 4, 0, 1, 2).reshape(9, -1)
    return folded.view(4, 2, 2, *weight.shape[:3]).permute(0, 3, 4, 5, 1, 2)


def _with_time_axis(weight: Tensor) -> Tensor:
    """(O, I, kh, kw) -> (O, I, 1, kh, kw); a 3D weight stays as it is."""
    return weight if weight.ndim == 5 else weight.unsqueeze(2)


def _reset(weight: Tensor, bias: Tensor) -> None:
    """PyTorch's default for convolutions and linear layers."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    bound = 1 / math.sqrt(weight[0].numel())
    nn.init.uniform_(bias, -bound, bound)
