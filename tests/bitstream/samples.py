"""Files and arrays that the bitstream's tests share: made by formulas, so that nothing random can change them."""

import io
from fractions import Fraction
from typing import Any

import numpy as np

from cvcodec.bitstream import BitstreamWriter, Chunk, ColorTags, Header
from cvcodec.windows.specs import Window


def make_header(**changes: Any) -> Header:
    values: dict[str, Any] = {
        "model": "cvvae-mini-z4",
        "latent_space_id": "0123456789abcdef",
        "decoder_hash": "fedcba9876543210",
        "config_digest": "00112233445566778899aabbccddeeff",
        "latent_channels": 4,
        "quality": 62.5,
        "steps": (0.5, float(np.float32(0.1)), 0.25, 2.0),
        "offsets": (0.0, float(np.float32(-0.7)), 1.5, 0.0),
        "encode_window": Window(kept=5, context_before=2),
        "decode_window": Window(kept=5, context_before=2, context_after=2, blend=1),
        "width": 125,
        "height": 90,
        "padding": (0, 0, 3, 6),
        "color": ColorTags(matrix="smpte170m", range="limited", guessed=True),
        "time_base": Fraction(1, 1000),
        "average_rate": Fraction(30000, 1001),
        "tool": "cvcodec 0.1.0",
    }
    return Header(**{**values, **changes})


def make_symbols(shape: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """Symbols that every predictor and every coding has a use for: channels 0 to 3 and again."""
    channel, latent, row, column = np.indices(shape, dtype=np.int64)
    noise = (((channel * 131 + latent) * 137 + row) * 139 + column + seed) * 2654435761 % 2**32
    noise = (noise ^ noise >> 15) * 2246822519 % 2**32 >> 8  # 24 bits
    texture = ((row * 139 + column + seed) * 2654435761 % 2**32 >> 16) % 41 - 20
    kinds = [
        texture + (2 * row + 3 * column) * latent,  # a texture under a growing slope: both
        texture + (noise % 17 == 0),  # stands still: time
        np.where(noise % 50 == 0, noise // 50 % 2001 - 1000, noise % 5 - 2),  # peaks in noise: none
        (3 * row + 5 * column) * (latent % 2 * 2 - 1) + noise % 3,  # a slope that flips: space
    ]
    return np.choose(channel % 4, kinds).astype(np.int32)


def make_chunks(header: Header, lengths: tuple[int, ...] = (5, 5, 2), seed: int = 0) -> list[Chunk]:
    """Chunks with millisecond time stamps at 30 fps, a pause, unknown durations and a concealed frame."""
    chunks: list[Chunk] = []
    latents = frames = 0
    for index, length in enumerate(lengths):
        count = 4 * length - (3 if not index else 0) - (2 if index == len(lengths) - 1 and length > 1 else 0)
        pts = (np.arange(frames, frames + count) * 1001 // 30) + (500 if index else 0)
        durations = np.full(count, 33)
        if index == 1:
            durations[3] = -1
        flags = np.zeros(count, np.uint8)
        flags[-1] = index == 1
        shape = header.chunk_shape(length)
        symbols: np.ndarray = make_symbols(shape, seed + 7 * index)
        if header.latents != "quantised":
            symbols = (symbols / 16).astype(header.latent_dtype)
        chunks.append(
            Chunk(
                index=index,
                first_latent=latents,
                latent_count=length,
                first_frame=frames,
                pts=pts,
                durations=durations,
                flags=flags,
                symbols=symbols,
            )
        )
        latents, frames = latents + length, frames + count
    return chunks


def make_file(header: Header | None = None, lengths: tuple[int, ...] = (5, 5, 2), *, packets: bool = True) -> bytes:
    """A whole file, with an optional record behind each chunk."""
    header = header or make_header()
    sink = io.BytesIO()
    with BitstreamWriter(sink, header) as writer:
        for chunk in make_chunks(header, lengths):
            writer.write_chunk(chunk)
            if packets:
                writer.write_record("XPKT", bytes(range(chunk.index, chunk.index + 40)))
    return sink.getvalue()


def assert_same_chunk(got: Chunk, wanted: Chunk) -> None:
    """Every field, every bit."""
    for name in ("index", "first_latent", "latent_count", "first_frame"):
        assert getattr(got, name) == getattr(wanted, name), name
    for name in ("pts", "durations", "flags", "symbols"):
        mine, other = getattr(got, name), getattr(wanted, name)
        assert mine.dtype == other.dtype, name
        assert mine.shape == other.shape, name
        assert mine.tobytes() == other.tobytes(), name


class Trickle(io.RawIOBase):
    """A pipe that gives, and takes, one byte a call."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        piece = bytes(self.data[self.at : self.at + min(1, size)])
        self.at += len(piece)
        return piece

    def write(self, data: Any) -> int:
        self.data += bytes(data[:1])
        return len(data[:1])
