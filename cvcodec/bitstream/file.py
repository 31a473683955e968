"""A `.cvl` byte stream: chunks and other records written forwards, and read again.

Owns: the order of what is written, taking over what an interrupted writer has left, reading in order with everything
verified, and going straight to a chunk where the source can be sought. What to do about damage: `recovery`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.chunk import Chunk, ChunkInfo, pack_chunk, pack_logvar, unpack_chunk, unpack_info, unpack_logvar
from cvcodec.bitstream.header import Header, pack_header, unpack_header
from cvcodec.bitstream.records import Record, pack_preamble, pack_record, read_preamble, read_record
from cvcodec.bitstream.trailer import IndexEntry, Ledger, Trailer, pack_trailer, unpack_trailer
from cvcodec.bitstream.wire import Readable, Writable, write_all
from cvcodec.errors import BitstreamError, TruncatedError, UnsupportedError

_OWN = (fmt.HEAD, fmt.CHNK, fmt.LVAR, fmt.TRLR, fmt.FOOT)


class BitstreamWriter:
    """Writes a file into `sink`, which needs nothing but `write`.

    The header goes out at once, each chunk as it comes, the trailer in `close`. As a context manager it closes only
    when no error passes, so that an abandoned file can be told from a finished one. `sink` stays open.
    """

    def __init__(self, sink: Writable, header: Header) -> None:
        """ValueError where the header's metadata cannot be stored."""
        payload = pack_header(header)
        self._sink, self.header, self._ledger = sink, header, Ledger()
        self._trailer: Trailer | None = None
        write_all(sink, pack_preamble())
        self._put(fmt.HEAD, payload, required=True)

    @property
    def bytes_written(self) -> int:
        """Size of the file so far."""
        return self._ledger.end

    @property
    def chunks(self) -> int:
        """How many there are so far: the index of the next one."""
        return self._ledger.chunks

    @property
    def latents(self) -> int:
        """How many there are so far: the first latent of the next chunk."""
        return self._ledger.latents

    @property
    def frames(self) -> int:
        """How many there are so far: the first frame of the next chunk."""
        return self._ledger.frames

    def write_chunk(self, chunk: Chunk) -> int:
        """Append a chunk and return the bytes it took. ValueError where it does not fit the header or does not continue
        the chunk before."""
        got = (chunk.index, chunk.first_latent, chunk.first_frame)
        if got != self._ledger.place:
            raise ValueError(f"chunk, first latent, first frame are {got}, wanted {self._ledger.place}")
        return self._put(fmt.CHNK, pack_chunk(chunk, self.header), required=True, info=chunk)

    def adopt(self, record: Record) -> ChunkInfo | None:
        """Take over a record that `sink` already holds at this place, instead of writing it: for an encode that is
        repeated over its partial file. `record`: a CHNK or LVAR record as read from there. Returns place and times of a
        chunk. BitstreamError for one that does not continue what was written."""
        info = unpack_info(record.payload, self.header) if record.type == fmt.CHNK else None
        self._ledger.add(record.type, record.size, record.checksum, info)
        return info

    def write_logvar(self, logvar: NDArray[np.float32]) -> int:
        """Append the log-variance, (C, t, h, w), of the chunk just written and return the bytes it took. ValueError
        where the header announces none, for another shape, or for values outside -30 to 20."""
        if not self.header.logvar or not self._ledger.entries:
            raise ValueError("a log-variance follows a chunk of a file whose header says `logvar`")
        shape = self.header.chunk_shape(self._ledger.entries[-1].latent_count)
        if logvar.shape != shape:
            raise ValueError(f"the log-variance is {logvar.shape}, wanted {shape}")
        return self._put(fmt.LVAR, pack_logvar(self.chunks - 1, logvar), required=False)

    def write_record(self, kind: str, payload: bytes, *, required: bool = False) -> int:
        """Append a record of any other type and return the bytes it took. `kind`: four characters from A-Z and 0-9;
        `required`: readers that do not know it must refuse the file. ValueError for the types of the format itself."""
        if kind in _OWN:
            raise ValueError(f"{kind} records belong to the format, choose another type")
        return self._put(kind, payload, required=required)

    def close(self, metadata: Mapping[str, Any] | None = None) -> Trailer:
        """Write the trailer and the footer; a second call changes nothing. `metadata`: any JSON object. ValueError for
        a file without chunks."""
        if self._trailer is None:
            trailer = self._ledger.trailer(metadata)
            offset = self._ledger.end
            self._put(fmt.TRLR, pack_trailer(trailer, self._ledger.head_end), required=True)
            self._put(fmt.FOOT, fmt.FOOTER.pack(offset), required=True)
            self._trailer = trailer
        return self._trailer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _put(self, kind: str, payload: bytes, *, required: bool, info: ChunkInfo | None = None) -> int:
        if self._trailer is not None:
            raise ValueError("the file is closed")
        data = pack_record(kind, payload, required=required)
        write_all(self._sink, data)
        (checksum,) = fmt.RECORD_TAIL.unpack_from(data, len(data) - fmt.RECORD_TAIL.size)
        self._ledger.add(kind, len(data), checksum, info)
        return len(data)


