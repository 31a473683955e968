"""Windows in time and tiles in space, written once, for any callable between pixels and latents.

    timeline        which frames a latent stands for
    padding         any size and frame count to what a model takes, and back
    specs           WindowSpec and TileSpec, in latents
    sequence        a stream of which only what is needed is alive
    space           tiles
    windows         windows: encode_stream and decode_stream
    official_grid   the tiles of the official CV-VAE inference
    official        its chunks: encode_official and decode_official
    backoff         smaller tiles when a device runs out of memory
    sizing          smaller sizes when an estimate says they will not fit

Owns: what is computed together, what of it is discarded, blended and kept, and in which order.
Does not know: models, devices, files, numbers of any codec.
"""

from cvcodec.tiling.backoff import TileRunner, halved, with_backoff
from cvcodec.tiling.official import (
    decode_official,
    decode_official_stream,
    encode_official,
    encode_official_stream,
    official_chunk,
    official_first_frame,
    official_latents_to_read,
)
from cvcodec.tiling.official_grid import OfficialConfig, OfficialGrid, OfficialRunner, decode_tiles, encode_tiles
from cvcodec.tiling.padding import crop_space, pad_space, pad_time, padded_size
from cvcodec.tiling.sizing import activation_bytes_per_pixel, estimate_bytes, fit_to_memory
from cvcodec.tiling.space import layout, tiled
from cvcodec.tiling.specs import TileSpec, WindowSpec
from cvcodec.tiling.timeline import (
    frame_count,
    frames_of_latents,
    latent_count,
    latents_of_frames,
    padded_frame_count,
)
from cvcodec.tiling.windows import (
    chunks_to_read,
    decode_stream,
    encode_stream,
    first_frame_to_read,
    latents_to_read,
    trim_frames,
)

__all__ = [
    "OfficialConfig",
    "OfficialGrid",
    "OfficialRunner",
    "TileRunner",
    "TileSpec",
    "WindowSpec",
    "activation_bytes_per_pixel",
    "chunks_to_read",
    "crop_space",
    "decode_official",
    "decode_official_stream",
    "decode_stream",
    "decode_tiles",
    "encode_official",
    "encode_official_stream",
    "encode_stream",
    "encode_tiles",
    "estimate_bytes",
    "first_frame_to_read",
    "fit_to_memory",
    "frame_count",
    "frames_of_latents",
    "halved",
    "latent_count",
    "latents_of_frames",
    "latents_to_read",
    "layout",
    "official_chunk",
    "official_first_frame",
    "official_latents_to_read",
    "pad_space",
    "pad_time",
    "padded_frame_count",
    "padded_size",
    "tiled",
    "trim_frames",
    "with_backoff",
]
