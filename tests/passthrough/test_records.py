"""STRM, ATCH and PKTS payloads against byte literals, and under damage."""

from __future__ import annotations

import io
import json
import tracemalloc
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvcodec.bitstream import BitstreamReader, BitstreamWriter
from cvcodec.bitstream.wire import Cursor, put_block, put_uvarint, take_sized_block
from cvcodec.errors import BitstreamError
from cvcodec.passthrough.records import (
    COPIED_TYPES,
    copied_bytes,
    pack_attachment,
    pack_packets,
    pack_streams,
    unpack_attachment,
    unpack_packets,
    unpack_streams,
)
from cvcodec.passthrough.streams import Chapter, CopiedContainer, CopiedPacket, CopiedStream
from tests.bitstream.samples import make_chunks, make_header


def packet(pts: int | None = 0, data: bytes = b"x", **changes: object) -> CopiedPacket:
    whole = CopiedPacket(3, pts, pts, 10, True, False, (), data)
    return whole._replace(**changes)  # type: ignore[arg-type]


CONTAINER = CopiedContainer(
    streams=(
        CopiedStream(
            kind="audio",
            codec="aac",
            index=1,
            time_base=Fraction(1, 44100),
            carrier="matroska",
            parameters=bytes(300),
            extradata=b"\x12\x10",
            facts={"sample_rate": 44100, "delay": 0},
            start=-1024,
            disposition=("default", "comment"),
            metadata={"language": "deu", "title": "Ä"},
        ),
        CopiedStream(kind="attachment", codec="ttf", index=2, metadata={"filename": "a.ttf"}),
    ),
    chapters=(Chapter(start=-5, end=900, time_base=Fraction(1, 1000), metadata={"title": "One"}),),
    metadata={"title": "Film"},
    video_metadata={"language": "jpn"},
    video_disposition=("default",),
)

packets = st.builds(
    CopiedPacket,
    stream=st.just(3),
    pts=st.none() | st.integers(-(2**60), 2**60),
    dts=st.none() | st.integers(-(2**60), 2**60),
    duration=st.integers(0, 2**40),
    keyframe=st.booleans(),
    corrupt=st.booleans(),
    side_data=st.lists(st.tuples(st.sampled_from(["skip_samples", "palette"]), st.binary(max_size=12)), max_size=3).map(
        tuple
    ),
    data=st.binary(max_size=40),
)


def test_packets_take_the_bytes_that_the_specification_says() -> None:
    made = [packet(-1024, b"ab", duration=1024), packet(0, b"c", duration=1024), packet(1030, b"", duration=512)]
    columns = bytes.fromhex(
        "010101"  # keyframes
        "ff0f 00 0c"  # pts: -1024 against 0, then as predicted, then 6 later
        "00 00 00"  # dts: equal to pts
        "8010 00 ff07"  # durations: 1024, the same, 512 less
        "02 01 00"  # sizes
    )
    assert pack_packets(made) == bytes([3, 3, len(columns), 2 * len(columns)]) + columns + b"abc"


def test_packets_without_times_and_with_side_data_take_the_bytes_that_the_specification_says() -> None:
    made = [packet(None, b"ab", dts=7, duration=0, keyframe=False, corrupt=True, side_data=(("palette", b"\x01\x02"),))]
    columns = bytes([2 | 4 | 16, 14, 0, 2, 1, 7, *b"palette", 2, 1, 2])
    assert pack_packets(made) == bytes([3, 1, len(columns), 2 * len(columns)]) + columns + b"ab"


@given(st.lists(packets, min_size=1, max_size=20))
def test_any_packets_come_back(made: list[CopiedPacket]) -> None:
    assert unpack_packets(pack_packets(made)) == made


def test_a_second_of_sound_costs_less_than_two_bytes_a_packet() -> None:
    sizes = np.random.default_rng(0).integers(300, 420, 47)
    made = [packet(1024 * n, bytes(int(size)), duration=1024) for n, size in enumerate(sizes)]
    assert len(pack_packets(made)) - int(sizes.sum()) < 2 * len(made) + 30


def test_a_container_comes_back() -> None:
    assert unpack_streams(pack_streams(CONTAINER)) == CONTAINER
    assert unpack_streams(pack_streams(CopiedContainer())) == CopiedContainer()
    assert unpack_attachment(pack_attachment(300, b"data")) == (300, b"data")


def test_the_description_is_json_that_anyone_can_read() -> None:
    text = json.dumps({"metadata": {"title": "Film"}}, separators=(",", ":")).encode()
    container = CopiedContainer(metadata={"title": "Film"})
    assert pack_streams(container) == bytes([len(text), 2 * len(text)]) + text
    assert unpack_streams(bytes([len(text), 2 * len(text)]) + text) == container


