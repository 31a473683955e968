"""`VideoReader`: any video, or image, that FFmpeg opens -> RGB frames with exact times.

One frame through it: FrameDecoder -> bwdif (flagged frames only) -> another rate (`rate`) -> RGB (`convert`) ->
container cropping -> turn upright -> another size (`resize`) -> `Frame`. One decoded frame is held back, because a
frame's duration is the distance to its successor.

`ReaderAhead` opens and reads in threads, beside what the frames are for. A source may be a pipe whose writer pauses;
FFmpeg loses an interrupt that comes while it waits there, and so the wait is outside FFmpeg.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from cvcodec.errors import InputError, UsageError
from cvcodec.system.threads import ReadAhead, in_thread
from cvcodec.video.color import UNSPECIFIED, Color, ContentLight, MasteringDisplay
from cvcodec.video.convert import BACKGROUNDS, RgbReader, bit_depth_of, check_matrix, is_gray, is_rgb, stored_luma
from cvcodec.video.decoder import FrameDecoder, PacketSink, side_data
from cvcodec.video.filters import (
    IDENTITY,
    Timed,
    apply_turn,
    clockwise_degrees,
    deinterlaced,
    matrix_from_bytes,
    swaps_sides,
    turn_from_rotation,
    turn_of,
)
from cvcodec.video.frame import Frame, VideoInfo
from cvcodec.video.libav import as_fraction
from cvcodec.video.rate import FrameGrid, parse_fps
from cvcodec.video.resize import CROPS, Geometry, Size, resized
from cvcodec.video.source import InputFile, VideoSource

_UNKEPT = {
    "A53_CC": "captions (CEA-608, CEA-708)",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
}
"""Side data of frames, by FFmpeg's name, that no .cvl holds."""

Seconds = Fraction | float | int | str
"""A time; strings and fractions are exact (`"1001/30000"`)."""

MOST_SECONDS = 10**9
"""Of a time, 31 years: FFmpeg counts in 64 bits, of which fine time bases leave little more."""

_TOLERANCE = Fraction(1, 1_000_000)  # floats given for times that are no short decimals
_ROUNDING = Fraction(1, 100)  # of a frame, in rates and lengths of containers
_SEEK_FROM = Fraction(1)  # nearer to the beginning than this, decoding is cheaper than seeking


