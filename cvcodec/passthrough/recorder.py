"""Packets of a source -> records between chunks.

    recorder = Recorder(say=notices)
    reader = VideoReader(source, on_packet=recorder.on_packet, ...)
    recorder.begin(reader)
    for kind, payload in recorder.take(pts of the chunk): writer.write_record(kind, payload)     # before each
    for kind, payload in recorder.take(None): writer.write_record(kind, payload)         # after the last chunk

Owns: when packets are written, what of them lies in a trim, and keeping few of them in memory.
Does not know: how containers store them (`copier`), their bytes (`records`). Its mirror is `player`.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from cvcodec.bitstream.format import RECORD_OVERHEAD
from cvcodec.errors import InputError
from cvcodec.passthrough.copier import StreamCopier
from cvcodec.passthrough.packet_queue import PacketQueue
from cvcodec.passthrough.records import ATTACHMENT, PACKETS, STREAMS, pack_attachment, pack_packets, pack_streams
from cvcodec.passthrough.streams import KINDS, CopiedContainer, CopiedPacket, Trim
from cvcodec.video import VideoReader
from cvcodec.video.sizes import packets
from cvcodec.video.source import InputFile, VideoSource
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
        they have been read when the frame has, and the bytes of a file do not depend on how far ahead the reader is.
        Raises InputError where a source has more beside the picture than a file can hold."""
        assert self._reader is not None
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
