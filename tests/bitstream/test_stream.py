"""Whole files: byte literals of the framing, pipes both ways, random access, and everything a reader refuses."""

import dataclasses
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader, BitstreamWriter
from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.records import pack_record
from cvcodec.bitstream.recovery import scan_records
from cvcodec.bitstream.trailer import pack_trailer, unpack_trailer
from cvcodec.errors import BitstreamError, ChecksumError, TruncatedError, UnsupportedError
from tests.bitstream.plain_reader import decode_values, read_file
from tests.bitstream.samples import Trickle, assert_same_chunk, make_chunks, make_file, make_header

OPENINGS = {
    "file": io.BytesIO,
    "sequential file": io.BytesIO,
    "pipe of single bytes": Trickle,
}


def open_reader(data: bytes, how: str = "file") -> BitstreamReader:
    return BitstreamReader(OPENINGS[how](data), sequential=how.startswith("seq"))


def records_of(data: bytes) -> list[bytes]:
    """The records of a file, split by their length fields alone."""
    pieces, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 5)
        pieces.append(data[at : at + length + 15])
        at += length + 15
    return pieces


def forge(pieces: list[bytes]) -> bytes:
    """A file of these records, with a footer that is right."""
    trailer = 8 + sum(len(piece) for piece in pieces[: max(n for n, p in enumerate(pieces) if p[:4] == b"TRLR")])
    footer = pack_record("FOOT", struct.pack("<Q", trailer), required=True)
    return b"\x89CVL\r\n\x01\x00" + b"".join(footer if piece[:4] == b"FOOT" else piece for piece in pieces)


def test_a_record_is_type_flags_length_check_payload_crc():
    head = b"ABCD\x01\x03\x00\x00\x00"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    wanted = head + b"xyz" + struct.pack("<I", zlib.crc32(head + b"xyz"))
    assert pack_record("ABCD", b"xyz", required=True) == wanted


@pytest.mark.parametrize("kind", ["abcd", "ABC", "ABCDE", "AB D", "ÄBCD"])
def test_record_types_are_four_capitals_or_digits(kind):
    with pytest.raises(ValueError, match="four characters"):
        pack_record(kind, b"", required=False)


def test_a_file_is_magic_version_and_records_in_order():
    data = make_file()
    assert data[:8] == bytes.fromhex("89 43 56 4c 0d 0a 01 00")
    kinds = [piece[:4].decode() for piece in records_of(data)]
    assert kinds == ["HEAD", "CHNK", "XPKT", "CHNK", "XPKT", "CHNK", "XPKT", "TRLR", "FOOT"]
    trailer = len(data) - 23 - len(records_of(data)[-2])
    assert data[-12:-4] == struct.pack("<Q", trailer)


def test_a_plain_reader_finds_the_same_file():
    header, chunks, others = read_file(make_file(), fmt.HEADER_DICTIONARY)
    assert (header["width"], header["height"], header["time_base"]) == (125, 90, [1, 1000])
    assert others == [("XPKT", bytes(range(n, n + 40))) for n in range(3)]
    for plain, chunk in zip(chunks, make_chunks(make_header()), strict=True):
        assert plain.place == (
            chunk.index,
            chunk.first_latent,
            chunk.latent_count,
            chunk.first_frame,
            chunk.frame_count,
        )
        assert plain.pts == chunk.pts.tolist()
        assert decode_values(plain) == chunk.symbols.reshape(-1).tolist()


@pytest.mark.parametrize("how", OPENINGS)
def test_everything_comes_back(how):
    reader = open_reader(make_file(), how)
    assert reader.header == make_header()
    for got, wanted in zip(reader.chunks(), make_chunks(make_header()), strict=True):
        assert_same_chunk(got, wanted)
    assert reader.trailer is not None
    assert (reader.trailer.latents, reader.trailer.frames, len(reader.index)) == (12, 17 + 20 + 6, 3)


def test_a_writer_needs_nothing_but_a_write_that_takes_one_byte():
    sink = Trickle()
    header = make_header()
    with BitstreamWriter(sink, header) as writer:
        for chunk in make_chunks(header):
            writer.write_chunk(chunk)
    assert bytes(sink.data) == make_file(packets=False)


def test_records_of_other_types_pass_through_in_their_place():
    reader = open_reader(make_file(), "pipe of single bytes")
    seen = [(record.type, record.payload[:1]) for record in reader.records({"XPKT"})]
    assert [kind for kind, _ in seen] == ["CHNK", "XPKT"] * 3
    assert [payload for kind, payload in seen if kind == "XPKT"] == [b"\0", b"\1", b"\2"]


