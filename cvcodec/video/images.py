"""Frames -> still images: one PNG, JPEG or WebP, or a numbered sequence of them.

PNG and WebP hold 8-bit RGB exactly. Above 8 bits PNG is written at 16, code values stretched so that white is 65535;
JPEG and WebP are reduced to 8 bits. Files of a sequence appear one by one, each complete; `abort` removes those of
this run.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from cvcodec.errors import OutputError
from cvcodec.fileio import replacing
from cvcodec.video.container_sink import rgb_to_packet
from cvcodec.video.convert import RgbWriter
from cvcodec.video.frame import Frame
from cvcodec.video.libav import reason
from cvcodec.video.sink import OutputFile, OutputSpec
from cvcodec.video.source import SEQUENCE_PATTERN, number_in, numbered


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
            data = self._encode(frame)
            try:
                self._file.write(data)
            except OSError as error:
                raise OutputError(f"cannot write {self._file.label!r}: {reason(error)}") from error
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
            try:
                self._file.close()
            except OSError as error:
                raise OutputError(f"cannot write {self._file.label!r}: {reason(error)}") from error

    def abort(self) -> None:
        """Close; remove the images of a sequence that this run has written."""
        if self._file is not None:
            self._file.kill()
            self._file.close()
        for path in self._written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
