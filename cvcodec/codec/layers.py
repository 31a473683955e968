"""A chunk -> its latents, float32: the same bits on every machine. Knows no models and no windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import Chunk, Header
from cvcodec.errors import BitstreamError
from cvcodec.quantization import Quantizer
from cvcodec.windows.time import frames_of_latents


def latents_of(chunk: Chunk, header: Header) -> NDArray[np.float32]:
    """Its base layer, (C, t, h, w)."""
    return _values(chunk.symbols, header.quantizer)


def enhancement_of(chunk: Chunk, header: Header) -> NDArray[np.float32]:
    """Its enhancement layer, (E, t, h, w), E = 0 where it has none or was read without."""
    if chunk.enhancement is None:
        return np.empty((0, chunk.latent_count, *header.latent_size), np.float32)
    return _values(chunk.enhancement, header.enhancement_quantizer)


def layers_of(chunk: Chunk, header: Header) -> NDArray[np.float32]:
    """Both, (C + E, t, h, w): what a decoder reads."""
    base = latents_of(chunk, header)
    return base if chunk.enhancement is None else np.concatenate([base, enhancement_of(chunk, header)])


def check_chunk_place(first_latent: int, first_frame: int, temporal_factor: int) -> None:
    """BitstreamError unless the chunk's first frame is the one that its first latent stands for."""
    wanted = frames_of_latents(first_latent, first_latent, temporal_factor)[0]
    if first_frame != wanted:
        raise BitstreamError(f"the chunk of latent {first_latent} begins at frame {first_frame}, wanted {wanted}")


def _values(stored: NDArray[Any], quantizer: Quantizer | None) -> NDArray[np.float32]:
    return quantizer.dequantize(stored) if quantizer is not None else stored.astype(np.float32)
