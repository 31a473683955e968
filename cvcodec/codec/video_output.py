"""Pixels -> video file: converted to pictures and encoded in threads beside the model, copied streams along with them.

Owns: these threads and what waits for them, the writer, and giving it up when something fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from cvcodec.bitstream import Header
from cvcodec.codec.input import PART_FRAMES, CvlInput, Part
from cvcodec.codec.options import WriterOptions
from cvcodec.codec.runner import denormalise, tensor_to_frames
from cvcodec.codec.session import Notices, Progress
from cvcodec.errors import BitstreamError, UsageError
from cvcodec.passthrough.player import Player
from cvcodec.system.threads import WriteBehind, in_thread
from cvcodec.video import Frame, VideoWriter
from cvcodec.video.writer import VideoTarget
from cvcodec.windows.space import crop_space

_BEHIND_BYTES = 96 << 20  # decoded frames that may wait for the encoder of the output
_SMALL_WINDOW_BYTES = 64 << 20  # of floats, which may wait beside the next window
_WAITING_PARTS = 8  # of frames to be converted, about a small window


def pictures(part: Part, header: Header) -> Iterator[Frame]:
    """Frames of what the model gave, cropped, and rounded to the source's bit depth."""
    depth = header.bit_depth
    pixels = crop_space(part[0], header.height, header.width)
    for picture, shown in zip(tensor_to_frames(denormalise(pixels, depth), depth), part[1], strict=True):
        yield Frame(pixels=picture, pts=shown.pts, duration=shown.duration, bit_depth=depth, corrupt=shown.concealed)


class VideoOutput:
    """The video of one decode. As a context manager it owns the threads; `finish` completes the video, and without it
    the video is given up."""

    def __init__(
        self,
        target: VideoTarget,
        source: CvlInput,
        player: Player,
        options: WriterOptions,
        notices: Notices,
        label: str | None,
        on_progress: Progress | None,
    ) -> None:
        """label: what messages call `target`."""
        self._source, self._player, self._notices, self._on_progress = source, player, notices, on_progress
        self._expected = source.expected_frames
        self.concealed = 0
        """Frames so far whose source was damaged."""
        with ExitStack() as stack:
            arguments = player.writer_options(source.header.time_base) | options.arguments()
            self._writer = VideoWriter.like(target, source.info, label=label, **arguments)
            self._behind: WriteBehind[Frame] | None = None
            self._closing = False
            stack.callback(self._abort)
            frame_bytes = source.info.width * source.info.height * (3 if source.info.bit_depth == 8 else 6)
            limit = min(256, max(4, _BEHIND_BYTES // frame_bytes))
            self._behind = stack.enter_context(WriteBehind(self._write, limit=limit, name="video-writer"))
            # Where a window of floats is small, the model goes on with the next one while it is converted to pictures.
            limit = max(2, min(_WAITING_PARTS, _BEHIND_BYTES // (4 * PART_FRAMES * frame_bytes)))
            self._converter: WriteBehind[Iterable[Frame]] = stack.enter_context(
                WriteBehind(self._convert, limit=limit, name="pixel-converter")
            )
            self._stack = stack.pop_all()

    def put(self, part: Part) -> None:
        """The next frames. Raises what a thread raised for earlier ones."""
        self.concealed += sum(time.concealed for time in part[1])
        frames = pictures(part, self._source.header)
        small = part[0].untyped_storage().nbytes() <= _SMALL_WINDOW_BYTES
        self._converter.put(frames if small else list(frames))

    def finish(self) -> int:
        """Wait for the threads and complete the video: its frames. Raises BitstreamError or UsageError when there were
        none."""
        self._drain()
        if not self._writer.frames:
            if self._source.lost:
                raise BitstreamError("no chunk of the range that was asked for is intact: nothing can be salvaged")
            raise UsageError("no frames lie in the range that was asked for")
        self._closing = True  # it aborts itself where it fails
        in_thread(self._writer.close, name="video-closer")
        self._notices.extend(self._writer.notices)
        return self._writer.frames

    def _convert(self, frames: Iterable[Frame]) -> None:
        assert self._behind is not None
        for frame in frames:
            self._behind.put(frame)

    def _write(self, frame: Frame) -> None:
        if not self._writer.frames:
            self._player.attach(self._writer, frame.pts, self._source.header.time_base)
        self._writer.write(frame)
        if self._on_progress is not None:
            self._on_progress(self._writer.frames, 0, self._expected)

    def _drain(self) -> None:
        assert self._behind is not None
        self._converter.finish()
        self._behind.finish()

    def _abort(self) -> None:
        if not self._closing and (self._behind is None or not self._behind.stuck):
            self._writer.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if isinstance(error, BitstreamError):  # a pipe was cut: what was verified before still flows
                self._drain()
