"""What surrounds the picture in a source container -> plain values: packets, stream descriptions, chapters, tags.

`StreamCopier` is given every packet that is not the encoded stream's, as `VideoReader` delivers them. Data are copied
byte for byte; the one exception is AAC with ADTS headers (MPEG-TS), which no output container stores so: the bitstream
filter aac_adtstoasc makes it what MP4 and Matroska hold, and a notice says so.

Does not know: bitstreams, threads, trims.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from cvcodec.copied import KINDS, Chapter, CopiedContainer, CopiedPacket, CopiedStream
from cvcodec.video.carrier import Carrier, facts_of, make_carrier
from cvcodec.video.described import UNKNOWN
from cvcodec.video.libav import as_fraction, reason
from cvcodec.video.tags import of_content

_SIDE_DATA = (
    "skip_samples",
    "new_extradata",
    "param_change",
    "palette",
    "jp_dual_mono",
    "webvtt_identifier",
    "webvtt_settings",
    "matroska_block_additional",
)
_CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}  # of the file, not its content
_STREAM_TAGS = {"duration", "vendor_id"}  # that muxers write themselves
_NO_NEWS = {"und", "VideoHandler", "SoundHandler", "SubtitleHandler", "DataHandler"}  # values that say nothing
_KEPT_WITHOUT_METADATA = {"language", "filename", "mimetype"}  # what players choose tracks and fonts by
_ADTS_SYNC = 0xFFF


@dataclass
class _Source:
    """One stream of the source that is copied."""

    number: int
    kind: str
    codec: str
    index: int
    time_base: Fraction
    facts: dict[str, Any]
    extradata: bytes
    carrier: Carrier | None
    disposition: tuple[str, ...]
    metadata: dict[str, str]
    content: bytes = b""
    end: int | None = None
    """Where MP4 ends the stream, in ticks; its last packet may last longer."""
    start: int | None = None
    first_carrier: Carrier | None = None
    """With the first packet, where that says more."""
    first_extradata: bytes = b""
    filter: Any = None
    next_pts: int = 0

    @property
    def frame_ticks(self) -> int:
        """Length of a packet, in ticks of whole samples; 0 where packets differ."""
        return self.facts.get("frame_size", 0) if self.time_base == Fraction(1, self.facts["sample_rate"]) else 0


class StreamCopier:
    """Copies streams of one container.

    kinds: which of `cvcodec.copied.KINDS`. metadata: also chapters and tags; without it only languages, dispositions
        and the names of attachments are kept.
    notices: what a person should be told, each once.
    """

    def __init__(self, *, kinds: Collection[str] = KINDS, metadata: bool = True) -> None:
        self.notices: list[str] = []
        self._kinds, self._metadata = frozenset(kinds), metadata
        self._sources: list[_Source] | None = None
        self._by_index: dict[int, _Source] = {}
        self._container = CopiedContainer()

    def begin(self, container: Any, encoded: int | None = None) -> None:
        """Look at an open PyAV container whose stream `encoded` is the video; before its packets are copied, or with
        the first of them."""
        if self._sources is None:
            self._sources = []
            for stream in container.streams:
                self._plan(stream, container)
            if self._metadata:
                self._container = CopiedContainer(
                    chapters=_chapters(container), metadata=_tags(container.metadata, _CONTAINER_TAGS)
                )
        if encoded is None:
            return
        part = av.stream.Disposition.attached_pic | av.stream.Disposition.dependent  # the latter: a tile of a picture
        videos = [s for s in container.streams.video if s.index == encoded or not s.disposition & part]
        for stream in videos:
            if stream.index == encoded:
                self._container = CopiedContainer(
                    chapters=self._container.chapters,
                    metadata=self._container.metadata,
                    video_metadata=of_content(self._stream_tags(stream)),
                    video_disposition=_names(stream.disposition),
                )
            else:
                self._say(f"video stream {stream.index} is left out; --stream chooses the one to encode")

    def _plan(self, stream: Any, container: Any) -> None:
        kind = stream.type
        if kind == "video":
            if not stream.disposition & av.stream.Disposition.attached_pic:
                return
            kind = "picture"
        if kind not in self._kinds or stream.discard == av.stream.Discard.all:  # the latter: chapters as a text track
            return
        assert self._sources is not None
        context = stream.codec_context
        facts = facts_of(stream)
        codec = facts.pop("codec")
        metadata = self._stream_tags(stream)
        carrier, content = None, b""
        if kind == "attachment":
            content = stream.data
        elif kind == "data" and metadata.get("timecode"):
            return  # a timecode track, which muxers make of the video's "timecode" tag
        elif kind in ("audio", "subtitle") and codec == UNKNOWN:
            self._say(f"{kind} stream {stream.index} is not copied: FFmpeg does not know its codec")
            return
        elif kind != "picture" and (carrier := make_carrier(stream, b"")) is None:
            self._say(f"{kind} stream {stream.index} ({codec}) is not copied: no container of ours can hold it")
            return
        time_base = as_fraction(stream.time_base)
        source = _Source(
            number=len(self._sources),
            kind=kind,
            codec=codec,
            index=stream.index,
            time_base=time_base if time_base and kind not in ("attachment", "picture") else Fraction(1),
            facts=facts,
            extradata=_tidy(codec, (context.extradata if context is not None else None) or b""),
            carrier=carrier,
            disposition=_names(stream.disposition),
            metadata=metadata,
            content=content,
        )
        if (
            kind == "audio"
            and facts.get("sample_rate")
            and "mov" in container.format.name
            and stream.duration
            and stream.start_time is not None
        ):
            source.end = stream.start_time + stream.duration
        self._sources.append(source)
        self._by_index[stream.index] = source

    def _stream_tags(self, stream: Any) -> dict[str, str]:
        tags = _tags(stream.metadata, _STREAM_TAGS)
        if "name" in tags and "title" not in tags:  # where MP4 keeps a track's title
            tags["title"] = tags.pop("name")
        return tags if self._metadata else {k: v for k, v in tags.items() if k.lower() in _KEPT_WITHOUT_METADATA}

    def copy(self, packet: Any) -> list[CopiedPacket]:
        """The values of a PyAV packet; none for streams that are not copied and for cover art, which is content."""
        self.begin(packet.stream.container)
        source = self._by_index.get(packet.stream_index)
        if source is None:
            return []
        if source.kind == "picture":
            source.content = source.content or bytes(packet)
            return []
        first = source.start is None
        if first and source.filter is None and _is_adts(source, packet):
            source.filter = BitStreamFilterContext("aac_adtstoasc", in_stream=packet.stream)
            self._say(f"audio stream {source.index}: AAC loses its ADTS headers (bitstream filter aac_adtstoasc)")
        packets = [packet]
        if source.filter is not None:
            try:
                packets = source.filter.filter(packet)
            except av.error.FFmpegError as error:
                self._say(f"damaged packets of audio stream {source.index} were left out: {reason(error)}")
                return []
        values = [self._values(source, item) for item in packets]
        if values and first:
            source.start = values[0].pts
            source.first_extradata = dict(values[0].side_data).get("new_extradata", source.extradata)
            if source.carrier is not None and source.carrier.lost and source.first_carrier is None:
                source.first_carrier = make_carrier(packet.stream, source.first_extradata, values[0])
        return values

    def restart(self) -> None:
        """Forget where the streams were: packets from elsewhere follow."""
        for source in self._sources or ():
            source.start, source.next_pts = None, 0
            if source.filter is not None:
                source.filter.flush()

    def _values(self, source: _Source, packet: Any) -> CopiedPacket:
        duration = max(0, packet.duration or 0)
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            pts = source.next_pts
        source.next_pts = pts + duration
        side_data = {item.data_type: bytes(item) for item in packet.iter_sidedata() if item.data_type in _SIDE_DATA}
        if source.end is not None and pts < source.end <= pts + max(duration, source.frame_ticks):
            # The last packet is shown in part. MP4 says so by its duration, Matroska by its padding, in samples.
            whole, duration = max(duration, source.frame_ticks), math.ceil(source.end - pts)
            padding = int((whole - duration) * source.time_base * source.facts["sample_rate"])
            skip = side_data.get("skip_samples", bytes(10))
            side_data["skip_samples"] = skip[:4] + padding.to_bytes(4, "little") + skip[8:]
        return CopiedPacket(
            stream=source.number,
            pts=pts,
            dts=packet.dts,
            duration=duration,
            keyframe=packet.is_keyframe,
            corrupt=packet.is_corrupt,
            side_data=tuple(sorted(side_data.items())),
            data=bytes(packet),
        )

    def time_base(self, number: int) -> Fraction:
        """Seconds per tick of the packets of copied stream `number`."""
        assert self._sources is not None
        return self._sources[number].time_base

    def kind(self, number: int) -> str:
        """Kind of copied stream `number`."""
        assert self._sources is not None
        return self._sources[number].kind

    def describe(self, begun: Collection[int]) -> CopiedContainer:
        """What must be known before the first packet is written. begun: the streams whose first packets may be looked
        at, because they say more."""
        streams = tuple(_description(source, source.number in begun) for source in self._sources or ())
        return replace(self._container, streams=streams)

    def _say(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)


def _description(source: _Source, begun: bool) -> CopiedStream:
    carrier = (source.first_carrier if begun else None) or source.carrier
    extradata = source.first_extradata if begun else source.extradata
    return CopiedStream(
        kind=source.kind,
        codec=source.codec,
        index=source.index,
        time_base=source.time_base,
        carrier=carrier.format if carrier is not None else "",
        parameters=carrier.data if carrier is not None else b"",
        extradata=extradata if source.kind in ("audio", "subtitle", "data") else b"",
        facts=source.facts,
        start=source.start if begun else None,
        disposition=source.disposition,
        metadata=source.metadata,
        data=source.content,
    )


def _is_adts(source: _Source, packet: Any) -> bool:
    head = bytes(packet)[:2]
    return source.codec == "aac" and not source.extradata and int.from_bytes(head, "big") >> 4 == _ADTS_SYNC


def _tidy(codec: str, extradata: bytes) -> bytes:
    """Without the bit rate box that MP4 muxers append to the header of text tracks, each time they write one."""
    box = (20).to_bytes(4, "big") + b"btrt"
    while codec == "mov_text" and extradata[-20:-12] == box:
        extradata = extradata[:-20]
    return extradata


def _names(disposition: Any) -> tuple[str, ...]:
    return tuple(flag.name for flag in av.stream.Disposition if flag & disposition and flag.name)


def _tags(metadata: Any, without: Collection[str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in without and value not in _NO_NEWS}


def _chapters(container: Any) -> tuple[Chapter, ...]:
    return tuple(
        Chapter(
            start=chapter["start"],
            end=chapter["end"],
            time_base=as_fraction(chapter["time_base"]) or Fraction(1, 1000),
            metadata=dict(chapter["metadata"]),
        )
        for chapter in container.chapters()
    )
