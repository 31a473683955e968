"""NVDEC gives the frames that software gives, and what NVENC writes is the video that it was given."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cvcodec.errors import DeviceError
from cvcodec.video import Frame, VideoReader, VideoWriter
from cvcodec.video.hardware import hardware_decoder
from tests.pictures import pattern

SIZE, FRAMES = (256, 192), 12


@pytest.fixture(scope="module")
def hardware() -> str:
    try:
        hardware_decoder("cuda")
    except DeviceError as error:
        pytest.skip(str(error))
    return "cuda"


def written(path: Path, codec: str) -> list[NDArray[np.uint8]]:
    pictures = [np.roll(pattern(SIZE[1], SIZE[0], 0), 3 * number, 1) for number in range(FRAMES)]
    with VideoWriter(path, width=SIZE[0], height=SIZE[1], time_base=Fraction(1, 25), codec=codec) as writer:
        for number, picture in enumerate(pictures):
            writer.write(Frame(pixels=picture, pts=number, duration=1))
    return pictures


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_hardware_decodes_the_frames_that_software_decodes(hardware: str, codec: str, tmp_path: Path) -> None:
    written(tmp_path / "a.mkv", codec)
    with VideoReader(tmp_path / "a.mkv") as plain, VideoReader(tmp_path / "a.mkv", hwaccel=hardware) as reader:
        pairs = list(zip(plain, reader, strict=True))
    assert len(pairs) == FRAMES
    for a, b in pairs:
        assert a.pts == b.pts
        np.testing.assert_array_equal(a.pixels, b.pixels)


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_what_the_card_encodes_is_the_video(hardware: str, codec: str, tmp_path: Path) -> None:
    pictures = written(tmp_path / "a.mkv", codec)
    with VideoReader(tmp_path / "a.mkv") as reader:
        decoded = [frame.pixels for frame in reader]
    assert len(decoded) == FRAMES
    for before, after in zip(pictures, decoded, strict=True):
        error = np.mean((before.astype(np.float64) - after) ** 2)
        assert 10 * np.log10(255**2 / error) > 30
