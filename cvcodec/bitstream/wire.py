"""The smallest pieces of the byte format: exact reads and writes, varints, blocks, JSON texts.

Owns: looping over short reads and writes, LEB128 integers, *blocks* (bytes stored raw or as one zstd frame), and what a
JSON text from a file may be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import zstandard

from cvcodec.bitstream import format as fmt
from cvcodec.errors import BitstreamError, TruncatedError

READ_STEP = 1 << 20
"""Bytes asked for at a time, so that a length field alone never makes us allocate."""

ZSTD_LEVEL = 19
"""Level of blocks, unless the caller knows better. 20 to 22 only widen a window that is already larger than a block."""

MAX_EXPANSION = 131072 // 4 + 1
"""Most bytes that a byte of a zstd frame stands for: a block of 128 KiB takes at least four (RFC 8878, 3.1.1.2)."""

MAX_VARINT_BYTES = 10

THIN_WINDOW_LOG = 10
"""Window of frames that must not be dense: their blocks hold 1 KiB, so that a byte stands for at most 256."""

BLOCK_DENSITY = 1 << 9
"""Bytes of a sized block that each stored byte may stand for: its content becomes objects, which cost time to make."""

BLOCK_FREE = 1 << 12
"""Bytes of a sized block that are free of `BLOCK_DENSITY`."""


class Readable(Protocol):
    """What a reader needs: `read(n)`, which may return fewer bytes; b"" means the end."""

    def read(self, size: int, /) -> bytes | None: ...


class Writable(Protocol):
    """What a writer needs: `write(data)`, which may take fewer bytes and says how many."""

    def write(self, data: bytes, /) -> int | None: ...


def read_up_to(source: Readable, size: int) -> bytes:
    """Read `size` bytes, or fewer only where `source` ends. Works on a source that gives one byte a call."""
    pieces: list[bytes] = []
    missing = size
    while missing:
        piece = source.read(min(missing, READ_STEP))
        if not piece:
            break
        if len(piece) > missing:
            raise ValueError(f"read({min(missing, READ_STEP)}) returned {len(piece)} bytes")
        pieces.append(bytes(piece))
        missing -= len(piece)
    return b"".join(pieces)


def read_exactly(source: Readable, size: int, what: str) -> bytes:
    """Read `size` bytes or raise TruncatedError naming `what`."""
    data = read_up_to(source, size)
    if len(data) < size:
        raise TruncatedError(f"file ends inside {what}: got {len(data)} of {size} bytes")
    return data


def write_all(sink: Writable, data: bytes) -> None:
    """Write every byte, also to a raw pipe that takes a few at a time."""
    view = memoryview(data)
    while view:
        written = sink.write(bytes(view) if len(view) < len(data) else data)
        if written is None:  # objects that do not count take everything
            return
        view = view[written:]


def put_uvarint(value: int) -> bytes:
    """Unsigned LEB128: seven bits a byte, least significant first. `value` in [0, 2**70)."""
    if not 0 <= value < 1 << 7 * MAX_VARINT_BYTES:
        raise ValueError(f"{value} does not fit an unsigned varint of {MAX_VARINT_BYTES} bytes")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def put_svarint(value: int) -> bytes:
    """Signed varint: zigzag (0, -1, 1, -2, ...), then LEB128."""
    return put_uvarint(value << 1 if value >= 0 else (-value << 1) - 1)


def put_uvarints(values: Iterable[int]) -> bytes:
    """Several unsigned varints, one after another."""
    return b"".join(put_uvarint(value) for value in values)


def unzigzag(value: int) -> int:
    """0, 1, 2, 3, ... -> 0, -1, 1, -2, ..."""
    return -((value + 1) >> 1) if value & 1 else value >> 1


class Cursor:
    """Reads fields from bytes in memory; every overrun is a BitstreamError that names `what`."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.position = 0
        self.what = what

    @property
    def left(self) -> int:
        """How many bytes have not been read yet."""
        return len(self.data) - self.position

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or an error where there are fewer."""
        if size > self.left:
            raise BitstreamError(f"{self.what} is malformed: wants {size} more bytes, has {self.left}")
        piece = self.data[self.position : self.position + size]
        self.position += size
        return piece

    def rest(self) -> bytes:
        """All that has not been read yet."""
        return self.take(self.left)

    def uvarint(self, limit: int, name: str) -> int:
        """An unsigned varint of at most `limit`, in its shortest form."""
        value = self._leb128(name)
        if value > limit:
            raise BitstreamError(f"{self.what} is malformed: {name} is {value}, at most {limit} is legal")
        return value

    def svarint(self, name: str) -> int:
        """A signed varint, in its shortest form."""
        return unzigzag(self._leb128(name))

    def uvarints(self, count: int, name: str) -> list[int]:
        """`count` unsigned varints, each in its shortest form: as `uvarint` does, many times as fast."""
        data = np.frombuffer(self.data, np.uint8)[self.position : self.position + MAX_VARINT_BYTES * count]
        ends = np.flatnonzero(data < 0x80)[:count] + 1
        if len(ends) < count:
            raise BitstreamError(f"{self.what} is malformed: {count} of {name} wanted, it holds {len(ends)}")
        if not count:
            return []
        starts = np.concatenate([[0], ends[:-1]])
        lengths = ends - starts
        if lengths.max() > MAX_VARINT_BYTES:
            raise BitstreamError(f"{self.what} is malformed: {name} is longer than {MAX_VARINT_BYTES} bytes")
        if ((lengths > 1) & (data[ends - 1] == 0)).any():
            raise BitstreamError(f"{self.what} is malformed: {name} is not in its shortest form")
        digits = data[: ends[-1]] & np.uint8(0x7F)
        places = np.arange(len(digits)) - np.repeat(starts, lengths)
        parts = digits.astype(np.uint64) << (7 * np.minimum(places, 8)).astype(np.uint64)  # the tenth byte: below
        parts[places == 9] = 0
        values: list[int] = np.add.reduceat(parts, starts).tolist()
        for number in np.flatnonzero(lengths == MAX_VARINT_BYTES).tolist():
            values[number] += int(digits[ends[number] - 1]) << 63
        self.position += int(ends[-1])
        return values

    def svarints(self, count: int, name: str) -> list[int]:
        """`count` signed varints, as `uvarints` reads unsigned ones."""
        return [unzigzag(value) for value in self.uvarints(count, name)]

    def end(self) -> None:
        """Raise unless everything has been read."""
        if self.left:
            raise BitstreamError(f"{self.what} is malformed: {self.left} bytes too many")

    def _leb128(self, name: str) -> int:
        value = 0
        for count in range(MAX_VARINT_BYTES):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                if count and not byte:
                    raise BitstreamError(f"{self.what} is malformed: {name} is not in its shortest form")
                return value
        raise BitstreamError(f"{self.what} is malformed: {name} is longer than {MAX_VARINT_BYTES} bytes")


def compress(
    data: bytes,
    dictionary: bytes | None = None,
    *,
    level: int = ZSTD_LEVEL,
    min_match: int | None = None,
    thin: bool = False,
) -> bytes:
    """One zstd frame without magic number, checksum and dictionary id, with its content size.

    min_match: the shortest match, in bytes; None for the level's own. thin: each byte stands for at most 256.
    """
    asked = {"min_match": min_match, "window_log": THIN_WINDOW_LOG if thin else None}
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(dictionary or b""),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
        **{name: value for name, value in asked.items() if value is not None},
    )
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=_dictionary(dictionary)).compress(data)


def decompress(frame: bytes, size: int, what: str, dictionary: bytes | None = None) -> bytes:
    """Inverse of `compress`. The frame must declare exactly `size` bytes, and be long enough to hold them, before
    anything is allocated: python-zstandard trusts a declared size more than `max_output_size`."""
    if size > len(frame) * MAX_EXPANSION + len(dictionary or b""):
        raise BitstreamError(f"{what} is malformed: {len(frame)} bytes cannot expand to {size}")
    try:
        declared = zstandard.get_frame_parameters(frame, format=zstandard.FORMAT_ZSTD1_MAGICLESS).content_size
        if declared != size:
            raise BitstreamError(f"{what} is malformed: it declares {declared} bytes, its place wants {size}")
        if not size:  # python-zstandard answers b"" without reading such a frame
            raise BitstreamError(f"{what} is malformed: an empty zstd frame")
        decompressor = zstandard.ZstdDecompressor(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS, dict_data=_dictionary(dictionary)
        )
        data = decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BitstreamError(f"{what} is malformed: {error}") from error
    if len(data) != size:
        raise BitstreamError(f"{what} is malformed: it holds {len(data)} bytes, wanted {size}")
    return data


def put_block(
    data: bytes,
    dictionary: bytes | None = None,
    *,
    level: int = ZSTD_LEVEL,
    min_match: int | None = None,
    thin: bool = False,
) -> bytes:
    """varint(2 * stored length + compressed), then the bytes or one zstd frame, whichever is shorter. thin: see
    `compress`."""
    frame = compress(data, dictionary, level=level, min_match=min_match, thin=thin) if data else b""
    if data and len(frame) < len(data):
        return put_uvarint(len(frame) << 1 | 1) + frame
    return put_uvarint(len(data) << 1) + data


def take_block(
    cursor: Cursor, size: int, name: str, dictionary: bytes | None = None, *, most: int | None = None
) -> bytes:
    """Inverse of `put_block` for a block whose content is `size` bytes long.

    most: bytes of content that each stored byte may stand for, beside `BLOCK_FREE`; None for no limit but zstd's."""
    tag = cursor.uvarint(2 * cursor.left, f"length of {name}")
    stored = cursor.take(tag >> 1)
    if most is not None and size > BLOCK_FREE + most * len(stored):
        raise BitstreamError(f"{cursor.what} is malformed: {len(stored)} bytes must not stand for {size} of {name}")
    if tag & 1:
        return decompress(stored, size, f"{cursor.what}: {name}", dictionary)
    if len(stored) != size:
        raise BitstreamError(f"{cursor.what} is malformed: {name} holds {len(stored)} bytes, wanted {size}")
    return stored


