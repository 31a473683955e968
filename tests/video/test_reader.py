"""Reading: counts, times, trims, orientation, interlacing, damage, pipes and images, against plain PyAV decoding."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.filter
import numpy as np
import pytest

from cvcodec.errors import InputError, UsageError
from cvcodec.video import Color, VideoReader, probe
from cvcodec.video.source import InputFile, cropping
from tests.video.boxes import box, with_sample_box
from tests.video.clips import read, same


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx265"), ("a.webm", "libvpx-vp9"), ("a.ts", "libx264"), ("a.avi", "mpeg4")],
)
def test_every_frame_comes_out_once_and_in_order(make: Any, tmp_path: Path, name: str, codec: str, count: int) -> None:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    make.encode(str(tmp_path / name), make.moving(64, 48, count), codec=codec, options=options)
    frames = read(tmp_path / name)
    assert len(frames) == count
    assert all(b.pts > a.pts for a, b in zip(frames, frames[1:], strict=False))
    assert all(a.duration == b.pts - a.pts for a, b in zip(frames, frames[1:], strict=False))


def test_variable_rates_and_late_starts_keep_their_exact_times(make: Any, tmp_path: Path) -> None:
    pts, base = [3003, 4004, 6006, 7007, 7008, 40000], Fraction(1, 30000)
    make.encode(
        str(tmp_path / "a.mp4"), make.moving(64, 48, 6), pts=pts, time_base=base,
        container_options={"video_track_timescale": "30000", "movie_timescale": "30000"},
    )  # fmt: skip
    with VideoReader(tmp_path / "a.mp4") as reader:
        frames = list(reader)
    assert (reader.info.time_base, reader.info.start_pts, reader.info.start_time) == (base, 3003, Fraction(3003, 30000))
    assert [f.pts for f in frames] == pts
    assert [f.duration for f in frames[:-1]] == [b - a for a, b in zip(pts, pts[1:], strict=False)]


def test_the_stream_is_described(make: Any, tmp_path: Path) -> None:
    def tag(stream: Any, container: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.codec_context.colorspace, stream.codec_context.color_range = 9, 1
        stream.codec_context.color_primaries, stream.codec_context.color_trc = 9, 16

    make.encode(
        str(tmp_path / "a.mp4"), make.moving(64, 48, 3, "yuv420p10le"), codec="libx265", setup=tag,
        rate=Fraction(24000, 1001), time_base=Fraction(1001, 24000),
        options={"x265-params": "log-level=none:max-cll=1000,400:"
                 "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"},
    )  # fmt: skip
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.bit_depth, info.pixel_format) == (64, 48, 10, "yuv420p10le")
    assert (info.sample_aspect_ratio, info.average_rate, info.frames) == (Fraction(4, 3), Fraction(24000, 1001), 3)
    assert info.color == Color("bt2020nc", "limited", "bt2020", "smpte2084")
    assert info.content_light is not None
    assert info.content_light.max_content == 1000
    assert info.mastering_display is not None
    assert info.mastering_display.red == (Fraction(34, 50), Fraction(16, 50))
    assert info.mastering_display.max_luminance == 1000


def test_unsignalled_colours_are_guessed_and_reported(make: Any, tmp_path: Path) -> None:
    make.encode(str(tmp_path / "a.mp4"), make.moving(64, 48, 1))
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert reader.info.color == Color("smpte170m", "limited", guessed=True)
        assert any("guessed" in notice for notice in reader.notices)


@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
@pytest.mark.parametrize("full", [1, 2])
def test_signalled_colours_reach_the_conversion(make: Any, tmp_path: Path, matrix: int, full: int) -> None:
    def tag(stream: Any, container: Any) -> None:
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, full

    frame = make.moving(64, 48, 1, "yuv444p")[0]
    make.encode(str(tmp_path / "a.mp4"), [frame], options={"qp": "0"}, setup=tag)
    name = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}[matrix]
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", "video_size=64x48:pix_fmt=yuv444p:time_base=1/1"),
        graph.add(
            "scale", f"flags=accurate_rnd:in_color_matrix={name}:in_range={'tv' if full == 1 else 'pc'}:out_range=pc"
        ),
        graph.add("format", "pix_fmts=rgb24"),
        graph.add("buffersink"),
    ).configure()
    graph.push(frame)
    assert np.abs(read(tmp_path / "a.mp4")[0].pixels.astype(int) - graph.vpull().to_ndarray()).max() <= 1


@pytest.mark.parametrize(("degrees", "quarter_turns"), [(0, 0), (-90, 3), (180, 2), (90, 1)])
def test_rotated_video_comes_out_upright(make: Any, tmp_path: Path, degrees: int, quarter_turns: int) -> None:
    def turn(stream: Any, container: Any) -> None:
        stream.set_display_rotation(degrees)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    make.encode(str(tmp_path / "a.mp4"), make.moving(64, 48, 2), setup=turn)
    upright, stored = read(tmp_path / "a.mp4"), read(tmp_path / "a.mp4", rotate=False)
    assert stored[0].pixels.shape == (48, 64, 3)
    for one, other in zip(upright, stored, strict=True):
        assert np.array_equal(one.pixels, np.rot90(other.pixels, quarter_turns))
    info, kept = probe(tmp_path / "a.mp4"), probe(tmp_path / "a.mp4", rotate=False)
    assert (info.rotation, kept.rotation, info.source_rotation) == (0, -degrees % 360, -degrees % 360)
    assert info.sample_aspect_ratio == (Fraction(3, 4) if quarter_turns % 2 else Fraction(4, 3))
    assert (info.width, info.height) == ((48, 64) if quarter_turns % 2 else (64, 48))


@pytest.mark.parametrize("first_progressive", [0, 3])
def test_only_flagged_frames_are_deinterlaced_and_times_stay(make: Any, tmp_path: Path, first_progressive: int) -> None:
    frames = make.moving(64, 48, 9)
    interlaced = {"flags": "+ildct+ilme", "x264-params": "tff=1", "qp": "0"}
    buffers = [io.BytesIO(), io.BytesIO()]
    make.encode(buffers[0], frames[:first_progressive] or frames[:1], container="h264", options={"qp": "0"})
    make.encode(buffers[1], frames[first_progressive:], container="h264", options=interlaced)
    data = (buffers[0].getvalue() if first_progressive else b"") + buffers[1].getvalue()
    (tmp_path / "a.h264").write_bytes(data)
    raw, made = read(tmp_path / "a.h264", deinterlace=False), read(tmp_path / "a.h264")
    assert len(raw) == len(made) == 9
    assert [f.pts for f in raw] == [f.pts for f in made]
    assert [f.deinterlaced for f in made] == [False] * first_progressive + [True] * (9 - first_progressive)
    for index in range(first_progressive):
        assert np.array_equal(raw[index].pixels, made[index].pixels)
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", "video_size=64x48:pix_fmt=yuv420p:time_base=1/25"),
        graph.add("bwdif", "mode=send_frame:deint=interlaced"),
        graph.add("buffersink"),
    ).configure()
    results = []
    with av.open(str(tmp_path / "a.h264")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            frame.pts = index
            graph.push(frame)
        graph.push(None)
    while True:
        try:
            results.append(graph.vpull())
        except (av.error.EOFError, av.error.BlockingIOError):
            break
    from cvcodec.video.convert import RgbReader

    color = probe(tmp_path / "a.h264").color
    assert len(results) == 9
    for ours, theirs in zip(made, results, strict=True):
        assert np.array_equal(ours.pixels, RgbReader(8)(theirs, color))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1"}),
        ("a.mkv", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
        ("a.webm", "libvpx-vp9", {"g": "12"}),
        ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
        ("a.ts", "mpeg2video", {"g": "12", "bf": "2"}),
        ("a.h264", "libx264", {"g": "12"}),
    ],
)
def test_a_trim_is_a_slice_of_the_whole_in_other_codecs(
    make: Any, tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = str(tmp_path / name)
    make.encode(path, make.moving(64, 48, 72), codec=codec, options=options)
    whole, info = read(path), probe(path)
    at = [(f.pts * info.time_base) - info.start_time for f in whole]
    for start in (26, 36, 37, 60, 71):
        assert same(read(path, start=at[start], frames=2), whole[start : start + 2]), start


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize(
    "options", [{"g": "12"}, {"g": "12", "x264-params": "open-gop=1:bframes=3"}, {"g": "8", "flags": "+ildct+ilme"}]
)
def test_a_trim_is_a_slice_of_the_whole(make: Any, tmp_path: Path, name: str, options: dict[str, str]) -> None:
    path = str(tmp_path / name)
    make.encode(path, make.moving(64, 48, 100), options=options | {"preset": "fast"})
    whole = read(path)
    info = probe(path)
    at = [(f.pts * info.time_base) - info.start_time for f in whole]
    for start, end in ((24, 25), (48, 60), (49, 51), (36, 100), (95, 100), (0, 7), (30, 31)):
        stop = None if end == 100 else at[end]
        assert same(read(path, start=at[start], end=stop), whole[start:end]), (start, end)
    assert same(read(path, start=float(at[33]), duration=float(at[40] - at[33])), whole[33:40])
    assert same(read(path, start=at[50] + Fraction(1, 100), frames=2), whole[51:53])


def test_times_beyond_the_clocks_of_ffmpeg_are_refused(make: Any, tmp_path: Path) -> None:
    make.encode(str(tmp_path / "a.mkv"), make.moving(32, 32, 2))
    with pytest.raises(UsageError, match=r"start = 1e\+20 is too long"):
        VideoReader(tmp_path / "a.mkv", start=1e20)


def test_a_trim_that_cannot_be_is_refused(make: Any, tmp_path: Path) -> None:
    make.encode(str(tmp_path / "a.mp4"), make.moving(64, 48, 2))
    for options in ({"start": 2, "end": 1}, {"end": 1, "duration": 1}, {"start": -1}, {"frames": 0}, {"start": "soon"}):
        with pytest.raises(UsageError):
            VideoReader(tmp_path / "a.mp4", **options)  # type: ignore[arg-type]
    assert read(tmp_path / "a.mp4", start=100) == []


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001)])
@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize(
    ("start", "end"), [(None, "1.01"), ("0.5", None), ("0.49", "1.51"), (None, "9"), ("1", "1.02")]
)
def test_the_number_of_frames_in_a_trim_is_known_before(
    make: Any, tmp_path: Path, rate: Fraction, container: str, start: str | None, end: str | None
) -> None:
    make.encode(str(tmp_path / "a"), make.moving(32, 32, 50), container=container, rate=rate, time_base=1 / rate)
    with VideoReader(tmp_path / "a", start=start, end=end) as reader:
        assert reader.expected_frames == len(list(reader))


def test_the_timeline_begins_with_whichever_stream_begins_first(make: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "a.mkv")
    container = av.open(path, "w")
    video: Any = container.add_stream("libx264", rate=25)
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    audio: Any = container.add_stream("pcm_s16le", rate=8000)
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), layout="mono")
    audio.layout, sound.sample_rate, sound.pts, sound.time_base = "mono", 8000, 0, Fraction(1, 8000)
    container.mux(audio.encode(sound))
    for index, frame in enumerate(make.moving(64, 48, 25)):
        frame.pts, frame.time_base = index + 12, Fraction(1, 25)
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
    container.close()
    info = probe(path)
    assert (info.start_pts, info.start_time) == (480, 0)
    assert [f.pts for f in read(path, start=1, end=Fraction(28, 25))] == [1000, 1040, 1080]
    seen: list[int] = []
    read(path, on_packet=lambda packet: seen.append(packet.stream_index))
    assert set(seen) == {0, 1}


def test_the_numbered_stream_is_read_and_pictures_are_not_streams(make: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "a.mp4")
    container = av.open(path, "w")
    streams: list[Any] = [container.add_stream(c, rate=25) for c in ("png", "libx264", "libx264")]
    sizes = [(8, 8), (64, 48), (32, 16)]
    for stream, (width, height), pixel_format in zip(streams, sizes, ("rgb24", "yuv420p", "yuv420p"), strict=True):
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
    streams[0].disposition = av.stream.Disposition.attached_pic
    for stream, (width, height) in zip(streams, sizes, strict=True):
        picture = av.VideoFrame(width, height, stream.pix_fmt)
        picture.pts = 0
        for packet in [*stream.encode(picture), *stream.encode(None)]:
            container.mux(packet)
    container.close()
    assert [(probe(path, stream=n).width, probe(path, stream=n).stream_count) for n in (0, 1)] == [(64, 2), (32, 2)]
    with pytest.raises(InputError, match="0 to 1"):
        probe(path, stream=2)


@pytest.mark.parametrize(("container", "codec", "options", "spooled"), [
    ("matroska", "libx264", {}, False), ("mp4", "libx264", {}, True),
    ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, False), ("mpegts", "libx264", {}, False),
    ("yuv4mpegpipe", "rawvideo", {}, False), ("gif", "gif", {}, False), ("webm", "libvpx-vp9", {}, False)])  # fmt: skip
def test_pipes_read_like_files(
    make: Any, tmp_path: Path, container: str, codec: str, options: dict[str, str], spooled: bool
) -> None:
    target = io.BytesIO()
    if codec == "rawvideo":
        data = b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420mpeg2\n" + b"".join(
            b"FRAME\n" + b"".join(v.tobytes() for v in make.plane_views(f)) for f in make.moving(64, 48, 7)
        )
    else:
        frames = make.moving(64, 48, 7)
        if codec == "gif":
            frames = [f.reformat(format="rgb8") for f in frames]
        make.encode(target, frames, codec=codec, container=container, container_options=options)
        data = target.getvalue()
    (tmp_path / "a").write_bytes(data)
    whole = read(tmp_path / "a")
    assert len(whole) == 7
    with VideoReader(make.Unseekable(data)) as reader:  # type: ignore[arg-type]
        assert same(list(reader), whole)
        assert reader._source.seekable is spooled
    cut = read(make.Unseekable(data), start=Fraction(2, 25), frames=3)
    assert [f.pts for f in cut] == [f.pts for f in whole[2:5]]
    assert same(read(io.BytesIO(data)), whole)


def test_an_mp4_that_fits_no_memory_limit_is_spooled_whole(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvcodec.video.source._SPOOL_IN_MEMORY", 100)
    target = io.BytesIO()
    make.encode(target, make.moving(64, 48, 30), container="mp4")
    assert len(read(make.Unseekable(target.getvalue(), piece=777))) == 30


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (161, 121)])
def test_odd_and_tiny_sizes_are_read_as_they_are(make: Any, tmp_path: Path, width: int, height: int) -> None:
    make.encode(str(tmp_path / "a.mkv"), make.moving(width, height, 2, "yuv444p"))
    assert [f.pixels.shape for f in read(tmp_path / "a.mkv")] == [(height, width, 3)] * 2


def test_cropping_is_found_in_the_description_of_its_stream() -> None:
    text = (
        "Input #0, matroska\n  Stream #0:0: Audio: aac\n    Side data:\n      Frame cropping: 9/9/9/9\n"
        "  Stream #0:1: Video: h264\n    Metadata:\n      title           :   Stream #0:2: no, this is not one\n"
        "    Side data:\n      Frame Cropping: 1/2/3/4\n"
    )
    container = SimpleNamespace(dumps_format=lambda: text)
    found = [cropping(SimpleNamespace(container=container, index=index)) for index in range(3)]
    assert found == [(9, 9, 9, 9), (3, 4, 1, 2), (0, 0, 0, 0)]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_the_clean_aperture_of_mp4_and_the_cropping_of_matroska_are_applied(
    make: Any, tmp_path: Path, suffix: str
) -> None:
    film = suffix.replace("mkv", "mp4")
    whole, cropped = tmp_path / f"whole.{film}", tmp_path / f"cropped.{film}"
    make.encode(str(whole), make.moving(64, 48, 3))
    # Sides 40/1 and 32/1, and how far the middle lies from the picture's: 8 columns go left, 16 right, 6 rows above.
    aperture = box(b"clap", struct.pack(">IIIIiIiI", 40, 1, 32, 1, -4, 1, -2, 1))
    cropped.write_bytes(with_sample_box(whole.read_bytes(), aperture))
    if suffix == "mkv":
        with av.open(str(cropped)) as source, av.open(str(tmp_path / "cropped.mkv"), "w") as output:
            copy = output.add_stream_from_template(source.streams.video[0], opaque=True)
            for packet in source.demux():
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
        cropped = tmp_path / "cropped.mkv"
    assert probe(cropped).width == 40
    frames = read(cropped)
    assert [frame.pixels.shape for frame in frames] == [(32, 40, 3)] * 3
    for frame, before in zip(frames, read(whole), strict=True):
        np.testing.assert_array_equal(frame.pixels, before.pixels[6:38, 8:48])


@pytest.mark.parametrize("what", ["colour", "pixel aspect ratio", "bit depth"])
def test_what_changes_in_mid_stream_is_one_notice(make: Any, tmp_path: Path, what: str) -> None:
    def tag(stream: Any, _: Any) -> None:
        if what == "colour":
            stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        if what == "pixel aspect ratio":
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    first, second = io.BytesIO(), io.BytesIO()
    make.encode(first, make.moving(64, 48, 6), container="h264")
    pixel_format = "yuv420p10le" if what == "bit depth" else "yuv420p"
    make.encode(second, make.moving(64, 48, 6, pixel_format), container="h264", setup=tag)
    (tmp_path / "a.h264").write_bytes(first.getvalue() + second.getvalue() * 2)
    with VideoReader(tmp_path / "a.h264") as reader:
        frames = list(reader)
        assert len(frames) == 18
        assert {frame.bit_depth for frame in frames} == {8}
        (notice,) = [notice for notice in reader.notices if "changes from" in notice]
    assert notice.startswith(what)


def test_a_source_is_opened_anew_from_its_beginning(make: Any) -> None:
    target = io.BytesIO()
    make.encode(target, make.moving(64, 48, 3), container="matroska")
    source = InputFile(target)
    for _ in range(2):
        with source.open() as container:
            assert sum(1 for _ in container.decode(video=0)) == 3