def test_an_unknown_required_record_is_refused_by_name_unless_it_is_handled():
    sink = io.BytesIO()
    with BitstreamWriter(sink, make_header()) as writer:
        for chunk in make_chunks(make_header()):
            writer.write_chunk(chunk)
        writer.write_record("WARP", b"factor 9", required=True)
    with pytest.raises(UnsupportedError, match="WARP"):
        list(open_reader(sink.getvalue()).chunks())
    kinds = [record.type for record in open_reader(sink.getvalue()).records(["WARP"])]
    assert kinds == ["CHNK"] * 3 + ["WARP"]


def test_index_and_totals_are_where_the_bytes_are():
    data = make_file()
    reader = open_reader(data)
    assert reader.trailer is not None
    for number, entry in enumerate(reader.index):
        assert (
            data[entry.offset : entry.offset + entry.size] == [p for p in records_of(data) if p[:4] == b"CHNK"][number]
        )
        assert (entry.first_pts, entry.last_pts) == (
            make_chunks(make_header())[number].pts.min(),
            make_chunks(make_header())[number].pts.max(),
        )
    assert reader.trailer.chunk_bytes == sum(len(p) for p in records_of(data) if p[:4] == b"CHNK")
    assert {kind: (t.count, t.size) for kind, t in reader.trailer.records.items()} == {
        "HEAD": (1, len(records_of(data)[0])),
        "CHNK": (3, reader.trailer.chunk_bytes),
        "XPKT": (3, 3 * 55),
    }


def test_chunks_are_read_in_any_order_and_only_what_they_need():
    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            self.count += len(piece)
            return piece

    wanted = make_chunks(make_header())
    source = Counting(make_file())
    reader = BitstreamReader(source)
    opened = source.count
    assert opened < len(source.getvalue()) / 2
    for number in (2, 0, 1, 1):
        source.count = 0
        assert_same_chunk(reader.read_chunk(number), wanted[number])
        assert source.count == reader.index[number].size
    assert reader.read_info(1).pts.tolist() == wanted[1].pts.tolist()
    with pytest.raises(IndexError):
        reader.read_chunk(3)
    with pytest.raises(IndexError):
        reader.read_chunk(-1)


def test_reading_in_order_and_out_of_order_mix():
    wanted = make_chunks(make_header())
    reader = open_reader(make_file())
    for number, chunk in enumerate(reader.chunks()):
        assert_same_chunk(reader.read_chunk(2 - number), wanted[2 - number])
        assert_same_chunk(chunk, wanted[number])
    assert len(list(reader.chunks())) == 3


def test_the_index_answers_which_chunk_holds_what():
    trailer = open_reader(make_file()).trailer
    assert trailer is not None
    assert [trailer.chunk_of_latent(n) for n in (0, 4, 5, 9, 10, 11)] == [0, 0, 1, 1, 2, 2]
    assert [trailer.chunk_of_frame(n) for n in (0, 16, 17, 36, 37, 42)] == [0, 0, 1, 1, 2, 2]
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            trailer.chunk_of_latent(outside)
    with pytest.raises(IndexError):
        trailer.chunk_of_frame(43)


def test_a_file_may_begin_in_the_middle_of_its_source():
    source = io.BytesIO(b"prefix" + make_file())
    source.seek(6)
    reader = BitstreamReader(source)
    assert_same_chunk(reader.read_chunk(2), make_chunks(make_header())[2])
    reader.verify()


def test_trailer_metadata_comes_back():
    sink = io.BytesIO()
    writer = BitstreamWriter(sink, make_header())
    for chunk in make_chunks(make_header()):
        writer.write_chunk(chunk)
    writer.close({"concealed": 1, "note": "é"})
    size = sink.tell()
    writer.close()
    assert sink.tell() == size
    assert open_reader(sink.getvalue()).verify().metadata == {"concealed": 1, "note": "é"}


def test_an_error_leaves_a_file_without_a_trailer():
    sink = io.BytesIO()
    with pytest.raises(KeyboardInterrupt), BitstreamWriter(sink, make_header()) as writer:
        writer.write_chunk(make_chunks(make_header())[0])
        raise KeyboardInterrupt
    with pytest.raises(TruncatedError):
        open_reader(sink.getvalue())


def test_on_a_pipe_verified_chunks_flow_before_a_missing_trailer_is_an_error():
    data = make_file()
    cut = data[: open_reader(data).index[2].offset]
    chunks = open_reader(cut, "pipe of single bytes").chunks()
    assert [next(chunks).index, next(chunks).index] == [0, 1]
    with pytest.raises(TruncatedError, match="without a trailer"):
        next(chunks)


