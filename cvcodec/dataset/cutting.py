"""A source -> the clips that are encoded of it: how long, how far apart, not across cuts, not of what shows nothing.

Owns: the arithmetic, what is left out and why. Does not know: files of a run, models, how frames are looked at.

Frames are counted as they are encoded, at the rate that `--fps` gives. A clip begins a stride after the one before; in
each scene anew. What is left at the end of a scene is left out, unless it has `min_frames`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cvcodec.dataset.cutting_options import BLACK_MEAN, CELLS, STILL_CHANGE, Cutting


@dataclass(frozen=True)
class Piece:
    """Frames of a source that make a clip."""

    first: int
    """Number of the first one, from the beginning of the source."""
    frames: int
    start: Fraction
    """When it is shown, in seconds, as `VideoReader` counts them."""


@dataclass(frozen=True)
class LeftOut:
    """Frames of a source that make none."""

    first: int
    reason: str


@dataclass(frozen=True)
class Cut:
    """What becomes of a source."""

    pieces: tuple[Piece, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Look:
    """What was seen of one frame of the source, by `number`. brightness: in the mean. cells: of its parts."""

    number: int
    brightness: float
    cells: NDArray[np.int16]

    @classmethod
    def at(cls, number: int, picture: NDArray[np.uint8]) -> Look:
        """Of a small picture, (H, W, 3)."""
        gray = picture.mean(-1, dtype=np.float32)
        (height, width), (across, down) = gray.shape, CELLS
        rows, columns = (
            np.unique(np.linspace(0, side, count + 1).astype(int)) for side, count in ((height, down), (width, across))
        )
        sums = np.add.reduceat(np.add.reduceat(gray, rows[:-1], 0), columns[:-1], 1)
        cells = sums / (np.diff(rows)[:, None] * np.diff(columns))
        return cls(number, float(gray.mean()), np.rint(cells).astype(np.int16))


def cut(
    cutting: Cutting,
    frames: Sequence[tuple[Fraction, int]],
    *,
    zero: Fraction = Fraction(0),
    scene_starts: Sequence[int] = (),
    looks: Sequence[Look] = (),
) -> Cut:
    """frames: of each that may be encoded, its time and its number in the source (`FrameTimes.at`). zero: what
    `VideoReader` counts from. scene_starts: numbers in the source. looks: in order."""
    pieces: list[Piece] = []
    left: list[LeftOut] = []
    numbers = [number for _, number in frames]
    bounds = [0, *(bisect_right(numbers, start - 1) for start in scene_starts), len(frames)]
    for begin, end in zip(bounds, bounds[1:], strict=False):
        for first, count in _stretches(cutting, begin, end):
            reason = _reason(cutting, count, looks, numbers[first], numbers[first + count - 1])
            if reason:
                left.append(LeftOut(first, reason))
            else:
                pieces.append(Piece(first, count, frames[first][0] - zero))
    most = cutting.max_clips
    if most is not None and len(pieces) > most:
        pieces = [pieces[(2 * place + 1) * len(pieces) // (2 * most)] for place in range(most)]
    return Cut(tuple(pieces), tuple(left))


def _stretches(cutting: Cutting, begin: int, end: int) -> list[tuple[int, int]]:
    """(first, frames) of the clips of a scene, what is left at its end included."""
    length = cutting.clip_frames
    if length is None:
        return [(begin, end - begin)] if end > begin else []
    stride = cutting.clip_stride or length
    starts = list(range(begin, end, stride))
    whole = [(first, length) for first in starts if first + length <= end]
    rest = starts[len(whole)] if len(whole) < len(starts) else end
    # What overlapping clips have shown already is no rest.
    shown = whole[-1][0] + length if whole else begin
    return [*whole, *([(rest, end - rest)] if end > max(rest, shown) else [])]


def _reason(cutting: Cutting, count: int, looks: Sequence[Look], first: int, last: int) -> str:
    """Why a clip is left out; empty: it is not."""
    least = cutting.min_frames or cutting.clip_frames or 1
    if count < least:
        return f"{count} frames, wanted at least {least}"
    if not (cutting.skip_still or cutting.skip_black):
        return ""
    begin, end = (bisect_right(looks, number, key=lambda look: look.number) for number in (first - 1, last))
    seen = looks[begin:end] or looks[max(0, begin - 1) : begin]
    if cutting.skip_black and max(look.brightness for look in seen) <= BLACK_MEAN:
        return f"black: no picture is brighter than {BLACK_MEAN} of 255 in the mean"
    if cutting.skip_still and _change(seen) <= STILL_CHANGE:
        return f"still: nothing changes by more than {STILL_CHANGE} of 255"
    return ""


def _change(looks: Sequence[Look]) -> int:
    return max(int(np.abs(look.cells - looks[0].cells).max()) for look in looks)
