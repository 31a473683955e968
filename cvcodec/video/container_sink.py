"""Frames -> an encoded stream in MP4, MOV, Matroska or WebM. Open to other streams of the same container.

The header is written with the first packet, so that streams can be added to `container` until the first `write` or
`mux`. Whoever adds some sets `before_video`, and muxes their packets when it is called.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.error

from cvcodec.errors import OutputError
from cvcodec.video import hdr
from cvcodec.video.convert import RgbWriter
from cvcodec.video.encoders import choose_pixel_format, color_tags, default_codec, encoder_named, encoder_options
from cvcodec.video.frame import Frame
from cvcodec.video.libav import captured_log, reason
from cvcodec.video.sink import OutputFile, OutputSpec
from cvcodec.video.tags import KEEP_ALL, lost_tags

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
            hdr.describe(stream, spec.mastering_display, spec.content_light)
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


def rgb_to_packet(codec: str, pixel_format: str, frame: av.VideoFrame, options: dict[str, str]) -> bytes:
    """One picture encoded alone: the bytes of an image file. Raises OutputError."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = frame.width, frame.height, pixel_format
    context.time_base = Fraction(1, 25)
    context.options = options
    context.color_range = int(frame.color_range)
    try:
        return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    except (av.error.FFmpegError, ValueError) as error:
        raise OutputError(f"{codec} cannot encode {frame.width}x{frame.height}: {reason(error)}") from error
