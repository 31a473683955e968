"""The kinds of output without encoder and container, and what every kind shares: its stream's description, its file.

y4m (YUV4MPEG2): constant rate, times are not stored; 4:2:0 at even sizes and 4:4:4 at odd ones unless asked otherwise,
chroma sited "left" (`C420mpeg2`), bit depths above 8 as `C420p10` and so on, little-endian, range in `XCOLORRANGE`.
raw: packed RGB, 8 bits or 16-bit little-endian with right-aligned code values, rows without padding, nothing else.

Images: one PNG, JPEG or WebP, or a numbered sequence of them. PNG and WebP hold 8-bit RGB exactly. Above 8 bits PNG is
written at 16, code values stretched so that white is 65535; JPEG and WebP are reduced to 8 bits. Files of a sequence
appear one by one, each complete; `abort` removes those of this run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import av
import av.error
import numpy as np

from cvcodec.errors import OutputError, UsageError
from cvcodec.fileio import replacing
from cvcodec.video.color import Color, ContentLight, MasteringDisplay, guess_matrix
from cvcodec.video.convert import RgbWriter, planes
from cvcodec.video.encoders import reduced_chroma
from cvcodec.video.frame import Frame
from cvcodec.video.libav import reason
from cvcodec.video.source import SEQUENCE_PATTERN, number_in, numbered


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """The stream to write; fields as in `VideoWriter`."""

    width: int
    height: int
    bit_depth: int
    time_base: Fraction
    color: Color
    rate: Fraction | None
    sample_aspect_ratio: Fraction
    rotation: int
    display_matrix: tuple[int, ...] | None
    mastering_display: MasteringDisplay | None
    content_light: ContentLight | None
    source_chroma: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Sink(Protocol):
    """One kind of output. `close` finishes it, `abort` gives it up and never raises."""

    notices: list[str]

    def write(self, frame: Frame) -> None:
        """Append a frame, whose pts is larger than that of the one before."""

    def close(self) -> None:
        """Write what encoder and muxer still hold, and the end of the file."""

    def abort(self) -> None:
        """Close without finishing; what has been written is no use. Never raises."""


class OutputFile:
    """A binary file to write to: a path, opened and closed here, or a file object, which stays open.

    After `kill`, and after an error, writes are swallowed: a half-written container cannot be given an ending, and
    FFmpeg, which goes on after an error, meets with one only (PyAV prints any further one)."""

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, label: str | None = None) -> None:
        """label: what messages call it; None for the path, or the object's name."""
        self.label = label or (
            os.fspath(target) if isinstance(target, (str, os.PathLike)) else str(getattr(target, "name", "stream"))
        )
        self._owned = isinstance(target, (str, os.PathLike))
        self._dead = False
        self.failure: OSError | None = None
        """The error that has ended the writing."""
        self._raw: Any = target
        if isinstance(target, (str, os.PathLike)):
            try:
                self._raw = open(target, "wb")  # noqa: SIM115
            except OSError as error:
                raise OutputError(f"cannot write {self.label!r}: {reason(error)}") from error
        elif not hasattr(target, "write"):
            raise OutputError(f"cannot write video to {type(target).__name__}; wanted a path or a binary file object")
        if self.seekable():
            self.seek, self.tell = self._seek, self._raw.tell

    def writable(self) -> bool:
        """Always: PyAV asks."""
        return True

    def seekable(self) -> bool:
        """Whether FFmpeg may go back, to write an index into its place."""
        seekable = getattr(self._raw, "seekable", None)
        return bool(seekable()) if callable(seekable) else hasattr(self._raw, "seek")

    def write(self, data: Any) -> int:
        """All of `data`, however many writes a pipe makes of it."""
        view = memoryview(data)
        if not self._dead:
            done = 0
            with self._failing_once():
                while done < len(view):
                    count = self._raw.write(view[done:])
                    done += len(view) - done if count is None else count
        return len(view)

    def _seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._dead:
            return offset
        with self._failing_once():  # what a buffer holds is written first
            position: int = self._raw.seek(offset, whence)
        return position

    @contextmanager
    def _failing_once(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            self.kill()
            raise

    def put(self, *blocks: Any) -> None:
        """`write` what is not FFmpeg's. Raises OutputError."""
        with self._named():
            for block in blocks:
                self.write(block)

    def finish(self) -> None:
        """`close`, with OutputError for what goes wrong then."""
        with self._named():
            self.close()

    def abort(self) -> None:
        """Write nothing more, and close."""
        self.kill()
        self.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"cannot write {self.label!r}: {reason(error)}") from error

    def kill(self) -> None:
        """Swallow all further writes: what is half written is given up."""
        self._dead = True

    def close(self) -> None:
        """Flush, and close what was opened here. After an error that is a formality, which raises no other."""
        with suppress(OSError) if self._dead else nullcontext():
            if self._owned:
                self._raw.close()
            elif not self._dead and hasattr(self._raw, "flush"):
                self._raw.flush()


