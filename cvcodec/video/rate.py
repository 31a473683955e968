"""Frames at another rate, by time: which frame of a source stands for each moment of an even grid.

Owns: the grid, the rule, exact arithmetic on times.
Does not know: pictures. Nothing is blended: frames are dropped or repeated.

Each moment shows the source's frame that is nearest in time, and no frame half a period or more before its own time: a
frame that stands for long, such as a slide, stays until the next one is due. Of two that are as near, the later one.
The grid begins with the stream's first frame, wherever reading begins, so that a clip of a video has the frames that
the whole has; it ends where the source's last frame does. Times that a container has rounded are forgiven: `_SLACK` of
a period.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction

from cvcodec.errors import UsageError
from cvcodec.video.filters import Timed

MOST_FPS = 1000

_SLACK = Fraction(1, 50)
_MOST_PART = 2**31 - 1  # of a ratio in libav and in .cvl files


def parse_fps(value: Fraction | float | int | str) -> Fraction:
    """`8`, `23.976`, `30000/1001` to frames per second. Raises UsageError."""
    text = str(value).strip()
    if not re.fullmatch(r"\d{1,9}(\.\d{0,6}|/0*[1-9]\d{0,8})?", text):
        raise UsageError(f"{text[:40]!r} is no rate; wanted frames per second, such as 8 or 30000/1001")
    rate = Fraction(text)
    if not 0 < rate <= MOST_FPS:
        raise UsageError(f"{text} frames per second are out of range; wanted more than 0, at most {MOST_FPS}")
    return rate


class FrameGrid:
    """The moments `origin` + n / `rate`, in seconds. time_base: of their time stamps; start_pts: of the first."""

    def __init__(self, origin: Fraction, rate: Fraction) -> None:
        self.rate, self.period = rate, 1 / rate
        self.time_base = _common(origin, self.period)
        if max(self.time_base.numerator, self.time_base.denominator) > _MOST_PART:
            origin, self.time_base = round(origin * rate) / rate, self.period
        self.origin = origin
        self.ticks = int(self.period / self.time_base)
        """From one moment to the next."""
        self.start_pts = int(origin / self.time_base)

    def frames(self, items: Iterable[Timed], time_base: Fraction) -> Iterator[Timed]:
        """Of frames with times in `time_base`, in order, those of the grid's moments, with its times."""
        shown: Timed | None = None
        begin = gap = Fraction(0)  # of `shown`, and from the one before to it; in periods from the origin
        first = number = 0
        for item in items:
            time = (item.pts * time_base - self.origin) * self.rate
            if shown is None:
                first = number = math.floor(time - Fraction(1, 2) + _SLACK) + 1
            else:
                while not _due(number, begin, time):
                    yield self._at(number, shown)
                    number += 1
                gap = time - begin
            shown, begin = item, time
        if shown is not None:
            length = shown.duration * time_base * self.rate if shown.duration else gap or Fraction(1)
            for place in range(number, max(first + 1, math.ceil(begin + length - _SLACK))):
                yield self._at(place, shown)

    def _at(self, number: int, shown: Timed) -> Timed:
        made = Timed(shown.frame, self.start_pts + number * self.ticks, self.ticks)
        made.deinterlaced = shown.deinterlaced
        return made


def _due(number: int, shown: Fraction, time: Fraction) -> bool:
    """Whether a frame at `time` takes the place of the one before, of time `shown`, at moment `number`."""
    ahead = time - number
    return ahead < Fraction(1, 2) - _SLACK and ahead <= number - shown + _SLACK


def _common(first: Fraction, second: Fraction) -> Fraction:
    """The largest time that both are multiples of."""
    numerator = math.gcd(first.numerator * second.denominator, second.numerator * first.denominator)
    return Fraction(numerator, first.denominator * second.denominator)
