"""Payloads: an independent scalar decoder, the bounds of what is stored, and what is refused."""

import math
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cvcodec.bitstream import contexts, entropy
from cvcodec.bitstream.entropy import decode_floats, decode_symbols, encode_floats, encode_symbols
from cvcodec.bitstream.wire import Cursor, put_block, put_uvarint
from cvcodec.errors import BitstreamError, UnsupportedError
from cvcodec.quantization import SYMBOL_LIMIT
from tests.bitstream.plain_reader import Bytes, PlainChunk, decode_stream, decode_values
from tests.bitstream.samples import make_symbols


def plain(payload: bytes, shape: tuple[int, int, int, int]) -> list[int]:
    values = decode_values(PlainChunk((0, 0, 0, 0, 0), [], [], [], shape, payload))
    return [int.from_bytes(value, "little", signed=True) if isinstance(value, bytes) else value for value in values]


@settings(max_examples=40)
@given(
    hnp.array_shapes(min_dims=4, max_dims=4, max_side=6).flatmap(
        lambda shape: hnp.arrays(
            np.int32,
            shape,
            elements=st.one_of(st.integers(-2, 2), st.integers(-300, 300), st.integers(-SYMBOL_LIMIT, SYMBOL_LIMIT)),
        )
    )
)
def test_any_symbols_come_back_here_and_in_a_plain_decoder(symbols):
    payload = encode_symbols(symbols)
    np.testing.assert_array_equal(decode_symbols(payload, symbols.shape), symbols)
    assert plain(payload, symbols.shape) == symbols.reshape(-1).tolist()


@pytest.mark.parametrize("shape", [(4, 5, 12, 16), (8, 3, 7, 5), (5, 1, 9, 30), (1, 4, 1, 1)])
def test_every_predictor_and_many_codings_agree_with_a_plain_decoder(shape):
    symbols = make_symbols(shape)
    payload = encode_symbols(symbols)
    np.testing.assert_array_equal(decode_symbols(payload, shape), symbols)
    assert plain(payload, shape) == symbols.reshape(-1).tolist()


def test_the_samples_use_every_predictor():
    payload = encode_symbols(make_symbols((4, 8, 24, 32)))
    assert payload[0] == 1
    assert len({byte >> 6 for byte in payload[1:5]}) == 4, [byte >> 6 for byte in payload[1:5]]


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 40), st.integers(250, 260), st.integers(0, 2**24 - 1)),
        min_size=1,
        max_size=600,
    )
)
def test_any_stream_comes_back_here_and_in_a_plain_decoder(values):
    array = np.array(values, np.int32)
    data = entropy.put_stream(array)
    cursor = Cursor(data, "test")
    assert entropy.take_stream(cursor, len(values)).tolist() == values
    cursor.end()
    assert decode_stream(Bytes(data), len(values)) == values


def test_every_coding_is_chosen_for_some_distribution_and_stays_close_to_its_entropy():
    rng = np.random.default_rng(1)
    chosen = set()
    for mean in (0.002, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 30.0):
        values = (rng.geometric(1 / (1 + mean), 30000) - 1).astype(np.int32)
        data = entropy.put_stream(values)
        chosen.add(data[0])
        p = 1 / (1 + mean)
        bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) / p * len(values) / 8
        assert len(data) < 1.06 * bits + 120, (mean, data[0], len(data), bits)
    chosen.add(entropy.put_stream(np.full(300, 2**24 - 1, np.int32) - np.arange(300, dtype=np.int32) ** 2)[0])
    chosen |= {entropy.put_stream(rng.integers(0, top, 9000, dtype=np.int32))[0] for top in (3, 4, 15, 250)}
    assert chosen >= {0, 1, 4, 5, entropy.RUNS, entropy.WIDE}, chosen


@pytest.mark.parametrize("code", range(len(entropy.BASES)))
def test_every_base_comes_back_whether_it_is_the_best_or_not(code):
    values = np.random.default_rng(code).geometric(0.4, 1000).astype(np.int32) - 1
    values[::97] = 70000
    plane, rest = entropy._digits(values, *entropy.BASES[code])
    data = bytes((code,)) + put_block(plane.tobytes()) + entropy.put_stream(rest, 1)
    assert entropy.take_stream(Cursor(data, "test"), 1000).tolist() == values.tolist()
    assert decode_stream(Bytes(data), 1000) == values.tolist()


def test_what_does_not_change_costs_next_to_nothing():
    picture = np.random.default_rng(2).geometric(0.3, (4, 1, 40, 60)).astype(np.int32) - 3
    still, single = len(encode_symbols(np.repeat(picture, 16, axis=1))), len(encode_symbols(picture))
    assert still < 1.1 * single
    assert len(encode_symbols(np.zeros((16, 16, 90, 160), np.int32))) < 100


