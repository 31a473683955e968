"""The layers of a chunk: latents -> symbols, and back to float32, with the same bits on every machine."""

from __future__ import annotations

import dataclasses
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import BitstreamWriter, Chunk, Header
from cvcodec.bitstream.rate_distortion import STRENGTH, choose_symbols
from cvcodec.bitstream.wire import Writable
from cvcodec.codec.headers import open_reader, stored_layers
from cvcodec.codec.options import Layers, RateDistortion
from cvcodec.errors import BitstreamError, NumericalError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quantization import Quantizer
from cvcodec.windows.time import frames_of_latents

_STRENGTHS: dict[RateDistortion, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "time": (STRENGTH, 0.0),
    "all": (STRENGTH, STRENGTH),
}
"""Of `choose_symbols`: where the latent before predicts, and elsewhere."""


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


def symbols_of(latents: NDArray[np.float32], header: Header, rdo: RateDistortion) -> NDArray[Any]:
    """The way there, for the base layer of one chunk: what a file keeps of (C, t, h, w) latents, int32 symbols or the
    latents in the file's own type. Raises NumericalError for what cannot be quantised or does not fit that type."""
    return _stored(latents, header, header.quantizer, rdo)


def enhancement_symbols_of(latents: NDArray[np.float32], header: Header, rdo: RateDistortion) -> NDArray[Any]:
    """The same for the enhancement layer, (E, t, h, w)."""
    return _stored(latents, header, header.enhancement_quantizer, rdo)


def quantised(latents: NDArray[np.float32], quantizer: Quantizer, rdo: RateDistortion) -> NDArray[np.int32]:
    """The symbols of one layer of a chunk, (C, t, h, w). Raises NumericalError for what cannot be quantised."""
    time, space = _STRENGTHS[rdo]
    try:
        return choose_symbols(latents, quantizer, time=time, space=space)
    except ValueError as error:
        raise NumericalError(str(error)) from error


def check_chunk_place(first_latent: int, first_frame: int, temporal_factor: int) -> None:
    """BitstreamError unless the chunk's first frame is the one that its first latent stands for."""
    wanted = frames_of_latents(first_latent, first_latent, temporal_factor)[0]
    if first_frame != wanted:
        raise BitstreamError(f"the chunk of latent {first_latent} begins at frame {first_frame}, wanted {wanted}")


def _values(stored: NDArray[Any], quantizer: Quantizer | None) -> NDArray[np.float32]:
    return quantizer.dequantize(stored) if quantizer is not None else stored.astype(np.float32)


def _stored(
    latents: NDArray[np.float32], header: Header, quantizer: Quantizer | None, rdo: RateDistortion
) -> NDArray[Any]:
    if quantizer is not None:
        return quantised(latents, quantizer, rdo)
    with np.errstate(over="ignore"):  # infinity is refused below
        values = latents.astype(header.latent_dtype)
    if not np.isfinite(values).all():
        largest = np.abs(latents).max()
        raise NumericalError(f"a latent of {largest:g} does not fit {header.latent_dtype}; use --latents fp32")
    return values


def requantise(
    source: BinaryIO,
    sink: Writable,
    *,
    model: VideoAutoencoder,
    quality: float,
    rdo: RateDistortion = "time",
    layers: Layers = "auto",
) -> int:
    """Write the latents of `source`, a .cvl of fp32 or fp16 latents, as symbols of `quality` into `sink`: its size.

    The bytes are those of an encode at this quality, so that one run of the model does for many qualities.

    model: the one that made them; its statistics give the steps. rdo, layers: see `EncodeOptions`; an enhancement layer
    that the source does not have is not stored.
    Raises UsageError for a file that is quantised already, BitstreamError, NumericalError.
    """
    reader = open_reader(source)
    header = reader.header
    if header.latents == "quantised":
        raise UsageError("the file is quantised already: quantise its source, or a file of --latents fp32")
    stored = stored_layers(
        model, latents="quantised", quality=quality, layers=layers if header.enhancement is not None else "base"
    )
    header = header.replace(**stored, logvar=False)
    with BitstreamWriter(sink, header) as writer:
        for chunk in reader.chunks(base_only=header.enhancement is None):
            symbols, enhancement = symbols_of(chunk.symbols.astype(np.float32), header, rdo), None
            if chunk.enhancement is not None:
                enhancement = enhancement_symbols_of(chunk.enhancement.astype(np.float32), header, rdo)
            writer.write_chunk(dataclasses.replace(chunk, symbols=symbols, enhancement=enhancement))
    return writer.bytes_written
