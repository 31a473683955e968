"""The nouns of video: `Frame`, `VideoInfo` and, from `color`, `Color`. Plain values; knows no files and no PyAV."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from cvcodec.video.color import Color, ContentLight, MasteringDisplay

__all__ = ["Color", "ContentLight", "Frame", "MasteringDisplay", "Pixels", "VideoInfo"]

Pixels = npt.NDArray[Any]
"""(H, W, 3) RGB, C-contiguous; uint8 at 8 bits, uint16 above, code values right-aligned."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture and its place in time.

    pixels: (H, W, 3) RGB, uint8 where bit_depth is 8, uint16 where it is 9 to 16; code values in [0, 2**bit_depth - 1].
    pts: presentation time in units of the stream's time base.
    duration: ticks until the next frame is shown; of the last frame, what the container says. None where unknown.
    keyframe: the source coded it without reference to others.
    corrupt: the decoder concealed damage in it.
    deinterlaced: it was flagged interlaced and passed through bwdif.
    luma: (H, W) the stored Y' code values behind `pixels`, where they were asked for and there are any.
    """

    pixels: Pixels
    pts: int
    duration: int | None = None
    bit_depth: int = 8
    keyframe: bool = False
    corrupt: bool = False
    deinterlaced: bool = False
    luma: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        dtype = np.uint8 if self.bit_depth == 8 else np.uint16
        if not 8 <= self.bit_depth <= 16:
            raise ValueError(f"{self.bit_depth = } is outside 8 to 16")
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != dtype:
            raise ValueError(
                f"{self.pixels.shape = }, {self.pixels.dtype = }; "
                f"wanted (H, W, 3) {np.dtype(dtype)} at {self.bit_depth} bits"
            )

    @property
    def width(self) -> int:
        """Columns of the pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows of the pixels."""
        return int(self.pixels.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What a video stream is, as its frames come out of `VideoReader`.

    width, height: of the frames handed out, after cropping and, where applied, rotation.
    time_base: seconds per tick, exact.
    bit_depth: of the frames handed out, 8 to 16.
    pixel_format: FFmpeg's name of the stored format.
    average_rate: frames per second, None where unknown (a still image).
    sample_aspect_ratio: pixel width over pixel height of the frames handed out.
    rotation: degrees clockwise that a viewer still has to turn the frames (0 once applied); `display_matrix` holds
        it exactly.
    display_matrix: FFmpeg's 3x3 integers where frames were kept as stored, else None.
    source_rotation: degrees clockwise that the stream asked for.
    start_pts: pts of the first frame of the stream.
    start_time: seconds at which the container's timeline begins: the zero of `start` and `end` of `VideoReader`.
    duration: length of the stream in seconds, None where unknown.
    frames: number of frames in the stream, an estimate; None where unknown.
    stream: index of the stream in its container.
    stream_number, stream_count: its number among the container's real video streams, and their count.
    interlaced: the first frame is flagged interlaced.
    """

    width: int
    height: int
    time_base: Fraction
    color: Color
    bit_depth: int = 8
    pixel_format: str = ""
    codec: str = ""
    container: str = ""
    average_rate: Fraction | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    rotation: int = 0
    source_rotation: int = 0
    display_matrix: tuple[int, ...] | None = None
    start_pts: int = 0
    start_time: Fraction = Fraction(0)
    duration: Fraction | None = None
    frames: int | None = None
    stream: int = 0
    stream_number: int = 0
    stream_count: int = 1
    interlaced: bool = False
    mastering_display: MasteringDisplay | None = None
    content_light: ContentLight | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form with units in its keys, for `info --json`."""
        return {
            "width": self.width,
            "height": self.height,
            "time_base": str(self.time_base),
            "bit_depth": self.bit_depth,
            "pixel_format": self.pixel_format,
            "codec": self.codec,
            "container": self.container,
            "average_rate_fps": None if self.average_rate is None else str(self.average_rate),
            "sample_aspect_ratio": str(self.sample_aspect_ratio),
            "rotation_degrees": self.rotation,
            "source_rotation_degrees": self.source_rotation,
            "start_pts": self.start_pts,
            "start_time_s": float(self.start_time),
            "duration_s": None if self.duration is None else float(self.duration),
            "frames_estimate": self.frames,
            "stream": self.stream,
            "stream_number": self.stream_number,
            "stream_count": self.stream_count,
            "interlaced": self.interlaced,
            "color": self.color.to_dict(),
            "mastering_display": None if self.mastering_display is None else self.mastering_display.to_dict(),
            "content_light": None if self.content_light is None else self.content_light.to_dict(),
        }
