"""Latents -> .cvl: symbols, chunks with the times of their frames, copied streams, and what was there already.

Owns: the header, the thread that makes symbols and bytes beside the model, when frames are shown, and taking over the
chunks of a partial file that is continued. Its mirror for decoding is `input`.

A continued encode is repeated from its beginning, but what the partial file holds already is compared instead of
written, and chunks are taken over without running the model; only the last one is encoded again. So the finished file
is, byte for byte, that of an uninterrupted run, or the difference is found: another source (times and copied packets of
all frames are compared, the pixels of the last chunk's), other settings, other weights, another arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import (
    FLAG_CONCEALED,
    UNKNOWN,
    BitstreamWriter,
    Chunk,
    ChunkInfo,
    Header,
    IndexEntry,
    read_record,
    scan_partial,
)
from cvcodec.bitstream.header import dump_header, load_header
from cvcodec.bitstream.wire import Writable
from cvcodec.codec.headers import make_header, reader_metadata
from cvcodec.codec.layers import enhancement_symbols_of, symbols_of
from cvcodec.codec.options import EncodeOptions, EncodeResult
from cvcodec.codec.session import Notices, Progress, RunFacts
from cvcodec.errors import BitstreamError, InputError, OutputError, TruncatedError, UsageError
from cvcodec.model.base import LOGVAR_RANGE, VideoAutoencoder
from cvcodec.passthrough.recorder import Recorder
from cvcodec.system.threads import WriteBehind
from cvcodec.video import Frame, VideoInfo
from cvcodec.windows.plan import Plan
from cvcodec.windows.time import frames_of_latents


@dataclass(frozen=True)
class _Times:
    """When a frame is shown, kept until its chunk is complete; its pixels are long gone."""

    pts: int
    duration: int
    flags: int


@dataclass(frozen=True)
class ChunkLayers:
    """What is known of a chunk: base layer (C, t, h, w), as latents or as `CvlOutput.stored` keeps them, enhancement
    layer (E, t, h, w) and log-variance (C, t, h, w), the latter two where the header names them."""

    base: NDArray[Any]
    enhancement: NDArray[np.float32] | None = None
    logvar: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, kept: Tensor, channels: int) -> ChunkLayers:
        """From what a file keeps of a chunk's moments: (1, C [+ C], t, h, w), C being `channels`."""
        base, logvar = np.split(kept[0].float().cpu().numpy(), [channels])
        return cls(base, logvar=logvar if len(logvar) else None)


_Item = tuple[ChunkLayers | None, list[_Times]]
"""A chunk, and when its frames are shown."""

_Shown = dict[str, NDArray[Any]]
"""The same times as `ChunkInfo` has them: its fields `pts`, `durations`, `flags`."""


class FrameSource(Protocol):
    """What is asked of a `VideoReader` beside its frames, or of `arrays.ArrayReader`."""

    @property
    def info(self) -> VideoInfo: ...

    @property
    def source_info(self) -> VideoInfo: ...

    @property
    def notices(self) -> Sequence[str]: ...

    @property
    def expected_frames(self) -> int | None: ...

    @property
    def decode_errors(self) -> int: ...

    @property
    def corrupt_frames(self) -> int: ...

    def stream_bytes(self, first: int, last: int) -> int | None: ...


