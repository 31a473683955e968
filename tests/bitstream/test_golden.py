"""Files of format version 1 that must decode for ever, to these very bits."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader
from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.entropy import take_stream
from cvcodec.bitstream.wire import Cursor
from tests.bitstream.make_golden import golden_chunks, golden_headers
from tests.bitstream.plain_reader import decode_values, read_file
from tests.bitstream.samples import assert_same_chunk

DATA = Path(__file__).parent.parent / "fixtures/bitstream"

DIGESTS = {
    "v1.cvl": (
        "8c898e925b6ea240cb777f7b26603ef47bdfae9c8bf374b014262812e5854301",
        "b4c0c380535ea40fb1bc318dabd89953542ff6260a6dad430f02142381c2866f",
    ),
    "v1-fp16.cvl": (
        "5418babef04ea0e09026068591a9297f2031c75bca99c50997763961be6d0b1d",
        "0aef2d40dc5c396b98e43275679637ced22f115df93e90f08d06da12afe910bb",
    ),
    "v1-fp32.cvl": (
        "f25070b84629e6fb44cbefa58b21f3c9384d3f4fb4ce3bfea364dd3b89feeeea",
        "0aef2d40dc5c396b98e43275679637ced22f115df93e90f08d06da12afe910bb",
    ),
}
"""SHA-256 of the file, so that nobody replaces it; and of its latents (as float32), time stamps and flags."""


@pytest.mark.parametrize("name", DIGESTS)
def test_the_golden_file_is_the_one_that_was_made_first(name):
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == DIGESTS[name][0]


@pytest.mark.parametrize("name", DIGESTS)
def test_the_golden_file_decodes_to_the_same_bits(name):
    digest = hashlib.sha256()
    with (DATA / name).open("rb") as source:
        reader = BitstreamReader(source)
        quantizer = reader.header.quantizer
        for chunk in reader.chunks():
            latents = quantizer.dequantize(chunk.symbols) if quantizer else chunk.symbols
            digest.update(latents.astype("<f4").tobytes() + chunk.pts.astype("<i8").tobytes())
            digest.update(chunk.durations.astype("<i8").tobytes() + chunk.flags.tobytes())
    assert digest.hexdigest() == DIGESTS[name][1]


@pytest.mark.parametrize("name", DIGESTS)
def test_the_golden_file_holds_what_its_maker_says(name):
    header = golden_headers()[name]
    with (DATA / name).open("rb") as source:
        reader = BitstreamReader(source)
        assert reader.header == header
        for got, wanted in zip(reader.chunks(), golden_chunks(header), strict=True):
            assert_same_chunk(got, wanted)
        assert reader.trailer is not None
        assert reader.trailer.metadata == {"made": "once"}


def test_a_plain_reader_decodes_the_golden_file_to_the_same_symbols():
    header, chunks, _ = read_file((DATA / "v1.cvl").read_bytes(), fmt.HEADER_DICTIONARY)
    assert header["a_key_of_the_future"] == [1, 2.5, None]
    assert {chunk.payload[0] for chunk in chunks} == {0, 1}
    with (DATA / "v1.cvl").open("rb") as source:
        for plain, chunk in zip(chunks, BitstreamReader(source).chunks(), strict=True):
            values = [
                int.from_bytes(v, "little", signed=True) if isinstance(v, bytes) else v for v in decode_values(plain)
            ]
            np.testing.assert_array_equal(np.array(values).reshape(plain.shape), chunk.symbols)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ("00 04 05 fe", [5, 254]),
        ("00 04 05 ff 00 02 07", [5, 262]),
        ("01 02 a0 00 04 00 02", [1, 0, 3]),
        ("02 02 f2 02 02 51", [3, 2, 2, 2, 2]),
        ("03 02 1b 00 02 09", [0, 1, 2, 12]),
        ("04 02 24", [1, 0, 0]),
        ("05 04 10 e0 00 02 03", [1, 1, 17]),
        ("06 03 06 02 00 01 00 04 00 01", [0, 0, 1, 2, 0]),
        ("06 02 04 ff 01", [0] * 256),
        ("07 0c 01 02 00 00 00 80", [1, 0x800002]),
    ],
)
def test_every_stream_coding_means_these_values(data, values):
    cursor = Cursor(bytes.fromhex(data), "test")
    assert take_stream(cursor, len(values)).tolist() == values
    cursor.end()
