"""Log-variance records: beside every chunk, found at random, invisible to readers that do not want them."""

import io
import struct

import numpy as np
import pytest

from cvcodec.bitstream import BitstreamReader, BitstreamWriter
from cvcodec.errors import BitstreamError
from tests.bitstream.samples import make_chunks, make_header

HEADER = make_header(logvar=True)


def make_logvars() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [
        np.clip(rng.normal(-12, 9, HEADER.chunk_shape(chunk.latent_count)), -30, 20).astype(np.float32)
        for chunk in make_chunks(HEADER)
    ]


def make_file(logvars: list[np.ndarray | None]) -> bytes:
    sink = io.BytesIO()
    with BitstreamWriter(sink, HEADER) as writer:
        for chunk, logvar in zip(make_chunks(HEADER), logvars, strict=True):
            writer.write_chunk(chunk)
            if logvar is not None:
                writer.write_logvar(logvar)
    return sink.getvalue()


def test_log_variances_come_back_rounded_to_half_precision_in_any_order():
    logvars = make_logvars()
    reader = BitstreamReader(io.BytesIO(make_file(list(logvars))))
    for number in (2, 0, 1):
        read = reader.read_logvar(number)
        assert read.dtype == np.float32
        assert np.array_equal(read, logvars[number].astype(np.float16))
        assert reader.read_chunk(number).index == number
    assert reader.verify().records["LVAR"].count == 3


def test_the_payload_is_the_chunk_number_mode_zero_and_two_byte_planes():
    logvar = np.zeros(HEADER.chunk_shape(5), np.float32)
    logvar[0, 0, 0, 0], logvar[-1, -1, -1, -1] = -30.0, 20.0
    data = make_file([logvar, None, None])
    at = data.index(b"LVAR")
    (length,) = struct.unpack_from("<I", data, at + 5)
    assert data[at + 4] == 0, "readers that do not know it may skip it"
    assert data[at + 11 : at + 14] == bytes((0, 0, 2))
    assert length < logvar.size


def test_a_reader_that_does_not_ask_sees_only_chunks():
    reader = BitstreamReader(io.BytesIO(make_file(list(make_logvars()))), sequential=True)
    assert [chunk.index for chunk in reader.chunks()] == [0, 1, 2]


@pytest.mark.parametrize("value", [-30.5, 20.5, np.nan, np.inf])
def test_values_that_no_posterior_has_are_refused(value):
    logvars: list[np.ndarray | None] = list(make_logvars())
    assert logvars[0] is not None
    logvars[0][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="log-variances reach"):
        make_file(logvars)


def test_a_log_variance_of_another_shape_or_in_a_file_without_any_is_refused():
    with pytest.raises(ValueError, match="wanted"):
        make_file([make_logvars()[2], None, None])
    writer = BitstreamWriter(io.BytesIO(), make_header())
    with pytest.raises(ValueError, match="header says"):
        writer.write_logvar(make_logvars()[0])


def test_a_missing_or_misplaced_record_is_an_error_of_ours():
    logvars = make_logvars()
    reader = BitstreamReader(io.BytesIO(make_file([None, logvars[1], None])))
    with pytest.raises(BitstreamError, match="chunk 0 has no log-variance"):
        reader.read_logvar(0)
    with pytest.raises(BitstreamError, match="chunk 2 has no log-variance"):
        reader.read_logvar(2)
    assert reader.read_logvar(1).shape == logvars[1].shape
