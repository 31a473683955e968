"""The nouns of what a .cvl keeps beside the picture: streams copied as packets, chapters, tags. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

KINDS = ("audio", "subtitle", "data", "attachment", "picture")
"""What a copied stream can be. `picture` is cover art, `attachment` a file such as a font; neither has times."""

NAMING_TAGS = ("language", "filename", "mimetype")
"""What players choose tracks and fonts by, and what stays without `--metadata`."""


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

    def without_tags(self) -> CopiedContainer:
        """Without chapters and tags, but those that name things."""
        return CopiedContainer(
            streams=tuple(replace(stream, metadata=naming(stream.metadata)) for stream in self.streams),
            video_metadata={k: v for k, v in self.video_metadata.items() if k == "language"},
            video_disposition=self.video_disposition,
        )


def naming(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that name things, whatever case their keys are in: see `NAMING_TAGS`."""
    return {key: value for key, value in tags.items() if key.lower() in NAMING_TAGS}


class Trim(NamedTuple):
    """The seconds [begin, end) of the source's clock that are kept; None for no limit."""

    begin: Fraction | None = None
    end: Fraction | None = None

    def holds(self, packet: CopiedPacket, stream: CopiedStream) -> bool:
        """Whether a packet is kept: sound where all of it lies inside, other streams where some does."""
        start = packet.seconds(stream.time_base)
        stop = start + packet.duration * stream.time_base
        if stream.kind == "audio":
            return (self.begin is None or start >= self.begin) and (
                self.end is None or (stop <= self.end and start < self.end)
            )
        return (self.begin is None or stop > self.begin or start >= self.begin) and (
            self.end is None or start < self.end
        )

    def of(self, container: CopiedContainer) -> CopiedContainer:
        """The chapters that meet the trim, cut to it; streams without the encoder delay of first packets before it."""
        streams, chapters = container.streams, []
        if self.begin is not None:
            streams = tuple(
                stream
                if stream.start is None or stream.start * stream.time_base >= self.begin
                else replace(stream, start=None, facts={**stream.facts, "delay": 0})
                for stream in streams
            )
        for chapter in container.chapters:
            base, start, end = chapter.time_base, chapter.start, chapter.end
            if (self.begin is None or end * base > self.begin) and (self.end is None or start * base < self.end):
                start = start if self.begin is None else max(start, round(self.begin / base))
                end = end if self.end is None else min(end, round(self.end / base))
                chapters.append(replace(chapter, start=start, end=end))
        return replace(container, streams=streams, chapters=tuple(chapters))
