"""Writing: what plain PyAV reads back from what was written."""

import errno
import io
import os
import struct
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cvcodec.errors import OutputError, UsageError
from cvcodec.video import Color, ContentLight, Frame, MasteringDisplay, VideoInfo, VideoReader, VideoWriter, probe
from cvcodec.video.writer import container_for
from tests.video.boxes import sample_boxes
from tests.video.clips import BASE, pictures, psnr, read, write


@pytest.mark.parametrize(("name", "codec"), [
    ("a.mp4", "libx264"), ("a.mp4", "libx265"), ("a.mp4", "libsvtav1"), ("a.mkv", "libx264"), ("a.mkv", "libx265"),
    ("a.webm", "libvpx-vp9"), ("a.webm", "libsvtav1"), ("a.mov", "libx264"), ("a.mov", "libx265")])  # fmt: skip
@pytest.mark.parametrize(
    ("bits", "color"),
    [
        (8, Color("smpte170m", "limited", "smpte170m", "smpte170m")),
        (8, Color("bt709", "full", "bt709", "bt709")),
        (10, Color("bt2020nc", "limited", "bt2020", "smpte2084")),
        (10, Color("bt2020nc", "full", "bt2020", "arib-std-b67")),
    ],
)
def test_pixels_tags_and_times_arrive(tmp_path: Path, name: str, codec: str, bits: int, color: Color) -> None:
    if codec == "libvpx-vp9" and (bits == 10 or color.transfer == "smpte170m"):
        pytest.skip("VP9 here has 8 bits, and names a matrix only")
    frames = pictures(64, 48, 3, bits)
    write(tmp_path / name, frames, codec=codec, color=color, preset=None)
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        tags = (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
        times = [f.pts * stream.time_base for f in container.decode(stream)]
    assert tags == color.numbers()
    if name.endswith(("mp4", "mov")):
        assert times == [f.pts * BASE for f in frames]
        assert stream.time_base == BASE
    else:
        assert [round(t * 1000) for t in times] == [round(f.pts * BASE * 1000) for f in frames]
    back = read(tmp_path / name)
    assert [f.bit_depth for f in back] == [bits] * 3
    assert min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > 33
    assert abs(np.mean([a.pixels.mean() - b.pixels.mean() for a, b in zip(frames, back, strict=True)])) < 1.5 * (
        1 << (bits - 8)
    )


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_ffv1_stores_the_rgb_exactly(tmp_path: Path, name: str, bits: int) -> None:
    random = np.random.default_rng(bits)
    frames = [
        Frame(
            random.integers(0, 1 << bits, (17, 33, 3)).astype(np.uint8 if bits == 8 else np.uint16),
            i * 1001,
            1001,
            bits,
        )
        for i in range(3)
    ]
    write(tmp_path / name, frames, codec="ffv1")
    back = read(tmp_path / name)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames, back, strict=True))
    assert probe(tmp_path / name).color.matrix == "rgb"


def test_variable_times_a_late_start_and_the_last_duration_survive(tmp_path: Path) -> None:
    frames = pictures(64, 48, 6, pts=[3003, 4004, 6006, 7007, 7008, 40000])
    write(tmp_path / "a.mp4", frames, codec="ffv1")
    back = read(tmp_path / "a.mp4")
    assert [(f.pts, f.duration) for f in back] == [(f.pts, f.duration) for f in frames]
    write(tmp_path / "b.mp4", frames)
    assert [f.pts for f in read(tmp_path / "b.mp4")] == [f.pts for f in frames]


@pytest.mark.parametrize(
    "base",
    [
        Fraction(1, 25),
        Fraction(1001, 30000),
        Fraction(1, 90000),
        Fraction(1, 1000),
        Fraction(1, 600),
        Fraction(1, 12800),
    ],
)
def test_mp4_times_are_exact_in_any_time_base(tmp_path: Path, base: Fraction) -> None:
    step = max(1, round(Fraction(1, 24) / base))
    frames = pictures(32, 32, 9, pts=[7 + i * step for i in range(9)])
    write(tmp_path / "a.mp4", frames, time_base=base)
    info = probe(tmp_path / "a.mp4")
    assert [f.pts * info.time_base for f in read(tmp_path / "a.mp4")] == [f.pts * base for f in frames]


