"""A video that is opened and read in threads, beside what its frames are for.

Owns: how much waits in memory, and that a reader in the middle of a read is left alone. Does not know: what frames are
for. A source may be a pipe whose writer pauses; FFmpeg loses an interrupt that comes while it waits there, and here the
wait is outside FFmpeg.
"""

from __future__ import annotations

from typing import Any

from cvcodec.system.threads import ReadAhead, in_thread
from cvcodec.video.frame import Frame
from cvcodec.video.reader import VideoReader
from cvcodec.video.source import VideoSource


class ReaderAhead:
    """A `VideoReader` of `source`, settings and errors as there; to be closed (`contextlib.closing`)."""

    def __init__(self, source: VideoSource, **settings: Any) -> None:
        self.reader = in_thread(lambda: VideoReader(source, **settings), name="video-opener")
        self._frames: ReadAhead[Frame] | None = None

    def frames(self, *, most_bytes: int, most_frames: int, least_frames: int = 2) -> ReadAhead[Frame]:
        """Begin to read, once. Of the decoded frames at most `most_frames` wait, and no more than `most_bytes` hold
        unless these are fewer than `least_frames`."""
        info = self.reader.info
        frame_bytes = info.width * info.height * (3 if info.bit_depth == 8 else 6)
        limit = min(most_frames, max(least_frames, most_bytes // frame_bytes))
        self._frames = ReadAhead(self.reader, limit=limit, name="video-reader")
        return self._frames

    def close(self) -> None:
        """Stop reading, and close the reader unless its thread is still inside FFmpeg."""
        if self._frames is not None:
            self._frames.close()
        if self._frames is None or not self._frames.stuck:
            self.reader.close()
