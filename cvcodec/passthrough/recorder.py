"""Packets of a source -> records between chunks.

    recorder = Recorder(say=notices)
    reader = VideoReader(source, on_packet=recorder.on_packet, ...)
    recorder.begin(reader)
    for kind, payload in recorder.take(pts of the chunk): writer.write_record(kind, payload)     # before each
    for kind, payload in recorder.take(None): writer.write_record(kind, payload)         # after the last chunk

Owns: when packets are written, what of them lies in a trim, and keeping few of them in memory.
Its mirror is `player`; `records` has the bytes.

`StreamCopier` makes plain values of what surrounds the picture: it is given every packet that is not the encoded
stream's, as `VideoReader` delivers them. Data are copied byte for byte; the one exception is AAC with ADTS headers
(MPEG-TS), which no output container stores so: the bitstream filter aac_adtstoasc makes it what MP4 and Matroska hold,
and a notice says so.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from cvcodec.bitstream.format import RECORD_OVERHEAD
from cvcodec.errors import InputError
from cvcodec.passthrough.carrier import facts_of, make_carrier
from cvcodec.passthrough.packet_queue import PacketQueue
from cvcodec.passthrough.records import ATTACHMENT, PACKETS, STREAMS, pack_attachment, pack_packets, pack_streams
from cvcodec.passthrough.streams import KINDS, Chapter, CopiedContainer, CopiedPacket, CopiedStream, Trim, naming
from cvcodec.video import VideoReader
from cvcodec.video.libav import as_fraction, reason
from cvcodec.video.metadata import of_content
from cvcodec.video.sizes import packets
from cvcodec.video.source import UNKNOWN, InputFile, VideoSource
from cvcodec.video.timestamps import Timeline

_RECORD_BYTES = 128 << 10
"""Data of a PKTS record, at least, where a stream has so much between two chunks."""

_REORDERED = 64
"""Packets of the picture, more than lie between one and those that are shown before it."""

Record = tuple[str, bytes]
"""Type and payload."""


class Recorder:
    """Makes records of what a `VideoReader` finds beside the picture.

    say: is told what a person should know. kinds: which of `KINDS` to copy; none for `--no-audio`. tags: also chapters
    and tags.
    """

    def __init__(
        self, say: Callable[[str], None] = lambda text: None, *, kinds: Collection[str] = KINDS, tags: bool = True
    ) -> None:
        self._copier = StreamCopier(say, kinds=kinds, tags=tags)
        self._copies = bool(kinds)
        self._lock = threading.Lock()
        self._queue = PacketQueue()
        self._reader: VideoReader | None = None
        self._video: int | None = None
        # By the picture, in the order of the source; of no more packets than are reordered, should a time be absurd.
        self._reached: deque[Fraction] = deque(maxlen=_REORDERED)
        self._begun: dict[int, Fraction] = {}  # when the first packet of each stream was due
        self._described = False

    @property
    def on_packet(self) -> Callable[[Any], None] | None:
        """For `VideoReader`: takes packets, in the reader's thread; None where no streams are copied."""
        return self._add if self._copies else None

    def _add(self, packet: Any) -> None:
        with self._lock:
            if packet is None:
                self._copier.restart()
                self._queue.clear()
                self._begun.clear()
                self._reached.clear()
                return
            if packet.stream_index == self._video or (self._video is None and packet.stream.type == "video"):
                if packet.pts is not None:
                    self._reached.append(packet.pts * packet.time_base)
                if packet.stream_index == self._video:
                    return
            for copied in self._copier.copy(packet):
                due = max((copied.seconds(self._copier.stream(copied).time_base), *self._reached))
                self._begun.setdefault(copied.stream, due)
                self._queue.put(copied, due)

    def begin(self, reader: VideoReader) -> None:
        """Look at the opened source; before it is iterated."""
        self._reader, self._video = reader, reader.info.stream
        self._copier.begin(reader.container, reader.info.stream)

    def take(self, chunk: Sequence[int] | None) -> Iterator[Record]:
        """The records that precede a chunk whose frames have these pts; before that, once, the descriptions. None for
        the rest, once the reader is done.

        They hold what is due: packets of times before the first frame that lie in front of it in the source too. So
        they have been read when the frame has, and the bytes of a file do not depend on how far ahead the reader is. Of
        frames that come from no container, for which `begin` was not called, there are none.
        Raises InputError where a source has more beside the picture than a file can hold."""
        if self._reader is None:
            return
        time_base = self._reader.info.time_base
        before, last = (None, None) if chunk is None else (chunk[0] * time_base, chunk[-1] * time_base)
        with self._lock:
            trim, stopped = Trim(*self._reader.time_range), self._reader.stopped
            if stopped is not None and (chunk is None or chunk[-1] == stopped[0]):
                trim = trim._replace(end=stopped[1])  # not before: the reader may or may not be so far ahead
            described, self._described = self._described, True
            begun = [stream for stream, due in self._begun.items() if last is None or due < last]
            container = None if described else self._copier.describe(begun)
        if container is not None:
            yield from _descriptions(trim.of(container))
        yield from _packed(p for p, _ in self._queue.take(before) if trim.holds(p, self._copier.stream(p)))
        if chunk is None:
            self._queue.clear()


def copied_size(source: VideoSource, *, stream: int, kinds: Collection[str], tags: bool, trim: Trim) -> int:
    """Bytes of the records that a `Recorder` makes of a source that can be read again, without decoding it; a few more
    where chunks divide them. stream: index of the video."""
    copier = StreamCopier(lambda text: None, kinds=kinds, tags=tags)
    with InputFile(source) as opened, opened.open() as container:
        copier.begin(container, stream)
        mended = Timeline(stream, lambda _: None).mended(packets(container, opened.name))
        copied = (packet for found in mended for packet in copier.copy(found)) if kinds else iter(())
        wanted = _packed(packet for packet in copied if trim.holds(packet, copier.stream(packet)))
        size = sum(len(payload) + RECORD_OVERHEAD for _, payload in wanted)
        return size + sum(len(payload) + RECORD_OVERHEAD for _, payload in _descriptions(trim.of(copier.describe(()))))


def _packed(packets: Iterable[CopiedPacket]) -> Iterator[Record]:
    waiting: dict[int, list[CopiedPacket]] = {}
    sizes: Counter[int] = Counter()
    for packet in packets:
        waiting.setdefault(packet.stream, []).append(packet)
        sizes[packet.stream] += len(packet.data)
        if sizes[packet.stream] >= _RECORD_BYTES:
            yield PACKETS, pack_packets(waiting.pop(packet.stream))
            del sizes[packet.stream]
    for batch in waiting.values():
        yield PACKETS, pack_packets(batch)


def _descriptions(container: CopiedContainer) -> Iterator[Record]:
    if container.empty:
        return
    try:
        yield STREAMS, pack_streams(container)
    except ValueError as error:
        raise InputError(f"the source's tags or streams do not fit into a .cvl: {error}; try --no-metadata") from error
    for number, stream in enumerate(container.streams):
        if stream.data:
            yield ATTACHMENT, pack_attachment(number, stream.data)


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
