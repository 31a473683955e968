"""Varints, blocks and exact reads: byte literals, and zstd through its own magic number."""

import io
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cvcodec.bitstream import wire
from cvcodec.bitstream.wire import Cursor
from cvcodec.errors import BitstreamError, TruncatedError
from tests.bitstream.samples import Trickle


@pytest.mark.parametrize(
    ("value", "data"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**64, "80808080808080808002")]
)
def test_unsigned_varints_are_leb128(value, data):
    assert wire.put_uvarint(value) == bytes.fromhex(data)
    assert Cursor(bytes.fromhex(data), "test").uvarint(2**64, "value") == value


@pytest.mark.parametrize(("value", "data"), [(0, "00"), (-1, "01"), (1, "02"), (-64, "7f"), (64, "8001")])
def test_signed_varints_are_zigzagged(value, data):
    assert wire.put_svarint(value) == bytes.fromhex(data)


@given(st.integers(-(2**68), 2**68))
def test_any_signed_varint_comes_back(value):
    cursor = Cursor(wire.put_svarint(value), "test")
    assert cursor.svarint("value") == value
    cursor.end()


@pytest.mark.parametrize("data", ["", "80", "8000", "ff" * 10, "ff" * 11 + "01", "c801"])
def test_varints_that_end_early_run_on_exceed_their_limit_or_are_too_long_are_refused(data):
    with pytest.raises(BitstreamError):
        Cursor(bytes.fromhex(data), "test").uvarint(100, "value")


@given(st.lists(st.integers(0, 2**70 - 1) | st.integers(0, 300), max_size=40))
def test_many_varints_are_read_as_one_after_another(values):
    cursor = Cursor(wire.put_uvarints(values) + b"rest", "test")
    assert cursor.uvarints(len(values), "values") == values
    assert cursor.rest() == b"rest"


@pytest.mark.parametrize("data", ["", "80", "8000", "ff" * 10 + "01", "01 80", "01 80 00", "01" + "80" * 10 + "01"])
def test_many_varints_that_end_early_run_on_or_are_too_long_are_refused(data):
    with pytest.raises(BitstreamError):
        Cursor(bytes.fromhex(data), "test").uvarints(1 + (data[:2] == "01"), "values")


@pytest.mark.parametrize("count", [1000, 30_000, 3_000_000])
def test_sized_blocks_hold_no_more_than_their_bytes_may_stand_for(count):
    data = bytes(count)
    stored = wire.put_sized_block(data)
    assert wire.take_sized_block(Cursor(stored, "test"), count, "content") == data
    assert count <= 2**12 + 2**9 * len(stored)
    dense = wire.put_uvarint(count) + wire.put_block(data)
    assert (dense == stored) == (count == 1000)
    if dense != stored:
        with pytest.raises(BitstreamError, match="must not stand for"):
            wire.take_sized_block(Cursor(dense, "test"), count, "content")


@given(st.binary(max_size=3000), st.sampled_from([1, 50]))
def test_blocks_come_back_and_are_ordinary_zstd_frames(data, times):
    data *= times
    stored = wire.put_block(data)
    cursor = Cursor(stored, "test")
    assert wire.take_block(cursor, len(data), "block") == data
    cursor.end()
    assert len(stored) <= len(data) + 3
    if len(stored) < len(data):
        frame = Cursor(stored, "test")
        assert frame.uvarint(10**9, "tag") & 1
        assert zstandard.ZstdDecompressor().decompress(bytes.fromhex("28b52ffd") + frame.rest()) == data


def test_a_frame_that_declares_another_size_is_refused_before_anything_is_allocated():
    frame = wire.compress(bytes(400_000_000 // 16) * 16)
    tracemalloc.start()
    try:
        for size in (1000, 400_000_001, 2**40):
            with pytest.raises(BitstreamError):
                wire.decompress(frame, size, "block")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_frame_that_is_too_short_for_its_size_is_refused():
    with pytest.raises(BitstreamError, match="cannot expand"):
        wire.decompress(b"\x20\x00\x01\x00\x00", 2**30, "block")


def test_damaged_frames_and_bytes_behind_them_are_refused():
    frame = wire.compress(bytes(range(256)) * 4)
    for damaged in (frame[:-1], frame + b"\0", b"", b"\xff" * 10):
        with pytest.raises(BitstreamError):
            wire.decompress(damaged, 1024, "block")


def test_reading_and_writing_loop_over_one_byte_at_a_time():
    assert wire.read_exactly(Trickle(b"abcdef"), 5, "test") == b"abcde"
    sink = Trickle()
    wire.write_all(sink, b"abcdef")
    assert bytes(sink.data) == b"abcdef"


def test_a_source_that_ends_early_is_truncated_and_a_claimed_length_allocates_nothing():
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError, match="got 3 of 4294967296"):
            wire.read_exactly(io.BytesIO(b"abc"), 2**32, "test")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
