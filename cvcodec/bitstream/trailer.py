"""The trailer: what is known only at the end, and the ledger in which writer and reader both keep it.

Owns: the index, the totals, the chain over all records, their byte form, and the rules of what may follow what.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from typing import Any

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.chunk import ChunkInfo
from cvcodec.bitstream.records import pack_preamble
from cvcodec.bitstream.wire import (
    Cursor,
    dump_json,
    load_json,
    put_sized_block,
    put_svarint,
    put_uvarint,
    put_uvarints,
    take_sized_block,
    unzigzag,
)
from cvcodec.errors import BitstreamError

MAX_LOST_CHUNKS = 1 << 16
"""Entries of an index that are believed where the file that they belong to is not whole: two days of video."""


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """Where one chunk is, in the file and in the video."""

    offset: int
    """First byte of the record, from the start of the file."""
    size: int
    """Bytes of the whole record."""
    first_latent: int
    latent_count: int
    first_frame: int
    frame_count: int
    first_pts: int
    """The smallest of the chunk, in units of the time base."""
    last_pts: int
    """The largest of the chunk."""

    @property
    def end(self) -> int:
        """One past the last byte of the record."""
        return self.offset + self.size

    @property
    def end_latent(self) -> int:
        """Where the next chunk's latents begin."""
        return self.first_latent + self.latent_count

    @property
    def end_frame(self) -> int:
        """Where the next chunk's frames begin."""
        return self.first_frame + self.frame_count


