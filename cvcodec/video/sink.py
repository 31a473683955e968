"""What every kind of output shares: the description of its stream, and the file it goes to."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO, Protocol

from cvcodec.errors import OutputError
from cvcodec.video.color import Color, ContentLight, MasteringDisplay
from cvcodec.video.frame import Frame
from cvcodec.video.libav import reason


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSpec:
    """The stream to write; fields as in `VideoWriter`."""

    width: int
    height: int
    bit_depth: int
    time_base: Fraction
    color: Color
    rate: Fraction | None
    sample_aspect_ratio: Fraction
    rotation: int
    display_matrix: tuple[int, ...] | None
    mastering_display: MasteringDisplay | None
    content_light: ContentLight | None
    source_chroma: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Sink(Protocol):
    """One kind of output. `close` finishes it, `abort` gives it up and never raises."""

    notices: list[str]

    def write(self, frame: Frame) -> None:
        """Append a frame, whose pts is larger than that of the one before."""

    def close(self) -> None:
        """Write what encoder and muxer still hold, and the end of the file."""

    def abort(self) -> None:
        """Close without finishing; what has been written is no use. Never raises."""


class OutputFile:
    """A binary file to write to: a path, opened and closed here, or a file object, which stays open.

    After `kill`, and after an error, writes are swallowed: a half-written container cannot be given an ending, and
    FFmpeg, which goes on after an error, meets with one only (PyAV prints any further one)."""

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, label: str | None = None) -> None:
        """label: what messages call it; None for the path, or the object's name."""
        self.label = label or (
            os.fspath(target) if isinstance(target, (str, os.PathLike)) else str(getattr(target, "name", "stream"))
        )
        self._owned = isinstance(target, (str, os.PathLike))
        self._dead = False
        self.failure: OSError | None = None
        """The error that has ended the writing."""
        self._raw: Any = target
        if isinstance(target, (str, os.PathLike)):
            try:
                self._raw = open(target, "wb")  # noqa: SIM115
            except OSError as error:
                raise OutputError(f"cannot write {self.label!r}: {reason(error)}") from error
        elif not hasattr(target, "write"):
            raise OutputError(f"cannot write video to {type(target).__name__}; wanted a path or a binary file object")
        if self.seekable():
            self.seek, self.tell = self._seek, self._raw.tell

    def writable(self) -> bool:
        """Always: PyAV asks."""
        return True

    def seekable(self) -> bool:
        """Whether FFmpeg may go back, to write an index into its place."""
        seekable = getattr(self._raw, "seekable", None)
        return bool(seekable()) if callable(seekable) else hasattr(self._raw, "seek")

    def write(self, data: Any) -> int:
        """All of `data`."""
        view = memoryview(data)
        if not self._dead:
            done = 0
            with self._failing_once():
                while done < len(view):
                    count = self._raw.write(view[done:])
                    done += len(view) - done if count is None else count
        return len(view)

    def _seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._dead:
            return offset
        with self._failing_once():  # what a buffer holds is written first
            position: int = self._raw.seek(offset, whence)
        return position

    @contextmanager
    def _failing_once(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            self.kill()
            raise

    def kill(self) -> None:
        """Swallow all further writes."""
        self._dead = True

    def close(self) -> None:
        """Flush, and close what was opened here. After an error that is a formality, which raises no other."""
        with suppress(OSError) if self._dead else nullcontext():
            if self._owned:
                self._raw.close()
            elif not self._dead and hasattr(self._raw, "flush"):
                self._raw.flush()
