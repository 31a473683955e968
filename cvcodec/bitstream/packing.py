"""Small unsigned integers <-> blocks, so that zstd's entropy stage comes close to their entropy.

A *stream* is a run of values that share one distribution. zstd codes bytes with Huffman codes, at least one bit for
each, so values of less than a bit or two are first joined. Every stream is stored by the cheapest of these codings:

    code 0      byte   = value, below 255; 255 is an escape
    code 1..5   byte   = several digits in a small base b; the digit b - 1 is an escape
    code 6      byte   = number of zeros in front of the next value that is not zero; 255 stands for 255 zeros and
                         goes on; a last token may end with the stream instead of at a value
    code 7      three bytes = value (planes of low, middle and high bytes)

What an escape leaves out (value - (b - 1)), and the values behind the runs (value - 1), form a stream of their own that
follows immediately, coded by the same rules.

Owns: the codings, and the choice between them.
Does not know: what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream.wire import Cursor, put_block, put_uvarint, take_block
from cvcodec.errors import BitstreamError

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
    counts = np.bincount(np.minimum(rest, LONGEST_RUN)).astype(np.float64)
    counts = counts[counts > 0]
    wide = rest[rest >= LONGEST_RUN]
    beyond = float(np.log2(wide).sum())
    return STREAM_BITS + float((counts * np.log2(len(rest) / counts)).sum()) + 4.0 * len(counts) + beyond
