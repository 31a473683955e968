"""Files that are not whole: how far an unfinished one is intact, and what a damaged one still holds.

Owns: the state from which a writer can go on, finding intact records among damage, and saying which latents and frames
are lost. What to show instead is the decoder's to choose.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.chunk import Chunk, ChunkInfo, unpack_chunk, unpack_info
from cvcodec.bitstream.header import Header, unpack_header
from cvcodec.bitstream.records import Record, pack_preamble, parse_head, read_preamble, read_record
from cvcodec.bitstream.trailer import Ledger, Trailer, unpack_trailer
from cvcodec.bitstream.wire import READ_STEP, Readable
from cvcodec.errors import BitstreamError, TruncatedError

_CANDIDATE = re.compile(rb"(?=[A-Z0-9]{4}[\x00\x01])")


def scan_partial(source: Readable) -> tuple[Header, Ledger]:
    """How far `source`, an unfinished file, is intact: its header, and the state of a writer that has just written the
    last intact chunk (or the header). At `ledger.end` such a writer goes on, and what lies behind is written again.

    Raises BitstreamError where not even the header is intact: there is nothing to resume then. Payloads of chunks are
    verified by checksum, not decoded. Copied packets and other records belong to the chunk that they precede; a
    log-variance to the chunk that it follows, which is not intact without it."""
    read_preamble(source)
    head = read_record(source, fmt.PREAMBLE.size)
    if head is None or head.type != fmt.HEAD:
        raise TruncatedError("file has no complete header, there is nothing to resume; start over")
    header = unpack_header(head.payload)
    ledger = Ledger()
    ledger.add(head.type, head.size, head.checksum)
    since: list[tuple[str, int, int, ChunkInfo | None]] = []  # records behind the last intact chunk
    closing = fmt.LVAR if header.logvar else fmt.CHNK
    end = head.end
    with contextlib.suppress(BitstreamError):
        while (record := read_record(source, end)) is not None:
            if header.logvar and (record.type == fmt.LVAR) != bool(since and since[-1][0] == fmt.CHNK):
                raise BitstreamError(f"record {record.type} at byte {record.offset}: each chunk has one log-variance")
            if record.type not in (fmt.TRLR, fmt.FOOT):
                info = unpack_info(record.payload, header) if record.type == fmt.CHNK else None
                since.append((record.type, record.size, record.checksum, info))
            if record.type == closing:
                for other in since:
                    ledger.add(*other)
                since.clear()
            end = record.end
    return header, ledger


@dataclass(frozen=True)
class Gap:
    """Bytes that belong to no intact record."""

    offset: int
    length: int


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
            kind, flags, length = parse_head(head, self.base)
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
        candidate = _CANDIDATE.search(self.buffer, 1)
        return candidate.start() if candidate else max(1, len(self.buffer) - fmt.RECORD_HEAD.size)


@dataclass(frozen=True)
class Lost:
    """Latents and frames for which there is no intact chunk."""

    first_latent: int
    latent_count: int | None
    """None: to an end that is not known, because the trailer is lost too."""
    first_frame: int
    frame_count: int | None


class Salvage:
    """Reads what is intact in a damaged file, forwards only. `source` needs nothing but `read`.

    After iterating, `damaged_bytes` counts what belongs to no intact record, and `trailer` is the trailer if it is
    intact.
    """

    header: Header

    def __init__(self, source: Readable, *, base_only: bool = False) -> None:
        """base_only: leave the enhancement layer undecoded. Raises BitstreamError where no header is intact:
        nothing can be decoded without it."""
        self._base_only = base_only
        self.damaged_bytes = 0
        self.trailer: Trailer | None = None
        self._parts = scan_records(source)
        for part in self._parts:
            if isinstance(part, Gap):
                self.damaged_bytes += part.length
            elif part.type == fmt.HEAD:
                self.header = unpack_header(part.payload)
                self._head_end = part.end
                return
        raise BitstreamError("no intact header was found: nothing can be salvaged from this file")

    def parts(self) -> Iterator[Chunk | Lost | Record]:
        """Intact chunks in order, what is lost between and behind them, and intact records of other types. Once only.
        What cannot be decoded in spite of its checksum counts as damaged."""
        latent = frame = number = 0
        for part in self._parts:
            if isinstance(part, Gap):
                self.damaged_bytes += part.length
                continue
            try:
                if part.type == fmt.TRLR:
                    self.trailer = unpack_trailer(part.payload, self._head_end, None)
                elif part.type == fmt.CHNK:
                    chunk = unpack_chunk(part.payload, self.header, base_only=self._base_only)
            except BitstreamError:
                self.damaged_bytes += part.size
                continue
            if part.type == fmt.CHNK:
                if chunk.index < number or chunk.first_latent < latent or chunk.first_frame < frame:
                    continue
                if chunk.index > number:
                    yield Lost(latent, chunk.first_latent - latent, frame, chunk.first_frame - frame)
                latent, frame, number = chunk.end_latent, chunk.end_frame, chunk.index + 1
                yield chunk
            elif part.type not in (fmt.HEAD, fmt.TRLR, fmt.FOOT):
                yield part
        if self.trailer is None:
            yield Lost(latent, None, frame, None)
        elif self.trailer.frames > frame:
            yield Lost(latent, self.trailer.latents - latent, frame, self.trailer.frames - frame)
