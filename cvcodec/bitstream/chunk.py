"""One chunk <-> the payload of a CHNK record; its posterior's log-variance <-> the payload of an LVAR record.

Owns: the chunk's place in the video, its time stamps and their compact form. How latents become bytes: `entropy`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import format as fmt
from cvcodec.bitstream.contexts import Shape
from cvcodec.bitstream.entropy import decode_floats, decode_symbols, encode_floats, encode_symbols
from cvcodec.bitstream.header import Header
from cvcodec.bitstream.wire import Cursor, put_sized_block, put_svarint, put_uvarint, put_uvarints, take_sized_block
from cvcodec.errors import BitstreamError

UNKNOWN = -1
"""A duration that the source does not give."""

_INT64 = np.iinfo(np.int64)
_CONSTANT, _CHANGES = range(2)
_ABSENT, _ALIKE, _UNTIL_NEXT, _EACH = range(4)


@dataclass(frozen=True, eq=False, kw_only=True)
class ChunkInfo:
    """Where a chunk lies and when its frames are shown; everything but the latents."""

    index: int
    first_latent: int
    latent_count: int
    first_frame: int
    pts: NDArray[np.int64]
    """(frames,) time stamps in units of the header's time base, in the order of the frames."""
    durations: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(frames,) in the same units, `UNKNOWN` where the source does not say. Left out: all unknown."""
    flags: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """(frames,) bits, see `format.FLAG_CONCEALED`. Left out: none set."""

    def __post_init__(self) -> None:
        pts = np.asarray(self.pts)
        if pts.ndim != 1 or not pts.size or not np.issubdtype(pts.dtype, np.signedinteger):
            raise ValueError(f"pts want (frames,) signed integers, got {pts.shape} {pts.dtype}")
        count = len(pts)
        durations = np.asarray(self.durations) if len(self.durations) else np.full(count, UNKNOWN)
        flags = np.asarray(self.flags) if len(self.flags) else np.zeros(count, np.uint8)
        if durations.shape != (count,) or flags.shape != (count,) or flags.dtype != np.uint8:
            shapes = f"{durations.shape} and {flags.shape}"
            raise ValueError(f"{count} frames want as many durations and uint8 flags, got {shapes}")
        if durations.min() < UNKNOWN:
            raise ValueError(f"a duration is {durations.min()}, wanted 0 or more, or {UNKNOWN} for unknown")
        for name, values in (("pts", pts), ("durations", durations), ("flags", flags)):
            array = np.array(values, np.uint8 if name == "flags" else np.int64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if not 1 <= self.latent_count <= fmt.MAX_CHUNK_LATENTS:
            raise ValueError(f"a chunk holds {self.latent_count} latents, wanted 1 to {fmt.MAX_CHUNK_LATENTS}")
        for name in ("index", "first_latent", "first_frame"):
            if not 0 <= getattr(self, name) <= fmt.MAX_COUNT:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 0 to {fmt.MAX_COUNT}")

    @property
    def frame_count(self) -> int:
        """Frames of the source that the chunk's latents stand for; padding is not counted."""
        return len(self.pts)

    @property
    def end_latent(self) -> int:
        """Where the next chunk's latents begin."""
        return self.first_latent + self.latent_count

    @property
    def end_frame(self) -> int:
        """Where the next chunk's frames begin."""
        return self.first_frame + self.frame_count


@dataclass(frozen=True, eq=False, kw_only=True)
class Chunk(ChunkInfo):
    """A chunk with its latents."""

    symbols: NDArray[Any]
    """(C, t, h, w): int32 symbols, or the latents themselves in fp16 and fp32 files."""
    enhancement: NDArray[Any] | None = None
    """(E, t, h, w) of the same type: the second layer. None where the file has none, or where it was not asked for."""


def pack_chunk(chunk: Chunk, header: Header) -> bytes:
    """Payload of a CHNK record. ValueError where the chunk does not fit the header."""
    _check(chunk, header)
    payload = _put_layer(chunk.symbols, header.chunk_shape(chunk.latent_count), chunk, header)
    if (chunk.enhancement is not None) != (header.enhancement is not None):
        raise ValueError(f"chunk {chunk.index} and its header do not agree on an enhancement layer")
    if chunk.enhancement is not None:
        shape = header.enhancement_shape(chunk.latent_count)
        above = _put_layer(chunk.enhancement, shape, chunk, header, sparse=True)
        payload = put_uvarint(len(payload)) + payload + above
    place = (chunk.index, chunk.first_latent, chunk.latent_count, chunk.first_frame, chunk.frame_count)
    return put_uvarints(place) + put_sized_block(_put_times(chunk)) + payload


def _put_layer(values: NDArray[Any], shape: Shape, info: ChunkInfo, header: Header, *, sparse: bool = False) -> bytes:
    if values.shape != shape or values.dtype != header.latent_dtype:
        got = f"{values.shape} {values.dtype}"
        raise ValueError(f"chunk {info.index} holds {got}, wanted {shape} {header.latent_dtype}")
    return encode_symbols(values, sparse=sparse) if header.latents == "quantised" else encode_floats(values)


def unpack_info(payload: bytes, header: Header) -> ChunkInfo:
    """Everything but the latents of a CHNK record. Raises BitstreamError."""
    return _take_info(Cursor(payload, "chunk"), header)


