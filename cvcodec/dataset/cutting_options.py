"""What a batch is asked for of the clips that it makes of its sources, and the thresholds behind it. Plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cvcodec.errors import UsageError
from cvcodec.options import option

_PANEL = "Clips"

CELLS = (32, 18)
"""Parts, across and down, whose brightness is compared."""

STILL_CHANGE = 4
"""A clip in which no part differs from the clip's first picture by more than this, of 255, is still."""

BLACK_MEAN = 16
"""A clip in which no picture is brighter than this in the mean, of 255, is black."""

LOOK_EVERY = 4
"""One frame of so many is looked at for both."""


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """Which clips of a source are encoded, and which sources at all."""

    clip_frames: int | None = option(
        None, "Cut sources into clips of N frames (4n+1 fill their latents).", panel=_PANEL, metavar="N", least=1
    )
    clip_stride: int | None = option(
        None,
        "From the start of a clip to the next one's. Default: as --clip-frames.",
        panel=_PANEL,
        metavar="N",
        least=1,
    )
    max_clips: int | None = option(
        None, "Of a source at most N clips, spread over it.", panel=_PANEL, metavar="N", least=1
    )
    scenes: Literal["none", "auto"] = option(
        "none", 'auto: no clip crosses a cut. By PySceneDetect (pip install "cvcodec[scenes]").', panel=_PANEL
    )
    min_frames: int | None = option(
        None, "Leave out what has fewer frames. Default: --clip-frames.", panel=_PANEL, metavar="N", least=1
    )
    skip_still: bool = option(
        False, f"Leave out clips in which nothing moves (no part by more than {STILL_CHANGE} of 255).", panel=_PANEL
    )
    skip_black: bool = option(
        False, f"Leave out clips that are never brighter than {BLACK_MEAN} of 255 in the mean.", panel=_PANEL
    )

    def __post_init__(self) -> None:
        if self.clip_stride is not None and self.clip_frames is None:
            raise UsageError("--clip-stride goes with --clip-frames")
        if self.max_clips is not None and not self.divides:
            raise UsageError("--max-clips goes with --clip-frames or --scenes auto")
        if self.clip_frames and self.min_frames and self.min_frames > self.clip_frames:
            raise UsageError(f"--min-frames {self.min_frames} leaves out all clips of --clip-frames {self.clip_frames}")

    @property
    def asks(self) -> bool:
        """Whether sources have to be looked through."""
        return self != Cutting()

    @property
    def divides(self) -> bool:
        """Whether a source may become several clips, with names of their own."""
        return self.clip_frames is not None or self.scenes != "none"

    @property
    def looks_at_pictures(self) -> bool:
        """Whether that is not known from times alone."""
        return self.scenes != "none" or self.skip_still or self.skip_black

    def identity(self, fps: object, stream: int | None) -> dict[str, Any]:
        """Everything that decides which clips a source has; JSON types."""
        return {**asdict(self), "fps": None if fps is None else str(fps), "stream": stream}
