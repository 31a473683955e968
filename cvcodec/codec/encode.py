"""Video file -> .cvl: frames -> windows -> encoder -> latents -> symbols -> chunks, one clip in memory.

Owns: the order of the steps and the threads beside the model.
Does not know: command lines, names of models, what windows or the entropy coder do inside. Its mirror is `decode`.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cvcodec import tiling
from cvcodec.bitstream import FLAG_CONCEALED, UNKNOWN, BitstreamWriter, Chunk, Header
from cvcodec.codec.headers import DEFAULT_QUALITY, LatentsKind, make_header, make_quantizer
from cvcodec.codec.notices import Notices
from cvcodec.codec.passthrough import PassthroughRecorder
from cvcodec.codec.requantise import RateDistortion, quantised
from cvcodec.copied import KINDS
from cvcodec.device import available_memory, set_threads
from cvcodec.errors import InputError, NumericalError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.model.base import VideoAutoencoder
from cvcodec.model.posterior import LOGVAR_RANGE
from cvcodec.pipeline import ReadAhead, WriteBehind, in_thread
from cvcodec.plan import Plan, WindowMode
from cvcodec.runner import ClipEncoder, ModelRunner, frames_to_tensor
from cvcodec.video import Frame, VideoInfo, VideoReader

StrPath = str | os.PathLike[str]

Progress = Callable[[int, int, int | None], None]
"""Is given frames and bytes done so far, and the number of frames expected in all where that is known."""

_PIECE_FRAMES = 8  # frames handed on at once: fewer calls, little memory
_AHEAD_BYTES = 96 << 20  # decoded frames that may wait for the model
_AHEAD_FRAMES = 128  # and no more than that, or small pictures would fill memory with objects


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How to encode; every field has a default that suits most videos."""

    quality: float = DEFAULT_QUALITY
    """0 to 100: ten more halve the quantiser's steps."""
    latents: LatentsKind = "quantised"
    """`quantised`, or the latents themselves as `fp16` or `fp32`, for caching."""
    rdo: RateDistortion = "time"
    """Which symbols are chosen by what they cost and what they lose: `none`, those that the latent before predicts
    (`time`), or `all`, which is best for PSNR and takes texture."""
    store_logvar: bool = False
    """Keep the posterior's log-variance as well (fp16), for training that draws fresh samples."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Any JSON object, merged into the header's metadata."""
    windows: WindowMode = "auto"
    """`context`, `official` (official CV-VAE models only), or `auto`: what the model's family defaults to."""
    window: int | None = None
    """Latents kept per window; None: the model's, smaller if memory is short."""
    tile: int | None = None
    """Side of a tile in latents, 0: whole frames; None: the model's, smaller if memory is short."""
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """CPU threads of the model."""
    kinds: tuple[str, ...] = KINDS
    """Streams to copy beside the picture, of `cvcodec.copied.KINDS`; none for a silent file."""
    tags: bool = True
    """Copy chapters and tags too; otherwise only languages, dispositions and the names of attachments."""
    reader: dict[str, Any] = field(default_factory=dict)
    """Further arguments for `VideoReader`: stream, start, end, duration, frames, rotate, deinterlace, ..."""


