"""What an encode and a decode are both asked for: where the model runs, what goes with the picture. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from cvcodec.options import option
from cvcodec.passthrough.streams import KINDS

_HARDWARE, _STREAMS = "Hardware", "Sound and the rest"

MOST_THREADS = 1024
"""Thousands more end in an operating system that starts none."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `EncodeOptions` and `DecodeOptions` share."""

    kinds: tuple[str, ...] = option(
        KINDS,
        "Copy sound, subtitles and attachments, packet by packet; or leave them out.",
        panel=_STREAMS,
        flags=("--audio/--no-audio",),
    )
    """Streams to copy into the file, or to restore from it; none for a silent one."""
    tags: bool = option(
        True,
        "Copy chapters and tags; or only languages, dispositions and the names of attachments.",
        panel=_STREAMS,
        flags=("--metadata/--no-metadata",),
    )
    device: str = option(
        "auto",
        "Where the model runs. auto: CUDA if there is one, else the CPU.",
        panel=_HARDWARE,
        metavar="auto|cpu|cuda[:N]|mps",
    )
    precision: str = option(
        "auto",
        "Arithmetic of the model. auto: bf16 where the hardware multiplies it natively, else fp32.",
        panel=_HARDWARE,
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    threads: int | None = option(
        None,
        "CPU threads of the model. Default: the processors this process may use.",
        panel=_HARDWARE,
        metavar="N",
        least=1,
        most=MOST_THREADS,
    )