_DEFAULT_RATE = Fraction(25)


class _StreamSink:
    """Bytes to a file or pipe."""

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, label: str | None = None) -> None:
        self.notices: list[str] = []
        self._file = OutputFile(target, label)
        self.close, self.abort = self._file.finish, self._file.abort


class RawSink(_StreamSink):
    """Packed RGB, see the module docstring."""

    def write(self, frame: Frame) -> None:
        """Append the pixels. Raises OutputError."""
        dtype = "u1" if frame.bit_depth == 8 else "<u2"
        self._file.put(np.ascontiguousarray(frame.pixels, dtype).reshape(-1).view(np.uint8))


class Y4mSink(_StreamSink):
    """YUV4MPEG2, see the module docstring. chroma: `420`, `422`, `444` or None."""

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        spec: OutputSpec,
        chroma: str | None,
        label: str | None = None,
    ) -> None:
        odd = spec.width % 2 == 1 or spec.height % 2 == 1
        reduced = chroma is None and not odd and spec.source_chroma in ("422", "444")
        chroma = chroma or ("444" if odd else "420")
        if chroma not in ("420", "422", "444"):
            raise UsageError(f"chroma format {chroma!r} is not one of 420, 422, 444")
        depth = next(d for d in (8, 9, 10, 12, 14, 16) if d >= spec.bit_depth)
        self._dtype: type[np.uint8] | type[np.uint16] = np.uint8 if depth == 8 else np.uint16
        self._convert = RgbWriter(
            spec.width, spec.height, spec.bit_depth, f"yuv{chroma}p" + ("" if depth == 8 else f"{depth}le"), spec.color
        )
        super().__init__(target, label)
        color = self._convert.frame_color
        if odd and chroma == "444":
            self.notices.append(f"odd size {spec.width}x{spec.height} is stored as 4:4:4")
        if reduced and spec.source_chroma is not None:
            self.notices.append(reduced_chroma(spec.source_chroma, f"--chroma {spec.source_chroma}"))
        if color.matrix != guess_matrix(spec.width, spec.height):
            self.notices.append(f"y4m does not name its colour matrix: readers must be told that it is {color.matrix}")
        if depth == 8:
            tag = {"420": "420mpeg2 XYSCSS=420MPEG2", "422": "422 XYSCSS=422", "444": "444 XYSCSS=444"}[chroma]
        else:
            tag = f"{chroma}p{depth} XYSCSS={chroma}P{depth}"
        rate = (spec.rate or _DEFAULT_RATE).limit_denominator(1_000_000)
        self._step, self._next_time = 1 / rate, Fraction(0)
        self._time_base = spec.time_base
        self._first_pts: int | None = None
        ratio = spec.sample_aspect_ratio
        self._header: bytes | None = (
            f"YUV4MPEG2 W{spec.width} H{spec.height} F{rate.numerator}:{rate.denominator} Ip "
            f"A{ratio.numerator}:{ratio.denominator} C{tag} XCOLORRANGE={color.range.upper()}\n"
        ).encode()

    def write(self, frame: Frame) -> None:
        """Append the planes. Raises OutputError."""
        if self._header is not None:
            self._file.put(self._header)
            self._header, self._first_pts = None, frame.pts
        assert self._first_pts is not None
        if (
            abs((frame.pts - self._first_pts) * self._time_base - self._next_time) > self._step / 2
            and len(self.notices) < 8
        ):
            notice = "y4m has a constant frame rate: the varying times of the frames are lost"
            if notice not in self.notices:
                self.notices.append(notice)
        self._next_time += self._step
        picture = self._convert(frame.pixels)
        self._file.put(
            b"FRAME\n",
            *(np.ascontiguousarray(plane).reshape(-1).view(np.uint8) for plane in planes(picture, self._dtype)),
        )


