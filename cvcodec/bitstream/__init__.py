"""The `.cvl` format: `format` is its specification. numpy and zstandard only: no torch, no av, no paths.

From the bottom up: `format` (bytes and limits), `wire` (exact reads, varints, blocks), `header` and `header_json` (what
is known before the first chunk), `contexts`, `packing` and `entropy` (symbols <-> payload), `rate_distortion` (symbols
that are worth their bits), `chunk` and `logvar` (one chunk <-> one payload), `records` (framing and checksums),
`trailer` (totals, index, and the ledger that writer and reader share), `writer`, `reader`, `partial` (unfinished files)
and `salvage` (damaged files).
"""

from cvcodec.bitstream.chunk import UNKNOWN, Chunk, ChunkInfo
from cvcodec.bitstream.format import FLAG_CONCEALED
from cvcodec.bitstream.header import ENHANCEMENT, ColorTags, Enhancement, Header
from cvcodec.bitstream.partial import PartialFile
from cvcodec.bitstream.reader import BitstreamReader
from cvcodec.bitstream.records import Gap, Record, read_record, scan_records
from cvcodec.bitstream.salvage import Lost, Salvage
from cvcodec.bitstream.trailer import IndexEntry, RecordTotal, Trailer
from cvcodec.bitstream.writer import BitstreamWriter

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
    "PartialFile",
    "Record",
    "RecordTotal",
    "Salvage",
    "Trailer",
    "read_record",
    "scan_records",
]
