"""Films with sound and the rest, made with PyAV alone, and what PyAV finds in a file: packets, tags, attachments."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition

VIDEO_BASE = Fraction(1, 12800)
CHAPTERS = [
    {"id": 1, "start": 0, "end": 900, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
    {"id": 2, "start": 900, "end": 2000, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
]
SRT = "1\n00:00:00,200 --> 00:00:00,900\nHello\n\n2\n00:00:01,000 --> 00:00:01,500\nBye\n"
ASS = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n\n"
    "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    "Dialogue: 0,0:00:00.20,0:00:00.90,Default,,0,0,0,,Hello {\\i1}there\n"
    "Dialogue: 0,0:00:01.00,0:00:01.50,Default,,0,0,0,,Bye\n"
)
VTT = "WEBVTT\n\nfirst\n00:00:00.200 --> 00:00:00.900 align:start\nHello\n\n00:00:01.000 --> 00:00:01.500\nBye\n"
TEXTS = {"subrip": ("srt", SRT), "ass": ("ass", ASS), "webvtt": ("webvtt", VTT)}
FONT = b"\x00\x01\x00\x00" + bytes(range(256)) * 40


@dataclass
class Track:
    """A sound track to make. start: of its first sample, in samples; seconds: its length."""

    codec: str = "aac"
    rate: int = 48000
    layout: str = "stereo"
    start: int = 0
    seconds: float = 2.0
    metadata: dict[str, str] = field(default_factory=dict)
    disposition: Disposition | None = None
    bit_rate: int = 0


def film(
    target: Any,
    *tracks: Track,
    container: str | None = None,
    frames: int = 50,
    video_pts: Sequence[int] | None = None,
    subtitle: str | None = None,
    chapters: bool = False,
    cover: bytes = b"",
    attachments: Sequence[tuple[str, str, bytes]] = (),
    metadata: dict[str, str] | None = None,
    video_metadata: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    gop: int = 12,
) -> None:
    """Write 48x32 video at 25 frames a second (or at `video_pts`, ticks of 1/12800 s) with everything named."""
    output: Any = av.open(target, "w", format=container, container_options=container_options or {})
    options = {"preset": "ultrafast", "g": str(gop), "bf": "2"}
    video = output.add_stream("libx264", rate=25, time_base=VIDEO_BASE, options=options)
    video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
    video.metadata.update(video_metadata or {})
    sounds = []
    for track in tracks:
        sound = output.add_stream(track.codec, rate=track.rate, layout=track.layout, bit_rate=track.bit_rate)
        sound.metadata.update(track.metadata)
        if track.disposition is not None:
            sound.disposition = track.disposition
        sounds.append(sound)
    text = None
    if subtitle == "mov_text":
        text = output.add_mux_stream("mov_text", time_base=Fraction(1, 1000))
    elif subtitle:
        kind, content = TEXTS[subtitle]
        source = av.open(io.BytesIO(content.encode()), format=kind)
        text = output.add_stream_from_template(source.streams[0])
    if text is not None:
        text.metadata["language"] = "fra"
        text.disposition = Disposition.forced
    picture = None
    if cover:
        picture = output.add_mux_stream("mjpeg", width=32, height=32)
        picture.disposition = Disposition.attached_pic
    for name, mime, data in attachments:
        output.add_attachment(name, mime, data)
    output.metadata.update(metadata or {})
    if chapters:
        output.set_chapters(CHAPTERS)
    if picture is not None:
        packet = av.Packet(cover)
        packet.pts = packet.dts = 0
        packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 90000), True, picture
        output.mux(packet)
    packets: list[Any] = []
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(np.full((48, 48), 16 + number * 4 % 200, np.uint8), "yuv420p")
        frame.pts, frame.time_base = (number * 512 if video_pts is None else video_pts[number]), VIDEO_BASE
        packets += video.encode(frame)
    packets += video.encode(None)
    for track, sound in zip(tracks, sounds, strict=True):
        packets += _sound(track, sound)
    if text is not None:
        packets += _texts(text, subtitle, None if subtitle == "mov_text" else source)
    for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):  # as a live muxer would
        output.mux(packet)
    output.close()


def _sound(track: Track, stream: Any) -> list[Any]:
    context = stream.codec_context
    context.open()
    size = context.frame_size or 1024
    total = round(track.seconds * track.rate)
    convert = av.AudioResampler(context.format, context.layout, track.rate)
    packets = []
    for start in range(0, total, size):
        wave = np.sin((np.arange(start, min(start + size, total))) * 0.05) * 8000
        samples = np.repeat(wave.astype(np.int16)[:, None], context.layout.nb_channels, 1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "s16", context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = track.rate, track.start + start, Fraction(1, track.rate)
        for piece in convert.resample(frame):
            piece.pts, piece.time_base = track.start + start, Fraction(1, track.rate)
            packets += stream.encode(piece)
    return packets + stream.encode(None)


def _texts(stream: Any, codec: str | None, source: Any) -> list[Any]:
    if codec != "mov_text":
        packets = [packet for packet in source.demux() if packet.size]
        for packet in packets:
            packet.stream = stream
        return packets
    made = []
    for pts, duration, text in ((200, 700, b"Hello"), (1000, 500, b"Bye")):
        packet: Any = av.Packet(len(text).to_bytes(2, "big") + text)
        packet.pts = packet.dts = pts
        packet.duration, packet.time_base = duration, Fraction(1, 1000)
        packet.is_keyframe, packet.stream = True, stream
        made.append(packet)
    return made


def jpeg() -> bytes:
    """A 32x32 picture."""
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.full((48, 32), 99, np.uint8), "yuvj420p")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


class Shown(NamedTuple):
    """One packet as PyAV reads it. time, duration: seconds. skip: samples to leave out at its start and end."""

    time: Fraction
    duration: Fraction
    data: bytes
    keyframe: bool
    skip: tuple[int, int]


@dataclass
class Found:
    """One stream of a file. codec: None where FFmpeg has no decoder."""

    codec: str | None
    packets: list[Shown]
    time_base: Fraction
    metadata: dict[str, str]
    disposition: Disposition
    extradata: bytes
    duration: int | None


def streams(source: Any, kind: str) -> list[Found]:
    """The streams of one kind, with all their packets; cover art is no video."""
    container = av.open(io.BytesIO(source) if isinstance(source, bytes | bytearray) else source)
    found: dict[int, Found] = {}
    for stream in container.streams:
        if stream.type == kind and not stream.disposition & Disposition.attached_pic:
            context = stream.codec_context
            found[stream.index] = Found(
                codec=context.codec.canonical_name if context else getattr(stream, "name", None),
                packets=[],
                time_base=stream.time_base,
                metadata=dict(stream.metadata),
                disposition=stream.disposition,
                extradata=(context.extradata or b"") if context else b"",
                duration=stream.duration,
            )
    for packet in container.demux():
        if packet.stream_index in found and packet.size:
            skip = bytes(packet.get_sidedata("skip_samples")) if packet.has_sidedata("skip_samples") else bytes(10)
            found[packet.stream_index].packets.append(
                Shown(
                    packet.pts * packet.time_base,
                    (packet.duration or 0) * packet.time_base,
                    bytes(packet),
                    packet.is_keyframe,
                    (int.from_bytes(skip[:4], "little"), int.from_bytes(skip[4:8], "little")),
                )
            )
    container.close()
    return list(found.values())


def times(source: Any) -> list[Fraction]:
    """When the frames of the first real video stream are shown, in seconds."""
    return sorted(packet.time for packet in streams(source, "video")[0].packets)
