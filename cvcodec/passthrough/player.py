"""Records between chunks -> packets of an output container.

    player = Player(say=notices)
    player.feed(record.type, record.payload)                        # every record that is no chunk, as it comes
    writer = VideoWriter(..., **player.writer_options(time_base))   # after what precedes the first chunk
    player.attach(writer, first pts, time_base)                     # before the first frame is written
    writer.write(frame); ...; writer.close()                        # takes the packets along

Owns: what of the packets lies in a trim, when they are due, and what is done about damaged records.
Its mirror is `recorder`; `records` has the bytes.

`StreamRestorer` puts them into the container. Streams are added before the first packet of anything, packets as the
video goes on: `ContainerSink` asks for those of a time before it writes a video packet of that time, so that FFmpeg has
next to nothing to hold back. Data are muxed byte for byte, except where source and output containers name the same text
differently: then a bitstream filter (mov2textsub, text2movsub) is applied, and a notice says so.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext
from av.packet import PacketSideData, packet_sidedata_type_from_literal

from cvcodec.bitstream.format import MAX_SECONDS
from cvcodec.errors import BitstreamError, OutputError
from cvcodec.passthrough.carrier import add_copy, set_facts, template
from cvcodec.passthrough.packet_queue import PacketQueue
from cvcodec.passthrough.records import (
    ATTACHMENT,
    PACKETS,
    STREAMS,
    unpack_attachment,
    unpack_packets,
    unpack_streams,
)
from cvcodec.passthrough.streams import KINDS, Chapter, CopiedContainer, CopiedPacket, CopiedStream, Trim
from cvcodec.video.libav import captured_log, reason
from cvcodec.video.metadata import lost_tags, of_content
from cvcodec.video.writer import VideoWriter


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


_MAX_TIMESCALE = (1 << 31) - 1
_SUFFIXES = {"mp4": ".mp4", "mov": ".mov", "matroska": ".mkv", "webm": ".webm"}
_PREFERRED = ("matroska", "mp4", "mov", "webm")  # what to suggest, in this order
_MIME_TYPES = {"mjpeg": "image/jpeg", "png": "image/png", "bmp": "image/bmp", "gif": "image/gif", "webp": "image/webp"}
_FILTERS = {
    # (codec, container): (codec there, bitstream filter)
    ("mov_text", "matroska"): ("subrip", "mov2textsub"),
    ("subrip", "mp4"): ("mov_text", "text2movsub"),
    ("subrip", "mov"): ("mov_text", "text2movsub"),
    ("text", "mp4"): ("mov_text", "text2movsub"),
    ("text", "mov"): ("mov_text", "text2movsub"),
}
_SIDE_DATA: Any = PacketSideData  # PyAV's stubs know of no way to make one
_SIDE_DATA_TYPE: Any = packet_sidedata_type_from_literal
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}  # FFmpeg's defaults
_ERRORS = (av.error.FFmpegError, OSError, ValueError)


def movie_timescale(time_base: Fraction, streams: Iterable[CopiedStream]) -> int | None:
    """Ticks per second that hold video and audio times exactly, for the edit lists of MP4 and MOV; None where there is
    no such number, and the video's own must do."""
    scale = time_base.denominator
    for stream in streams:
        if stream.kind == "audio":
            scale = math.lcm(scale, _number(stream, "sample_rate", 1 << 31) or stream.time_base.denominator)
    return scale if scale <= _MAX_TIMESCALE else None


@dataclass
class _Copy:
    """One stream that is restored. stream: PyAV's. filter: what its packets pass through. last_dts: of the packet
    before, in ticks of its packets."""

    described: CopiedStream
    stream: Any
    filter: Any
    clock: _SampleClock | None
    last_dts: int | None = None


