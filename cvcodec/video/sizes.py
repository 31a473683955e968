"""What a video file holds, counted from its packets: bytes, frames, seconds. Knows no codecs.

The bytes of a video are those that its pictures need, whoever encoded it and wherever the container keeps them:
packets without user data (see `units`), and parameter sets once where no packet holds them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.error

from cvcodec.errors import InputError
from cvcodec.video.libav import as_fraction, reason
from cvcodec.video.source import Source, is_sequence, numbered, sequence_files
from cvcodec.video.timestamps import Timeline
from cvcodec.video.units import PictureBytes


class StreamBytes(NamedTuple):
    """One video stream and the rest of its file, container overhead left out."""

    video: int
    """Bytes of the video stream that its pictures need."""
    others: int
    """Bytes of the packets of all other streams."""
    frames: int | None
    """As the container says, or one for each packet."""
    duration: Fraction | None
    """Seconds: the stream's own where the container says so, or from the first packet to the end of the last. None
    where neither has times."""
    last: Fraction | None
    """When the last frame is shown, in seconds on the container's clock."""
    user_data: int = 0
    """Bytes of the video stream's packets beside `video`."""


def stream_bytes(path: str | os.PathLike[str], *, stream: int | None = None) -> StreamBytes:
    """Count the packets of a file. stream: number among the real video streams, None for the first.

    Still images are one packet, the whole file; a numbered sequence is all of its files. Damage ends the count, as it
    ends decoding. Raises InputError, and UsageError as `number_in`.
    """
    name = os.fspath(path)
    if is_sequence(name):
        first, count = sequence_files(name)
        size = sum(os.path.getsize(numbered(name, number)) for number in range(first, first + count))
        return StreamBytes(size, 0, count, None, None)
    video, others, frames = 0, 0, 0
    begin: int | None = None
    last = end = 0
    with Source(name) as source, source.open() as container:
        real = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        chosen = real[stream or 0] if (stream or 0) < len(real) else None
        needed = _counter(chosen)
        timeline = Timeline(-1 if chosen is None else chosen.index, lambda _: None)
        for packet in timeline.mended(packets(container, source.name)):
            if chosen is None or packet.stream.index != chosen.index:
                others += packet.size
                continue
            video += packet.size
            needed.add(bytes(packet))
            if packet.is_discard:  # outside the edit list of an MP4
                continue
            frames += 1
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                if begin is None:
                    begin = last = end = time
                begin, last, end = min(begin, time), max(last, time), max(end, time + (packet.duration or 0))
        if chosen is None:
            return StreamBytes(0, others, None, None, None)
        base = as_fraction(chosen.time_base) or Fraction(1, 1000)
        duration = None
        if chosen.duration and not timeline.joints:
            duration = chosen.duration * base
        elif begin is not None:
            # A last packet of unknown length is as long as the others.
            span = Fraction(end - begin) if end > last or frames < 2 else Fraction(last - begin, frames - 1) * frames
            duration = span * base or None
        return StreamBytes(
            video - needed.user_data + needed.headers,
            others,
            chosen.frames or frames or None,
            duration,
            None if begin is None else last * base,
            needed.user_data,
        )


def _counter(stream: Any) -> PictureBytes:
    context = None if stream is None else stream.codec_context
    if context is None:  # no decoder for it, or no stream
        return PictureBytes("", b"")
    return PictureBytes(context.codec.canonical_name, context.extradata or b"")


def packets(container: Any, name: str) -> Iterator[Any]:
    """The packets of all streams in file order, up to damage that ends reading. Raises InputError."""
    found = container.demux()
    while True:
        try:
            packet = next(found, None)
        except av.error.FFmpegError:
            return
        except OSError as error:
            raise InputError(f"cannot read {name!r}: {reason(error)}") from error
        if packet is None:
            return
        if packet.size:  # PyAV ends each stream with an empty one
            yield packet