class ImageSink:
    """See `VideoWriter` for the arguments; kind: `png`, `jpeg` or `webp`."""

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        spec: OutputSpec,
        kind: str,
        *,
        start_number: int,
        label: str | None = None,
    ) -> None:
        self.notices: list[str] = []
        self._kind, self._number = kind, start_number
        self._pattern: Path | None = None
        self._file: OutputFile | None = None
        self._written: list[Path] = []
        if isinstance(target, (str, os.PathLike)) and SEQUENCE_PATTERN.search(Path(target).name):
            number_in(Path(target).name)  # refuses what is no pattern, before anything is written
            self._pattern = Path(target)
        else:
            self._file = OutputFile(target, label)
        self._frames = 0
        self._encode = self._encoder(spec)
        if spec.bit_depth > 8 and kind != "png":
            self.notices.append(f"{kind} holds 8 bits: {spec.bit_depth}-bit pixels are reduced; png keeps them")

    def _encoder(self, spec: OutputSpec) -> Callable[[Frame], bytes]:
        if self._kind == "jpeg":
            # Depth first, matrix second: JPEG has a matrix of its own, and white must be 255 before it applies.
            to_rgb = RgbWriter(spec.width, spec.height, spec.bit_depth, "rgb24", spec.color)
            to_yuv = RgbWriter(
                spec.width, spec.height, 8, "yuvj444p", replace(spec.color, matrix="bt470bg", range="full")
            )
            options = {"qmin": "1", "qmax": "1", "strict": "unofficial"}

            def jpeg(frame: Frame) -> bytes:
                pixels = frame.pixels if frame.bit_depth == 8 else to_rgb(frame.pixels).to_ndarray()
                picture = to_yuv(pixels)
                picture.color_range = 2
                return rgb_to_packet("mjpeg", "yuvj444p", picture, options)

            return jpeg
        if self._kind == "webp":
            convert = RgbWriter(spec.width, spec.height, spec.bit_depth, "bgra", spec.color)
            return lambda frame: rgb_to_packet("libwebp", "bgra", convert(frame.pixels), {"lossless": "1"})
        if spec.bit_depth == 8:
            convert = RgbWriter(spec.width, spec.height, 8, "rgb24", spec.color)
            return lambda frame: rgb_to_packet("png", "rgb24", convert(frame.pixels), {"pred": "mixed"})
        convert = RgbWriter(spec.width, spec.height, spec.bit_depth, "rgb48be", spec.color)
        return lambda frame: rgb_to_packet("png", "rgb48be", convert(frame.pixels), {"pred": "mixed"})

    def write(self, frame: Frame) -> None:
        """Write one image. Raises OutputError, also for a second frame where the target is a single image."""
        self._frames += 1
        if self._file is not None:
            if self._frames > 1:
                raise OutputError(
                    f"{self._file.label!r} holds one picture; "
                    f"name a sequence such as 'frames/%05d.{self._kind}' for more"
                )
            self._file.put(self._encode(frame))
            return
        assert self._pattern is not None
        path = Path(numbered(str(self._pattern), self._number))
        try:
            with replacing(path) as file:
                file.write(self._encode(frame))
        except OSError as error:
            raise OutputError(f"cannot write {str(path)!r}: {reason(error)}") from error
        self._written.append(path)
        self._number += 1

    def close(self) -> None:
        """Close the file. Raises OutputError."""
        if self._file is not None:
            self._file.finish()

    def abort(self) -> None:
        """Close; remove the images of a sequence that this run has written."""
        if self._file is not None:
            self._file.abort()
        for path in self._written:
            with suppress(OSError):
                path.unlink(missing_ok=True)


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