class StreamRestorer:
    """Puts what a `CopiedContainer` describes into the container of `writer`; before its first frame.

    kinds: of streams to restore. offset: seconds added to all times (`VideoWriter.pts_offset`). say: is told what a
    person should know.
    Raises OutputError for audio and subtitles that this container cannot hold and another can; data, attachments, cover
    art and what no container holds are left out with a notice. BitstreamError for descriptions that are not what they
    should be, unless `salvage`: then their streams are left out with a notice.
    """

    def __init__(
        self,
        writer: VideoWriter,
        copied: CopiedContainer,
        *,
        kinds: Collection[str],
        offset: Fraction,
        salvage: bool,
        say: Callable[[str], None],
    ) -> None:
        self._say, self._offset = say, offset
        self._sink, self._output = writer.output, writer.output.container
        self._format, self._suffix = writer.container_name, _SUFFIXES[writer.container_name]
        self._copies: dict[int, _Copy] = {}
        video = self._sink.stream
        video.metadata.update(copied.video_metadata)
        self._say_lost_tags("the video", copied.video_metadata)
        if copied.video_disposition:
            video.disposition = _flags(copied.video_disposition)
        if copied.chapters:
            chapters = enumerate(copied.chapters, 1)
            self._output.set_chapters([_chapter(number, chapter, offset) for number, chapter in chapters])
        pictures = []
        for number, stream in enumerate(copied.streams):
            if stream.kind not in kinds:
                continue
            if stream.packets:
                try:
                    self._add(number, stream)
                except BitstreamError as error:
                    if not salvage:
                        raise
                    self._say(f"a damaged copied stream was left out: {error}")
            elif stream.data and (picture := self._add_content(stream)) is not None:
                pictures.append((picture, stream.data))
        for picture, data in pictures:  # the first packet writes the header, so after all streams
            packet = av.Packet(data)
            packet.pts = packet.dts = 0
            packet.time_base = Fraction(1, 90000)
            packet.is_keyframe = True
            packet.stream = picture
            self._sink.mux(packet)

    def _add(self, number: int, stream: CopiedStream) -> None:
        what = f"{stream.kind} stream {stream.index}"
        filtered = _FILTERS.get((stream.codec, self._format))
        if filtered is None and (problem := _problem(self._format, stream)) is not None:
            better = [
                _SUFFIXES[name]
                for name in _PREFERRED
                if name != self._format and ((stream.codec, name) in _FILTERS or _problem(name, stream) is None)
            ]
            if better and stream.kind != "data":
                raise OutputError(
                    f"{self._suffix} cannot hold {what} ({stream.codec}): {problem}; use {better[0]}, or --no-audio to "
                    "leave copied streams out"
                )
            nobody = f"{self._suffix} cannot hold it" if better else "no container can hold it"
            self._say(f"{what} ({stream.codec}) is left out: {nobody}")
            return
        added = _add_to(self._output, self._format, stream, self._offset)
        self._say_lost_tags(what, stream.metadata)
        made = None
        if filtered is not None:
            codec, name = filtered
            made = BitStreamFilterContext(name, in_stream=stream.codec)
            loss = "its styles are lost" if codec == "subrip" else "markup such as <i> stays in its text"
            self._say(f"{what}: {stream.codec} becomes {codec} (bitstream filter {name}); {loss}")
        clock = _SampleClock(stream) if stream.kind == "audio" and self._format in ("mp4", "mov") else None
        self._copies[number] = _Copy(stream, added, made, clock)

    def _say_lost_tags(self, what: str, tags: Mapping[str, str]) -> None:
        if names := lost_tags(self._format, of_content(tags), of_stream=True):
            self._say(f"{self._suffix} cannot hold these tags of {what}: {', '.join(sorted(names))}")

    def _add_content(self, stream: CopiedStream) -> Any:
        """Add an attachment or cover art; gives the stream whose only packet is still to be muxed, if there is one."""
        name = stream.metadata.get("filename") or ("cover" if stream.kind == "picture" else "attachment")
        mp4_cover = self._format == "mp4" and stream.kind == "picture"
        if self._format == "matroska":
            mime = stream.metadata.get("mimetype") or _MIME_TYPES.get(stream.codec, "application/octet-stream")
            if stream.kind == "picture" and "." not in name:
                name += "." + mime.removeprefix("image/").replace("jpeg", "jpg")
            copy: Any = self._output.add_attachment(name, mime, stream.data)
        elif mp4_cover and stream.codec in ("mjpeg", "png", "bmp"):
            width, height = (_number(stream, side, 1 << 16) for side in ("width", "height"))
            copy = self._output.add_mux_stream(stream.codec, width=width, height=height)
            copy.disposition = _flags(("attached_pic",))
        else:
            self._say(f"{stream.kind} {name!r} is left out: {self._suffix} cannot hold it; .mkv can")
            return None
        copy.metadata.update({k: v for k, v in stream.metadata.items() if k not in ("filename", "mimetype")})
        return copy if mp4_cover else None

    def mux(self, packet: CopiedPacket) -> None:
        """Write one packet, in the order of time. Raises OutputError, and BitstreamError for an impossible packet."""
        copy = self._copies.get(packet.stream)
        # Of MP4's subtitles, the empty texts between them: its muxer makes them anew, other containers have none.
        if copy is None or (packet.data == b"\0\0" and copy.described.codec == "mov_text"):
            return
        try:
            self._mux(copy, packet)
        except OverflowError as error:
            raise BitstreamError(
                f"a packet of copied stream {packet.stream} at pts {packet.pts} cannot be shown: its time takes more "
                "than 64 bits"
            ) from error

    def _mux(self, copy: _Copy, packet: CopiedPacket) -> None:
        made = _to_av(packet, copy.described)
        if copy.clock is not None:
            copy.clock.retime(made, packet)
        time_base = made.time_base
        made.stream = copy.stream
        try:
            items = [made] if copy.filter is None else copy.filter.filter(made)
        except _ERRORS as error:
            raise OutputError(f"subtitle at pts {packet.pts} cannot be converted: {reason(error)}") from error
        for item in items:
            item.stream = copy.stream
            item.time_base = time_base
            self._shift(item, copy, packet.stream)
            self._sink.mux(item)

    def _shift(self, item: Any, copy: _Copy, number: int) -> None:
        """Times as the container wants them: with the offset, and never backwards; in MP4 and MOV, never equal."""
        if self._offset:
            ticks = round(self._offset / item.time_base)
            item.pts, item.dts = item.pts + ticks, item.dts + ticks
        step = 0
        if self._format in ("mp4", "mov"):
            step = max(1, math.ceil(Fraction(copy.stream.time_base) / item.time_base))
        if copy.last_dts is not None and item.dts < copy.last_dts + step:
            self._say(
                f"copied stream {number}: packets whose times did not increase were moved behind their predecessors"
            )
            item.dts = copy.last_dts + step
            item.pts = max(item.pts, item.dts)
        copy.last_dts = item.dts


