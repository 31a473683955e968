"""Chunks: exact time stamps of any kind, their cost, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvcodec.bitstream import UNKNOWN, Chunk
from cvcodec.bitstream.chunk import pack_chunk, unpack_chunk, unpack_info
from cvcodec.bitstream.wire import put_sized_block, put_uvarints
from cvcodec.errors import BitstreamError
from tests.bitstream.plain_reader import read_chunk
from tests.bitstream.samples import assert_same_chunk, make_chunks, make_header, make_symbols

int64 = st.integers(-(2**63), 2**63 - 1)
GEOMETRY = {"padding": [0, 0, 3, 6], "width": 125, "height": 90, "spatial_factor": 8, "latent_channels": 4}


def make_chunk(pts, durations=(), flags=(), latents=None) -> Chunk:
    latents = latents or -(-len(pts) // 4)
    return Chunk(
        index=3,
        first_latent=17,
        latent_count=latents,
        first_frame=65,
        pts=np.array(pts, np.int64),
        durations=np.array(durations, np.int64),
        flags=np.array(flags, np.uint8),
        symbols=make_symbols((4, latents, 12, 16)),
    )


@settings(max_examples=40)
@given(st.data(), st.integers(1, 20))
def test_any_time_stamps_come_back_here_and_in_a_plain_decoder(data, count):
    def several(elements):
        return data.draw(st.lists(elements, min_size=count, max_size=count))

    chunk = make_chunk(
        several(st.one_of(int64, st.integers(0, 5))),
        several(st.one_of(st.integers(UNKNOWN, 3), st.integers(UNKNOWN, 2**63 - 1))),
        several(st.integers(0, 255)),
    )
    payload = pack_chunk(chunk, make_header())
    assert_same_chunk(unpack_chunk(payload, make_header()), chunk)
    plain = read_chunk(payload, GEOMETRY)
    assert plain.pts == chunk.pts.tolist()
    assert [UNKNOWN if value is None else value for value in plain.durations] == chunk.durations.tolist()
    assert plain.flags == chunk.flags.tolist()
    assert plain.place == (3, 17, chunk.latent_count, 65, count)


@pytest.mark.parametrize(
    ("pts", "durations", "most"),
    [
        (range(5000, 5000 + 64 * 512, 512), [512] * 64, 4),
        ([n * 1001 // 30 for n in range(64)], [33] * 64, 30),
        ([n * 1001 // 24 for n in range(64)], [(n + 1) * 1001 // 24 - n * 1001 // 24 for n in range(64)], 30),
        (range(-64, 0), [UNKNOWN] * 64, 2),
    ],
)
def test_usual_time_stamps_take_few_bytes(pts, durations, most):
    chunk = make_chunk(list(pts), durations)
    with_times = len(pack_chunk(chunk, make_header()))
    bare = len(pack_chunk(make_chunk(np.zeros(64)), make_header()))
    assert with_times - bare <= most


def test_info_is_the_chunk_without_its_latents():
    header = make_header()
    for chunk in make_chunks(header):
        info = unpack_info(pack_chunk(chunk, header), header)
        assert (info.index, info.end_latent, info.end_frame) == (chunk.index, chunk.end_latent, chunk.end_frame)
        assert info.pts.tolist() == chunk.pts.tolist()


@pytest.mark.parametrize("latents", ["fp16", "fp32"])
def test_float_chunks_come_back_bit_for_bit(latents):
    header = make_header(latents=latents, steps=(), offsets=(), quality=None)
    for chunk in make_chunks(header):
        assert_same_chunk(unpack_chunk(pack_chunk(chunk, header), header), chunk)


def test_chunks_that_do_not_fit_the_header_are_refused_when_writing():
    header = make_header()
    chunk = make_chunk(range(8))
    for other, reason in [
        (header.replace(width=120, padding=(0, 0, 0, 6)), "wanted"),
        (header.replace(latents="fp32", steps=(), offsets=()), "wanted"),
        (header.replace(temporal_factor=3), "at most 6"),
    ]:
        with pytest.raises(ValueError, match=reason):
            pack_chunk(chunk, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"pts": np.zeros(0, np.int64)},
        {"pts": np.zeros(8)},
        {"durations": np.zeros(7, np.int64)},
        {"durations": np.full(8, -2)},
        {"flags": np.zeros(8, np.int32)},
        {"latent_count": 0},
        {"latent_count": 4097},
        {"index": -1},
    ],
)
def test_impossible_chunks_cannot_be_made(changes):
    values = dict(vars(make_chunk(range(8))))
    with pytest.raises(ValueError, match=r"."):
        Chunk(**{**values, **changes})


@pytest.mark.parametrize(
    ("place", "times"),
    [
        ((0, 0, 0, 0, 0), "00 00 00 00"),  # no latent
        ((0, 0, 1, 0, 0), "00 00 00 00"),  # no frame
        ((0, 0, 1, 0, 5), "00 00 00 00 00"),  # more frames than the latent stands for
        ((0, 0, 5000, 0, 5), "00 00 00 00 00"),  # more latents than a chunk may have
        ((0, 0, 1, 0, 1), "00 02 00 00"),  # unknown form of pts
        ((0, 0, 1, 0, 1), "00 00 04 00"),  # unknown form of durations
        ((0, 0, 1, 0, 1), "00 00 00 02"),  # unknown form of flags
        ((0, 0, 1, 0, 1), "00 00 00 01"),  # flags missing
        ((0, 0, 1, 0, 1), "00 00 00 00 00"),  # a byte too many
        ((0, 0, 1, 0, 1), "80 80 80 80 80 80 80 80 80 02 00 00 00"),  # pts of 2**63
        ((0, 0, 1, 0, 1), "00 00 01 80 80 80 80 80 80 80 80 80 01 00"),  # duration of 2**63
        ((0, 0, 1, 0, 2), "02 00 01 02 00 00"),  # durations until the next, of pts that go back
    ],
)
def test_malformed_places_and_times_are_bitstream_errors(place, times):
    payload = put_uvarints(place) + put_sized_block(bytes.fromhex(times)) + b"\x00\x01\x00"
    with pytest.raises(BitstreamError):
        unpack_chunk(payload, make_header())


def test_a_chunk_that_claims_more_values_than_are_legal_is_refused_before_its_payload_is_looked_at():
    header = make_header(width=8192, height=8192, padding=(0, 0, 0, 0))
    payload = put_uvarints((0, 0, 4000, 0, 1)) + put_sized_block(bytes(4)) + b"\x01"
    with pytest.raises(BitstreamError, match="shorter windows"):
        unpack_chunk(payload, header)
