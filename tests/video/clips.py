"""Frames that tests write and read."""

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from cvcodec.video import Color, Frame, VideoReader, VideoWriter

BASE = Fraction(1, 30000)


def read(source: Any, **options: Any) -> list[Frame]:
    with VideoReader(source, **options) as reader:
        return list(reader)


def same(one: list[Frame], other: list[Frame]) -> bool:
    return len(one) == len(other) and all(
        a.pts == b.pts and a.duration == b.duration and np.array_equal(a.pixels, b.pixels)
        for a, b in zip(one, other, strict=True)
    )


def pictures(width: int, height: int, count: int, bits: int = 8, *, pts: list[int] | None = None) -> list[Frame]:
    y, x = np.mgrid[0:height, 0:width]
    frames = []
    for index in range(count):
        phases = np.stack([x + index, y - 2 * index, x + y + 3 * index], -1) / 11
        pixels = ((128 + 90 * np.sin(phases)) * (1 << (bits - 8))).astype(np.uint8 if bits == 8 else np.uint16)
        time = index * 1001 if pts is None else pts[index]
        following = time + 1001 if pts is None or index + 1 == len(pts) else pts[index + 1]
        frames.append(Frame(pixels, time, following - time, bits))
    return frames


def write(target: Any, frames: list[Frame], **options: Any) -> list[str]:
    first = frames[0]
    described = {"width": first.width, "height": first.height, "bit_depth": first.bit_depth, "time_base": BASE,
                 "color": Color("bt709"), "rate": Fraction(30000, 1001)}  # fmt: skip
    with VideoWriter(target, **(described | options)) as writer:
        for frame in frames:
            writer.write(frame)
    return writer.notices


def psnr(one: Frame, other: Frame) -> float:
    error = float(np.mean((one.pixels.astype(np.float64) - other.pixels) ** 2))
    return 10 * np.log10(((1 << one.bit_depth) - 1) ** 2 / max(error, 1e-9))


def filtered_bytes(path: Any, filters: str) -> int:
    """Bytes of a video stream's packets behind FFmpeg's bitstream filters."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = BitStreamFilterContext(filters, stream)
        size = sum(after.size for packet in container.demux(stream) if packet.size for after in context.filter(packet))
        return size + sum(after.size for after in context.filter(None))
