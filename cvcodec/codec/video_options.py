"""How a video is read and written: what a person chooses of `VideoReader` and `VideoWriter`. Plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from cvcodec.options import option

_INPUT, _PREPARED, _VIDEO = "Input", "Size and rate", "Video"


Codec = Literal["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "h264_nvenc", "hevc_nvenc"]

Container = Literal["mp4", "mov", "matroska", "webm", "y4m", "raw", "png", "jpeg", "webp"]


class _Arguments:
    """Options that become keyword arguments of a class of `video`."""

    def arguments(self) -> dict[str, Any]:
        """What was chosen: the fields that are not as their defaults, by name."""
        values = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {field.name: value for field, value in values if value != field.default}


@dataclass(frozen=True, kw_only=True)
class ReaderOptions(_Arguments):
    """Which frames of a source are read, and how; see `VideoReader`."""

    start: Fraction | float | None = option(
        None, "Begin here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    """On the source's timeline: frames with start <= time < end are read."""
    end: Fraction | float | None = option(
        None, "Stop before here, in seconds or hours:minutes:seconds.", metavar="TIME", syntax="time"
    )
    duration: Fraction | float | None = option(None, "Encode so much, from --start on.", metavar="TIME", syntax="time")
    """Stands for `end` = start + duration."""
    frames: int | None = option(None, "Encode at most N frames.", panel=_INPUT, metavar="N", least=1)
    stream: int | None = option(
        None, "Which video stream, from 0. Default: the first.", panel=_INPUT, metavar="N", least=0
    )
    """None: the first, of HEIF and AVIF the one that a player shows."""
    rotate: bool = option(
        True,
        "Turn frames upright, or keep them as stored, with their tag.",
        panel=_INPUT,
        flags=("--rotate/--no-rotate",),
    )
    deinterlace: bool = option(
        True,
        "Pass frames flagged interlaced through bwdif.",
        panel=_INPUT,
        flags=("--deinterlace/--no-deinterlace",),
    )
    size: str | None = option(
        None,
        "Resize frames (Lanczos): WxH (of several, with commas, the one of the nearest shape), short=256 (the shorter "
        "side) or area=262144 (pixels). Default: as they are.",
        panel=_PREPARED,
        metavar="WxH|short=N|area=N",
        syntax="size",
    )
    crop: Literal["center", "none"] = option(
        "center",
        "With --size. center: cover it and cut what overhangs; sides that follow the source become multiples of 8. "
        "none: the whole picture, within it.",
        panel=_PREPARED,
    )
    fps: Fraction | float | str | None = option(
        None,
        "Frames per second, by time: the source's nearest frame to each moment; others are dropped, or repeated.",
        panel=_PREPARED,
        metavar="N",
        syntax="fps",
    )
    background: str = "black"
    """`black` or `white`, behind transparent pixels."""
    rate: Fraction | None = None
    """Frames per second of image sequences and raw streams, which do not say; None: 25."""
    threads: int | None = None
    """Decoding threads; None: one per core."""
    hwaccel: str = option(
        "none",
        "Decode the source on hardware: none, auto, or a device such as cuda (NVDEC).",
        panel=_INPUT,
        metavar="NAME",
    )
    """See `hardware_decoder`."""

    @property
    def preparation(self) -> dict[str, Any]:
        """Of the arguments, those that give frames another size or rate."""
        return {name: value for name, value in self.arguments().items() if name in ("size", "crop", "fps")}

    @property
    def is_trimmed(self) -> bool:
        """Whether not all of the source is asked for."""
        return any(value is not None for value in (self.start, self.end, self.duration, self.frames))


@dataclass(frozen=True, kw_only=True)
class WriterOptions(_Arguments):
    """How a decoded video is encoded again and kept; see `VideoWriter`. None: visually lossless defaults."""

    codec: Codec | None = option(
        None,
        "Video encoder. ffv1 stores the decoded RGB exactly; _nvenc: on an NVIDIA card. Default: libx264, for "
        "HDR libx265.",
        panel=_VIDEO,
    )
    crf: float | None = option(
        None, "Its constant rate factor. Default: visually lossless.", panel=_VIDEO, metavar="N", least=0, most=63
    )
    preset: str | None = option(None, "Its speed preset.", panel=_VIDEO, metavar="NAME")
    chroma: Literal["420", "422", "444"] | None = option(
        None, "Chroma format. Default: 420, at odd sizes 444.", panel=_VIDEO
    )
    container: Container | None = option(
        None, "Output format. Default: by the extension.", panel=_VIDEO, flags=("--format",)
    )
    """None: by the extension, `matroska` for streams."""
    threads: int | None = None
    """Encoding threads."""
