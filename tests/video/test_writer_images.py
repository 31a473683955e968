"""Writing pictures, and planes and pixels without a container."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from cvcodec.errors import OutputError, UsageError
from cvcodec.video import Color, Frame, VideoReader, VideoWriter
from tests.video.clips import BASE, pictures, psnr, read, write


@pytest.mark.parametrize(
    ("bits", "size", "chroma"),
    [(8, (64, 48), None), (8, (33, 17), None), (10, (64, 48), None), (8, (64, 48), "422"), (12, (64, 48), "444")],
)
@pytest.mark.parametrize("range_", ["limited", "full"])
def test_y4m_holds_the_planes_that_swscale_makes(
    bits: int, size: tuple[int, int], chroma: str | None, range_: str
) -> None:
    target, frames = io.BytesIO(), pictures(*size, 3, bits)
    color = Color("smpte170m", range_)
    write(target, frames, container="y4m", color=color, chroma=chroma, sample_aspect_ratio=Fraction(4, 3))
    with VideoReader(io.BytesIO(target.getvalue())) as reader:
        back = list(reader)
    assert (reader.info.average_rate, reader.info.sample_aspect_ratio) == (Fraction(30000, 1001), Fraction(4, 3))
    assert (reader.info.color.range, reader.info.bit_depth) == (range_, bits)
    assert min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > (45 if chroma == "444" or size[0] % 2 else 30)


def test_y4m_says_that_it_loses_times_and_a_matrix(tmp_path: Path) -> None:
    notices = write(tmp_path / "a.y4m", pictures(64, 48, 3, pts=[0, 1001, 9009]), color=Color("bt709"))
    assert any("constant frame rate" in n for n in notices)
    assert any("bt709" in n for n in notices)


@pytest.mark.parametrize("bits", [8, 10])
def test_raw_is_nothing_but_the_pixels(bits: int) -> None:
    target, frames = io.BytesIO(), pictures(7, 5, 2, bits)
    write(target, frames, container="raw")
    assert target.getvalue() == b"".join(f.pixels.astype("u1" if bits == 8 else "<u2").tobytes() for f in frames)


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_lossless_images_hold_the_rgb_exactly(tmp_path: Path, name: str) -> None:
    frame = pictures(33, 17, 1)[0]
    write(tmp_path / name, [frame])
    assert np.array_equal(read(tmp_path / name)[0].pixels, frame.pixels)


def test_jpeg_holds_the_colours_closely(tmp_path: Path) -> None:
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (4, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    write(tmp_path / "a.jpg", [Frame(pixels, 0)], color=Color("bt709"))
    assert np.abs(read(tmp_path / "a.jpg")[0].pixels.astype(int) - pixels).max() <= 4


def test_deep_images_are_stretched_to_16_bits_of_png(tmp_path: Path) -> None:
    pixels = np.array([[[0, 510, 1020], [1023, 1, 4]]], np.uint16)
    write(tmp_path / "a.png", [Frame(pixels, 0, None, 10)], color=Color("bt2020nc"))
    frame = read(tmp_path / "a.png")[0]
    assert frame.bit_depth == 16
    assert frame.pixels.tolist() == [[[0, 32768, 65535], [65535, 64, 257]]]


def test_image_sequences_are_numbered_and_an_abort_removes_them(tmp_path: Path) -> None:
    frames = pictures(16, 8, 3)
    write(tmp_path / "%03d.png", frames)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["001.png", "002.png", "003.png"]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames, read(tmp_path / "%03d.png"), strict=True))
    writer = VideoWriter(tmp_path / "x%d.png", width=16, height=8, time_base=BASE, start_number=7)
    writer.write(frames[0])
    assert (tmp_path / "x7.png").exists()
    writer.abort()
    assert not (tmp_path / "x7.png").exists()


def test_all_else_in_the_name_of_a_sequence_is_written_as_it_is_and_two_numbers_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "100%_%03d.png", pictures(16, 8, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["100%_001.png", "100%_002.png"]
    with pytest.raises(UsageError, match="has 2 numbers"):
        write(tmp_path / "s%d_%03d.png", pictures(16, 8, 2))


def test_one_image_holds_one_frame(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="one picture"):
        write(tmp_path / "a.png", pictures(16, 8, 2))
