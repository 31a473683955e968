"""A second reader, written from the specification alone: plain Python integers, one value at a time, no numpy.

Slow and without mercy for malformed files; what it makes of a good one is what the format says it is.
"""

import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import zstandard

MAGIC_NUMBER = bytes.fromhex("28b52ffd")


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        assert len(piece) == size
        self.at += size
        return piece

    def byte(self) -> int:
        return self.take(1)[0]

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def svarint(self) -> int:
        return unzigzag(self.uvarint())

    def block(self, size: int, dictionary: bytes | None = None) -> bytes:
        tag = self.uvarint()
        data = self.take(tag >> 1)
        if tag & 1:
            raw = dictionary and zstandard.ZstdCompressionDict(dictionary, zstandard.DICT_TYPE_RAWCONTENT)
            data = zstandard.ZstdDecompressor(dict_data=raw or None).decompress(MAGIC_NUMBER + data)
        assert len(data) == size
        return data

    def sized_block(self, dictionary: bytes | None = None) -> "Bytes":
        return Bytes(self.block(self.uvarint(), dictionary))


def unzigzag(value: int) -> int:
    return -(value + 1) // 2 if value % 2 else value // 2


@dataclass
class PlainChunk:
    place: tuple[int, int, int, int, int]
    pts: list[int]
    durations: list[int | None]
    flags: list[int]
    shape: tuple[int, int, int, int]
    payload: bytes


def read_file(data: bytes, dictionary: bytes) -> tuple[dict[str, Any], list[PlainChunk], list[tuple[str, bytes]]]:
    """(header, chunks, other records in between)."""
    assert data[:8] == b"\x89CVL\r\n\x01\x00"
    header, chunks, others = {}, [], []
    at = 8
    offset_of = {}
    while at < len(data):
        kind, _, length, _ = struct.unpack_from("<4sBIH", data, at)
        payload = data[at + 11 : at + 11 + length]
        assert struct.unpack_from("<I", data, at + 11 + length)[0] == zlib.crc32(data[at : at + 11 + length])
        offset_of[kind] = at
        if kind == b"HEAD":
            header = json.loads(Bytes(payload).sized_block(dictionary).data)
        elif kind == b"CHNK":
            chunks.append(read_chunk(payload, header))
        elif kind == b"FOOT":
            assert struct.unpack("<Q", payload)[0] == offset_of[b"TRLR"]
        elif kind != b"TRLR":
            others.append((kind.decode(), payload))
        at += length + 15
    return header, chunks, others


def read_chunk(payload: bytes, header: dict[str, Any]) -> PlainChunk:
    source = Bytes(payload)
    place = tuple(source.uvarint() for _ in range(5))
    count = place[4]
    times = source.sized_block()
    pts = [times.svarint()]
    changes = times.byte()
    step = times.svarint() if count > 1 else 0
    for number in range(1, count):
        step += times.svarint() if changes and number > 1 else 0
        pts.append(pts[-1] + step)
    form = times.byte()
    if form == 0:
        durations: list[int | None] = [None] * count
    elif form == 1:
        durations = [times.uvarint()] * count
    else:
        stored = [times.uvarint() - 1 for _ in range(1 if form == 2 else count)]
        durations = [None if value < 0 else value for value in stored]
        if form == 2:
            durations = [pts[i + 1] - pts[i] for i in range(count - 1)] + durations
    flags = list(times.take(count)) if times.byte() else [0] * count
    left, above, right, below = header["padding"]
    factor = header["spatial_factor"]
    size = (header["height"] + above + below) // factor, (header["width"] + left + right) // factor
    return PlainChunk(
        place, pts, durations, flags, (header["latent_channels"], place[2], *size), source.data[source.at :]
    )


def decode_values(chunk: PlainChunk) -> list[int] | list[bytes]:
    """Symbols in (C, t, h, w) order; for mode 0 the bytes of each value, least significant first."""
    source = Bytes(chunk.payload)
    total = chunk.shape[0] * chunk.shape[1] * chunk.shape[2] * chunk.shape[3]
    if source.byte() == 0:
        width = source.byte()
        planes = source.block(width * total)
        return [planes[number::total] for number in range(total)]
    return decode_contexts(source, chunk.shape)