@dataclass(frozen=True, kw_only=True)
class RecordTotal:
    """How many records of one type a file has, and their bytes with framing."""

    count: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Trailer:
    """Totals and index of a complete file."""

    index: tuple[IndexEntry, ...]
    records: Mapping[str, RecordTotal]
    """By record type, TRLR and FOOT left out."""
    digest: bytes
    """BLAKE2b-128 that chains all records before the trailer."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Any JSON object: what the writer learned on the way."""

    @property
    def latents(self) -> int:
        """How many the file holds."""
        return self.index[-1].end_latent

    @property
    def frames(self) -> int:
        """How many the file holds."""
        return self.index[-1].end_frame

    @property
    def chunk_bytes(self) -> int:
        """Bytes of all CHNK records, with framing."""
        return sum(entry.size for entry in self.index)

    def chunk_of_latent(self, latent: int) -> int:
        """Which chunk holds `latent`. IndexError outside the file."""
        return self._chunk_of("latent", latent, self.latents)

    def chunk_of_frame(self, frame: int) -> int:
        """Which chunk holds `frame`. IndexError outside the file."""
        return self._chunk_of("frame", frame, self.frames)

    def latents_in_chunks(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Where latents [start, stop) are: numbers of chunks, and which of their latents. IndexError outside the
        file."""
        return self._in_chunks("latent", start, stop, self.latents)

    def frames_in_chunks(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """The same of frames [start, stop)."""
        return self._in_chunks("frame", start, stop, self.frames)

    def _in_chunks(self, what: str, start: int, stop: int, count: int) -> Iterator[tuple[int, slice]]:
        if not 0 <= start <= stop <= count:
            raise IndexError(f"{what}s {start}:{stop} are not in the file, it has {count}")
        while start < stop:
            number = self._chunk_of(what, start, count)
            first, end = (getattr(self.index[number], f"{edge}_{what}") for edge in ("first", "end"))
            yield number, slice(start - first, min(stop, end) - first)
            start = end

    def _chunk_of(self, what: str, number: int, count: int) -> int:
        if not 0 <= number < count:
            raise IndexError(f"{what} {number} is not in the file, it has {count}")
        return bisect_right(self.index, number, key=attrgetter(f"first_{what}")) - 1


class Ledger:
    """Every record of a file as it passes, whichever way: the state between one record and the next.

    The writer makes the trailer of it, the reader compares the trailer with it, and of a partial file it says what can
    be taken over.
    """

    def __init__(self) -> None:
        self.entries: list[IndexEntry] = []
        self.totals: dict[str, tuple[int, int]] = {}
        self.end = self.head_end = fmt.PREAMBLE.size
        """Bytes of the file so far, and up to the end of the HEAD record."""
        self._chain = hashlib.blake2b(pack_preamble(), digest_size=fmt.DIGEST_BYTES)

    def add(self, kind: str, size: int, checksum: int, info: ChunkInfo | None = None) -> None:
        """Note a record of `size` bytes that follows the last one; `info` for chunks. BitstreamError where it must not
        follow."""
        if info is not None:
            got = (info.index, info.first_latent, info.first_frame)
            if got != self.place:
                names = f"chunk, first latent, first frame are {got}, wanted {self.place}"
                raise BitstreamError(f"chunk is out of order at byte {self.end}: {names}")
            self.entries.append(
                IndexEntry(
                    offset=self.end,
                    size=size,
                    first_latent=info.first_latent,
                    latent_count=info.latent_count,
                    first_frame=info.first_frame,
                    frame_count=info.frame_count,
                    first_pts=int(info.pts.min()),
                    last_pts=int(info.pts.max()),
                )
            )
        count, total = self.totals.get(kind, (0, 0))
        self.totals[kind] = count + 1, total + size
        self.end += size
        if kind == fmt.HEAD:
            self.head_end = self.end
        self._chain.update(kind.encode() + checksum.to_bytes(4, "little"))

    @property
    def place(self) -> tuple[int, int, int]:
        """Index, first latent and first frame of the next chunk."""
        return self.chunks, self.latents, self.frames

    @property
    def chunks(self) -> int:
        """How many there are so far: the index of the next one."""
        return len(self.entries)

    @property
    def latents(self) -> int:
        """How many there are so far: the first latent of the next chunk."""
        return self.entries[-1].end_latent if self.entries else 0

    @property
    def frames(self) -> int:
        """How many there are so far: the first frame of the next chunk."""
        return self.entries[-1].end_frame if self.entries else 0

    def trailer(self, metadata: Mapping[str, Any] | None = None) -> Trailer:
        """The trailer of a file that ends here. ValueError for a file without chunks."""
        if not self.entries:
            raise ValueError("a .cvl file holds at least one chunk")
        totals = {kind: RecordTotal(count=count, size=size) for kind, (count, size) in sorted(self.totals.items())}
        return Trailer(
            index=tuple(self.entries), records=totals, digest=self._chain.digest(), metadata=dict(metadata or {})
        )

    def check(self, trailer: Trailer) -> None:
        """Raise BitstreamError unless `trailer` describes exactly what has passed."""
        if not self.entries:
            raise BitstreamError("trailer is malformed: the file holds no chunk")
        own = self.trailer()
        for name in ("index", "records", "digest"):
            if getattr(own, name) != getattr(trailer, name):
                raise BitstreamError(f"trailer does not match the file: its {name} differs from what was read")


def pack_trailer(trailer: Trailer, head_end: int) -> bytes:
    """Payload of a TRLR record. `head_end`: where the HEAD record ends."""
    out = bytearray(put_uvarint(len(trailer.index)))
    end, last_pts = head_end, 0
    for entry in trailer.index:
        out += put_uvarints((entry.offset - end, entry.size, entry.latent_count, entry.frame_count))
        out += put_svarint(entry.first_pts - last_pts) + put_uvarint(entry.last_pts - entry.first_pts)
        end, last_pts = entry.end, entry.last_pts
    out += put_uvarint(len(trailer.records))
    for kind, total in sorted(trailer.records.items()):
        out += kind.encode() + put_uvarints((total.count, total.size))
    text = dump_json(trailer.metadata) if trailer.metadata else b""
    return put_sized_block(bytes(out) + trailer.digest + put_uvarint(len(text)) + text)


def unpack_trailer(payload: bytes, head_end: int, end: int | None) -> Trailer:
    """Inverse of `pack_trailer`. Raises BitstreamError for anything it could not have written.

    end: offset of the TRLR record, which no chunk reaches beyond; None where bytes of the file may be missing.
    """
    outer = Cursor(payload, "trailer")
    cursor = Cursor(take_sized_block(outer, fmt.MAX_TRAILER, "content"), "trailer")
    outer.end()
    most = MAX_LOST_CHUNKS if end is None else (end - head_end) // fmt.MIN_CHUNK_RECORD
    count = cursor.uvarint(most, "chunk count")
    if not count:
        raise BitstreamError("trailer is malformed: the file holds no chunk")
    entries = tuple(_take_entries(cursor, count, head_end, fmt.MAX_COUNT if end is None else end))
    totals: dict[str, RecordTotal] = {}
    for _ in range(cursor.uvarint(cursor.left, "record types")):
        kind = cursor.take(4).decode("latin-1")
        total = RecordTotal(count=cursor.uvarint(fmt.MAX_COUNT, "count"), size=cursor.uvarint(fmt.MAX_COUNT, "bytes"))
        if totals and kind <= next(reversed(totals)):
            raise BitstreamError("trailer is malformed: record types are not in ascending order")
        totals[kind] = total
    digest = cursor.take(fmt.DIGEST_BYTES)
    text = cursor.take(cursor.uvarint(fmt.MAX_JSON, "metadata length"))
    cursor.end()
    metadata = load_json(text, "trailer metadata") if text else {}
    return Trailer(index=entries, records=totals, digest=digest, metadata=metadata)


def _take_entries(cursor: Cursor, count: int, start: int, stop: int) -> Iterator[IndexEntry]:
    """`count` index entries of chunks that lie in [start, stop) of the file."""
    values = cursor.uvarints(6 * count, "index")
    latents, frames = values[2::6], values[3::6]
    first_latents, first_frames = accumulate(latents, initial=0), accumulate(frames, initial=0)
    last_pts = 0
    for number, (gap, size, latent_count, frame_count, lead, length) in enumerate(
        zip(values[0::6], values[1::6], latents, frames, values[4::6], values[5::6], strict=True)
    ):
        offset = start + gap
        start = offset + size
        first_pts = last_pts + unzigzag(lead)
        last_pts = first_pts + length
        if (
            not fmt.MIN_CHUNK_RECORD <= size <= fmt.MAX_RECORD + fmt.RECORD_OVERHEAD
            or start > stop
            or not 1 <= latent_count <= fmt.MAX_CHUNK_LATENTS
            or not 1 <= frame_count <= latent_count * fmt.MAX_FACTOR
            or not -(1 << 63) <= first_pts <= last_pts < 1 << 63
        ):
            raise BitstreamError(f"trailer is malformed: no chunk {number} of {size} bytes at byte {offset} can be")
        yield IndexEntry(
            offset=offset,
            size=size,
            first_latent=next(first_latents),
            latent_count=latent_count,
            first_frame=next(first_frames),
            frame_count=frame_count,
            first_pts=first_pts,
            last_pts=last_pts,
        )
