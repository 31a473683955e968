"""Time stamps as files have them -> times that only go forward: of packets in file order, and of the frames of them.

Owns: what of pts and dts to believe, jumps back where recordings were joined, stamps far from their neighbours'.

`Timeline` mends packets, `FrameClock` the frames that a decoder makes of them. Both leave alone what can be meant:
times that increase, however far apart.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from cvcodec.video.libav import as_fraction

_JUMP = Fraction(1, 10)  # seconds back that are a jump and no carelessness of a muxer, as in FFmpeg's own programs
_FAR = Fraction(10)  # seconds that no two streams of a file lie apart
_AHEAD = 2  # packets of the leading stream that are looked at before a time is judged
_STRAY = 100  # steps that the first frame may lie behind the second
_REORDERED = 64  # packets among which those of B-frames lie
_MOST_PACKETS, _MOST_BYTES = 512, 32 << 20  # that wait

_FAR_OFF = "time stamps far from their neighbours' were replaced"

# Containers that keep the order of decoding only; FFmpeg's pts are of no frame there.
_NO_PTS = {"avi"}


class Timeline:
    """Gives the packets of one container, in their order, times that go on where they jump back.

    lead: index of the stream that is decoded. Where its times jump back (joined recordings), an offset is added to all
        that follows, so that it goes on without a gap; the other streams, of which each reaches the joint at its own
        place, are moved by the same offset. A packet whose times lie away from those before and behind it is moved
        between them.
    say: is told what was mended, in few different sentences.
    joints: how often the times of `lead` have jumped back so far.
    """

    def __init__(self, lead: int, say: Callable[[str], None]) -> None:
        self.joints = 0
        self._lead, self._say = lead, say
        self._offsets = [Fraction(0)]  # seconds, of the parts that were joined
        self._last: int | None = None  # dts of the leading stream, as in the file
        self._step = 1
        self._ends: deque[Fraction] = deque(maxlen=_REORDERED)  # of its last packets, in seconds, as mended
        self._others: dict[int, _Follower] = {}

    def mended(self, packets: Iterable[Any]) -> Iterator[Any]:
        """The packets, changed in place. Reads a few ahead."""
        for packet, _ in self._ahead(self._placed(packets)):
            if packet.stream_index != self._lead and packet.size:
                self._follow(packet)
            yield packet

    def _placed(self, packets: Iterable[Any]) -> Iterator[Any]:
        for packet, following in self._ahead(packets):
            if packet.stream_index == self._lead and packet.size:
                self._place(packet, following)
            yield packet

    def _ahead(self, packets: Iterable[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """Each packet when `_AHEAD` of the leading stream have come behind it, or as many as may wait; with these."""
        waiting: deque[Any] = deque()
        leads: deque[Any] = deque()
        size = 0
        for packet in packets:
            waiting.append(packet)
            size += packet.size
            if packet.stream_index == self._lead:
                leads.append(packet)
            while len(leads) > _AHEAD or len(waiting) > _MOST_PACKETS or (size > _MOST_BYTES and waiting):
                first = waiting.popleft()
                size -= first.size
                if leads and first is leads[0]:
                    leads.popleft()
                yield first, list(leads)
        while waiting:
            first = waiting.popleft()
            if leads and first is leads[0]:
                leads.popleft()
            yield first, list(leads)

    def _place(self, packet: Any, following: list[Any]) -> None:
        """Mend a packet of the leading stream."""
        base = _base(packet)
        dts, last, jump = packet.dts, self._last, _JUMP / base
        if dts is not None and not packet.is_discard:  # outside an edit list, times mean nothing
            later = [p for p in following if p.dts is not None and not p.is_discard]
            back = last is not None and dts < last - jump
            behind = [p.dts for p in later if p.dts < dts - jump and (last is None or p.dts > last)]
            if behind or (back and any(last is not None and p.dts > last for p in later)):
                self._say(_FAR_OFF)
                dts = min(behind) - (packet.duration or 1) if last is None else last + self._step
                packet.pts = None if packet.pts is None else packet.pts + dts - packet.dts
                packet.dts = dts
            elif back:
                self._join(packet, base)
            self._step = packet.duration or (max(1, dts - last) if last is not None else self._step)
            self._last = dts
        _shift(packet, self._offsets[-1])
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None and not packet.is_discard:
            self._ends.append((time + (packet.duration or self._step)) * base)

    def _join(self, packet: Any, base: Fraction) -> None:
        """The times of the leading stream jump back at `packet`: what follows goes on where it was."""
        assert self._last is not None
        end = max(self._ends)
        shown = packet.pts if packet.pts is not None else packet.dts
        decoded = (self._last + self._step) * base + self._offsets[-1]
        # By the larger one, frames that are shown before this one but decoded after it find their place too.
        self._offsets.append(max(end - shown * base, decoded - packet.dts * base))
        if not self.joints:
            self._say(
                f"time stamps jump back at {float(end):.2f} s, as where recordings were joined: what follows goes on "
                "from there"
            )
        self.joints += 1

    def _follow(self, packet: Any) -> None:
        """Mend a packet of another stream."""
        ticks, base = packet.dts if packet.dts is not None else packet.pts, _base(packet)
        if ticks is None:
            return
        time = ticks * base
        known = self._others.get(packet.stream_index) or _Follower(0, time, time, time + self._offsets[0])
        goal, part = max(self._ends, default=time), known.part
        if part + 1 < len(self._offsets) and (time < known.begin - _JUMP or abs(time - known.end) > _JUMP):
            # Of which part is it? Of the one that brings it nearest to the picture, as the two lie side by side.
            first = part + 1 if time < known.begin - _JUMP else part
            part = min(range(first, len(self._offsets)), key=lambda index: abs(time + self._offsets[index] - goal))
        placed = time + self._offsets[part]
        if abs(placed - known.moved) > _FAR and abs(placed - goal) > _FAR > abs(known.moved - goal):
            self._say(_FAR_OFF)
            placed, time = known.moved, known.end
        _shift(packet, placed - ticks * base)
        length = (packet.duration or 0) * base
        self._others[packet.stream_index] = _Follower(part, time, time + length, placed + length)


class _Follower(NamedTuple):
    """Where a stream that is not decoded is."""

    part: int
    """How many joints of the recording it is behind."""
    begin: Fraction
    """Seconds at which its last packet begins, as in the file."""
    end: Fraction
    moved: Fraction
    """`end` on the clock that goes on over joints."""


class FrameClock:
    """Gives decoded frames, in the order of presentation, times that increase.

    By pts or dts, as FFmpeg's best-effort time stamps do (`guess_correct_pts` in libavcodec): by that of which fewer
    have gone back so far. dts are those of the packet with which a frame came out, so they are moved to where pts and
    dts met first. In containers without pts, dts count from the beginning.

    container: FFmpeg's name of its format. step: ticks from one frame to the next, where neither is known.
    """

    def __init__(self, container: str, step: int, say: Callable[[str], None]) -> None:
        self._by_dts = container in _NO_PTS
        self._step, self._say = step, say
        self._pts: deque[int] = deque(maxlen=2)  # the last, without those far from their neighbours'
        self._dts: int | None = None
        self._bad_pts = self._bad_dts = 0
        self._lag: int | None = None  # of dts behind pts
        self._last: int | None = None
        self.newest: int | None = None
        """Time of the last frame that was read, as it was taken from the file."""

    def times(self, frames: Iterable[Any]) -> Iterator[tuple[Any, int]]:
        """The frames and their times. Reads one ahead, to know a time that lies behind the next frame's."""
        held: tuple[Any, int | None] | None = None
        for frame in frames:
            self.newest = self._best(frame.pts, frame.dts)
            if held is not None:
                yield held[0], self._later(held[1], self.newest)
            held = frame, self.newest
        if held is not None:
            yield held[0], self._later(held[1], None)

    def _later(self, time: int | None, following: int | None) -> int:
        """`time`, or another that is later than the last."""
        last = self._last
        if time is not None and following is not None and self._is_stray(last, time, following):
            self._say(_FAR_OFF)
            time = following - self._step if last is None else max(last + 1, (last + following) // 2)
        elif time is None:
            time = 0 if last is None else last + self._step
        elif last is not None and time <= last:
            self._say("frames with repeated or backward times: each was moved to one tick after its predecessor")
            time = last + 1
        self._last = time
        return time

    def _is_stray(self, before: int | None, time: int, following: int) -> bool:
        """Whether `time` lies behind that of the following frame, which has not gone back itself."""
        return following < time and (time - following > _STRAY * self._step if before is None else following > before)

    def _best(self, pts: int | None, dts: int | None) -> int | None:
        """By what the file says; None where it says nothing."""
        if dts is not None:
            self._bad_dts += self._dts is not None and dts <= self._dts
            self._dts = dts
        if pts is not None:
            before = self._pts[0] if len(self._pts) > 1 else None
            if self._pts and self._is_stray(before, self._pts[-1], pts):
                self._pts.pop()
                self._lag = None if before is None else self._lag
            elif self._pts and pts <= self._pts[-1]:
                self._bad_pts += 1
            self._pts.append(pts)
        if dts is not None and self._lag is None:
            self._lag = 0 if pts is None else dts - pts
        if self._by_dts or self._bad_pts > self._bad_dts:
            if self._bad_pts:
                self._say("times of frames go back or repeat: those of decoding were taken")
            if dts is not None and self._lag is not None:
                return dts - self._lag
            return None if self._bad_pts and self._dts is not None else pts
        return dts if pts is None and not self._pts else pts


def _base(packet: Any) -> Fraction:
    return as_fraction(packet.time_base) or Fraction(1, 1000)


def _shift(packet: Any, seconds: Fraction) -> None:
    ticks = round(seconds / _base(packet))
    if ticks:
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
