"""Sources made with PyAV alone, so that what is read is compared with something that our writer did not make."""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest


class Unseekable(io.RawIOBase):
    """A pipe over bytes: reads come in small pieces, and nothing can go back."""

    def __init__(self, data: bytes, piece: int = 4096) -> None:
        self._inner, self._piece = io.BytesIO(data), piece

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(self._piece if size < 0 else min(size, self._piece))


class Sink(io.RawIOBase):
    """A pipe that collects what is written and cannot go back."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def plane_views(frame: av.VideoFrame) -> list[np.ndarray]:
    """(H, W) views of the planes of a planar frame; 16-bit words above 8 bits."""
    dtype = np.uint8 if max(c.bits for c in frame.format.components) <= 8 else np.uint16
    size = np.dtype(dtype).itemsize
    return [np.frombuffer(p, dtype).reshape(p.height, p.line_size // size)[:, : p.width] for p in frame.planes]


def moving(width: int, height: int, count: int, pixel_format: str = "yuv420p") -> list[av.VideoFrame]:
    """Frames that all differ: slanted ramps that move, inside the nominal range."""
    frames = []
    for index in range(count):
        frame = av.VideoFrame(width, height, pixel_format)
        bits = max(c.bits for c in frame.format.components)
        for number, view in enumerate(plane_views(frame)):
            y, x = np.mgrid[0 : view.shape[0], 0 : view.shape[1]]
            ramp = (x * (3 + number) + y * (5 - number) + index * 11) % 180 + 30
            view[...] = ramp << (bits - 8)
        frames.append(frame)
    return frames


def encode(
    target: Any,
    frames: Sequence[av.VideoFrame],
    *,
    codec: str = "libx264",
    container: str | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rate: Fraction = Fraction(25),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    setup: Callable[[Any, Any], None] | None = None,
) -> None:
    """Encode frames as they are; `setup(stream, container)` may set tags before anything is written."""
    output = av.open(target, "w", format=container, container_options=container_options or {})
    stream: Any = output.add_stream(codec, rate=rate, options=options or {}, time_base=time_base)
    stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
    if setup:
        setup(stream, output)
    times = range(len(frames)) if pts is None else pts
    for frame, time in zip(frames, times, strict=True):
        frame.pts, frame.time_base = time, time_base
        output.mux(stream.encode(frame))
    last = stream.encode(None)
    for packet in last:
        if len(frames) <= 2:  # x265 gives heap garbage as dts to so few (its issue 781); they are never reordered
            packet.dts = packet.pts
    output.mux(last)
    output.close()


def lossless(target: Any, frames: Sequence[av.VideoFrame], **arguments: Any) -> None:
    """`encode` with ffv1, so that samples arrive as they were made."""
    encode(target, frames, **({"codec": "ffv1", "container": "matroska"} | arguments))


@pytest.fixture(scope="session")
def make() -> Any:
    """The helpers of this module under one name: `make.moving(...)`, `make.encode(...)`, ..."""
    import types

    return types.SimpleNamespace(
        Sink=Sink, Unseekable=Unseekable, encode=encode, lossless=lossless, moving=moving, plane_views=plane_views
    )