@dataclass(frozen=True, kw_only=True)
class EncodeResult:
    """What an encode did. Sizes in bytes of real output, rates per source pixel."""

    frames: int
    chunks: int
    width: int
    height: int
    size_bytes: int
    copied_bytes: int
    """Of which streams copied from the source."""
    seconds: float
    """Wall time of the whole command."""
    model_seconds: float
    """Of which inside the model's calls (device time included where it was waited for)."""
    precision: str
    device: str
    notices: tuple[str, ...]

    @property
    def pixels(self) -> int:
        """Width * height * frames of the source."""
        return self.width * self.height * self.frames

    @property
    def bpp(self) -> float:
        """Bits per pixel of the source, of everything but copied streams."""
        return 8 * (self.size_bytes - self.copied_bytes) / self.pixels

    @property
    def megapixels_per_s(self) -> float:
        """Speed of the whole command."""
        return self.pixels / 1e6 / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys."""
        return {
            "frames": self.frames,
            "chunks": self.chunks,
            "width": self.width,
            "height": self.height,
            "size_bytes": self.size_bytes,
            "copied_bytes": self.copied_bytes,
            "bpp": self.bpp,
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "mpixel_per_s": self.megapixels_per_s,
            "precision": self.precision,
            "device": self.device,
            "notices": list(self.notices),
        }


def encode_file(
    source: Any,
    destination: StrPath,
    *,
    model: VideoAutoencoder,
    options: EncodeOptions | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> EncodeResult:
    """Encode a video to a .cvl file, which appears only when it is complete.

    source: what `VideoReader` takes: a path, or a binary file object. destination: a path or `-`.
    model: as `load_model` gives it. on_notice: is told, once each, what a person should know.
    Raises InputError, OutputError, UsageError, DeviceError or NumericalError.
    """
    inputs = [source] if isinstance(source, (str, os.PathLike)) else []
    with atomic_output(destination, overwrite=overwrite, inputs=inputs) as sink:
        return encode_stream(source, sink, model=model, options=options, on_progress=on_progress, on_notice=on_notice)


def encode_stream(
    source: Any,
    sink: Any,
    *,
    model: VideoAutoencoder | ClipEncoder,
    options: EncodeOptions | None = None,
    on_progress: Progress | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> EncodeResult:
    """`encode_file` into a binary file object, written front to back without seeking.

    model: a model, or one already on its device, whose own device and precision then count.
    """
    options = options or EncodeOptions()
    started = time.perf_counter()
    notices = Notices(on_notice)
    with ExitStack() as stack:
        set_threads(options.threads)
        recorder = PassthroughRecorder(kinds=options.kinds, metadata=options.tags, on_notice=notices)
        reader = in_thread(
            lambda: VideoReader(source, on_packet=recorder.on_packet, **options.reader), name="video-opener"
        )
        frames: ReadAhead[Frame] | None = None
        stack.callback(lambda: None if frames is not None and frames.stuck else reader.close())
        recorder.begin(reader)
        info = reader.info
        notices.extend(reader.notices)
        runner: ClipEncoder = (
            ModelRunner(model, device=options.device, precision=options.precision, on_notice=notices)
            if isinstance(model, VideoAutoencoder)
            else model
        )
        plan = Plan.choose(
            runner.model.config,
            height=info.height,
            width=info.width,
            mode=options.windows,
            window=options.window,
            tile=options.tile,
            available_memory=available_memory(runner.device),
            itemsize=2 if runner.precision != "fp32" else 4,
            on_notice=notices,
        )
        encoder = _Encoder(sink, info, runner, plan, options, notices, on_progress, reader.expected_frames, recorder)
        frame_bytes = info.width * info.height * (3 if info.bit_depth == 8 else 6)
        limit = min(_AHEAD_FRAMES, max(2 * _PIECE_FRAMES, _AHEAD_BYTES // frame_bytes))
        frames = stack.enter_context(ReadAhead(reader, limit=limit, name="video-reader"))
        encoder.run(frames)
        notices.extend(reader.notices)
        if reader.decode_errors:
            notices(f"{reader.decode_errors} damaged packets in the source, {reader.corrupt_frames} frames concealed")
        return EncodeResult(
            frames=encoder.frames,
            chunks=encoder.chunks,
            width=info.width,
            height=info.height,
            size_bytes=encoder.size,
            copied_bytes=encoder.copied,
            seconds=time.perf_counter() - started,
            model_seconds=encoder.model_seconds,
            precision=runner.precision,
            device=str(runner.device),
            notices=tuple(notices.said),
        )


@dataclass(frozen=True)
class _Times:
    """When a frame is shown, kept until its chunk is complete; its pixels are long gone."""

    pts: int
    duration: int
    flags: int


class _Encoder:
    """One encode: frames in, chunks out."""

    def __init__(
        self,
        sink: Any,
        info: VideoInfo,
        runner: ClipEncoder,
        plan: Plan,
        options: EncodeOptions,
        notices: Notices,
        on_progress: Progress | None,
        expected_frames: int | None,
        recorder: PassthroughRecorder,
    ) -> None:
        self._expected_frames, self._recorder = expected_frames, recorder
        self._sink, self._info, self._runner, self._plan = sink, info, runner, plan
        self._options, self._notices, self._on_progress = options, notices, on_progress
        self._times: deque[_Times] = deque()
        self._quantizer = make_quantizer(runner.model, options.quality) if options.latents == "quantised" else None
        self._writer: BitstreamWriter | None = None
        self._latents = 0
        self.frames = self.chunks = self.size = self.copied = 0
        self.model_seconds = 0.0

    def run(self, frames: Iterable[Frame]) -> None:
        """Encode all frames and finish the file. Raises InputError when there are none."""
        channels = self._runner.model.config.latent_channels
        depth = self._info.bit_depth
        self._header()  # refuses what a file cannot hold before any work is done

        def encode(clip: Tensor) -> Tensor:
            begun = time.perf_counter()
            moments = self._runner.encode(clip, depth)
            self.model_seconds += time.perf_counter() - begun
            return moments if self._options.store_logvar else moments[:, :channels]

        with WriteBehind(self._write, limit=2, name="cvl-writer") as behind:
            for latent in self._plan.encode(encode, self._pieces(frames), self._backed_off):
                behind.put((latent[0].float().cpu().numpy(), self._take_times(latent.shape[2])))
            behind.finish()
        if self._writer is None:
            raise InputError("the source has no frames in the range that was asked for")
        self._write_copied(self._writer, None)
        self._writer.close()
        self.size = self._writer.bytes_written

    def _pieces(self, frames: Iterable[Frame]) -> Iterator[Tensor]:
        iterator = iter(frames)
        while piece := list(itertools.islice(iterator, _PIECE_FRAMES)):
            self._times.extend(
                _Times(
                    frame.pts,
                    UNKNOWN if frame.duration is None else frame.duration,
                    FLAG_CONCEALED if frame.corrupt else 0,
                )
                for frame in piece
            )
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
            self._info, self._runner.model, self._plan, latents=options.latents, quality=options.quality
        )
        return header.replace(logvar=options.store_logvar, metadata={**header.metadata, **options.metadata})

    def _write(self, item: tuple[NDArray[np.float32], list[_Times]]) -> None:
        latent, times = item
        latent, logvar = np.split(latent, [self._runner.model.config.latent_channels])
        if self._writer is None:
            # Only now, so that tiles that had to shrink for the first window are recorded as they were used.
            self._writer = BitstreamWriter(self._sink, self._header())
        self._write_copied(self._writer, [time.pts for time in times])
        chunk = Chunk(
            index=self._writer.chunks,
            first_latent=self._writer.latents,
            latent_count=latent.shape[1],
            first_frame=self._writer.frames,
            pts=np.array([time.pts for time in times], np.int64),
            durations=np.array([time.duration for time in times], np.int64),
            flags=np.array([time.flags for time in times], np.uint8),
            symbols=self._stored(latent, self._writer.header.latent_dtype),
        )
        try:
            self._writer.write_chunk(chunk)
        except ValueError as error:  # very large pictures in long windows
            raise UsageError(str(error)) from error
        if self._options.store_logvar:
            self._writer.write_logvar(np.clip(logvar, *LOGVAR_RANGE))
        self.frames += len(times)
        self.chunks += 1
        self.size = self._writer.bytes_written
        if self._on_progress is not None:
            self._on_progress(self.frames, self.size, self._expected_frames)

    def _write_copied(self, writer: BitstreamWriter, pts: list[int] | None) -> None:
        for kind, payload in self._recorder.take(pts):
            self.copied += writer.write_record(kind, payload)

    def _stored(self, latent: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
        """What the file keeps of a chunk's latents. Raises NumericalError for what its type cannot hold."""
        if self._quantizer is not None:
            return quantised(latent, self._quantizer, self._options.rdo)
        with np.errstate(over="ignore"):  # infinity is refused below
            values = latent.astype(dtype)
        if not np.isfinite(values).all():
            raise NumericalError(f"a latent of {np.abs(latent).max():g} does not fit {dtype}; use --latents fp32")
        return values
