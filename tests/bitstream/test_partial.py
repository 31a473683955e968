"""Unfinished files: what is found in them, and going on to the very bytes of an uninterrupted run."""

import io

import pytest

from cvcodec.bitstream import BitstreamReader, BitstreamWriter
from cvcodec.errors import BitstreamError, TruncatedError
from tests.bitstream.samples import make_chunks, make_file


def finish(data: bytes) -> bytes:
    """What an encoder does with an interrupted file: scan, go on, close."""
    sink = io.BytesIO(data)
    partial = BitstreamReader.scan_partial(sink)
    chunks = make_chunks(partial.header)
    with BitstreamWriter.resume(sink, partial) as writer:
        if partial.chunks and partial.chunks <= len(chunks):
            writer.write_record("XPKT", bytes(range(partial.chunks - 1, partial.chunks + 39)))
        for chunk in chunks[partial.chunks :]:
            writer.write_chunk(chunk)
            writer.write_record("XPKT", bytes(range(chunk.index, chunk.index + 40)))
    return sink.getvalue()


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
    partial = BitstreamReader.scan_partial(io.BytesIO(damaged))
    assert (partial.chunks, partial.latents, partial.frames) == (1, 5, 17)
    assert partial.valid_until == entry.offset
    assert partial.resume_at == partial.index[0].offset + partial.index[0].size
    assert "CHNK" in (partial.damage or "")
    assert finish(bytes(damaged)) == data


def test_a_complete_file_is_told_and_not_resumed():
    data = make_file()
    partial = BitstreamReader.scan_partial(io.BytesIO(data))
    assert (partial.complete, partial.damage, partial.valid_until) == (True, None, len(data))
    with pytest.raises(ValueError, match="complete"):
        BitstreamWriter.resume(io.BytesIO(data), partial)


@pytest.mark.parametrize("length", [0, 5, 8, 20, 100])
def test_without_a_whole_header_there_is_nothing_to_resume(length):
    with pytest.raises(TruncatedError):
        BitstreamReader.scan_partial(io.BytesIO(make_file()[:length]))


def test_another_kind_of_file_is_refused():
    with pytest.raises(BitstreamError, match=r"not a \.cvl file"):
        BitstreamReader.scan_partial(io.BytesIO(b"RIFF....AVI "))
