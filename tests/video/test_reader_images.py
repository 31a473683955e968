"""Reading pictures: orientation, palettes, stills and numbered images."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest

from cvcodec.errors import InputError, UsageError
from cvcodec.video import VideoReader, probe
from tests.video.clips import read


def jpeg(make: Any, orientation: int | None = None) -> bytes:
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 32, 16, "yuvj444p", Fraction(1, 25)
    data = b"".join(bytes(p) for p in context.encode(make.moving(32, 16, 1, "yuvj444p")[0]) + context.encode(None))
    if orientation is None:
        return data
    entry = struct.pack(">HHHIHH", 1, 0x112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08" + entry + bytes(4)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def test_photographs_come_out_as_their_exif_orientation_says(make: Any) -> None:
    plain = read(io.BytesIO(jpeg(make)))[0].pixels
    wanted = {1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.transpose(1, 0, 2),
              6: np.rot90(plain, 3), 7: np.rot90(plain, 2).transpose(1, 0, 2), 8: np.rot90(plain, 1)}  # fmt: skip
    for orientation, picture in wanted.items():
        assert np.array_equal(read(io.BytesIO(jpeg(make, orientation)))[0].pixels, picture), orientation


def test_jpeg_is_full_range_601(make: Any) -> None:
    info = probe(io.BytesIO(jpeg(make)))
    assert (info.color.matrix, info.color.range, info.color.guessed) == ("bt470bg", "full", False)


def test_palettes_of_gif_are_rgb_and_transparency_is_said(make: Any) -> None:
    target = io.BytesIO()
    make.encode(target, [f.reformat(format="rgb8") for f in make.moving(64, 48, 3)], codec="gif", container="gif")
    with VideoReader(io.BytesIO(target.getvalue())) as reader:
        frames = list(reader)
    with av.open(io.BytesIO(target.getvalue())) as container:
        reference = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert reader.info.color.matrix == "rgb"
    assert all(np.array_equal(a.pixels, b) for a, b in zip(frames, reference, strict=True))
    assert not any("flattened" in notice for notice in reader.notices)


def png(pixels: np.ndarray, name: str) -> bytes:
    context: Any = av.CodecContext.create("png", "w")
    context.height, context.width, context.pix_fmt, context.time_base = *pixels.shape[:2], name, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(pixels, name)
    return b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])


def test_still_images_are_one_frame(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (5, 7, 3), np.uint8)
    (tmp_path / "100%d[1].png").write_bytes(png(rgb, "rgb24"))
    assert np.array_equal(read(tmp_path / "100%d[1].png")[0].pixels, rgb)
    deep = random.integers(0, 1 << 16, (5, 7, 3)).astype(np.uint16)
    frame = read(io.BytesIO(png(deep, "rgb48be")))[0]
    assert frame.bit_depth == 16
    assert np.array_equal(frame.pixels, deep)
    rgba = random.integers(0, 256, (5, 7, 4), np.uint8)
    with VideoReader(io.BytesIO(png(rgba, "rgba"))) as reader:
        assert len(list(reader)) == 1
        assert any("flattened on black" in notice for notice in reader.notices)
    grey = random.integers(0, 256, (5, 7), np.uint8)
    assert np.array_equal(read(io.BytesIO(png(grey, "gray")))[0].pixels, np.repeat(grey[..., None], 3, 2))


def test_numbered_images_are_a_video_and_a_gap_is_an_error(tmp_path: Path) -> None:
    pictures = [np.full((4, 6, 3), value, np.uint8) for value in range(0, 50, 10)]
    for index, picture in enumerate(pictures):
        (tmp_path / f"{1001 + index:05d}.png").write_bytes(png(picture, "rgb24"))
    with VideoReader(tmp_path / "%05d.png", rate=Fraction(24000, 1001)) as reader:
        frames = list(reader)
    assert [int(f.pixels[0, 0, 0]) for f in frames] == [0, 10, 20, 30, 40]
    assert (reader.info.time_base, reader.info.frames) == (Fraction(1001, 24000), 5)
    assert [f.pts for f in frames] == [0, 1, 2, 3, 4]
    (tmp_path / "01003.png").unlink()
    with pytest.raises(InputError, match=r"01003\.png' is missing"):
        VideoReader(tmp_path / "%05d.png")
    with pytest.raises(InputError, match="no images"):
        VideoReader(tmp_path / "x%05d.png")


@pytest.mark.parametrize("name", ["100%_%05d.png", "12:30 %d%.png", "50%%{}*_%03d.png"])
def test_all_else_in_the_name_of_a_sequence_stands_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "90%d:"
    folder.mkdir()
    for value in range(3):
        image = png(np.full((4, 6, 3), 40 * value, np.uint8), "rgb24")
        (
            folder / name.replace("%05d", f"0000{value}").replace("%03d", f"00{value}").replace("%d", f"{value}")
        ).write_bytes(image)
    assert [int(frame.pixels[0, 0, 0]) for frame in read(folder / name)] == [0, 40, 80]
    monkeypatch.chdir(folder)
    assert len(read(name)) == 3


def test_a_sequence_with_two_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s1_00001.png").write_bytes(png(np.zeros((4, 6, 3), np.uint8), "rgb24"))
    with pytest.raises(UsageError, match=r"'s%d_%05d.png' has 2 numbers, an image sequence has one"):
        VideoReader(tmp_path / "s%d_%05d.png")
