"""What an interrupted file still says.

Owns: reading a file up to where it is intact, and the state from which a writer can go on.
Does not know: how to write, how to read behind damage (`salvage`).
"""

from __future__ import annotations

from dataclasses import dataclass

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.chunk import ChunkInfo, unpack_info
from cvcodec.bitstream.header import Header
from cvcodec.bitstream.header_json import unpack_header
from cvcodec.bitstream.records import read_preamble, read_record
from cvcodec.bitstream.trailer import IndexEntry, Ledger
from cvcodec.bitstream.wire import Readable
from cvcodec.errors import BitstreamError, TruncatedError


@dataclass(frozen=True, kw_only=True)
class PartialFile:
    """A file as far as it is intact."""

    header: Header
    head_end: int
    """Where the HEAD record ends."""
    valid_until: int
    """Where the last intact record ends."""
    ledger: Ledger
    """State of a writer that has just written the last intact chunk, its log-variance included (or the header)."""
    complete: bool
    """Whether the trailer is there: nothing to resume."""
    damage: str | None
    """Why reading stopped; None where the file just ends between two records."""

    @property
    def resume_at(self) -> int:
        """Where the last intact chunk ends, or its log-variance where the file keeps it: a resumed writer goes on here.
        Records behind it are written again."""
        return self.ledger.end

    @property
    def index(self) -> tuple[IndexEntry, ...]:
        """Where the intact chunks are and what they hold."""
        return tuple(self.ledger.entries)

    @property
    def chunks(self) -> int:
        """Intact chunks: the index of the next one."""
        return len(self.ledger.entries)

    @property
    def latents(self) -> int:
        """Latents in intact chunks."""
        return self.ledger.latents

    @property
    def frames(self) -> int:
        """Frames in intact chunks."""
        return self.ledger.frames


def scan_partial(source: Readable) -> PartialFile:
    """Read `source` from its start to the first damage or the end. Raises BitstreamError where not even the header is
    intact: there is nothing to resume then. Chunk payloads are verified by checksum, not decoded.

    Copied packets and other records belong to the chunk that they precede; a log-variance to the chunk that it follows,
    which is not intact without it."""
    read_preamble(source)
    head = read_record(source, fmt.PREAMBLE.size)
    if head is None or head.type != fmt.HEAD:
        raise TruncatedError("file has no complete header, there is nothing to resume; start over")
    header = unpack_header(head.payload)
    ledger = Ledger()
    ledger.add(head.type, head.size, head.checksum)
    since: list[tuple[str, int, int, ChunkInfo | None]] = []  # records behind the last intact chunk
    closing = fmt.LVAR if header.logvar else fmt.CHNK
    end, damage, complete = head.end, None, False
    try:
        while (record := read_record(source, end)) is not None:
            if header.logvar and (record.type == fmt.LVAR) != bool(since and since[-1][0] == fmt.CHNK):
                raise BitstreamError(f"record {record.type} at byte {record.offset}: each chunk has one log-variance")
            if record.type == fmt.FOOT:
                complete = True
            elif record.type != fmt.TRLR:
                info = unpack_info(record.payload, header) if record.type == fmt.CHNK else None
                since.append((record.type, record.size, record.checksum, info))
            if record.type == closing:
                for other in since:
                    ledger.add(*other)
                since.clear()
            end = record.end
    except BitstreamError as error:
        damage = str(error)
    return PartialFile(
        header=header, head_end=head.end, valid_until=end, ledger=ledger, complete=complete, damage=damage
    )