class BitstreamReader:
    """Reads a file from `source`, from where it stands; it needs nothing but `read`.

    A source that can be sought is opened at its end: header, trailer and index are known at once, a missing trailer is
    an error at once, and `read_chunk` works. On a pipe the records flow as they come, each verified; the trailer
    is known, and its absence an error, when they end. `source` stays open.
    """

    header: Header

    def __init__(self, source: Readable, *, sequential: bool = False) -> None:
        """`sequential`: do not seek even where `source` could. Raises BitstreamError: TruncatedError for a file that
        was not finished, UnsupportedError for a later version or a feature this release does not know."""
        self._source = source
        seekable = getattr(source, "seekable", None)
        self.seekable = not sequential and seekable is not None and bool(seekable())
        """Whether `read_chunk` works."""
        self.trailer: Trailer | None = None
        """Totals and index; on a pipe None until every record has been read."""
        self._base = self._file.tell() if self.seekable else 0
        self._started = False
        read_preamble(source)
        head = read_record(source, fmt.PREAMBLE.size)
        if head is None:
            raise TruncatedError("file ends before its header")
        if head.type != fmt.HEAD:
            raise BitstreamError(f"file begins with a {head.type} record, wanted {fmt.HEAD}")
        self.header = unpack_header(head.payload)
        self._head = head
        if self.seekable:
            self.trailer = self._open_trailer()

    @property
    def index(self) -> tuple[IndexEntry, ...]:
        """Where each chunk is. ValueError on a pipe before its end."""
        if self.trailer is None:
            raise ValueError("the index is at the end of the file, which has not been read yet")
        return self.trailer.index

    def records(self, handled: Collection[str] = ()) -> Iterator[Record]:
        """Every record between header and trailer, in order: CHNK, the types in `handled`, and optional ones of other
        types, which the caller may ignore. A required record of a type that is not handled is refused by name.

        At the end the trailer is compared with all that was read. Once only on a pipe; as often as wanted elsewhere,
        also with `read_chunk` in between.
        """
        if self._started and not self.seekable:
            raise ValueError("a pipe can be read only once")
        self._started = True
        return self._records(frozenset(handled) | {fmt.CHNK})

    def chunks(self, *, base_only: bool = False) -> Iterator[Chunk]:
        """Every chunk, in order; optional records are skipped, required ones of other types refused. Decoded one at a
        time."""
        for record in self.records():
            if record.type == fmt.CHNK:
                yield self.decode(record, base_only=base_only)

    def decode(self, record: Record, *, base_only: bool = False) -> Chunk:
        """The chunk in a CHNK record of this file. base_only: without its enhancement layer."""
        return unpack_chunk(record.payload, self.header, base_only=base_only)

    def read_info(self, number: int) -> ChunkInfo:
        """Place and time stamps of chunk `number`, without its latents; seeks."""
        return self._fetch(number)[1]

    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last (its beginning where its length is unknown); seeks."""
        last = self.read_info(len(self.index) - 1)
        end = int(last.pts[-1]) + max(int(last.durations[-1]), 0)
        return (end - self.index[0].first_pts) * self.header.time_base

    def read_chunk(self, number: int, *, base_only: bool = False) -> Chunk:
        """Chunk `number`; seeks. Its record is verified by checksum and against the index. IndexError outside the file,
        ValueError on a source that cannot be sought."""
        record, _ = self._fetch(number)
        return self.decode(record, base_only=base_only)

    def read_logvar(self, number: int) -> NDArray[np.float32]:
        """Log-variance of chunk `number`, (C, t, h, w) float32; seeks. Raises as `read_chunk` does, and BitstreamError
        where the file keeps none."""
        entry = self._entry(number)
        record = self._next(entry.end)
        if record.type != fmt.LVAR:
            raise BitstreamError(f"chunk {number} has no log-variance, a {record.type} record follows it")
        return unpack_logvar(record.payload, self.header, number, entry.latent_count)

    def side_records(self, first: int, stop: int | None = None) -> Iterator[Record]:
        """The records that are no chunks: those in front of the chunks [first, stop), without `stop` up to the trailer.
        Seeks, verifies each record, reads no chunk, and refuses required records by name."""
        count = len(self.index)
        for number in range(first, count + 1 if stop is None else min(stop, count)):
            offset = self.index[number - 1].end if number else self._head.end
            while (record := self._next(offset)).type not in (fmt.CHNK, fmt.TRLR):
                _refuse_unknown(record)
                yield record
                offset = record.end

    def verify(self, handled: Collection[str] = ()) -> Trailer:
        """Read and decode everything. Returns the trailer; raises BitstreamError for the first fault."""
        for record in self.records(handled):
            if record.type == fmt.CHNK:
                self.decode(record)
        assert self.trailer is not None
        return self.trailer

    @property
    def _file(self) -> BinaryIO:
        return cast(BinaryIO, self._source)

    def _records(self, handled: frozenset[str]) -> Iterator[Record]:
        ledger = Ledger()
        ledger.add(self._head.type, self._head.size, self._head.checksum)
        while True:
            record = self._next(ledger.end)
            if record.type == fmt.TRLR:
                break
            if record.type in (fmt.HEAD, fmt.FOOT):
                raise BitstreamError(f"{record.type} record at byte {record.offset} is out of place")
            if record.type not in handled:
                _refuse_unknown(record)
            info = unpack_info(record.payload, self.header) if record.type == fmt.CHNK else None
            ledger.add(record.type, record.size, record.checksum, info)
            yield record
        trailer = unpack_trailer(record.payload, self._head.end, record.offset)
        ledger.check(trailer)
        self._check_footer(self._next(record.end), record)
        if self._source.read(1):
            raise BitstreamError("file goes on after its footer")
        self.trailer = trailer

    def _next(self, offset: int) -> Record:
        """The record at `offset`: where a pipe stands, where a file is sought to."""
        if self.seekable:
            self._file.seek(self._base + offset)
        record = read_record(self._source, offset)
        if record is None:
            raise TruncatedError(f"file ends at byte {offset} without a trailer; it was not finished, or cut")
        return record

    def _open_trailer(self) -> Trailer:
        """The trailer, by way of the footer at the very end."""
        size = self._file.seek(0, io.SEEK_END) - self._base
        start = size - fmt.FOOTER_BYTES
        if start < self._head.end:
            raise TruncatedError(f"file ends at byte {size} without a trailer; it was not finished, or cut")
        self._file.seek(self._base + start)
        try:
            footer = read_record(self._source, start)
        except UnsupportedError:
            raise
        except BitstreamError as error:
            raise TruncatedError(f"file has no footer: it was not finished, cut, or changed ({error})") from error
        if footer is None or footer.type != fmt.FOOT:
            raise TruncatedError("file has no footer: it was not finished, cut, or changed")
        (offset,) = fmt.FOOTER.unpack(footer.payload)
        if not self._head.end <= offset < start:
            raise BitstreamError(f"footer is malformed: it places the trailer at byte {offset} of {size}")
        record = self._next(offset)
        self._check_footer(footer, record)
        return unpack_trailer(record.payload, self._head.end, offset)

    def _check_footer(self, footer: Record, trailer: Record) -> None:
        if trailer.type != fmt.TRLR or footer.type != fmt.FOOT or len(footer.payload) != fmt.FOOTER.size:
            raise BitstreamError(f"file ends with {trailer.type} and {footer.type} records, wanted TRLR and FOOT")
        if fmt.FOOTER.unpack(footer.payload)[0] != trailer.offset or footer.offset != trailer.end:
            raise BitstreamError(f"footer does not point to the trailer at byte {trailer.offset}")

    def _entry(self, number: int) -> IndexEntry:
        if not self.seekable:
            raise ValueError("chunks can be read out of order only from a file that can be sought")
        index = self.index
        if not 0 <= number < len(index):
            raise IndexError(f"chunk {number} is not in the file, it has {len(index)}")
        return index[number]

    def _fetch(self, number: int) -> tuple[Record, ChunkInfo]:
        entry = self._entry(number)
        record = self._next(entry.offset)
        if record.type != fmt.CHNK or record.size != entry.size:
            raise BitstreamError(f"index does not match the file: at byte {entry.offset} is a {record.type} record")
        info = unpack_info(record.payload, self.header)
        place = (info.index, info.first_latent, info.latent_count, info.first_frame, info.frame_count)
        if place != (number, entry.first_latent, entry.latent_count, entry.first_frame, entry.frame_count):
            raise BitstreamError(f"index does not match the file: at byte {entry.offset} is chunk {info.index}")
        return record, info


def _refuse_unknown(record: Record) -> None:
    if record.required:
        raise UnsupportedError(
            f"record {record.type} at byte {record.offset} is required, but not known to this release"
        )
