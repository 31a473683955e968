"""Video file -> .cvl -> video file: the glue, with one clip in memory whatever the length.

    encode   VideoReader -> frames -> windows -> encoder -> latents -> symbols -> BitstreamWriter   (`encode`)
    decode   BitstreamReader -> symbols -> latents -> windows -> decoder -> frames -> VideoWriter   (`decode`, `feed`)
    open     a file as an array of latents and frames                                               (`latent_file`)

`headers` says what of a source goes into a file, `resume` goes on with the partial file of an interrupted encode,
`chunks` and `salvage` give what is needed of an intact file and of a damaged one; `notices` collects what
a person should read.
"""

from cvcodec.codec.decode import Decoder, decode_file
from cvcodec.codec.decode_options import DecodeOptions, DecodeResult
from cvcodec.codec.encode import encode_file, encode_stream
from cvcodec.codec.encode_options import EncodeOptions, EncodeResult
from cvcodec.codec.headers import DEFAULT_MODEL, DEFAULT_QUALITY
from cvcodec.codec.latent_file import LatentFile
from cvcodec.codec.video_options import ReaderOptions, WriterOptions

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
    "encode_file",
    "encode_stream",
]