def unpack_chunk(payload: bytes, header: Header, *, base_only: bool = False) -> Chunk:
    """Inverse of `pack_chunk`. Raises BitstreamError for anything it could not have written.

    base_only: leave the enhancement layer undecoded, and unverified but for the record's checksum.
    """
    cursor = Cursor(payload, "chunk")
    info = _take_info(cursor, header)
    above = None
    if header.enhancement is None:
        below = cursor.rest()
    else:
        below = cursor.take(cursor.uvarint(cursor.left, "length of the base layer"))
        above = cursor.rest()
    symbols = _take_layer(below, header.chunk_shape(info.latent_count), header)
    if above is None or base_only:
        return Chunk(**vars(info), symbols=symbols)
    enhancement = _take_layer(above, header.enhancement_shape(info.latent_count), header)
    return Chunk(**vars(info), symbols=symbols, enhancement=enhancement)


def _take_layer(payload: bytes, shape: Shape, header: Header) -> NDArray[Any]:
    if header.latents == "quantised":
        return decode_symbols(payload, shape)
    return decode_floats(payload, shape, header.latent_dtype)


def _check(info: ChunkInfo, header: Header) -> None:
    """ValueError where the geometry of the header forbids the chunk."""
    values = header.values_per_latent * info.latent_count
    if values > fmt.MAX_CHUNK_VALUES:
        most = fmt.MAX_CHUNK_VALUES
        raise ValueError(f"chunk {info.index} holds {values} values, at most {most} fit; use shorter windows")
    frames, most = info.frame_count, header.temporal_factor * info.latent_count
    if frames > most:
        raise ValueError(f"chunk {info.index} has {frames} frames for {info.latent_count} latents, at most {most}")


def _take_info(cursor: Cursor, header: Header) -> ChunkInfo:
    index = cursor.uvarint(fmt.MAX_COUNT, "index")
    first = cursor.uvarint(fmt.MAX_COUNT, "first latent")
    latents = cursor.uvarint(fmt.MAX_CHUNK_LATENTS, "latent count")
    first_frame = cursor.uvarint(fmt.MAX_COUNT, "first frame")
    frames = cursor.uvarint(latents * header.temporal_factor, "frame count")
    if not frames:
        raise BitstreamError(f"chunk {index} is malformed: it has {latents} latents and no frame")
    times = Cursor(take_sized_block(cursor, 32 * frames + 64, "time stamps"), f"time stamps of chunk {index}")
    pts, durations, flags = _take_times(times, frames)
    place: dict[str, int] = {"index": index, "first_latent": first, "latent_count": latents, "first_frame": first_frame}
    try:
        info = ChunkInfo(**place, pts=pts, durations=durations, flags=flags)
        _check(info, header)
    except ValueError as error:
        raise BitstreamError(f"chunk {index} is malformed: {error}") from error
    return info


def _put_times(info: ChunkInfo) -> bytes:
    """Time stamps, durations and flags; Python integers, since differences of int64 need 65 bits."""
    pts: list[int] = info.pts.tolist()
    durations: list[int] = info.durations.tolist()
    steps = [after - before for before, after in pairwise(pts)]
    out = bytearray(put_svarint(pts[0]))
    if len(set(steps)) <= 1:
        out.append(_CONSTANT)
        out += b"".join(map(put_svarint, steps[:1]))
    else:
        out.append(_CHANGES)
        changes = [after - before for before, after in pairwise(steps)]
        out += b"".join(map(put_svarint, [steps[0], *changes]))
    if durations.count(UNKNOWN) == len(durations):
        out.append(_ABSENT)
    elif len(set(durations)) == 1:
        out.append(_ALIKE)
        out += put_uvarint(durations[0])
    elif durations[:-1] == steps:
        out.append(_UNTIL_NEXT)
        out += put_uvarint(durations[-1] + 1)
    else:
        out.append(_EACH)
        out += put_uvarints(duration + 1 for duration in durations)
    out.append(int(info.flags.any()))
    return bytes(out) + (info.flags.tobytes() if info.flags.any() else b"")


def _take_times(cursor: Cursor, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    first = cursor.svarint("pts")
    form = _form(cursor, "pts", _CHANGES)
    if form == _CHANGES:
        steps = list(accumulate(cursor.svarints(count - 1, "steps")))
    else:
        steps = [cursor.svarint("step")] * (count - 1) if count > 1 else []
    pts = list(accumulate(steps, initial=first))
    form = _form(cursor, "duration", _EACH)
    if form == _ABSENT:
        durations = [UNKNOWN] * count
    elif form == _ALIKE:
        durations = [cursor.uvarint(_INT64.max, "duration")] * count
    else:
        read = 1 if form == _UNTIL_NEXT else count
        durations = steps[: count - read] + [value - 1 for value in cursor.uvarints(read, "durations")]
    flags = np.zeros(count, np.uint8)
    if _form(cursor, "flag", 1):
        flags = np.frombuffer(cursor.take(count), np.uint8)
    cursor.end()
    for name, values in (("pts", pts), ("duration", durations)):
        if min(values) < _INT64.min or max(values) > _INT64.max:
            raise BitstreamError(f"{cursor.what} are malformed: a {name} does not fit 64 bits")
    return np.array(pts, np.int64), np.array(durations, np.int64), flags


def _form(cursor: Cursor, name: str, last: int) -> int:
    form = cursor.take(1)[0]
    if form > last:
        raise BitstreamError(f"{cursor.what} are malformed: {name} form {form}")
    return form


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
