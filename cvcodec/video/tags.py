"""Which tags a container keeps, found by trying: FFmpeg's muxers leave out those that they do not know, without a word.

Knows no sources and no other streams.
"""

import io
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import av

KEEP_ALL = "use_metadata_tags"
"""The flag (`movflags`) with which MP4 and MOV keep tags of any name, in the form of Apple's `mdta` keys."""


def of_content(tags: Mapping[str, str]) -> dict[str, str]:
    """Without those that describe how a stream is stored."""
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in ("encoder", "alpha_mode") and not key.startswith(("BPS", "NUMBER_OF_", "_STATISTICS"))
    }


def lost_tags(container: str, tags: Mapping[str, str], *, of_stream: bool = False) -> list[str]:
    """The names of those `tags`, of the whole file or of a stream, that a file of `container` does not keep."""
    if not tags:
        return []
    buffer = io.BytesIO()
    output: Any = av.open(buffer, "w", format=container)
    with output:
        stream = output.add_mux_stream("vp8" if container == "webm" else "mpeg4", width=16, height=16)
        stream.time_base = Fraction(1, 25)
        (stream if of_stream else output).metadata.update(tags)
        packet: Any = av.Packet(bytes(16))
        packet.pts = packet.dts = 0
        packet.duration, packet.time_base, packet.is_keyframe, packet.stream = 1, stream.time_base, True, stream
        output.mux(packet)
    with av.open(io.BytesIO(buffer.getvalue()), metadata_errors="replace") as container_read:
        kept = dict((container_read.streams[0] if of_stream else container_read).metadata)
    return list(_lost(tags, kept))


def _lost(tags: Mapping[str, str], kept: Mapping[str, str]) -> Iterator[str]:
    names, values = {name.lower() for name in kept}, set(kept.values())  # `title` of a stream is `name` in MP4
    for name, value in tags.items():
        if name.lower() not in names and value not in values:
            yield name