class VideoReader:
    """Iterates over the frames of one video stream, once, in order of presentation; nothing dropped, nothing resized,
    unless `size` or `fps` ask for it.

    source: path, numbered image sequence (`frames/%05d.png`), URL, or binary file object (a pipe too).
    stream: number among the real video streams (attached pictures do not count); None is the first, of HEIF and AVIF
        the one that a player shows.
    threads: decoding threads; None is one per core.
    start, end, duration: seconds on the container's timeline, whose zero is its first audio or video time
        (`info.start_time`): frames with start <= time < end are read. A frame that began before `start` is not.
        `duration` stands for `end` = start + duration. frames: at most so many frames.
    rotate: hand out frames upright, as the display matrix asks; otherwise as stored, and `info` tells the rest.
    deinterlace: pass frames flagged interlaced through bwdif.
    background: `black` or `white`, behind transparent pixels.
    stored_luma: give frames their `luma` as well.
    rate: frames per second of image sequences and raw streams, which do not say (25 unless given).
    hwaccel: `none`, `auto` or the name of a device that decodes, such as `cuda`: see `hardware_decoder`.
    size, crop: resize frames; see `Size` and `Geometry`. fps: frames per second, by time; see `FrameGrid`.
    on_packet: is given the packets of all streams, in file order, for copying those of others; and None where what came
        before is to be forgotten, because reading starts again near `start`.

    info: the stream as it is handed out, see `VideoInfo`; source_info: as it is stored, but upright.
    notices: what a person should be told, each once; grows while reading.
    decode_errors, corrupt_frames, deinterlaced_frames: counts so far.
    time_range: (first, end) in seconds of what is read: the trims, None where there is none.
    stopped: where `frames` or a trim ended the reading: (pts of the last frame, end in seconds), known before that
        frame is handed out; None until then, and where the source is read to its end.
    Raises InputError where the source cannot be read, UsageError where options contradict each other.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        stream: int | None = None,
        threads: int | None = None,
        start: Seconds | None = None,
        end: Seconds | None = None,
        duration: Seconds | None = None,
        frames: int | None = None,
        rotate: bool = True,
        deinterlace: bool = True,
        background: str = "black",
        stored_luma: bool = False,
        rate: Fraction | None = None,
        hwaccel: str = "none",
        size: Size | str | None = None,
        crop: str = "center",
        fps: Fraction | float | str | None = None,
        on_packet: PacketSink | None = None,
    ) -> None:
        self._start, self._end = trim_of(start, end, duration)
        if frames is not None and frames < 1:
            raise UsageError(f"frames = {frames} is not positive")
        if background not in BACKGROUNDS:
            raise UsageError(f"background = {background!r} is not one of {', '.join(BACKGROUNDS)}")
        if crop not in CROPS:
            raise UsageError(f"crop = {crop!r} is not one of {', '.join(CROPS)}")
        if crop != CROPS[0] and size is None:
            raise UsageError(f"crop = {crop!r} says how a size is reached: give a size, too")
        self._asked_size, self._crop_to = Size.parse(size) if isinstance(size, str) else size, crop
        self._fps = None if fps is None else parse_fps(fps)
        self._limit = frames
        self.stopped: tuple[int, Fraction] | None = None
        self._rotate, self._deinterlace, self._background = rotate, deinterlace, background
        self._stored_luma = stored_luma
        self._source = InputFile(source, rate=rate, hwaccel=hwaccel)
        self.corrupt_frames = 0
        self._started = False
        self._converted: tuple[av.VideoFrame, NDArray[Any]] | None = None
        try:
            self._decoder = FrameDecoder(self._source, stream=stream, threads=threads, on_packet=on_packet)
        except BaseException:
            self._source.close()
            raise
        try:
            self._items = self._decoder.frames()
            first = next(self._items, None)
            if first is None:
                raise InputError(f"no frame of {self._source.name!r} could be decoded")
            self._first = first
            self._describe(first)
        except BaseException:
            self.close()
            raise

    def _describe(self, first: Timed) -> None:
        decoder, frame = self._decoder, first.frame
        self._size = frame.width, frame.height
        self._crop = decoder.crop
        top, bottom, left, right = self._crop
        width, height = frame.width - left - right, frame.height - top - bottom
        if width < 1 or height < 1:
            raise InputError(
                f"{self._source.name!r} asks for cropping {self._crop}, "
                f"which leaves nothing of {frame.width}x{frame.height}"
            )
        color = self._color_of(frame)
        check_matrix(color)
        data = side_data(frame)
        matrix = matrix_from_bytes(data.get("DISPLAYMATRIX", b""))
        rotation = frame.rotation if decoder.grid is None else decoder.grid.rotation
        turn = turn_of(matrix) if matrix else turn_from_rotation(rotation)
        if turn is None:
            decoder.say("the display matrix is no quarter turn; frames are left as stored")
            turn, applied = IDENTITY, False
        else:
            applied = self._rotate
        self._turn = turn if applied else IDENTITY
        ratio = as_fraction(decoder.stream.sample_aspect_ratio) or Fraction(1)
        if swaps_sides(self._turn):
            width, height, ratio = height, width, 1 / ratio
        depth = bit_depth_of(frame.format)
        self._rgb: RgbReader | None = None
        degrees = clockwise_degrees(turn)
        average = as_fraction(decoder.stream.average_rate) or as_fraction(decoder.stream.guessed_rate)
        length = self._length()
        count = self._source.images[1] if self._source.images else decoder.stream.frames
        if not count and length and average:
            count = round(length * average)
        self._first_traits = self._traits(frame, color)
        self.source_info = VideoInfo(
            width=width,
            height=height,
            time_base=decoder.time_base,
            color=color,
            bit_depth=depth,
            pixel_format=frame.format.name,
            codec=decoder.context.name,
            container=decoder.container.format.name,
            average_rate=average,
            sample_aspect_ratio=ratio,
            rotation=0 if applied else degrees,
            source_rotation=degrees,
            display_matrix=None if applied or turn == IDENTITY else matrix,
            start_pts=first.pts,
            start_time=self._timeline_zero(first),
            duration=length,
            frames=count or None,
            stream=decoder.stream.index,
            stream_number=decoder.number,
            stream_count=decoder.stream_count,
            interlaced=frame.interlaced_frame,
            mastering_display=MasteringDisplay.from_side_data(data.get("MASTERING_DISPLAY_METADATA", b"")),
            content_light=ContentLight.from_side_data(data.get("CONTENT_LIGHT_LEVEL", b"")),
            metadata=dict(decoder.container.metadata),
        )
        if color.guessed:
            decoder.say(f"colours are not fully signalled; guessed {color.matrix}, {color.range} range")
        self._prepare(self.source_info)

    def _prepare(self, source: VideoInfo) -> None:
        """Size and rate that were asked for, and `info` with them."""
        self._geometry: Geometry | None = None
        self._grid: FrameGrid | None = None
        self.info = source
        if self._asked_size is not None:
            made = Geometry.of(self._asked_size, self._crop_to, source.width, source.height, source.sample_aspect_ratio)
            width, height = made.size
            self._geometry = made
            self.info = replace(self.info, width=width, height=height, sample_aspect_ratio=Fraction(1))
            cut = ", cut at the centre" if made.size != made.scaled else ""
            larger = "; the source is smaller" if made.scaled[0] * made.scaled[1] > source.width * source.height else ""
            self._decoder.say(f"frames are resized to {width}x{height} (Lanczos){cut}{larger}")
        if self._fps is not None:
            self._grid = grid = FrameGrid(source.start_pts * source.time_base, self._fps)
            frames = round(source.duration * grid.rate) if source.duration else None
            self.info = replace(
                self.info,
                time_base=grid.time_base,
                average_rate=grid.rate,
                start_pts=grid.start_pts,
                frames=frames or source.frames,
            )
            self._decoder.say(
                f"frames are those nearest to {grid.rate} moments a second; others are dropped, or repeated"
            )

    def _length(self) -> Fraction | None:
        stream = self._decoder.stream
        if stream.duration:
            return Fraction(stream.duration * self._decoder.time_base)
        if not self._decoder.container.duration:
            return None
        # Matroska gives only the length of the whole file, but its writers note each track's in a tag.
        whole = Fraction(self._decoder.container.duration, 1_000_000)
        return min(whole, _tagged_length(stream.metadata) or whole)

    def _timeline_zero(self, first: Timed) -> Fraction:
        starts = [first.pts * self._decoder.time_base]
        for stream in self._decoder.container.streams:
            base = as_fraction(stream.time_base)
            picture = bool(stream.disposition & av.stream.Disposition.attached_pic)
            if stream.type == "audio" and stream.start_time is not None and base and not picture:
                starts.append(stream.start_time * base)
        return min(starts)

    def _color_of(self, frame: av.VideoFrame) -> Color:
        """Colour of a frame by its own tags, then by the stream's."""
        context = self._decoder.context

        def tag(own: int, whole: int) -> int:
            return own if own != UNSPECIFIED else whole

        return Color.resolve(
            tag(frame.colorspace, context.colorspace),
            frame.color_range or context.color_range,
            tag(frame.color_primaries, context.color_primaries),
            tag(frame.color_trc, context.color_trc),
            width=frame.width,
            height=frame.height,
            is_rgb=is_rgb(frame.format),
            is_full=is_gray(frame.format) or frame.format.name.startswith("yuvj"),
        )

    def _traits(self, frame: av.VideoFrame, color: Color) -> dict[str, tuple[str, str]]:
        """What a file has once for all frames, and what becomes of others: by name, (value, what is done)."""
        ratio = as_fraction(self._decoder.context.sample_aspect_ratio)
        return {
            "colour": (str(color), "each frame is read by its own, the first frame's is reported"),
            "pixel aspect ratio": (str(ratio or "unspecified"), "the first frame's is reported"),
            "bit depth": (str(bit_depth_of(frame.format)), "all frames are read at the first one's"),
        }

    def _tell_changes(self, traits: dict[str, tuple[str, str]], pts: int) -> None:
        for name, (value, way) in traits.items():
            first = self._first_traits.get(name, (value,))[0]
            if value != first:
                del self._first_traits[name]  # said once
                self._decoder.say(f"{name} changes from {first} to {value} at pts {pts}: {way}")

    @property
    def notices(self) -> list[str]:
        """What a person should be told, each once."""
        return self._decoder.notices

    @property
    def decode_errors(self) -> int:
        """Packets that FFmpeg could not decode, so far."""
        return self._decoder.errors

    def stream_bytes(self, first: int, last: int) -> int | None:
        """Bytes of the packets that hold the frames read so far with time stamps from `first` to `last`; None for
        images."""
        ticks = self.info.time_base / self.source_info.time_base
        bounds = math.floor(first * ticks), math.ceil(last * ticks)
        return None if self._source.images else self._decoder.stream_bytes(*bounds)

    @property
    def container(self) -> av.container.InputContainer:
        """The open PyAV container: chapters, metadata, streams that are not video. Do not read packets from it."""
        return self._decoder.container

    @property
    def expected_frames(self) -> int | None:
        """Estimate of the number of frames that iteration will give, for progress; None where unknown."""
        count = self.info.frames
        if count is not None and (self._start is not None or self._end is not None) and self.info.duration:
            offset = self.info.start_pts * self.info.time_base - self.info.start_time
            begin = max(offset, self._start or Fraction(0))
            finish = offset + self.info.duration
            finish = finish if self._end is None else min(finish, self._end)
            rate = self.info.average_rate or count / self.info.duration
            ends = [math.ceil((time - offset) * rate - _ROUNDING) for time in (begin, finish)]
            count = max(0, ends[1] - ends[0])
        return count if self._limit is None else min(self._limit, count or self._limit)

    def __iter__(self) -> Iterator[Frame]:
        if self._started:
            raise ValueError("a VideoReader can be iterated once; open another")
        self._started = True
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        """Convert, holding one frame back for its duration, and stop at the trims."""
        first_pts, last_pts = self._bounds()
        items = self._positioned(first_pts)
        held: Frame | None = None
        count = 0
        items = deinterlaced(items) if self._deinterlace else items
        for item in items if self._grid is None else self._grid.frames(items, self.source_info.time_base):
            end = None
            if item.pts >= first_pts and (item.pts >= last_pts or count == self._limit):
                end = int(min(item.pts, last_pts)) * self.info.time_base
            if held is not None:
                if end is not None:
                    self.stopped = held.pts, end
                yield replace(held, duration=item.pts - held.pts)
                held = None
            if item.pts < first_pts:
                continue
            if end is not None:
                self._decoder.read_on(end)
                return
            held = self._finish(item)
            count += 1
        if held is not None:
            yield held

    def _bounds(self) -> tuple[float | int, float | int]:
        return ticks_of((self._start, self._end), self.info.start_time, self.info.time_base)

    @property
    def time_range(self) -> tuple[Fraction | None, Fraction | None]:
        """(first, end) in seconds of what is read; see the class."""
        begin = None if self._start is None else self.info.start_time + self._start
        end = self._bounds()[1]
        return begin, int(end) * self.info.time_base if self._end is not None else None

    def _positioned(self, first_pts: float | int) -> Iterable[Timed]:
        begin = self._first.pts
        if isinstance(first_pts, int) and self._source.seekable:
            stored = math.floor(first_pts * self.info.time_base / self.source_info.time_base)
            if (stored - begin) * self.source_info.time_base > _SEEK_FROM:
                return self._decoder.seek(stored, begin)
        return chain([self._first], self._items)

    def _finish(self, item: Timed) -> Frame:
        frame = item.frame
        if (frame.width, frame.height) != self._size:
            raise InputError(
                f"{self._source.name!r} changes from {self._size[0]}x{self._size[1]} "
                f"to {frame.width}x{frame.height} at pts {item.pts}; "
                "a file has one size: split the source there"
            )
        if self._converted is None or self._converted[0] is not frame:  # a frame may be shown again
            self._converted = frame, self._picture(item)
        pixels = self._converted[1]
        stored = self._stored_luma and self._geometry is None
        luma = stored_luma(frame, self.info.bit_depth) if stored else None
        if item.deinterlaced:
            self._decoder.say("frames flagged interlaced were deinterlaced with bwdif")
        if frame.is_corrupt:
            self.corrupt_frames += 1
        if frame.key_frame:
            for what in _UNKEPT.keys() & side_data(frame).keys():
                self._decoder.say(f"{_UNKEPT[what]} inside the video stream are not kept")
        return Frame(
            pixels=pixels,
            pts=item.pts,
            duration=item.duration,
            bit_depth=self.info.bit_depth,
            keyframe=frame.key_frame,
            corrupt=frame.is_corrupt,
            deinterlaced=item.deinterlaced,
            luma=None if luma is None else self._placed(luma),
        )

    def _picture(self, item: Timed) -> NDArray[Any]:
        """The pixels of a frame as they are handed out."""
        frame = item.frame
        if self._rgb is None:
            self._rgb = RgbReader(self.info.bit_depth, self._background)
        color = self._color_of(frame)
        self._tell_changes(self._traits(frame, color), item.pts)
        pixels = self._rgb(frame, color)
        if self._rgb.flattened:
            self._decoder.say(f"transparent pixels were flattened on {self._background}")
        pixels = self._placed(pixels)
        return pixels if self._geometry is None else resized(pixels, self._geometry, self.info.bit_depth)

    def _placed(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Cropped as the container asks, and turned."""
        if any(self._crop):
            top, bottom, left, right = self._crop
            picture = np.ascontiguousarray(picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right])
        return picture if self._turn == IDENTITY else apply_turn(picture, self._turn)

    def close(self) -> None:
        """Release decoder and files; a file object that was passed in stays open."""
        self._items = iter(())
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def probe(
    source: VideoSource, *, stream: int | None = None, rotate: bool = True, rate: Fraction | None = None
) -> VideoInfo:
    """What a video is, from its headers and its first frame. Errors as `VideoReader`."""
    with VideoReader(source, stream=stream, rotate=rotate, rate=rate) as reader:
        return reader.info


def _tagged_length(tags: Mapping[str, str]) -> Fraction | None:
    """Seconds of Matroska's tag DURATION, `00:01:02.500000000`."""
    text = next((value for name, value in tags.items() if name.upper().startswith("DURATION")), "")
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3]) if found else None