def test_every_truncation_is_an_error_in_a_file_and_on_a_pipe():
    data = make_file(make_header(width=16, height=16, padding=(0, 0, 0, 0)), (2, 1))
    for length in range(len(data)):
        with pytest.raises(TruncatedError):
            open_reader(data[:length]).verify()
        with pytest.raises(TruncatedError):
            open_reader(data[:length], "sequential file").verify()


def test_every_changed_byte_is_an_error():
    data = make_file(make_header(width=16, height=16, padding=(0, 0, 0, 0)), (2, 1))
    for at in range(len(data)):
        for flip in (0x01, 0xFF):
            changed = bytearray(data)
            changed[at] ^= flip
            with pytest.raises(BitstreamError):
                open_reader(bytes(changed), "sequential file" if at % 2 else "file").verify()


@pytest.mark.parametrize("how", OPENINGS)
def test_bytes_behind_the_footer_are_an_error(how):
    with pytest.raises(BitstreamError):
        open_reader(make_file() + b"\0", how).verify()


@pytest.mark.parametrize(
    "change",
    [
        lambda r: [r[0], r[3], r[1], *r[2:3], *r[4:]],  # chunks swapped
        lambda r: [*r[:2], *r[3:]],  # an optional record taken out
        lambda r: [*r[:3], r[2], *r[3:]],  # an optional record doubled
        lambda r: [*r[:2], r[4], r[3], r[2], *r[5:]],  # optional records swapped
        lambda r: [*r[:3], *r[5:]],  # a chunk taken out
        lambda r: [*r[:3], r[1], *r[3:]],  # a chunk doubled
        lambda r: [*r[:3], r[0], *r[3:]],  # a second header
        lambda r: r[1:],  # no header
        lambda r: [r[0], *r[-2:]],  # no chunks
        lambda r: r[:-1],  # no footer
        lambda r: [*r[:-2], r[-1]],  # no trailer
        lambda r: [*r[:-2], r[-2], r[-2], r[-1]],  # two trailers
        lambda r: [*r, r[-1]],  # two footers
        lambda r: [*r[:-1], r[2], r[-1]],  # a record behind the trailer
    ],
)
@pytest.mark.parametrize("how", ["file", "sequential file"])
def test_records_that_are_intact_but_not_where_they_were_are_an_error(change, how):
    data = make_file()
    pieces = change(records_of(data))
    has_trailer = any(piece[:4] == b"TRLR" for piece in pieces)
    changed = forge(pieces) if has_trailer else data[:8] + b"".join(pieces)
    assert changed != data
    with pytest.raises(BitstreamError):
        open_reader(changed, how).verify()


def test_an_index_that_lies_is_found_out_without_reading_everything():
    data, other = make_file(), make_file(lengths=(5, 4, 3))
    pieces, others = records_of(data), records_of(other)
    with pytest.raises(BitstreamError):
        open_reader(forge([*pieces[:-2], *others[-2:]])).read_chunk(1)


def forged_index(change) -> bytes:
    """A file whose index holds, between its own entries, what `change` makes of the first."""
    data = make_file()
    pieces = records_of(data)
    trailer = BitstreamReader(io.BytesIO(data)).trailer
    head_end = 8 + len(pieces[0])
    payload = pack_trailer(dataclasses.replace(trailer, index=tuple(change(trailer.index))), head_end)
    pieces[-2] = pack_record("TRLR", payload, required=True)
    return forge(pieces)


def repeated(index, count, size):
    """`count` entries of `size` bytes, one behind the other."""
    first = index[0]
    return [
        dataclasses.replace(first, offset=first.offset + n * size, size=size, first_pts=0, last_pts=0)
        for n in range(count)
    ]


@pytest.mark.parametrize("how", ["file", "sequential file"])
@pytest.mark.parametrize(
    "change",
    [
        lambda index: repeated(index, 200_000, 30),  # more than a file of that size can hold
        lambda index: repeated(index, 60, 29),  # smaller than a chunk
        lambda index: repeated(index, 60, 1000),  # reach past the trailer
        lambda index: [dataclasses.replace(index[0], latent_count=1, frame_count=65)],
    ],
)
def test_an_index_that_the_file_cannot_hold_is_refused_before_it_is_built(change, how):
    data = forged_index(change)
    assert len(data) < 30_000
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match="trailer is malformed"):
            open_reader(data, how).verify({"XPKT"})
        assert tracemalloc.get_traced_memory()[1] < 6_000_000
    finally:
        tracemalloc.stop()