class CvlOutput:
    """The file of one encode. As a context manager it owns the thread that writes; `finish` completes the file."""

    def __init__(
        self,
        sink: Writable,
        reader: FrameSource,
        model: VideoAutoencoder,
        plan: Plan,
        options: EncodeOptions,
        recorder: Recorder,
        notices: Notices,
        on_progress: Progress | None,
    ) -> None:
        """Raises UsageError or OutputError for what a file cannot hold, before any work is done."""
        self._sink, self._reader, self._model, self._plan, self._options = sink, reader, model, plan, options
        self._recorder, self._notices, self._on_progress = recorder, notices, on_progress
        self._expected_frames = reader.expected_frames
        self._writer: BitstreamWriter | None = None
        self._times: deque[_Times] = deque()
        self._latents = 0
        self._copied = self._resumed_frames = 0
        self._first_pts = self._last_pts = 0
        self._resumed = sink if isinstance(sink, PartialSink) and sink.header is not None else None
        self.header = self._make_header()
        """As far as it is known: memory that runs out in the first window may still make the tiles smaller."""
        self.first_latent = 0
        """The first that is to be put: behind what the partial file holds."""
        if self._resumed is not None:
            self._resumed.check_header(self.header)
            stored = self._resumed.chunks
            self.first_latent = stored[-1].first_latent + stored[-1].latent_count if stored else 0
        self._behind = WriteBehind(self._write, limit=2, name="cvl-writer")

    def __enter__(self) -> Self:
        self._behind.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._behind.__exit__(kind, error, trace)

    def needed(self, frames: Iterable[Frame], begin: int) -> Iterator[Frame]:
        """The frames that are needed to encode latents from `begin` on, the first of a chunk, noting the times of all.
        Chunks before `first_latent` are taken over from the partial file, each when its frames have been read."""
        stored = deque(self._resumed.chunks if self._resumed is not None else ())
        first = self._plan.first_frame(begin)
        number = -1
        for number, frame in enumerate(frames):
            duration = UNKNOWN if frame.duration is None else frame.duration
            self._times.append(_Times(frame.pts, duration, FLAG_CONCEALED if frame.corrupt else 0))
            if stored and number + 1 == stored[0].first_frame + stored[0].frame_count:
                self._behind.put((None, self._take_times(stored.popleft().latent_count)))
            if number >= first:
                yield frame
        if stored and self._resumed is not None:
            raise self._resumed.mismatch(f"the source has only {number + 1} frames now")

    def shrink(self, plan: Plan, text: str) -> None:
        """Memory ran out: `plan` takes the place of the one before. The file records it unless chunks are written."""
        recorded = self._latents == 0  # no chunk has been handed to the writer's thread, which makes the header
        self._notices(text + ("; the file records it" if recorded else "; earlier chunks were made with larger ones"))
        if recorded:
            self._plan = plan

    def stored(self, base: NDArray[np.float32]) -> NDArray[Any]:
        """What the file keeps of the base layer of a chunk, for who needs to know it before it is put."""
        return symbols_of(base, self.header, self._options.rdo)

    def put(self, layers: ChunkLayers) -> None:
        """The next chunk. Raises what the writer's thread raised for an earlier one."""
        self._behind.put((layers, self._take_times(layers.base.shape[1])))

    def finish(self) -> None:
        """Wait for the writer and complete the file. Raises InputError when there were no frames."""
        self._behind.finish()
        if self._writer is None:
            duration = self._reader.info.duration
            length = "" if duration is None else f"; it lasts {float(duration):.2f} s"
            raise InputError(f"the source has no frames in the range that was asked for{length}")
        self._write_copied(self._writer, None)
        if self._resumed is not None and not self._resumed.done:
            raise self._resumed.mismatch(f"the source has only {self._writer.frames} frames now")
        # Known only now, so that the header cannot hold them.
        damage = {"decode_errors": self._reader.decode_errors, "concealed_frames": self._reader.corrupt_frames}
        self._writer.close(damage if any(damage.values()) else None)

    def result(self, facts: RunFacts) -> EncodeResult:
        """What was written, with what the session knows."""
        info, reader, writer = self._reader.info, self._reader, self._writer
        assert writer is not None  # `finish` sees to it
        result = EncodeResult(
            frames=writer.frames,
            chunks=writer.chunks,
            width=info.width,
            height=info.height,
            size_bytes=writer.bytes_written,
            copied_bytes=self._copied,
            source_bytes=reader.stream_bytes(self._first_pts, self._last_pts),
            decode_errors=reader.decode_errors,
            concealed_frames=reader.corrupt_frames,
            resumed_frames=self._resumed_frames,
            notices=(),
            **facts,
        )
        if result.damage is not None:
            self._notices(result.damage)
        return replace(result, notices=tuple(self._notices.said))

    def _make_header(self) -> Header:
        options = self._options
        header = make_header(
            self._reader.info,
            self._model,
            self._plan,
            latents=options.latents,
            quality=options.quality,
            layers=options.layers,
        )
        metadata = {**header.metadata, **reader_metadata(options.reader, self._reader.source_info), **options.metadata}
        return header.replace(logvar=options.store_logvar, metadata=metadata)

    def _take_times(self, latents: int) -> list[_Times]:
        """Times of the frames that the next `latents` latents stand for; fewer at the end, which is padded."""
        first, stop = frames_of_latents(self._latents, self._latents + latents, self._plan.temporal_factor)
        self._latents += latents
        return [self._times.popleft() for _ in range(min(stop - first, len(self._times)))]

    def _write(self, item: _Item) -> None:
        """One chunk, with the copied streams in front of it; without latents it is taken over from the partial file."""
        layers, times = item
        if self._writer is None:
            # Only now, so that tiles that had to shrink for the first window are recorded as they were used.
            self.header = self._make_header()
            self._writer = BitstreamWriter(self._sink, self.header)
        self._write_copied(self._writer, [time.pts for time in times])
        shown: _Shown = {
            "pts": np.array([time.pts for time in times], np.int64),
            "durations": np.array([time.duration for time in times], np.int64),
            "flags": np.array([time.flags for time in times], np.uint8),
        }
        if not self._writer.frames:
            self._first_pts = times[0].pts
        if layers is None:
            assert self._resumed is not None
            self._resumed.adopt(self._writer, shown)
            self._resumed_frames += len(times)
        else:
            self._write_chunk(self._writer, layers, shown)
            if (flush := getattr(self._sink, "flush", None)) is not None:
                flush()  # what is whole survives when this process is killed
        self._last_pts = times[-1].pts
        if self._on_progress is not None:
            self._on_progress(self._writer.frames, self._writer.bytes_written, self._expected_frames)

    def _write_chunk(self, writer: BitstreamWriter, layers: ChunkLayers, shown: _Shown) -> None:
        header, base, above = writer.header, layers.base, layers.enhancement
        chunk = Chunk(
            index=writer.chunks,
            first_latent=writer.latents,
            latent_count=base.shape[1],
            first_frame=writer.frames,
            **shown,
            symbols=self.stored(base) if base.dtype == np.float32 else base,
            enhancement=None if above is None else enhancement_symbols_of(above, header),
        )
        try:
            writer.write_chunk(chunk)
        except ValueError as error:  # very large pictures in long windows
            raise UsageError(str(error)) from error
        if layers.logvar is not None:
            writer.write_logvar(np.clip(layers.logvar, *LOGVAR_RANGE))

    def _write_copied(self, writer: BitstreamWriter, pts: list[int] | None) -> None:
        for kind, payload in self._recorder.take(pts):
            self._copied += writer.write_record(kind, payload)