@pytest.mark.parametrize(
    "text",
    [
        '{"streams":[{"codec":"aac"}]}',
        '{"streams":[{"kind":"video","codec":"h264"}]}',
        '{"streams":[{"kind":"audio","codec":"aac","time_base":[1,0]}]}',
        '{"streams":[{"kind":"audio","codec":"aac","time_base":[0,1]}]}',
        '{"streams":[{"kind":"audio","codec":"aac","time_base":[1,99999999999]}]}',
        '{"streams":[{"kind":"audio","codec":"aac","start":1.5}]}',
        '{"streams":[{"kind":"audio","codec":"aac","metadata":{"a":1}}]}',
        '{"streams":[{"kind":"audio","codec":"aac","disposition":"default"}]}',
        '{"streams":[{"kind":"audio","codec":"aac","facts":[1]}]}',
        '{"streams":[{"kind":"audio","codec":"aac","facts":{"sample_rate":"48000"}}]}',
        '{"streams":[{"kind":"audio","codec":"aac","facts":{"delay":2147483648}}]}',
        '{"streams":[{"kind":"audio","codec":"aac","facts":{"bit_rate":-1}}]}',
        '{"streams":[{"kind":"audio","codec":"aac","facts":{"layout":2}}]}',
        '{"streams":3}',
        '{"streams":[3]}',
        '{"metadata":[]}',
        '{"metadata":{"a":"b\\u0000c"}}',
        '{"chapters":[{"start":0}]}',
        '{"chapters":[{"start":0,"end":9223372036854775808,"time_base":[1,1]}]}',
        "[]",
    ],
)
def test_malformed_descriptions_are_refused(text: str) -> None:
    data = text.encode()
    for stored in (bytes([0, 0, 0, 0]), b""):  # two empty blocks for a stream
        with pytest.raises(BitstreamError):
            unpack_streams(put_uvarint(len(data)) + put_uvarint(2 * len(data)) + data + stored)


def test_every_truncation_and_changed_byte_is_an_error_of_ours_or_harmless() -> None:
    made = [packet(1024 * n, bytes([n]) * 5) for n in range(9)]
    made[3] = made[3]._replace(side_data=(("skip_samples", bytes(10)),))
    for payload, unpack in ((pack_packets(made), unpack_packets), (pack_streams(CONTAINER), unpack_streams)):
        for length in range(len(payload)):
            with pytest.raises(BitstreamError):
                unpack(payload[:length])
        for place in range(len(payload)):
            for bit in range(8):
                changed = bytearray(payload)
                changed[place] ^= 1 << bit
                with suppress(BitstreamError):
                    unpack(bytes(changed))


def test_claims_beyond_the_payload_are_refused_before_anything_is_allocated() -> None:
    for payload in (
        bytes([0, 0x80, 0x80, 0x40, 1, 2, 0]),  # a million packets in one byte of columns
        bytes([0, 1, 5, 10, 1, 0, 0, 0, 0x7F]),  # one packet of 127 bytes in none
        bytes([0, 0, 0, 0]),  # none at all
        bytes([0, 1, 5, 10, 32, 0, 0, 0, 0]),  # an unknown flag
    ):
        with pytest.raises(BitstreamError):
            unpack_packets(payload)


def test_packets_and_side_data_are_no_more_than_the_bytes_of_their_record() -> None:
    empty = [packet(None, b"", duration=0, keyframe=False, side_data=(("a", b""),) * 3)] * 5000
    payload = pack_packets(empty)
    assert unpack_packets(payload) == empty
    assert len(payload) > 4 * 5000
    for many in (empty, [packet(n, b"") for n in range(3000)]):
        # What this program writes, with the columns as short as zstd makes them.
        cursor = Cursor(pack_packets(many), "test")
        head = put_uvarint(cursor.uvarint(9, "stream")) + put_uvarint(cursor.uvarint(9999, "packets"))
        columns = take_sized_block(cursor, 1 << 20, "columns")
        bomb = head + put_uvarint(len(columns)) + put_block(columns)
        assert len(bomb) < 1000
        tracemalloc.start()
        try:
            with pytest.raises(BitstreamError):
                unpack_packets(bomb)
            assert tracemalloc.get_traced_memory()[1] < 20_000
        finally:
            tracemalloc.stop()


def test_packets_of_two_streams_do_not_share_a_record() -> None:
    with pytest.raises(ValueError, match="one stream"):
        pack_packets([packet(), packet(stream=4)])


def test_copied_bytes_are_those_of_the_three_types_with_framing_and_side_records_skip_chunks() -> None:
    header = make_header()
    chunks = make_chunks(header, (5, 5, 5, 2))
    sink = io.BytesIO()
    writer = BitstreamWriter(sink, header)
    sizes = [writer.write_record("STRM", b"s" * 10), writer.write_record("ATCH", b"a" * 20)]
    writer.write_record("XTRA", b"not copied")
    for number, chunk in enumerate(chunks):
        sizes.append(writer.write_record("PKTS", bytes([number])))
        writer.write_chunk(chunk)
    sizes.append(writer.write_record("PKTS", b"\xff"))
    trailer = writer.close()
    assert copied_bytes(trailer) == sum(sizes) == 30 + 5 + 15 * 7
    reader = BitstreamReader(io.BytesIO(sink.getvalue()))

    def seen(first: int, stop: int | None = None) -> list[tuple[str, bytes]]:
        return [(record.type, record.payload[:1]) for record in reader.side_records(first, stop)]

    assert seen(0, 1) == [("STRM", b"s"), ("ATCH", b"a"), ("XTRA", b"n"), ("PKTS", b"\x00")]
    assert seen(2) == [("PKTS", b"\x02"), ("PKTS", b"\x03"), ("PKTS", b"\xff")]
    assert seen(0) == [*seen(0, 1), *seen(1, 3), *seen(3)]
    assert seen(5) == []
    assert set(COPIED_TYPES) == {"STRM", "ATCH", "PKTS"}
