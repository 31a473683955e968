"""What a decode is asked for, and what it says when it is done. Plain values; `decode` does the work."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from cvcodec.codec.run_options import RunOptions
from cvcodec.codec.video_options import WriterOptions
from cvcodec.options import option


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(RunOptions):
    """How to decode; every field has a default that suits most files."""

    writer: WriterOptions = field(default_factory=WriterOptions)
    start: Fraction | float | None = option(
        None, "Begin here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    """On the source's timeline: frames with start <= time < end are decoded."""
    end: Fraction | float | None = option(
        None, "Stop before here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    duration: Fraction | float | None = option(None, "Decode so much, from --start on.", metavar="TIME", syntax="time")
    """Stands for `end` = start + duration."""
    frames: int | None = option(None, "Decode at most N frames.", metavar="N", least=1)
    layers: Literal["base", "all"] = option("all", "base: decode from the base layer alone, of files that have two.")
    salvage: bool = option(False, "Decode what is intact of a damaged file, and say which frames are lost.")
    """At its own times, instead of refusing it."""


@dataclass(frozen=True, kw_only=True)
class LostFrames:
    """Consecutive frames for which there is no intact chunk."""

    first_frame: int
    frame_count: int | None
    """None: to an end that is not known, because the trailer is lost too; perhaps there are none."""
    start_s: float | None
    """Where the intact frames before end, in seconds from the beginning; None where there are none."""
    end_s: float | None
    """Where the intact frames behind begin; None where there are none."""

    def describe(self) -> str:
        """`17 to 56`, or `77 and later`."""
        if self.frame_count is None:
            return f"{self.first_frame} and later"
        last = self.first_frame + self.frame_count - 1
        return f"{self.first_frame} to {last}" if self.frame_count > 1 else str(last)


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """What a decode did."""

    frames: int
    concealed_frames: int
    """Of which the source was damaged where they were encoded."""
    lost: tuple[LostFrames, ...]
    """Frames of a salvaged file that could not be decoded, as far as it was read."""
    damaged_bytes: int
    """Bytes of a salvaged file that belong to no intact record."""
    width: int
    height: int
    seconds: float
    """Wall time of the whole command."""
    model_seconds: float
    """Of which inside the model's calls."""
    precision: str
    device: str
    notices: tuple[str, ...]

    @property
    def megapixels_per_s(self) -> float:
        """Speed of the whole command."""
        return self.width * self.height * self.frames / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def lost_frames(self) -> int | None:
        """How many frames are lost; None where that is not known, because the end of the file is lost."""
        counts = [lost.frame_count for lost in self.lost]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def damage(self) -> str | None:
        """What a person should know of a damaged file, in a sentence; None for an intact one."""
        if not self.lost and not self.damaged_bytes:
            return None
        if not self.lost:
            return f"the file is damaged ({self.damaged_bytes} bytes), but no frame is lost"
        frames = ", ".join(lost.describe() for lost in self.lost)
        return f"the file is damaged: frames {frames} are lost, {self.frames} were decoded"

    def to_dict(self) -> dict[str, Any]:
        """JSON types, units in the keys."""
        return {
            "frames": self.frames,
            "concealed_frames": self.concealed_frames,
            "lost_frames": self.lost_frames,
            "lost": [dataclasses.asdict(lost) for lost in self.lost],
            "damaged_bytes": self.damaged_bytes,
            "width": self.width,
            "height": self.height,
            "seconds": self.seconds,
            "model_seconds": self.model_seconds,
            "mpixel_per_s": self.megapixels_per_s,
            "precision": self.precision,
            "device": self.device,
            "notices": list(self.notices),
        }
