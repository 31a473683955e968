"""Chunks and other records -> a `.cvl` byte stream, forwards only.

Owns: the order of what is written, and picking up where an interrupted writer stopped.
Does not know: paths, temporary files, where chunks come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.chunk import Chunk, ChunkInfo, pack_chunk, unpack_info
from cvcodec.bitstream.header import Header
from cvcodec.bitstream.header_json import pack_header
from cvcodec.bitstream.logvar import pack_logvar
from cvcodec.bitstream.partial import PartialFile
from cvcodec.bitstream.records import Record, pack_preamble, pack_record
from cvcodec.bitstream.trailer import Ledger, Trailer, pack_trailer
from cvcodec.bitstream.wire import Writable, write_all

_OWN = (fmt.HEAD, fmt.CHNK, fmt.LVAR, fmt.TRLR, fmt.FOOT)


class BitstreamWriter:
    """Writes a file into `sink`, which needs nothing but `write`.

    The header goes out at once, each chunk as it comes, the trailer in `close`. As a context manager it closes only
    when no error passes, so that an abandoned file can be told from a finished one. `sink` stays open.
    """

    def __init__(self, sink: Writable, header: Header) -> None:
        """ValueError where the header's metadata cannot be stored."""
        self._sink = sink
        self._header = header
        self._ledger = Ledger()
        self._trailer: Trailer | None = None
        payload = pack_header(header)
        write_all(sink, pack_preamble())
        self._put(fmt.HEAD, payload, required=True)
        self._head_end = self._ledger.end

    @classmethod
    def resume(cls, sink: BinaryIO, partial: PartialFile) -> Self:
        """Continue the file that `BitstreamReader.scan_partial` found: `sink` can be sought and truncated, and begins
        where the file begins. What lies behind the last intact chunk is cut off; the next chunk to write is number
        `partial.chunks`. ValueError for a file that is already complete."""
        if partial.complete:
            raise ValueError("the file is complete, there is nothing to resume")
        sink.seek(partial.resume_at)
        sink.truncate()
        writer = cls.__new__(cls)
        writer._sink = sink
        writer._header = partial.header
        writer._ledger = partial.ledger.copy()
        writer._trailer = None
        writer._head_end = partial.head_end
        return writer

    @property
    def header(self) -> Header:
        """The header of the file."""
        return self._header

    @property
    def bytes_written(self) -> int:
        """Bytes of the file so far."""
        return self._ledger.end

    @property
    def chunks(self) -> int:
        """Chunks so far: the index of the next one."""
        return len(self._ledger.entries)

    @property
    def latents(self) -> int:
        """Latents so far: the first latent of the next chunk."""
        return self._ledger.latents

    @property
    def frames(self) -> int:
        """Frames so far: the first frame of the next chunk."""
        return self._ledger.frames

    def write_chunk(self, chunk: Chunk) -> int:
        """Append a chunk and return the bytes it took. ValueError where it does not fit the header or does not continue
        the chunk before."""
        wanted = (self.chunks, self.latents, self.frames)
        got = (chunk.index, chunk.first_latent, chunk.first_frame)
        if got != wanted:
            raise ValueError(f"chunk, first latent, first frame are {got}, wanted {wanted}")
        return self._put(fmt.CHNK, pack_chunk(chunk, self._header), required=True, info=chunk)

    def adopt(self, record: Record) -> ChunkInfo | None:
        """Take over a record that `sink` already holds at this place, instead of writing it: for an encode that is
        repeated over its partial file. `record`: a CHNK or LVAR record as read from there. Returns place and times of a
        chunk. BitstreamError for one that does not continue what was written."""
        info = unpack_info(record.payload, self._header) if record.type == fmt.CHNK else None
        self._ledger.add(record.type, record.size, record.checksum, info)
        return info

    def write_logvar(self, logvar: NDArray[np.float32]) -> int:
        """Append the log-variance, (C, t, h, w), of the chunk just written and return the bytes it took. ValueError
        where the header announces none, for another shape, or for values outside -30 to 20."""
        if not self._header.logvar or not self._ledger.entries:
            raise ValueError("a log-variance follows a chunk of a file whose header says `logvar`")
        wanted = self._header.chunk_shape(self._ledger.entries[-1].latent_count)
        if logvar.shape != wanted:
            raise ValueError(f"the log-variance is {logvar.shape}, wanted {wanted}")
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
            self._put(fmt.TRLR, pack_trailer(trailer, self._head_end), required=True)
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
