""".cvl -> latents, and when the frames are shown that they stand for; of a trim, only what it needs.

Owns: which chunks are read, in a thread that decodes the next one's symbols while the model runs, forgetting them when
they are not needed, the times of frames, handing the copied streams between chunks to their player; of a damaged file,
what stands in for what is lost. Its mirror is `output`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import FLAG_CONCEALED, UNKNOWN, BitstreamReader, Chunk, Header, Lost, Record, Salvage, Trailer
from cvcodec.bitstream.chunk import unpack_logvar
from cvcodec.bitstream.format import CHNK, LVAR, MAX_SECONDS
from cvcodec.bitstream.wire import Readable
from cvcodec.codec.headers import check_header, info_from_header, open_reader, plan_of
from cvcodec.codec.layers import LatentPieces, check_chunk_place, layers_of
from cvcodec.codec.options import DecodeOptions, LostFrames
from cvcodec.codec.session import memory_errors
from cvcodec.errors import BitstreamError, DeviceError, UsageError
from cvcodec.passthrough.player import Player
from cvcodec.passthrough.records import COPIED_TYPES
from cvcodec.passthrough.streams import Trim
from cvcodec.system.threads import ReadAhead
from cvcodec.video.reader import ticks_of, trim_of
from cvcodec.windows.plan import Plan
from cvcodec.windows.space import ClipFunction
from cvcodec.windows.time import frames_of_latents, latents_of_frames

T = TypeVar("T")

_PIXEL_BYTES = 12  # of a decoded pixel, in floats
PART_FRAMES = 8  # handed on at once: a window of floats is large, its copies are made a few frames at a time


@dataclass(frozen=True)
class FrameTime:
    """When a frame is shown, in units of the header's time base; `concealed`: the source was damaged there."""

    number: int
    pts: int
    duration: int | None
    concealed: bool


Part = tuple[Tensor, list[FrameTime]]
"""A few frames as the model gave them, (1, 3, T, H, W), and when they are shown."""


