"""What a container says beside the pictures: tags, and HDR metadata of an encoded stream.

Tags that a container does not keep are found by trying: FFmpeg's muxers leave them out without a word. HDR metadata are
boxes of MP4 and MOV, elements of Matroska: encoders put them into the bitstream at most, many players look into the
container alone. PyAV has no way to say them, but takes a stream's parameters from another: here from a Matroska header
that is written for the purpose, in EBML (RFC 8794).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import av
from av.bitstream import BitStreamFilterContext

from cvcodec.video.color import ContentLight, MasteringDisplay

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


_CODEC_IDS = {
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "av1": "V_AV1",
    "vp9": "V_VP9",
    "ffv1": "V_FFV1",
}

# RFC 9559, 5.1: the elements' ids.
_EBML, _DOCTYPE, _SEGMENT, _INFO, _TIMESTAMP_SCALE = 0x1A45DFA3, 0x4282, 0x18538067, 0x1549A966, 0x2AD7B1
_TRACKS, _TRACK, _NUMBER, _UID, _TYPE, _CODEC_ID = 0x1654AE6B, 0xAE, 0xD7, 0x73C5, 0x83, 0x86
_CLUSTER, _TIMESTAMP = 0x1F43B675, 0xE7
_VIDEO, _WIDTH, _HEIGHT, _COLOUR, _MAX_CLL, _MAX_FALL, _MASTERING = 0xE0, 0xB0, 0xBA, 0x55B0, 0x55BC, 0x55BD, 0x55D0
_MASTERING_VALUES = range(0x55D1, 0x55DB)  # x and y of red, green, blue and white; most and least luminance


def describe(stream: Any, mastering: MasteringDisplay | None, light: ContentLight | None) -> None:
    """Have the container of an output stream say these; `mastering` is complete. Before anything else is set of the
    stream: its parameters begin anew."""
    if mastering is None and light is None:
        return
    header = _header(_CODEC_IDS[stream.codec_context.codec.canonical_name], mastering, light)
    with av.open(io.BytesIO(header), format="matroska") as source:
        BitStreamFilterContext("null", in_stream=source.streams[0], out_stream=stream)


def _header(codec: str, mastering: MasteringDisplay | None, light: ContentLight | None) -> bytes:
    """A Matroska file of one track without frames."""
    colour = b""
    if light is not None:
        colour += _number(_MAX_CLL, light.max_content) + _number(_MAX_FALL, light.max_frame_average)
    if mastering is not None:
        colour += element(_MASTERING, _mastering(mastering))
    video = element(_VIDEO, _number(_WIDTH, 16) + _number(_HEIGHT, 16) + element(_COLOUR, colour))
    track = _number(_NUMBER, 1) + _number(_UID, 1) + _number(_TYPE, 1) + element(_CODEC_ID, codec.encode()) + video
    segment = (
        element(_INFO, _number(_TIMESTAMP_SCALE, 1_000_000))
        + element(_TRACKS, element(_TRACK, track))
        + element(_CLUSTER, _number(_TIMESTAMP, 0))
    )
    return element(_EBML, element(_DOCTYPE, b"matroska")) + element(_SEGMENT, segment)


def _mastering(display: MasteringDisplay) -> bytes:
    values = [value for point in (display.red, display.green, display.blue, display.white) for value in point or ()]
    limits = [value for value in (display.max_luminance, display.min_luminance) if value is not None]
    return b"".join(_float(key, value) for key, value in zip(_MASTERING_VALUES, [*values, *limits], strict=True))


def _number(identifier: int, value: int) -> bytes:
    return element(identifier, value.to_bytes(8, "big"))


def _float(identifier: int, value: Fraction) -> bytes:
    return element(identifier, struct.pack(">d", value))


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(id, content) of the EBML elements that `data` consists of (RFC 8794, 4 to 6). ValueError where it does not."""
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        identifier = int.from_bytes(data[at : at + length], "big")
        at += length
        if at >= len(data) or not data[at]:
            raise ValueError("an EBML element is cut")
        width = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
        at += width
        if size == (1 << 7 * width) - 1:  # unknown: to the end
            size = len(data) - at
        if at + size > len(data):
            raise ValueError("an EBML element is longer than its parent")
        yield identifier, data[at : at + size]
        at += size


def element(identifier: int, content: bytes) -> bytes:
    """The bytes of an element, its size in eight of them."""
    size = (len(content) | 1 << 56).to_bytes(8, "big")
    return identifier.to_bytes((identifier.bit_length() + 7) // 8, "big") + size + content
