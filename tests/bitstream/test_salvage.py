"""Damaged files: every intact chunk comes out, and what is lost is said exactly."""

import dataclasses
import io
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader, Chunk, Gap, Record, Salvage, recovery, scan_records
from cvcodec.bitstream.records import pack_record
from cvcodec.bitstream.trailer import MAX_LOST_CHUNKS, pack_trailer
from cvcodec.errors import BitstreamError
from tests.bitstream.samples import Trickle, assert_same_chunk, make_chunks, make_file, make_header
from tests.bitstream.test_stream import forge, records_of

LENGTHS = (5, 5, 5, 5, 2)


@pytest.fixture(scope="module")
def data() -> bytes:
    return make_file(lengths=LENGTHS)


def damage(data: bytes, *numbers: int) -> bytes:
    changed = bytearray(data)
    for number in numbers:
        changed[BitstreamReader(io.BytesIO(data)).index[number].offset + 60] ^= 0x10
    return bytes(changed)


def summary(data: bytes) -> list[object]:
    parts = list(Salvage(io.BytesIO(data)).parts())
    wanted = make_chunks(make_header(), LENGTHS)
    for part in parts:
        if isinstance(part, Chunk):
            assert_same_chunk(part, wanted[part.index])
    return [
        part.index
        if isinstance(part, Chunk)
        else (part.first_latent, part.latent_count, part.first_frame, part.frame_count)
        for part in parts
        if not isinstance(part, Record)
    ]


def test_nothing_is_lost_of_an_intact_file(data):
    salvage = Salvage(io.BytesIO(data))
    parts = list(salvage.parts())
    assert [part.index for part in parts if isinstance(part, Chunk)] == [0, 1, 2, 3, 4]
    assert sum(isinstance(part, Record) for part in parts) == 5
    assert salvage.damaged_bytes == 0
    assert salvage.trailer == BitstreamReader(io.BytesIO(data)).trailer


def test_damaged_chunks_are_lost_and_no_others(data):
    assert summary(damage(data, 0)) == [(0, 5, 0, 17), 1, 2, 3, 4]
    assert summary(damage(data, 1, 2)) == [0, (5, 10, 17, 40), 3, 4]
    assert summary(damage(data, 4)) == [0, 1, 2, 3, (20, 2, 77, 6)]
    assert summary(damage(data, 0, 1, 2, 3, 4)) == [(0, 22, 0, 83)]


def test_a_cut_file_loses_its_end_whose_length_nobody_knows(data):
    cut = data[: BitstreamReader(io.BytesIO(data)).index[3].offset + 10]
    assert summary(cut) == [0, 1, 2, (15, None, 57, None)]


def test_bytes_taken_out_and_put_in_lose_one_chunk(data):
    at = BitstreamReader(io.BytesIO(data)).index[2].offset + 100
    wanted = [0, 1, (10, 5, 37, 20), 3, 4]
    assert summary(data[:at] + data[at + 17 :]) == wanted
    assert summary(data[:at] + b"CHNK\x01" * 999 + data[at:]) == wanted


def test_a_damaged_magic_a_doubled_chunk_and_one_out_of_order_do_no_harm(data):
    index = BitstreamReader(io.BytesIO(data)).index
    one, two = (data[entry.offset : entry.offset + entry.size] for entry in index[1:3])
    assert summary(b"\0" * 8 + data[8:]) == [0, 1, 2, 3, 4]
    assert summary(data[: index[3].offset] + one + two + data[index[3].offset :]) == [0, 1, 2, 3, 4]


def test_without_an_intact_header_nothing_can_be_salvaged(data):
    changed = bytearray(data)
    changed[40] ^= 1
    with pytest.raises(BitstreamError, match="no intact header"):
        Salvage(io.BytesIO(changed))
    with pytest.raises(BitstreamError, match="no intact header"):
        Salvage(io.BytesIO(b""))


def test_salvage_reads_a_pipe_of_single_bytes(data):
    parts = Salvage(Trickle(damage(data, 1))).parts()
    assert [part.index for part in parts if isinstance(part, Chunk)] == [0, 2, 3, 4]


def test_gaps_and_records_cover_a_damaged_file_exactly(data):
    rng = np.random.default_rng(5)
    for _ in range(30):
        changed = bytearray(data)
        for at in rng.integers(8, len(data), 6):
            changed[at] ^= 1 << rng.integers(8)
        at = 8
        for part in scan_records(io.BytesIO(changed)):
            assert part.offset == at
            at += part.length if isinstance(part, Gap) else part.size
        assert at == len(data)


def test_a_lost_trailer_is_said(data):
    changed = bytearray(data)
    changed[-30] ^= 1
    assert summary(bytes(changed)) == [0, 1, 2, 3, 4, (22, None, 83, None)]


def test_record_heads_that_overlap_cost_time_in_proportion_to_the_file_and_hide_nothing_before_them(data, monkeypatch):
    size = 60_000
    heads = bytearray()
    for at in range(0, size - 15, 11):  # each claims everything behind it
        head = b"CHNK\x01" + struct.pack("<I", size - at - 15)
        heads += head + struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    read = 0

    def counting(payload: bytes, start: int = 0) -> int:
        nonlocal read
        read += len(payload)
        return zlib.crc32(payload, start)

    monkeypatch.setattr(recovery, "zlib", SimpleNamespace(crc32=counting))
    forged = data + bytes(heads)
    assert summary(forged) == [0, 1, 2, 3, 4]
    assert read < 6 * len(forged)


def test_an_index_of_a_file_that_is_not_whole_may_reach_beyond_it_but_not_without_bound(data):
    trailer = BitstreamReader(io.BytesIO(data)).trailer
    pieces = records_of(data)
    assert summary(forge([pieces[0], *pieces[3:]])) == [(0, 5, 0, 17), 1, 2, 3, 4]
    assert summary(forge([pieces[0], *pieces[-2:]])) == [(0, 22, 0, 83)]
    entry = trailer.index[0]
    many = [
        dataclasses.replace(entry, offset=entry.offset + n * entry.size, first_pts=0, last_pts=0)
        for n in range(MAX_LOST_CHUNKS + 1)
    ]
    payload = pack_trailer(dataclasses.replace(trailer, index=tuple(many)), entry.offset)
    pieces[-2] = pack_record("TRLR", payload, required=True)
    assert summary(forge(pieces)) == [0, 1, 2, 3, 4, (22, None, 83, None)]
