"""What a video file holds, counted from its packets: bytes, frames, seconds.

The bytes of a video are those that its pictures need, whoever encoded it and wherever the container keeps them: packets
without user data, and parameter sets once where no packet holds them. User data is what an encoder or a station adds
for others to read: the text in which x264 and x265 list their settings, captions, HDR10+.

Packets consist of units (NAL units, start-code units of MPEG, OBUs), with start codes (Annex B) or with lengths. What
is damaged is one unit that is needed; nothing is raised for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.error

from cvcodec.errors import InputError
from cvcodec.video.libav import as_fraction, reason
from cvcodec.video.source import InputFile, is_sequence, numbered, sequence_files
from cvcodec.video.timestamps import Timeline


class StreamBytes(NamedTuple):
    """One video stream and the rest of its file, container overhead left out."""

    video: int
    """Bytes of the video stream that its pictures need."""
    others: int
    """Bytes of the packets of all other streams."""
    frames: int | None
    """As the container says, or one for each packet."""
    duration: Fraction | None
    """Seconds: the stream's own where the container says so, or from the first packet to the end of the last. None
    where neither has times."""
    last: Fraction | None
    """When the last frame is shown, in seconds on the container's clock."""
    user_data: int = 0
    """Bytes of the video stream's packets beside `video`."""


def stream_bytes(path: str | os.PathLike[str], *, stream: int | None = None) -> StreamBytes:
    """Count the packets of a file. stream: number among the real video streams, None for the first.

    Still images are one packet, the whole file; a numbered sequence is all of its files. Damage ends the count, as it
    ends decoding. Raises InputError, and UsageError as `number_in`.
    """
    name = os.fspath(path)
    if is_sequence(name):
        first, count = sequence_files(name)
        size = sum(os.path.getsize(numbered(name, number)) for number in range(first, first + count))
        return StreamBytes(size, 0, count, None, None)
    video, others, frames = 0, 0, 0
    begin: int | None = None
    last = end = 0
    with InputFile(name) as source, source.open() as container:
        real = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        counted = real[stream or 0] if (stream or 0) < len(real) else None
        needed = _counter(counted)
        timeline = Timeline(-1 if counted is None else counted.index, lambda _: None)
        for packet in timeline.mended(packets(container, source.name)):
            if counted is None or packet.stream.index != counted.index:
                others += packet.size
                continue
            video += packet.size
            needed.add(bytes(packet))
            if packet.is_discard:  # outside the edit list of an MP4
                continue
            frames += 1
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                if begin is None:
                    begin = last = end = time
                begin, last, end = min(begin, time), max(last, time), max(end, time + (packet.duration or 0))
        if counted is None:
            return StreamBytes(0, others, None, None, None)
        base = as_fraction(counted.time_base) or Fraction(1, 1000)
        duration = None
        if counted.duration and not timeline.joints:
            duration = counted.duration * base
        elif begin is not None:
            # A last packet of unknown length is as long as the others.
            span = Fraction(end - begin) if end > last or frames < 2 else Fraction(last - begin, frames - 1) * frames
            duration = span * base or None
        return StreamBytes(
            video - needed.user_data + needed.headers,
            others,
            counted.frames or frames or None,
            duration,
            None if begin is None else last * base,
            needed.user_data,
        )


def _counter(stream: Any) -> PictureBytes:
    context = None if stream is None else stream.codec_context
    if context is None:  # no decoder for it, or no stream
        return PictureBytes("", b"")
    return PictureBytes(context.codec.canonical_name, context.extradata or b"")


def packets(container: Any, name: str) -> Iterator[Any]:
    """The packets of all streams in file order, up to damage that ends reading. Raises InputError."""
    demuxed = container.demux()
    while True:
        try:
            packet = next(demuxed, None)
        except av.error.FFmpegError:
            return
        except OSError as error:
            raise InputError(f"cannot read {name!r}: {reason(error)}") from error
        if packet is None:
            return
        if packet.size:  # PyAV ends each stream with an empty one
            yield packet


