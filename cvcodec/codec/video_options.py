"""How a video is read and written: what a person chooses of `VideoReader` and `VideoWriter`. Plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


class _Arguments:
    """What both have."""

    def arguments(self) -> dict[str, Any]:
        """What was chosen: the fields that are not as their defaults, by name."""
        values = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {field.name: value for field, value in values if value != field.default}


@dataclass(frozen=True, kw_only=True)
class ReaderOptions(_Arguments):
    """Which frames of a source are read, and how; see `VideoReader`."""

    start: Fraction | float | str | None = None
    """Seconds on the source's timeline: frames with start <= time < end are read."""
    end: Fraction | float | str | None = None
    duration: Fraction | float | str | None = None
    """Stands for `end` = start + duration."""
    frames: int | None = None
    """At most so many frames."""
    stream: int | None = None
    """Number among the video streams; None: the first, of HEIF and AVIF the one that a player shows."""
    rotate: bool = True
    """Turn frames upright, as the display matrix asks; otherwise they stay as stored, with their tag."""
    deinterlace: bool = True
    """Pass frames flagged interlaced through bwdif."""
    background: str = "black"
    """`black` or `white`, behind transparent pixels."""
    rate: Fraction | None = None
    """Frames per second of image sequences and raw streams, which do not say; None: 25."""
    threads: int | None = None
    """Decoding threads; None: one per core."""

    @property
    def is_trimmed(self) -> bool:
        """Whether not all of the source is asked for."""
        return any(value is not None for value in (self.start, self.end, self.duration, self.frames))


@dataclass(frozen=True, kw_only=True)
class WriterOptions(_Arguments):
    """How a decoded video is encoded again and kept; see `VideoWriter`. None: visually lossless defaults."""

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    chroma: str | None = None
    """`420`, `422` or `444`."""
    container: str | None = None
    """None: by the extension, `matroska` for streams."""
    threads: int | None = None
    """Encoding threads."""
