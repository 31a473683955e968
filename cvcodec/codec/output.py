"""Latents -> .cvl: symbols, chunks with the times of their frames, copied streams, and what was there already.

Owns: the header, the thread that makes symbols and bytes beside the model, when frames are shown, and taking over the
chunks of a partial file that is continued.
Does not know: models' insides, windows, how frames are read. Its mirror for decoding is `input`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import FLAG_CONCEALED, UNKNOWN, BitstreamWriter, Chunk, Header
from cvcodec.bitstream.wire import Writable
from cvcodec.codec.encode_options import EncodeOptions, EncodeResult
from cvcodec.codec.headers import make_header, reader_metadata
from cvcodec.codec.notices import Notices
from cvcodec.codec.requantise import quantised
from cvcodec.codec.resume import PartialSink
from cvcodec.codec.session import Progress, RunFacts
from cvcodec.errors import InputError, NumericalError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.posterior import LOGVAR_RANGE
from cvcodec.passthrough.recorder import Recorder
from cvcodec.quantization import Quantizer
from cvcodec.system.threads import WriteBehind
from cvcodec.video import Frame, VideoReader
from cvcodec.windows.plan import Plan
from cvcodec.windows.time import frames_of_latents


@dataclass(frozen=True)
class _Times:
    """When a frame is shown, kept until its chunk is complete; its pixels are long gone."""

    pts: int
    duration: int
    flags: int


_Item = tuple[NDArray[np.float32] | None, list[_Times]]
"""Latents of a chunk (with the log-variance, where it is kept), and when its frames are shown."""


class CvlOutput:
    """The file of one encode. As a context manager it owns the thread that writes; `finish` completes the file."""

    def __init__(
        self,
        sink: Writable,
        reader: VideoReader,
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
        self._frames = self._chunks = self._size = self._copied = self._resumed_frames = 0
        self._first_pts = self._last_pts = 0
        self._resumed = sink if isinstance(sink, PartialSink) and sink.header is not None else None
        self.header = self._make_header()
        """As far as it is known: memory that runs out in the first window may still make the tiles smaller."""
        self.first_latent = 0
        """Where the model has to begin: behind what the partial file holds."""
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

    def needed(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames that are needed to encode latents from `first_latent` on, noting the times of all. Chunks before
        that are taken over from the partial file, each when its frames have been read."""
        stored = deque(self._resumed.chunks if self._resumed is not None else ())
        first = self._plan.first_frame(self.first_latent)
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

    def put(self, latents: NDArray[np.float32]) -> None:
        """The next chunk: (C [+ E] [+ C], t, h, w), with the enhancement layer and the log-variance that `header`
        names. Raises what the writer's thread raised for an earlier one."""
        self._behind.put((latents, self._take_times(latents.shape[1])))

    def finish(self) -> None:
        """Wait for the writer and complete the file. Raises InputError when there were no frames."""
        self._behind.finish()
        if self._writer is None:
            duration = self._reader.info.duration
            length = "" if duration is None else f"; it lasts {float(duration):.2f} s"
            raise InputError(f"the source has no frames in the range that was asked for{length}")
        self._write_copied(self._writer, None)
        if self._resumed is not None and not self._resumed.done:
            raise self._resumed.mismatch(f"the source has only {self._frames} frames now")
        # Known only now, so that the header cannot hold them.
        damage = {"decode_errors": self._reader.decode_errors, "concealed_frames": self._reader.corrupt_frames}
        self._writer.close(damage if any(damage.values()) else None)
        self._size = self._writer.bytes_written

    def result(self, facts: RunFacts) -> EncodeResult:
        """What was written, with what the session knows."""
        info, reader = self._reader.info, self._reader
        result = EncodeResult(
            frames=self._frames,
            chunks=self._chunks,
            width=info.width,
            height=info.height,
            size_bytes=self._size,
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
        latents, times = item
        if self._writer is None:
            # Only now, so that tiles that had to shrink for the first window are recorded as they were used.
            self.header = self._make_header()
            self._writer = BitstreamWriter(self._sink, self.header)
        self._write_copied(self._writer, [time.pts for time in times])
        pts = np.array([time.pts for time in times], np.int64)
        durations = np.array([time.duration for time in times], np.int64)
        flags = np.array([time.flags for time in times], np.uint8)
        if latents is None:
            assert self._resumed is not None
            self._resumed.adopt(self._writer, pts, durations, flags)
            self._resumed_frames += len(times)
        else:
            self._write_chunk(self._writer, latents, pts, durations, flags)
            if (flush := getattr(self._sink, "flush", None)) is not None:
                flush()  # what is whole survives when this process is killed
        self._first_pts = self._first_pts if self._frames else times[0].pts
        self._last_pts = times[-1].pts
        self._frames += len(times)
        self._chunks += 1
        self._size = self._writer.bytes_written
        if self._on_progress is not None:
            self._on_progress(self._frames, self._size, self._expected_frames)

    def _write_chunk(
        self,
        writer: BitstreamWriter,
        latents: NDArray[np.float32],
        pts: NDArray[np.int64],
        durations: NDArray[np.int64],
        flags: NDArray[np.uint8],
    ) -> None:
        header = writer.header
        bounds = np.cumsum([header.latent_channels, header.enhancement_channels])
        base, enhancement, logvar = np.split(latents, bounds)
        chunk = Chunk(
            index=writer.chunks,
            first_latent=writer.latents,
            latent_count=base.shape[1],
            first_frame=writer.frames,
            pts=pts,
            durations=durations,
            flags=flags,
            symbols=self._stored(base, header, header.quantizer),
            enhancement=self._stored(enhancement, header, header.enhancement_quantizer) if header.enhancement else None,
        )
        try:
            writer.write_chunk(chunk)
        except ValueError as error:  # very large pictures in long windows
            raise UsageError(str(error)) from error
        if header.logvar:
            writer.write_logvar(np.clip(logvar, *LOGVAR_RANGE))

    def _write_copied(self, writer: BitstreamWriter, pts: list[int] | None) -> None:
        for kind, payload in self._recorder.take(pts):
            self._copied += writer.write_record(kind, payload)

    def _stored(self, latent: NDArray[np.float32], header: Header, quantizer: Quantizer | None) -> NDArray[Any]:
        """What the file keeps of a layer of a chunk. Raises NumericalError for what its type cannot hold."""
        if quantizer is not None:
            return quantised(latent, quantizer, self._options.rdo)
        dtype = header.latent_dtype
        with np.errstate(over="ignore"):  # infinity is refused below
            values = latent.astype(dtype)
        if not np.isfinite(values).all():
            raise NumericalError(f"a latent of {np.abs(latent).max():g} does not fit {dtype}; use --latents fp32")
        return values