def put_sized_block(data: bytes, dictionary: bytes | None = None) -> bytes:
    """varint(length), then `put_block`, for content whose length the reader cannot know."""
    block = put_block(data, dictionary)
    stored = Cursor(block, "block").uvarint(2 * len(block), "length") >> 1
    if len(data) > BLOCK_FREE + BLOCK_DENSITY * stored:
        block = put_block(data, dictionary, thin=True)
    return put_uvarint(len(data)) + block


def take_sized_block(cursor: Cursor, limit: int, name: str, dictionary: bytes | None = None) -> bytes:
    """Inverse of `put_sized_block` for content of at most `limit` bytes."""
    return take_block(cursor, cursor.uvarint(limit, f"size of {name}"), name, dictionary, most=BLOCK_DENSITY)


def _dictionary(data: bytes | None) -> zstandard.ZstdCompressionDict | None:
    return None if data is None else zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def dump_json(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON. ValueError for NaN, infinities, lone surrogates, deep nesting, and more than MAX_JSON bytes."""
    _check_nesting(values)
    try:
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        data = text.encode()
    except TypeError as error:
        raise ValueError(f"metadata is no JSON: {error}") from error
    if len(data) > fmt.MAX_JSON:
        raise ValueError(f"metadata takes {len(data)} bytes of JSON, at most {fmt.MAX_JSON} fit")
    return data


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object from a file. BitstreamError for anything that `format` does not allow."""
    try:
        values = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if not isinstance(values, dict):
            raise ValueError("its JSON is no object")
        dump_json(values)  # refuses numbers that became infinite, strings that are no text, deep nesting
    except (ValueError, RecursionError) as error:
        raise BitstreamError(f"{what} is malformed: {error}") from error
    return values


def _check_nesting(value: Any, depth: int = 0) -> None:
    if depth > fmt.MAX_JSON_DEPTH:
        raise ValueError(f"JSON nests more than {fmt.MAX_JSON_DEPTH} deep")
    if isinstance(value, (Mapping, list, tuple)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            _check_nesting(entry, depth + 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("JSON repeats a key")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON holds {name}")
