"""Going on with the partial file of an interrupted encode.

The encode is repeated from its beginning, but what the partial file holds already is compared instead of written, and
chunks are taken over without running the model; only the last one is encoded again. So the finished file is, byte for
byte, that of an uninterrupted run, or the difference is found: another source (times and copied packets of all frames
are compared, the pixels of the last chunk's), other settings, other weights, another arithmetic.

Owns: what of a partial file can be used, and the comparison.
Does not know: models, windows, where the file lies.
"""

from __future__ import annotations

import dataclasses
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import BitstreamReader, BitstreamWriter, ChunkInfo, Header, IndexEntry, read_record
from cvcodec.bitstream.header import dump_header, load_header
from cvcodec.errors import BitstreamError, OutputError, TruncatedError

_SHOWN = 60  # characters of a value that still fit into a message


class PartialSink:
    """The partial file as what a `BitstreamWriter` writes into.

    file: can be read, written, sought and truncated. Nothing of it changes until all it holds has been found equal.
    header: of the partial file; None where it holds no whole chunk, and the encode begins from nothing.
    chunks: to take over with `adopt`, in order; the chunk behind them is in the file too, and is to be encoded again.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """name: of the file, for messages. Raises OutputError for a file that is no partial .cvl of this release."""
        self._file = file
        self._name = name
        self._at = self._until = 0
        self.header: Header | None = None
        self.chunks: tuple[IndexEntry, ...] = ()
        file.seek(0)
        try:
            partial = BitstreamReader.scan_partial(file)
        except TruncatedError:  # it was stopped before its header was out
            partial = None
        except BitstreamError as error:
            raise OutputError(
                f"{self._name} cannot be continued: {error}; remove it, or start over without --resume"
            ) from error
        if partial is not None and partial.chunks:
            self.header = partial.header
            self.chunks = partial.index[:-1]
            self._until = partial.resume_at
        file.seek(0)
        if not self._until:
            file.truncate()

    @property
    def done(self) -> bool:
        """Whether everything the file held has been written again."""
        return self._at >= self._until

    def check_header(self, wanted: Header) -> None:
        """OutputError, which names what differs, unless an encode with header `wanted` may go on here."""
        if self.header is None or dump_header(self.header) == dump_header(wanted):
            return
        wanted = load_header(dump_header(wanted))
        differences = []
        for entry in dataclasses.fields(Header):
            stored, given = getattr(self.header, entry.name), getattr(wanted, entry.name)
            if stored != given:
                shown = f"{stored} there, {given} now"
                differences.append(f"{entry.name}: {shown}" if len(shown) <= _SHOWN else entry.name)
        raise self.mismatch("its header differs in " + ", ".join(differences[:4]))

    def mismatch(self, why: str) -> OutputError:
        """The error to raise when the partial file is not the beginning of this encode."""
        return OutputError(
            f"{self._name} was made from another source, with other settings or on another machine: {why}; "
            "use the same, or start over with -y and without --resume"
        )

    def write(self, data: Any) -> int:
        """Compare with what is there; behind that, write."""
        view = memoryview(data).cast("B")
        known = min(len(view), self._until - self._at)
        if known > 0:
            self._file.seek(self._at)
            if self._file.read(known) != view[:known]:
                raise self.mismatch(f"what it holds at byte {self._at} is not what is encoded now")
            self._advance(known)
            view = view[known:]
        if len(view):
            self._file.write(view)
            self._at += len(view)
        return max(known, 0) + len(view)

    def flush(self) -> None:
        """Hand what was written to the system, so that it survives this process."""
        self._file.flush()

    def adopt(
        self, writer: BitstreamWriter, pts: NDArray[np.int64], durations: NDArray[np.int64], flags: NDArray[np.uint8]
    ) -> ChunkInfo:
        """Let `writer` take over the next chunk, and its log-variance, whose frames have these times now."""
        self._file.seek(self._at)
        info: ChunkInfo | None = None
        for _ in range(2 if writer.header.logvar else 1):
            record = read_record(self._file, self._at)
            if record is None or record.type != ("CHNK" if info is None else "LVAR"):
                raise self.mismatch(f"copied streams differ in front of byte {self._at}")
            found = writer.adopt(record)
            info = found if info is None else info
            self._advance(record.size)
        assert info is not None
        same = [np.array_equal(a, b) for a, b in ((info.pts, pts), (info.durations, durations), (info.flags, flags))]
        if not all(same):
            raise self.mismatch(f"frames {info.first_frame} to {info.end_frame - 1} had other times")
        return info

    def _advance(self, size: int) -> None:
        self._at += size
        if self._at >= self._until:  # all was equal: what lies behind the last whole chunk is written again
            self._file.seek(self._at)
            self._file.truncate()
        else:
            self._file.seek(self._at)
