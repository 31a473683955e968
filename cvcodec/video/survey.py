"""A look through a whole video: when its frames are shown, and small pictures of them, where those are asked for.

Times come from the packets where the container stores them, without decoding; else from decoding. Small pictures are
made quickly: for finding cuts, still and black stretches, not for showing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvcodec.video.decoder import TIMED_FORMATS, FrameDecoder
from cvcodec.video.filters import Timed
from cvcodec.video.frame import VideoInfo
from cvcodec.video.rate import FrameGrid, parse_fps
from cvcodec.video.reader import VideoReader
from cvcodec.video.sizes import packets
from cvcodec.video.source import InputFile, VideoSource
from cvcodec.video.timestamps import Timeline

PICTURE_SIDE = 256
"""Of the longer side of small pictures; smaller videos keep their size."""

SmallPicture = NDArray[np.uint8]
"""(H, W, 3) BGR."""


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of a stream are shown. info: the stream. pts: in its time base, in order. last: of the last
    frame's duration in ticks, 0 where unknown."""

    info: VideoInfo
    pts: tuple[int, ...]
    last: int

    def at(self, fps: Fraction | float | str | None) -> list[tuple[Fraction, int]]:
        """What `VideoReader` gives at that rate, None for the frames as they are: of each frame, seconds on the
        stream's clock, and the number of the frame in the source."""
        base = self.info.time_base
        if fps is None:
            return [(pts * base, number) for number, pts in enumerate(self.pts)]
        items: list[Any] = [Timed(number, pts, None) for number, pts in enumerate(self.pts)]  # type: ignore[arg-type]
        items[-1].duration = self.last or None
        grid = FrameGrid(self.info.start_pts * base, parse_fps(fps))
        numbered: Any = grid.frames(items, base)
        return [(item.pts * grid.time_base, item.frame) for item in numbered]


def look_through(
    source: VideoSource,
    *,
    stream: int | None = None,
    on_picture: Callable[[int, SmallPicture], None] | None = None,
) -> FrameTimes:
    """on_picture: is given each frame's number and picture, in order. Raises InputError."""
    with VideoReader(source, stream=stream, threads=1) as reader:
        info = reader.source_info
    found = None if on_picture is not None else _stored_times(source, info)
    return found or _decoded_times(source, stream, info, on_picture)


def _stored_times(source: VideoSource, info: VideoInfo) -> FrameTimes | None:
    """From the packets; None where these do not say it all."""
    if info.container not in TIMED_FORMATS:
        return None
    times: dict[int, int] = {}
    with InputFile(source) as opened, opened.open() as container:
        timeline = Timeline(info.stream, lambda _: None)
        for packet in timeline.mended(packets(container, opened.name)):
            if packet.stream.index != info.stream or packet.is_discard:
                continue
            if packet.pts is None or packet.pts in times:
                return None
            times[packet.pts] = packet.duration or 0
    if not times or min(times) != info.start_pts:
        return None
    pts = tuple(sorted(times))
    return FrameTimes(info, pts, times[pts[-1]])


def _decoded_times(
    source: VideoSource, stream: int | None, info: VideoInfo, on_picture: Callable[[int, SmallPicture], None] | None
) -> FrameTimes:
    longer = max(info.width, info.height)
    pts, last = [], 0
    decoder = FrameDecoder(InputFile(source), stream=stream, threads=1, on_packet=None)
    try:
        for number, item in enumerate(decoder.frames()):
            pts.append(item.pts)
            last = item.duration or 0
            if on_picture is not None:
                frame = item.frame
                scale = min(1.0, PICTURE_SIDE / longer)
                width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
                small = frame.reformat(width=width, height=height, format="bgr24", interpolation="AREA")
                on_picture(number, np.ascontiguousarray(small.to_ndarray()))
    finally:
        decoder.close()
    return FrameTimes(info, tuple(pts), last)
