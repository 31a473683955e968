"""Video file -> .cvl -> video file: the glue, with one clip in memory whatever the length.

    encode   VideoReader -> frames -> windows -> encoder -> latents -> symbols -> BitstreamWriter   (`encode`)
    decode   BitstreamReader -> symbols -> latents -> windows -> decoder -> frames -> VideoWriter   (`decode`, `input`)
    open     a file as an array of latents and frames                                               (`latent_file`)
    arrays   frames in memory -> .cvl -> frames in memory                                           (`arrays`)

`options` says what is asked for and what came out; it is there without torch.
`headers` says what of a source goes into a file, `output` writes it, also behind what an interrupted encode has left,
`input` gives what is needed of an intact file or of a damaged one; `layers` is between latents and symbols, and
`session` has what a run has from beginning to end.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cvcodec.codec.options import (
    DEFAULT_MODEL,
    DEFAULT_QUALITY,
    DecodeOptions,
    DecodeResult,
    EncodeOptions,
    EncodeResult,
    ReaderOptions,
    WriterOptions,
)

if TYPE_CHECKING:
    from cvcodec.codec.decode import Decoder, decode_file, decode_stream
    from cvcodec.codec.encode import encode_file, encode_stream
    from cvcodec.codec.latent_file import LatentFile

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_QUALITY",
    "DecodeOptions",
    "DecodeResult",
    "Decoder",
    "EncodeOptions",
    "EncodeResult",
    "LatentFile",
    "ReaderOptions",
    "WriterOptions",
    "decode_file",
    "decode_stream",
    "encode_file",
    "encode_stream",
]

_HOMES = {
    "Decoder": "cvcodec.codec.decode",
    "LatentFile": "cvcodec.codec.latent_file",
    "decode_file": "cvcodec.codec.decode",
    "decode_stream": "cvcodec.codec.decode",
    "encode_file": "cvcodec.codec.encode",
    "encode_stream": "cvcodec.codec.encode",
}
"""Of what needs torch; options are there without it."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
