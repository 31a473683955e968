"""Video file -> .cvl: frames -> windows -> encoder -> latents -> symbols -> chunks, one clip in memory.

Owns: the order of the steps and the threads beside the model.
Does not know: command lines, names of models, what windows or the entropy coder do inside. Its mirror is `decode`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec import tiling
from cvcodec.bitstream import FLAG_CONCEALED, UNKNOWN, BitstreamWriter, Chunk, Header
from cvcodec.bitstream.format import MAGIC
from cvcodec.codec.encode_options import EncodeOptions, EncodeResult
from cvcodec.codec.headers import DEFAULT_MODEL, make_header, reader_metadata
from cvcodec.codec.notices import Notices
from cvcodec.codec.passthrough import PassthroughRecorder
from cvcodec.codec.requantise import quantised
from cvcodec.codec.resume import PartialSink
from cvcodec.device import available_memory, set_threads
from cvcodec.errors import InputError, NumericalError, UsageError
from cvcodec.fileio import atomic_output, is_standard_stream, open_input, partial_path
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.posterior import LOGVAR_RANGE
from cvcodec.pipeline import ReadAhead, WriteBehind
from cvcodec.plan import Plan
from cvcodec.quantization import Quantizer
from cvcodec.registry import load_model
from cvcodec.runner import ClipEncoder, ModelRunner, frames_to_tensor
from cvcodec.video import Frame, VideoReader
from cvcodec.video.ahead import ReaderAhead

StrPath = str | os.PathLike[str]

Progress = Callable[[int, int, int | None], None]
"""Is given frames and bytes done so far, and the number of frames expected in all where that is known."""

_PIECE_FRAMES = 8  # frames handed on at once: fewer calls, little memory
_AHEAD_BYTES = 96 << 20  # decoded frames that may wait for the model
_AHEAD_FRAMES = 128  # and no more than that, or small pictures would fill memory with objects


def encode_file(
    source: Any,
    destination: StrPath,
    *,
    model: VideoAutoencoder | StrPath = DEFAULT_MODEL,
    options: EncodeOptions | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> EncodeResult:
    """Encode a video to a .cvl file, which appears only when it is complete.

    source: what `VideoReader` takes: a path, or a binary file object. destination: a path or `-`.
    model: as `load_model` gives it, or what that takes. on_notice: is told, once each, what a person should know.
    resume: go on with the partial file (`fileio.partial_path`) of an encode that was interrupted, if there is one, to
        the bytes of an uninterrupted run; and leave it there when this one is interrupted. Without, only a killed
        process leaves one, and it is refused unless `overwrite`.
    Raises InputError, OutputError, UsageError, DeviceError or NumericalError.
    """
    inputs = [source] if isinstance(source, (str, os.PathLike)) else []
    for path in inputs:
        refuse_coded(path)
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model)
    kept = {"keep_partial": True, "resume": True} if resume else {"named_partial": True}
    if resume and is_standard_stream(destination):
        raise UsageError("--resume needs an output file: standard output cannot be continued")
    with atomic_output(destination, overwrite=overwrite, inputs=inputs, **kept) as sink:
        begun = PartialSink(sink, os.fspath(partial_path(destination))) if resume and sink.seekable() else sink
        return encode_stream(source, begun, model=model, options=options, on_progress=on_progress, on_notice=on_notice)


def refuse_coded(path: StrPath) -> None:
    """InputError for a .cvl file, of which FFmpeg would only say that it knows no such format."""
    if os.path.isfile(path):
        with open_input(path) as file:
            if file.read(len(MAGIC)) == MAGIC:
                raise InputError(f"{os.fspath(path)} is a .cvl file already; `cvcodec decode` makes a video of it")


def encode_stream(
    source: Any,
    sink: Any,
    *,
    model: VideoAutoencoder | ClipEncoder,
    options: EncodeOptions | None = None,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> EncodeResult:
    """`encode_file` into a binary file object, written front to back without seeking; or into a `PartialSink`.

    model: a model, or one already on its device, whose own device and precision then count.
    """
    options = options or EncodeOptions()
    started = time.perf_counter()
    notices = Notices(on_notice)
    with ExitStack() as stack:
        set_threads(options.threads)
        recorder = PassthroughRecorder(kinds=options.kinds, metadata=options.tags, on_notice=notices)
        ahead = stack.enter_context(closing(ReaderAhead(source, on_packet=recorder.on_packet, **options.reader)))
        reader = ahead.reader
        recorder.begin(reader)
        info = reader.info
        notices.extend(reader.notices)
        # Begins to read while the model is prepared.
        frames = ahead.frames(most_bytes=_AHEAD_BYTES, most_frames=_AHEAD_FRAMES, least_frames=2 * _PIECE_FRAMES)
        runner: ClipEncoder = (
            ModelRunner(model, device=options.device, precision=options.precision, on_notice=notices)
            if isinstance(model, VideoAutoencoder)
            else model
        )
        choose = partial(
            Plan.choose,
            runner.model.config,
            height=info.height,
            width=info.width,
            mode=options.windows,
            window=options.window,
            tile=options.tile,
        )
        plan = choose(
            available_memory=available_memory(runner.device),
            itemsize=2 if runner.precision != "fp32" else 4,
            on_notice=notices,
        )
        if isinstance(sink, PartialSink) and sink.header is not None:
            stored = Plan.from_header(sink.header, family=runner.model.config.family)
            plan = choose().as_asked(stored, window=options.window, tile=options.tile)
        encoder = _Encoder(sink, reader, runner, plan, options, notices, on_progress, recorder)
        encoder.run(frames)
        notices.extend(reader.notices)
        result = EncodeResult(
            frames=encoder.frames,
            chunks=encoder.chunks,
            width=info.width,
            height=info.height,
            size_bytes=encoder.size,
            copied_bytes=encoder.copied,
            source_bytes=reader.stream_bytes(encoder.first_pts, encoder.last_pts),
            decode_errors=reader.decode_errors,
            concealed_frames=reader.corrupt_frames,
            resumed_frames=encoder.resumed,
            seconds=time.perf_counter() - started,
            model_seconds=encoder.model_seconds,
            precision=runner.precision,
            device=str(runner.device),
            notices=tuple(notices.said),
        )
        if result.damage is not None:
            notices(result.damage)
        return replace(result, notices=tuple(notices.said))


@dataclass(frozen=True)
class _Times:
    """When a frame is shown, kept until its chunk is complete; its pixels are long gone."""

    pts: int
    duration: int
    flags: int


_Item = tuple[NDArray[np.float32] | None, list[_Times]]
"""Latents of a chunk (with the log-variance, where it is kept), and when its frames are shown."""


class _Encoder:
    """One encode: frames in, chunks out."""

    def __init__(
        self,
        sink: Any,
        reader: VideoReader,
        runner: ClipEncoder,
        plan: Plan,
        options: EncodeOptions,
        notices: Notices,
        on_progress: Progress | None,
        recorder: PassthroughRecorder,
    ) -> None:
        self._reader, self._expected_frames, self._recorder = reader, reader.expected_frames, recorder
        self._sink, self._info, self._runner, self._plan = sink, reader.info, runner, plan
        self._options, self._notices, self._on_progress = options, notices, on_progress
        self._times: deque[_Times] = deque()
        self._writer: BitstreamWriter | None = None
        self._latents = 0
        self._resumed = sink if isinstance(sink, PartialSink) and sink.header is not None else None
        self.frames = self.chunks = self.size = self.copied = self.resumed = 0
        self.first_pts = self.last_pts = 0
        self.model_seconds = 0.0

    def run(self, frames: Iterable[Frame]) -> None:
        """Encode all frames and finish the file. Raises InputError when there are none."""
        depth = self._info.bit_depth
        header = self._header()  # refuses what a file cannot hold before any work is done
        channels = header.latent_channels
        self._layout = [channels, header.enhancement_channels, channels if header.logvar else 0]
        start = 0
        if self._resumed is not None:
            self._resumed.check_header(header)
            stored = self._resumed.chunks
            start = stored[-1].first_latent + stored[-1].latent_count if stored else 0

        def encode(clip: Tensor) -> Tensor:
            begun = time.perf_counter()
            moments = self._runner.encode(clip, depth)
            self.model_seconds += time.perf_counter() - begun
            mean, logvar, enhancement = (
                moments[:, :channels],
                moments[:, channels : 2 * channels],
                moments[:, 2 * channels :],
            )
            kept = [mean, *([enhancement] if header.enhancement else []), *([logvar] if header.logvar else [])]
            return mean if len(kept) == 1 else torch.cat(kept, dim=1)

        with WriteBehind(self._write, limit=2, name="cvl-writer") as behind:
            pieces = self._pieces(self._needed(frames, start, behind))
            # Joined in a thread of their own, while the model runs: afterwards the entropy coder would be in the way.
            with ReadAhead(pieces, limit=self._most_pieces, name="frame-joiner") as joined:
                for latent in self._plan.encode(encode, joined, self._backed_off, start=start):
                    behind.put((latent[0].float().cpu().numpy(), self._take_times(latent.shape[2])))
            behind.finish()
        if self._writer is None:
            length = "" if self._info.duration is None else f"; it lasts {float(self._info.duration):.2f} s"
            raise InputError(f"the source has no frames in the range that was asked for{length}")
        self._write_copied(self._writer, None)
        if self._resumed is not None and not self._resumed.done:
            raise self._resumed.mismatch(f"the source has only {self.frames} frames now")
        # Known only now, so that the header cannot hold them.
        damage = {"decode_errors": self._reader.decode_errors, "concealed_frames": self._reader.corrupt_frames}
        self._writer.close(damage if any(damage.values()) else None)
        self.size = self._writer.bytes_written

    def _needed(self, frames: Iterable[Frame], start: int, behind: WriteBehind[_Item]) -> Iterator[Frame]:
        """The frames that are needed to encode latents from `start` on, noting the times of all. Chunks before that are
        taken over from the partial file, each when its frames have been read."""
        stored = deque(self._resumed.chunks if self._resumed is not None else ())
        first = self._plan.first_frame(start)
        number = -1
        for number, frame in enumerate(frames):
            duration = UNKNOWN if frame.duration is None else frame.duration
            self._times.append(_Times(frame.pts, duration, FLAG_CONCEALED if frame.corrupt else 0))
            if stored and number + 1 == stored[0].first_frame + stored[0].frame_count:
                behind.put((None, self._take_times(stored.popleft().latent_count)))
            if number >= first:
                yield frame
        if stored and self._resumed is not None:
            raise self._resumed.mismatch(f"the source has only {number + 1} frames now")

    @property
    def _most_pieces(self) -> int:
        """How many pieces may wait: a window's at small sizes."""
        values = self._info.width * self._info.height * 3 * (1 if self._info.bit_depth == 8 else 4)
        return max(1, min(8, _AHEAD_BYTES // 2 // (_PIECE_FRAMES * values)))

    def _pieces(self, frames: Iterator[Frame]) -> Iterator[Tensor]:
        while piece := list(itertools.islice(frames, _PIECE_FRAMES)):
            yield frames_to_tensor([frame.pixels for frame in piece])

    def _take_times(self, latents: int) -> list[_Times]:
        """Times of the frames that the next `latents` latents stand for; fewer at the end, which is padded."""
        first, stop = tiling.frames_of_latents(self._latents, self._latents + latents, self._plan.temporal_factor)
        self._latents += latents
        return [self._times.popleft() for _ in range(min(stop - first, len(self._times)))]

    def _backed_off(self, plan: Plan, text: str) -> None:
        recorded = self._latents == 0  # no chunk has been handed to the writer's thread, which makes the header
        self._notices(text + ("; the file records it" if recorded else "; earlier chunks were made with larger ones"))
        if recorded:
            self._plan = plan

    def _header(self) -> Header:
        options = self._options
        header = make_header(
            self._info,
            self._runner.model,
            self._plan,
            latents=options.latents,
            quality=options.quality,
            layers=options.layers,
        )
        metadata = {**header.metadata, **reader_metadata(options.reader), **options.metadata}
        return header.replace(logvar=options.store_logvar, metadata=metadata)

    def _write(self, item: _Item) -> None:
        """One chunk, with the copied streams in front of it; without latents it is taken over from the partial file."""
        latent, times = item
        if self._writer is None:
            # Only now, so that tiles that had to shrink for the first window are recorded as they were used.
            self._writer = BitstreamWriter(self._sink, self._header())
        self._write_copied(self._writer, [time.pts for time in times])
        pts = np.array([time.pts for time in times], np.int64)
        durations = np.array([time.duration for time in times], np.int64)
        flags = np.array([time.flags for time in times], np.uint8)
        if latent is None:
            assert self._resumed is not None
            self._resumed.adopt(self._writer, pts, durations, flags)
            self.resumed += len(times)
        else:
            self._write_chunk(self._writer, latent, pts, durations, flags)
            if (flush := getattr(self._sink, "flush", None)) is not None:
                flush()  # what is whole survives when this process is killed
        self.first_pts = self.first_pts if self.frames else times[0].pts
        self.last_pts = times[-1].pts
        self.frames += len(times)
        self.chunks += 1
        self.size = self._writer.bytes_written
        if self._on_progress is not None:
            self._on_progress(self.frames, self.size, self._expected_frames)

    def _write_chunk(
        self,
        writer: BitstreamWriter,
        latent: NDArray[np.float32],
        pts: NDArray[np.int64],
        durations: NDArray[np.int64],
        flags: NDArray[np.uint8],
    ) -> None:
        base, enhancement, logvar = np.split(latent, np.cumsum(self._layout)[:2])
        header = writer.header
        chunk = Chunk(
            index=writer.chunks,
            first_latent=writer.latents,
            latent_count=latent.shape[1],
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
            self.copied += writer.write_record(kind, payload)

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
