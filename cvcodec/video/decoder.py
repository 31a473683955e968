"""Packets -> decoded frames with exact times, from any position.

Nothing is dropped: the decoder is flushed at the end, frames that it would hide because they are damaged are asked
for, and frames without times get the next free one. Errors are counted, and reading goes on where the data allow it.

Seeking is exact: FFmpeg goes to a point before the wanted time, and the frames in between are decoded and thrown
away. Where what comes out does not begin before the wanted time, or is damaged there, a point further back is tried,
at last the beginning.

Pictures that HEIF and AVIF store as a grid of tiles are put together here.
"""

from __future__ import annotations

import math
import os
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter
from av.codec.context import Flags

from cvcodec.errors import InputError
from cvcodec.video.filters import Timed
from cvcodec.video.libav import as_fraction, park, reason
from cvcodec.video.source import InputFile, TileGrid, cropping, tile_grids
from cvcodec.video.timestamps import FrameClock, Timeline

TIMED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv", "mxf", "nut"}
"""Formats that store the time of every frame. Elsewhere (AVI, MPEG-PS, raw streams) FFmpeg derives times from the
frames before, and gives others after a seek; such files are read from the beginning."""

_JOINED_FORMATS = {"mpegts"}  # of these, whose times may begin anew where files are joined end to end
_HEIF_PICTURES = ("avif", "mif1", "heic", "heix", "heim", "heis")  # ISO/IEC 23008-12, B.4; AVIF, 6
_HEIF_SEQUENCES = ("avis", "msf1", "hevc", "hevx", "hevm", "hevs")
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_FIRST_STEP_BACK = Fraction(2)
_TIMELESS = -(2**63)  # of packets without time stamps
_PACKET_LEAD = Fraction(1)  # seconds that packets of other streams may lie in front of the video of their time
_PACKET_LAG = Fraction(10)  # and behind it

_INHERITED: list[Any] = []
"""What a forked child must never free."""

PacketSink = Callable[[Any], None]
"""Takes a PyAV packet, or None: see `FrameDecoder`."""


