"""Codec parameters of a stream <-> bytes, by way of a container file of one packet.

PyAV makes an output stream only from another stream. So the parameters of a source stream are kept as a short file in a
public container format, which FFmpeg writes and reads itself; what that format loses is set again from `facts`. The
format is chosen by trying: the first that gives everything back.

Owns: this file, and raising the encoder delay in it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.error
from av.bitstream import BitStreamFilterContext
from av.container import Flags

from cvcodec.errors import BitstreamError
from cvcodec.passthrough.streams import CopiedPacket, CopiedStream
from cvcodec.video.libav import captured_log, reason
from cvcodec.video.metadata import element, elements
from cvcodec.video.source import codec_name

_FORMATS = {"audio": ("matroska", "mov", "mp4", "nut"), "subtitle": ("matroska", "mp4", "mov"), "data": ("mp4", "mov")}
_ERRORS = (av.error.FFmpegError, OSError, ValueError, IndexError, AssertionError)
_SETTABLE = {"layout": "layout", "sample_rate": "sample_rate", "sample_format": "format", "bit_rate": "bit_rate"}
_STAND_INS = {"audio": ("pcm_s16le", "aac", "opus"), "subtitle": ("subrip", "mov_text", "webvtt")}
"""Codecs that one format or the other takes; their parameters are overwritten."""
_COMPARED = ("codec", "sample_rate", "frame_size", "delay", "width", "height")


def facts_of(stream: Any) -> dict[str, Any]:
    """Codec parameters of a PyAV stream, as far as PyAV tells; JSON types, absent where unknown."""
    context = stream.codec_context
    if context is None:  # no decoder
        return {"codec": codec_name(stream)}
    values: dict[str, Any] = {"codec": context.codec.canonical_name}
    if stream.type == "audio":
        values |= {
            "sample_rate": context.sample_rate,
            "layout": context.layout.name,
            "sample_format": context.format.name if context.format else None,
            "frame_size": context.frame_size,
            "delay": context.delay,
        }
    elif stream.type == "video":
        values |= {"width": context.width, "height": context.height}
    values["bit_rate"] = context.bit_rate
    return {key: value for key, value in values.items() if value}


class Carrier(NamedTuple):
    """A container file with the parameters of one stream. lost: how many of them it does not give back."""

    format: str
    data: bytes
    lost: int


def make_carrier(stream: Any, extradata: bytes, first: CopiedPacket | None = None) -> Carrier | None:
    """What `template` opens, for the PyAV stream `stream`; None where FFmpeg has no way to carry its parameters.
    first: the stream's first packet; without it some formats lose something."""
    wanted = facts_of(stream)
    best: Carrier | None = None
    for name in _FORMATS[stream.type]:
        try:
            with captured_log():
                data = _write(name, stream, extradata, first)
                with _open(name, data) as container:
                    found = facts_of(container.streams[0])
        except _ERRORS:
            continue
        if found.get("codec") != wanted["codec"]:
            continue
        lost = sum(wanted.get(key) != found.get(key) for key in _COMPARED)
        if best is None or lost < best.lost:
            best = Carrier(name, data, lost)
        if not lost:
            break
    return best


def _write(name: str, stream: Any, extradata: bytes, first: CopiedPacket | None) -> bytes:
    buffer = io.BytesIO()
    output: Any = av.open(buffer, "w", format=name)
    with output:
        output.flags |= Flags.bitexact.value  # no random numbers, no version: the same stream gives the same bytes

        def add_extradata(context: Any) -> None:
            if extradata:
                context.extradata = extradata

        copy = add_copy(output, stream, add_extradata)
        packet = av.Packet(first.data if first is not None else bytes(16 if stream.type == "audio" else 2))
        packet.pts = packet.dts = 0
        packet.duration = max(1, first.duration) if first is not None else 1
        packet.time_base = stream.time_base
        packet.is_keyframe = True
        packet.stream = copy
        output.mux(packet)
    return buffer.getvalue()


