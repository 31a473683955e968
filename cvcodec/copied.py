"""The nouns of what a .cvl keeps beside the picture: streams copied as packets, chapters, tags. Plain values.

`video.copy_reader` takes them from a container, `video.copy_writer` puts them into one, `bitstream.copied` gives them
bytes. Knows none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

KINDS = ("audio", "subtitle", "data", "attachment", "picture")
"""What a copied stream can be. `picture` is cover art, `attachment` a file such as a font; neither has times."""


class CopiedPacket(NamedTuple):
    """One packet, as the source's container stored it. Times in units of its stream's `time_base`."""

    stream: int
    """Which of the copied streams, from 0."""
    pts: int | None
    dts: int | None
    duration: int
    """0 where unknown."""
    keyframe: bool
    corrupt: bool
    side_data: tuple[tuple[str, bytes], ...]
    """FFmpeg's packet side data by its name in PyAV: `skip_samples`, `webvtt_settings`, ..."""
    data: bytes

    def seconds(self, time_base: Fraction) -> Fraction:
        """When it is shown; when it is decoded where that is unknown."""
        ticks = self.pts if self.pts is not None else self.dts
        return (ticks or 0) * time_base


@dataclass(frozen=True, kw_only=True)
class CopiedStream:
    """What a muxer must know of a stream before its first packet.

    kind: one of `KINDS`. codec: FFmpeg's name of it. index: in the source's container, for messages.
    time_base: seconds per tick of the packets' times; 1 for attachments and pictures.
    carrier, parameters: a short file in the container format `carrier`, with this stream alone, from which FFmpeg reads
        the codec parameters. Empty for attachments and pictures.
    extradata: the codec's own header.
    facts: codec parameters that the carrier may lose; JSON types. `layout`, `sample_rate`, `sample_format`, `bit_rate`,
        `width`, `height`, `delay` (samples of encoder priming).
    start: pts of the first packet, None where there was none when the file was begun.
    disposition: FFmpeg's names: `default`, `forced`, `comment`, ...
    metadata: tags: `language`, `title`, `filename`, `mimetype`, ...
    data: the content of an attachment or a picture, else empty.
    """

    kind: str
    codec: str
    index: int = 0
    time_base: Fraction = Fraction(1)
    carrier: str = ""
    parameters: bytes = b""
    extradata: bytes = b""
    facts: Mapping[str, Any] = field(default_factory=dict)
    start: int | None = None
    disposition: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""

    @property
    def packets(self) -> bool:
        """Whether it has packets, rather than content of its own."""
        return self.kind in ("audio", "subtitle", "data")


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """A named stretch of time, [start, end) in units of `time_base`."""

    start: int
    end: int
    time_base: Fraction
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CopiedContainer:
    """Everything that is known before the first packet. video_metadata, video_disposition: of the encoded stream."""

    streams: tuple[CopiedStream, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    video_metadata: Mapping[str, str] = field(default_factory=dict)
    video_disposition: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to keep."""
        tags = self.metadata or self.video_metadata or set(self.video_disposition) - {"default"}
        return not (self.streams or self.chapters or tags)