_USER_DATA = (4, 5)  # payload types of SEI: registered (ITU-T T.35), unregistered (ITU-T H.274, 8.1)
_H264_SEI, _HEVC_SEI = (6,), (39, 40)
_H264_SETS, _HEVC_SETS = (7, 8, 13, 15), (32, 33, 34)
_MPEG_USER_DATA = b"\xb2"
_MPEG4_HEADERS = tuple(bytes([code]) for code in (*range(0x30), 0xB0, 0xB5))  # sequence, object, layer
_AV1_SEQUENCE, _AV1_METADATA = 1, 5
_AV1_USER_DATA = (4, *range(6, 32))  # metadata types: ITU-T T.35, unregistered private


class Unit(NamedTuple):
    """One unit of a packet."""

    size: int
    """Bytes, with its start code or length."""
    user_data: int
    """Of these, bytes that are user data."""
    header: bool
    """A parameter set, a sequence header or the like."""


class PictureBytes:
    """Counts what the pictures of one stream need of its packets.

    codec: FFmpeg's name of the coding, such as `h264`. Of codings without units of these kinds everything is needed.
    extradata: as the container has it.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.user_data = 0
        """Bytes of user data in the packets so far."""
        self._repeated = False
        self._split, held = _syntax(codec, extradata)
        self._headers = sum(unit.size for unit in held if unit.header)

    def add(self, packet: bytes) -> None:
        """Count the user data of a packet, and note parameter sets in it."""
        for unit in self._split(packet):
            self.user_data += unit.user_data
            self._repeated |= unit.header

    @property
    def headers(self) -> int:
        """Bytes of the parameter sets, where only the extradata has them."""
        return 0 if self._repeated else self._headers


Splitter = Callable[[bytes], Iterator[Unit]]
Describe = Callable[[int, bytes], Unit]
"""From the bytes of a start code or length, and those behind it."""


def _syntax(codec: str, extradata: bytes) -> tuple[Splitter, list[Unit]]:
    """How the packets of a stream are split, and the units of its extradata."""
    # The same tests as FFmpeg's: records of MP4 begin with their version, start codes with zeros.
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        return _by_length(_h264_unit, (extradata[4] & 3) + 1), list(_avcc(extradata))
    if codec == "hevc" and len(extradata) > 22 and (extradata[0] or extradata[1] or extradata[2] > 1):
        return _by_length(_hevc_unit, (extradata[21] & 3) + 1), list(_hvcc(extradata))
    if codec in _DESCRIBED:
        split = _by_start_code(_DESCRIBED[codec])
        return split, list(split(extradata))
    if codec == "av1":
        return _obus, list(_obus(extradata[4:] if extradata[:1] == b"\x81" else extradata))
    return lambda data: iter((Unit(len(data), 0, header=False),)), []


# ---------------------------------------------------------------------------------------------------- splitting


def _by_start_code(describe: Describe) -> Splitter:
    """A splitter of packets whose units come behind start codes; zeros in front of these belong to them."""

    def split(data: bytes) -> Iterator[Unit]:
        begin = prefix = data.find(b"\0\0\1") + 3
        while 3 <= begin <= len(data):
            following = data.find(b"\0\0\1", begin)
            whole = data[begin : following if following >= 0 else len(data)]
            payload = whole[:1] + whole[1:].rstrip(b"\0") if following >= 0 else whole
            yield describe(prefix, payload)
            prefix = 3 + len(whole) - len(payload)
            begin = following + 3

    return split


def _by_length(describe: Describe, bytes_of_length: int) -> Splitter:
    """A splitter of packets whose units come behind their lengths."""

    def split(data: bytes) -> Iterator[Unit]:
        at = 0
        while at < len(data):
            begin = at + bytes_of_length
            end = begin + int.from_bytes(data[at:begin])
            if not begin < end <= len(data):  # damaged
                return
            yield describe(bytes_of_length, data[begin:end])
            at = end

    return split


def _avcc(record: bytes) -> Iterator[Unit]:
    """The parameter sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1)."""
    at = 5
    for mask in (31, 255):  # of the counts of SPS and PPS
        count = record[at] & mask if at < len(record) else 0
        at += 1
        for _ in range(count):
            size = int.from_bytes(record[at : at + 2])
            yield _h264_unit(4, record[at + 2 : at + 2 + size])
            at += 2 + size


def _hvcc(record: bytes) -> Iterator[Unit]:
    """The units of an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1)."""
    at = 23
    for _ in range(record[22] if len(record) > 22 else 0):
        count = int.from_bytes(record[at + 1 : at + 3])
        at += 3
        for _ in range(count):
            if at >= len(record):
                return
            size = int.from_bytes(record[at : at + 2])
            yield _hevc_unit(4, record[at + 2 : at + 2 + size])
            at += 2 + size


def _obus(data: bytes) -> Iterator[Unit]:
    """The OBUs of a temporal unit (AV1 specification, 5.3)."""
    at = 0
    while at < len(data):
        kind, begin = data[at] >> 3 & 15, at + 1 + (data[at] >> 2 & 1)
        end = len(data)
        if data[at] & 2:
            size, begin = _leb128(data, begin)
            end = begin + size
        if end > len(data):  # damaged
            return
        metadata = kind == _AV1_METADATA and _leb128(data, begin)[0] in _AV1_USER_DATA
        yield Unit(end - at, end - at if metadata else 0, header=kind == _AV1_SEQUENCE)
        at = end


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << 7 * shift
        at += 1
        if byte < 128:
            break
    return value, at


# ---------------------------------------------------------------------------------------------------- units


def _h264_unit(prefix: int, data: bytes) -> Unit:
    kind = data[0] & 31 if data else 0
    return _nal_unit(prefix, data, 1, sei=kind in _H264_SEI, header=kind in _H264_SETS)


def _hevc_unit(prefix: int, data: bytes) -> Unit:
    kind = data[0] >> 1 & 63 if data else 0
    return _nal_unit(prefix, data, 2, sei=kind in _HEVC_SEI, header=kind in _HEVC_SETS)


def _mpeg_unit(prefix: int, data: bytes) -> Unit:
    size = prefix + len(data)
    return Unit(size, size if data[:1] == _MPEG_USER_DATA else 0, header=data[:1] in _MPEG4_HEADERS)


def _nal_unit(prefix: int, data: bytes, head: int, *, sei: bool, header: bool) -> Unit:
    size = prefix + len(data)
    if not sei:
        return Unit(size, 0, header)
    kept = b"".join(message for kind, message in _messages(data[head:]) if kind not in _USER_DATA)
    # Of a unit with other messages in it these stay, with the bytes that keep start codes out and the stop bit.
    left = prefix + head + len(kept) + len(re.findall(rb"\0\0(?=[\0-\3])", kept)) + 1 if kept else 0
    return Unit(size, max(0, size - left), header=False)


def _messages(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """(payload type, all its bytes) of each message of an SEI unit (ITU-T H.264, 7.3.2.3.1)."""
    plain = payload.replace(b"\0\0\3", b"\0\0").rstrip(b"\0").removesuffix(b"\x80")
    at = 0
    while at < len(plain):
        begin, numbers = at, [0, 0]
        for index in range(2):
            while at < len(plain) and plain[at] == 255:
                numbers[index] += 255
                at += 1
            numbers[index] += plain[at] if at < len(plain) else 0
            at += 1
        at += numbers[1]
        yield numbers[0], plain[begin:at]


_DESCRIBED: dict[str, Describe] = {
    "h264": _h264_unit,
    "hevc": _hevc_unit,
    "mpeg1video": _mpeg_unit,
    "mpeg2video": _mpeg_unit,
    "mpeg4": _mpeg_unit,
}
"""Codings whose units have start codes, by FFmpeg's names."""
