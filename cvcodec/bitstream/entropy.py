"""Latents and symbols of one chunk <-> payload bytes. The first byte is the mode; later coders are new modes.

A *stream* is a run of small unsigned integers that share one distribution: residuals of one class of expectation. zstd
codes bytes with Huffman codes, at least one bit for each, so values of less than a bit or two are first joined. Every
stream is stored by the cheapest of these codings:

    code 0      byte   = value, below 255; 255 is an escape
    code 1..5   byte   = several digits in a small base b; the digit b - 1 is an escape
    code 6      byte   = number of zeros in front of the next value that is not zero; 255 stands for 255 zeros and
                         goes on; a last token may end with the stream instead of at a value
    code 7      three bytes = value (planes of low, middle and high bytes)

What an escape leaves out (value - (b - 1)), and the values behind the runs (value - 1), form a stream of their own that
follows immediately, coded by the same rules.

Owns: the modes, the codings of streams, and the choice between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cvcodec.bitstream import contexts
from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.contexts import Shape
from cvcodec.bitstream.wire import Cursor, put_block, put_uvarint, put_uvarints, take_block
from cvcodec.errors import BitstreamError, UnsupportedError
from cvcodec.quantization import SYMBOL_LIMIT

PLANES, CONTEXTS, SPARSE = 0, 1, 2
"""Modes: byte planes of plain little-endian values (1, 2 or 4 bytes each); residuals sorted by expected magnitude; and
which channels hold more than zeros, with another payload of those."""

STREAM_BYTES = 14
"""What one more stream is taken to cost when classes are merged: coding, length, block and frame headers."""


def encode_symbols(symbols: NDArray[np.int32], *, sparse: bool = False) -> bytes:
    """Payload of (C, t, h, w) int32 symbols within ±SYMBOL_LIMIT: the shorter of modes 0 and 1. ValueError otherwise.

    sparse: channels of zeros alone, if there are any, take no time and no bytes but a bit (mode 2).
    """
    if symbols.ndim != 4 or symbols.dtype != np.int32 or not symbols.size:
        raise ValueError(f"wanted (C, t, h, w) int32 symbols, got {symbols.shape} {symbols.dtype}")
    low, high = int(symbols.min()), int(symbols.max())
    if low < -SYMBOL_LIMIT or high > SYMBOL_LIMIT:
        raise ValueError(f"symbols reach from {low} to {high}, at most {SYMBOL_LIMIT} is legal")
    if sparse and not (present := symbols.any((1, 2, 3))).all():
        inner = encode_symbols(np.ascontiguousarray(symbols[present])) if present.any() else b""
        payload = bytes((SPARSE,)) + np.packbits(present, bitorder="little").tobytes() + inner
        if symbols.size <= _most_values(payload):
            return payload
    candidates = [_put_contexts(symbols)]
    if symbols.size <= 1 << 14 or low == high:  # where the tables of mode 1 may outweigh what they save
        width = next(size for size in (1, 2, 4) if max(-low - 1, high) < 1 << 8 * size - 1)
        candidates.append(_put_planes(symbols.astype(f"<i{width}")))
    payload = min(candidates, key=len)
    return payload if symbols.size <= _most_values(payload) else _put_contexts(symbols, thin=True)


def decode_symbols(payload: bytes, shape: Shape) -> NDArray[np.int32]:
    """Inverse of `encode_symbols`: (C, t, h, w) int32. Raises BitstreamError for anything it could not have written;
    UnsupportedError for a mode of a later release."""
    cursor = _open(payload, shape)
    mode = cursor.take(1)[0]
    if mode == PLANES:
        symbols = _take_planes(cursor, shape, ("<i1", "<i2", "<i4")).astype(np.int32)
        if symbols.min() < -SYMBOL_LIMIT or symbols.max() > SYMBOL_LIMIT:
            raise BitstreamError(f"payload is malformed: a symbol is beyond {SYMBOL_LIMIT}")
    elif mode == CONTEXTS:
        symbols = _take_contexts(cursor, shape)
    elif mode == SPARSE:
        symbols = _take_sparse(cursor, shape)
    else:
        raise UnsupportedError(f"payload mode {mode} is not known to this release; a newer cvcodec reads it")
    cursor.end()
    return symbols


def encode_floats(latents: NDArray[np.floating]) -> bytes:
    """Payload of (C, t, h, w) finite float16 or float32 latents: byte planes, exact. ValueError otherwise."""
    if latents.ndim != 4 or latents.dtype.name not in ("float16", "float32") or not latents.size:
        raise ValueError(f"wanted (C, t, h, w) float16 or float32 latents, got {latents.shape} {latents.dtype}")
    if not np.isfinite(latents).all():
        raise ValueError("latents hold NaN or infinity")
    values = latents.astype(latents.dtype.newbyteorder("<"))
    payload = _put_planes(values)
    return payload if values.size <= _most_values(payload) else _put_planes(values, thin=True)


def decode_floats(payload: bytes, shape: Shape, dtype: DTypeLike) -> NDArray[np.floating]:
    """Inverse of `encode_floats`: (C, t, h, w) of `dtype` (float16 or float32) in native byte order. Raises as
    `decode_symbols`, also for NaN and infinity."""
    cursor = _open(payload, shape)
    mode = cursor.take(1)[0]
    if mode != PLANES:
        raise UnsupportedError(f"payload mode {mode} is not known to this release for {np.dtype(dtype).name} latents")
    values = _take_planes(cursor, shape, (np.dtype(dtype).newbyteorder("<").str,))
    cursor.end()
    latents = values.astype(dtype, copy=False)
    if not np.isfinite(latents).all():
        raise BitstreamError("payload is malformed: it holds NaN or infinity")
    return latents


def _most_values(payload: bytes) -> int:
    return fmt.FREE_VALUES + fmt.VALUE_DENSITY * len(payload)


def _open(payload: bytes, shape: Shape) -> Cursor:
    """A cursor over a payload that may hold so many values. Raises BitstreamError."""
    if math.prod(shape) > _most_values(payload):
        raise BitstreamError(
            f"payload is malformed: {len(payload)} bytes stand for {math.prod(shape)} values, at most "
            f"{_most_values(payload)} are legal"
        )
    return Cursor(payload, "payload")


def _put_planes(values: NDArray[np.generic], *, thin: bool = False) -> bytes:
    """Mode, bytes per value, one block: all first bytes, all second bytes, ... thin: within `VALUE_DENSITY`."""
    width = values.dtype.itemsize
    planes = values.reshape(-1).view(np.uint8).reshape(-1, width).T
    return bytes((PLANES, width)) + put_block(planes.tobytes(), thin=thin)


def _take_planes(cursor: Cursor, shape: Shape, dtypes: tuple[str, ...]) -> NDArray[np.generic]:
    width = cursor.take(1)[0]
    dtype = next((name for name in dtypes if np.dtype(name).itemsize == width), None)
    if dtype is None:
        raise BitstreamError(f"payload is malformed: {width} bytes a value")
    planes = np.frombuffer(take_block(cursor, math.prod(shape) * width, "planes"), np.uint8)
    lowest, *higher = planes.reshape(width, -1)
    values = lowest.astype(f"<u{width}")
    for place, plane in enumerate(higher, 1):  # by shifting: fifty times faster than transposing bytes
        values |= plane.astype(values.dtype) << 8 * place
    return values.view(dtype).reshape(shape)


def _put_contexts(symbols: NDArray[np.int32], *, thin: bool = False) -> bytes:
    """Mode, a byte per channel (predictor and scale), merged classes, their lengths, the streams. thin: within
    `VALUE_DENSITY`."""
    residuals, channels = predict(symbols)
    expected = contexts.expectations(residuals, channels)
    order, _ = contexts.front_order(symbols.shape)
    classes = np.searchsorted(contexts.THRESHOLDS, expected.reshape(-1)[order], "right").astype(np.uint8)
    del expected
    values = contexts.zigzag(residuals).reshape(-1)[order]
    starts = _merge(classes, values)
    mask = sum(1 << start for start in starts)
    number = np.cumsum([start in starts for start in range(contexts.CLASSES)], dtype=np.uint8)[classes]
    streams = [values[number == index] for index in range(len(starts) + 1)]
    head = bytes((CONTEXTS, *(channel.to_byte() for channel in channels))) + put_uvarint(mask)
    lengths = put_uvarints(len(stream) for stream in streams)
    return head + lengths + b"".join(put_stream(stream, thin=thin) for stream in streams)


def _take_contexts(cursor: Cursor, shape: Shape) -> NDArray[np.int32]:
    channels = [contexts.Channel.from_byte(byte) for byte in cursor.take(shape[0])]
    mask = cursor.uvarint((1 << contexts.CLASSES) - 1, "class mask")
    if mask & 1:
        raise BitstreamError("payload is malformed: class 0 starts no second stream")
    starts = [index for index in range(1, contexts.CLASSES) if mask >> index & 1]
    total = math.prod(shape)
    lengths = [cursor.uvarint(total, "stream length") for _ in range(len(starts) + 1)]
    if sum(lengths) != total:
        raise BitstreamError(f"payload is malformed: streams hold {sum(lengths)} symbols, the chunk has {total}")
    streams = contexts.Streams([take_stream(cursor, length) for length in lengths], "payload")
    bounds = contexts.THRESHOLDS[[start - 1 for start in starts]]
    return contexts.rebuild(shape, channels, bounds, streams)


def _take_sparse(cursor: Cursor, shape: Shape) -> NDArray[np.int32]:
    channels = shape[0]
    bits = np.unpackbits(np.frombuffer(cursor.take(-(-channels // 8)), np.uint8), bitorder="little")
    present, rest = bits[:channels].astype(bool), cursor.rest()
    if bits[channels:].any() or present.all() or rest[:1] == bytes((SPARSE,)):
        raise BitstreamError("payload is malformed: it names channels that are not there, or leaves none out")
    symbols = np.zeros(shape, np.int32)
    if present.any():
        symbols[present] = decode_symbols(rest, (int(present.sum()), *shape[1:]))
    elif rest:
        raise BitstreamError(f"payload is malformed: {len(rest)} bytes follow channels of zeros")
    return symbols


def predict(symbols: NDArray[np.int32]) -> tuple[NDArray[np.int32], list[contexts.Channel]]:
    """Residuals of each channel under its best predictors, one for the first latent and one for the others."""
    residuals = np.empty_like(symbols)
    channels = []
    for channel, plane in enumerate(symbols):
        rests = {rule: plane - guess for rule, guess in contexts.predictions(plane).items()}
        first = min((contexts.NONE, contexts.SPACE), key=lambda rule: _entropy(rests[rule][:1]))
        later = min(rests, key=lambda rule: _entropy(rests[rule][1:]))
        residuals[channel, :1] = rests[first][:1]
        residuals[channel, 1:] = rests[later][1:]
        mean = 256.0 * float(np.minimum(np.abs(residuals[channel]), contexts.MAGNITUDE_LIMIT).mean())
        code = int(np.argmin(np.abs(np.log(contexts.SCALES) - math.log(max(mean, 1.0)))))
        channels.append(contexts.Channel(later, first, code))
    return residuals, channels


def _merge(classes: NDArray[np.uint8], values: NDArray[np.int32]) -> list[int]:
    """Which classes start a new stream: the cheapest split of the classes into runs, by dynamic programming over the
    order-0 entropy of each run and the bytes that one more stream costs."""
    small = np.minimum(values, 255)
    counts = np.bincount(classes * np.int32(256) + small, minlength=contexts.CLASSES * 256).reshape(-1, 256)
    totals = np.concatenate([np.zeros((1, 256)), np.cumsum(counts, 0)])
    best = [0.0]
    back = [0]
    for stop in range(1, contexts.CLASSES + 1):
        runs = totals[stop] - totals[:stop]  # run [start, stop) for every start
        weight = runs.sum(1, keepdims=True)
        bits = np.where(runs > 0, runs * np.log2(np.maximum(weight, 1) / np.maximum(runs, 1)), 0.0).sum(1)
        bits += 4.0 * np.count_nonzero(runs, axis=1) + 8.0 * STREAM_BYTES * (weight[:, 0] > 0)
        costs = np.array(best) + bits
        start = int(np.argmin(costs))
        best.append(float(costs[start]))
        back.append(start)
    starts = []
    stop = contexts.CLASSES
    while back[stop]:
        stop = back[stop]
        starts.append(stop)
    return starts[::-1]


def _entropy(residuals: NDArray[np.int32]) -> float:
    """Order-0 entropy in bits, and 8 for each value beyond a byte."""
    values = contexts.zigzag(residuals).reshape(-1)
    return _order_0(values)[0] + 8.0 * int(np.count_nonzero(values >= 255))


def _order_0(values: NDArray[np.int32]) -> tuple[float, int]:
    """Entropy in bits and number of distinct values, those from 255 on taken as one."""
    counts = np.bincount(np.minimum(values, 255)).astype(np.float64)
    counts = counts[counts > 0]
    return float((counts * np.log2(values.size / counts)).sum()), len(counts)


BASES: tuple[tuple[int, int], ...] = ((256, 1), (2, 8), (3, 5), (4, 4), (6, 3), (15, 2))
"""(base, digits per byte) of codes 0 to 5; base ** digits is at most 256."""

RUNS, WIDE = 6, 7

VALUE_LIMIT = 1 << 24
"""Values are below this."""

LONGEST_RUN = 255

MAX_DEPTH = 8
"""Most streams that may follow from one another; the encoder ends a longer chain with code 7."""

STREAM_BITS = 8 * 12
"""What the encoder takes one more stream to cost, its symbols apart: code, length, frame and block headers, table."""

ZSTD_LEVEL, ZSTD_MIN_MATCH = 1, 7
"""Sorted by expected magnitude, values hardly ever repeat by more than chance: the short matches that higher levels
look for cost more than they save. This is 1 to 2 % smaller than level 19, and ten times as fast."""

Values = NDArray[np.int32]
Bytes = NDArray[np.uint8]


def put_stream(values: Values, depth: int = 0, *, thin: bool = False) -> bytes:
    """Code, block and the streams that follow from it. `values`: 1-D int32 in [0, VALUE_LIMIT), whose length the reader
    must know; nothing is stored for an empty one. thin: each byte stands for at most 256 values."""
    if not len(values):
        return b""
    forms: dict[int, tuple[Bytes, Values]] = {}
    if int(values.max()) < LONGEST_RUN or depth < MAX_DEPTH - 1:
        forms = {code: _digits(values, *BASES[code]) for code in range(len(BASES))}
        forms[RUNS] = _runs(values)
    if int(values.max()) >= LONGEST_RUN:
        forms[WIDE] = values.astype("<u4").view(np.uint8).reshape(-1, 4).T[:3].reshape(-1), values[:0]
    if depth >= MAX_DEPTH - 1:
        forms = {code: form for code, form in forms.items() if not len(form[1])}
    if thin:  # a byte for each value, or three
        forms = {code: form for code, form in forms.items() if code in (0, WIDE)}
    blocks = {
        code: put_block(plane.tobytes(), level=ZSTD_LEVEL, min_match=ZSTD_MIN_MATCH, thin=thin)
        for code, (plane, _) in forms.items()
    }
    best = min(forms, key=lambda code: 8 * len(blocks[code]) + _entropy_bits(forms[code][1]))
    plane, rest = forms[best]
    tokens = put_uvarint(len(plane)) if best == RUNS else b""
    return bytes((best,)) + tokens + blocks[best] + put_stream(rest, depth + 1, thin=thin)


def take_stream(cursor: Cursor, length: int, depth: int = 0) -> Values:
    """Inverse of `put_stream` for a stream of `length` values."""
    if not length:
        return np.zeros(0, np.int32)
    code = cursor.take(1)[0]
    if code > WIDE or depth >= MAX_DEPTH:
        raise BitstreamError(f"{cursor.what} is malformed: stream coding {code} at depth {depth}")

    def more(count: int) -> Values:
        return take_stream(cursor, count, depth + 1)

    if code == WIDE:
        planes = np.frombuffer(take_block(cursor, 3 * length, "wide values"), np.uint8).reshape(3, -1)
        low, middle, high = planes.astype(np.int32)
        return low | middle << 8 | high << 16
    if code == RUNS:
        return _from_runs(cursor, length, more)
    base, digits = BASES[code]
    packed = np.frombuffer(take_block(cursor, -(-length // digits), "digits"), np.uint8)
    if packed.max() >= base**digits:
        raise BitstreamError(f"{cursor.what} is malformed: byte {packed.max()} is no {digits} digits in base {base}")
    table = np.arange(base**digits)[:, None] // base ** np.arange(digits - 1, -1, -1) % base
    values = table.astype(np.int32)[packed].reshape(-1)[:length]
    escaped = np.flatnonzero(values == base - 1)
    values[escaped] += more(len(escaped))
    return _checked(cursor, values)


def _digits(values: Values, base: int, digits: int) -> tuple[Bytes, Values]:
    """Digits min(value, base - 1), `digits` to a byte, the first one most significant, the tail filled with zeros; and
    what the escapes leave out."""
    padded = np.zeros(-(-len(values) // digits) * digits, np.uint8)
    np.minimum(values, base - 1, out=padded[: len(values)], casting="unsafe")
    packed = padded[::digits].copy()
    for place in range(1, digits):
        packed = packed * np.uint8(base) + padded[place::digits]
    return packed, values[values >= base - 1] - (base - 1)


def _runs(values: Values) -> tuple[Bytes, Values]:
    """Run tokens, and the values behind them less one."""
    where = np.flatnonzero(values)
    runs = np.diff(where, prepend=-1, append=len(values)) - 1
    if not runs[-1]:
        runs = runs[:-1]
    longer = runs // LONGEST_RUN
    ends = np.cumsum(longer + 1)
    tokens = np.full(int(ends[-1]), LONGEST_RUN, np.uint8)
    tokens[ends - 1] = runs % LONGEST_RUN
    return tokens, values[where] - 1


def _from_runs(cursor: Cursor, length: int, more: Callable[[int], Values]) -> Values:
    count = cursor.uvarint(length, "number of runs")
    tokens = np.frombuffer(take_block(cursor, count, "runs"), np.uint8).astype(np.int64)
    ends = tokens < LONGEST_RUN  # tokens that end at a value, but for a last one that ends with the stream
    after = np.cumsum(tokens + ends)
    if not count or not ends[-1] or after[-1] - length not in (0, 1):
        raise BitstreamError(f"{cursor.what} is malformed: runs do not fill {length} values")
    where = after[ends] - 1
    where = where[where < length]
    values = np.zeros(length, np.int32)
    values[where] = more(len(where)) + 1
    return _checked(cursor, values)


def _checked(cursor: Cursor, values: Values) -> Values:
    if values.max() >= VALUE_LIMIT:
        raise BitstreamError(f"{cursor.what} is malformed: a value of {values.max()}, {VALUE_LIMIT - 1} is the most")
    return values


def _entropy_bits(rest: Values) -> float:
    """Estimated size of a stream that follows: its order-0 entropy."""
    if not len(rest):
        return 0.0
    bits, distinct = _order_0(rest)
    return STREAM_BITS + bits + 4.0 * distinct + float(np.log2(rest[rest >= LONGEST_RUN]).sum())
