"""What encode and decode preserve exactly, row by row, through files on both sides.

The model is reversible and latents are fp32, so whatever changes is the codec's fault. Sources and references are made
with PyAV and libavfilter alone.

| property                                            | rows           | comes back                                  |
|-----------------------------------------------------|----------------|---------------------------------------------|
| colour: BT.601 (2), 709, 2020, 240M; limited, full; | COLOURS        | RGB within 1 code of ffmpeg's at 8 bits,    |
|   8 and 10 bits; 4:2:0, 4:2:2, 4:4:4; grey; RGB     |                |   2 at 10 (RGB: exact); tags and bit depth  |
| HDR: PQ, HLG                                        | COLOURS        | transfer and primaries as tagged            |
| times and durations of all frames, frame rate       | SHAPES         | exactly, in ticks                           |
| 23.976, 30, 59.94 fps; variable rate; late start    | SHAPES         | exactly                                     |
| 1, 2, 3 frames; odd sizes; sample aspect ratio      | SHAPES         | exactly                                     |
| rotation by 0, 90, 180, 270 degrees                 | SHAPES, turned | upright without tag, or both as stored      |
| two sound tracks, subtitles, chapters               | CONTAINERS     | packets byte for byte, their times and tags |
| offset between sound and picture                    | OFFSETS        | to the tick of the container's time bases   |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest
from numpy.typing import NDArray

from cvcodec.codec import DecodeOptions, EncodeOptions, ReaderOptions, WriterOptions, decode_file, encode_file
from tests.codec.clips import read_rgb
from tests.codec.movies import CHAPTERS, Track, film, streams, times
from tests.codec.patch_model import PatchModel

MATRICES = {"smpte170m": 6, "bt470bg": 5, "bt709": 1, "bt2020nc": 9, "smpte240m": 7}
"""Matrices by their numbers in H.273."""
IN_FFMPEG = {6: "bt601", 5: "bt601", 1: "bt709", 9: "bt2020", 7: "smpte240m"}
LIMITED, FULL = 1, 2
PQ, HLG, BT2020_PRIMARIES = 16, 18, 9
FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@dataclass(frozen=True)
class Source:
    """A video to make. pts in ticks of `time_base`."""

    pixel_format: str = "yuv420p"
    size: tuple[int, int] = (48, 32)
    frames: int = 9
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None
    pts: tuple[int, ...] | None = None
    aspect: Fraction | None = None
    rotation: int = 0
    matrix: int = 1
    range: int = LIMITED
    transfer: int | None = None
    primaries: int | None = None

    @property
    def bits(self) -> int:
        return 10 if "10" in self.pixel_format else 8

    def write(self, path: Path, codec: str) -> None:
        base = self.time_base or 1 / self.rate
        width, height = self.size
        options = {"bf": "0"} if codec == "libx264" else {}  # MP4 then stores durations, not steps between packets
        with av.open(str(path), "w") as output:
            stream: Any = output.add_stream(codec, rate=self.rate, time_base=base, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, self.pixel_format
            context = stream.codec_context
            if not self.pixel_format.startswith(("gbr", "bgr", "gray")):
                context.colorspace, context.color_range = self.matrix, self.range
            if self.transfer is not None:
                context.color_trc, context.color_primaries = self.transfer, self.primaries
            if self.aspect is not None:
                context.sample_aspect_ratio = self.aspect
            if self.rotation:
                stream.set_display_rotation(self.rotation)
            for number in range(self.frames):
                frame = self.picture(number)
                frame.pts, frame.time_base = number if self.pts is None else self.pts[number], base
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))

    def picture(self, number: int) -> av.VideoFrame:
        """Slanted ramps of every plane, inside the nominal range, that move."""
        frame = av.VideoFrame(*self.size, self.pixel_format)
        frame.color_range = self.range
        dtype = np.uint8 if self.bits == 8 else np.uint16
        step = 4 if self.pixel_format == "bgr0" else 1
        samples = [np.frombuffer(p, dtype).reshape(p.height, -1)[:, : step * p.width] for p in frame.planes]
        for index, view in enumerate([samples[0][:, n::step] for n in range(3)] if step > 1 else samples):
            y, x = np.mgrid[0 : view.shape[0], 0 : view.shape[1]]
            view[...] = ((x * (3 + index) + y * (5 - index) + number * 11) % 180 + 30) << (self.bits - 8)
        return frame


def by_ffmpeg(path: Path, source: Source) -> list[NDArray[Any]]:
    """The frames of a video as ffmpeg's scale filter turns them into RGB. Where nothing is said, chroma of H.264 lies
    left of the middle (H.264, E.2.1); FFV1 says nothing at all."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        siting = "in_chroma_loc=left:" if container.streams.video[0].codec_context.name == "h264" else ""
    graph = av.filter.Graph()
    width, height = source.size
    full = source.range == FULL or frames[0].format.name.startswith(("gray", "gbr", "bgr"))
    matrix = "" if frames[0].format.name.startswith(("gbr", "bgr")) else f"in_color_matrix={IN_FFMPEG[source.matrix]}:"
    graph.link_nodes(
        graph.add("buffer", f"video_size={width}x{height}:pix_fmt={frames[0].format.name}:time_base=1/1000"),
        graph.add("scale", f"flags={FLAGS}:{siting}{matrix}in_range={'pc' if full else 'tv'}:out_range=pc"),
        graph.add("format", "pix_fmts=" + ("gbrp" if source.bits == 8 else "gbrp10le")),
        graph.add("buffersink"),
    ).configure()
    pictures = []
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = number, Fraction(1, 1000)
        frame.colorspace, frame.color_range = (source.matrix, FULL if full else LIMITED)
        graph.push(frame)
        made: Any = graph.vpull()
        dtype = np.uint8 if source.bits == 8 else np.uint16
        size = np.dtype(dtype).itemsize
        planes = [np.frombuffer(p, dtype).reshape(p.height, p.line_size // size)[:, : p.width] for p in made.planes]
        pictures.append(np.stack([planes[2], planes[0], planes[1]], -1))
    return pictures


def through(source: Path, target: Path, *, reader: ReaderOptions | None = None, **writer: Any) -> None:
    """Encode and decode."""
    coded = target.with_suffix(".cvl")
    options = EncodeOptions(latents="fp32", device="cpu", precision="fp32", reader=reader or ReaderOptions())
    encode_file(source, coded, model=PatchModel(), options=options, overwrite=True)
    decode_file(
        coded,
        target,
        model=PatchModel(),
        options=DecodeOptions(device="cpu", precision="fp32", writer=WriterOptions(**writer)),
    )


# ----------------------------------------------------------------------------------------------------- colour

COLOURS: dict[str, Source] = {
    f"{matrix} {'full' if full == FULL else 'limited'} {bits} bits {chroma}": Source(
        f"yuv{chroma}p{'10le' if bits == 10 else ''}", frames=2, matrix=number, range=full
    )
    for matrix, number in MATRICES.items()
    for full in (LIMITED, FULL)
    for bits in (8, 10)
    for chroma in ("420", "422", "444")
    if matrix != "bt470bg" or (full, bits) == (LIMITED, 8)  # the numbers of smpte170m under another tag
} | {
    "grey 8 bits": Source("gray", frames=2),
    "grey 10 bits": Source("gray10le", frames=2),
    "RGB 8 bits": Source("bgr0", frames=2, matrix=0),
    "RGB 10 bits": Source("gbrp10le", frames=2, matrix=0),
    "HDR10 (PQ)": Source("yuv420p10le", frames=2, matrix=9, transfer=PQ, primaries=BT2020_PRIMARIES),
    "HLG": Source("yuv422p10le", frames=2, matrix=9, transfer=HLG, primaries=BT2020_PRIMARIES),
}


@pytest.mark.parametrize("row", COLOURS)
def test_colours_are_ffmpegs_and_keep_their_tags(row: str, tmp_path: Path) -> None:
    source, path = COLOURS[row], tmp_path / "in.mkv"
    source.write(path, "ffv1")
    through(path, tmp_path / "rgb.mkv", codec="ffv1")
    wanted = by_ffmpeg(path, source)
    shown = read_rgb(str(tmp_path / "rgb.mkv"))
    limit = 0 if source.pixel_format.startswith(("gbr", "bgr")) else 1 if source.bits == 8 else 2
    for mine, theirs in zip(shown, wanted, strict=True):
        assert mine.pixels.dtype == theirs.dtype
        assert np.abs(mine.pixels.astype(int) - theirs.astype(int)).max() <= limit
    if source.pixel_format.startswith(("gbr", "bgr", "gray")):
        return  # RGB has no matrix, and YUV outputs of it get the one of the size rule
    chroma = source.pixel_format[3:6]
    decode_file(
        tmp_path / "rgb.cvl",
        tmp_path / "yuv.mp4",
        model=PatchModel(),
        options=DecodeOptions(device="cpu", writer=WriterOptions(chroma=chroma, preset="ultrafast")),
    )
    with av.open(str(tmp_path / "yuv.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert int(context.colorspace) == source.matrix
        assert int(context.color_range) == source.range
        assert context.pix_fmt is not None
        assert chroma in context.pix_fmt
        assert ("10" in context.pix_fmt) == (source.bits == 10)
        if source.transfer is not None:
            assert (int(context.color_trc), int(context.color_primaries)) == (source.transfer, source.primaries)


# ----------------------------------------------------------------------------------------------------- time, shape

SHAPES: dict[str, Source] = {
    "24000/1001 fps": Source(rate=Fraction(24000, 1001)),
    "30 fps": Source(rate=Fraction(30)),
    "60000/1001 fps": Source(rate=Fraction(60000, 1001)),
    "variable rate": Source(pts=(0, 3003, 3004, 9000, 12345, 20000, 20001, 90000, 99999), time_base=Fraction(1, 90000)),
    "late start": Source(pts=tuple(12345 + 512 * n for n in range(9)), time_base=Fraction(1, 12800)),
    "1 frame": Source(frames=1),
    "2 frames": Source(frames=2),
    "3 frames": Source(frames=3),
    "aspect 16:11": Source(aspect=Fraction(16, 11)),
    "17x11": Source("yuv444p", (17, 11)),
    "33x47": Source("yuv444p", (33, 47)),
    "2x2": Source("yuv444p", (2, 2)),
    "turned by 90": Source(rotation=90),
    "turned by 180": Source(rotation=180),
    "turned by 270": Source(rotation=270),
    "turned by 90, aspect 4:3": Source(rotation=90, aspect=Fraction(4, 3)),
}


@dataclass(frozen=True)
class Facts:
    """What PyAV says of a video stream. times, durations: seconds, in the order of presentation."""

    size: tuple[int, int]
    aspect: Fraction
    rotation: int
    rate: Fraction
    times: list[Fraction]
    durations: list[Fraction]


def facts(path: Path) -> Facts:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = sorted((p for p in container.demux(stream) if p.size), key=lambda packet: packet.pts or 0)
        base = stream.time_base
        container.seek(0)
        first = next(container.decode(stream))
        assert stream.average_rate is not None
        assert base is not None
        return Facts(
            size=(first.width, first.height),
            aspect=stream.sample_aspect_ratio or Fraction(1),
            rotation=int(first.rotation) % 360,
            rate=stream.average_rate,
            times=[(packet.pts or 0) * base for packet in packets],
            durations=[(packet.duration or 0) * base for packet in packets],
        )


@pytest.mark.parametrize("row", SHAPES)
def test_times_and_shapes_are_the_sources(row: str, tmp_path: Path) -> None:
    source, path, target = SHAPES[row], tmp_path / "in.mp4", tmp_path / "out.mp4"
    source.write(path, "libx264")
    through(path, target, codec="ffv1")
    before, after = facts(path), facts(target)
    assert len(before.times) == source.frames
    assert (after.times, after.durations, after.rate) == (before.times, before.durations, before.rate)
    turns = source.rotation // 90
    assert before.rotation == source.rotation
    assert after.rotation == 0
    assert after.size == (before.size[::-1] if turns % 2 else before.size)
    assert after.aspect == (1 / before.aspect if turns % 2 else before.aspect)
    for shown, wanted in zip(read_rgb(str(target)), by_ffmpeg(path, source), strict=True):
        upright = np.rot90(wanted, turns)
        assert np.abs(shown.pixels.astype(int) - upright.astype(int)).max() <= 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotation_that_is_not_applied_is_kept_with_its_tag(degrees: int, tmp_path: Path) -> None:
    source, path, target = Source(rotation=degrees), tmp_path / "in.mp4", tmp_path / "out.mp4"
    source.write(path, "libx264")
    through(path, target, reader=ReaderOptions(rotate=False), codec="ffv1")
    assert facts(target) == facts(path)
    for shown, wanted in zip(read_rgb(str(target)), by_ffmpeg(path, source), strict=True):
        assert np.abs(shown.pixels.astype(int) - wanted.astype(int)).max() <= 1


# ----------------------------------------------------------------------------------------------------- sound, the rest

CONTAINERS: dict[str, Callable[[Path], None]] = {
    "mp4": lambda path: _film(path, "mov_text", container_options={"movie_timescale": "5644800"}),
    "mkv": lambda path: _film(path, "ass"),
}


def _film(path: Path, subtitle: str, **more: Any) -> None:
    film(
        str(path),
        Track("aac", 44100, metadata={"language": "eng"}),
        Track("ac3", 48000, metadata={"language": "deu"}),
        subtitle=subtitle,
        chapters=True,
        metadata={"title": "A film"},
        **more,
    )


@pytest.mark.parametrize("container", CONTAINERS)
def test_sound_subtitles_chapters_and_tags_are_the_sources(container: str, tmp_path: Path) -> None:
    path, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    CONTAINERS[container](path)
    through(path, target, preset="ultrafast")
    for kind, count in (("audio", 2), ("subtitle", 1)):
        before, after = streams(str(path), kind), streams(str(target), kind)
        assert len(before) == len(after) == count
        for old, new in zip(before, after, strict=True):
            assert new.packets == old.packets  # bytes, times, durations, keyframes, priming and padding
            assert (new.codec, new.time_base) == (old.codec, old.time_base)
            assert new.extradata == old.extradata or kind == "subtitle"  # MP4 adds a measured bit rate to texts
            assert (new.disposition, new.metadata.get("language")) == (old.disposition, old.metadata.get("language"))
    assert times(str(target)) == times(str(path))
    with av.open(str(path)) as before_file, av.open(str(target)) as after_file:
        assert after_file.metadata.get("title") == before_file.metadata.get("title") == "A film"
        wanted = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in CHAPTERS]
        found = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in after_file.chapters()]
        assert found == wanted


OFFSETS = [(0, 0), (777, 0), (12345, 0), (0, 38477), (4096, 12801)]
"""Starts: of the sound in samples at 44100 Hz, of the picture in ticks of 1/12800 s."""


@pytest.mark.parametrize(("sound", "picture"), OFFSETS)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sound_and_picture_stay_as_far_apart_as_they_were(
    container: str, sound: int, picture: int, tmp_path: Path
) -> None:
    path, target = tmp_path / f"in.{container}", tmp_path / f"out.{container}"
    film(
        str(path),
        Track("aac", 44100, start=sound),
        frames=20,
        video_pts=[picture + 512 * number for number in range(20)],
        container_options={"movie_timescale": "5644800"} if container == "mp4" else {},
    )
    through(path, target, preset="ultrafast")

    def apart(file: Path) -> Fraction:
        return streams(str(file), "audio")[0].packets[0].time - times(str(file))[0]

    assert apart(target) == apart(path)
    assert streams(str(target), "audio")[0].packets == streams(str(path), "audio")[0].packets
    assert times(str(target)) == times(str(path))