class Run:
    """Consecutive chunks in order: `read` gives their latents, `times` has the frames of all chunks read so far.

    latents: which of them to decode; None as the end means the last one. total: how many the video has, where that is
    known.
    """

    def __init__(
        self,
        chunks: Iterator[Chunk],
        header: Header,
        latents: tuple[int, int | None] = (0, None),
        total: int | None = None,
    ) -> None:
        self._chunks, self._header, self.latents, self.total = chunks, header, latents, total
        self._pieces = LatentPieces(self._taken())
        self._last_pts: int | None = None
        self.times: deque[FrameTime] = deque()
        """Of frames not yet taken out, in order; the consumer takes them from the left."""

    def read(self, start: int, stop: int) -> Tensor | None:
        """Latents [start, stop), both layers, as (1, C + E, n, h, w) float32; see `LatentPieces.read`."""
        return self._pieces.read(start, stop)

    def parts(self, plan: Plan, decode: ClipFunction, say: Callable[[str], None]) -> Iterator[Part]:
        """What `decode` makes of them, window by window, and a few frames at a time."""
        number = frames_of_latents(self.latents[0], self.latents[0], self._header.temporal_factor)[0]
        pieces = plan.decode(decode, self.read, self.latents, self.total, lambda plan, text: say(text))
        for piece in memory_errors(pieces):
            for part in piece.split(PART_FRAMES, dim=2):
                while self.times and self.times[0].number < number:  # of context in front of the trim
                    self.times.popleft()
                # Fewer times than frames at the end, where the last frames are repeated.
                times = [self.times.popleft() for _ in range(min(part.shape[2], len(self.times)))]
                number += len(times)
                yield part[:, :, : len(times)], times
            del piece, part  # gone before the next

    def finish(self) -> None:
        """Read what is behind the last chunk, so that the end of the file is verified too."""
        for chunk in self._chunks:
            raise BitstreamError(f"chunk {chunk.index} lies behind the end of the video")

    def _taken(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for chunk in self._chunks:
            self._note_times(chunk)
            yield chunk.first_latent, layers_of(chunk, self._header)

    def _note_times(self, chunk: Chunk) -> None:
        check_chunk_place(chunk.first_latent, chunk.first_frame, self._header.temporal_factor)
        shown = zip(chunk.pts.tolist(), chunk.durations.tolist(), chunk.flags.tolist(), strict=True)
        for number, (pts, duration, flags) in enumerate(shown, chunk.first_frame):
            if self._last_pts is not None and pts <= self._last_pts:
                raise BitstreamError(
                    f"time stamps do not increase: {pts} follows {self._last_pts} in chunk {chunk.index}"
                )
            if abs(pts) * self._header.time_base > MAX_SECONDS:
                raise BitstreamError(f"time stamp {pts} in chunk {chunk.index} lies beyond {MAX_SECONDS} s")
            self._last_pts = pts
            known = None if duration == UNKNOWN else duration
            self.times.append(FrameTime(number, pts, known, bool(flags & FLAG_CONCEALED)))


class CvlInput(ABC):
    """What a decode reads. First `feed_player`, if there is one, then `parts`.

    lost: frames that are lost, damaged_bytes: bytes that belong to no intact record, so far as the file was read.
    Raises BitstreamError, and UsageError for a trim that cannot be.
    """

    def __init__(self, header: Header, options: DecodeOptions) -> None:
        self.header, self._options = header, options
        self.info, self.plan = info_from_header(header), plan_of(header)
        self.lost: list[LostFrames] = []
        if options.frames is not None and options.frames < 1:
            raise UsageError(f"frames = {options.frames} is not positive")
        trim = trim_of(options.start, options.end, options.duration)
        self.bounds = ticks_of(trim, self.info.start_time, header.time_base)
        """The trim in time stamps: [first, end)."""
        self._player: Player | None = None

    @property
    def trim(self) -> Trim:
        """The trim in seconds on the source's clock, for what is copied beside the picture."""
        return Trim(*(None if math.isinf(pts) else int(pts) * self.header.time_base for pts in self.bounds))

    @property
    def damaged_bytes(self) -> int:
        """Bytes that belong to no intact record, so far."""
        return 0

    @property
    @abstractmethod
    def expected_frames(self) -> int | None:
        """Frames that will come, where the index tells; of a trim, those of the chunks it meets."""

    @abstractmethod
    def feed_player(self, player: Player) -> None:
        """Give `player` all that precedes the first chunk, and later what lies between chunks."""

    @abstractmethod
    def runs(self) -> Iterator[Run]:
        """The chunks that are needed; each run is read to its end before the next."""

    def check_memory(self, available: int | None) -> None:
        """DeviceError where not even the pixels of a window fit: a few bytes may stand for frames of any size."""
        frames = self.expected_frames
        if frames is None or available is None:
            return
        width, height = self.header.padded_size
        at_once = self.plan.frames_at_once(frames)
        needed = _PIXEL_BYTES * width * height * at_once
        if needed > available:
            raise DeviceError(
                f"{at_once} frames of {width}x{height} are decoded at once and take {needed / 2**30:.1f} GiB, "
                f"{available / 2**30:.1f} GiB of memory are free; decode on a machine with more"
            )

    def parts(self, decode: ClipFunction, say: Callable[[str], None]) -> Iterator[Part]:
        """The frames of the trim as `decode` gives them, latent (1, C + E, t, h, w) -> pixels; once only."""
        left, (low, high) = self._options.frames, self.bounds
        for run in self.runs():
            for pixels, times in run.parts(self.plan, decode, say):
                begin = sum(time.pts < low for time in times)
                end = len(times) - sum(time.pts >= high for time in times)
                if left is not None:
                    end = min(end, begin + left)
                    left -= max(0, end - begin)
                if begin < end:
                    yield pixels[:, :, begin:end], times[begin:end]
                if left == 0:
                    last = times[end - 1]
                    after = times[end] if end < len(times) else run.times[0] if run.times else None
                    if self._player is not None:
                        pts = last.pts + (last.duration or 0) if after is None else after.pts
                        self._player.stop(pts * self.header.time_base)
                    return
                if times and times[-1].pts >= high:
                    return
                del pixels
            run.finish()


class FileInput(CvlInput):
    """An intact file, or a pipe: BitstreamError for any damage. A trim of a file is read by way of its index, all else
    in order, verified to its end."""

    def __init__(self, source: BinaryIO, options: DecodeOptions) -> None:
        self._reader, self._base_only = open_reader(source), options.layers == "base"
        super().__init__(self._reader.header, options)
        self._whole = self.bounds == (-math.inf, math.inf) and options.frames is None
        self._in_order: Iterator[Chunk] | None = None

    @property
    def expected_frames(self) -> int | None:
        if self._reader.trailer is None:
            return None
        first, last = self._frame_range()
        return last - first if self._options.frames is None else min(self._options.frames, last - first)

    def feed_player(self, player: Player) -> None:
        self._player = player
        trailer = self._reader.trailer
        if trailer is None or self._whole:
            self._in_order = _primed(self._between_records(player))
            return
        for record in self._reader.side_records(0, 1):
            player.feed(record.type, record.payload)
        chunk = trailer.chunk_of_frame(self._frame_range()[0]) if self.expected_frames else 0
        for record in self._reader.side_records(1 if player.looks_back else max(1, chunk)):
            player.feed(record.type, record.payload)
            if player.passed:
                break

    def _between_records(self, player: Player) -> Iterator[Chunk]:
        for record in self._reader.records():
            if record.type == CHNK:
                yield self._reader.decode(record, base_only=self._base_only)
            else:
                player.feed(record.type, record.payload)

    def runs(self) -> Iterator[Run]:
        """One, of the chunks that are needed."""
        trailer = self._reader.trailer
        if trailer is None or self._whole:
            chunks = self._in_order or self._reader.chunks(base_only=self._base_only)
            if trailer is None:  # perhaps a pipe, whose writer may pause: nothing is read before it is needed
                yield Run(chunks, self.header)
                return
            latents = 0, trailer.latents
        else:
            first, end = latents_of_frames(*self._frame_range(), self.header.temporal_factor)
            latents = first, min(end, trailer.latents)
            start, stop = self.plan.latents_to_read(latents, trailer.latents)
            index = (trailer.chunk_of_latent(start), trailer.chunk_of_latent(stop - 1) + 1) if start < stop else (0, 0)
            chunks = (self._reader.read_chunk(number, base_only=self._base_only) for number in range(*index))
        with ReadAhead(chunks, limit=1, name="chunk-reader") as ahead:
            yield Run(iter(ahead), self.header, latents, trailer.latents)

    def _frame_range(self) -> tuple[int, int]:
        """Frames [first, last) of the chunks that the trim meets."""
        trailer = self._reader.trailer
        assert trailer is not None
        low, high = self.bounds
        met = [entry for entry in trailer.index if entry.first_pts < high and entry.last_pts >= low]
        return (met[0].first_frame, met[-1].first_frame + met[-1].frame_count) if met else (0, 0)


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
        self._parts = _primed(self._parts)

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


_AT_ONCE = 64  # latents


def verify(source: BinaryIO) -> tuple[BitstreamReader, Trailer]:
    """Read `source`, a file or a pipe, to its end. Raises BitstreamError for the first fault in it."""
    reader = open_reader(source)
    player = Player()
    feed = Run(_chunks(reader, player), reader.header)
    latent = 0
    while feed.read(latent, latent + _AT_ONCE) is not None:
        latent += _AT_ONCE
        feed.times.clear()
    player.check_streams()
    assert reader.trailer is not None
    return reader, reader.trailer


def _chunks(reader: BitstreamReader, player: Player) -> Iterator[Chunk]:
    header = reader.header
    before: Chunk | None = None  # the chunk whose log-variance is due
    for record in reader.records(COPIED_TYPES):
        if header.logvar and (record.type == LVAR) != (before is not None):
            raise BitstreamError(f"record {record.type} at byte {record.offset}: each chunk has one log-variance")
        if record.type == CHNK:
            chunk = reader.decode(record)
            yield chunk
            before = chunk if header.logvar else None
        elif before is not None:
            unpack_logvar(record.payload, header, before.index, before.latent_count)
            before = None
        else:
            player.feed(record.type, record.payload)
            player.forget()


def _primed(items: Iterator[T]) -> Iterator[T]:
    """`items`, the first of which is there already, with all that was done to find it."""
    return itertools.chain(list(itertools.islice(items, 1)), items)
