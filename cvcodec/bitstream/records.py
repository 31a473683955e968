"""Records: the typed, length-prefixed, checksummed frames that a file is made of.

Owns: packing and reading one record, and the preamble. Intact records among damage: `recovery`.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.wire import Readable, read_exactly, read_up_to
from cvcodec.errors import BitstreamError, ChecksumError, TruncatedError, UnsupportedError

_TYPE = re.compile(r"[A-Z0-9]{4}")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record as read: intact, whatever its payload means."""

    type: str
    """Four characters from A-Z and 0-9."""
    required: bool
    """Whether a reader that does not know the type must refuse the file."""
    payload: bytes
    offset: int
    """Where the record begins, in bytes from the start of the file."""
    checksum: int
    """CRC-32 as stored."""

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return len(self.payload) + fmt.RECORD_OVERHEAD

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + self.size


def pack_record(kind: str, payload: bytes, *, required: bool) -> bytes:
    """The bytes of one record. ValueError for a bad type or a payload beyond MAX_RECORD."""
    if not _TYPE.fullmatch(kind):
        raise ValueError(f"record type is {kind!r}, wanted four characters from A-Z and 0-9")
    if len(payload) > fmt.MAX_RECORD:
        raise ValueError(f"{kind} record holds {len(payload)} bytes, at most {fmt.MAX_RECORD} fit")
    head = fmt.RECORD_HEAD.pack(kind.encode(), fmt.REQUIRED if required else 0, len(payload), 0)[: fmt.RECORD_CHECKED]
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    return head + payload + fmt.RECORD_TAIL.pack(zlib.crc32(payload, zlib.crc32(head)))


def read_record(source: Readable, offset: int) -> Record | None:
    """The record at `offset`, where `source` stands; None at the end of `source`.

    Raises TruncatedError, ChecksumError, or BitstreamError. The length is checked before it is followed.
    """
    head = read_up_to(source, fmt.RECORD_HEAD.size)
    if not head:
        return None
    if len(head) < fmt.RECORD_HEAD.size:
        raise TruncatedError(f"file ends inside a record head at byte {offset}")
    kind, flags, length = parse_head(head, offset)
    payload = read_exactly(source, length, f"the {kind} record at byte {offset}")
    tail = read_exactly(source, fmt.RECORD_TAIL.size, f"the {kind} record at byte {offset}")
    (stored,) = fmt.RECORD_TAIL.unpack(tail)
    actual = zlib.crc32(payload, zlib.crc32(head))
    if actual != stored:
        raise ChecksumError(f"{kind} record at byte {offset} is damaged: CRC-32 is {actual:08x}, stored {stored:08x}")
    if flags & ~fmt.REQUIRED:
        raise UnsupportedError(f"{kind} record at byte {offset} has flags {flags:#04x}, unknown to this release")
    return Record(type=kind, required=bool(flags & fmt.REQUIRED), payload=payload, offset=offset, checksum=stored)


def pack_preamble() -> bytes:
    """What a file begins with: magic and version."""
    return fmt.PREAMBLE.pack(fmt.MAGIC, fmt.VERSION)


def read_preamble(source: Readable) -> None:
    """Check magic and version. Raises TruncatedError, BitstreamError or UnsupportedError."""
    data = read_up_to(source, fmt.PREAMBLE.size)
    if data[: len(fmt.MAGIC)] != fmt.MAGIC[: len(data)]:
        raise BitstreamError(f"not a .cvl file: it begins with {data[:6].hex(' ')}, wanted {fmt.MAGIC.hex(' ')}")
    if len(data) < fmt.PREAMBLE.size:
        raise TruncatedError(f"file ends after {len(data)} bytes, before its version")
    _, version = fmt.PREAMBLE.unpack(data)
    if version != fmt.VERSION:
        raise UnsupportedError(f"file is of format version {version}, this release reads {fmt.VERSION}; update cvcodec")


def parse_head(head: bytes, offset: int) -> tuple[str, int, int]:
    """(type, flags, payload length) of a checked record head."""
    raw, flags, length, check = fmt.RECORD_HEAD.unpack(head)
    if zlib.crc32(head[: fmt.RECORD_CHECKED]) & 0xFFFF != check:
        raise ChecksumError(f"record head at byte {offset} is damaged: its check does not match")
    kind = raw.decode("latin-1")
    if not _TYPE.fullmatch(kind):
        raise BitstreamError(f"record at byte {offset} has type {kind!r}, wanted four characters from A-Z and 0-9")
    if length > fmt.MAX_RECORD:
        raise BitstreamError(f"{kind} record at byte {offset} claims {length} bytes, the limit is {fmt.MAX_RECORD}")
    return kind, flags, length
