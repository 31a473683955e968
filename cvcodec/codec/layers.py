"""The layers of a chunk: latents -> symbols, and back to float32, with the same bits on every machine; and ranges of
latents from consecutive chunks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cvcodec.bitstream import BitstreamWriter, Chunk, Header
from cvcodec.bitstream.rate_distortion import STRENGTH, choose_symbols
from cvcodec.bitstream.wire import Writable
from cvcodec.codec.headers import open_reader, stored_layers
from cvcodec.codec.options import Layers, RateDistortion
from cvcodec.errors import BitstreamError, NumericalError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quantization import ENHANCEMENT_DEAD_ZONE, Quantizer
from cvcodec.windows.time import frames_of_latents

_STRENGTHS: dict[RateDistortion, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "time": (STRENGTH, 0.0),
    "all": (STRENGTH, STRENGTH),
}
"""Of `choose_symbols`: where the latent before predicts, and elsewhere."""


def latents_of(chunk: Chunk, header: Header) -> NDArray[np.float32]:
    """Its base layer, (C, t, h, w)."""
    return read_back(chunk.symbols, header.quantizer)


def enhancement_of(chunk: Chunk, header: Header) -> NDArray[np.float32]:
    """Its enhancement layer, (E, t, h, w), E = 0 where it has none or was read without."""
    if chunk.enhancement is None:
        return np.empty((0, chunk.latent_count, *header.latent_size), np.float32)
    return read_back(chunk.enhancement, header.enhancement_quantizer)


def layers_of(chunk: Chunk, header: Header) -> NDArray[np.float32]:
    """Both, (C + E, t, h, w): what a decoder reads."""
    base = latents_of(chunk, header)
    return base if chunk.enhancement is None else np.concatenate([base, enhancement_of(chunk, header)])


def symbols_of(latents: NDArray[np.float32], header: Header, rdo: RateDistortion) -> NDArray[Any]:
    """The way there, for the base layer of one chunk: what a file keeps of (C, t, h, w) latents, int32 symbols or the
    latents in the file's own type. Raises NumericalError for what cannot be quantised or does not fit that type."""
    if header.quantizer is None:
        return _floats(latents, header)
    return quantised(latents, header.quantizer, rdo)


def enhancement_symbols_of(latents: NDArray[np.float32], header: Header) -> NDArray[Any]:
    """The same for the enhancement layer, (E, t, h, w), whose symbols nothing predicts: a dead zone is enough."""
    if header.enhancement_quantizer is None:
        return _floats(latents, header)
    with _numerical_errors():
        return header.enhancement_quantizer.quantize(latents, dead_zone=ENHANCEMENT_DEAD_ZONE)


def quantised(latents: NDArray[np.float32], quantizer: Quantizer, rdo: RateDistortion) -> NDArray[np.int32]:
    """The symbols of one chunk's base layer, (C, t, h, w). Raises NumericalError for what cannot be quantised."""
    time, space = _STRENGTHS[rdo]
    with _numerical_errors():
        return choose_symbols(latents, quantizer, time=time, space=space)


@contextlib.contextmanager
def _numerical_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise NumericalError(str(error)) from error


class LatentPieces:
    """Consecutive latents, (first, (C, t, h, w)) one by one, of which ranges are read; what was passed is forgotten."""

    def __init__(self, pieces: Iterator[tuple[int, NDArray[np.float32]]]) -> None:
        self._pieces = pieces
        self._kept: deque[tuple[int, NDArray[np.float32]]] = deque()

    def read(self, start: int, stop: int) -> Tensor | None:
        """Latents [start, stop) as (1, C, n, h, w) float32; fewer, or None, at the end. Ascending, no overlap."""
        while not self._kept or self._end < stop:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._kept.append(piece)
        while self._kept and self._kept[0][0] + self._kept[0][1].shape[1] <= start:
            self._kept.popleft()
        parts = [values[:, max(0, start - first) : stop - first] for first, values in self._kept if first < stop]
        if not parts:
            return None
        joined = np.concatenate(parts, axis=1) if len(parts) > 1 else np.ascontiguousarray(parts[0])
        return torch.from_numpy(joined)[None]

    @property
    def _end(self) -> int:
        first, values = self._kept[-1]
        return first + int(values.shape[1])


def check_chunk_place(first_latent: int, first_frame: int, temporal_factor: int) -> None:
    """BitstreamError unless the chunk's first frame is the one that its first latent stands for."""
    wanted = frames_of_latents(first_latent, first_latent, temporal_factor)[0]
    if first_frame != wanted:
        raise BitstreamError(f"the chunk of latent {first_latent} begins at frame {first_frame}, wanted {wanted}")


def read_back(stored: NDArray[Any], quantizer: Quantizer | None) -> NDArray[np.float32]:
    """What a file keeps of a layer, symbols or floats, as latents."""
    return quantizer.dequantize(stored) if quantizer is not None else stored.astype(np.float32)


def _floats(latents: NDArray[np.float32], header: Header) -> NDArray[Any]:
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
) -> int:
    """Write the latents of `source`, a .cvl of fp32 or fp16 latents, as symbols of `quality` into `sink`: its size.

    The bytes are those of an encode at this quality of the base layer alone, so that one run of the model does for many
    qualities; what an enhancement layer holds depends on the symbols of the base (`follows_from_latents`).

    model: the one that made them; its statistics give the steps. rdo: see `EncodeOptions`.
    Raises UsageError for a file that is quantised already, BitstreamError, NumericalError.
    """
    reader = open_reader(source)
    header = reader.header
    if header.latents == "quantised":
        raise UsageError("the file is quantised already: quantise its source, or a file of --latents fp32")
    stored = stored_layers(model, latents="quantised", quality=quality, layers="base")
    header = header.replace(**stored, logvar=False)
    with BitstreamWriter(sink, header) as writer:
        for chunk in reader.chunks(base_only=True):
            symbols = symbols_of(chunk.symbols.astype(np.float32), header, rdo)
            writer.write_chunk(dataclasses.replace(chunk, symbols=symbols, enhancement=None))
    return writer.bytes_written


def follows_from_latents(model: VideoAutoencoder, quality: float, layers: Layers = "auto") -> bool:
    """Whether `requantise` gives what an encode at `quality` gives: where that stores no enhancement layer."""
    return stored_layers(model, latents="quantised", quality=quality, layers=layers)["enhancement"] is None
