"""The chunks of an intact file that a decode needs, and the copied streams that lie between them.

Owns: reading the whole file in order, verified to its end, or only the chunks of a trim by way of the index, in both
cases in a thread that decodes the next chunk's symbols while the model runs.
Does not know: models, windows' insides, containers. `salvage` does the same for damaged files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import BinaryIO

from cvcodec.bitstream import Chunk, Header
from cvcodec.bitstream.format import CHNK
from cvcodec.codec.feed import ChunkFeed
from cvcodec.codec.headers import open_reader
from cvcodec.codec.salvage import LostFrames
from cvcodec.passthrough.player import Player
from cvcodec.system.threads import ReadAhead
from cvcodec.windows.plan import Plan
from cvcodec.windows.time import latents_of_frames

Feed = tuple[ChunkFeed, tuple[int, int | None], int | None]
"""Consecutive chunks, the latents to decode of them, and how many the video has where that is known."""


class FileChunks:
    """Chunks of a file or a pipe. First `select`, then `feed_player` (if there is one), then `feeds`.

    lost, damaged_bytes: nothing, as in `SalvagedChunks`.
    Raises BitstreamError for any damage.
    """

    def __init__(self, source: BinaryIO, *, base_only: bool = False) -> None:
        """base_only: leave the enhancement layer unread."""
        self._reader, self._base_only = open_reader(source), base_only
        self._first: Iterator[Chunk] | None = None
        self.lost: list[LostFrames] = []
        self.damaged_bytes = 0

    @property
    def header(self) -> Header:
        """Of the file."""
        return self._reader.header

    def select(self, plan: Plan, bounds: tuple[float, float], frames: int | None) -> None:
        """plan: by which it is decoded. bounds: time stamps [first, end) that are wanted. frames: at most so many."""
        self._plan, self._bounds, self._limit = plan, bounds, frames

    @property
    def expected_frames(self) -> int | None:
        """Frames that will come, where the index tells; of a trim, those of the chunks it meets."""
        if self._reader.trailer is None:
            return None
        first, last = self._frame_range()
        return last - first if self._limit is None else min(self._limit, last - first)

    def feed_player(self, player: Player) -> None:
        """Give `player` all that precedes the first chunk, and later, in `feeds`, what lies between chunks."""
        if self._in_order:
            chunks = self._feed_in_order(player)
            first = next(chunks, None)
            self._first = chunks if first is None else itertools.chain([first], chunks)
            return
        assert self._reader.trailer is not None
        for record in self._reader.side_records(0, 1):
            player.feed(record.type, record.payload)
        chunk = self._reader.trailer.chunk_of_frame(self._frame_range()[0]) if self.expected_frames else 0
        for record in self._reader.side_records(1 if player.looks_back else max(1, chunk)):
            player.feed(record.type, record.payload)
            if player.passed:
                break

    def _feed_in_order(self, player: Player) -> Iterator[Chunk]:
        for record in self._reader.records():
            if record.type == CHNK:
                yield self._reader.decode(record, base_only=self._base_only)
            else:
                player.feed(record.type, record.payload)

    def feeds(self) -> Iterator[Feed]:
        """One feed, of the chunks that are needed."""
        trailer = self._reader.trailer
        if trailer is None or self._in_order:
            # In order, so that every record is verified and the trailer compared with what was read.
            chunks = self._first or self._reader.chunks(base_only=self._base_only)
            if trailer is None:  # perhaps a pipe, whose writer may pause: nothing is read before it is needed
                yield ChunkFeed(chunks, self.header), (0, None), None
                return
            with ReadAhead(chunks, limit=1, name="chunk-reader") as ahead:
                yield ChunkFeed(iter(ahead), self.header), (0, trailer.latents), trailer.latents
            return
        first, last = self._frame_range()
        latents = latents_of_frames(first, last, self.header.temporal_factor)
        latents = latents[0], min(latents[1], trailer.latents)
        start, stop = self._plan.latents_to_read(latents, trailer.latents)
        numbers = (
            range(trailer.chunk_of_latent(start), trailer.chunk_of_latent(stop - 1) + 1) if start < stop else range(0)
        )
        needed = (self._reader.read_chunk(number, base_only=self._base_only) for number in numbers)
        with ReadAhead(needed, limit=1, name="chunk-reader") as ahead:
            yield ChunkFeed(iter(ahead), self.header), latents, trailer.latents

    @property
    def _in_order(self) -> bool:
        """Whether the whole file is read, from its beginning."""
        whole = self._bounds == (-math.inf, math.inf) and self._limit is None
        return self._reader.trailer is None or whole

    def _frame_range(self) -> tuple[int, int]:
        """Frames [first, last) of the chunks that the trim meets."""
        trailer = self._reader.trailer
        assert trailer is not None
        low, high = self._bounds
        met = [entry for entry in trailer.index if entry.first_pts < high and entry.last_pts >= low]
        if not met:
            return 0, 0
        return met[0].first_frame, met[-1].first_frame + met[-1].frame_count
