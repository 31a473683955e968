"""Unfinished files: what is found in them, and going on to the very bytes of an uninterrupted run."""

import io

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader, BitstreamWriter, read_record, scan_partial
from cvcodec.errors import BitstreamError, TruncatedError
from tests.bitstream.samples import make_chunks, make_file, make_header


def finish(data: bytes) -> bytes:
    """What an encoder does with an interrupted file: scan, take over what is whole, go on, close."""
    header, ledger = scan_partial(io.BytesIO(data))
    sink = io.BytesIO()
    with BitstreamWriter(sink, header) as writer:
        for chunk in make_chunks(header):
            if chunk.index < ledger.chunks:
                take_over(writer, sink, data)
            else:
                writer.write_chunk(chunk)
            writer.write_record("XPKT", bytes(range(chunk.index, chunk.index + 40)))
    return sink.getvalue()


def take_over(writer: BitstreamWriter, sink: io.BytesIO, data: bytes) -> None:
    """Have the writer adopt the record that `data` holds where it stands."""
    record = read_record(io.BytesIO(data[writer.bytes_written :]), writer.bytes_written)
    assert record is not None
    sink.write(data[record.offset : record.end])
    writer.adopt(record)


def test_a_file_cut_anywhere_behind_its_header_is_finished_to_the_same_bytes():
    data = make_file()
    head_end = BitstreamReader(io.BytesIO(data)).index[0].offset
    entries = BitstreamReader(io.BytesIO(data)).index
    edges = [entry.offset for entry in entries] + [entry.offset + entry.size for entry in entries]
    cuts = set(range(head_end, len(data), 1499)) | {at + near for at in edges for near in (-1, 0, 1)}
    cuts |= set(range(len(data) - 120, len(data), 7))
    for cut in sorted(cut for cut in cuts if head_end <= cut < len(data)):
        assert finish(data[:cut]) == data, cut


def test_what_is_damaged_is_cut_off_with_all_behind_it():
    data = make_file()
    entry = BitstreamReader(io.BytesIO(data)).index[1]
    damaged = bytearray(data)
    damaged[entry.offset + 50] ^= 4
    _, ledger = scan_partial(io.BytesIO(damaged))
    assert (ledger.chunks, ledger.latents, ledger.frames) == (1, 5, 17)
    assert ledger.end == ledger.entries[0].offset + ledger.entries[0].size
    assert finish(bytes(damaged)) == data


def test_a_complete_file_is_intact_to_its_last_chunk():
    data = make_file()
    _, ledger = scan_partial(io.BytesIO(data))
    assert tuple(ledger.entries) == BitstreamReader(io.BytesIO(data)).index
    assert finish(data) == data


@pytest.mark.parametrize("length", [0, 5, 8, 20, 100])
def test_without_a_whole_header_there_is_nothing_to_resume(length):
    with pytest.raises(TruncatedError):
        scan_partial(io.BytesIO(make_file()[:length]))


def test_another_kind_of_file_is_refused():
    with pytest.raises(BitstreamError, match=r"not a \.cvl file"):
        scan_partial(io.BytesIO(b"RIFF....AVI "))


def test_a_chunk_is_whole_only_with_its_log_variance():
    header = make_header(logvar=True)
    sink = io.BytesIO()
    ends = []
    with BitstreamWriter(sink, header) as writer:
        for chunk in make_chunks(header):
            writer.write_record("PKTS", bytes(30))
            writer.write_chunk(chunk)
            writer.write_logvar(np.full(chunk.symbols.shape, -3.5, np.float32))
            ends.append(writer.bytes_written)
    data = sink.getvalue()
    for whole, end in enumerate(ends, start=1):
        for cut, chunks in ((end - 1, whole - 1), (end, whole), (end + 40, whole)):
            _, ledger = scan_partial(io.BytesIO(data[:cut]))
            assert ledger.chunks == chunks
            assert ledger.end == (ends[chunks - 1] if chunks else ledger.head_end)
    entry = BitstreamReader(io.BytesIO(data)).index[1]
    without = data[: entry.offset + entry.size] + data[ends[1] :]
    assert scan_partial(io.BytesIO(without))[1].chunks == 1
    sink = io.BytesIO()
    with BitstreamWriter(sink, header) as writer:
        for chunk in make_chunks(header):
            writer.write_record("PKTS", bytes(30))
            if chunk.index < 2:
                take_over(writer, sink, data)
                take_over(writer, sink, data)
            else:
                writer.write_chunk(chunk)
                writer.write_logvar(np.full(chunk.symbols.shape, -3.5, np.float32))
    assert sink.getvalue() == data


def test_records_taken_over_leave_the_trailer_of_one_run():
    data = make_file()
    entries = BitstreamReader(io.BytesIO(data)).index
    sink = io.BytesIO()
    with BitstreamWriter(sink, make_header()) as writer:
        for chunk in make_chunks(make_header()):
            if chunk.index == 0:  # as if `sink` held it already
                source = io.BytesIO(data[entries[0].offset :])
                record = read_record(source, entries[0].offset)
                assert record is not None
                sink.write(data[entries[0].offset : record.end])
                info = writer.adopt(record)
                assert info is not None
                assert (info.index, info.end_frame) == (0, 17)
            else:
                writer.write_chunk(chunk)
            writer.write_record("XPKT", bytes(range(chunk.index, chunk.index + 40)))
        with pytest.raises(BitstreamError, match="out of order"):
            writer.adopt(record)
    assert sink.getvalue() == data