class FrameDecoder:
    """One video stream of one source.

    stream: number among the real video streams (attached pictures do not count, a grid of tiles is one); None takes
        what a player shows: the first, of HEIF and AVIF the sequence or the main picture.
    threads: decoding threads, None for as many as there are cores.
    on_packet: is given every packet in file order (for copying other streams than this one), and None where reading
        starts again somewhere else; without it other streams are discarded unread.
    errors: decoding errors so far. notices: what a person should know, each once. crop: (top, bottom, left, right)
    that the container asks for. context: PyAV's, of the decoder. grid: of the picture, where it is stored in tiles.
    Raises InputError where there is no such stream, or no decoder for it.
    """

    def __init__(
        self, source: InputFile, *, stream: int | None, threads: int | None, on_packet: PacketSink | None
    ) -> None:
        self.source = source
        self.errors = 0
        self.notices: list[str] = []
        self._asked = stream
        self._threads = threads or 0
        self._on_packet = on_packet
        self._sizes = array("q")  # size and time of each packet, in turn: 16 bytes a frame, however long the video
        self._joined: bool | None = None  # whether its times jump back; looked for where that matters
        self._process = os.getpid()
        self._open()
        # It listens to the log, so before threads decode.
        self.crop = (
            cropping(self.stream) if self.grid is None else tile_edges(self.source.name, self.grid, self.context)
        )

    def _open(self) -> None:
        self.container = self.source.open()
        grids = tile_grids(self.container) if self._is_heif() else []
        others = {index for grid in grids for index in grid.streams[1:]}
        videos = [
            s
            for s in self.container.streams.video
            if not s.disposition & av.stream.Disposition.attached_pic and s.index not in others
        ]
        self._number = self._asked if self._asked is not None else self._main(videos, grids)
        self.stream_count = len(videos)
        if not videos:
            self.container.close()
            pictures = len(self.container.streams.video)
            raise InputError(
                f"{self.source.name!r} has no video stream" + (", only an attached picture" if pictures else "")
            )
        if not 0 <= self._number < len(videos):
            self.container.close()
            raise InputError(f"{self.source.name!r} has video streams 0 to {len(videos) - 1}, not {self._number}")
        self.stream = videos[self._number]
        context: Any = self.stream.codec_context
        if context is None:
            self.container.close()
            raise InputError(f"{self.source.name!r}: this FFmpeg has no decoder for its video stream")
        self.context = _context_of(self.stream)
        if self.source.hardware is not None and not self.context.is_hwaccel:
            self.say(f"{self.context.codec.name} is decoded on the CPU: hardware of this kind does not decode it")
        self.grid = next((grid for grid in grids if grid.streams[0] == self.stream.index), None)
        if self._on_packet is None:
            for other in self.container.streams:
                if other.index != self.stream.index and (self.grid is None or other.index not in self.grid.streams):
                    other.discard = av.stream.Discard.all
        self.context.thread_type = "AUTO"
        self.context.thread_count = self._threads
        self.context.flags |= Flags.output_corrupt
        self._reorder_depth = self.context.reorder_depth
        self._begin_times()

    def _is_heif(self) -> bool:
        return self.container.metadata.get("major_brand") in (*_HEIF_PICTURES, *_HEIF_SEQUENCES)

    def _main(self, videos: list[Any], grids: list[TileGrid]) -> int:
        """Number of the stream that a player shows: the first; of HEIF and AVIF the sequence, or the main picture."""
        if not self._is_heif():
            return 0
        if self.container.metadata["major_brand"] in _HEIF_SEQUENCES:
            main = {stream.index for stream in videos if stream.duration is not None}  # pictures have none
        else:
            main = {grid.streams[0] for grid in grids if grid.default} | {
                stream.index for stream in videos if stream.disposition & av.stream.Disposition.default
            }
        return next((number for number, stream in enumerate(videos) if stream.index in main), 0)

    def _begin_times(self) -> None:
        """What follows is read from another place."""
        self._timeline = Timeline(self.stream.index, self.say)
        self._mended = self._timeline.mended(self._demuxed())
        self._clock = FrameClock(self.container.format.name, self._ticks_per_frame(), self.say)

    @property
    def number(self) -> int:
        """Number of the stream among the real video streams."""
        return self._number

    @property
    def time_base(self) -> Fraction:
        """Seconds that a time stamp of the stream counts in; milliseconds where it does not say."""
        return as_fraction(self.stream.time_base) or Fraction(1, 1000)

    def stream_bytes(self, first: int, last: int) -> int:
        """Bytes of the packets read so far of frames with time stamps from `first` to `last`."""
        pairs = zip(self._sizes[::2], self._sizes[1::2], strict=True)
        return sum(size for size, time in pairs if time == _TIMELESS or first <= time <= last)

    def say(self, notice: str) -> None:
        """Add to `notices`, once."""
        if notice not in self.notices:
            self.notices.append(notice)

    def frames(self) -> Iterator[Timed]:
        """The frames from the current position to the end, in order of presentation. Durations are the container's."""
        for frame, time in self._clock.times(self._decoded()):
            yield Timed(frame, time, frame.duration or None)

    def _ticks_per_frame(self) -> int:
        rate = as_fraction(self.stream.average_rate) or as_fraction(self.stream.guessed_rate) or Fraction(25)
        return max(1, round(1 / (rate * self.time_base)))

    def _demuxed(self) -> Iterator[Any]:
        streams = None if self._on_packet else self.stream
        packets: Iterator[Any] = self.container.demux(streams) if streams is not None else self.container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except OSError as error:
                if not isinstance(error, av.error.FFmpegError):
                    raise InputError(f"cannot read {self.source.name!r}: {reason(error)}") from error
                self._damaged(error)
                return
            except av.error.FFmpegError as error:
                self._damaged(error)
                return
            yield packet

    def _packets(self) -> Iterator[Any]:
        """Those to decode; others are handed on."""
        for packet in self._mended:
            if packet.stream_index == self.stream.index:
                if packet.dts is None and packet.pts is None and packet.size == 0:
                    return  # PyAV's flush marker; `_decoded` flushes itself
                if self._on_packet is not None:
                    self._on_packet(packet)
                time = packet.dts if packet.pts is None else packet.pts
                self._sizes.extend((packet.size, _TIMELESS if time is None else time))
                yield packet
            elif self._on_packet is not None and packet.size:
                self._on_packet(packet)

    def _damaged(self, error: BaseException) -> None:
        self.errors += 1
        self.say(f"damaged input: {reason(error)}")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        if self.grid is not None:
            yield assembled_tiles(self.source.name, self.container, self.grid)
            return
        context = self.context
        recent = _RecentPackets()
        sent = received = 0
        try:
            for packet in self._packets():
                recent.add(packet, self.errors)
                sent += not packet.is_discard
                try:
                    decoded = context.decode(packet)
                except av.error.EOFError:
                    break
                except av.error.FFmpegError as error:
                    self._damaged(error)
                    continue
                received += len(decoded)
                yield from decoded
            try:
                tail = context.decode(None)
            except av.error.EOFError:
                tail = []
            except av.error.FFmpegError:
                tail = []  # counted when the tail is decoded again
        except av.error.MemoryError as error:
            raise InputError(f"cannot decode {self.source.name!r}: {reason(error)}") from error
        yield from tail
        if received + len(tail) < sent:
            yield from self._decode_again(recent)

    def _decode_again(self, recent: _RecentPackets) -> Iterator[av.VideoFrame]:
        """The frames at the end that an error has hidden.

        With frame threads the error of one packet surfaces while others are in flight, and PyAV gives up what
        follows it; most of all when flushing. Without frame threads each packet's error is its own.
        """
        packets = recent.packets()
        if not packets:
            return
        last, errors = self._clock.newest, recent.errors_before()
        context: Any = av.CodecContext.create(self.context.codec.name, "r")
        for name in ("extradata", "width", "height", "bits_per_coded_sample"):
            setattr(context, name, getattr(self.context, name))
        context.thread_type, context.thread_count = "SLICE", self._threads
        context.flags |= Flags.output_corrupt
        for packet in (*packets, None):
            try:
                frames = context.decode(packet)
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                errors += 1
                if errors > self.errors:  # otherwise it is one that the first pass has counted
                    self._damaged(error)
                continue
            for frame in frames:
                if frame.pts is not None and (last is None or frame.pts > last):
                    yield frame

    def seek(self, pts: int, first_pts: int) -> Iterator[Timed]:
        """The frames from before `pts` on; the caller throws away what is early. At least one earlier frame comes
        first if there is one.

        The pixels of every frame from `pts` on are those that reading from the beginning gives.
        """
        step = _FIRST_STEP_BACK
        target = pts - 1
        if self._on_packet is not None:
            target -= int(_PACKET_LEAD / self.time_base)
        while target > first_pts and self._can_seek():
            self._forget()
            try:
                self.container.seek(target, stream=self.stream)
            except (av.error.FFmpegError, OSError):
                break
            park(self.context)  # PyAV knows only of the stream's own
            self.context.reorder_depth = self._reorder_depth
            self._begin_times()
            errors, lead, items = self.errors, deque[Timed](maxlen=2), self.frames()
            first: Timed | None = next(items, None)
            reached = first
            while reached is not None and reached.pts < pts:
                lead.append(reached)
                reached = next(items, None)
            clean = self.errors == errors and not any(
                i.frame.is_corrupt for i in (*lead, *([reached] if reached else []))
            )
            if first is not None and first.pts < pts and clean:
                return self._chain(lead, reached, items)
            self.errors = errors
            target = target - int(step / self.time_base)
            step *= 2
        if self.source.seekable:
            self._forget()
            self._release()
            self._open()
        return self.frames()

    def _forget(self) -> None:
        if self._on_packet is not None:
            self._on_packet(None)

    def read_on(self, end: Fraction) -> None:
        """After the last frame that is wanted: hand the packets of other streams to `on_packet` until all streams of
        sound have passed `end`, in seconds; some containers keep them behind the video of their time."""
        sink = self._on_packet
        if sink is None:
            return
        waiting = {stream.index for stream in self.container.streams if stream.type == "audio"}

        def watched(packet: Any) -> None:
            sink(packet)
            if packet.pts is not None and packet.pts * packet.time_base >= end:
                waiting.discard(packet.stream_index)

        self._on_packet = watched
        for packet in self._packets():
            if not waiting or (packet.dts is not None and packet.dts * packet.time_base > end + _PACKET_LAG):
                return

    def _can_seek(self) -> bool:
        """Whether times after a seek are those that reading from the beginning gives."""
        if not self.source.seekable or self.container.format.name not in TIMED_FORMATS:
            return False
        if self._joined is None:
            self._joined = self.container.format.name in _JOINED_FORMATS and self._finds_joint()
        return not self._joined

    def _finds_joint(self) -> bool:
        """Whether times jump back further on, so that the same time is there twice. Reads on to the end."""
        errors = self.errors
        for _ in self._mended:
            pass
        self.errors = errors
        return self._timeline.joints > 0

    @staticmethod
    def _chain(lead: deque[Timed], reached: Timed | None, rest: Iterator[Timed]) -> Iterator[Timed]:
        yield from lead
        if reached is not None:
            yield reached
            yield from rest

    def _release(self) -> None:
        park(self.context)
        self.container.close()

    def close(self) -> None:
        """Close container and source; the codec's threads come to rest before."""
        self._release()
        self.source.close()

    def __del__(self) -> None:
        if getattr(self, "context", None) is None:
            return
        if self._process == os.getpid():
            park(self.context)
        else:  # forked: its threads are not there to be waited for, neither here nor by FFmpeg
            _INHERITED.append((self.container, self.stream, self.context))


