"""Frames flagged interlaced -> progressive frames, through libavfilter's bwdif. Knows no files.

One frame in, one frame out (`send_frame`): neither count nor times change. Frames that are not flagged come out
untouched, and until the first flagged frame appears nothing passes through the filter at all. bwdif looks one frame
ahead, so that from then on a frame comes out when its successor has gone in.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import av
import av.error
import av.filter

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
