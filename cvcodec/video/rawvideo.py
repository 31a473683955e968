"""Frames -> uncompressed streams for pipes: y4m (YUV4MPEG2) and raw RGB. Constant rate or none; times are not stored.

y4m: 4:2:0 at even sizes and 4:4:4 at odd ones unless asked otherwise, chroma sited "left" (`C420mpeg2`), bit depths
above 8 as `C420p10` and so on, little-endian, range in `XCOLORRANGE`. raw: packed RGB, 8 bits or 16-bit
little-endian with right-aligned code values, rows without padding, nothing else.
"""

import contextlib
import os
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from cvcodec.errors import OutputError, UsageError
from cvcodec.video.color import guess_matrix
from cvcodec.video.convert import RgbWriter, planes
from cvcodec.video.encoders import reduced_chroma
from cvcodec.video.frame import Frame
from cvcodec.video.libav import reason
from cvcodec.video.sink import OutputFile, OutputSpec

_DEFAULT_RATE = Fraction(25)


class _StreamSink:
    """Bytes to a file or pipe."""

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, label: str | None = None) -> None:
        self.notices: list[str] = []
        self._file = OutputFile(target, label)

    def _put(self, *blocks: Any) -> None:
        try:
            for block in blocks:
                self._file.write(block)
        except OSError as error:
            raise OutputError(f"cannot write {self._file.label!r}: {reason(error)}") from error

    def close(self) -> None:
        """Flush and close. Raises OutputError."""
        try:
            self._file.close()
        except OSError as error:
            raise OutputError(f"cannot write {self._file.label!r}: {reason(error)}") from error

    def abort(self) -> None:
        """Write nothing more."""
        self._file.kill()
        with contextlib.suppress(OSError):
            self._file.close()


class RawSink(_StreamSink):
    """Packed RGB, see the module docstring."""

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, spec: OutputSpec, label: str | None = None) -> None:
        super().__init__(target, label)
        del spec

    def write(self, frame: Frame) -> None:
        """Append the pixels. Raises OutputError."""
        dtype = "u1" if frame.bit_depth == 8 else "<u2"
        self._put(np.ascontiguousarray(frame.pixels, dtype).reshape(-1).view(np.uint8))


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
            self._put(self._header)
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
        self._put(
            b"FRAME\n",
            *(np.ascontiguousarray(plane).reshape(-1).view(np.uint8) for plane in planes(picture, self._dtype)),
        )
