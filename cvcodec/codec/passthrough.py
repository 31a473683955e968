"""Sound and the rest past the model: packets of a source -> records between chunks -> packets of an output.

Owns: when packets are written, what of them lies in a trim, and keeping few of them in memory on either side.
Does not know: how containers store them (`video.copy_reader`, `video.copy_writer`), bytes (`bitstream.copied`).

Encoding:  recorder = PassthroughRecorder(on_notice=notices)
           reader = VideoReader(source, on_packet=recorder.on_packet, ...)
           recorder.begin(reader)
           for kind, payload in recorder.take(pts of the chunk): writer.write_record(kind, payload)     # before each
           for kind, payload in recorder.take(None): writer.write_record(kind, payload)       # after the last chunk
Decoding:  player = PassthroughPlayer(on_notice=notices)
           player.feed(record.type, record.payload)               # every record that is no chunk, as it comes
           writer = VideoWriter(..., **player.writer_options(time_base))      # after what precedes the first chunk
           player.attach(writer, first pts)                       # before the first frame is written
           writer.write(frame); ...; writer.close()               # takes the packets along
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from cvcodec.bitstream.copied import (
    ATTACHMENT,
    PACKETS,
    STREAMS,
    pack_attachment,
    pack_packets,
    pack_streams,
    unpack_attachment,
    unpack_packets,
    unpack_streams,
)
from cvcodec.bitstream.format import MAX_SECONDS, RECORD_OVERHEAD
from cvcodec.codec.packet_queue import PacketQueue
from cvcodec.copied import KINDS, Chapter, CopiedContainer, CopiedPacket, CopiedStream
from cvcodec.errors import BitstreamError, InputError
from cvcodec.video import VideoReader, VideoWriter
from cvcodec.video.carrier import template
from cvcodec.video.copy_reader import StreamCopier
from cvcodec.video.copy_writer import StreamRestorer, movie_timescale
from cvcodec.video.sizes import packets
from cvcodec.video.source import Source, VideoSource
from cvcodec.video.timestamps import Timeline

_RECORD_BYTES = 128 << 10
"""Data of a PKTS record, at least, where a stream has so much between two chunks."""

_REORDERED = 64
"""Packets of the picture, more than lie between one and those that are shown before it."""

Record = tuple[str, bytes]
"""Type and payload."""


class PassthroughRecorder:
    """Makes records of what a `VideoReader` finds beside the picture.

    kinds: which of `cvcodec.copied.KINDS` to copy; none for `--no-audio`. metadata: also chapters and tags.
    """

    def __init__(
        self,
        *,
        kinds: Collection[str] = KINDS,
        metadata: bool = True,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self._copier = StreamCopier(kinds=kinds, metadata=metadata)
        self._copies = bool(kinds)
        self._on_notice = on_notice
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
                due = copied.seconds(self._copier.time_base(copied.stream))
                due = max((due, *self._reached))
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
        they have been read when the frame has, and the bytes of a file do not depend on how far ahead the reader is.
        Raises InputError where a source has more beside the picture than a file can hold."""
        assert self._reader is not None
        time_base = self._reader.info.time_base
        before, last = (None, None) if chunk is None else (chunk[0] * time_base, chunk[-1] * time_base)
        with self._lock:
            begin, end = self._reader.time_range
            stopped = self._reader.stopped
            if stopped is not None and (chunk is None or chunk[-1] == stopped[0]):
                end = stopped[1]  # not before, because the reader may or may not be so far ahead
            described, self._described = self._described, True
            begun = [stream for stream, due in self._begun.items() if last is None or due < last]
            container = None if described else self._copier.describe(begun)
        if container is not None:
            yield from _descriptions(container, begin, end)
        yield from _packed(
            packet for packet, _ in self._queue.take(before) if _wanted(self._copier, packet, begin, end)
        )
        if chunk is None:
            self._queue.clear()
        while self._on_notice is not None and self._copier.notices:
            self._on_notice(self._copier.notices.pop(0))


def copied_size(
    source: VideoSource,
    *,
    stream: int,
    kinds: Collection[str],
    metadata: bool,
    begin: Fraction | None,
    end: Fraction | None,
) -> int:
    """Bytes of the records that a `PassthroughRecorder` makes of a source that can be read again, without decoding it;
    a few more where chunks divide them. stream: index of the video. begin, end: seconds on the source's clock, or None.
    """
    copier = StreamCopier(kinds=kinds, metadata=metadata)
    with Source(source) as opened, opened.open() as container:
        copier.begin(container, stream)
        mended = Timeline(stream, lambda _: None).mended(packets(container, opened.name))
        found = (copied for packet in mended for copied in copier.copy(packet))
        wanted = (packet for packet in found if _wanted(copier, packet, begin, end))
        size = sum(len(payload) + RECORD_OVERHEAD for _, payload in _packed(wanted)) if kinds else 0
        described = _descriptions(copier.describe(()), begin, end)
        return size + sum(len(payload) + RECORD_OVERHEAD for _, payload in described)


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