def test_matroska_rounds_to_milliseconds_and_says_so(tmp_path: Path) -> None:
    assert any("milliseconds" in n for n in write(tmp_path / "a.mkv", pictures(32, 32, 2)))
    assert write(tmp_path / "b.mkv", pictures(32, 32, 2), time_base=Fraction(1, 1000)) == []


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "ffv1"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_shortest_videos_are_videos(tmp_path: Path, codec: str, count: int) -> None:
    for round_ in range(3):
        write(tmp_path / "a.mp4", pictures(64, 48, count), codec=codec)
        assert [f.pts for f in read(tmp_path / "a.mp4")] == [1001 * i for i in range(count)], round_


def test_the_track_ends_when_the_last_frame_does_although_it_is_not_the_last_that_is_decoded(tmp_path: Path) -> None:
    ticks = [0, 10, 30, 35, 65]
    frames = [
        Frame(frame.pixels, start, end - start)
        for frame, start, end in zip(pictures(32, 32, 4), ticks, ticks[1:], strict=False)
    ]
    for name, codec in (("a.mp4", "libx264"), ("a.mov", "libx264"), ("b.mp4", "libx265")):
        write(tmp_path / name, frames, codec=codec, time_base=Fraction(1, 100))
        with av.open(str(tmp_path / name)) as file:
            packets = [packet.pts for packet in file.demux(video=0) if packet.pts is not None]
            assert packets != sorted(packets) or codec == "libx265", "the last picture is decoded before another"
            assert file.streams.video[0].duration * file.streams.video[0].time_base == Fraction(65, 100)


def test_rounding_to_milliseconds_is_said_only_where_there_is_any(tmp_path: Path) -> None:
    base = Fraction(1, 12800)
    exact = [Frame(frame.pixels, 512 * n, 512) for n, frame in enumerate(pictures(32, 32, 3))]  # 40 ms each
    assert not any("milliseconds" in text for text in write(tmp_path / "a.mkv", exact, time_base=base))
    odd = [*exact[:2], Frame(exact[2].pixels, 1025, 512)]
    assert sum("milliseconds" in text for text in write(tmp_path / "b.mkv", odd, time_base=base)) == 1


def test_a_picture_of_one_pixel_may_have_any_strides(tmp_path: Path) -> None:
    pixels = np.full((1, 9, 3), 77, np.uint8)[:, ::9]
    assert pixels.strides != (3, 3, 1)
    write(tmp_path / "a.mkv", [Frame(pixels, 0, 1001)], codec="ffv1")
    np.testing.assert_array_equal(read(tmp_path / "a.mkv")[0].pixels, pixels)
    write(tmp_path / "b.mkv", [Frame(pixels, 0, 1001)])


def test_negative_times_are_shifted_and_said(tmp_path: Path) -> None:
    notices = write(tmp_path / "a.mp4", pictures(32, 32, 3, pts=[-500, 0, 501]))
    assert any("500 ticks" in n for n in notices)
    assert [f.pts for f in read(tmp_path / "a.mp4")] == [0, 500, 1001]


def test_even_sizes_are_420_and_odd_sizes_444_said_once(tmp_path: Path) -> None:
    assert write(tmp_path / "a.mp4", pictures(64, 48, 2)) == []
    assert probe(tmp_path / "a.mp4").pixel_format == "yuv420p"
    notices = write(tmp_path / "b.mp4", pictures(33, 48, 3))
    assert len([n for n in notices if "odd size 33x48" in n]) == 1
    assert probe(tmp_path / "b.mp4").pixel_format == "yuv444p"
    write(tmp_path / "c.mp4", pictures(64, 48, 2), chroma="422")
    assert probe(tmp_path / "c.mp4").pixel_format == "yuv422p"