class _SampleClock:
    """Times of sound to the sample, where the source rounded them to coarser ticks (Matroska: milliseconds).

    A packet that begins within one tick of where the one before ended begins there."""

    def __init__(self, stream: CopiedStream) -> None:
        self._rate, self._frame = _number(stream, "sample_rate", 1 << 31), _number(stream, "frame_size", 1 << 20)
        self._ticks = stream.time_base * self._rate  # samples in a tick
        self._opus = stream.codec == "opus"
        delay = stream.facts.get("delay", 0)
        self._next = -delay if isinstance(delay, int) else 0

    def retime(self, made: Any, packet: CopiedPacket) -> None:
        """Change the times of `made`, a PyAV packet made of `packet`."""
        length = packet.duration * self._ticks if self._opus else Fraction(self._frame)
        if self._ticks <= 1 or not length or length.denominator != 1 or made.dts != made.pts:
            return
        exact = made.pts * self._ticks
        start = self._next if abs(self._next - exact) <= self._ticks else round(exact)
        self._next = start + int(length)
        padding = sum(int.from_bytes(data[4:8], "little") for name, data in packet.side_data if name == "skip_samples")
        made.time_base = Fraction(1, self._rate)
        made.pts = made.dts = start
        made.duration = max(0, int(length) - (0 if self._opus else padding))


