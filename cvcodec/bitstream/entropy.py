"""Latents and symbols of one chunk <-> payload bytes. The first byte is the mode; later coders are new modes.

Owns: the modes, their layouts and the choice between them.
Does not know: records, time stamps, quantiser steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cvcodec.bitstream import contexts
from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.packing import put_stream, take_stream
from cvcodec.bitstream.wire import Cursor, put_block, put_uvarint, put_uvarints, take_block
from cvcodec.errors import BitstreamError, UnsupportedError
from cvcodec.quantization import SYMBOL_LIMIT

PLANES, CONTEXTS = 0, 1
"""Modes: byte planes of plain little-endian values (1, 2 or 4 bytes each); residuals sorted by expected magnitude."""

STREAM_BYTES = 14
"""What one more stream is taken to cost when classes are merged: coding, length, block and frame headers."""

Shape = tuple[int, int, int, int]


def encode_symbols(symbols: NDArray[np.int32]) -> bytes:
    """Payload of (C, t, h, w) int32 symbols within ±SYMBOL_LIMIT: the shorter of both modes. ValueError otherwise."""
    if symbols.ndim != 4 or symbols.dtype != np.int32 or not symbols.size:
        raise ValueError(f"wanted (C, t, h, w) int32 symbols, got {symbols.shape} {symbols.dtype}")
    low, high = int(symbols.min()), int(symbols.max())
    if low < -SYMBOL_LIMIT or high > SYMBOL_LIMIT:
        raise ValueError(f"symbols reach from {low} to {high}, at most {SYMBOL_LIMIT} is legal")
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
    order, _ = contexts.front_order(_shape(symbols))
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
    counts = np.bincount(np.minimum(values, 255)).astype(np.float64)
    counts = counts[counts > 0]
    return float((counts * np.log2(values.size / counts)).sum()) + 8.0 * int(np.count_nonzero(values >= 255))


def _shape(symbols: NDArray[np.int32]) -> Shape:
    channels, latents, height, width = symbols.shape
    return channels, latents, height, width