def _context_of(stream: Any) -> Any:
    """The decoder of a stream. Transparency of VP8 and VP9 lies beside their packets, where FFmpeg's own do not
    look."""
    name = _ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    transparent = any((key.lower(), value) == ("alpha_mode", "1") for key, value in stream.metadata.items())
    if name is None or not transparent or name not in av.codecs_available:
        return stream.codec_context
    context: Any = av.CodecContext.create(name, "r")
    for attribute in ("extradata", "width", "height"):
        setattr(context, attribute, getattr(stream.codec_context, attribute))
    return context


class _RecentPackets:
    """The last packets of a stream from a keyframe on, enough of them to cover what a threaded decoder holds."""

    _IN_FLIGHT, _LIMIT = 64, 1024

    def __init__(self) -> None:
        self._groups: deque[list[tuple[Any, int]]] = deque()
        self._count = 0

    def add(self, packet: Any, errors: int) -> None:
        """Keep `packet`, before which there were `errors` errors."""
        if packet.is_keyframe or not self._groups:
            self._groups.append([])
        self._groups[-1].append((packet, errors))
        self._count += 1
        while len(self._groups) > 1 and self._count - len(self._groups[0]) >= self._IN_FLIGHT:
            self._count -= len(self._groups.popleft())
        if self._count > self._LIMIT:  # a stream without keyframes: give up, memory is bounded
            self._groups.clear()
            self._count = 0

    def packets(self) -> list[Any]:
        """Those that are kept, in the order they were decoded in."""
        return [packet for group in self._groups for packet, _ in group]

    def errors_before(self) -> int:
        """Errors before the first of `packets`; only where there is one."""
        return self._groups[0][0][1]


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    """Side data of a frame by FFmpeg's name. PyAV fails on types that it does not know (EXIF); they are filtered out
    first.
    """
    for _ in range(8):
        try:
            items: Any = frame.side_data
            found = [items[index] for index in range(len(items))]
            return {item.type.name: bytes(item) for item in found}
        except ValueError as error:
            unknown = re.match(r"(\d+) is not a valid", str(error))
            if unknown is None:
                return {}
            graph = av.filter.Graph()
            graph.link_nodes(
                graph.add(
                    "buffer", f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1"
                ),
                graph.add("sidedata", f"mode=delete:type={unknown[1]}"),
                graph.add("buffersink"),
            ).configure()
            graph.push(frame)
            frame = graph.vpull()
    return {}


