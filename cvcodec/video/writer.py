"""`VideoWriter`: RGB frames with exact times -> a video file, a pipe, y4m, raw pixels, or images. Knows neither
models nor bitstreams.

It writes where it is told and leaves temporary names and renaming to the caller: `close` finishes the output,
`abort` gives it up. The kinds of output live in `container_sink`, `rawvideo` and `images`.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from cvcodec.errors import OutputError, UsageError
from cvcodec.video.color import Color, ContentLight, MasteringDisplay
from cvcodec.video.container_sink import ContainerSink
from cvcodec.video.convert import chroma_of
from cvcodec.video.frame import Frame, VideoInfo
from cvcodec.video.images import ImageSink
from cvcodec.video.rawvideo import RawSink, Y4mSink
from cvcodec.video.sink import OutputSpec, Sink

VideoTarget = str | os.PathLike[str] | BinaryIO
"""What `VideoWriter` writes to."""

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".y4m": "y4m",
    ".rgb": "raw",
    ".raw": "raw",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
}
"""Output formats by file name extension."""

IMAGE_CONTAINERS = ("png", "jpeg", "webp")
"""Formats that hold one picture a file."""


def container_for(path: str | os.PathLike[str]) -> str:
    """The output format that a file name asks for. Raises OutputError for an extension that means none."""
    suffix = Path(path).suffix.lower()
    if suffix not in CONTAINERS:
        raise OutputError(
            f"cannot tell the output format from {os.fspath(path)!r}; known extensions are {', '.join(CONTAINERS)}"
        )
    return CONTAINERS[suffix]


class VideoWriter:
    """Writes frames in order of presentation.

    target: a path, the pattern of a numbered image sequence (`frames/%05d.png`), or a binary file object (not closed).
    width, height, bit_depth: of the frames. time_base: seconds per tick of their pts.
    color: what the frames' colours are, as `VideoInfo.color` says. YUV outputs keep its matrix and range (RGB
        sources get the matrix of the size rule and limited range); converted with them and tagged with them.
    rate: nominal frames per second, a hint for encoders; times come from the pts alone.
    sample_aspect_ratio, display_matrix: written as they are. rotation: degrees clockwise a viewer has to turn the
        frames.
    mastering_display, content_light: HDR metadata, for the container, and for libx265, libx264 and libsvtav1.
    codec, crf, preset, chroma: see `encoders`; None takes visually lossless defaults.
    container: one of the values of `CONTAINERS`; None goes by the extension, and is `matroska` for file objects.
    source_chroma: `420`, `422` or `444`, of the pictures' source: what is lost of it is said.
    tags: of the whole file, where it is a container.
    movie_timescale: ticks per second of MP4 and MOV edit lists; None takes the video's, which keeps its start exact.
    start_number: of the first image of a sequence.
    label: what error messages call the output, where `target` is a temporary file; None for the target's own name.

    Times: MP4 and MOV hold pts exactly; Matroska and WebM hold milliseconds, to the nearest of which pts are rounded
    (said in `notices` where it matters); y4m has a constant rate and raw and images have no times.

    notices: what a person should be told, each once. frames: count so far.
    pts_offset: ticks added to every pts, because no container holds negative times; other streams need the same shift.
    Raises OutputError where the output cannot be written, UsageError where options do not fit together.
    """

    def __init__(
        self,
        target: VideoTarget,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        color: Color | None = None,
        bit_depth: int = 8,
        rate: Fraction | None = None,
        sample_aspect_ratio: Fraction = Fraction(1),
        rotation: int = 0,
        display_matrix: tuple[int, ...] | None = None,
        mastering_display: MasteringDisplay | None = None,
        content_light: ContentLight | None = None,
        codec: str | None = None,
        crf: float | None = None,
        preset: str | None = None,
        chroma: str | None = None,
        container: str | None = None,
        threads: int | None = None,
        source_chroma: str | None = None,
        tags: Mapping[str, str] | None = None,
        movie_timescale: int | None = None,
        start_number: int = 1,
        label: str | None = None,
    ) -> None:
        if container is None:
            container = container_for(target) if isinstance(target, (str, os.PathLike)) else "matroska"
        elif container not in CONTAINERS.values():
            raise OutputError(
                f"output format {container!r} is not one of {', '.join(dict.fromkeys(CONTAINERS.values()))}"
            )
        unfit = {"codec": codec, "crf": crf, "preset": preset, "chroma": chroma if container != "y4m" else None}
        if container in (*IMAGE_CONTAINERS, "y4m", "raw") and any(value is not None for value in unfit.values()):
            names = ", ".join(name for name, value in unfit.items() if value is not None)
            raise UsageError(f"{container} output is not encoded: leave out {names}, or choose a video container")
        spec = OutputSpec(
            width=width,
            height=height,
            bit_depth=bit_depth,
            time_base=time_base,
            color=color or Color().for_rgb(),
            rate=rate,
            sample_aspect_ratio=sample_aspect_ratio,
            rotation=rotation,
            display_matrix=display_matrix,
            mastering_display=mastering_display,
            content_light=content_light,
            source_chroma=source_chroma,
            tags=tags or {},
        )
        self.container_name = container
        self.frames = 0
        self.pts_offset = 0
        self._spec = spec
        self._last_pts: int | None = None
        self._done = False
        self._sink: Sink
        if container in IMAGE_CONTAINERS:
            self._sink = ImageSink(target, spec, container, start_number=start_number, label=label)
        elif container == "y4m":
            self._sink = Y4mSink(target, spec, chroma, label)
        elif container == "raw":
            self._sink = RawSink(target, spec, label)
        else:
            self._sink = ContainerSink(
                target,
                spec,
                container,
                codec=codec,
                crf=crf,
                preset=preset,
                chroma=chroma,
                threads=threads,
                movie_timescale=movie_timescale,
                label=label,
            )

    @classmethod
    def like(cls, target: VideoTarget, info: VideoInfo, **options: Any) -> Self:
        """A writer for frames that `info` describes; `options` are further arguments, and win over what `info` says."""
        described: dict[str, Any] = {
            "width": info.width,
            "height": info.height,
            "time_base": info.time_base,
            "color": info.color,
            "bit_depth": info.bit_depth,
            "rate": info.average_rate,
            "sample_aspect_ratio": info.sample_aspect_ratio,
            "rotation": info.rotation,
            "display_matrix": info.display_matrix,
            "mastering_display": info.mastering_display,
            "content_light": info.content_light,
            "source_chroma": chroma_of(info.pixel_format),
        }
        return cls(target, **(described | options))

    @property
    def notices(self) -> list[str]:
        """What a person should be told, each once."""
        return self._sink.notices

    @property
    def has_container(self) -> bool:
        """Whether the output is a container that can hold other streams, so that there is an `output`."""
        return isinstance(self._sink, ContainerSink)

    @property
    def output(self) -> ContainerSink:
        """The container being written, for adding streams and muxing their packets. Raises ValueError for other
        outputs.
        """
        if not isinstance(self._sink, ContainerSink):
            raise ValueError(f"{self.container_name} output has no container")
        return self._sink

    def begin(self, pts: int) -> None:
        """Settle `pts_offset` for a first frame at `pts`, before it is written; `write` does it otherwise."""
        if self._last_pts is None and pts + self.pts_offset < 0:
            self.pts_offset = -pts
            self.notices.append(
                f"times are shifted by {self.pts_offset} ticks: the first frame would begin before zero"
            )

    def write(self, frame: Frame) -> None:
        """Append a frame. Raises OutputError where it cannot be written, ValueError where it is not like the others
        or not later.
        """
        if self._done:
            raise ValueError("the writer is closed")
        if (frame.width, frame.height, frame.bit_depth) != (self._spec.width, self._spec.height, self._spec.bit_depth):
            raise ValueError(
                f"frame is {frame.width}x{frame.height} at {frame.bit_depth} bits; "
                f"wanted {self._spec.width}x{self._spec.height} at {self._spec.bit_depth}"
            )
        self.begin(frame.pts)
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise ValueError(f"{frame.pts = } is not after {self._last_pts}, the frame before")
        self._last_pts = frame.pts
        if self.pts_offset:
            frame = replace(frame, pts=frame.pts + self.pts_offset)
        self._sink.write(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the output. Raises OutputError where that fails; without any frame there is nothing to finish and
        it is aborted.
        """
        if self._done:
            return
        self._done = True
        if self.frames:
            self._sink.close()
        else:
            self._sink.abort()
            raise OutputError("no frames were written")

    def abort(self) -> None:
        """Give the output up: nothing more is written to a file object; what lies at a path is incomplete. Never
        raises.
        """
        if not self._done:
            self._done = True
            self._sink.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
