"""Which source frames feed each output frame of a temporal convolution.

Owns: the temporal padding rules (spec 1.1) and their translation into runs of output frames that need the same kernel.
Does not know: tensors, spatial padding, weights.

A replicated frame is never copied: the kernel taps that see it are added up instead. A zero frame is never read: its
taps are left out. So the borders of a clip cost less than its middle, and a one-frame clip costs a 2D convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

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
