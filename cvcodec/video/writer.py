"""`VideoWriter`: RGB frames with exact times -> a video file, a pipe, y4m, raw pixels, or images.

It writes where it is told and leaves temporary names and renaming to the caller: `close` finishes the output,
`abort` gives it up. Kinds of output without a container live in `sink`.

The header of a container is written with the first packet, so that streams can be added to `ContainerSink.container`
until the first `write` or `mux`. Whoever adds some sets `before_video`, and muxes their packets when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from cvcodec.errors import OutputError, UsageError
from cvcodec.fileio import atomic_output
from cvcodec.video.color import Color, ContentLight, MasteringDisplay
from cvcodec.video.convert import RgbWriter, chroma_of
from cvcodec.video.encoders import choose_pixel_format, color_tags, default_codec, encoder_named, encoder_options
from cvcodec.video.frame import Frame, VideoInfo
from cvcodec.video.libav import captured_log, reason
from cvcodec.video.metadata import KEEP_ALL, describe, lost_tags
from cvcodec.video.sink import ImageSink, OutputFile, OutputSpec, RawSink, Sink, Y4mSink

VideoTarget = str | os.PathLike[str] | BinaryIO
"""What `VideoWriter` writes to."""

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".y4m": "y4m",
    ".rgb": "raw",
    ".raw": "raw",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
"""Output formats by file name extension."""

IMAGE_CONTAINERS = ("png", "jpeg", "webp")
"""Formats that hold one picture a file."""


def container_for(path: str | os.PathLike[str]) -> str:
    """The output format that a file name asks for. Raises OutputError for an extension that means none."""
    suffix = Path(path).suffix.lower()
    if suffix not in CONTAINERS:
        raise OutputError(
            f"cannot tell the output format from {os.fspath(path)!r}; known extensions are {', '.join(CONTAINERS)}"
        )
    return CONTAINERS[suffix]


class VideoWriter:
    """Writes frames in order of presentation.

    target: a path, the pattern of a numbered image sequence (`frames/%05d.png`), or a binary file object (not closed).
    width, height, bit_depth: of the frames. time_base: seconds per tick of their pts.
    color: what the frames' colours are, as `VideoInfo.color` says. YUV outputs keep its matrix and range (RGB
        sources get the matrix of the size rule and limited range); converted with them and tagged with them.
    rate: nominal frames per second, a hint for encoders; times come from the pts alone.
    sample_aspect_ratio, display_matrix: written as they are. rotation: degrees clockwise a viewer has to turn the
        frames.
    mastering_display, content_light: HDR metadata, for the container, and for libx265, libx264 and libsvtav1.
    codec, crf, preset, chroma: see `encoders`; None takes visually lossless defaults.
    container: one of the values of `CONTAINERS`; None goes by the extension, and is `matroska` for file objects.
    source_chroma: `420`, `422` or `444`, of the pictures' source: what is lost of it is said.
    tags: of the whole file, where it is a container.
    movie_timescale: ticks per second of MP4 and MOV edit lists; None takes the video's, which keeps its start exact.
    start_number: of the first image of a sequence.
    label: what error messages call the output, where `target` is a temporary file; None for the target's own name.

    Times: MP4 and MOV hold pts exactly; Matroska and WebM hold milliseconds, to the nearest of which pts are rounded
    (said in `notices` where it matters); y4m has a constant rate and raw and images have no times.

    notices: what a person should be told, each once. frames: count so far.
    pts_offset: ticks added to every pts, because no container holds negative times; other streams need the same shift.
    Raises OutputError where the output cannot be written, UsageError where options do not fit together.
    """

    def __init__(
        self,
        target: VideoTarget,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        color: Color | None = None,
        bit_depth: int = 8,
        rate: Fraction | None = None,
        sample_aspect_ratio: Fraction = Fraction(1),
        rotation: int = 0,
        display_matrix: tuple[int, ...] | None = None,
        mastering_display: MasteringDisplay | None = None,
        content_light: ContentLight | None = None,
        codec: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        chroma: str | None = None,
        container: str | None = None,
        threads: int | None = None,
        source_chroma: str | None = None,
        tags: Mapping[str, str] | None = None,
        movie_timescale: int | None = None,
        start_number: int = 1,
        label: str | None = None,
    ) -> None:
        if container is None:
            container = container_for(target) if isinstance(target, (str, os.PathLike)) else "matroska"
        elif container not in CONTAINERS.values():
            raise OutputError(
                f"output format {container!r} is not one of {', '.join(dict.fromkeys(CONTAINERS.values()))}"
            )
        unfit = {"codec": codec, "crf": crf, "preset": preset, "chroma": chroma if container != "y4m" else None}
        if container in (*IMAGE_CONTAINERS, "y4m", "raw") and any(value is not None for value in unfit.values()):
            names = ", ".join(name for name, value in unfit.items() if value is not None)
            raise UsageError(f"{container} output is not encoded: leave out {names}, or choose a video container")
        spec = OutputSpec(
            width=width,
            height=height,
            bit_depth=bit_depth,
            time_base=time_base,
            color=color or Color().for_rgb(),
            rate=rate,
            sample_aspect_ratio=sample_aspect_ratio,
            rotation=rotation,
            display_matrix=display_matrix,
            mastering_display=mastering_display,
            content_light=content_light,
            source_chroma=source_chroma,
            tags=tags or {},
        )
        self.container_name = container
        self.frames = 0
        self.pts_offset = 0
        self._spec = spec
        self._last_pts: int | None = None
        self._done = False
        self._sink: Sink
        if container in IMAGE_CONTAINERS:
            self._sink = ImageSink(target, spec, container, start_number=start_number, label=label)
        elif container == "y4m":
            self._sink = Y4mSink(target, spec, chroma, label)
        elif container == "raw":
            self._sink = RawSink(target, label)
        else:
            self._sink = ContainerSink(
                target,
                spec,
                container,
                codec=codec,
                crf=crf,
                preset=preset,
                chroma=chroma,
                threads=threads,
                movie_timescale=movie_timescale,
                label=label,
            )

    @classmethod
    def like(cls, target: VideoTarget, info: VideoInfo, **options: Any) -> Self:
        """A writer for frames that `info` describes; `options` are further arguments, and win over what `info` says."""
        described: dict[str, Any] = {
            "width": info.width,
            "height": info.height,
            "time_base": info.time_base,
            "color": info.color,
            "bit_depth": info.bit_depth,
            "rate": info.average_rate,
            "sample_aspect_ratio": info.sample_aspect_ratio,
            "rotation": info.rotation,
            "display_matrix": info.display_matrix,
            "mastering_display": info.mastering_display,
            "content_light": info.content_light,
            "source_chroma": chroma_of(info.pixel_format),
        }
        return cls(target, **(described | options))

    @property
    def notices(self) -> list[str]:
        """What a person should be told, each once."""
        return self._sink.notices

    @property
    def has_container(self) -> bool:
        """Whether the output is a container that can hold other streams, so that there is an `output`."""
        return isinstance(self._sink, ContainerSink)

    @property
    def output(self) -> ContainerSink:
        """The container being written, for adding streams and muxing their packets. Raises ValueError for other
        outputs.
        """
        if not isinstance(self._sink, ContainerSink):
            raise ValueError(f"{self.container_name} output has no container")
        return self._sink

    def begin(self, pts: int) -> None:
        """Settle `pts_offset` for a first frame at `pts`, before it is written; `write` does it otherwise."""
        if self._last_pts is None and pts + self.pts_offset < 0:
            self.pts_offset = -pts
            self.notices.append(
                f"times are shifted by {self.pts_offset} ticks: the first frame would begin before zero"
            )

    def write(self, frame: Frame) -> None:
        """Append a frame. Raises OutputError where it cannot be written, ValueError where it is not like the others
        or not later.
        """
        if self._done:
            raise ValueError("the writer is closed")
        if (frame.width, frame.height, frame.bit_depth) != (self._spec.width, self._spec.height, self._spec.bit_depth):
            raise ValueError(
                f"frame is {frame.width}x{frame.height} at {frame.bit_depth} bits; "
                f"wanted {self._spec.width}x{self._spec.height} at {self._spec.bit_depth}"
            )
        self.begin(frame.pts)
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise ValueError(f"{frame.pts = } is not after {self._last_pts}, the frame before")
        self._last_pts = frame.pts
        if self.pts_offset:
            frame = replace(frame, pts=frame.pts + self.pts_offset)
        self._sink.write(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the output. Raises OutputError where that fails; without any frame there is nothing to finish and
        it is aborted.
        """
        if self._done:
            return
        self._done = True
        if self.frames:
            self._sink.close()
        else:
            self._sink.abort()
            raise OutputError("no frames were written")

    def abort(self) -> None:
        """Give the output up: nothing more is written to a file object; what lies at a path is incomplete. Never
        raises.
        """
        if not self._done:
            self._done = True
            self._sink.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_image(
    path: str | os.PathLike[str],
    pixels: NDArray[np.uint8],
    *,
    container: str | None = None,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """One picture, (H, W, 3) uint8 RGB, which appears whole or not at all.

    container: one of `IMAGE_CONTAINERS`; None goes by the extension. overwrite, inputs: as for `fileio.atomic_output`.
    Raises OutputError."""
    container = container or container_for(path)
    height, width = pixels.shape[:2]
    with (
        atomic_output(path, overwrite=overwrite, inputs=inputs) as file,
        VideoWriter(file, width=width, height=height, time_base=Fraction(1), container=container) as writer,
    ):
        writer.write(Frame(np.ascontiguousarray(pixels), pts=0, duration=1))


_SUFFIXES = {"mp4": ".mp4", "mov": ".mov", "matroska": ".mkv", "webm": ".webm"}
_MAX_TIMESCALE = (1 << 31) - 1
_MAX_DURATION = (1 << 31) - 1  # of a frame in ticks, in MP4 and MOV
_MILLISECOND = Fraction(1, 1000)
_INTERLEAVE_US = "3000000"  # how long FFmpeg holds packets back for a silent stream, at most; else it is 10 s
# FFmpeg's MOV muxer has tags for these, and refuses them when it writes its header.
_REFUSED = {("mov", "libsvtav1"), ("mov", "libvpx-vp9")}
_DEFAULT_RATE, _MAX_RATE = Fraction(25), Fraction(240)  # SVT-AV1 refuses more than 240; times do not depend on it


class ContainerSink:
    """See `VideoWriter` for the arguments. container: PyAV's, `stream`: the video's. before_video: is called with the
    decoding time in seconds of each video packet before it is muxed, and with None after the last."""

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        spec: OutputSpec,
        container: str,
        *,
        codec: str | None,
        crf: float | None,
        preset: str | None,
        chroma: str | None,
        threads: int | None,
        movie_timescale: int | None,
        label: str | None = None,
    ) -> None:
        self.notices: list[str] = []
        self.before_video: Callable[[Fraction | None], None] | None = None
        self._spec = spec
        size = spec.width, spec.height
        encoder = encoder_named(codec or default_codec(container, *size, spec.bit_depth, spec.color, self.notices))
        pixel_format = choose_pixel_format(
            encoder, *size, spec.bit_depth, chroma, self.notices, source_chroma=spec.source_chroma
        )
        options = encoder_options(
            encoder,
            crf=crf,
            preset=preset,
            mastering_display=spec.mastering_display,
            content_light=spec.content_light,
            notices=self.notices,
            width=spec.width,
        )
        self._convert = RgbWriter(*size, spec.bit_depth, pixel_format, spec.color)
        self._durations: dict[int, int] = {}
        self._suffix = _SUFFIXES[container]
        self._last = _LastPacket() if container in ("mp4", "mov") else None
        self._muxed = False
        self._milliseconds: str | None = None  # the suffix of a container that may have to round times
        self._say_limits(container, encoder.name)
        self._file = OutputFile(target, label)
        try:
            with self._errors():
                self.container = av.open(
                    self._file,
                    "w",
                    format=container,
                    container_options=self._container_options(container, movie_timescale),
                )
                self.container.metadata.update(spec.tags)
                self.stream = self._add_stream(encoder.name, pixel_format, options, threads, container)
        except BaseException:
            self.abort()
            raise

    def _say_limits(self, container: str, codec: str) -> None:
        if container not in ("matroska", "webm"):
            return
        suffix = self._suffix
        if (self._spec.time_base / _MILLISECOND).denominator != 1:
            self._milliseconds = suffix
        if self._spec.sample_aspect_ratio != 1 and not codec.startswith("libx26"):
            # PyAV cannot set the container's own field; H.264 and H.265 carry the ratio in their bitstream.
            self.notices.append(
                f"{codec} in {suffix} loses the sample aspect ratio {self._spec.sample_aspect_ratio}; .mp4 keeps it"
            )

    def _say_rounding(self, frame: Frame) -> None:
        if self._milliseconds is None:
            return
        ends = (frame.pts, frame.pts + (frame.duration or 0))
        if any((end * self._spec.time_base / _MILLISECOND).denominator != 1 for end in ends):
            self.notices.append(
                f"{self._milliseconds} stores times in milliseconds: pts are rounded to the nearest; .mp4 keeps them "
                "exactly"
            )
            self._milliseconds = None  # said once

    def _container_options(self, container: str, movie_timescale: int | None) -> dict[str, str]:
        options = {"max_interleave_delta": _INTERLEAVE_US}
        if container not in ("mp4", "mov"):
            return options
        # Ticks of the source's own time base, also in the edit list that holds a start other than zero.
        timescale = self._spec.time_base.denominator
        if timescale > _MAX_TIMESCALE:
            raise OutputError(f"{_SUFFIXES[container]} cannot hold time base {self._spec.time_base}; use .mkv")
        options |= {"video_track_timescale": str(timescale), "movie_timescale": str(movie_timescale or timescale)}
        flags = [KEEP_ALL] if lost_tags(container, self._spec.tags) else []
        if not self._file.seekable():
            # The index comes with the first fragment, because only then edit lists and AC-3's parameters are known.
            flags += ["frag_keyframe", "delay_moov", "default_base_moof"]
        return options | ({"movflags": "+".join(flags)} if flags else {})

    def _add_stream(
        self, codec: str, pixel_format: str, options: dict[str, str], threads: int | None, container: str
    ) -> Any:
        spec = self._spec
        if "420" in pixel_format:
            options = options | {"chroma_sample_location": "left"}
        rate = min(spec.rate or _DEFAULT_RATE, _MAX_RATE).limit_denominator(1_000_000)
        better = ".mkv" + {"webm": " or libsvtav1", "mov": " or libx264" * (codec != "ffv1")}.get(container, "")
        unfit = OutputError(f"{_SUFFIXES[container]} cannot hold {codec}; use {better}")
        if (container, codec) in _REFUSED:
            raise unfit
        try:
            stream: Any = self.container.add_stream(codec, rate=rate, options=options, time_base=spec.time_base)
        except ValueError as error:
            raise unfit from error
        if spec.mastering_display is None or spec.mastering_display.complete:
            describe(stream, spec.mastering_display, spec.content_light)
        stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, pixel_format
        context = stream.codec_context
        context.framerate = rate
        if codec == "libx265" and container in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # parameter sets in the container alone: Apple's players want it
        for name, value in color_tags(self._convert.frame_color).items():
            setattr(context, name, value)
        context.sample_aspect_ratio = spec.sample_aspect_ratio
        context.thread_count = threads or 0
        context.thread_type = "AUTO"  # PyAV asks for slices, which cost x264 quality
        if spec.display_matrix is not None:
            stream.set_display_matrix(spec.display_matrix)
        elif spec.rotation:
            stream.set_display_rotation(-spec.rotation)
        with _quiet_svt(), captured_log() as log:
            try:
                context.open()
            except (av.error.FFmpegError, ValueError) as error:
                detail = (log() or [reason(error)])[-1]
                if codec.endswith("_nvenc"):
                    detail += "; it needs an NVIDIA card with its driver: use libx264 or libx265"
                raise OutputError(
                    f"{codec} cannot encode {spec.width}x{spec.height} {pixel_format}: {detail}"
                ) from error
        return stream

    def write(self, frame: Frame) -> None:
        """Encode and mux. Raises OutputError."""
        if self._last is not None and (frame.duration or 0) > _MAX_DURATION:
            length, most = (float(ticks * self._spec.time_base) for ticks in (frame.duration or 0, _MAX_DURATION))
            raise OutputError(
                f"{self._suffix} cannot hold a frame of {length:.0f} s: in ticks of {self._spec.time_base} s one lasts "
                f"at most {most:.0f} s; use .mkv"
            )
        picture = self._convert(frame.pixels)
        picture.pts, picture.time_base = frame.pts, self._spec.time_base
        picture.duration = frame.duration or 0
        self._say_rounding(frame)
        if frame.duration:
            self._durations[frame.pts] = frame.duration
        with self._errors():
            self._mux_video(self.stream.encode(picture))

    def _mux_video(self, packets: list[Any]) -> None:
        for packet in packets:
            self._muxed = True
            if packet.pts is not None and (duration := self._durations.pop(packet.pts, 0)):
                packet.duration = duration
            if self._last is None:
                self._mux_one(packet)
            elif (before := self._last.replace(packet)) is not None:
                self._mux_one(before)

    def _mux_one(self, packet: Any) -> None:
        time = packet.dts if packet.dts is not None else packet.pts
        if self.before_video is not None and time is not None:
            self.before_video(time * packet.time_base)
        self.container.mux(packet)

    def _sane_times(self, packets: list[Any]) -> list[Any]:
        """x265 gives heap garbage as dts to streams of one or two frames (its issue 781); those are never reordered."""
        if not self._muxed and len(packets) <= 2:
            for packet in packets:
                packet.dts = packet.pts
        return packets

    def mux(self, packet: Any) -> None:
        """Write a packet of another stream of `container`, interleaved by time. Raises OutputError."""
        with self._errors():
            self.container.mux(packet)

    def close(self) -> None:
        """Flush the encoder, write what the container has at its end, close. Raises OutputError."""
        try:
            with self._errors():
                self._mux_video(self._sane_times(self.stream.encode(None)))
                if self._last is not None and (packet := self._last.finish()) is not None:
                    self._mux_one(packet)
                if self.before_video is not None:
                    self.before_video(None)
                self.container.close()
                self._file.close()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up; see `VideoWriter.abort`."""
        self._file.kill()
        for closing in (getattr(self, "container", None), self._file):
            try:
                if closing is not None:
                    closing.close()
            except (av.error.FFmpegError, OSError, ValueError):
                pass

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
            if self._file.failure is not None:  # FFmpeg may not say
                raise self._file.failure
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise OutputError(f"cannot write {self._file.label!r}: {reason(error)}") from error


class _LastPacket:
    """Holds back the last packet in decoding order, to give it the duration with which the track ends when it should.

    MP4 and MOV store decoding times only: a track ends a packet's duration after the last one. Where pictures are
    reordered that packet is not the last picture shown, and its own duration ends the track too early or too late.
    """

    def __init__(self) -> None:
        self._held: Any = None
        self._first_pts = self._first_dts = self._end = 0

    def replace(self, packet: Any) -> Any:
        """Hold `packet`; the one before it, or None."""
        if packet.pts is not None and packet.dts is not None:
            if self._held is None:
                self._first_pts, self._first_dts, self._end = packet.pts, packet.dts, packet.pts
            self._first_pts = min(self._first_pts, packet.pts)
            self._end = max(self._end, packet.pts + (packet.duration or 0))
        before, self._held = self._held, packet
        return before

    def finish(self) -> Any:
        """The packet that is held, its duration set; None if there were none."""
        packet = self._held
        if packet is not None and packet.duration and packet.dts is not None:
            shown, decoded = self._end - self._first_pts, packet.dts - self._first_dts
            if shown > decoded:
                packet.duration = shown - decoded
        return packet


@contextmanager
def _quiet_svt() -> Iterator[None]:
    """SVT-AV1 prints a banner to stderr unless this variable says otherwise while it opens."""
    before = os.environ.get("SVT_LOG")
    os.environ["SVT_LOG"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("SVT_LOG", None)  # another thread may have been faster
