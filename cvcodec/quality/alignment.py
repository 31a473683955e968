"""Two streams of frames in step: which frame of one is compared with which of the other.

Owns: matching by time. Knows of a frame only that it has a `pts`; holds two frames of each side at most.
Does not know: pixels, metrics, files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cvcodec.video.frame import Frame

ALIGNMENTS = ("pts", "start")


@dataclass(frozen=True)
class Pair:
    """Two frames of the same moment."""

    reference: Frame
    test: Frame
    time: Fraction
    """Presentation time of the reference frame, seconds."""


class Aligned:
    """Iterates once over the pairs of two streams, both in presentation order, and counts what has no partner.

    With equal time bases, times must be equal. With different ones (an mp4 beside a Matroska file, which counts
    milliseconds), they may differ by half a tick of each side, what rounding can make; among candidates the nearest
    wins. `by="start"` subtracts each side's first time before, for a file that starts late as a whole.
    """

    def __init__(
        self,
        reference: Iterable[Frame],
        test: Iterable[Frame],
        *,
        reference_time_base: Fraction,
        test_time_base: Fraction,
        by: str = "pts",
    ) -> None:
        if by not in ALIGNMENTS:
            raise ValueError(f"unknown alignment {by!r}; known: {', '.join(ALIGNMENTS)}")
        self._reference = _Timeline(reference, reference_time_base, from_zero=by == "start")
        self._test = _Timeline(test, test_time_base, from_zero=by == "start")
        equal = reference_time_base == test_time_base
        self._tolerance = Fraction(0) if equal else (reference_time_base + test_time_base) / 2
        self.unmatched_reference = 0
        self.unmatched_test = 0

    @property
    def first_times(self) -> tuple[Fraction | None, Fraction | None]:
        """Time of each side's first frame in its file, seconds; None before the iteration and for an empty side."""
        return self._reference.first_time, self._test.first_time

    def __iter__(self) -> Iterator[Pair]:
        reference, test = self._reference, self._test
        while (left := reference.peek()) is not None and (right := test.peek()) is not None:
            lag = right[0] - left[0]
            if lag > self._tolerance or (lag > 0 and _nearer(reference.peek(1), right[0], lag)):
                reference.take()
                self.unmatched_reference += 1
            elif -lag > self._tolerance or (lag < 0 and _nearer(test.peek(1), left[0], -lag)):
                test.take()
                self.unmatched_test += 1
            else:
                reference.take()
                test.take()
                yield Pair(left[1], right[1], left[0])
        self.unmatched_reference += reference.drain()
        self.unmatched_test += test.drain()


def _nearer(candidate: tuple[Fraction, Frame] | None, time: Fraction, distance: Fraction) -> bool:
    return candidate is not None and abs(candidate[0] - time) < distance


class _Timeline:
    """Frames of one side with their times, with a look ahead."""

    def __init__(self, frames: Iterable[Frame], time_base: Fraction, *, from_zero: bool) -> None:
        if time_base <= 0:
            raise ValueError(f"time base must be positive, got {time_base = }")
        self._frames = iter(frames)
        self._time_base = time_base
        self._from_zero = from_zero
        self._ahead: list[tuple[Fraction, Frame]] = []
        self.first_time: Fraction | None = None

    def peek(self, ahead: int = 0) -> tuple[Fraction, Frame] | None:
        while len(self._ahead) <= ahead:
            frame = next(self._frames, None)
            if frame is None:
                return None
            time = frame.pts * self._time_base
            if self.first_time is None:
                self.first_time = time
            self._ahead.append((time - self.first_time if self._from_zero else time, frame))
        return self._ahead[ahead]

    def take(self) -> None:
        del self._ahead[0]

    def drain(self) -> int:
        """How many frames are left, after reading them."""
        count = len(self._ahead) + sum(1 for _ in self._frames)
        self._ahead.clear()
        return count
