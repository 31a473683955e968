"""What an encode and a decode are both asked for: where the model runs, what goes with the picture. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

from cvcodec.copied import KINDS


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `EncodeOptions` and `DecodeOptions` share."""

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """CPU threads of the model."""
    kinds: tuple[str, ...] = KINDS
    """Streams to copy into the file, or to restore from it, of `cvcodec.copied.KINDS`; none for a silent one."""
    tags: bool = True
    """Copy or restore chapters and tags too; otherwise only languages, dispositions and the names of attachments."""
