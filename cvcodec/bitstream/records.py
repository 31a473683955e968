"""Records: the typed, length-prefixed, checksummed frames that a file is made of.

Owns: packing and reading one record, the preamble, and finding intact records among damage.
Does not know: what payloads mean.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.wire import READ_STEP, Readable, read_exactly, read_up_to
from cvcodec.errors import BitstreamError, ChecksumError, TruncatedError, UnsupportedError

_TYPE = re.compile(r"[A-Z0-9]{4}")
_CANDIDATE = re.compile(rb"(?=[A-Z0-9]{4}[\x00\x01])")


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


@dataclass(frozen=True)
class Gap:
    """Bytes that belong to no intact record."""

    offset: int
    length: int


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
    kind, flags, length = _parse_head(head, offset)
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
    """Magic and version."""
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


SCAN_WORK = 4
"""How many times over the bytes of a damaged file may be read in vain, in search of the ends of records. Damage by
accident costs less than one reading; record heads that were put there to overlap would cost one each."""


def scan_records(source: Readable) -> Iterator[Record | Gap]:
    """Every intact record of a damaged file, in order, and the gaps between. Reads forward only, keeps at most one
    record and what lies behind it in memory, takes time in proportion to the file (`SCAN_WORK`), and never raises for
    what the bytes are."""
    return _Scanner(source).scan()


class _Scanner:
    """A buffer over `source` that starts at byte `base` of the file."""

    def __init__(self, source: Readable) -> None:
        self.source = source
        self.buffer = bytearray()
        self.base = 0
        self.ended = False
        self.wasted = 0  # bytes of what looked like records and was none

    def scan(self) -> Iterator[Record | Gap]:
        gap = 0  # length of the gap that ends at the buffer's start
        self.fill(fmt.PREAMBLE.size)
        if self.buffer[: fmt.PREAMBLE.size] == pack_preamble():
            self.drop(fmt.PREAMBLE.size)
        while self.fill(fmt.RECORD_OVERHEAD):
            record = self.record()
            if record is None:
                skipped = self.next_candidate()
                self.drop(skipped)
                gap += skipped
                continue
            if gap:
                yield Gap(self.base - gap, gap)
                gap = 0
            yield record
            self.drop(record.size)
        gap += len(self.buffer)
        self.drop(len(self.buffer))
        if gap:
            yield Gap(self.base - gap, gap)

    def fill(self, size: int) -> bool:
        """Hold at least `size` bytes if the source has them."""
        while len(self.buffer) < size and not self.ended:
            piece = self.source.read(READ_STEP)
            self.ended = not piece
            self.buffer += piece or b""
        return len(self.buffer) >= size

    def drop(self, size: int) -> None:
        del self.buffer[:size]
        self.base += size

    def record(self) -> Record | None:
        """The record at the start of the buffer, if it is intact."""
        head = bytes(self.buffer[: fmt.RECORD_HEAD.size])
        try:
            kind, flags, length = _parse_head(head, self.base)
        except BitstreamError:
            return None
        if flags & ~fmt.REQUIRED or not self.fill(fmt.RECORD_OVERHEAD + length):
            return None
        if self.wasted + length > SCAN_WORK * (self.base + len(self.buffer)):
            return None
        end = fmt.RECORD_HEAD.size + length
        (stored,) = fmt.RECORD_TAIL.unpack_from(self.buffer, end)
        payload = bytes(self.buffer[fmt.RECORD_HEAD.size : end])
        if zlib.crc32(payload, zlib.crc32(head)) != stored:
            self.wasted += length
            return None
        return Record(type=kind, required=bool(flags), payload=payload, offset=self.base, checksum=stored)

    def next_candidate(self) -> int:
        """Bytes to skip to the next place that may start a record; at least one."""
        found = _CANDIDATE.search(self.buffer, 1)
        return found.start() if found else max(1, len(self.buffer) - fmt.RECORD_HEAD.size)


def _parse_head(head: bytes, offset: int) -> tuple[str, int, int]:
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