def add_copy(output: Any, template: Any, adjust: Callable[[Any], None]) -> Any:
    """An output stream with the parameters of PyAV stream `template`. adjust: may change its codec context, where it
    has one. ValueError where the format surely has no such codec; the muxer has its say when it writes the header."""
    if template.codec_context is not None or template.type == "data":
        with suppress(ValueError):  # PyAV's list of what a format holds is narrower than what the muxer takes
            copy = output.add_stream_from_template(template, opaque=True)
            if copy.codec_context is not None:
                adjust(copy.codec_context)
            return copy
    for name in _STAND_INS.get(template.type, ()):
        try:
            copy = output.add_mux_stream(name)
        except ValueError:
            continue
        if template.codec_context is None:
            _copy_parameters(template, copy)
            return copy
        with av.open(io.BytesIO(), "w", format="data") as scratch:  # holds any codec; without the source's codec tag
            adjusted: Any = scratch.add_stream_from_template(template, opaque=True)
            adjust(adjusted.codec_context)
            scratch.start_encoding()
            _copy_parameters(adjusted, copy)
        return copy
    raise ValueError("no such codec in this format")


def _copy_parameters(source: Any, target: Any) -> None:
    """All codec parameters of a stream, over those of another: what a bitstream filter does when it is made."""
    BitStreamFilterContext("null", in_stream=source, out_stream=target)


def _open(name: str, data: bytes) -> Any:
    return av.open(io.BytesIO(data), "r", format=name, metadata_errors="replace")


@contextmanager
def template(stream: CopiedStream, *, delay: int | None = None) -> Iterator[Any]:
    """A PyAV stream with the parameters of `stream`, for `OutputContainer.add_stream_from_template`.

    delay: samples of encoder delay to claim instead of what the source said, where the carrier can say it.
    Raises BitstreamError where the carrier is not what it should be."""
    what = f"parameters of copied stream {stream.index}"
    if stream.carrier not in _FORMATS.get(stream.kind, ()):
        raise BitstreamError(f"{what} come in {stream.carrier!r}, unknown to this release")
    data = stream.parameters
    try:
        if delay is not None and stream.carrier == "matroska":
            data = _with_delay(data, round(Fraction(delay * 10**9, stream.facts["sample_rate"])))
        with captured_log():
            container = _open(stream.carrier, data)
    except (*_ERRORS, KeyError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise BitstreamError(f"{what} cannot be read: {reason(error)}") from error
    with container:
        found = [(copy.type, facts_of(copy)["codec"]) for copy in container.streams]
        if found != [(stream.kind, stream.codec)]:
            raise BitstreamError(f"{what} are of {found}, wanted {stream.kind} {stream.codec}")
        yield container.streams[0]


def set_facts(context: Any, stream: CopiedStream) -> None:
    """Give the codec context of an output stream made from `template` what the carrier has lost. Raises
    BitstreamError."""
    try:
        if stream.extradata or context.extradata:
            context.extradata = stream.extradata or None
        for fact, name in _SETTABLE.items():
            if stream.kind == "audio" and stream.facts.get(fact):
                setattr(context, name, stream.facts[fact])
    except (*_ERRORS, TypeError, OverflowError) as error:
        raise BitstreamError(f"parameters of copied stream {stream.index} are impossible: {reason(error)}") from error


# Matroska elements, RFC 9559: the element ids with their length markers.
_SEGMENT, _INFO, _TRACKS, _CLUSTER = 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
_TRACK_ENTRY, _CODEC_DELAY = 0xAE, 0x56AA


def _with_delay(data: bytes, nanoseconds: int) -> bytes:
    """A Matroska file of one track with another CodecDelay; what a reader does not need is left out."""
    parts = []
    for identifier, content in elements(data):
        if identifier != _SEGMENT:
            parts.append(element(identifier, content))
            continue
        segment = []
        for name, inner in elements(content):
            if name == _TRACKS:
                entries = [
                    b"".join(element(key, value) for key, value in elements(entry) if key != _CODEC_DELAY)
                    + element(_CODEC_DELAY, nanoseconds.to_bytes(8, "big"))
                    for kind, entry in elements(inner)
                    if kind == _TRACK_ENTRY
                ]
                inner = b"".join(element(_TRACK_ENTRY, entry) for entry in entries)
            if name in (_INFO, _TRACKS, _CLUSTER):
                segment.append(element(name, inner))
        parts.append(element(_SEGMENT, b"".join(segment)))
    return b"".join(parts)
