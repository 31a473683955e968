"""What is intact of a damaged file -> runs of consecutive chunks, each decoded on its own.

Owns: where runs begin and end, what stands in for the latents in front of a run, and which frames are lost.
Does not know: how intact records are found (`bitstream.recovery`), models, containers. `input` does the same for intact
files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from cvcodec.bitstream import Chunk, Lost, Record, Salvage
from cvcodec.bitstream.wire import Readable
from cvcodec.codec.decode_options import DecodeOptions, LostFrames
from cvcodec.codec.headers import check_header
from cvcodec.codec.input import CvlInput, Run, primed
from cvcodec.passthrough.player import Player


class SalvagedInput(CvlInput):
    """A damaged file, which is read forwards; `source` needs nothing but `read`. Frames that are lost outside of the
    trim are not told. BitstreamError where the header is damaged or says what cannot be."""

    def __init__(self, source: Readable, options: DecodeOptions) -> None:
        self._salvage = Salvage(source, base_only=options.layers == "base")
        check_header(self._salvage.header)
        super().__init__(self._salvage.header, options)
        self._parts = self._without_records()
        self._reached: Fraction | None = None

    @property
    def expected_frames(self) -> None:
        """Not known before the end."""

    @property
    def damaged_bytes(self) -> int:
        return self._salvage.damaged_bytes

    def feed_player(self, player: Player) -> None:
        self._player = player
        self._parts = primed(self._parts)

    def runs(self) -> Iterator[Run]:
        """One for each stretch of intact chunks."""
        lost: Lost | None = None
        while (part := next(self._parts, None)) is not None:
            if isinstance(part, Lost):
                lost = part
                continue
            self._note(lost, part)
            behind: list[Lost] = []
            yield _SalvagedRun(self._run(part, behind), self.header, (part.first_latent, None))
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
        zero, trim = self.info.start_time, self.trim
        begin, end = self._reached, None if behind is None else int(behind.pts[0]) * self.header.time_base
        if (end is not None and trim.begin is not None and end <= trim.begin) or (
            begin is not None and trim.end is not None and begin >= trim.end
        ):
            return
        self.lost.append(
            LostFrames(
                first_frame=lost.first_frame,
                frame_count=lost.frame_count,
                start_s=None if begin is None else float(begin - zero),
                end_s=None if end is None else float(end - zero),
            )
        )
        if lost.frame_count is None and self._player is not None:
            self._player.tell_cut()

    def _without_records(self) -> Iterator[Chunk | Lost]:
        for part in self._salvage.parts():
            if not isinstance(part, Record):
                yield part
            elif self._player is not None:
                self._player.feed(part.type, part.payload)


class _SalvagedRun(Run):
    """A run whose first latent stands in for those in front of it, which are lost: a decoder needs some context."""

    def read(self, start: int, stop: int) -> Tensor | None:
        first = self.latents[0]
        if start >= first:
            return super().read(start, stop)
        head = super().read(first, first + 1)
        assert head is not None
        missing = head.expand(-1, -1, min(stop, first) - start, -1, -1)
        rest = super().read(first, stop) if stop > first else None
        return missing.clone() if rest is None else torch.cat([missing, rest], dim=2)