_SHOWN = 60  # characters of a value that still fit into a message


class PartialSink:
    """The partial file as what a `BitstreamWriter` writes into.

    file: can be read, written, sought and truncated. Nothing of it changes until all it holds has been found equal.
    header: of the partial file; None where it holds no whole chunk, and the encode begins from nothing.
    chunks: to take over with `adopt`, in order; the chunk behind them is in the file too, and is to be encoded again.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """name: of the file, for messages. Raises OutputError for a file that is no partial .cvl of this release."""
        self._file = file
        self._name = name
        self._at = self._until = 0
        self.header: Header | None = None
        self.chunks: tuple[IndexEntry, ...] = ()
        file.seek(0)
        try:
            header, ledger = scan_partial(file)
            if ledger.chunks:
                self.header, self.chunks, self._until = header, tuple(ledger.entries[:-1]), ledger.end
        except TruncatedError:
            pass  # it was stopped before its header was out
        except BitstreamError as error:
            raise OutputError(
                f"{self._name} cannot be continued: {error}; remove it, or start over without --resume"
            ) from error
        file.seek(0)
        if not self._until:
            file.truncate()

    @property
    def done(self) -> bool:
        """Whether everything the file held has been written again."""
        return self._at >= self._until

    def check_header(self, wanted: Header) -> None:
        """OutputError, which names what differs, unless an encode with header `wanted` may go on here."""
        if self.header is None or dump_header(self.header) == dump_header(wanted):
            return
        wanted = load_header(dump_header(wanted))
        differences = []
        for entry in dataclasses.fields(Header):
            stored, given = getattr(self.header, entry.name), getattr(wanted, entry.name)
            if stored != given:
                shown = f"{stored} there, {given} now"
                differences.append(f"{entry.name}: {shown}" if len(shown) <= _SHOWN else entry.name)
        raise self.mismatch("its header differs in " + ", ".join(differences[:4]))

    def mismatch(self, why: str) -> OutputError:
        """The error to raise when the partial file is not the beginning of this encode."""
        return OutputError(
            f"{self._name} was made from another source, with other settings or on another machine: {why}; "
            "use the same, or start over with -y and without --resume"
        )

    def write(self, data: Any) -> int:
        """Compare with what is there; behind that, write."""
        view = memoryview(data).cast("B")
        known = min(len(view), self._until - self._at)
        if known > 0:
            self._file.seek(self._at)
            if self._file.read(known) != view[:known]:
                raise self.mismatch(f"what it holds at byte {self._at} is not what is encoded now")
            self._advance(known)
            view = view[known:]
        if len(view):
            self._file.write(view)
            self._at += len(view)
        return max(known, 0) + len(view)

    def flush(self) -> None:
        """Hand what was written to the system, so that it survives this process."""
        self._file.flush()

    def adopt(self, writer: BitstreamWriter, shown: _Shown) -> None:
        """Let `writer` take over the next chunk, and its log-variance, whose frames have these times now."""
        self._file.seek(self._at)
        info: ChunkInfo | None = None
        for _ in range(2 if writer.header.logvar else 1):
            record = read_record(self._file, self._at)
            if record is None or record.type != ("CHNK" if info is None else "LVAR"):
                raise self.mismatch(f"copied streams differ in front of byte {self._at}")
            found = writer.adopt(record)
            info = found if info is None else info
            self._advance(record.size)
        assert info is not None
        if not all(np.array_equal(getattr(info, name), values) for name, values in shown.items()):
            raise self.mismatch(f"frames {info.first_frame} to {info.end_frame - 1} had other times")

    def _advance(self, size: int) -> None:
        self._at += size
        if self._at >= self._until:  # all was equal: what lies behind the last whole chunk is written again
            self._file.seek(self._at)
            self._file.truncate()
        else:
            self._file.seek(self._at)