Trim = tuple[Fraction | None, Fraction | None]
"""(first, end) in seconds from the beginning of a timeline; None for no limit."""


def trim_of(start: Seconds | None, end: Seconds | None, duration: Seconds | None) -> Trim:
    """The trim that a person asks for; `duration` stands for `end` = start + duration. Raises UsageError for what is
    no time, and for an empty trim."""
    if end is not None and duration is not None:
        raise UsageError("end and duration exclude each other")
    begin = None if start is None else _seconds(start, "start")
    finish = None if end is None else _seconds(end, "end")
    if duration is not None:
        finish = (begin or Fraction(0)) + _seconds(duration, "duration")
    if finish is not None and finish <= (begin or Fraction(0)):
        raise UsageError(f"the trim is empty: it ends at {float(finish):g} s and begins at {float(begin or 0):g} s")
    return begin, finish


def ticks_of(trim: Trim, zero: Fraction, time_base: Fraction) -> tuple[float | int, float | int]:
    """The time stamps [first, end) of a trim, infinite where there is no limit. zero: seconds at which the timeline
    begins."""
    first, end = (None if time is None else math.ceil((zero + time - _TOLERANCE) / time_base) for time in trim)
    return -math.inf if first is None else first, math.inf if end is None else end


def _seconds(value: Seconds, name: str) -> Fraction:
    try:
        seconds = Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{name} = {value!r} is not a time in seconds") from error
    if seconds < 0:
        raise UsageError(f"{name} = {value} is negative; times count from the beginning of the file")
    if seconds > MOST_SECONDS:
        raise UsageError(f"{name} = {value} is too long for FFmpeg's clocks; at most {MOST_SECONDS} seconds")
    return seconds


class ReaderAhead:
    """A `VideoReader` of `source`, settings and errors as there; to be closed (`contextlib.closing`)."""

    def __init__(self, source: VideoSource, **settings: Any) -> None:
        self.reader = in_thread(lambda: VideoReader(source, **settings), name="video-opener")
        self._frames: ReadAhead[Frame] | None = None

    def frames(self, *, most_bytes: int, most_frames: int, least_frames: int = 2) -> ReadAhead[Frame]:
        """Begin to read, once. Of the decoded frames at most `most_frames` wait, and no more than `most_bytes` hold
        unless these are fewer than `least_frames`."""
        info = self.reader.info
        frame_bytes = info.width * info.height * (3 if info.bit_depth == 8 else 6)
        limit = min(most_frames, max(least_frames, most_bytes // frame_bytes))
        self._frames = ReadAhead(self.reader, limit=limit, name="video-reader")
        return self._frames

    def close(self) -> None:
        """Stop reading, and close the reader unless its thread is still inside FFmpeg."""
        if self._frames is not None:
            self._frames.close()
        if self._frames is None or not self._frames.stuck:
            self.reader.close()
