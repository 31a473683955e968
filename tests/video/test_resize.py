"""Sizes and resampling, against PIL's and FFmpeg's Lanczos, at 8 and 10 bits, and what a reader makes of them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest

from cvcodec.errors import UsageError
from cvcodec.video import VideoReader
from cvcodec.video.resize import Geometry, Size, bucket_sizes, resized
from tests.video.clips import pictures, read, write

SHAPES = [(96, 54), (57, 90), (320, 31), (400, 300), (13, 9)]


def texture(width: int, height: int, bits: int, *, edges: bool = True) -> Any:
    """Waves and noise, with edges of black and white."""
    y, x = np.mgrid[0:height, 0:width]
    values = 0.5 + 0.3 * np.sin(x / 5.0) * np.cos(y / 7.0) + np.random.default_rng(0).normal(0, 0.05, (height, width))
    if edges:
        values[height // 3 : height // 2] = x[height // 3 : height // 2] // 16 % 2
    return (values.clip(0, 1) * ((1 << bits) - 1)).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("shape", SHAPES)
def test_resampling_is_pils_lanczos_to_half_a_code_value(shape: tuple[int, int], bits: int) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = texture(200, 150, bits)
    ours = resized(picture[..., None], Geometry(shape, shape), bits)[..., 0]
    theirs = np.asarray(image.fromarray(picture.astype(np.float32)).resize(shape, image.Resampling.LANCZOS))
    assert ours.dtype == picture.dtype
    assert np.abs(ours - theirs.clip(0, (1 << bits) - 1)).max() <= 0.501


@pytest.mark.parametrize("bits", [8, 10])
def test_resampling_is_ffmpegs_lanczos_to_what_its_whole_numbers_allow(bits: int) -> None:
    picture, name = texture(200, 150, bits, edges=False), "gray" if bits == 8 else "gray10le"
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", f"video_size=200x150:pix_fmt={name}:time_base=1/1"),
        graph.add("scale", "w=80:h=60:flags=lanczos+accurate_rnd"),
        graph.add("buffersink"),
    ).configure()
    graph.push(av.VideoFrame.from_ndarray(picture, name))
    theirs = graph.vpull().to_ndarray().astype(float)
    ours = resized(picture[..., None], Geometry((80, 60), (80, 60)), bits)[..., 0]
    error = np.abs(ours - theirs)[2:-2, 2:-2] / (1 << (bits - 8))  # it has another rule for what lies beyond borders
    assert error.max() <= 2
    assert error.mean() <= 0.5


def test_a_cut_picture_is_the_middle_of_the_whole_one() -> None:
    picture = texture(200, 150, 8)[..., None].repeat(3, -1)
    whole = resized(picture, Geometry((107, 80), (107, 80)), 8)
    assert np.array_equal(resized(picture, Geometry((107, 80), (64, 80)), 8), whole[:, 21 : 21 + 64])
    assert np.array_equal(resized(picture, Geometry((200, 150), (100, 50)), 8), picture[50:100, 50:150])


@pytest.mark.parametrize(
    ("size", "crop", "source", "ratio", "scaled", "kept"),
    [
        ("512x320", "center", (1920, 1080), 1, (569, 320), (512, 320)),
        ("512x320", "none", (1920, 1080), 1, (512, 288), (512, 288)),
        ("short=256", "center", (1920, 1080), 1, (456, 257), (456, 256)),
        ("short=256", "none", (1080, 1920), 1, (256, 455), (256, 455)),
        ("area=512x512", "center", (640, 640), 1, (512, 512), (512, 512)),
        ("area=262144", "none", (1920, 1080), 1, (683, 384), (683, 384)),
        ("short=576", "none", (720, 576), Fraction(16, 15), (768, 576), (768, 576)),  # PAL, shown as 4:3
        ("64x64", "center", (32, 32), 1, (64, 64), (64, 64)),
        ("short=2", "center", (1920, 1080), 1, (14, 8), (8, 8)),
    ],
)
def test_a_size_becomes_a_geometry(size: str, crop: str, source: Any, ratio: Any, scaled: Any, kept: Any) -> None:
    assert Geometry.of(Size.parse(size), crop, *source, Fraction(ratio)) == Geometry(scaled, kept)


@pytest.mark.parametrize("text", ["", "64", "64x", "short=64x64", "area=", "0x8", "8x99999", "short=0", "-8x8"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Size.parse(text)


def test_a_reader_resizes_what_is_upright_and_has_its_right_colours(make: Any, tmp_path: Path) -> None:
    def tag(stream: Any, container: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        stream.codec_context.colorspace, stream.codec_context.color_range = 9, 2

    make.encode(str(tmp_path / "a.mp4"), make.moving(64, 48, 2), setup=tag)
    plain = read(tmp_path / "a.mp4")
    with VideoReader(tmp_path / "a.mp4", size="short=24", crop="none") as reader:
        frames = list(reader)
    assert (reader.info.width, reader.info.height, reader.info.sample_aspect_ratio) == (64, 24, 1)
    assert (reader.source_info.width, reader.source_info.sample_aspect_ratio) == (64, 2)
    assert any("frames are resized to 64x24" in notice for notice in reader.notices)
    for frame, before in zip(frames, plain, strict=True):
        assert frame.pts == before.pts
        assert np.array_equal(frame.pixels, resized(before.pixels, Geometry((64, 24), (64, 24)), 8))


def test_ten_bits_stay_ten_bits_and_a_turned_video_is_resized_as_it_is_seen(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", pictures(64, 48, 2, 10), codec="libx265", rotation=90)
    with VideoReader(tmp_path / "a.mp4", size="24x32") as reader:
        frame = next(iter(reader))
    assert (reader.source_info.width, reader.source_info.height) == (48, 64)
    assert (frame.bit_depth, frame.pixels.dtype, frame.pixels.shape) == (10, np.uint16, (32, 24, 3))
    whole = read(tmp_path / "a.mp4")[0]
    assert np.array_equal(frame.pixels, resized(whole.pixels, Geometry((24, 32), (24, 32)), 10))
    assert len(np.unique(frame.pixels)) > 256


def test_a_crop_without_a_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", pictures(64, 48, 1))
    with pytest.raises(UsageError, match="give a size"):
        VideoReader(tmp_path / "a.mp4", crop="none")


@pytest.mark.parametrize(
    ("width", "height", "pixels", "wanted"),
    [
        (1920, 1080, "1", "320x192"),
        (1080, 1920, "1", "192x320"),
        (300, 250, "1", "256x256"),
        (720, 576, "16/11", "320x192"),  # shown 16:9, though the nearest to its pixels is square
        (400, 400, "1", "256x256"),  # 512x512 would enlarge it
        (600, 600, "1", "512x512"),
        (20, 20, "1", "128x128"),
    ],
)
def test_of_buckets_a_picture_takes_the_nearest_shape(width: int, height: int, pixels: str, wanted: str) -> None:
    buckets = Size.parse("512x512,256x256,320x192,192x320,128x128,256x256")
    assert str(buckets.fitting(width, height, Fraction(pixels))) == wanted
    assert Size.parse(str(buckets)) == buckets
    made = Geometry.of(buckets, "center", width, height, Fraction(pixels))
    assert made == Geometry.of(Size.parse(wanted), "center", width, height, Fraction(pixels))


def test_buckets_of_an_area_have_the_shapes_of_footage() -> None:
    sizes = bucket_sizes(512 * 512).buckets
    assert {"512x512", "576x464", "592x448", "624x416", "688x384", "720x368", "784x336"} <= set(map(str, sizes))
    assert len(sizes) == 13
    for size in sizes:
        assert size.width % 16 == size.height % 16 == 0
        assert abs(size.width * size.height / 512**2 - 1) < 0.05
    assert {(size.height, size.width) for size in sizes} == {(size.width, size.height) for size in sizes}


@pytest.mark.parametrize("text", ["256x256,", "256x256,short=256", "256x256;320x192", ",", "256x256,0x9"])
def test_buckets_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no size|are no buckets|is out of range"):
        Size.parse(text)
