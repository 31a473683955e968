"""Everything that a file holds, read as a decoder reads it, without a model: what it would refuse is refused.

Owns: the order of these checks. Does not know: what each of them is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cvcodec.bitstream import BitstreamReader, Chunk, Trailer
from cvcodec.bitstream.chunk import unpack_logvar
from cvcodec.bitstream.format import CHNK, LVAR
from cvcodec.codec.headers import open_reader
from cvcodec.codec.input import Run
from cvcodec.errors import BitstreamError
from cvcodec.passthrough.player import Player
from cvcodec.passthrough.records import COPIED_TYPES

_AT_ONCE = 64  # latents


def verify(source: BinaryIO) -> tuple[BitstreamReader, Trailer]:
    """Read `source`, a file or a pipe, to its end. Raises BitstreamError for the first fault in it."""
    reader = open_reader(source)
    player = Player()
    feed = Run(_chunks(reader, player), reader.header)
    latent = 0
    while feed.read(latent, latent + _AT_ONCE) is not None:
        latent += _AT_ONCE
        feed.times.clear()
    player.check_streams()
    assert reader.trailer is not None
    return reader, reader.trailer


def _chunks(reader: BitstreamReader, player: Player) -> Iterator[Chunk]:
    header = reader.header
    before: Chunk | None = None  # the chunk whose log-variance is due
    for record in reader.records(COPIED_TYPES):
        if header.logvar and (record.type == LVAR) != (before is not None):
            raise BitstreamError(f"record {record.type} at byte {record.offset}: each chunk has one log-variance")
        if record.type == CHNK:
            chunk = reader.decode(record)
            yield chunk
            before = chunk if header.logvar else None
        elif before is not None:
            unpack_logvar(record.payload, header, before.index, before.latent_count)
            before = None
        else:
            player.feed(record.type, record.payload)
            player.forget()
