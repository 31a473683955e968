"""Chunks of two layers: each coded by itself, so that the first can be read alone."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

from cvcodec.bitstream import ENHANCEMENT, BitstreamReader, BitstreamWriter, Chunk, Enhancement, Header, Salvage
from cvcodec.bitstream.chunk import pack_chunk, unpack_chunk
from cvcodec.bitstream.entropy import decode_symbols, encode_symbols
from cvcodec.bitstream.header import dump_header, load_header
from cvcodec.bitstream.wire import put_uvarint
from cvcodec.errors import BitstreamError, UnsupportedError
from tests.bitstream.samples import assert_same_chunk, make_chunks, make_header, make_symbols

LAYER = Enhancement(channels=3, steps=(0.25, 0.5, 1.0), offsets=(0.0, -1.5, 2.0))


def layered_header(**changes: object) -> Header:
    return make_header(**{"enhancement": LAYER, "requires": (ENHANCEMENT,), **changes})


def layered_chunks(header: Header) -> list[Chunk]:
    chunks = []
    for chunk in make_chunks(make_header(latents=header.latents, **_quantiser(header))):
        symbols = make_symbols(header.enhancement_shape(chunk.latent_count), 100 + chunk.index)
        if header.latents != "quantised":
            symbols = (symbols / 16).astype(header.latent_dtype)
        chunks.append(dataclasses.replace(chunk, enhancement=symbols))
    return chunks


def _quantiser(header: Header) -> dict[str, object]:
    return {"quality": header.quality, "steps": header.steps, "offsets": header.offsets}


def layered_file(header: Header) -> bytes:
    sink = io.BytesIO()
    with BitstreamWriter(sink, header) as writer:
        for chunk in layered_chunks(header):
            writer.write_chunk(chunk)
    return sink.getvalue()


RAW = {"quality": None, "steps": (), "offsets": (), "enhancement": Enhancement(channels=3)}
HEADERS = {"quantised": layered_header(), "fp16": layered_header(latents="fp16", **RAW)}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("sequential", [False, True])
def test_both_layers_come_back_and_the_base_can_be_read_alone(kind: str, sequential: bool) -> None:
    header = HEADERS[kind]
    data = layered_file(header)
    for got, wanted in zip(
        BitstreamReader(io.BytesIO(data), sequential=sequential).chunks(), layered_chunks(header), strict=True
    ):
        assert_same_chunk(got, wanted)
        np.testing.assert_array_equal(got.enhancement, wanted.enhancement)
        assert got.enhancement.dtype == header.latent_dtype
    for got, wanted in zip(
        BitstreamReader(io.BytesIO(data), sequential=sequential).chunks(base_only=True),
        layered_chunks(header),
        strict=True,
    ):
        assert_same_chunk(got, wanted)
        assert got.enhancement is None


def test_random_access_and_salvage_read_both_layers() -> None:
    data, wanted = layered_file(HEADERS["quantised"]), layered_chunks(HEADERS["quantised"])
    reader = BitstreamReader(io.BytesIO(data))
    np.testing.assert_array_equal(reader.read_chunk(1).enhancement, wanted[1].enhancement)
    assert reader.read_chunk(1, base_only=True).enhancement is None
    found = [part for part in Salvage(io.BytesIO(data)).parts() if isinstance(part, Chunk)]
    assert [chunk.enhancement is not None for chunk in found] == [True] * 3
    np.testing.assert_array_equal(found[2].enhancement, wanted[2].enhancement)


def test_the_payload_is_a_length_the_base_as_ever_and_then_the_second_layer() -> None:
    header, chunk = HEADERS["quantised"], layered_chunks(HEADERS["quantised"])[0]
    base, above = encode_symbols(chunk.symbols), encode_symbols(chunk.enhancement)
    plain = pack_chunk(dataclasses.replace(chunk, enhancement=None), make_header())
    assert plain.endswith(base)
    front = plain[: len(plain) - len(base)]
    assert pack_chunk(chunk, header) == front + put_uvarint(len(base)) + base + above


def test_the_header_names_the_feature_so_that_older_readers_refuse_the_file_by_name() -> None:
    values = json.loads(dump_header(layered_header()))
    assert values["requires"] == ["enhancement"]
    assert values["enhancement"]["channels"] == 3
    assert load_header(dump_header(layered_header())) == layered_header()
    assert "enhancement" not in json.loads(dump_header(make_header()))
    with pytest.raises(UnsupportedError, match="'enhancement-2'"):
        load_header(json.dumps({**values, "requires": ["enhancement", "enhancement-2"]}).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"requires": []},
        {"enhancement": None},
        {"enhancement": {"channels": 0, "steps": "", "offsets": ""}},
        {"enhancement": {"channels": 257, "steps": "", "offsets": ""}},
        {"enhancement": {"channels": 3, "steps": "0000803f", "offsets": "00000000"}},
        {"enhancement": {"channels": 1, "steps": "00000000", "offsets": "00000000"}},
        {"enhancement": {"channels": True, "steps": "0000803f", "offsets": "00000000"}},
        {"enhancement": {"steps": "0000803f", "offsets": "00000000"}},
        {"enhancement": [3]},
    ],
)
def test_impossible_second_layers_are_refused(changes: dict[str, object]) -> None:
    values = json.loads(dump_header(layered_header()))
    with pytest.raises(BitstreamError):
        load_header(json.dumps({**values, **changes}).encode())


def test_every_cut_of_a_chunk_of_two_layers_is_an_error() -> None:
    header = layered_header(width=16, height=16, padding=(0, 0, 0, 0))
    chunk = make_chunks(make_header(width=16, height=16, padding=(0, 0, 0, 0)), (2,))[0]
    payload = pack_chunk(dataclasses.replace(chunk, enhancement=make_symbols(header.enhancement_shape(2))), header)
    assert unpack_chunk(payload, header).enhancement is not None
    for length in range(len(payload)):
        with pytest.raises(BitstreamError):
            unpack_chunk(payload[:length], header)


def test_a_chunk_and_a_header_that_disagree_on_a_second_layer_are_refused() -> None:
    header, chunk = HEADERS["quantised"], layered_chunks(HEADERS["quantised"])[0]
    with pytest.raises(ValueError, match="enhancement"):
        pack_chunk(dataclasses.replace(chunk, enhancement=None), header)
    with pytest.raises(ValueError, match="enhancement"):
        pack_chunk(chunk, make_header())
    with pytest.raises(ValueError, match="wanted"):
        pack_chunk(dataclasses.replace(chunk, enhancement=chunk.symbols), header)


def test_a_header_without_the_layer_is_that_of_a_file_that_never_had_one() -> None:
    assert layered_header().base_layer() == make_header()
    assert dump_header(layered_header().base_layer()) == dump_header(make_header())


@pytest.mark.parametrize("present", [(), (2,), (0, 3, 9), (8,)])
def test_channels_of_zeros_cost_a_bit_and_come_back(present: tuple[int, ...]) -> None:
    symbols = np.zeros((10, 4, 6, 7), np.int32)
    symbols[list(present)] = make_symbols((len(present), 4, 6, 7), 5) if present else 0
    payload = encode_symbols(symbols, sparse=True)
    bits = sum(1 << channel for channel in present)
    assert payload[:3] == bytes((2, bits & 255, bits >> 8))  # the specification's mode 2
    assert payload[3:] == (encode_symbols(symbols[list(present)]) if present else b"")
    np.testing.assert_array_equal(decode_symbols(payload, symbols.shape), symbols)


def test_symbols_in_all_channels_are_coded_as_those_of_a_base_layer() -> None:
    symbols = make_symbols((3, 2, 5, 4), 6)
    assert encode_symbols(symbols, sparse=True) == encode_symbols(symbols)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x02",  # ends early
        b"\x02\x07",  # every channel is there
        b"\x02\x08" + encode_symbols(np.ones((1, 1, 2, 2), np.int32)),  # a fourth of three
        b"\x02\x00more",
        b"\x02\x01\x02\x00",  # one inside another
        b"\x02\x01",  # without the channel that it names
    ],
)
def test_a_payload_that_no_encoder_writes_is_refused(payload: bytes) -> None:
    with pytest.raises(BitstreamError):
        decode_symbols(payload, (3, 1, 2, 2))
