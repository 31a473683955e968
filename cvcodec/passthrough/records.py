"""Copied streams <-> the payloads of STRM, ATCH and PKTS records. All three types are optional.

STRM        at most once, before the first chunk
            sized block, at most 2**20 bytes: JSON
              "streams"           array; for each stream an object: "kind" ("audio", "subtitle", "data", "attachment" or
                                  "picture"), "codec" (FFmpeg's name), "index" (in the source), "time_base" [num, den],
                                  "carrier" (FFmpeg's name of a container format), "start" (pts of the first packet, or
                                  null), "disposition" (array of FFmpeg's names), "metadata" (object of strings),
                                  "facts" (object; see `CopiedStream`)
              "chapters"          array of {"start", "end", "time_base", "metadata"}
              "metadata", "video_metadata", "video_disposition": of the container, and of the encoded video stream
              Keys may be missing, others are ignored. At most 2**12 streams and 2**16 chapters.
            for each stream, two sized blocks, at most 2**24 bytes each: extradata, and the carrier file
ATCH        one for each stream of kind "attachment" or "picture", between STRM and the first chunk
            uvarint             number of the stream in STRM
            rest                its content
PKTS        packets of one stream, in file order; those of a stream are in order across records
            uvarint             number of the stream in STRM
            uvarint             n, number of packets, 1 to 2**20; with all their side data at most the bytes of the
                                payload (columns that compress too well for that are stored as they are)
            sized block, at most 2**26 bytes, of columns:
              n bytes             flags. Bit 0: keyframe. 1: corrupt. 2: no pts. 3: no dts. 4: has side data. Others: 0
              n svarints          pts less its prediction: the pts of the packet before plus its duration, 0 for the
                                  first; nothing for a packet without pts, whose successor keeps the prediction
              svarints            dts less pts, or less the prediction of the pts where there is none; nothing where
                                  there is no dts
              n svarints          duration less the duration of the packet before, less 0 for the first
              n uvarints          sizes
              for each packet with side data: uvarint, how many (1 to 64); for each a uvarint and so many bytes of name,
                                  a uvarint and so many bytes of content
            rest                data of all packets

The packets of a time before the first frame of a chunk precede that chunk, where the source had them in time.

Owns: these bytes and their limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.trailer import Trailer
from cvcodec.bitstream.wire import (
    Cursor,
    dump_json,
    load_json,
    put_sized_block,
    put_svarint,
    put_uvarint,
    take_sized_block,
)
from cvcodec.errors import BitstreamError
from cvcodec.passthrough.streams import KINDS, Chapter, CopiedContainer, CopiedPacket, CopiedStream

STREAMS, ATTACHMENT, PACKETS = "STRM", "ATCH", "PKTS"

COPIED_TYPES = (STREAMS, ATTACHMENT, PACKETS)
"""Types of the records that hold copied streams."""

MAX_STREAMS, MAX_CHAPTERS = 1 << 12, 1 << 16
MAX_PARAMETERS = 1 << 24
MAX_PACKETS, MAX_COLUMNS = 1 << 20, 1 << 26
_MAX_SIDE_DATA, _MAX_NAME = 64, 64
_MAX_TICK = 1 << 63
_NUMBERS = {"sample_rate", "bit_rate", "width", "height", "delay", "frame_size"}
_NAMES = {"layout", "sample_format"}

_KEYFRAME, _CORRUPT, _NO_PTS, _NO_DTS, _SIDE_DATA = 1, 2, 4, 8, 16


def copied_bytes(trailer: Trailer) -> int:
    """Bytes of a file that are copied streams, with framing: what bits per pixel leave out."""
    return sum(trailer.records[kind].size for kind in COPIED_TYPES if kind in trailer.records)


def pack_streams(container: CopiedContainer) -> bytes:
    """Payload of a STRM record. ValueError where texts or parameters are beyond the limits."""
    if len(container.streams) > MAX_STREAMS or len(container.chapters) > MAX_CHAPTERS:
        raise ValueError(f"{len(container.streams)} streams and {len(container.chapters)} chapters are too many")
    values = {
        "streams": [_stream_to_json(stream) for stream in container.streams],
        "chapters": [
            {
                "start": chapter.start,
                "end": chapter.end,
                "time_base": _ratio(chapter.time_base),
                "metadata": dict(chapter.metadata),
            }
            for chapter in container.chapters
        ],
        "metadata": dict(container.metadata),
        "video_metadata": dict(container.video_metadata),
        "video_disposition": list(container.video_disposition),
    }
    parts = [put_sized_block(dump_json({key: value for key, value in values.items() if value}))]
    for stream in container.streams:
        for data in (stream.extradata, stream.parameters):
            if len(data) > MAX_PARAMETERS:
                raise ValueError(f"parameters of stream {stream.index} take {len(data)} bytes, {MAX_PARAMETERS} fit")
            parts.append(put_sized_block(data))
    return b"".join(parts)


def unpack_streams(payload: bytes) -> CopiedContainer:
    """Inverse of `pack_streams`, without the content of attachments. BitstreamError for anything malformed."""
    cursor = Cursor(payload, "STRM record")
    values = load_json(take_sized_block(cursor, fmt.MAX_JSON, "JSON"), "STRM record")
    try:
        entries, chapters = values.get("streams", []), values.get("chapters", [])
        if len(entries) > MAX_STREAMS or len(chapters) > MAX_CHAPTERS:
            raise ValueError(f"{len(entries)} streams and {len(chapters)} chapters are too many")
        streams = []
        for entry in entries:
            extradata = take_sized_block(cursor, MAX_PARAMETERS, "extradata")
            streams.append(
                _stream_from_json(entry, extradata, take_sized_block(cursor, MAX_PARAMETERS, "stream parameters"))
            )
        container = CopiedContainer(
            streams=tuple(streams),
            chapters=tuple(
                Chapter(
                    start=_tick(chapter["start"]),
                    end=_tick(chapter["end"]),
                    time_base=_positive(chapter["time_base"]),
                    metadata=_texts(chapter.get("metadata", {})),
                )
                for chapter in chapters
            ),
            metadata=_texts(values.get("metadata", {})),
            video_metadata=_texts(values.get("video_metadata", {})),
            video_disposition=_names(values.get("video_disposition", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise BitstreamError(f"STRM record is malformed: {error!r}") from error
    cursor.end()
    return container


def pack_attachment(number: int, data: bytes) -> bytes:
    """Payload of an ATCH record: the content of stream `number`."""
    return put_uvarint(number) + data


def unpack_attachment(payload: bytes) -> tuple[int, bytes]:
    """Inverse of `pack_attachment`."""
    cursor = Cursor(payload, "ATCH record")
    return cursor.uvarint(MAX_STREAMS - 1, "stream"), cursor.rest()


def pack_packets(packets: Sequence[CopiedPacket]) -> bytes:
    """Payload of a PKTS record. ValueError unless all packets are of one stream."""
    number = packets[0].stream
    if not 1 <= len(packets) <= MAX_PACKETS or any(packet.stream != number for packet in packets):
        raise ValueError(f"a record holds 1 to {MAX_PACKETS} packets of one stream, got {len(packets)}")
    flags, pts, dts, durations, sizes, side_data = (bytearray() for _ in range(6))
    predicted = duration = 0
    for packet in packets:
        flags.append(
            (_KEYFRAME if packet.keyframe else 0)
            | (_CORRUPT if packet.corrupt else 0)
            | (_NO_PTS if packet.pts is None else 0)
            | (_NO_DTS if packet.dts is None else 0)
            | (_SIDE_DATA if packet.side_data else 0)
        )
        if packet.dts is not None:
            dts += put_svarint(packet.dts - (predicted if packet.pts is None else packet.pts))
        if packet.pts is not None:
            pts += put_svarint(packet.pts - predicted)
            predicted = packet.pts + packet.duration
        durations += put_svarint(packet.duration - duration)
        duration = packet.duration
        sizes += put_uvarint(len(packet.data))
        if packet.side_data:
            side_data += put_uvarint(len(packet.side_data))
            for name, content in packet.side_data:
                side_data += put_uvarint(len(name.encode())) + name.encode() + put_uvarint(len(content)) + content
    columns = bytes(flags + pts + dts + durations + sizes + side_data)
    data = b"".join(packet.data for packet in packets)
    head = put_uvarint(number) + put_uvarint(len(packets))
    payload = head + put_sized_block(columns) + data
    if sum(1 + len(packet.side_data) for packet in packets) > len(payload):
        payload = head + put_uvarint(len(columns)) + put_uvarint(len(columns) << 1) + columns + data
    return payload


def unpack_packets(payload: bytes) -> list[CopiedPacket]:
    """Inverse of `pack_packets`. BitstreamError for anything malformed."""
    cursor = Cursor(payload, "PKTS record")
    number = cursor.uvarint(MAX_STREAMS - 1, "stream")
    count = cursor.uvarint(min(MAX_PACKETS, len(payload)), "number of packets")
    columns = Cursor(take_sized_block(cursor, MAX_COLUMNS, "columns"), "PKTS record")
    flags = columns.take(count)
    if not count or any(flag & ~(_KEYFRAME | _CORRUPT | _NO_PTS | _NO_DTS | _SIDE_DATA) for flag in flags):
        raise BitstreamError("PKTS record is malformed: it has no packets, or unknown flags")
    steps = _column(columns, flags, _NO_PTS, "pts")
    leads = _column(columns, flags, _NO_DTS, "dts")
    growths = columns.svarints(count, "durations")
    sizes = columns.uvarints(count, "sizes")
    if sum(sizes) != cursor.left:
        raise BitstreamError(f"PKTS record is malformed: sizes add up to {sum(sizes)}, it holds {cursor.left} bytes")
    packets: list[CopiedPacket] = []
    predicted = duration = 0
    items = len(payload) - count  # of side data that may come
    for flag, step, lead, growth, size in zip(flags, steps, leads, growths, sizes, strict=True):
        duration += growth
        pts = None if step is None else predicted + step
        dts = None if lead is None else (predicted if pts is None else pts) + lead
        if pts is not None:
            predicted = pts + duration
        if not 0 <= duration < _MAX_TICK or any(abs(tick) >= _MAX_TICK for tick in (pts, dts, predicted) if tick):
            raise BitstreamError("PKTS record is malformed: a time is out of range")
        side_data = _take_side_data(columns, items) if flag & _SIDE_DATA else ()
        items -= len(side_data)
        packets.append(
            CopiedPacket(
                stream=number,
                pts=pts,
                dts=dts,
                duration=duration,
                keyframe=bool(flag & _KEYFRAME),
                corrupt=bool(flag & _CORRUPT),
                side_data=side_data,
                data=cursor.take(size),
            )
        )
    columns.end()
    return packets


def _column(columns: Cursor, flags: bytes, absent: int, name: str) -> list[int | None]:
    """A signed varint for each packet but those with the flag `absent`."""
    values = iter(columns.svarints(sum(not flag & absent for flag in flags), name))
    return [None if flag & absent else next(values) for flag in flags]


def _take_side_data(columns: Cursor, most: int) -> tuple[tuple[str, bytes], ...]:
    items = []
    for _ in range(columns.uvarint(min(_MAX_SIDE_DATA, most), "number of side data")):
        name = columns.take(columns.uvarint(_MAX_NAME, "length of a name"))
        items.append((name.decode("latin-1"), columns.take(columns.uvarint(columns.left, "length of side data"))))
    return tuple(items)


def _stream_to_json(stream: CopiedStream) -> dict[str, Any]:
    values = {
        "kind": stream.kind,
        "codec": stream.codec,
        "index": stream.index,
        "time_base": _ratio(stream.time_base),
        "carrier": stream.carrier,
        "start": stream.start,
        "disposition": list(stream.disposition),
        "metadata": dict(stream.metadata),
        "facts": dict(stream.facts),
    }
    return {key: value for key, value in values.items() if value not in ("", None, [], {})}


def _stream_from_json(values: Any, extradata: bytes, parameters: bytes) -> CopiedStream:
    if values["kind"] not in KINDS:
        raise ValueError(f"unknown kind of stream {values['kind']!r}")
    start = values.get("start")
    return CopiedStream(
        kind=values["kind"],
        codec=_text(values["codec"]),
        index=_tick(values.get("index", 0)),
        time_base=_positive(values.get("time_base", [1, 1])),
        carrier=_text(values.get("carrier", "")),
        parameters=parameters,
        extradata=extradata,
        facts=_facts(values.get("facts", {})),
        start=None if start is None else _tick(start),
        disposition=_names(values.get("disposition", [])),
        metadata=_texts(values.get("metadata", {})),
    )


def _facts(values: Any) -> dict[str, Any]:
    """Codec parameters; those that `CopiedStream` names have their types, and fit int32."""
    if not isinstance(values, dict):
        raise TypeError("facts are no object")
    for name in _NUMBERS & values.keys():
        if not 0 <= _tick(values[name]) < 1 << 31:
            raise ValueError(f"{name} {values[name]} is out of range")
    for name in _NAMES & values.keys():
        _text(values[name])
    return values


def _ratio(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]


def _positive(value: Any) -> Fraction:
    numerator, denominator = value
    ratio = Fraction(_tick(numerator), _tick(denominator))
    if ratio <= 0 or ratio.numerator >= 1 << 31 or ratio.denominator >= 1 << 31:
        raise ValueError(f"time base {ratio} is out of range")
    return ratio


def _tick(value: Any) -> int:
    if type(value) is not int or abs(value) >= _MAX_TICK:
        raise ValueError(f"{value!r} is no 64-bit integer")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{value!r} is no text")
    return value


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {_text(key): _text(value) for key, value in values.items()}


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no array")
    return tuple(_text(value) for value in values)
