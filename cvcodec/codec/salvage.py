"""A damaged .cvl as runs of intact chunks, each decoded as if it were a video of its own.

Owns: where runs begin and end, what stands in for the latents in front of a run, and which frames are lost.
Intact records are found by `bitstream.recovery`; `chunks` does the same for intact files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from cvcodec.bitstream import Chunk, Header, Lost, Record, Salvage
from cvcodec.bitstream.wire import Readable
from cvcodec.codec.feed import ChunkFeed
from cvcodec.codec.headers import check_header, info_from_header
from cvcodec.passthrough.player import Player
from cvcodec.windows.plan import Plan


@dataclass(frozen=True, kw_only=True)
class LostFrames:
    """Consecutive frames for which there is no intact chunk."""

    first_frame: int
    frame_count: int | None
    """None: to an end that is not known, because the trailer is lost too; perhaps there are none."""
    start_s: float | None
    """Where the intact frames before end, in seconds from the beginning; None where there are none."""
    end_s: float | None
    """Where the intact frames behind begin; None where there are none."""

    def describe(self) -> str:
        """`17 to 56`, or `77 and later`."""
        if self.frame_count is None:
            return f"{self.first_frame} and later"
        last = self.first_frame + self.frame_count - 1
        return f"{self.first_frame} to {last}" if self.frame_count > 1 else str(last)


class SalvagedChunks:
    """What can be decoded of a damaged file, which is read forwards; `source` needs nothing but `read`.

    First `select`, then `feed_player` (if there is one), then `feeds`. lost: frames that are lost, damaged_bytes: bytes
    that belong to no intact record, so far as the file was read.
    Raises BitstreamError where the header is damaged or says what cannot be.
    """

    expected_frames: int | None = None
    """Not known before the end."""

    def __init__(self, source: Readable, *, base_only: bool = False) -> None:
        """base_only: as in `FileChunks`."""
        self._salvage = Salvage(source, base_only=base_only)
        check_header(self._salvage.header)
        self._player: Player | None = None
        self._parts = self._without_records()
        self._reached: Fraction | None = None
        self.lost: list[LostFrames] = []

    @property
    def header(self) -> Header:
        """Of the file."""
        return self._salvage.header

    @property
    def damaged_bytes(self) -> int:
        """Bytes that belong to no intact record."""
        return self._salvage.damaged_bytes

    def select(self, plan: Plan, bounds: tuple[float, float], frames: int | None) -> None:
        """As in `FileChunks`. Frames that are lost outside of `bounds` are not told."""
        base = self.header.time_base
        self._begin, self._end = (pts if pts in (float("-inf"), float("inf")) else int(pts) * base for pts in bounds)

    def feed_player(self, player: Player) -> None:
        """Give `player` all that precedes the first chunk, and later, in `feeds`, what lies between chunks."""
        self._player = player
        first = next(self._parts, None)
        if first is not None:
            self._parts = itertools.chain([first], self._parts)

    def feeds(self) -> Iterator[tuple[ChunkFeed, tuple[int, int | None], int | None]]:
        """One feed for each run. A feed must be read to its end before the next."""
        lost: Lost | None = None
        while (part := next(self._parts, None)) is not None:
            if isinstance(part, Lost):
                lost = part
                continue
            self._note(lost, part)
            behind: list[Lost] = []
            yield _RunFeed(self._run(part, behind), self.header, part.first_latent), (part.first_latent, None), None
            lost = behind[0] if behind else None
        self._note(lost, None)

    def _run(self, first: Chunk, behind: list[Lost]) -> Iterator[Chunk]:
        for part in itertools.chain([first], self._parts):
            if isinstance(part, Lost):
                behind.append(part)
                return
            self._reached = (int(part.pts[-1]) + max(0, int(part.durations[-1]))) * self.header.time_base
            yield part

    def _note(self, lost: Lost | None, behind: Chunk | None) -> None:
        if lost is None:
            return
        zero = info_from_header(self.header).start_time
        begin, end = self._reached, None if behind is None else int(behind.pts[0]) * self.header.time_base
        if (end is not None and end <= self._begin) or (begin is not None and begin >= self._end):
            return
        self.lost.append(
            LostFrames(
                first_frame=lost.first_frame,
                frame_count=lost.frame_count,
                start_s=None if begin is None else float(begin - zero),
                end_s=None if end is None else float(end - zero),
            )
        )

    def _without_records(self) -> Iterator[Chunk | Lost]:
        for part in self._salvage.parts():
            if not isinstance(part, Record):
                yield part
            elif self._player is not None:
                self._player.feed(part.type, part.payload)


class _RunFeed(ChunkFeed):
    """A run whose first latent stands in for those in front of it, which are lost: a decoder needs some context."""

    def __init__(self, chunks: Iterator[Chunk], header: Header, first: int) -> None:
        super().__init__(chunks, header)
        self._first = first

    def read(self, start: int, stop: int) -> Tensor | None:
        if start >= self._first:
            return super().read(start, stop)
        head = super().read(self._first, self._first + 1)
        assert head is not None
        missing = head.expand(-1, -1, min(stop, self._first) - start, -1, -1)
        rest = super().read(self._first, stop) if stop > self._first else None
        return missing.clone() if rest is None else torch.cat([missing, rest], dim=2)
