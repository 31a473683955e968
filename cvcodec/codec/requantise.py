"""A file of float latents -> the file that `encode` would have made at some quality: one run of the model for many.

Owns: that the result is the same, byte for byte. Does not know: models, frames.
"""

from __future__ import annotations

import dataclasses
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cvcodec.bitstream import BitstreamWriter
from cvcodec.bitstream.rate_distortion import STRENGTH, choose_symbols
from cvcodec.bitstream.wire import Writable
from cvcodec.codec.encode_options import Layers, RateDistortion
from cvcodec.codec.headers import open_reader, stored_layers
from cvcodec.errors import NumericalError, UsageError
from cvcodec.model.base import VideoAutoencoder
from cvcodec.quantization import Quantizer

_STRENGTHS: dict[RateDistortion, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "time": (STRENGTH, 0.0),
    "all": (STRENGTH, STRENGTH),
}


def requantise(
    source: BinaryIO,
    sink: Writable,
    *,
    model: VideoAutoencoder,
    quality: float,
    rdo: RateDistortion = "time",
    layers: Layers = "auto",
) -> int:
    """Write the latents of `source`, a .cvl of fp32 or fp16 latents, as symbols of `quality` into `sink`: its bytes.

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
    base, above = header.quantizer, header.enhancement_quantizer
    assert base is not None
    with BitstreamWriter(sink, header) as writer:
        for chunk in reader.chunks(base_only=above is None):
            symbols = quantised(chunk.symbols.astype(np.float32), base, rdo)
            enhancement = None
            if above is not None:
                assert chunk.enhancement is not None
                enhancement = quantised(chunk.enhancement.astype(np.float32), above, rdo)
            writer.write_chunk(dataclasses.replace(chunk, symbols=symbols, enhancement=enhancement))
    return writer.bytes_written


def quantised(latent: NDArray[np.float32], quantizer: Quantizer, rdo: RateDistortion) -> NDArray[np.int32]:
    """The symbols of one chunk, (C, t, h, w). Raises NumericalError for what cannot be quantised."""
    time, space = _STRENGTHS[rdo]
    try:
        return choose_symbols(latent, quantizer, time=time, space=space)
    except ValueError as error:
        raise NumericalError(str(error)) from error
