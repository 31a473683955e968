"""The log-variance of a chunk's posterior <-> the payload of an LVAR record.

Owns: the record's byte form and what must be finite in it. Does not know: records, files, sampling.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.entropy import decode_floats, encode_floats
from cvcodec.bitstream.header import Header
from cvcodec.bitstream.wire import Cursor, put_uvarint
from cvcodec.errors import BitstreamError


def pack_logvar(index: int, logvar: NDArray[np.float32]) -> bytes:
    """Payload of the LVAR record of chunk `index`: (C, t, h, w) log-variances within `LOGVAR_RANGE`, kept as float16.

    ValueError for values outside it; the caller clamps, as every user of a posterior does.
    """
    low, high = fmt.LOGVAR_RANGE
    if not (logvar.min() >= low and logvar.max() <= high):  # also refuses NaN
        raise ValueError(f"log-variances reach from {logvar.min()} to {logvar.max()}, wanted {low} to {high}")
    return put_uvarint(index) + encode_floats(logvar.astype(np.float16))


def unpack_logvar(payload: bytes, header: Header, number: int, latents: int) -> NDArray[np.float32]:
    """Inverse of `pack_logvar`: (C, t, h, w) float32. Raises BitstreamError for what does not belong to chunk `number`
    of `latents` latents."""
    cursor = Cursor(payload, "log-variance")
    index = cursor.uvarint(fmt.MAX_COUNT, "index")
    if index != number:
        raise BitstreamError(f"log-variance is malformed: it belongs to chunk {index} and follows chunk {number}")
    values = decode_floats(cursor.rest(), header.chunk_shape(latents), np.float16).astype(np.float32)
    low, high = fmt.LOGVAR_RANGE
    if not (values.min() >= low and values.max() <= high):
        raise BitstreamError(f"log-variance of chunk {index} is malformed: values outside {low} to {high}")
    return values