def tile_edges(name: str, grid: TileGrid, tile: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the tiles together that lie beyond the picture. tile: the first one's decoder.
    name: of the file, for messages. Raises InputError where there are too few tiles."""
    columns, rows = math.ceil(grid.width / tile.width), math.ceil(grid.height / tile.height)
    if columns * rows != len(grid.streams):
        wanted = f"{columns}x{rows} tiles of {tile.width}x{tile.height}"
        raise InputError(
            f"{name!r}: the picture of {grid.width}x{grid.height} wants {wanted}, the file has {len(grid.streams)}"
        )
    return 0, rows * tile.height - grid.height, 0, columns * tile.width - grid.width


def assembled_tiles(name: str, container: Any, grid: TileGrid) -> av.VideoFrame:
    """All tiles in their places. Raises InputError where one cannot be decoded or differs from the first."""
    tiles: dict[int, av.VideoFrame] = {}
    streams = [container.streams[index] for index in grid.streams]
    try:
        for packet in container.demux(streams):
            for frame in packet.decode():
                tiles.setdefault(packet.stream.index, frame)
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{name!r}: tile {len(tiles)} of the picture cannot be decoded: {reason(error)}") from error
    first = tiles.get(grid.streams[0])
    shape = None if first is None else (first.width, first.height, first.format.name)
    for number, index in enumerate(grid.streams):
        tile = tiles.get(index)
        if first is None or tile is None or (tile.width, tile.height, tile.format.name) != shape:
            raise InputError(f"{name!r}: tile {number} of the picture is missing or unlike the first")
    assert first is not None
    return _stacked([tiles[index] for index in grid.streams], math.ceil(grid.width / first.width))


def _stacked(tiles: list[av.VideoFrame], columns: int) -> av.VideoFrame:
    first = tiles[0]
    if len(tiles) == 1:
        return first
    graph = av.filter.Graph()
    places = "|".join(
        f"{number % columns * first.width}_{number // columns * first.height}" for number in range(len(tiles))
    )
    stack = graph.add("xstack", f"inputs={len(tiles)}:layout={places}")
    sink = graph.add("buffersink")
    what = f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}:time_base=1/1"
    inputs = [graph.add("buffer", what) for _ in tiles]
    for number, source in enumerate(inputs):
        source.link_to(stack, 0, number)
    stack.link_to(sink)
    graph.configure()
    for source, tile in zip(inputs, tiles, strict=True):
        tile.pts = 0
        source.push(tile)
        source.push(None)
    whole: Any = sink.pull()
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(whole, name, getattr(first, name))
    return whole  # type: ignore[no-any-return]