def _descriptions(container: CopiedContainer, begin: Fraction | None, end: Fraction | None) -> Iterator[Record]:
    container = replace(
        container,
        chapters=_cut_chapters(container.chapters, begin, end),
        streams=tuple(_cut_start(stream, begin) for stream in container.streams),
    )
    if container.empty:
        return
    try:
        yield STREAMS, pack_streams(container)
    except ValueError as error:
        raise InputError(f"the source's tags or streams do not fit into a .cvl: {error}; try --no-metadata") from error
    for number, stream in enumerate(container.streams):
        if stream.data:
            yield ATTACHMENT, pack_attachment(number, stream.data)


class PassthroughPlayer:
    """Puts what records hold back beside the decoded picture.

    kinds: which of `cvcodec.copied.KINDS` to restore. metadata: also chapters and tags.
    begin, end: seconds on the source's clock that are decoded, None for no limit.
    salvage: leave out what is malformed or has lost its description, with a notice, instead of raising.
    """

    def __init__(
        self,
        *,
        kinds: Collection[str] = KINDS,
        metadata: bool = True,
        begin: Fraction | None = None,
        end: Fraction | None = None,
        salvage: bool = False,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self._kinds, self._metadata = frozenset(kinds), metadata
        self._begin, self._end = begin, end
        self._salvage, self._on_notice = salvage, on_notice
        self._container: CopiedContainer | None = None
        self._queue = PacketQueue()
        self._passed: set[int] = set()
        self._until: dict[int, Fraction] = {}  # the last time of each stream that was fed
        self._open = True

    def feed(self, kind: str, payload: bytes) -> None:
        """Take a record; types of others are ignored. Raises BitstreamError for malformed ones."""
        try:
            if kind == STREAMS:
                if self._container is not None:
                    raise BitstreamError("file has two STRM records")
                self._container = unpack_streams(payload)
                for chapter in self._container.chapters:
                    _check_time(max(abs(chapter.start), abs(chapter.end)) * chapter.time_base, "a chapter")
            elif kind in (ATTACHMENT, PACKETS) and self._open:
                if self._container is None and self._salvage:
                    self._say("the description of the copied streams is damaged: sound, subtitles and files are lost")
                    return
                if self._container is None:
                    raise BitstreamError(f"{kind} record without a STRM record before it")
                self._take(kind, payload, self._container)
        except BitstreamError as error:
            if not self._salvage:
                raise
            self._say(f"damaged copied streams were left out: {error}")

    def _take(self, kind: str, payload: bytes, container: CopiedContainer) -> None:
        if kind == ATTACHMENT:
            number, data = unpack_attachment(payload)
            packets = None
        else:
            packets = unpack_packets(payload)
            number = packets[0].stream
        if number >= len(container.streams) or container.streams[number].packets != (packets is not None):
            raise BitstreamError(f"{kind} record of copied stream {number}, which the file does not describe")
        stream = container.streams[number]
        if stream.kind not in self._kinds:
            return
        if packets is None:
            streams = (*container.streams[:number], replace(stream, data=data), *container.streams[number + 1 :])
            self._container = replace(container, streams=streams)
            return
        if self._end is not None and packets[-1].seconds(stream.time_base) >= self._end:
            self._passed.add(number)
        self._until[number] = packets[-1].seconds(stream.time_base)
        for packet in packets:
            seconds = packet.seconds(stream.time_base) + packet.duration * stream.time_base
            _check_time(seconds, f"a packet of copied stream {number}")
            if _in_range(packet, stream.time_base, stream.kind, self._begin, self._end):
                self._queue.put(packet, packet.seconds(stream.time_base))

    def forget(self) -> None:
        """Drop the packets that were fed."""
        self._queue.clear()

    def check_streams(self) -> None:
        """Raise BitstreamError for a copied stream whose parameters no container could be given."""
        for _, stream in self._kept():
            if stream.packets:
                with template(stream):
                    pass

    def tell_cut(self) -> None:
        """Say where sound ends in a file whose own end is lost."""
        for number, stream in self._kept():
            if stream.kind == "audio":
                until = self._until.get(number)
                where = "is lost" if until is None else f"is there until {float(until):.2f} s"
                self._say(f"the file is cut: sound (stream {number}) {where}")

    def stop(self, end: Fraction) -> None:
        """The picture ends at `end` seconds, which was not known before."""
        self._end = end

    @property
    def passed(self) -> bool:
        """Whether every stream of sound has been fed up to `end`; further records then matter to none."""
        sound = {number for number, stream in self._kept() if stream.kind == "audio"}
        return bool(sound) and sound <= self._passed

    @property
    def looks_back(self) -> bool:
        """Whether packets of any earlier time may be shown at `begin`, as subtitles are."""
        return any(stream.kind in ("subtitle", "data") for _, stream in self._kept())

    def _kept(self) -> Iterator[tuple[int, CopiedStream]]:
        streams = self._container.streams if self._container is not None else ()
        return ((number, stream) for number, stream in enumerate(streams) if stream.kind in self._kinds)

    def writer_options(self, time_base: Fraction) -> dict[str, Any]:
        """Arguments for `VideoWriter`: the tags, and what keeps times of sound exact; `time_base`: the video's."""
        scale = movie_timescale(time_base, [stream for _, stream in self._kept()])
        tags = self._container.metadata if self._container is not None and self._metadata else {}
        return {"tags": tags} | ({} if scale is None else {"movie_timescale": scale})

    def attach(self, writer: VideoWriter, first_pts: int, time_base: Fraction) -> None:
        """Add everything to `writer`, before its first frame, whose pts is `first_pts` in ticks of `time_base`. From
        now on the writer takes packets as it needs them, in the thread that writes. Raises OutputError for what its
        container cannot hold."""
        container = self._container or CopiedContainer()
        container = replace(container, streams=tuple(_cut_start(stream, self._begin) for stream in container.streams))
        if not self._metadata:
            container = _without_tags(container)
        if not writer.has_container:
            self._open = False
            self._queue.clear()
            if any(self._kept()):
                self._say(f"{writer.container_name} holds only the picture: sound and other streams are left out")
            return
        writer.begin(first_pts)
        restorer = StreamRestorer(
            writer,
            container,
            kinds=self._kinds,
            offset=writer.pts_offset * time_base,
            chapters=_cut_chapters(container.chapters, self._begin, self._end),
            salvage=self._salvage,
        )
        offset = writer.pts_offset * time_base
        writer.output.before_video = lambda time: self._mux(
            restorer, container.streams, None if time is None else time - offset
        )

    def _mux(self, restorer: StreamRestorer, streams: Sequence[CopiedStream], time: Fraction | None) -> None:
        for packet, _ in self._queue.take(time):
            stream = streams[packet.stream]
            if _in_range(
                packet, stream.time_base, stream.kind, self._begin, self._end
            ):  # `stop` may have moved the end
                restorer.mux(packet)
        while restorer.notices:
            self._say(restorer.notices.pop(0))

    def _say(self, notice: str) -> None:
        if self._on_notice is not None:
            self._on_notice(notice)


def _check_time(seconds: Fraction, what: str) -> None:
    if abs(seconds) > MAX_SECONDS:
        raise BitstreamError(f"{what} lies at {float(seconds):g} s, times end at {MAX_SECONDS}")


def _wanted(copier: StreamCopier, packet: CopiedPacket, begin: Fraction | None, end: Fraction | None) -> bool:
    return _in_range(packet, copier.time_base(packet.stream), copier.kind(packet.stream), begin, end)


def _in_range(
    packet: CopiedPacket, time_base: Fraction, kind: str, begin: Fraction | None, end: Fraction | None
) -> bool:
    """Whether a packet belongs to [begin, end): sound where all of it lies inside, other streams where some does."""
    start = packet.seconds(time_base)
    stop = start + packet.duration * time_base
    if kind == "audio":
        return (begin is None or start >= begin) and (end is None or (stop <= end and start < end))
    return (begin is None or stop > begin or start >= begin) and (end is None or start < end)


def _cut_start(stream: CopiedStream, begin: Fraction | None) -> CopiedStream:
    """Without encoder delay where the first packets, which have it, lie before `begin`."""
    if begin is None or stream.start is None or stream.start * stream.time_base >= begin:
        return stream
    return replace(stream, start=None, facts={**stream.facts, "delay": 0})


def _cut_chapters(chapters: tuple[Chapter, ...], begin: Fraction | None, end: Fraction | None) -> tuple[Chapter, ...]:
    """The chapters that meet [begin, end), cut to it."""
    kept = []
    for chapter in chapters:
        start, stop = chapter.start * chapter.time_base, chapter.end * chapter.time_base
        if (begin is None or stop > begin) and (end is None or start < end):
            kept.append(
                replace(
                    chapter,
                    start=chapter.start if begin is None else max(chapter.start, round(begin / chapter.time_base)),
                    end=chapter.end if end is None else min(chapter.end, round(end / chapter.time_base)),
                )
            )
    return tuple(kept)


def _without_tags(container: CopiedContainer) -> CopiedContainer:
    """Without chapters and tags; languages and the names of attachments stay, by which players choose."""
    return CopiedContainer(
        streams=tuple(
            replace(
                stream,
                metadata={k: v for k, v in stream.metadata.items() if k in ("language", "filename", "mimetype")},
            )
            for stream in container.streams
        ),
        video_metadata={k: v for k, v in container.video_metadata.items() if k == "language"},
        video_disposition=container.video_disposition,
    )
