"""What surrounds the picture in a source container -> plain values: packets, stream descriptions, chapters, tags.

`StreamCopier` is given every packet that is not the encoded stream's, as `VideoReader` delivers them. Data are copied
byte for byte; the one exception is AAC with ADTS headers (MPEG-TS), which no output container stores so: the bitstream
filter aac_adtstoasc makes it what MP4 and Matroska hold, and a notice says so.

Does not know: bitstreams, threads, trims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from cvcodec.passthrough.carrier import facts_of, make_carrier
from cvcodec.passthrough.streams import KINDS, Chapter, CopiedContainer, CopiedPacket, CopiedStream, naming
from cvcodec.video.libav import as_fraction, reason
from cvcodec.video.metadata import of_content
from cvcodec.video.source import UNKNOWN

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
_ADTS_SYNC = 0xFFF


@dataclass
class _Source:
    """One stream of the source that is copied. described: as far as it is known before its packets. end: where MP4
    ends it, in ticks; its last packet may last longer. lost: the description lacks what a first packet may tell."""

    number: int
    described: CopiedStream
    end: int | None
    lost: bool
    begun: CopiedStream | None = None
    """With what its first packet says."""
    started: bool = False
    filter: Any = None
    next_pts: int = 0

    @property
    def frame_ticks(self) -> int:
        """Length of a packet, in ticks of whole samples; 0 where packets differ."""
        facts = self.described.facts
        return facts.get("frame_size", 0) if self.described.time_base == Fraction(1, facts["sample_rate"]) else 0

    def begin(self, packet: Any, first: CopiedPacket) -> None:
        """Note what the first packet says: when the stream begins, and parameters that are nowhere else."""
        self.started = True
        extradata = dict(first.side_data).get("new_extradata", self.described.extradata)
        self.begun = replace(self.begun or self.described, start=first.pts, extradata=extradata)
        if self.lost and (carrier := make_carrier(packet.stream, extradata, first)) is not None:
            self.lost = False
            self.begun = replace(self.begun, carrier=carrier.format, parameters=carrier.data)


class StreamCopier:
    """Copies streams of one container.

    kinds: which of `KINDS`. tags: also chapters and tags; without it only languages, dispositions and the names of
    attachments are kept. say: is told what a person should know.
    """

    def __init__(self, say: Callable[[str], None], *, kinds: Collection[str] = KINDS, tags: bool = True) -> None:
        self._say, self._kinds, self._tags = say, frozenset(kinds), tags
        self._sources: list[_Source] | None = None
        self._by_index: dict[int, _Source] = {}
        self._container = CopiedContainer()

    def begin(self, container: Any, encoded: int | None = None) -> None:
        """Look at an open PyAV container whose stream `encoded` is the video; before its packets are copied, or with
        the first of them."""
        if self._sources is None:
            self._sources = []
            for stream in container.streams:
                if (source := self._source_of(stream, container)) is not None:
                    self._sources.append(source)
                    self._by_index[stream.index] = source
            if self._tags:
                tags = _tags(container.metadata, _CONTAINER_TAGS)
                self._container = CopiedContainer(chapters=_chapters(container), metadata=tags)
        if encoded is None:
            return
        part = av.stream.Disposition.attached_pic | av.stream.Disposition.dependent  # the latter: a tile of a picture
        for stream in container.streams.video:
            if stream.index == encoded:
                self._container = replace(
                    self._container,
                    video_metadata=of_content(self._stream_tags(stream)),
                    video_disposition=_names(stream.disposition),
                )
            elif not stream.disposition & part:
                self._say(f"video stream {stream.index} is left out; --stream chooses the one to encode")

    def _source_of(self, stream: Any, container: Any) -> _Source | None:
        kind = stream.type
        if kind == "video":
            if not stream.disposition & av.stream.Disposition.attached_pic:
                return None
            kind = "picture"
        if kind not in self._kinds or stream.discard == av.stream.Discard.all:  # the latter: chapters as a text track
            return None
        facts = facts_of(stream)
        codec = facts.pop("codec")
        metadata = self._stream_tags(stream)
        described = CopiedStream(
            kind=kind,
            codec=codec,
            index=stream.index,
            facts=facts,
            disposition=_names(stream.disposition),
            metadata=metadata,
            data=stream.data if kind == "attachment" else b"",
        )
        if not described.packets:
            return _Source(len(self._sources or ()), described, None, lost=False)
        if kind == "data" and metadata.get("timecode"):
            return None  # a timecode track, which muxers make of the video's "timecode" tag
        if kind in ("audio", "subtitle") and codec == UNKNOWN:
            self._say(f"{kind} stream {stream.index} is not copied: FFmpeg does not know its codec")
            return None
        if (carrier := make_carrier(stream, b"")) is None:
            self._say(f"{kind} stream {stream.index} ({codec}) is not copied: no container of ours can hold it")
            return None
        context, end = stream.codec_context, None
        described = replace(
            described,
            time_base=as_fraction(stream.time_base) or Fraction(1),
            carrier=carrier.format,
            parameters=carrier.data,
            extradata=_tidy(codec, (context.extradata if context is not None else None) or b""),
        )
        if kind == "audio" and facts.get("sample_rate") and "mov" in container.format.name and stream.duration:
            end = None if stream.start_time is None else stream.start_time + stream.duration
        return _Source(len(self._sources or ()), described, end, lost=carrier.lost > 0)

    def _stream_tags(self, stream: Any) -> dict[str, str]:
        tags = _tags(stream.metadata, _STREAM_TAGS)
        if "name" in tags and "title" not in tags:  # where MP4 keeps a track's title
            tags["title"] = tags.pop("name")
        return tags if self._tags else naming(tags)

    def copy(self, packet: Any) -> list[CopiedPacket]:
        """The values of a PyAV packet; none for streams that are not copied and for cover art, which is content."""
        self.begin(packet.stream.container)
        source = self._by_index.get(packet.stream_index)
        if source is None:
            return []
        if source.described.kind == "picture":
            if not source.described.data:
                source.described = replace(source.described, data=bytes(packet))
            return []
        if not source.started and source.filter is None and _is_adts(source.described, packet):
            source.filter = BitStreamFilterContext("aac_adtstoasc", in_stream=packet.stream)
            self._say(
                f"audio stream {packet.stream_index}: AAC loses its ADTS headers (bitstream filter aac_adtstoasc)"
            )
        try:
            packets = [packet] if source.filter is None else source.filter.filter(packet)
        except av.error.FFmpegError as error:
            self._say(f"damaged packets of audio stream {packet.stream_index} were left out: {reason(error)}")
            return []
        values = [_values(source, item) for item in packets]
        if values and not source.started:
            source.begin(packet, values[0])
        return values

    def restart(self) -> None:
        """Forget where the streams were: packets from elsewhere follow."""
        for source in self._sources or ():
            source.started, source.next_pts = False, 0
            if source.filter is not None:
                source.filter.flush()

    def stream(self, packet: CopiedPacket) -> CopiedStream:
        """The stream of a packet, as it is described before its first."""
        assert self._sources is not None
        return self._sources[packet.stream].described

    def describe(self, begun: Collection[int]) -> CopiedContainer:
        """What must be known before the first packet is written. begun: the streams whose first packets may be looked
        at, because they say more."""
        sources = self._sources or ()
        streams = (source.begun if source.number in begun else None for source in sources)
        known = tuple(stream or source.described for stream, source in zip(streams, sources, strict=True))
        return replace(self._container, streams=known)


def _values(source: _Source, packet: Any) -> CopiedPacket:
    duration = max(0, packet.duration or 0)
    pts = packet.pts if packet.pts is not None else packet.dts
    if pts is None:
        pts = source.next_pts
    source.next_pts = pts + duration
    side_data = {item.data_type: bytes(item) for item in packet.iter_sidedata() if item.data_type in _SIDE_DATA}
    if source.end is not None and pts < source.end <= pts + max(duration, source.frame_ticks):
        # The last packet is shown in part. MP4 says so by its duration, Matroska by its padding, in samples.
        whole, duration = max(duration, source.frame_ticks), math.ceil(source.end - pts)
        padding = int((whole - duration) * source.described.time_base * source.described.facts["sample_rate"])
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


def _is_adts(stream: CopiedStream, packet: Any) -> bool:
    head = bytes(packet)[:2]
    return stream.codec == "aac" and not stream.extradata and int.from_bytes(head, "big") >> 4 == _ADTS_SYNC


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