@pytest.mark.parametrize(
    ("codec", "size"),
    [
        ("libx264", (1, 1)),
        ("libx264", (161, 121)),
        ("libx265", (17, 16)),
        ("libsvtav1", (5, 7)),
        ("libvpx-vp9", (1, 1)),
        ("ffv1", (1, 1)),
    ],
)
def test_small_and_odd_sizes_come_back_as_they_were(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    write(tmp_path / "a.mkv", pictures(*size, 2), codec=codec)
    assert [f.pixels.shape for f in read(tmp_path / "a.mkv")] == [(size[1], size[0], 3)] * 2


@pytest.mark.parametrize(("codec", "size"), [("libx265", (15, 64)), ("libsvtav1", (3, 64)), ("libx264", (40000, 2))])
def test_a_size_that_an_encoder_refuses_is_a_clear_error(tmp_path: Path, codec: str, size: tuple[int, int]) -> None:
    with pytest.raises(OutputError, match=f"{codec} cannot encode {size[0]}x{size[1]}") as caught:
        VideoWriter(tmp_path / "a.mp4", width=size[0], height=size[1], time_base=BASE, codec=codec)
    assert "\n" not in str(caught.value)


HDR: dict[str, Any] = {
    "color": Color("bt2020nc", "limited", "bt2020", "smpte2084"),
    "mastering_display": MasteringDisplay(
        (Fraction(17, 25), Fraction(8, 25)), (Fraction(53, 200), Fraction(69, 100)), (Fraction(3, 20), Fraction(3, 50)),
        (Fraction(3127, 10000), Fraction(329, 1000)), Fraction(1, 200), Fraction(1000),
    ),
    "content_light": ContentLight(1000, 400),
}  # fmt: skip


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("libx265", "a.mp4"),
        ("libx264", "a.mov"),
        ("libx264", "a.mkv"),
        ("libx265", "a.mkv"),
        ("libsvtav1", "a.mp4"),
        ("libsvtav1", "a.webm"),
        ("ffv1", "a.mkv"),
    ],
)
def test_hdr_metadata_and_aspect_ratio_are_kept(tmp_path: Path, codec: str, name: str) -> None:
    ratio = Fraction(4, 3) if codec != "ffv1" and name != "a.webm" else Fraction(1)
    write(tmp_path / name, pictures(64, 48, 3, 10), codec=codec, sample_aspect_ratio=ratio, **HDR)
    info = probe(tmp_path / name)
    assert (info.content_light, info.sample_aspect_ratio, info.frames) == (HDR["content_light"], ratio, 3)
    found, wanted = (
        np.hstack(astuple(display)).astype(float) for display in (info.mastering_display, HDR["mastering_display"])
    )
    np.testing.assert_allclose(found, wanted, atol=1 / 60000)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx265", "mp4"), ("libx265", "mov"), ("libx264", "mp4"), ("libsvtav1", "mp4")]
)
def test_mp4_and_mov_have_the_boxes_of_hdr10(tmp_path: Path, codec: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write(path, pictures(64, 48, 2, 10), codec=codec, **HDR)
    found = sample_boxes(path.read_bytes())
    # ISO/IEC 14496-12, 12.1.5 and 12.1.6: primaries in the order green, blue, red in units of 1/50000, then the white
    # point; luminances in units of 1/10000 cd/m2. BT.2020, PQ, BT.2020 non-constant, limited range.
    assert found[b"mdcv"] == struct.pack(">8H2I", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50)
    assert found[b"clli"] == struct.pack(">2H", 1000, 400)
    kind, full_range = (b"nclc", b"") if suffix == "mov" else (b"nclx", b"\0")
    assert found[b"colr"] == kind + struct.pack(">3H", 9, 16, 9) + full_range


@pytest.mark.parametrize(
    ("name", "transfer", "bits", "size", "codec"),
    [
        ("a.mp4", "smpte2084", 10, (64, 48), "hevc"),
        ("a.mov", "arib-std-b67", 10, (64, 48), "hevc"),
        ("a.mkv", "smpte2084", 12, (64, 48), "hevc"),
        ("a.webm", "smpte2084", 10, (64, 48), "av1"),
        ("a.mp4", "smpte2084", 8, (64, 48), "h264"),
        ("a.mp4", "smpte2084", 10, (14, 48), "h264"),
        ("a.mp4", "bt709", 10, (64, 48), "h264"),
    ],
)
def test_hdr_defaults_to_an_encoder_that_players_show_as_hdr(
    tmp_path: Path, name: str, transfer: str, bits: int, size: tuple[int, int], codec: str
) -> None:
    color = Color("bt2020nc", "limited", "bt2020", transfer)
    notices = write(tmp_path / name, pictures(*size, 2, bits), color=color)
    with av.open(str(tmp_path / name)) as container:
        context = container.streams.video[0].codec_context
        assert context.codec.canonical_name == codec
        if codec == "hevc" and not name.endswith("mkv"):
            assert context.codec_tag == "hvc1"
    assert any("HEVC (libx265), which players show as HDR" in notice for notice in notices) == (codec == "hevc")


@pytest.mark.parametrize(
    ("source", "name", "options", "told"),
    [
        ("yuv444p", "a.mp4", {}, "4:4:4 and are stored as 4:2:0; --chroma 444 keeps them"),
        ("gbrp", "a.y4m", {}, "4:4:4 and are stored as 4:2:0; --chroma 444 keeps them"),
        (
            "yuv422p10le",
            "a.webm",
            {"codec": "libsvtav1"},
            "4:2:2 and are stored as 4:2:0; --codec libx265 --chroma 422",
        ),
        ("yuv444p", "a.mp4", {"chroma": "420"}, None),
        ("yuv444p", "a.mp4", {"chroma": "444"}, None),
        ("yuv444p", "a.mkv", {"codec": "ffv1"}, None),
        ("yuv420p", "a.mp4", {}, None),
        ("gray", "a.mp4", {}, None),
        ("no such format", "a.mp4", {}, None),
    ],
)
def test_colours_that_come_back_coarser_are_said_with_the_way_out(
    tmp_path: Path, source: str, name: str, options: dict[str, Any], told: str | None
) -> None:
    info = VideoInfo(width=32, height=16, time_base=BASE, color=Color("bt709"), pixel_format=source)
    with VideoWriter.like(tmp_path / name, info, **options) as writer:
        writer.write(pictures(32, 16, 1)[0])
    found = [notice for notice in writer.notices if "stored as 4:2:0" in notice]
    assert found == [] if told is None else told in found[0]


def test_rotations_are_kept(tmp_path: Path) -> None:
    for degrees in (90, 180, 270):
        write(tmp_path / "c.mp4", pictures(64, 48, 2), rotation=degrees)
        assert probe(tmp_path / "c.mp4", rotate=False).rotation == degrees


def test_what_a_codec_cannot_keep_is_said(tmp_path: Path) -> None:
    assert any("8 bits" in n for n in write(tmp_path / "b.mkv", pictures(32, 32, 1, 10), codec="libvpx-vp9"))
    assert any("10 bits" in n for n in write(tmp_path / "c.mkv", pictures(32, 32, 1, 12), codec="libx264"))
    assert any(
        "aspect" in n
        for n in write(tmp_path / "d.mkv", pictures(32, 32, 1), codec="ffv1", sample_aspect_ratio=Fraction(2))
    )


@pytest.mark.parametrize(("name", "options", "error", "message"), [
    ("a.webm", {"codec": "libx264"}, OutputError, "cannot hold libx264"), ("a.xyz", {}, OutputError, "cannot tell"),
    ("a.mp4", {"codec": "h265"}, UsageError, "not one of"), ("a.mp4", {"crf": 70}, UsageError, "CRF 70"),
    ("a.mp4", {"preset": "quick"}, UsageError, "preset"),
    ("a.mkv", {"codec": "ffv1", "crf": 1}, UsageError, "lossless"),
    ("no/such/a.mp4", {}, OutputError, "cannot write"), ("a.mp4", {"chroma": "411"}, UsageError, "411")])  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_first_frame(
    tmp_path: Path, name: str, options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        VideoWriter(tmp_path / name, width=64, height=48, time_base=BASE, **options)


@pytest.mark.parametrize(("suffix", "held"), [("mp4", False), ("mov", False), ("mkv", True)])
def test_a_frame_that_lasts_too_long_for_a_container_names_another(tmp_path: Path, suffix: str, held: bool) -> None:
    base, length = Fraction(1, 90000), 1 << 31
    frames = [Frame(pictures(32, 16, 1)[0].pixels, pts, length) for pts in (0, length)]
    if held:
        write(tmp_path / "a.mkv", frames, time_base=base)
        assert [frame.pts for frame in read(tmp_path / "a.mkv")] == [0, round(length * base * 1000)]
        return
    with pytest.raises(OutputError, match=rf"\.{suffix} cannot hold a frame of 23861 s.*use \.mkv"):
        write(tmp_path / f"a.{suffix}", frames, time_base=base)


def test_frames_unlike_the_first_and_backward_times_are_programmers_mistakes(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", width=64, height=48, time_base=BASE) as writer:
        writer.write(pictures(64, 48, 1)[0])
        with pytest.raises(ValueError, match="not after"):
            writer.write(pictures(64, 48, 1)[0])
        with pytest.raises(ValueError, match="32x48"):
            writer.write(pictures(32, 48, 1)[0])


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no frames"):
        VideoWriter(tmp_path / "a.mp4", width=64, height=48, time_base=BASE).close()


@pytest.mark.parametrize("container", ["matroska", "webm", "mp4"])
def test_pipes_get_a_stream_that_plays(make: Any, container: str) -> None:
    sink, frames = make.Sink(), pictures(64, 48, 5)
    write(sink, frames, container=container)
    back = read(make.Unseekable(bytes(sink.data)))
    assert len(back) == 5
    assert min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > 30
    assert not sink.closed


def test_an_aborted_stream_gets_no_ending(make: Any) -> None:
    def run(abort: bool) -> bytes:
        sink = make.Sink()
        writer = VideoWriter(sink, width=64, height=48, time_base=BASE, codec="ffv1")
        for frame in pictures(64, 48, 5):
            writer.write(frame)
        before = len(sink.data)
        writer.abort() if abort else writer.close()
        return bytes(sink.data[before:])

    assert run(abort=True) == b""
    assert run(abort=False) != b""


def test_a_failing_disk_is_an_output_error(make: Any) -> None:
    class Full(make.Sink):  # type: ignore[misc,name-defined]
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write(Full(), pictures(64, 48, 60))


def test_other_streams_can_join_the_container(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", width=64, height=48, time_base=BASE) as writer:
        audio: Any = writer.output.container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        audio.layout, sound.sample_rate, sound.pts = "mono", 48000, 0
        frames = pictures(64, 48, 30)
        writer.write(frames[0])
        for packet in [*audio.encode(sound), *audio.encode(None)]:
            writer.output.mux(packet)
        for frame in frames[1:]:
            writer.write(frame)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
        assert sum(1 for _ in container.decode(video=0)) == 30


@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_a_full_disk_behind_a_buffer_is_one_error_and_nothing_else_is_printed(
    container: str, capfd: pytest.CaptureFixture[str]
) -> None:
    class Full(io.BytesIO):
        """Fails as a buffered file does: in a write, and again whenever the buffer is to be emptied."""

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        seek = flush = close = write

    with pytest.raises(OutputError, match="No space left on device"):
        write(Full(), pictures(64, 48, 30), container=container, codec="ffv1" if container == "matroska" else None)
    assert capfd.readouterr().err == ""


def test_formats_go_by_extension() -> None:
    assert [container_for(f"a{s}") for s in (".MP4", ".mkv", ".webm", ".mov", ".y4m", ".jpeg")] == [
        "mp4", "matroska", "webm", "mov", "y4m", "jpeg"]  # fmt: skip


def test_a_writer_like_a_source_keeps_what_the_source_says(make: Any, tmp_path: Path) -> None:
    def tag(stream: Any, container: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(8, 9)
        stream.codec_context.colorspace, stream.codec_context.color_range = 5, 2
        stream.codec_context.color_primaries, stream.codec_context.color_trc = 5, 6
        stream.set_display_rotation(-90)

    make.encode(
        str(tmp_path / "a.mp4"),
        make.moving(64, 48, 5),
        setup=tag,
        time_base=Fraction(1, 90000),
        pts=[9, 3000, 8000, 8001, 20000],
    )
    for rotate in (True, False):
        with VideoReader(tmp_path / "a.mp4", rotate=rotate) as reader:
            with VideoWriter.like(tmp_path / "b.mp4", reader.info, crf=5) as writer:
                frames = list(reader)
                for frame in frames:
                    writer.write(frame)
        one, other = reader.info, probe(tmp_path / "b.mp4", rotate=rotate)
        for name in ("width", "height", "color", "sample_aspect_ratio", "rotation", "start_pts", "bit_depth"):
            assert getattr(one, name) == getattr(other, name), name
        back = read(tmp_path / "b.mp4", rotate=rotate)
        assert [f.pts * other.time_base for f in back] == [f.pts * one.time_base for f in frames]
        assert min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > 28