def test_laplacian_symbols_of_changing_scale_take_less_than_their_order_0_entropy_and_than_zstd():
    rng = np.random.default_rng(3)
    rows, columns = np.indices((40, 64))
    scale = np.exp(2 * np.sin(rows / 7) * np.cos(columns / 9)) * np.array([0.3, 1.0, 3.0, 0.1]).reshape(4, 1, 1, 1)
    symbols = np.rint(rng.laplace(0, np.broadcast_to(scale, (4, 8, 40, 64)))).astype(np.int32)
    entropy = 0.0
    for channel in symbols:
        counts = np.unique(channel, return_counts=True)[1]
        entropy += float((counts * np.log2(channel.size / counts)).sum()) / 8
    size = len(encode_symbols(symbols))
    assert size < 0.96 * entropy
    assert size < 0.95 * len(zstandard.compress(np.clip(symbols, -128, 127).astype(np.int8).tobytes(), 19))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floats_come_back_bit_for_bit_also_minus_zero_and_the_smallest(dtype):
    bits = np.uint16 if dtype is np.float16 else np.uint32
    values = np.random.default_rng(0).integers(0, np.iinfo(bits).max, (2, 3, 4, 5), dtype=bits).view(dtype)
    values[~np.isfinite(values)] = 1
    values[0, 0, 0, :3] = -0.0, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    back = decode_floats(encode_floats(values), values.shape, dtype)
    assert back.dtype == dtype
    assert back.view(bits).tolist() == values.view(bits).tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_neither_written_nor_read(dtype, value):
    values = np.full((2, 1, 1, 1), value, dtype)
    with pytest.raises(ValueError, match="NaN"):
        encode_floats(values)
    planes = values.view(np.uint8).reshape(2, -1).T.tobytes()
    with pytest.raises(BitstreamError, match="NaN or infinity"):
        decode_floats(bytes((0, values.itemsize)) + put_block(planes), values.shape, dtype)


def dense_payloads(shape):
    """Payloads of zeros, as short as zstd makes them, in each mode."""
    count = math.prod(shape)
    runs = (
        bytes((entropy.RUNS,))
        + put_uvarint(-(-count // 255))
        + put_block(b"\xff" * (count // 255) + bytes((count % 255,)))
    )
    return {
        "planes": bytes((0, 1)) + put_block(bytes(count)),
        "contexts": bytes((1, *bytes(shape[0]), 0)) + put_uvarint(count) + runs,
    }


@pytest.mark.parametrize("mode", ["planes", "contexts"])
def test_a_payload_of_more_values_than_its_bytes_may_stand_for_is_refused_before_anything_is_built(mode):
    few, many = (4, 4, 64, 64), (16, 8, 1024, 1024)
    payload = dense_payloads(few)[mode]
    assert not decode_symbols(payload, few).any()
    payload = dense_payloads(many)[mode]
    assert len(payload) < 6000
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match=f"{len(payload)} bytes stand for"):
            decode_symbols(payload, many)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.int32, np.float16, np.float32])
def test_large_chunks_that_are_all_alike_are_written_so_that_they_may_be_read(dtype):
    values = np.zeros((2, 2, 1100, 1024), dtype)  # more than are free
    values[1, 0, 5, 5] = 1000
    payload = encode_symbols(values) if dtype is np.int32 else encode_floats(values)
    assert values.size < 2**22 + 2**10 * len(payload)
    assert len(payload) < 100_000
    back = decode_symbols(payload, values.shape) if dtype is np.int32 else decode_floats(payload, values.shape, dtype)
    np.testing.assert_array_equal(back, values)


def test_float_payload_is_the_documented_bytes():
    payload = encode_floats(np.array([1.0, -2.0], np.float16).reshape(2, 1, 1, 1))
    assert payload == bytes.fromhex("00 02 08 00 00 3c c0")  # mode, width, raw block of 4: low bytes, then high bytes


def test_a_decode_is_the_same_from_an_array_of_any_byte_order_and_layout():
    symbols = make_symbols((3, 4, 9, 11))
    for other in (np.asfortranarray(symbols), symbols[::-1][::-1], symbols.astype("<i4")):
        assert encode_symbols(other) == encode_symbols(symbols)


def test_symbols_that_cannot_be_stored_are_refused():
    with pytest.raises(ValueError, match="legal"):
        encode_symbols(np.full((1, 1, 1, 1), SYMBOL_LIMIT + 1, np.int32))
    with pytest.raises(ValueError, match="wanted"):
        encode_symbols(np.zeros((1, 1, 1, 1), np.int64))
    with pytest.raises(ValueError, match="wanted"):
        encode_floats(np.zeros((1, 1, 1, 1), np.float64))


def test_an_unknown_mode_is_refused_by_number():
    with pytest.raises(UnsupportedError, match="mode 9"):
        decode_symbols(b"\x09abc", (1, 1, 1, 1))


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x00\x03", b"\x00\x01\x04\x00", b"\x01\x00\x01\x01", b"\x01" * 9])
def test_malformed_payloads_are_bitstream_errors(payload):
    with pytest.raises(BitstreamError):
        decode_symbols(payload, (1, 1, 2, 2))


def test_bytes_behind_a_payload_are_refused():
    symbols = make_symbols((2, 2, 8, 8))
    with pytest.raises(BitstreamError, match="too many"):
        decode_symbols(encode_symbols(symbols) + b"\0", symbols.shape)


def test_a_front_depends_only_on_earlier_fronts():
    order, starts = contexts.front_order((3, 4, 5, 6))
    front = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    number = np.empty((3, 4, 5, 6), int)
    number.reshape(-1)[order] = front
    assert sorted(order.tolist()) == list(range(360))
    for dc, dt, dy, dx in [(0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (0, 1, -1, 0), (0, 1, 0, -1), (1, 0, 0, 0)]:
        later = number[dc:, dt:, max(dy, 0) : 5 + min(dy, 0), max(dx, 0) : 6 + min(dx, 0)]
        earlier = number[: 3 - dc, : 4 - dt, max(-dy, 0) : 5 - max(dy, 0), max(-dx, 0) : 6 - max(dx, 0)]
        assert (earlier < later).all()