def decode_stream(source: Bytes, length: int) -> list[int]:
    if not length:
        return []
    code = source.byte()
    if code == 7:
        planes = source.block(3 * length)
        return [planes[i] + 256 * planes[i + length] + 65536 * planes[i + 2 * length] for i in range(length)]
    if code == 6:
        tokens = source.block(source.uvarint())
        values: list[int] = []
        for token in tokens:
            values += [0] * token + ([1] if token < 255 else [])
        places = [i for i, value in enumerate(values[:length]) if value]
        values = values[:length]
        for place, rest in zip(places, decode_stream(source, len(places)), strict=True):
            values[place] += rest
        return values
    base, digits = [(256, 1), (2, 8), (3, 5), (4, 4), (6, 3), (15, 2)][code]
    values = []
    for byte in source.block((length + digits - 1) // digits):
        values += [byte // base**place % base for place in reversed(range(digits))]
    values = values[:length]
    places = [i for i, value in enumerate(values) if value == base - 1]
    for place, rest in zip(places, decode_stream(source, len(places)), strict=True):
        values[place] += rest
    return values


def decode_contexts(source: Bytes, shape: tuple[int, int, int, int]) -> list[int]:
    channels, latents, height, width = shape
    codes = source.take(channels)
    mask = source.uvarint()
    lengths = [source.uvarint() for _ in range(mask.bit_count() + 1)]
    streams = [iter(decode_stream(source, length)) for length in lengths]
    thresholds = [factor << shift for shift in range(3, 17) for factor in (2, 3)]
    scale = [((2 + (code & 1)) << (code % 32 >> 1)) >> 1 for code in codes]
    residuals: dict[tuple[int, int, int, int], int] = {}
    symbols: dict[tuple[int, int, int, int], int] = {}
    grid = [(c, t, y, x) for c in range(channels) for t in range(latents) for y in range(height) for x in range(width)]

    def size(c: int, t: int, y: int, x: int) -> int:
        return min(abs(residuals.get((c, t, y, x), 0)), 255)

    def held(left: int, up: int, corner: int) -> int:
        return (
            sorted((left, up, left + up - corner))[1]
            if min(left, up) <= left + up - corner <= max(left, up)
            else (min(left, up) if left + up - corner < min(left, up) else max(left, up))
        )

    def value(c: int, t: int, y: int, x: int) -> int:
        return symbols.get((c, t, y, x), 0)

    for c, t, y, x in sorted(grid, key=lambda p: (p[0] + 2 * p[1] + p[2] + p[3], p)):
        back = not (t == 1 and codes[c] >> 6 in (1, 3))
        near = 10 * (size(c, t, y, x - 1) + size(c, t, y - 1, x)) + 8 * size(c, t - 1, y, x) * back
        around = sum(size(c, t - 1, y + dy, x + dx) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)))
        near += 3 * (size(c, t, y - 1, x - 1) + around * back)
        activity = sum(min((size(k, t, y, x) << 16) // scale[k], 4096) for k in range(c)) // c if c else 256
        expected = 16 * near + (7 * scale[c] >> 4) + (13 * (activity * scale[c] >> 8) >> 4)
        fine = sum(threshold <= expected for threshold in thresholds)
        stream = sum(mask >> k & 1 for k in range(fine + 1))
        residual = unzigzag(next(streams[stream]))
        space = held(value(c, t, y, x - 1), value(c, t, y - 1, x), value(c, t, y - 1, x - 1))
        time = value(c, t - 1, y, x)
        change = held(*(value(c, t, y - b, x - a) - value(c, t - 1, y - b, x - a) for b, a in ((0, 1), (1, 0), (1, 1))))
        rule = codes[c] >> 6
        if not t:
            rule = 2 if codes[c] & 32 else 0
        prediction = [0, time, space, sorted((time, space, time + change))[1]][rule]
        residuals[c, t, y, x] = residual
        symbols[c, t, y, x] = residual + prediction
    assert all(next(stream, None) is None for stream in streams)
    return [symbols[place] for place in grid]
