"""The `.cvl` format: `format` is its specification. numpy and zstandard only: no torch, no av, no paths.

From the bottom up: `format` (bytes and limits), `wire` (exact reads, varints, blocks, JSON), `header` (what is known
before the first chunk), `contexts` and `entropy` (symbols <-> payload), `rate_distortion` (symbols that are worth their
bits), `chunk` (one chunk <-> one payload), `records` (framing and checksums), `trailer` (totals, index, and the ledger
that writer and reader share), `file` (writer and reader) and `recovery` (unfinished and damaged files).
"""

from cvcodec.bitstream.chunk import UNKNOWN, Chunk, ChunkInfo
from cvcodec.bitstream.file import BitstreamReader, BitstreamWriter
from cvcodec.bitstream.format import FLAG_CONCEALED
from cvcodec.bitstream.header import ENHANCEMENT, ColorTags, Enhancement, Header
from cvcodec.bitstream.records import Record, read_record
from cvcodec.bitstream.recovery import Gap, Lost, Salvage, scan_partial, scan_records
from cvcodec.bitstream.trailer import IndexEntry, RecordTotal, Trailer

__all__ = [
    "ENHANCEMENT",
    "FLAG_CONCEALED",
    "UNKNOWN",
    "BitstreamReader",
    "BitstreamWriter",
    "Chunk",
    "ChunkInfo",
    "ColorTags",
    "Enhancement",
    "Gap",
    "Header",
    "IndexEntry",
    "Lost",
    "Record",
    "RecordTotal",
    "Salvage",
    "Trailer",
    "read_record",
    "scan_partial",
    "scan_records",
]
