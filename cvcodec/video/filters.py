"""What becomes of decoded frames before they are handed out: flagged ones deinterlaced, all turned upright.

bwdif, of libavfilter: one frame in, one frame out (`send_frame`): neither count nor times change. Frames that are not
flagged come out untouched, and until the first flagged frame appears nothing passes through the filter at all. bwdif
looks one frame ahead, so that from then on a frame comes out when its successor has gone in.

A display matrix is FFmpeg's nine integers (a, b, u, c, d, v, x, y, w): a source point (x, y) is shown at
(a x + c y, b x + d y), up to a shift. Only the eight matrices that keep pixels on the grid can be applied exactly.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import av
import av.error
import av.filter
import numpy as np

from cvcodec.video.frame import Pixels

_MIN_WIDTH, _MIN_HEIGHT = 3, 4  # bwdif refuses less


class Timed:
    """A decoded frame with its place in time, and whether bwdif rebuilt it."""

    __slots__ = ("deinterlaced", "duration", "frame", "pts")

    def __init__(self, frame: av.VideoFrame, pts: int, duration: int | None) -> None:
        self.frame, self.pts, self.duration = frame, pts, duration
        self.deinterlaced = False


def deinterlaced(items: Iterable[Timed]) -> Iterator[Timed]:
    """The same items in the same order, the flagged ones with their frame replaced by bwdif's."""
    graph: Any = None
    waiting: deque[Timed] = deque()
    previous: Timed | None = None
    shape: tuple[Any, ...] = ()

    def drain(graph: Any) -> Iterator[Timed]:
        while True:
            try:
                frame = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            item = waiting.popleft()
            if item is not skipped:
                if item.frame.interlaced_frame:
                    item.frame, item.deinterlaced = frame, True
                yield item

    skipped: Timed | None = None
    for item in items:
        frame = item.frame
        now = (frame.width, frame.height, frame.format.name)
        if graph is not None and now != shape:
            graph.push(None)
            yield from drain(graph)
            graph = previous = None
        if graph is None:
            if not frame.interlaced_frame or frame.width < _MIN_WIDTH or frame.height < _MIN_HEIGHT:
                previous = item
                yield item
                continue
            graph, shape = _bwdif(*now), now
            skipped = previous  # already handed out; the filter sees it as the past of the first flagged frame
            if (
                previous is not None
                and (previous.frame.width, previous.frame.height, previous.frame.format.name) == now
            ):
                waiting.append(previous)
                graph.push(previous.frame)
        waiting.append(item)
        graph.push(frame)
        yield from drain(graph)
    if graph is not None:
        graph.push(None)
        yield from drain(graph)


def _bwdif(width: int, height: int, pixel_format: str) -> Any:
    graph = av.filter.Graph()
    nodes = [
        graph.add("buffer", f"video_size={width}x{height}:pix_fmt={pixel_format}:time_base=1/1:pixel_aspect=1/1"),
        graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"),
        graph.add("format", f"pix_fmts={pixel_format}"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


IDENTITY = (1, 0, 0, 1)
"""The turn that leaves a picture alone, as (a, b, c, d)."""

Turn = tuple[int, int, int, int]
"""(a, b, c, d) of a display matrix reduced to signs."""


def matrix_from_bytes(data: bytes) -> tuple[int, ...] | None:
    """The nine integers of display matrix side data; None where it has another size."""
    return struct.unpack("9i", data) if len(data) == 36 else None


def turn_of(matrix: tuple[int, ...]) -> Turn | None:
    """The signs of a matrix that only turns by quarters and mirrors; None for any other (or a degenerate) matrix."""
    a, b, c, d = (matrix[i] for i in (0, 1, 3, 4))
    scale = max(abs(a), abs(b), abs(c), abs(d))
    if scale == 0:
        return None
    signs = tuple(round(value / scale) for value in (a, b, c, d))
    straight = abs(signs[0]) == abs(signs[3]) == 1 and signs[1] == signs[2] == 0
    crossed = abs(signs[1]) == abs(signs[2]) == 1 and signs[0] == signs[3] == 0
    off_grid = any(abs(value / scale - sign) > 1e-3 for value, sign in zip((a, b, c, d), signs, strict=True))
    return None if off_grid or not (straight or crossed) else (signs[0], signs[1], signs[2], signs[3])


def turn_from_rotation(counter_clockwise: int) -> Turn | None:
    """The turn of PyAV's `VideoFrame.rotation`; None where it is not a multiple of 90 degrees."""
    return {0: IDENTITY, 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}.get(counter_clockwise % 360)


def clockwise_degrees(turn: Turn) -> int:
    """Degrees clockwise by which a turn rotates, its mirroring (after the rotation, left to right) left out."""
    a, b, c, d = turn
    if a * d - b * c < 0:
        a, c = -a, -c  # undo the mirror
    return {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[a, b]


def swaps_sides(turn: Turn) -> bool:
    """Whether width and height change places."""
    return turn[0] == 0


def apply_turn(pixels: Pixels, turn: Turn) -> Pixels:
    """The picture as it is to be shown: (H, W, ...) -> (H, W, ...) or (W, H, ...), C-contiguous."""
    a, b, c, d = turn
    turned: Any = pixels
    if swaps_sides(turn):
        turned = turned.swapaxes(0, 1)
        down, across = b, c
    else:
        down, across = d, a
    if down < 0:
        turned = turned[::-1]
    if across < 0:
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
