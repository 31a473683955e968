"""Records between chunks -> packets of an output container.

    player = Player(say=notices)
    player.feed(record.type, record.payload)                        # every record that is no chunk, as it comes
    writer = VideoWriter(..., **player.writer_options(time_base))   # after what precedes the first chunk
    player.attach(writer, first pts, time_base)                     # before the first frame is written
    writer.write(frame); ...; writer.close()                        # takes the packets along

Owns: what of the packets lies in a trim, when they are due, and what is done about damaged records.
Does not know: how containers store them (`restorer`), their bytes (`records`). Its mirror is `recorder`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from cvcodec.bitstream.format import MAX_SECONDS
from cvcodec.errors import BitstreamError
from cvcodec.passthrough.carrier import template
from cvcodec.passthrough.packet_queue import PacketQueue
from cvcodec.passthrough.records import (
    ATTACHMENT,
    PACKETS,
    STREAMS,
    unpack_attachment,
    unpack_packets,
    unpack_streams,
)
from cvcodec.passthrough.restorer import StreamRestorer, movie_timescale
from cvcodec.passthrough.streams import KINDS, CopiedContainer, CopiedStream, Trim
from cvcodec.video import VideoWriter


class Player:
    """Puts what records hold back beside the decoded picture.

    say: is told what a person should know. kinds: which of `KINDS` to restore. tags: also chapters and tags.
    trim: what is decoded. salvage: leave out what is malformed or has lost its description, with a notice, instead of
    raising.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda text: None,
        *,
        kinds: Collection[str] = KINDS,
        tags: bool = True,
        trim: Trim = Trim(),  # noqa: B008  # a constant
        salvage: bool = False,
    ) -> None:
        self._say, self._kinds, self._tags, self._salvage = say, frozenset(kinds), tags, salvage
        self._asked = self._trim = trim
        self._container = CopiedContainer()
        self._described = False
        self._queue = PacketQueue()
        self._until: dict[int, Fraction] = {}  # the last time of each stream that was fed
        self._open = True

    def feed(self, kind: str, payload: bytes) -> None:
        """Take a record; types of others are ignored. Raises BitstreamError for malformed ones."""
        try:
            if kind == STREAMS:
                if self._described:
                    raise BitstreamError("file has two STRM records")
                self._container, self._described = unpack_streams(payload), True
                for chapter in self._container.chapters:
                    _check_time(max(abs(chapter.start), abs(chapter.end)) * chapter.time_base, "a chapter")
            elif kind in (ATTACHMENT, PACKETS) and self._open:
                if not self._described and self._salvage:
                    self._say("the description of the copied streams is damaged: sound, subtitles and files are lost")
                elif not self._described:
                    raise BitstreamError(f"{kind} record without a STRM record before it")
                elif kind == ATTACHMENT:
                    number, data = unpack_attachment(payload)
                    stream = self._stream(number, kind)
                    if stream.kind in self._kinds:
                        streams = list(self._container.streams)
                        streams[number] = replace(stream, data=data)
                        self._container = replace(self._container, streams=tuple(streams))
                else:
                    self._take(payload)
        except BitstreamError as error:
            if not self._salvage:
                raise
            self._say(f"damaged copied streams were left out: {error}")

    def _stream(self, number: int, kind: str) -> CopiedStream:
        streams = self._container.streams
        if number >= len(streams) or streams[number].packets != (kind == PACKETS):
            raise BitstreamError(f"{kind} record of copied stream {number}, which the file does not describe")
        return streams[number]

    def _take(self, payload: bytes) -> None:
        packets = unpack_packets(payload)
        number = packets[0].stream
        stream = self._stream(number, PACKETS)
        if stream.kind not in self._kinds:
            return
        self._until[number] = packets[-1].seconds(stream.time_base)
        for packet in packets:
            seconds = packet.seconds(stream.time_base)
            _check_time(seconds + packet.duration * stream.time_base, f"a packet of copied stream {number}")
            if self._trim.holds(packet, stream):
                self._queue.put(packet, seconds)

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
        for number, _ in self._kept("audio"):
            until = self._until.get(number)
            where = "is lost" if until is None else f"is there until {float(until):.2f} s"
            self._say(f"the file is cut: sound (stream {number}) {where}")

    def stop(self, end: Fraction) -> None:
        """The picture ends at `end` seconds, which was not known before."""
        self._trim = self._trim._replace(end=end)

    @property
    def passed(self) -> bool:
        """Whether every stream of sound has been fed up to the end; further records then matter to none."""
        end, sound = self._trim.end, [number for number, _ in self._kept("audio")]
        return bool(sound) and end is not None and all(self._until.get(number, end - 1) >= end for number in sound)

    @property
    def looks_back(self) -> bool:
        """Whether packets of any earlier time may be shown at the beginning, as subtitles are."""
        return any(self._kept("subtitle", "data"))

    def _kept(self, *kinds: str) -> Iterator[tuple[int, CopiedStream]]:
        """The streams that are restored, and their numbers; of `kinds` alone where there are any."""
        wanted = self._kinds.intersection(kinds) if kinds else self._kinds
        return ((number, stream) for number, stream in enumerate(self._container.streams) if stream.kind in wanted)

    def writer_options(self, time_base: Fraction) -> dict[str, Any]:
        """Arguments for `VideoWriter`: the tags, and what keeps times of sound exact; `time_base`: the video's."""
        scale = movie_timescale(time_base, [stream for _, stream in self._kept()])
        return {"tags": self._container.metadata if self._tags else {}, "movie_timescale": scale}

    def attach(self, writer: VideoWriter, first_pts: int, time_base: Fraction) -> None:
        """Add everything to `writer`, before its first frame, whose pts is `first_pts` in ticks of `time_base`. From
        now on the writer takes packets as it needs them, in the thread that writes. Raises OutputError for what its
        container cannot hold."""
        if not writer.has_container:
            self._open = False
            self._queue.clear()
            if any(self._kept()):
                self._say(f"{writer.container_name} holds only the picture: sound and other streams are left out")
            return
        container = self._asked.of(self._container)  # not by `stop`, which may or may not have come
        writer.begin(first_pts)
        offset = writer.pts_offset * time_base
        restorer = StreamRestorer(
            writer,
            container if self._tags else container.without_tags(),
            kinds=self._kinds,
            offset=offset,
            salvage=self._salvage,
            say=self._say,
        )

        def mux_due(time: Fraction | None) -> None:
            for packet, _ in self._queue.take(None if time is None else time - offset):
                if self._trim.holds(packet, container.streams[packet.stream]):  # `stop` may have moved the end
                    restorer.mux(packet)

        writer.output.before_video = mux_due


def _check_time(seconds: Fraction, what: str) -> None:
    if abs(seconds) > MAX_SECONDS:
        raise BitstreamError(f"{what} lies at {float(seconds):g} s, times end at {MAX_SECONDS}")
