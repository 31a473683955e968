"""Sources and readers of results made with PyAV alone, so that nothing is checked against our own reader or writer."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[Any]


def noise(count: int, height: int, width: int, *, bit_depth: int = 8, seed: int = 0) -> list[Picture]:
    """Random pictures (H, W, 3): nothing about them can be guessed from their neighbours."""
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    return [rng.integers(0, 2**bit_depth, (height, width, 3)).astype(dtype) for _ in range(count)]


def smooth(count: int, height: int, width: int) -> list[Picture]:
    """Waves that drift, as easy to code as real video."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [[127.5 + 80 * np.sin(x / (9.0 + c) + y / 13.0 + t / (5.0 + c)) for c in range(3)] for t in range(count)]
    return [np.rint(np.stack(frame, -1)).astype(np.uint8) for frame in planes]


def write_rgb(
    target: Any,
    pictures: Iterable[Picture],
    *,
    bit_depth: int = 8,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    container: str = "nut",
    rate: Fraction = Fraction(25),
    codec: str = "ffv1",
) -> None:
    """Lossless RGB video (FFV1; `rawvideo` is of any size). NUT keeps any time base, Matroska counts milliseconds."""
    pixel_format = "bgr0" if bit_depth == 8 else f"gbrp{bit_depth}le"
    with av.open(target, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=rate, options={"level": "3"} if codec == "ffv1" else {})
        stream.pix_fmt, stream.codec_context.time_base = pixel_format, time_base
        for number, picture in enumerate(pictures):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            if bit_depth == 8:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
            else:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=pixel_format)
            frame.pts, frame.time_base = number if pts is None else pts[number], time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@dataclass(frozen=True)
class Shown:
    """One frame of a result."""

    pixels: Picture
    time: Fraction
    """Seconds."""
    duration: Fraction
    """Seconds; 0 where the container does not say."""


def read_rgb(source: Any) -> list[Shown]:
    """The frames of a lossless RGB file: FFV1 as `bgr0` or `gbrp10le`, PNG."""
    with av.open(source) as container:
        stream = container.streams.video[0]
        base = Fraction(stream.time_base or 1)
        frames = []
        for frame in container.decode(stream):
            name = frame.format.name
            pixels = (
                frame.to_ndarray() if name.startswith(("gbrp", "rgb")) else frame.reformat(format="rgb24").to_ndarray()
            )
            frames.append(Shown(pixels, (frame.pts or 0) * base, (frame.duration or 0) * base))
        return frames


def times_of(path: Path | str) -> list[Fraction]:
    """Presentation times in seconds, in order."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        base = Fraction(stream.time_base or 1)
        return sorted((frame.pts or 0) * base for frame in container.decode(stream))


class Watched(io.BytesIO):
    """A file that remembers which of its bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.touched: set[int] = set()

    def read(self, size: int | None = -1, /) -> bytes:
        start = self.tell()
        data = super().read(size)
        self.touched.update(range(start, start + len(data)))
        return data


class Pipe(io.RawIOBase):
    """Bytes that can be read once, in small pieces, and not sought."""

    def __init__(self, data: bytes, piece: int = 1000) -> None:
        self._inner, self._piece = io.BytesIO(data), piece

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(self._piece if size < 0 else min(size, self._piece))


class Sink(io.RawIOBase):
    """A pipe to write into: keeps what came, cannot be sought."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)
