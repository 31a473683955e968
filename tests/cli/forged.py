"""Files of strangers: right checksums, and a header that says what nobody's encoder would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cvcodec.bitstream import BitstreamReader, BitstreamWriter


def with_header(source: Path, target: Path, **changes: Any) -> Path:
    """The chunks of `source` under a header with some fields changed."""
    with source.open("rb") as file, target.open("wb") as sink:
        reader = BitstreamReader(file)
        with BitstreamWriter(sink, reader.header.replace(**changes)) as writer:
            for chunk in reader.chunks():
                writer.write_chunk(chunk)
    return target
