"""What a damaged file still holds.

Owns: walking over damage, and saying which latents and frames are lost.
Does not know: how records are found (`records.scan_records`), what to show instead of what is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.chunk import Chunk, unpack_chunk
from cvcodec.bitstream.header import Header
from cvcodec.bitstream.header_json import unpack_header
from cvcodec.bitstream.records import Gap, Record, scan_records
from cvcodec.bitstream.trailer import Trailer, unpack_trailer
from cvcodec.bitstream.wire import Readable
from cvcodec.errors import BitstreamError


@dataclass(frozen=True, kw_only=True)
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
            elif part.type == fmt.TRLR:
                self._keep_trailer(part)
            elif part.type == fmt.CHNK:
                chunk = self._decode(part)
                if chunk is None or chunk.index < number or chunk.first_latent < latent or chunk.first_frame < frame:
                    continue
                if chunk.index > number:
                    yield Lost(
                        first_latent=latent,
                        latent_count=chunk.first_latent - latent,
                        first_frame=frame,
                        frame_count=chunk.first_frame - frame,
                    )
                latent, frame, number = chunk.end_latent, chunk.end_frame, chunk.index + 1
                yield chunk
            elif part.type not in (fmt.HEAD, fmt.FOOT):
                yield part
        if self.trailer is None:
            yield Lost(first_latent=latent, latent_count=None, first_frame=frame, frame_count=None)
        elif self.trailer.frames > frame:
            yield Lost(
                first_latent=latent,
                latent_count=self.trailer.latents - latent,
                first_frame=frame,
                frame_count=self.trailer.frames - frame,
            )

    def _decode(self, record: Record) -> Chunk | None:
        try:
            return unpack_chunk(record.payload, self.header, base_only=self._base_only)
        except BitstreamError:
            self.damaged_bytes += record.size
            return None

    def _keep_trailer(self, record: Record) -> None:
        try:
            self.trailer = unpack_trailer(record.payload, self._head_end, None)
        except BitstreamError:
            self.damaged_bytes += record.size