def _add_to(output: Any, container: str, stream: CopiedStream, offset: Fraction) -> Any:
    """Add `stream` to a PyAV output container."""
    filtered = _FILTERS.get((stream.codec, container))
    if filtered is not None:
        copy: Any = output.add_mux_stream(filtered[0], time_base=stream.time_base)
    else:

        def adjust(context: Any) -> None:
            set_facts(context, stream)
            if stream.kind == "audio" and container in ("mp4", "mov") and "channels" in context.layout.name:
                # MP4 has no place for channels of unknown place.
                context.layout = _LAYOUTS.get(context.channels, context.layout.name)

        with template(stream, delay=_delay(container, stream, offset)) as source:
            copy = add_copy(output, source, adjust)
        copy.time_base = stream.time_base
    copy.disposition = _flags(stream.disposition)
    copy.metadata.clear()
    copy.metadata.update(stream.metadata)
    return copy


def _delay(container: str, stream: CopiedStream, offset: Fraction) -> int | None:
    """Samples of priming before zero that Matroska has to be told of; MP4's edit lists need not be told."""
    if container not in ("matroska", "webm") or stream.kind != "audio":
        return None
    if stream.facts.get("delay") == 0:  # said outright: the priming was cut off
        return 0
    if stream.start is None:
        return None
    rate, known = stream.facts.get("sample_rate", 0), stream.facts.get("delay", 0)
    samples = -round((stream.start * stream.time_base + offset) * rate)
    return samples if samples > known and abs(samples - known) > rate * stream.time_base else None


def _problem(container: str, stream: CopiedStream) -> str | None:
    """Why `container` cannot hold `stream`, found by trying; None where it can."""
    with captured_log() as log:
        output = av.open(io.BytesIO(), "w", format=container)
        try:
            _add_to(output, container, stream, Fraction(0))
            output.start_encoding()
        except BitstreamError:
            raise
        except _ERRORS as error:
            if type(error) is ValueError:
                return "no such codec in this format"
            return (log() or [reason(error)])[-1]
        finally:
            with suppress(*_ERRORS):
                output.close()
    return None


def _to_av(packet: CopiedPacket, stream: CopiedStream) -> Any:
    made: Any = av.Packet(packet.data)
    made.pts = packet.pts if packet.pts is not None else packet.dts
    made.dts = packet.dts if packet.dts is not None else packet.pts
    if made.pts is None:
        raise BitstreamError(f"a packet of copied stream {packet.stream} has no time")
    made.duration = packet.duration
    made.time_base = stream.time_base
    made.is_keyframe, made.is_corrupt = packet.keyframe, packet.corrupt
    for name, content in packet.side_data:
        if (name, content) == ("new_extradata", stream.extradata):
            continue
        try:
            item = _SIDE_DATA(_SIDE_DATA_TYPE(name), len(content))
        except ValueError:  # of a later FFmpeg
            continue
        if content:
            item.update(content)
            made.set_sidedata(item)
    return made


def _flags(names: Iterable[str]) -> int:
    known = av.stream.Disposition.__members__
    return sum(int(known[name]) for name in set(names) if name in known)


def _number(stream: CopiedStream, fact: str, limit: int) -> int:
    """A fact that is a number below `limit`; 0 where it is absent, or none."""
    value = stream.facts.get(fact, 0)
    return value if isinstance(value, int) and 0 <= value < limit else 0


def _chapter(number: int, chapter: Chapter, offset: Fraction) -> Any:
    ticks = round(offset / chapter.time_base)
    return {
        "id": number,
        "start": chapter.start + ticks,
        "end": chapter.end + ticks,
        "time_base": chapter.time_base,
        "metadata": dict(chapter.metadata),
    }
