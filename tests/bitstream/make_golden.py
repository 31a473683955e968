"""Made the golden files of format version 1, once: `python -m tests.bitstream.make_golden FOLDER`.

They stay as they are for ever. A later encoder may pack the same content into other bytes, so this program is not run
again over them; it documents what they hold.
"""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

from cvcodec.bitstream import BitstreamWriter, Chunk, ColorTags, Header
from cvcodec.windows.specs import Tile
from tests.bitstream.samples import make_chunks, make_header


def golden_headers() -> dict[str, Header]:
    """Header of each file, by name."""
    quantised = make_header(
        encode_tile=Tile(size=64, context=8, blend=4),
        color=ColorTags(matrix="bt2020nc", range="full", primaries="bt2020", transfer="smpte2084"),
        bit_depth=10,
        sample_aspect_ratio=Fraction(64, 45),
        rotation=90,
        metadata={"title": "Zoë ☃ 𝄞", "chapters": [{"start": -5, "end": 2**60}]},
        extra={"a_key_of_the_future": [1, 2.5, None]},
    )
    floats = {name: quantised.replace(latents=name, steps=(), offsets=(), quality=None) for name in ("fp16", "fp32")}
    return {"v1.cvl": quantised, **{f"v1-{name}.cvl": header for name, header in floats.items()}}


def golden_chunks(header: Header) -> list[Chunk]:
    """The chunks: four latents, four, one, and one that is all alike (payload mode 0)."""
    chunks = make_chunks(header, (4, 4, 1))
    last = chunks[-1]
    chunks.append(
        Chunk(
            index=3,
            first_latent=last.end_latent,
            latent_count=1,
            first_frame=last.end_frame,
            pts=np.array([10_000, -(2**62), 2**62]),
            symbols=np.full(header.chunk_shape(1), -2, header.latent_dtype),
        )
    )
    return chunks


def write_golden(path: Path, header: Header) -> None:
    """Write one file."""
    with path.open("wb") as sink, BitstreamWriter(sink, header) as writer:
        for chunk in golden_chunks(header):
            writer.write_chunk(chunk)
            writer.write_record("XPKT", bytes(range(chunk.index, chunk.index + 40)))
        writer.close({"made": "once"})


if __name__ == "__main__":
    for name, golden in golden_headers().items():
        write_golden(Path(sys.argv[1]) / name, golden)