def test_the_index_of_a_long_video_that_never_changes_can_be_read():
    entry = open_reader(make_file()).index[0]
    entries = tuple(
        dataclasses.replace(entry, offset=500 + 100 * n, size=100, first_latent=5 * n, first_frame=17 * n)
        for n in range(20_000)
    )
    trailer = dataclasses.replace(open_reader(make_file()).trailer, index=entries)
    payload = pack_trailer(trailer, 500)
    assert len(payload) < 2000
    assert unpack_trailer(payload, 500, 500 + 100 * 20_000) == trailer


def test_a_record_that_claims_4_gigabytes_is_refused():
    head = b"CHNK\x01\xff\xff\xff\xff"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    data = make_file()
    at = open_reader(data).index[0].offset
    with pytest.raises(BitstreamError, match="claims 4294967295 bytes"):
        list(open_reader(data[:at] + head + data[at + 11 :], "sequential file").chunks())


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", TruncatedError, "before its version"),
        (b"\x89CV", TruncatedError, "before its version"),
        (b"\x89CVL\n\x01\x00more", BitstreamError, "not a .cvl file"),
        (b"\x00\x00\x00\x18ftypmp42", BitstreamError, "not a .cvl file"),
        (b"\x89CVL\r\n\x02\x00", UnsupportedError, "version 2"),
        (b"\x89CVL\r\n\x01\x00", TruncatedError, "before its header"),
    ],
)
def test_other_files_are_told_apart(data, error, message):
    with pytest.raises(error, match=message):
        open_reader(data)


def test_unknown_flags_are_refused():
    head = b"XABC\x02\x00\x00\x00\x00"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    record = head + struct.pack("<I", zlib.crc32(head))
    pieces = records_of(make_file())
    with pytest.raises(UnsupportedError, match="flags 0x02"):
        open_reader(forge([pieces[0], record, *pieces[1:]])).verify()


def test_a_damaged_payload_is_a_checksum_error():
    data = bytearray(make_file())
    data[open_reader(bytes(data)).index[1].offset + 100] ^= 1
    with pytest.raises(ChecksumError, match="CHNK record at byte"):
        open_reader(bytes(data)).read_chunk(1)


def test_chunks_out_of_order_and_records_of_the_format_are_refused_when_writing():
    header = make_header()
    chunks = make_chunks(header)
    writer = BitstreamWriter(io.BytesIO(), header)
    with pytest.raises(ValueError, match="wanted"):
        writer.write_chunk(chunks[1])
    with pytest.raises(ValueError, match="belong to the format"):
        writer.write_record("CHNK", b"")
    with pytest.raises(ValueError, match="at least one chunk"):
        writer.close()
    writer.write_chunk(chunks[0])
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write_chunk(chunks[1])


def test_a_pipe_is_read_once_and_in_order_only():
    reader = open_reader(make_file(), "pipe of single bytes")
    with pytest.raises(ValueError, match="sought"):
        reader.read_chunk(0)
    with pytest.raises(ValueError, match="index"):
        _ = reader.index
    assert len(list(reader.chunks())) == 3
    with pytest.raises(ValueError, match="once"):
        reader.chunks().__next__()


def test_the_writer_says_where_it_is():
    sink = io.BytesIO()
    writer = BitstreamWriter(sink, make_header())
    for chunk in make_chunks(make_header()):
        assert (writer.chunks, writer.latents, writer.frames) == (chunk.index, chunk.first_latent, chunk.first_frame)
        before = writer.bytes_written
        assert writer.write_chunk(chunk) == writer.bytes_written - before
        assert sink.tell() == writer.bytes_written


def test_a_small_file_costs_little_beside_its_symbols():
    header = make_header(latent_channels=4, width=64, height=64, padding=(0, 0, 0, 0))
    sink = io.BytesIO()
    chunk = make_chunks(header, (1,))[0]
    with BitstreamWriter(sink, header) as writer:
        size = writer.write_chunk(chunk)
    assert sink.tell() - size < 330


def test_scanning_an_intact_file_finds_every_record():
    data = make_file()
    found = list(scan_records(io.BytesIO(data)))
    assert [record.type for record in found] == [piece[:4].decode() for piece in records_of(data)]  # type: ignore[union-attr]
    assert sum(record.size for record in found) + 8 == len(data)  # type: ignore[union-attr]


def test_decoding_does_not_depend_on_the_byte_order_of_arrays():
    chunk = next(open_reader(make_file()).chunks())
    assert chunk.symbols.dtype == np.dtype(np.int32)
    assert chunk.symbols.dtype.isnative
